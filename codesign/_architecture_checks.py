"""What an architecture's mixers, sublayers and loops must satisfy; each refusal says the field, the value and what is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign._mixers import RECURRENCES
from codesign._shape import Shape
from codesign.errors import SpecError

__all__ = ["RECURRENT_FIELDS", "check_list", "check_mixers"]

#: Fields that only a recurrence has.
RECURRENT_FIELDS = (
    "recurrence", "n_recurrent_layers", "n_state_heads", "d_state_value", "d_state_key", "n_state_groups", "d_conv", "dt_rank",
    "state_norm",
)  # fmt: skip
_NEEDED = {
    "mamba1": ("n_state_heads", "d_state_value", "d_state_key", "d_conv", "dt_rank"),
    "mamba2": ("n_state_heads", "d_state_value", "d_state_key", "n_state_groups", "d_conv"),
    "gdn": ("n_state_heads", "d_state_value", "d_state_key", "n_state_groups", "d_conv"),
    "mlstm": ("n_state_heads", "d_state_value", "d_state_key"),
    "conv": ("n_state_heads", "d_state_value", "d_conv"),
}
_LETTERS = {
    "A": "attention", "W": "attention with a window", "R": "recurrence", "F": "dense FFN", "E": "mixture of experts",
}  # fmt: skip


def check_mixers(arch: Shape) -> None:
    """Refuse what no model is.

    Raises:
        SpecError: sizes that are missing, of no use, or do not go together.
    """
    _recurrence(arch)
    _latent(arch)
    _sublayers(arch)
    looped, layers = arch.n_looped_layers, arch.n_layers
    if (arch.n_loops > 1) != (looped > 0) or looped > layers:
        raise SpecError(
            f"n_loops {arch.n_loops} and n_looped_layers {looped} do not go together; give n_loops above 1 and 1 to "
            f"{layers} looped layers"
        )
    if 0 < looped < layers and (
        arch.n_window_layers or arch.n_recurrent_layers or arch.n_dense_layers or arch.extra_ffn_layers
    ):
        raise SpecError(f"n_looped_layers {looped} of {layers}: a stack of several kinds of layers loops as a whole or not at all")  # fmt: skip
    if arch.n_loops > 1 and (arch.n_kv_shared_layers or arch.n_shared_blocks):
        raise SpecError("n_loops above 1 does not go with n_kv_shared_layers or n_shared_blocks")


def _recurrence(arch: Shape) -> None:
    kind, count = arch.recurrence, arch.n_recurrent_layers
    if kind not in RECURRENCES:
        raise SpecError(f"recurrence {kind!r} is not one of {', '.join(RECURRENCES)}")
    if (kind != "none") != (count > 0) or count > arch.n_layers:
        raise SpecError(
            f"recurrence '{kind}' and n_recurrent_layers {count} of {arch.n_layers} layers do not go together"
        )
    needed = _NEEDED.get(kind, ())
    for name in RECURRENT_FIELDS[2:]:
        value = getattr(arch, name)
        if name in needed and value < 1:
            raise SpecError(f"recurrence '{kind}' needs {name} of at least 1, not {value}")
        if value and name not in needed and not (name == "state_norm" and kind in ("mamba1", "mamba2")):
            raise SpecError(f"{name} {value!r} says nothing of recurrence '{kind}'; leave it out")
    if kind in ("mamba1", "conv") and arch.d_state_value != 1:
        raise SpecError(
            f"d_state_value {arch.d_state_value}: the channels of {kind} have 1 value each; give n_state_heads"
        )
    groups = arch.n_state_groups
    if groups and arch.n_state_heads % groups:
        raise SpecError(f"n_state_groups {groups} does not divide n_state_heads {arch.n_state_heads}")


def _latent(arch: Shape) -> None:
    if not arch.kv_rank:
        for name in ("q_rank", "d_rope", "d_value"):
            if value := getattr(arch, name):
                raise SpecError(f"{name} {value} needs kv_rank above 0 (latent attention)")
    else:
        if arch.d_rope > arch.d_head:
            raise SpecError(f"d_rope {arch.d_rope} is more than d_head {arch.d_head}, of which it is a part")
        if arch.n_kv_heads != arch.n_heads:
            raise SpecError(f"n_kv_heads {arch.n_kv_heads}: latent attention has as many as n_heads, {arch.n_heads}")
        for name in (
            "attention_gate",
            "attention_sinks",
            "qkv_bias",
            "out_bias",
            "n_kv_shared_layers",
            "n_shared_blocks",
        ):
            if getattr(arch, name):
                raise SpecError(f"{name} does not go with kv_rank {arch.kv_rank} (latent attention)")
        if arch.qk_norm != "none":
            raise SpecError(
                f"qk_norm '{arch.qk_norm}' does not go with kv_rank {arch.kv_rank}: its norms are of the ranks"
            )
    if arch.n_kv_shared_layers and arch.n_kv_shared_layers >= arch.n_attention_layers:
        raise SpecError(
            f"n_kv_shared_layers {arch.n_kv_shared_layers} leaves none of {arch.n_attention_layers} attention layers to "
            "share from"
        )


def _sublayers(arch: Shape) -> None:
    if arch.expert_bias and not arch.n_experts:
        raise SpecError("expert_bias needs n_experts above 0")
    if arch.n_shared_blocks:
        if (
            arch.n_shared_blocks > arch.n_attention_layers
            or arch.n_ffn_layers != arch.n_attention_layers
            or arch.n_experts
        ):
            raise SpecError(
                f"n_shared_blocks {arch.n_shared_blocks}: each of the {arch.n_attention_layers} attention layers uses one, with "
                f"one dense FFN each, not {arch.n_ffn_layers}"
            )
    elif arch.adapter_rank or arch.attention_adapters:
        raise SpecError("adapter_rank and attention_adapters need n_shared_blocks above 0")
    layout = arch.layout
    if not isinstance(layout, str):
        raise SpecError(f"layout must be a text of the letters {''.join(_LETTERS)}, not {layout!r}")
    if not layout:
        return
    if other := sorted(set(layout) - set(_LETTERS)):
        raise SpecError(
            f"layout has the letter {other[0]!r}; known: " + ", ".join(f"{k} {v}" for k, v in _LETTERS.items())
        )
    wanted = {
        "A": arch.n_attention_layers - arch.n_window_layers, "W": arch.n_window_layers, "R": arch.n_recurrent_layers,
        "F": arch.n_dense_ffn_layers, "E": arch.n_moe_layers,
    }  # fmt: skip
    for letter, count in wanted.items():
        if layout.count(letter) != count:
            raise SpecError(
                f"layout has {layout.count(letter)} of {letter} ({_LETTERS[letter]}), but the counts say {count}"
            )


def check_list(arch: Shape, name: str, alike: str, values: Any) -> tuple[int, ...]:
    """One number a layer as a tuple; () where all are alike.

    Raises:
        SpecError: not whole numbers, not one for each layer, or none that is the field's greatest.
    """
    kept = _numbers(arch, name, values)
    greatest = getattr(arch, alike)
    if max(kept) != greatest:
        raise SpecError(f"{alike} {greatest} must be the greatest of {name}, {max(kept)}")
    if name != "ffn_widths":
        heads, kv = (
            _numbers(arch, other, given) if len(given := getattr(arch, other)) else [getattr(arch, same)] * len(kept)
            for other, same in (("layer_heads", "n_heads"), ("layer_kv_heads", "n_kv_heads"))
        )
        for h, k in zip(heads, kv, strict=True):
            if h % k:
                raise SpecError(f"a layer has n_kv_heads {k}, which does not divide its n_heads {h}")
    if min(kept) == max(kept):
        return ()
    _alone(arch, name, "n_shared_blocks", "n_looped_layers")
    if name != "ffn_widths":
        _alone(arch, name, "kv_rank", "n_kv_shared_layers", "n_window_layers")
    return kept


def _numbers(arch: Shape, name: str, values: Any) -> tuple[int, ...]:
    """A whole number of at least 1 for each layer."""
    count = arch.n_dense_ffn_layers if name == "ffn_widths" else arch.n_attention_layers
    layers = "dense FFNs" if name == "ffn_widths" else "attention layers"
    if not isinstance(values, (list, tuple)) or len(values) != count:
        shown = f"{len(values)} numbers" if isinstance(values, (list, tuple)) else repr(values)
        raise SpecError(f"{name} must list one number for each of the {count} {layers}, not {shown}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise SpecError(f"{name} must hold whole numbers of at least 1, not {value!r}")
    return tuple(int(value) for value in values)


def _alone(arch: Shape, name: str, *others: str) -> None:
    for other in others:
        if value := getattr(arch, other):
            raise SpecError(f"{name} does not go with {other} {value}")
