"""Weights between our names (`codesign.models.features`) and those of transformers' checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from codesign.architecture import Architecture
from codesign.errors import SpecError
from codesign.models.features import features, weight_shapes

__all__ = ["from_transformers", "to_transformers"]

#: Families whose norms store the gain less 1.
_GAIN_LESS_ONE = ("gemma", "gemma3_text", "nemotron")


def from_transformers(arch: Architecture, state: Mapping[str, Any]) -> dict[str, Any]:
    """Our weights from a model's `state_dict()` (transformers 4 or 5) or from a published checkpoint of its family.

    Takes experts as one tensor each or stacked, and fused projections (phi3) apart.

    Args:
        arch: the architecture that the weights belong to.
        state: torch tensors or numpy arrays by transformers' names; others than those needed are ignored.

    Raises:
        SpecError: a weight is missing or has another shape.
    """
    out: dict[str, Any] = {}
    for name, shape in weight_shapes(arch).items():
        for theirs, part in _theirs(arch, name):
            if theirs in state:
                value = state[theirs] if part is None else state[theirs][part]
                break
        else:
            wanted = " or ".join(theirs for theirs, _ in _theirs(arch, name))
            raise SpecError(f"the checkpoint lacks {wanted} ({arch.family})")
        if _is_shifted(arch, name):
            value = value + 1
        if tuple(value.shape) != shape:
            raise SpecError(f"the checkpoint's weight for {name} has shape {tuple(value.shape)}, not {shape}")
        out[name] = value
    return out


def to_transformers(arch: Architecture, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the family's published checkpoints, which `from_pretrained` of transformers 4 and 5 reads.

    Args:
        arch: the architecture; its config.json is `codesign.hf_config.config_dict`.
        weights: torch tensors by our names, such as `Decoder.state_dict()`.

    Raises:
        SpecError: a family whose checkpoints fuse projections (phi3).
    """
    if arch.family == "phi3":
        raise SpecError("family 'phi3' fuses its projections; write the checkpoint as family llama")
    out = {}
    for name in weight_shapes(arch):
        value = weights[name]
        out[next(_theirs(arch, name))[0]] = value - 1 if _is_shifted(arch, name) else value
    return out


def _is_shifted(arch: Architecture, name: str) -> bool:
    return arch.family in _GAIN_LESS_ONE and name.endswith("norm.weight")


def _theirs(arch: Architecture, name: str) -> Iterator[tuple[str, Any]]:
    """The names that a weight may have, the published checkpoint's first, each with the index of the part it is."""
    if name == "embed_tokens.weight":
        yield "model.embed_tokens.weight", None
        return
    if name.startswith("lm_head"):
        yield name, None
        return
    if name.startswith("final_norm"):
        yield f"model.norm.{name.rpartition('.')[2]}", None
        return
    _, layer, rest = name.split(".", 2)
    at = f"model.layers.{layer}"
    module, _, kind = rest.rpartition(".")
    if module.endswith("_norm") and module[0] not in "qk":
        yield f"{at}.{_NORMS[_style(arch)][module]}.{kind}", None
    elif rest.startswith(("router", "shared_gate", "experts", "shared_expert")):
        yield from _expert_names(arch, at, rest)
    elif rest.startswith("ffn"):
        part = module.partition(".")[2]
        if arch.family == "starcoder2":
            part = {"up_proj": "c_fc", "down_proj": "c_proj"}[part]
        yield f"{at}.mlp.{part}.{kind}", None
        halves = {"gate_proj": slice(0, arch.d_ff), "up_proj": slice(arch.d_ff, None)}
        if part in halves:
            yield f"{at}.mlp.gate_up_proj.{kind}", halves[part]
    else:
        yield f"{at}.self_attn.{rest}", None
        q, kv = arch.d_query, arch.d_kv
        parts = {"q_proj": slice(0, q), "k_proj": slice(q, q + kv), "v_proj": slice(q + kv, None)}
        if module in parts:
            yield f"{at}.self_attn.qkv_proj.{kind}", parts[module]


_NORMS = {
    "pre": {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"},
    "post": {"attention_post_norm": "post_attention_layernorm", "ffn_post_norm": "post_feedforward_layernorm"},
    "both": {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "ffn_post_norm": "post_feedforward_layernorm",
    },
}


def _style(arch: Architecture) -> str:
    has = features(arch)
    return "both" if has.pre_norm and has.post_norm else "post" if has.post_norm else "pre"


def _expert_names(arch: Architecture, at: str, rest: str) -> Iterator[tuple[str, Any]]:
    mixtral = arch.family == "mixtral"
    blocks = ("block_sparse_moe", "mlp") if mixtral else ("mlp",)
    for block in blocks:
        if rest.startswith("router"):
            yield f"{at}.{block}.gate.weight", None
        elif rest.startswith("shared_gate"):
            yield f"{at}.{block}.shared_expert_gate.weight", None
        elif rest.startswith("shared_expert"):
            yield f"{at}.{block}.{rest}", None
        else:
            _, number, part, _ = rest.split(".")
            theirs = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[part] if mixtral else part
            yield f"{at}.{block}.experts.{number}.{theirs}.weight", None
            width = arch.d_ff_expert
            stacked = {"gate_proj": slice(0, width), "up_proj": slice(width, None), "down_proj": slice(None)}
            name = "down_proj" if part == "down_proj" else "gate_up_proj"
            yield f"{at}.{block}.experts.{name}", (int(number), stacked[part])
