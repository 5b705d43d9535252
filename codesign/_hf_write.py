"""Write an `Architecture` as a config.json that transformers loads."""

from __future__ import annotations

import math
from typing import Any

from codesign._hf_families import FAMILIES, Family
from codesign._hf_stack_write import STACK_WRITERS, common_fields, stack_config
from codesign._hf_stacks import STACKS
from codesign.architecture import OPTIONAL, Architecture
from codesign.errors import SpecError

__all__ = ["config_dict"]


def config_dict(arch: Architecture, *, max_position_embeddings: int, dtype: str = "bfloat16") -> dict[str, Any]:
    """The config.json of an architecture: the inverse of `architecture_from_config`.

    `transformers.AutoModelForCausalLM.from_config` builds a model of exactly `arch.params_total` parameters. Token ids
    are null, because a design has no tokenizer yet; the rotary base is that of the family's published models. Both
    spellings of the rotary base and the data type are written (transformers 4 and 5). Shared experts are written as one
    of their summed width, which computes the same. Reading back gives an equal `Architecture` where shared experts are
    one already and fields that no layer uses are 0.

    A head size other than d_model / n_heads is in every family's current model; qwen2_moe of early transformers 4
    refused it.

    Args:
        arch: any architecture whose small tensors are those of its family.
        max_position_embeddings: longest context that the model is meant for, in tokens.
        dtype: "float16", "bfloat16" or "float32".

    Raises:
        SpecError: the family cannot express the architecture; the message names the field.

    Example:
        >>> tiny = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
        >>> config_dict(tiny, max_position_embeddings=2048)["architectures"]
        ['LlamaForCausalLM']
    """
    if dtype not in ("float16", "bfloat16", "float32"):
        raise SpecError(f"dtype '{dtype}' is not one of float16, bfloat16, float32")
    positions = max_position_embeddings
    if isinstance(positions, bool) or not isinstance(positions, int) or positions < 1:
        raise SpecError(f"max_position_embeddings must be a whole number of at least 1, not {positions!r}")
    family = FAMILIES.get(arch.family)
    if family is None:
        if arch.family in STACK_WRITERS or arch.family in STACKS:
            return stack_config(arch, positions, dtype)
        known = sorted({*FAMILIES, *STACK_WRITERS})
        raise SpecError(f"family '{arch.family}' has no config.json; families: {', '.join(known)}")
    _check(arch, family)
    config = common_fields(arch, family.model_class, positions, dtype) | {
        "num_attention_heads": arch.n_heads,
        "num_key_value_heads": arch.n_kv_heads,
        "head_dim": arch.d_head,
        "intermediate_size": arch.d_ff or arch.n_active_experts * arch.d_ff_expert,
        family.act_key: family.act,
        family.norm_key: 1e-6 if family.norm_key == "rms_norm_eps" else 1e-5,
        "attention_dropout": 0.0,
    }
    if family.bias_key:
        config[family.bias_key] = arch.qkv_bias
    if arch.family in ("gemma2", "gemma3_text"):
        config["query_pre_attn_scalar"] = arch.d_head  # scores are divided by its square root
    if family.mlp_bias_key:
        config[family.mlp_bias_key] = arch.mlp_bias
    config |= _rope(arch.family, family, positions) | _experts(arch, family) | _windows(arch, family)
    return config


def _check(arch: Architecture, family: Family) -> None:
    """Refuse what the family's model does not have."""
    name = arch.family

    for field, default in OPTIONAL.items():
        if getattr(arch, field) != default:
            raise SpecError(f"family '{name}' cannot express {field} {getattr(arch, field)!r}; family 'codesign' can")

    def need(good: bool, field: str, allowed: str) -> None:
        if not good:
            raise SpecError(f"family '{name}' cannot express {field} {getattr(arch, field)!r}; it has {allowed}")

    for field, value in (
        ("ffn_gated", family.gated),
        ("norms_per_layer", family.norms_per_layer),
        ("norm_bias", family.norm_bias),
        ("qk_norm", family.qk_norm),
    ):
        need(getattr(arch, field) == value, field, repr(value))
    if not family.bias_key:
        need(arch.qkv_bias == family.bias_default, "qkv_bias", repr(family.bias_default))
    need(arch.out_bias == (arch.qkv_bias and family.bias_out), "out_bias",
         "the value of qkv_bias" if family.bias_out else "False")  # fmt: skip
    if not family.mlp_bias_key:
        need(not arch.mlp_bias, "mlp_bias", "False")
    elif family.mlp_bias_key == family.bias_key:
        need(arch.mlp_bias == arch.qkv_bias, "mlp_bias", "the value of qkv_bias")
    if family.experts == "mixtral":
        need(arch.n_experts > 0, "n_experts", "1 or more")
        need(arch.n_dense_layers == 0, "n_dense_layers", "0")
    elif not family.experts:
        need(arch.n_experts == 0, "n_experts", "0")
    if arch.n_experts:
        need(arch.n_shared_experts == 0 or family.shared, "n_shared_experts", "0")
        need(arch.shared_expert_gate == family.shared, "shared_expert_gate", repr(family.shared))
    if family.window == "none":
        need(arch.n_window_layers == 0, "n_window_layers", "no sliding windows")
    elif family.window == "all":
        need(arch.n_window_layers in (0, arch.n_layers), "n_window_layers", f"0 or all {arch.n_layers} layers")
    if family.square:
        need(arch.d_model % arch.n_heads == 0, "n_heads", f"a divisor of d_model {arch.d_model}")
    need(int(arch.d_head * family.rotary) % 2 == 0, "d_head", f"multiples of {round(2 / family.rotary)} (rotary pairs)")


def _rope(name: str, family: Family, positions: int) -> dict[str, Any]:
    theta = family.rope_theta
    if name == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": 10_000.0}
        both = {"full_attention": {"rope_type": "default", "rope_theta": theta}, "sliding_attention": local}
        return {"rope_theta": theta, "rope_local_base_freq": 10_000.0, "rope_parameters": both}
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if name == "phi3":  # its attention reads the lengths that its long-context scaling divides
        return {"rope_theta": theta, "rope_parameters": rope, "original_max_position_embeddings": positions}
    if family.rotary != 1:
        rope["partial_rotary_factor"] = family.rotary
        return {"rope_theta": theta, "partial_rotary_factor": family.rotary, "rope_parameters": rope}
    return {"rope_theta": theta, "rope_parameters": rope}


def _experts(arch: Architecture, family: Family) -> dict[str, Any]:
    if not family.experts:
        return {}
    if family.experts == "mixtral":
        return {
            "num_local_experts": arch.n_experts,
            "num_experts_per_tok": arch.n_active_experts,
            "intermediate_size": arch.d_ff_expert,
        }
    n_dense = arch.n_dense_layers if arch.n_experts else 0
    config: dict[str, Any] = {
        "num_experts": arch.n_experts,
        "num_experts_per_tok": arch.n_active_experts or 1,
        "moe_intermediate_size": arch.d_ff_expert or 1,
        # Normalising a single weight gives the constant 1, and the router no gradient.
        "norm_topk_prob": arch.n_active_experts > 1,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(range(n_dense)),  # first, as in DeepSeekMoE (arXiv 2401.06066)
    }
    if family.shared:
        config["shared_expert_intermediate_size"] = arch.n_shared_experts * arch.d_ff_shared
    return config


def _windows(arch: Architecture, family: Family) -> dict[str, Any]:
    if family.window == "none":
        return {}
    config: dict[str, Any] = {"sliding_window": arch.window_tokens or None}
    layers, n_window = arch.n_layers, arch.n_window_layers
    if family.window_switch:
        config["use_sliding_window"] = n_window > 0
    if family.window == "all":
        return config
    sliding, full = "sliding_attention", "full_attention"
    if family.window == "tail":
        config["max_window_layers"] = layers - n_window
        config["layer_types"] = [full] * (layers - n_window) + [sliding] * n_window
        return config
    if family.window_switch:
        config["max_window_layers"] = layers
    elif not n_window:  # gemma takes no null here
        config["sliding_window"] = family.window_default
    period = next((p for p in range(1, layers + 2) if layers // p == layers - n_window), 0)
    if period:  # the family's own pattern: each period-th layer is full
        kinds = [full if (layer + 1) % period == 0 else sliding for layer in range(layers)]
    else:  # spread the full layers evenly
        share = [math.floor(layer * (layers - n_window) / layers) for layer in range(layers + 1)]
        kinds = [full if share[i + 1] > share[i] else sliding for i in range(layers)]
    if family.window == "pattern" and period:
        config["sliding_window_pattern"] = period
    config["layer_types"] = kinds
    return config
