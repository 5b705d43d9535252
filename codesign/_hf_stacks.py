"""Readers of config.json for models that are more than attention and FFN in turn: latent attention, recurrences, hybrids.

Each gives the fields of `Architecture`; absent fields have the defaults of transformers' configuration class. The tests
compare parameter counts with transformers for published configs of every family.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from codesign._architecture_checks import RECURRENT_FIELDS
from codesign._hf_reader import Reader
from codesign._layout import interleaved, usual_layout
from codesign.architecture import Architecture
from codesign.errors import SpecError

__all__ = ["STACKS"]

_MAX_LAYERS = 100_000
_KINDS = {
    "attention": "A", "full_attention": "A", "sliding_attention": "W", "mamba": "R", "linear_attention": "R", "conv": "R",
    "mlp": "F", "moe": "E",
}  # fmt: skip
#: Where no layer attends.
_NO_HEADS: dict[str, Any] = {"n_heads": 1, "n_kv_heads": 1, "d_head": 1}


def _basics(read: Reader, tied: bool) -> dict[str, Any]:
    return {
        "d_model": read.required("hidden_size"),
        "vocab_size": read.required("vocab_size"),
        "tied_embeddings": read.flag("tie_word_embeddings", tied),
    }


def _heads(read: Reader, kv_default: int = 0, head_dim: int = 0) -> dict[str, Any]:
    """Heads, KV heads (0: as many) and their size (0: hidden_size / heads)."""
    heads, d = read.required("num_attention_heads"), read.required("hidden_size")
    size = read.count("head_dim", head_dim, 1)
    if not size and d % heads:
        raise SpecError(
            f"{read.where}: hidden_size {d} is not a multiple of num_attention_heads {heads}; give head_dim"
        )
    return {
        "n_heads": heads,
        "n_kv_heads": read.count("num_key_value_heads", kv_default, 1) or heads,
        "d_head": size or d // heads,
    }


def _layers(read: Reader) -> int:
    return read.required("num_hidden_layers", high=_MAX_LAYERS)


def _counts(mixers: str) -> dict[str, int]:
    return {"n_layers": len(mixers), "n_recurrent_layers": mixers.count("R"), "n_window_layers": mixers.count("W")}


def _build(fields: dict[str, Any], layout: str) -> Architecture:
    """The architecture; its layout only where it is not the usual one. Fields of recurrences only where one recurs."""
    if not fields.get("n_recurrent_layers"):
        fields = {name: value for name, value in fields.items() if name not in RECURRENT_FIELDS}
    arch = Architecture(**fields)
    return arch if layout == usual_layout(arch) else replace(arch, layout=layout)


def _mamba2(read: Reader, prefix: str, heads: str, size: str, groups: str, state: str, conv: str, defaults: tuple[int, ...]) -> dict[str, Any]:  # fmt: skip
    """Fields of a Mamba-2 mixer by the names that a family has for them."""
    read.without(f"{prefix}proj_bias", "use_bias", "add_bias_linear")
    for key in ("mamba_conv_bias", "use_conv_bias"):
        if not read.flag(key, True):
            raise SpecError(f"{read.where}: {key} false is not supported; its convolution has a bias")
    names = (heads, size, groups, state, conv)
    n, p, g, s, c = (read.count(key, default, 1) for key, default in zip(names, defaults, strict=True))
    return {
        "recurrence": "mamba2", "n_state_heads": n, "d_state_value": p, "n_state_groups": g, "d_state_key": s, "d_conv": c,
        "state_norm": True,
    }  # fmt: skip


def _latent(read: Reader, defaults: dict[str, int]) -> dict[str, Any]:
    """Multi-head latent attention: heads of qk_nope_head_dim + qk_rope_head_dim."""
    read.without("attention_bias", "mlp_bias")
    heads = read.required("num_attention_heads")
    nope, rope, value = (read.count(k, defaults[k], 1) for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    size = nope + rope
    return {
        "n_heads": heads, "n_kv_heads": heads, "d_head": size, "d_rope": rope, "d_value": value if value != size else 0,
        "kv_rank": read.count("kv_lora_rank", defaults["kv_lora_rank"], 1),
        "q_rank": read.count("q_lora_rank", defaults["q_lora_rank"], 1),
    }  # fmt: skip


_DEEPSEEK = {
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
}
_MINICPM = {"qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "kv_lora_rank": 256, "q_lora_rank": 768}


def _latent_dense(read: Reader, name: str) -> Architecture:
    fields = _basics(read, True) | _latent(read, _MINICPM if name == "minicpm3" else _DEEPSEEK)
    return Architecture(**fields, n_layers=_layers(read), d_ff=read.required("intermediate_size"), family=name)


def _deepseek(read: Reader, name: str) -> Architecture:
    layers = _layers(read)
    v2 = name == "deepseek_v2"
    dense = min(layers, read.count("first_k_dense_replace", 0 if v2 else 3))
    if read.count("moe_layer_freq", 1, 1) != 1:
        raise SpecError(f"{read.where}: moe_layer_freq {read.config['moe_layer_freq']} is not supported; allowed: 1")
    fields = _basics(read, False) | _latent(read, _DEEPSEEK)
    fields |= {"n_layers": layers, "d_ff": read.required("intermediate_size") if dense else 0, "family": name}
    if dense < layers:
        width = read.count("moe_intermediate_size", 1407 if v2 else 2048, 1)
        shared = read.count("n_shared_experts", 2 if v2 else 1)
        fields |= {
            "n_experts": read.count("n_routed_experts", 64 if v2 else 256, 1),
            "n_active_experts": read.count("num_experts_per_tok", 0 if v2 else 8, 1), "d_ff_expert": width,
            "n_dense_layers": dense, "n_shared_experts": int(shared > 0), "d_ff_shared": shared * width,
        }  # fmt: skip
    return Architecture(**fields)


def _nemotron_h(read: Reader, name: str) -> Architecture:
    """Blocks of one sublayer each, in any order: M Mamba-2, * attention, - FFN, E mixture."""
    read.without("attention_bias", "mlp_bias", "mamba_proj_bias", "moe_latent_size", "sliding_window")
    pattern = read.config.get("hybrid_override_pattern")
    layout = read.kinds("layers_block_type", _KINDS) or read.kinds("layer_types", _KINDS)
    if not layout:
        letters = {"M": "R", "*": "A", "-": "F", "E": "E"}
        if not isinstance(pattern, str) or not pattern or set(pattern) - set(letters):
            raise SpecError(
                f"{read.where}: hybrid_override_pattern must be a text of M, *, - and E, or give layers_block_type"
            )
        layout = "".join(letters[c] for c in pattern)
    mixers = "".join(c for c in layout if c in "ARW")
    if not mixers:
        raise SpecError(f"{read.where}: a stack without attention or Mamba layers is not supported")
    dense, mixed = layout.count("F"), layout.count("E")
    fields = _basics(read, False) | (_heads(read, 8, 128) if "A" in mixers else _NO_HEADS) | _counts(mixers)
    fields |= _mamba2(read, "mamba_", "mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size", "conv_kernel",
                      (128, 64, 8, 128, 4))  # fmt: skip
    fields |= {
        "d_ff": read.required("intermediate_size") if dense else 0, "ffn_gated": False, "family": name,
        "extra_ffn_layers": dense + mixed - len(mixers),
    }  # fmt: skip
    if mixed:
        shared = read.count("n_shared_experts", 1)
        fields |= {
            "n_experts": read.required("n_routed_experts"), "n_active_experts": read.count("num_experts_per_tok", 2, 1),
            "d_ff_expert": read.required("moe_intermediate_size"), "n_dense_layers": dense,
            "n_shared_experts": int(shared > 0),
            "d_ff_shared": read.required("moe_shared_expert_intermediate_size") if shared else 0,
        }  # fmt: skip
    return _build(fields, layout)


def _jamba(read: Reader, name: str) -> Architecture:
    read.without("mamba_proj_bias")
    if not read.flag("mamba_conv_bias", True):
        raise SpecError(f"{read.where}: mamba_conv_bias false is not supported; its convolution has a bias")
    layers, d = _layers(read), read.required("hidden_size")
    period, offset = read.count("attn_layer_period", 8, 1), read.count("attn_layer_offset", 4)
    mixers = "".join("A" if i % period == offset else "R" for i in range(layers))
    experts, each, first = (
        read.count("num_experts", 16),
        read.count("expert_layer_period", 2, 1),
        read.count("expert_layer_offset", 1),
    )
    ffns = "".join("E" if experts > 1 and i % each == first else "F" for i in range(layers))
    width = read.required("intermediate_size")
    rank = read.config.get("mamba_dt_rank", "auto")
    fields = _basics(read, False) | _heads(read, 8) | _counts(mixers) | {
        "recurrence": "mamba1", "n_state_heads": read.count("mamba_expand", 2, 1) * d, "d_state_value": 1,
        "d_state_key": read.count("mamba_d_state", 16, 1), "d_conv": read.count("mamba_d_conv", 4, 1),
        "dt_rank": math.ceil(d / 16) if rank == "auto" else read.check("mamba_dt_rank", rank, 1), "state_norm": True,
        "d_ff": width if "F" in ffns else 0, "family": name,
    }  # fmt: skip
    if "E" in ffns:
        fields |= {"n_experts": experts, "n_active_experts": read.count("num_experts_per_tok", 2, 1), "d_ff_expert": width,
                   "n_dense_layers": ffns.count("F")}  # fmt: skip
    return _build(fields, interleaved(mixers, ffns))


def _bamba(read: Reader, name: str) -> Architecture:
    read.without("attention_bias", "mlp_bias")
    layers = _layers(read)
    attending = read.numbers("attn_layer_indices", layers) or set()
    mixers = "".join("A" if i in attending else "R" for i in range(layers))
    fields = _basics(read, False) | (_heads(read, 8) if attending else _NO_HEADS) | _counts(mixers)
    fields |= _mamba2(read, "mamba_", "mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state", "mamba_d_conv",
                      (128, 64, 1, 256, 4))  # fmt: skip
    fields |= {"d_ff": read.required("intermediate_size"), "family": name}
    return _build(fields, interleaved(mixers, "F" * layers))


def _granite_hybrid(read: Reader, name: str) -> Architecture:
    """Granite 4: each layer has a shared FFN, and experts beside it where there are any."""
    read.without("attention_bias")
    layers, shared = _layers(read), read.required("shared_intermediate_size")
    mixers = (
        read.kinds("layer_types", _KINDS, layers) or read.kinds("layers_block_type", _KINDS, layers) or "R" * layers
    )
    fields = _basics(read, False) | (_heads(read) if "A" in mixers else _NO_HEADS) | _counts(mixers)
    fields |= _mamba2(read, "mamba_", "mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state", "mamba_d_conv",
                      (128, 64, 1, 256, 4))  # fmt: skip
    experts = read.count("num_local_experts", 8)
    if experts:
        fields |= {
            "d_ff": 0, "n_experts": experts, "n_active_experts": read.count("num_experts_per_tok", 2, 1),
            "d_ff_expert": read.required("intermediate_size"), "n_shared_experts": 1, "d_ff_shared": shared,
        }  # fmt: skip
    else:
        fields["d_ff"] = shared
    return _build({**fields, "family": name}, interleaved(mixers, ("E" if experts else "F") * layers))


def _zamba2(read: Reader, name: str) -> Architecture:
    """Mamba-2 layers, some of which have a shared attention-and-FFN block before them that reads the embedding, too."""
    layers, d = _layers(read), read.required("hidden_size")
    listed = read.kinds("layers_block_type", {**_KINDS, "hybrid": "H"}, layers) or read.kinds(
        "layer_types", {**_KINDS, "hybrid": "H"}, layers
    )
    hybrid = {i for i, c in enumerate(listed) if c == "H"} if listed else read.numbers("hybrid_layer_ids", layers)
    if not hybrid:
        raise SpecError(f"{read.where}: layers_block_type or hybrid_layer_ids must name the layers with a shared block")
    heads = read.required("num_attention_heads")
    if 2 * d % heads:
        raise SpecError(f"{read.where}: twice hidden_size {d} is not a multiple of num_attention_heads {heads}")
    inner = read.count("mamba_expand", 2, 1) * d
    n = read.count("n_mamba_heads", 8, 1)
    fields = _basics(read, True) | _mamba2(read, "mamba_", "n_mamba_heads", "mamba_headdim", "mamba_ngroups", "mamba_d_state",
                                           "mamba_d_conv", (8, inner // n, 1, 64, 4))  # fmt: skip
    fields |= {
        "n_layers": layers + len(hybrid), "n_recurrent_layers": layers, "extra_ffn_layers": -layers,
        "n_heads": heads, "n_kv_heads": read.count("num_key_value_heads", heads, 1) or heads, "d_head": 2 * d // heads,
        "d_ff": read.required("intermediate_size"), "n_shared_blocks": read.count("num_mem_blocks", 1, 1),
        "adapter_rank": read.count("adapter_rank", 128, 1),
        "attention_adapters": read.flag("use_shared_attention_adapter", False), "family": name,
    }  # fmt: skip
    return _build(fields, "".join("AFR" if i in hybrid else "R" for i in range(layers)))


def _delta(read: Reader, name: str) -> Architecture:
    """Gated delta net and gated attention: Qwen3-Next (mixtures) and Qwen3.5 (dense, or mixtures)."""
    read.without("attention_bias")
    layers = _layers(read)
    period = read.count("full_attention_interval", 4, 1) or 4
    mixers = read.kinds("layer_types", _KINDS, layers) or "".join(
        "A" if (i + 1) % period == 0 else "R" for i in range(layers)
    )
    keys, values = read.count("linear_num_key_heads", 16, 1), read.count("linear_num_value_heads", 32, 1)
    heads = _heads(read, {"qwen3_5_text": 4}.get(name, 2), 256) if "A" in mixers else _NO_HEADS
    fields = _basics(read, False) | heads | _counts(mixers) | {
        "attention_gate": "A" in mixers, "qk_norm": "head" if "A" in mixers else "none", "recurrence": "gdn",
        "n_state_heads": values, "n_state_groups": keys,
        "d_state_value": read.count("linear_value_head_dim", 128, 1), "d_state_key": read.count("linear_key_head_dim", 128, 1),
        "d_conv": read.count("linear_conv_kernel_dim", 4, 1), "family": name,
    }  # fmt: skip
    if name == "qwen3_5_text":
        return _build({**fields, "d_ff": read.required("intermediate_size")}, interleaved(mixers, "F" * layers))
    dense = read.numbers("mlp_only_layers", layers) or set()
    step = read.count("decoder_sparse_step", 1, 1) or 1
    ffns = "".join("F" if i in dense or (i + 1) % step else "E" for i in range(layers))
    if "F" in ffns:
        fields |= {"d_ff": read.required("intermediate_size"), "n_dense_layers": ffns.count("F")}
    else:
        fields["d_ff"] = 0
    if "E" in ffns:
        shared = read.count("shared_expert_intermediate_size", 512)
        fields |= {
            "n_experts": read.required("num_experts"), "n_active_experts": read.count("num_experts_per_tok", 10, 1),
            "d_ff_expert": read.count("moe_intermediate_size", 512, 1), "n_shared_experts": int(shared > 0), "d_ff_shared": shared,
            "shared_expert_gate": True,
        }  # fmt: skip
    return _build(fields, interleaved(mixers, ffns))


def _mamba(read: Reader, name: str) -> Architecture:
    """Stacks of Mamba layers alone."""
    read.without("use_bias")
    layers, d = _layers(read), read.required("hidden_size")
    fields = _basics(read, name != "mamba2") | _NO_HEADS | {
        "n_layers": layers, "n_recurrent_layers": layers, "extra_ffn_layers": -layers, "d_ff": 0, "family": name,
    }  # fmt: skip
    if name == "mamba2":
        fields |= _mamba2(
            read, "", "num_heads", "head_dim", "n_groups", "state_size", "conv_kernel", (128, 64, 8, 128, 4)
        )
        return Architecture(**fields)
    if not read.flag("use_conv_bias", True):
        raise SpecError(f"{read.where}: use_conv_bias false is not supported; its convolution has a bias")
    rank = read.config.get("time_step_rank", "auto")
    inner = read.count("intermediate_size", read.count("expand", 2, 1) * d, 1)
    return Architecture(
        **fields, recurrence="mamba1", n_state_heads=inner, d_state_value=1, d_state_key=read.count("state_size", 16, 1),
        d_conv=read.count("conv_kernel", 4, 1), dt_rank=math.ceil(d / 16) if rank == "auto" else read.check("time_step_rank", rank, 1),
    )  # fmt: skip


def _xlstm(read: Reader, name: str) -> Architecture:
    """mLSTM and FFN in turn (xLSTM-7B). transformers never ties its head, whatever tie_word_embeddings says."""
    read.without("use_bias")
    if not read.flag("add_out_norm", True) or read.config.get("weight_mode", "single") not in ("single", "fused"):
        raise SpecError(f"{read.where}: only xLSTM models with add_out_norm are supported")
    d = read.count("embedding_dim", read.count("hidden_size", 4096, 1), 1)
    layers, heads = read.count("num_blocks", read.count("num_hidden_layers", 32, 1), 1), read.count("num_heads", 8, 1)
    multiple = read.count("ffn_round_up_to_multiple_of", 64, 1)

    width = int((d * read.number("ffn_proj_factor", 2.667) + multiple - 1) // multiple * multiple)
    keys, values = int(d * read.number("qk_dim_factor", 0.5)), int(d * read.number("v_dim_factor", 1.0))
    if keys % heads or values % heads:
        raise SpecError(
            f"{read.where}: num_heads {heads} does not divide the widths of queries {keys} and values {values}"
        )
    return Architecture(
        n_layers=layers, d_model=d, **_NO_HEADS, d_ff=width,
        vocab_size=read.required("vocab_size"), tied_embeddings=False, recurrence="mlstm",
        n_recurrent_layers=layers, n_state_heads=heads, d_state_key=keys // heads, d_state_value=values // heads, family=name,
    )  # fmt: skip


def _gpt_oss(read: Reader, name: str) -> Architecture:
    layers, window = _layers(read), read.count("sliding_window", 128)
    kinds = read.kinds("layer_types", _KINDS, layers) or "".join("AW"[(i + 1) % 2] for i in range(layers))
    if not window:
        kinds = "A" * layers
    bias = read.flag("attention_bias", True)
    return _build(
        _basics(read, False) | _heads(read, 8, 64) | _counts(kinds) | {
            "window_tokens": window if "W" in kinds else 0, "d_ff": 0, "n_experts": read.count("num_local_experts", 128, 1),
            "n_active_experts": read.count("num_experts_per_tok", 4, 1), "d_ff_expert": read.required("intermediate_size"),
            "qkv_bias": bias, "out_bias": bias, "attention_sinks": True, "expert_bias": True, "family": name,
        },
        interleaved(kinds, "E" * layers),
    )  # fmt: skip


def _mixture(read: Reader, name: str) -> Architecture:
    """Every layer a mixture: OLMoE (norms over whole queries and keys) and Granite 3."""
    read.without("attention_bias")
    olmoe = name == "olmoe"
    return Architecture(
        **_basics(read, False), **_heads(read), n_layers=_layers(read), d_ff=0,
        n_experts=read.required("num_experts" if olmoe else "num_local_experts"),
        n_active_experts=read.count("num_experts_per_tok", 8 if olmoe else 2, 1), d_ff_expert=read.required("intermediate_size"),
        qk_norm="full" if olmoe else "none", family=name,
    )  # fmt: skip


def _lfm2(read: Reader, name: str) -> Architecture:
    """Gated short convolutions and attention, each with an FFN."""
    read.without("conv_bias")
    layers, d = _layers(read), read.required("hidden_size")
    mixers = read.kinds("layer_types", _KINDS, layers)
    if not mixers:
        attending = read.numbers("full_attn_idxs", layers)
        mixers = "".join("A" if attending is None or i in attending else "R" for i in range(layers))
    width = read.count("block_ff_dim", read.count("intermediate_size", 12288, 1), 1)
    if read.flag("block_auto_adjust_ff_dim", True):
        multiple = read.count("block_multiple_of", 256, 1)
        width = int(read.number("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3))
        width = multiple * -(-width // multiple)
    tied = read.flag("tie_embedding", True)
    fields = _basics(read, tied) | (_heads(read, 8) if "A" in mixers else _NO_HEADS) | _counts(mixers) | {
        "qk_norm": "head" if "A" in mixers else "none", "recurrence": "conv", "n_state_heads": d, "d_state_value": 1,
        "d_conv": read.count("conv_L_cache", 3, 1), "d_ff": width, "family": name,
    }  # fmt: skip
    return _build(fields, interleaved(mixers, "F" * layers))


def _openelm(read: Reader, name: str) -> Architecture:
    """Heads and FFN widths that grow from layer to layer (arXiv 2404.14619)."""
    layers, d = read.required("num_transformer_layers", high=_MAX_LAYERS), read.required("model_dim")
    heads, kv = (read.each(key, layers) for key in ("num_query_heads", "num_kv_heads"))
    multiple = read.count("ffn_dim_divisor", 256, 1)
    shares = read.config.get("ffn_multipliers")
    if (
        not isinstance(shares, list)
        or len(shares) != layers
        or any(type(v) not in (int, float) or not 0 < v * d < 1e12 for v in shares)
    ):
        raise SpecError(f"{read.where}: ffn_multipliers must list a number above zero for each of the {layers} layers")
    widths = []
    for share in shares:
        wanted = share * d
        width = max(multiple, int(wanted + multiple / 2) // multiple * multiple)
        widths.append(width + multiple if width < 0.9 * wanted else width)
    return Architecture(
        n_layers=layers, d_model=d, n_heads=max(heads), n_kv_heads=max(kv), d_head=read.required("head_dim"), d_ff=max(widths),
        vocab_size=read.required("vocab_size"), tied_embeddings=read.flag("share_input_output_layers", True),
        ffn_gated=read.flag("ffn_with_glu", True), qk_norm="head" if read.flag("normalize_qk_projections", False) else "none",
        ffn_widths=tuple(widths), layer_heads=heads, layer_kv_heads=kv, family=name,
    )  # fmt: skip


def _own(read: Reader, name: str) -> Architecture:
    """Designs that no family of transformers expresses: all fields of the architecture."""
    fields = read.config.get("architecture")
    if not isinstance(fields, dict):
        raise SpecError(f"{read.where}: model_type codesign needs the object 'architecture' that codesign writes")
    return replace(Architecture.from_dict(fields), family=name)


#: Reader by `model_type`.
STACKS: dict[str, Callable[[Reader, str], Architecture]] = {
    "bamba": _bamba, "codesign": _own, "deepseek_v2": _deepseek, "deepseek_v3": _deepseek, "falcon_mamba": _mamba, "gpt_oss": _gpt_oss,
    "granitemoe": _mixture, "granitemoehybrid": _granite_hybrid, "jamba": _jamba, "lfm2": _lfm2, "mamba": _mamba,
    "mamba2": _mamba, "minicpm3": _latent_dense, "nemotron_h": _nemotron_h, "olmoe": _mixture, "openelm": _openelm, "qwen3_5_moe_text": _delta,
    "qwen3_5_text": _delta, "qwen3_next": _delta, "xlstm": _xlstm, "youtu": _latent_dense, "zamba2": _zamba2,
}  # fmt: skip
