"""Configs of hybrid, recurrent and latent-attention models: parameters equal those of transformers, and bad configs are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codesign._hf_stacks import STACKS
from codesign._layout import sublayers
from codesign.architecture import Architecture, ArchitectureBatch
from codesign.errors import SpecError
from codesign.hf_config import architecture_from_config, known_config, known_models, read_config

_PLAIN = {
    "hidden_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "intermediate_size": 96,
}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}
_LATENT = {
    **_PLAIN, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8,
    "v_head_dim": 10,
}  # fmt: skip
_EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "n_group": 1, "topk_group": 1}
_DELTA = {
    **_PLAIN, "num_key_value_heads": 2, "head_dim": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 12,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_conv_kernel_dim": 4,
}  # fmt: skip

#: Small configs of every family; each differs from its family's defaults in what it shows.
SMALL: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"model_type": "deepseek_v2", **_LATENT, **_EXPERTS, "n_shared_experts": 2, "first_k_dense_replace": 1},
    "deepseek_v2-lite": {"model_type": "deepseek_v2", **_LATENT, **_EXPERTS, "q_lora_rank": None, "n_shared_experts": 1},
    "deepseek_v3": {"model_type": "deepseek_v3", **_LATENT, **_EXPERTS, "n_shared_experts": 1, "first_k_dense_replace": 2},
    "deepseek_v3-dense": {"model_type": "deepseek_v3", **_LATENT, **_EXPERTS, "first_k_dense_replace": 6},
    "minicpm3": {"model_type": "minicpm3", **_LATENT},
    "youtu": {"model_type": "youtu", **_LATENT, "tie_word_embeddings": False},
    "nemotron_h": {
        "model_type": "nemotron_h", **_PLAIN, "num_hidden_layers": 7, "hybrid_override_pattern": "M-M*-M-", "head_dim": 16,
        "num_key_value_heads": 2, "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8,
    },
    "nemotron_h-moe": {
        "model_type": "nemotron_h", **_PLAIN, "num_hidden_layers": 6, "layers_block_type": ["mamba", "moe", "attention", "mlp", "mamba", "moe"],
        "head_dim": 16, "num_key_value_heads": 2, "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "moe_shared_expert_intermediate_size": 56,
        "n_shared_experts": 1,
    },
    "jamba": {"model_type": "jamba", **_PLAIN, "num_key_value_heads": 2, "attn_layer_period": 3, "attn_layer_offset": 1,
              "num_experts": 4, "mamba_d_state": 8, "mamba_dt_rank": 6},
    "jamba-dense": {"model_type": "jamba", **_PLAIN, "num_key_value_heads": 2, "attn_layer_period": 3, "attn_layer_offset": 1,
                    "num_experts": 1, "mamba_d_state": 8, "mamba_dt_rank": "auto"},
    "bamba": {"model_type": "bamba", **_PLAIN, **_MAMBA, "num_key_value_heads": 2, "attn_layer_indices": [2, 4]},
    "granitemoehybrid": {
        "model_type": "granitemoehybrid", **_PLAIN, **_MAMBA, "num_key_value_heads": 2, "num_local_experts": 4,
        "num_experts_per_tok": 2, "shared_intermediate_size": 72, "layer_types": ["mamba", "mamba", "attention"] * 2,
        "tie_word_embeddings": True,
    },
    "granitemoehybrid-dense": {
        "model_type": "granitemoehybrid", **_PLAIN, **_MAMBA, "num_key_value_heads": 2, "num_local_experts": 0,
        "num_experts_per_tok": 0, "shared_intermediate_size": 72, "layer_types": ["mamba", "attention", "mamba"] * 2,
    },
    "zamba2": {
        "model_type": "zamba2", **_PLAIN, "num_hidden_layers": 8, "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"] * 2,
        "num_key_value_heads": 4, "n_mamba_heads": 8, "mamba_ngroups": 2, "mamba_d_state": 8, "num_mem_blocks": 2,
        "adapter_rank": 6, "use_shared_attention_adapter": True,
    },
    "zamba2-plain": {
        "model_type": "zamba2", **_PLAIN, "num_hidden_layers": 8, "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"] * 2,
        "num_key_value_heads": 4, "n_mamba_heads": 8, "mamba_ngroups": 1, "mamba_d_state": 8, "num_mem_blocks": 1,
        "adapter_rank": 6,
    },
    "qwen3_next": {
        "model_type": "qwen3_next", **_DELTA, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 48, "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
    },
    "qwen3_5_text": {"model_type": "qwen3_5_text", **_DELTA},
    "qwen3_5_moe_text": {
        "model_type": "qwen3_5_moe_text", **_DELTA, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 48,
    },
    "mamba": {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 100, "state_size": 8, "expand": 2},
    "falcon_mamba": {"model_type": "falcon_mamba", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 100,
                     "state_size": 8, "expand": 2, "tie_word_embeddings": False},
    "mamba2": {"model_type": "mamba2", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 100, "state_size": 8,
               "num_heads": 8, "head_dim": 16, "n_groups": 2, "expand": 2},
    "xlstm": {"model_type": "xlstm", "hidden_size": 128, "num_hidden_layers": 3, "num_heads": 4, "vocab_size": 100},
    "gpt_oss": {"model_type": "gpt_oss", **_PLAIN, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4,
                "num_experts_per_tok": 2, "sliding_window": 16},
    "olmoe": {"model_type": "olmoe", **_PLAIN, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {"model_type": "granitemoe", **_PLAIN, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    "lfm2": {"model_type": "lfm2", **_PLAIN, "num_key_value_heads": 2, "full_attn_idxs": [1, 4], "block_multiple_of": 16},
}  # fmt: skip


def transformers_model(config: dict[str, Any]) -> Any:
    """The model of a config on the meta device."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    try:
        parsed = transformers.AutoConfig.for_model(**config)
    except ValueError as error:
        pytest.skip(f"this transformers has no {config['model_type']}: {str(error)[:60]}")
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(parsed)


def count(model: Any) -> int:
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())


@pytest.mark.parametrize("name", SMALL)
def test_parameters_equal_those_of_transformers(name: str) -> None:
    arch = architecture_from_config(SMALL[name], name)
    assert arch.params_total == count(transformers_model(SMALL[name]))
    assert isinstance(arch.params_total, int)
    assert arch.params_active <= arch.params_total


def test_every_family_is_covered() -> None:
    assert {config["model_type"] for config in SMALL.values()} == set(STACKS) - {"codesign", "openelm"}


ALONE = [name for name in known_models() if "_counted_by" in known_config(name)]  # transformers has no such model
PUBLIC = [name for name in known_models() if read_config(name).family in STACKS and name not in ALONE]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_models_have_the_parameters_that_transformers_counts(name: str) -> None:
    """And, for those that say it, what their publication says: 8.1B (Nemotron-H), 671B (DeepSeek-V3), 20.9B (gpt-oss), ..."""
    config = {k: v for k, v in known_config(name).items() if not k.startswith("_")}
    if config["model_type"] == "kimi_k2":
        config["model_type"] = "deepseek_v3"  # as transformers loads it
    arch = read_config(name)
    assert arch.params_total == count(transformers_model(config)) == known_config(name)["_params_total"]
    if arch.n_experts:
        assert arch.params_active < 0.5 * arch.params_total


def test_openelm_has_the_published_sizes() -> None:
    """Heads and FFN widths of 270M as published implementations list them; sizes of the four as named (arXiv 2404.14619: 1.08B, 3.04B)."""
    small = read_config("openelm-270m")
    assert small.ffn_widths == (
        768, 1024, 1280, 1536, 1792, 2048, 2560, 2816, 3072, 3328, 3584, 3840, 4352, 4608, 4864, 5120,
    )  # fmt: skip
    assert (small.n_heads, small.layer_heads[:6], small.layer_kv_heads[-1]) == (20, (12, 12, 12, 12, 12, 16), 5)
    sizes = [read_config(f"openelm-{size}").params_total for size in ("270m", "450m", "1.1b", "3b")]
    assert sizes == [
        known_config(name)["_params_total"] for name in ("openelm-270m", "openelm-450m", "openelm-1.1b", "openelm-3b")
    ]
    assert [round(size / 1e9, 2) for size in sizes] == [0.27, 0.46, 1.08, 3.04]
    torch = pytest.importorskip("torch")
    from codesign.models.decoder import build_decoder

    with torch.device("meta"):
        assert count(build_decoder(small)) == small.params_total


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_query_heads": [12] * 15}, "num_query_heads must list a whole number for each of the 16 layers"),
        ({"num_kv_heads": [3] * 15 + ["3"]}, "num_kv_heads must be a whole number"),
        ({"ffn_multipliers": [1.0] * 15 + [0]}, "ffn_multipliers must list a number above zero"),
        ({"ffn_multipliers": 4.0}, "ffn_multipliers must list"),
        ({"ffn_multipliers": [1.0] * 15 + [float("inf")]}, "ffn_multipliers must list"),
        ({"ffn_multipliers": [1.0] * 15 + [1e308]}, "ffn_multipliers must list"),
        ({"num_kv_heads": [5] * 16}, "n_kv_heads 5, which does not divide its n_heads 12"),
    ],
)
def test_bad_lists_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        architecture_from_config({**known_config("openelm-270m"), **change}, "config.json")


def test_there_are_public_models_of_every_kind() -> None:
    archs = [read_config(name) for name in PUBLIC]
    assert len(archs) >= 35
    assert {a.recurrence for a in archs} == {"none", "mamba1", "mamba2", "gdn", "mlstm", "conv"}
    assert sum(a.kv_rank > 0 for a in archs) >= 5 and sum(a.n_window_layers > 0 for a in archs) >= 2


def test_active_parameters_are_those_published() -> None:
    """DeepSeek-V3 37B of 671B, gpt-oss-20b 3.61B of 20.9B, OLMoE 1.3B of 6.9B, Nemotron 3 Nano 3.6B of 31.6B with embeddings."""
    published = {"deepseek-v3": 37.55e9, "olmoe-1b-7b": 1.28e9, "nemotron-3-nano-30b-a3b": 3.58e9}
    for name, active in published.items():
        assert read_config(name).params_active == pytest.approx(active, rel=0.01), name
    gpt = read_config("gpt-oss-20b")  # its 3.61B leave the input embedding out
    assert gpt.params_active_nonembedding + gpt.params_head == pytest.approx(3.61e9, rel=0.01)


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_counts_as_each_alone_and_dictionaries_round_trip(name: str) -> None:
    arch = architecture_from_config(SMALL[name], name)
    batch = ArchitectureBatch.of([arch, arch])
    assert batch.params_total.tolist() == [arch.params_total] * 2
    assert batch.pick((1,)).evolve(layout=arch.layout) == arch
    assert Architecture.from_dict(arch.to_dict()) == arch


def test_layouts_say_the_order() -> None:
    """Nemotron-H's text of blocks, Jamba's attention at offset 1 of 3, and Qwen3.5's usual period of 4."""
    orders = {
        name: sublayers(architecture_from_config(SMALL[name], name)) for name in ("nemotron_h", "jamba", "qwen3_5_text")
    }
    assert orders == {"nemotron_h": "RFRAFRF", "jamba": "RFAERFREAFRE", "qwen3_5_text": "RFRFRFAFRFRF"}


BAD = {
    "pattern": ({**SMALL["nemotron_h"], "hybrid_override_pattern": "M-X"}, "hybrid_override_pattern must be a text of M, *, - and E"),
    "bias": ({**SMALL["bamba"], "mamba_proj_bias": True}, "mamba_proj_bias True is not supported"),
    "latent experts": ({**SMALL["nemotron_h-moe"], "moe_latent_size": 8}, "moe_latent_size 8 is not supported"),
    "types": ({**SMALL["lfm2"], "layer_types": ["conv"]}, "layer_types must list one type for each of the 6 layers"),
    "kind": ({**SMALL["lfm2"], "layer_types": ["conv", "rnn", *["conv"] * 4]}, "layer type 'rnn' is not supported"),
    "index": ({**SMALL["bamba"], "attn_layer_indices": [7]}, "attn_layer_indices must be a whole number from 0 to 5"),
    "groups": ({**SMALL["mamba2"], "n_groups": 3}, "n_state_groups 3 does not divide n_state_heads 8"),
    "value": ({**SMALL["deepseek_v3"], "kv_lora_rank": "16"}, "kv_lora_rank must be a whole number"),
    "missing": ({k: v for k, v in SMALL["jamba"].items() if k != "vocab_size"}, "missing field vocab_size"),
    "rank": ({**SMALL["jamba"], "mamba_dt_rank": "low"}, "mamba_dt_rank must be a whole number"),
    "factor": ({**SMALL["xlstm"], "qk_dim_factor": -1}, "qk_dim_factor must be a number above zero"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_configs_are_refused_in_one_line(name: str) -> None:
    config, message = BAD[name]
    with pytest.raises(SpecError) as caught:
        architecture_from_config(config, "config.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


def test_formats_that_models_are_trained_in_are_read(tmp_path: Path) -> None:
    """gpt-oss and DeepSeek-V3 are published in MXFP4 and FP8 only."""
    from codesign.hf_config import read_config

    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SMALL["gpt_oss"], "quantization_config": {"quant_method": "mxfp4"}}))
    assert read_config(path).attention_sinks
