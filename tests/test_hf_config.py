"""config.json in and out: against transformers for every family, and one clear line for every bad file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign._hf_families import FAMILIES
from codesign.architecture import Architecture
from codesign.errors import SpecError, UnknownNameError
from codesign.hf_config import (
    architecture_from_config,
    config_dict,
    known_config,
    known_models,
    read_config,
)

# sum(p.numel()) of the published checkpoints.
PUBLISHED = {
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-1b": 999_885_952,
    "gemma-3-270m": 268_098_176,
    "gemma-3-4b": 3_880_263_168,
    "gemma-3-12b": 11_766_034_176,
    "gemma-3-27b": 27_009_346_304,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "olmo2-1b": 1_484_916_736,
    "phi-3-mini": 3_821_079_552,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "smollm2-1.7b": 1_711_376_384,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "tinyllama-1.1b": 1_100_048_384,
}
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 211,
}
NULL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family, **SIZES, **NULL_TOKENS, **changes}


@st.composite
def architectures(draw: st.DrawFn, family: str = "") -> Architecture:
    """Any architecture that its family can express, in canonical form."""
    name = family or draw(st.sampled_from(sorted(FAMILIES)))
    kind = FAMILIES[name]
    layers = draw(st.integers(1, 9))
    kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    d_head = draw(st.sampled_from([8, 16, 24]))
    heads = kv_heads * groups
    width = heads * draw(st.sampled_from([8, 16])) if kind.square else 8 * draw(st.integers(2, 8))
    bias = draw(st.booleans()) if kind.bias_key else kind.bias_default
    mlp_bias = bias if kind.mlp_bias_key == "use_bias" else bool(kind.mlp_bias_key) and draw(st.booleans())
    mixture: dict[str, Any] = {}
    if kind.experts:
        experts = draw(st.integers(1, 6))
        mixture = {"n_experts": experts, "n_active_experts": draw(st.integers(1, experts)), "d_ff_expert": 24}
        if kind.experts == "qwen":
            mixture["n_dense_layers"] = draw(st.integers(0, layers - 1))
        if kind.shared:
            mixture["shared_expert_gate"] = True
            if draw(st.booleans()):
                mixture |= {"n_shared_experts": 1, "d_ff_shared": 40}
    dense = not kind.experts or mixture.get("n_dense_layers", 0) > 0
    sliding = {"none": st.just(0), "all": st.sampled_from([0, layers])}.get(kind.window, st.integers(0, layers))
    n_window = draw(sliding)
    return Architecture(
        n_layers=layers,
        d_model=width,
        n_heads=heads,
        n_kv_heads=kv_heads,
        d_head=d_head,
        d_ff=draw(st.integers(1, 90)) if dense else 0,
        vocab_size=draw(st.integers(2, 300)),
        tied_embeddings=draw(st.booleans()),
        ffn_gated=kind.gated,
        norms_per_layer=kind.norms_per_layer,
        norm_bias=kind.norm_bias,
        qk_norm=kind.qk_norm,
        qkv_bias=bias,
        out_bias=bias and kind.bias_out,
        mlp_bias=mlp_bias,
        window_tokens=draw(st.integers(1, 9999)) if n_window else 0,
        n_window_layers=n_window,
        family=name,
        **mixture,
    )


@settings(max_examples=300, deadline=None)
@given(architectures())
def test_writing_and_reading_is_the_identity(arch: Architecture) -> None:
    config = json.loads(json.dumps(config_dict(arch, max_position_embeddings=4096)))
    assert architecture_from_config(config, "config.json") == arch


# --- against transformers -------------------------------------------------------------------------------------------


def auto_config(config: dict[str, Any], folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is the reference implementation")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if not k.startswith("_")}))
    return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)


def reference_params(config: Any) -> int:
    """Parameters of the model that transformers builds; tied weights are one tensor."""
    torch = pytest.importorskip("torch", reason="torch builds the reference model")
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_each_written_config_builds_a_model_of_exactly_our_size(family: str, tmp_path: Path) -> None:
    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(architectures(family))
    def check(arch: Architecture) -> None:
        config = auto_config(config_dict(arch, max_position_embeddings=128), tmp_path)
        assert reference_params(config) == arch.params_total
        # What transformers saves again, whole or as the difference from its defaults, reads as the same architecture.
        assert architecture_from_config(json.loads(config.to_json_string(use_diff=False)), "whole") == arch
        assert architecture_from_config(json.loads(config.to_json_string(use_diff=True)), "difference") == arch

    check()


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_bundled_models_have_the_size_of_transformers_and_of_the_publication(name: str, tmp_path: Path) -> None:
    arch = read_config(name)
    assert arch.params_total == PUBLISHED[name] == known_config(name)["_params_total"]
    assert reference_params(auto_config(known_config(name), tmp_path)) == arch.params_total
    written = config_dict(arch, max_position_embeddings=4096)
    assert reference_params(auto_config(written, tmp_path)) == arch.params_total
    assert architecture_from_config(written, name) == arch


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_defaults_of_absent_fields_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the reference implementation")
    required = {key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                                            "intermediate_size", "vocab_size")}  # fmt: skip
    # 64 query heads, so that every family's default number of key/value heads divides them.
    bare = {**required, "hidden_size": 128, "num_attention_heads": 64}
    reference = transformers.AutoConfig.for_model(family, **bare)
    ours = architecture_from_config({"model_type": family, **bare}, "bare")
    assert ours.n_kv_heads == (reference.num_key_value_heads or 64)
    assert ours.d_head == (getattr(reference, "head_dim", None) or 2)
    assert ours.tied_embeddings == reference.tie_word_embeddings
    bias = [getattr(reference, key, None) for key in ("attention_bias", "qkv_bias", "use_bias")]
    known = [value for value in bias if value is not None]
    assert ours.qkv_bias == (known[0] if known else family == "qwen2")  # qwen2 has them without a switch
    assert ours.mlp_bias == getattr(reference, "mlp_bias", getattr(reference, "use_bias", False))
    assert ours.family == family
    types = getattr(reference, "layer_types", None)
    window = getattr(reference, "sliding_window", None)
    if FAMILIES[family].window == "none":
        window = None
    n_window = 0 if not window else types.count("sliding_attention") if types else ours.n_layers
    assert (ours.window_tokens, ours.n_window_layers) == (window if n_window else 0, n_window)
    if FAMILIES[family].experts:
        experts = getattr(reference, "num_experts", None) or reference.num_local_experts
        assert (ours.n_experts, ours.n_active_experts) == (experts, reference.num_experts_per_tok)
        width = getattr(reference, "moe_intermediate_size", None) or reference.intermediate_size
        assert ours.d_ff_expert == width
    if FAMILIES[family].shared:
        assert (ours.n_shared_experts, ours.d_ff_shared) == (1, reference.shared_expert_intermediate_size)


WINDOWED = [
    ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 5}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 9}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 32, "max_window_layers": 5}),
    ("qwen3", {"use_sliding_window": True, "max_window_layers": 0}),
    ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 4}),
    ("gemma2", {"sliding_window": 64}),
    ("gemma3_text", {"sliding_window": 64}),
    ("gemma3_text", {"sliding_window": 64, "sliding_window_pattern": 3}),
    ("gemma3_text", {"sliding_window": 64, "layer_types": ["full_attention"] * 6 + ["sliding_attention"]}),
]


@pytest.mark.parametrize(("family", "fields"), WINDOWED)
def test_windows_fall_on_as_many_layers_as_in_transformers(family: str, fields: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the reference implementation")
    reference = transformers.AutoConfig.for_model(**config_of(family, **fields))
    ours = architecture_from_config(config_of(family, **fields), "x")
    sliding = reference.layer_types.count("sliding_attention") if reference.sliding_window else 0
    assert ours.n_window_layers == sliding
    assert ours.window_tokens == (reference.sliding_window if sliding else 0)


@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"decoder_sparse_step": 2}, {"mlp_only_layers": [0, 3]}, {"decoder_sparse_step": 3, "mlp_only_layers": [2]}],
)
def test_dense_layers_of_mixtures_are_those_of_transformers(family: str, fields: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the reference implementation")
    config = config_of(family, num_experts=5, moe_intermediate_size=24, num_experts_per_tok=2, **fields)
    ours = architecture_from_config(config, "x")
    assert reference_params(transformers.AutoConfig.for_model(**config)) == ours.params_total


# --- reading --------------------------------------------------------------------------------------------------------


def test_a_file_a_directory_and_a_name_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(known_config("qwen3-0.6b")))
    expected = read_config("qwen3-0.6b")
    assert read_config(tmp_path) == read_config(tmp_path / "config.json") == read_config(str(tmp_path)) == expected
    (tmp_path / "llama-3.2-1b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_config("llama-3.2-1b").family == "llama"  # an empty directory of that name does not hide the model


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("QWEN2.5_0.5B", "qwen2.5-0.5b"),
        ("Qwen/Qwen2.5-0.5B", "qwen2.5-0.5b"),
        ("Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b"),
        ("HuggingFaceTB/SmolLM2-360M", "smollm2-360m"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b"),
        (" gemma_3_1b ", "gemma-3-1b"),
    ],
)
def test_names_are_forgiving(given: str, name: str) -> None:
    assert read_config(given) == read_config(name)


def test_bundled_configs_agree_with_an_independent_table() -> None:
    table = Path(__file__).resolve().parents[2] / "shared" / "data" / "latency" / "model_archs.csv"
    if not table.is_file():
        pytest.skip("the published tables (../shared/data/latency) are absent")
    rows = {row["arch_id"]: row for row in csv.DictReader(table.open(encoding="utf-8"))}
    listed = [name for name in known_models() if name in rows]
    assert len(listed) >= 15
    for name in listed:
        arch, row = read_config(name), rows[name]
        # The table leaves out norms and biases: below 0.05 %.
        assert arch.params_total / 1e9 == pytest.approx(float(row["params_total_b_computed"]), rel=5e-4), name
        assert 4 * arch.d_kv * arch.n_layers == int(row["kv_bytes_per_token_fp16"]), name


def test_a_multimodal_config_is_read_through_its_text_config() -> None:
    # As published for Gemma 3 4B: heads, key/value heads, head size and vocabulary are left to their defaults.
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "sliding_window": 1024}  # fmt: skip
    arch = architecture_from_config({"model_type": "gemma3", "text_config": text, "vision_config": {}}, "x")
    assert (arch.n_heads, arch.n_kv_heads, arch.d_head, arch.vocab_size) == (8, 4, 256, 262_208)
    assert (arch.n_window_layers, arch.window_tokens) == (29, 1024)
    assert arch.params_total == 3_880_263_168  # 34 layers and the 262208 x 2560 embedding, without the vision tower
    wrapped = {"model_type": "llava", "tie_word_embeddings": True, "text_config": config_of("llama")}
    assert architecture_from_config(wrapped, "x").tied_embeddings


BAD = [
    ({}, "missing field model_type; supported: bamba, "),
    ({"model_type": None}, "missing field model_type"),
    ({"model_type": "bert", "hidden_size": 8}, "model_type 'bert' is not supported; supported: bamba, "),
    ({"model_type": ["llama"]}, "is not supported"),
    ({"model_type": "vit", "image_size": 224, "patch_size": 16}, "a vision model"),
    ({"model_type": "clip", "vision_config": {}, "text_config": {}}, "a vision model"),
    (config_of("llama", quantization_config={"quant_method": "awq"}), "quantised weights (awq)"),
    (config_of("llama", quantization_config="int4"), "quantised weights (int4)"),
    (config_of("llama", num_key_value_heads=3), "n_kv_heads 3 does not divide n_heads 4"),
    (config_of("llama", hidden_size="64"), "hidden_size must be a whole number"),
    (config_of("llama", hidden_size=64.0), "hidden_size must be a whole number"),
    (config_of("llama", hidden_size=True), "hidden_size must be a whole number"),
    (config_of("llama", hidden_size=-1), "hidden_size must be a whole number"),
    (config_of("llama", vocab_size=10**13), "vocab_size must be a whole number"),
    (config_of("llama", vocab_size=10**5000), "a far larger number"),
    (config_of("llama", num_hidden_layers=10**9), "num_hidden_layers must be a whole number from 1 to 100000"),
    (config_of("llama", head_dim=None, num_attention_heads=6), "hidden_size 64 is not a multiple"),
    (config_of("llama", tie_word_embeddings="yes"), "tie_word_embeddings must be true or false"),
    (config_of("llama", mlp_bias=1), "mlp_bias must be true or false"),
    (config_of("gemma2", layer_types=["full_attention"]), "layer_types must list one type for each of the 7 layers"),
    (config_of("gemma2", layer_types="full_attention"), "layer_types must list"),
    (config_of("gemma2", layer_types=["linear_attention"] * 7), "layer type 'linear_attention' is not supported"),
    (config_of("gemma3_text", use_bidirectional_attention=True), "use_bidirectional_attention is set"),
    (config_of("mixtral", num_experts_per_tok=9), "n_active_experts 9 must lie between 1 and n_experts 8"),
    (config_of("qwen3_moe", mlp_only_layers=3), "mlp_only_layers must be a list"),
    (config_of("qwen3_moe", mlp_only_layers=["a"]), "mlp_only_layers must be a whole number"),
    (config_of("qwen3_moe", decoder_sparse_step=0), "decoder_sparse_step must be a whole number"),
]


@pytest.mark.parametrize(("config", "message"), BAD)
def test_bad_configs_get_one_clear_line_that_names_the_file(config: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        architecture_from_config(config, "some/config.json")
    text = str(caught.value)
    assert text.startswith("some/config.json: ") and text.count("some/config.json") == 1
    assert message in text and "\n" not in text and len(text) < 600


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                                   "intermediate_size"])  # fmt: skip
@pytest.mark.parametrize("family", ["llama", "qwen2", "mixtral", "starcoder2"])
def test_a_missing_required_field_is_named(family: str, field: str) -> None:
    config = config_of(family)
    del config[field]
    with pytest.raises(SpecError, match=f"^some.json: missing field {field};"):
        architecture_from_config(config, "some.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: "),
        (b"{", "is not JSON: "),
        (b"GGUF\x00\x01\xff\xfe", "is not JSON: no JSON text"),
        (b"[" * 200_000, "is not JSON: "),
        (b"[1, 2]", "holds a JSON list"),
        (b"null", "holds a JSON NoneType"),
        (b'{"model_type": "llama", "hidden_size": 1' + b"0" * 9000 + b"}", "is not JSON: "),
    ],
)
def test_files_that_are_no_config_get_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_config(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.json", str(tmp_path / "nothing"), "./nothing", "nothing.json", Path("nothing")):
        with pytest.raises(SpecError, match="^no such file: .*nothing.*; give one of the bundled names"):
            read_config(path)
    with pytest.raises(SpecError, match="holds no config.json"):
        read_config(tmp_path)
    with pytest.raises(UnknownNameError, match=r"^unknown model 'qwen3-0.5b'; did you mean 'qwen3-0.6b'\? Give one"):
        read_config("qwen3-0.5b")
    with pytest.raises(UnknownNameError, match="unknown model 'nobody/Nothing'"):
        read_config("nobody/Nothing")
    for odd in ("", "a\x00b", "x" * 5000):
        with pytest.raises((SpecError, UnknownNameError)):
            read_config(odd)
    with pytest.raises(UnknownNameError):
        known_config("nothing")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(sorted([*SIZES, "model_type", "layer_types", "sliding_window", "use_sliding_window",
                                "max_window_layers", "num_experts", "num_local_experts", "num_experts_per_tok",
                                "moe_intermediate_size", "shared_expert_intermediate_size", "mlp_only_layers",
                                "decoder_sparse_step", "attention_bias", "tie_word_embeddings", "text_config",
                                "quantization_config", "sliding_window_pattern"]))  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(_KEYS, _JSON, max_size=3))
def test_any_values_give_an_architecture_or_one_line(family: str, changes: dict[str, Any]) -> None:
    try:
        arch = architecture_from_config(config_of(family) | changes, "x.json")
    except SpecError as error:
        assert str(error).startswith("x.json: ") and "\n" not in str(error) and len(str(error)) < 600
    else:
        assert arch.params_total > 0


# --- writing --------------------------------------------------------------------------------------------------------

TINY = Architecture(n_layers=4, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, vocab_size=211)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "bert"}, "family 'bert' has no config.json; families: bamba"),
        ({"ffn_gated": False}, "family 'llama' cannot express ffn_gated False; it has True"),
        ({"qk_norm": "head"}, "cannot express qk_norm 'head'"),
        ({"norms_per_layer": 4}, "cannot express norms_per_layer 4"),
        ({"norm_bias": True}, "cannot express norm_bias True"),
        ({"qkv_bias": True}, "cannot express out_bias False; it has the value of qkv_bias"),
        ({"family": "qwen2"}, "cannot express qkv_bias False; it has True"),
        ({"family": "mistral", "mlp_bias": True}, "cannot express mlp_bias True"),
        ({"n_experts": 4, "n_active_experts": 2, "d_ff_expert": 8}, "cannot express n_experts 4; it has 0"),
        ({"family": "mixtral"}, "cannot express n_experts 0; it has 1 or more"),
        ({"window_tokens": 9, "n_window_layers": 4}, "cannot express n_window_layers 4; it has no sliding windows"),
        ({"family": "mistral", "window_tokens": 9, "n_window_layers": 2}, "it has 0 or all 4 layers"),
        ({"d_head": 15}, "cannot express d_head 15; it has multiples of 2"),
        ({"d_model": 66}, "cannot express n_heads 4; it has a divisor of d_model 66"),
    ],
)
def test_what_a_family_cannot_express_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        config_dict(TINY.evolve(**changes), max_position_embeddings=2048)
    assert message in str(caught.value)


def test_lengths_and_data_types_are_checked() -> None:
    for positions in (0, -1, True, 2.0):
        with pytest.raises(SpecError, match="max_position_embeddings must be"):
            config_dict(TINY, max_position_embeddings=positions)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="dtype 'int8' is not one of"):
        config_dict(TINY, max_position_embeddings=8, dtype="int8")
    config = config_dict(TINY, max_position_embeddings=8, dtype="float16")
    assert config["dtype"] == config["torch_dtype"] == "float16"


def test_several_shared_experts_are_written_as_one_of_their_width() -> None:
    arch = TINY.evolve(family="qwen2_moe", qkv_bias=True, n_experts=4, n_active_experts=2, d_ff_expert=8, d_ff=0,
                       n_shared_experts=2, d_ff_shared=24, shared_expert_gate=True)  # fmt: skip
    back = architecture_from_config(config_dict(arch, max_position_embeddings=8), "x")
    assert (back.n_shared_experts, back.d_ff_shared) == (1, 48)
    assert back.params_total == arch.params_total
