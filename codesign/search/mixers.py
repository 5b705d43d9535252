"""Token mixers of a design space: what a value of the axis `mixer` means, as fields of an architecture.

| value | mixers of the layers |
|---|---|
| full | attention |
| window:W:P | a window of W tokens, each P-th layer without it (Gemma 3, arXiv 2503.19786: 5 of 6) |
| mamba2:P | Mamba-2 (2 d wide, heads of 64, state 128), each P-th layer attention; P = 0: none |
| gdn:P | gated delta net (values 2 d, keys d wide, heads of 128) and gated attention, as Qwen3-Next |
| mlstm:P | mLSTM (heads of 128, keys of 64) and attention; P = 0 as xLSTM |
| conv:P | gated short convolutions (3 taps) and attention, as LFM2 |
| mla:R | latent attention with R numbers a token, heads of d_head + d_head / 2 rotated |
| shared:P | keys and values of each P-th layer used by the P - 1 after it |
| loop:T | the middle half of the layers run T times |
| taper:R | attention; FFN widths rise evenly from the first layer to the last, R times as wide (OpenELM: 8, arXiv 2404.14619) |
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign._mixers import RECURRENCES
from codesign.architecture import Architecture
from codesign.errors import SpecError
from codesign.search.experts import ExpertsValue

__all__ = ["COST_ONLY", "FAMILIES", "Mixer", "family_axes", "mixer_needs", "mixer_of", "parse_mixer", "with_mixer"]

#: Kind to the names of its numbers, each with its smallest and largest value.
_NUMBERS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "full": (),
    "window": (("tokens", 1, 10**6), ("period", 2, 1000)),
    "mamba2": (("period", 0, 1000),),
    "gdn": (("period", 0, 1000),),
    "mlstm": (("period", 0, 1000),),
    "conv": (("period", 2, 1000),),
    "mla": (("rank", 8, 10**5),),
    "shared": (("period", 2, 1000),),
    "loop": (("times", 2, 100),),
    "taper": (("ratio", 2, 100),),
}
_DENSE = {"full": "qwen3", "window": "qwen3", "mamba2": "bamba", "gdn": "qwen3_5_text", "conv": "lfm2", "mla": "youtu"}
_MIXTURE = {"full": "qwen3_moe", "mamba2": "granitemoehybrid", "gdn": "qwen3_next", "mla": "deepseek_v3"}
#: What `--families` offers: values of the axes experts ("moe": those of the space) and mixer.
FAMILIES: dict[str, tuple[str, ...]] = {
    "dense": ("full",),
    "moe": ("full",),
    "window": ("window:512:6", "window:1024:6"),
    "hybrid": ("mamba2:4", "mamba2:8", "gdn:4", "mlstm:4"),
    "recurrent": ("mamba2:0", "mlstm:0"),
    "conv": ("conv:3",),
    "mla": ("mla:256", "mla:512"),
    "shared": ("shared:2", "shared:4"),
    "looped": ("loop:2", "loop:4"),
    "uneven": ("taper:4", "taper:8"),
}
#: Families whose loss no data at hand tells: compared on cost alone.
COST_ONLY = ("conv", "mla", "shared", "loop")


@dataclass(frozen=True, slots=True)
class Mixer:
    """A value of the axis: its kind and its numbers."""

    kind: str
    numbers: tuple[int, ...]


def parse_mixer(text: Any) -> Mixer:
    """Read a value of the axis `mixer`.

    Raises:
        SpecError: an unknown kind, or numbers that are missing or out of range.

    Example:
        >>> parse_mixer("window:512:6")
        Mixer(kind='window', numbers=(512, 6))
    """
    if not isinstance(text, str):
        raise SpecError(f"axis 'mixer': {text!r} is not a text such as full or mamba2:4")
    kind, *rest = text.split(":")
    if kind not in _NUMBERS:
        raise SpecError(f"axis 'mixer': '{text}' is not a known mixer; known: {', '.join(map(_form, _NUMBERS))}")
    wanted = _NUMBERS[kind]
    numbers = [int(part) for part in rest if part.isascii() and part.isdigit()]
    if len(rest) != len(wanted) or len(numbers) != len(rest):
        raise SpecError(f"axis 'mixer': '{text}' is not of the form {_form(kind)} with whole numbers")
    for (name, low, high), value in zip(wanted, numbers, strict=True):
        if not low <= value <= high or (name == "period" and value == 1):
            other = ", and not 1" if name == "period" and low == 0 else ""
            raise SpecError(f"axis 'mixer': {name} {value} of '{text}' must be from {low} to {high}{other}")
    return Mixer(kind, tuple(numbers))


def _form(kind: str) -> str:
    return ":".join([kind, *(name.upper() for name, _, _ in _NUMBERS[kind])])


def mixer_needs(text: str) -> str:
    """What a design must have for a mixer, in words.

    Example:
        >>> mixer_needs("mlstm:100")
        'at least 100 layers and a width that its heads divide'
    """
    mixer = parse_mixer(text)
    kind, n = mixer.kind, mixer.numbers
    if kind == "window":
        return f"at least {n[1]} layers"
    if kind in RECURRENCES:
        return f"at least {n[0]} layers and a width that its heads divide" if n[0] else "a width that its heads divide"
    if kind == "mla":
        return f"a width above {n[0]}"
    if kind == "taper":
        return f"a dense FFN wide enough to differ {n[0]} times"
    return "heads that divide the width"


def with_mixer(fields: dict[str, Any], mixer: Mixer, first: Any, multiple: int = 64) -> tuple[dict[str, Any], Any]:
    """The fields of a full-attention design with another mixer, and where that is possible.

    Args:
        fields: of `ArchitectureBatch`, arrays of broadcasting shapes. first: where the design has the first value of the axes
            that its mixer does not read (KV heads of latent attention, all heads of a stack without attention); elsewhere it
            would be the same design again. multiple: of which FFN widths are.
    """
    kind = mixer.kind
    mixture = bool(np.any(fields["n_experts"]))
    family = (_MIXTURE if mixture else _DENSE).get(kind, "codesign")
    out, valid = {**fields, "family": family}, np.True_
    layers, d = fields["n_layers"], fields["d_model"]
    if kind == "window":
        tokens, period = mixer.numbers
        out |= {"window_tokens": tokens, "n_window_layers": layers - layers // period}
        valid = layers >= period
    elif kind in ("mamba2", "gdn", "mlstm", "conv"):
        found, valid = _recurrent(out, kind, mixer.numbers[0], first)
        out |= found
        if mixture and family != "codesign" and "d_ff_shared" in fields:
            out["shared_expert_gate"] = kind == "gdn"
        elif (
            mixture and family != "codesign"
        ):  # their models have a shared expert in each layer, as wide as a routed one
            active = fields["n_active_experts"]
            width = np.maximum(np.round(fields["d_ff_expert"] * active / ((active + 1) * 64)), 1.0) * 64
            out |= {
                "d_ff_expert": width,
                "n_shared_experts": 1,
                "d_ff_shared": width,
                "shared_expert_gate": kind == "gdn",
            }
    elif kind == "mla":
        size, heads = fields["d_head"], fields["n_heads"]
        out |= {"kv_rank": mixer.numbers[0], "d_rope": size / 2, "d_value": size, "d_head": size * 1.5, "n_kv_heads": heads,
                "qk_norm": "none"}  # fmt: skip
        valid = first["n_kv_heads"] & (d > mixer.numbers[0])
    elif kind == "shared":
        own = -(-layers // mixer.numbers[0])
        out |= {"n_kv_shared_layers": layers - own}
    elif kind == "loop":
        out |= {"n_loops": mixer.numbers[0], "n_looped_layers": np.maximum(layers // 2, 1)}
    elif kind == "taper":
        widths = _tapered(fields["d_ff"], layers, mixer.numbers[0], multiple)
        out |= {"ffn_widths": widths, "d_ff": widths.max(axis=-1)}
        valid = ~np.asarray(mixture) & (widths[..., 0] > 0) & (widths[..., 0] < out["d_ff"])
    return out, valid


def _tapered(mean: Any, layers: Any, ratio: int, multiple: int) -> Any:
    """FFN widths that rise evenly and whose mean is the given one, (..., layers), zeros behind the last layer.

    Layer i of l is 2 / (1 + R) * (1 + (R - 1) * i / (l - 1)) times the mean, rounded to a multiple in the first half; the second half
    mirrors the first.
    """
    mean, layers = np.asarray(mean, dtype=float)[..., None], np.asarray(layers, dtype=float)[..., None]
    i = np.arange(int(np.max(layers)))
    mirrored = np.minimum(i, layers - 1 - i)  # the place in the first half
    share = 2 / (1 + ratio) * (1 + (ratio - 1) * mirrored / np.maximum(layers - 1, 1))
    low = np.where(2 * mirrored == layers - 1, mean, np.round(share * mean / multiple) * multiple)
    return np.where(i < layers, np.where(i == mirrored, low, 2 * mean - low), 0.0)


def _recurrent(fields: dict[str, Any], kind: str, period: int, first: Any) -> tuple[dict[str, Any], Any]:
    layers, d = fields["n_layers"], fields["d_model"]
    attending = layers // period if period else layers * 0
    out: dict[str, Any] = {"recurrence": kind, "n_recurrent_layers": layers - attending}
    valid = layers >= period
    if kind == "mamba2":
        out |= {"n_state_heads": d / 32, "d_state_value": 64, "d_state_key": 128, "n_state_groups": 1, "d_conv": 4, "state_norm": True,
                "qk_norm": "none"}  # fmt: skip
        valid = valid & (np.mod(d, 32) == 0)
    elif kind == "gdn":
        out |= {"n_state_heads": d / 64, "d_state_value": 128, "d_state_key": 128, "n_state_groups": d / 128, "d_conv": 4,
                "attention_gate": bool(period)}  # fmt: skip
        valid = valid & (np.mod(d, 128) == 0)
    elif kind == "mlstm":
        out |= {"n_state_heads": d / 128, "d_state_value": 128, "d_state_key": 64}
        valid = valid & (np.mod(d, 128) == 0)
        # transformers never ties xLSTM's head, so that a tied design would be built larger
        if not period and not np.any(fields["n_experts"]) and not np.any(fields["tied_embeddings"]):
            out["family"] = "xlstm"
    else:
        out |= {"n_state_heads": d, "d_state_value": 1, "d_conv": 3}
    if not period:
        out |= {"n_heads": 1, "n_kv_heads": 1, "d_head": 1, "qk_norm": "none", "attention_gate": False}
        valid = valid & first["n_kv_heads"] & first["d_head"]
    return out, valid


def mixer_of(arch: Architecture, offered: Sequence[str]) -> str:
    """The value of the axis that a design came from; "full" where none of those offered gives it."""
    layers = arch.n_layers
    for text in offered:
        mixer = parse_mixer(text)
        n, kind = mixer.numbers, mixer.kind
        if kind in RECURRENCES:
            same = arch.recurrence == kind and arch.n_recurrent_layers == layers - (layers // n[0] if n[0] else 0)
        elif kind == "window":
            same = (arch.window_tokens, arch.n_window_layers) == (n[0], layers - layers // n[1])
        elif kind == "taper":
            same = arch.ffn_widths != () and text == _nearest_taper(arch, offered)
        elif kind == "shared":
            same = arch.n_kv_shared_layers == layers - -(-layers // n[0]) > 0
        else:
            same = kind != "full" and {"mla": arch.kv_rank, "loop": arch.n_loops}[kind] == n[0]
        if same:
            return text
    return "full"


def _nearest_taper(arch: Architecture, offered: Sequence[str]) -> str:
    """The taper whose ratio is nearest to that of the last width to the first, which rounding may have moved."""
    ratio = math.log(arch.ffn_widths[-1] / arch.ffn_widths[0])
    tapers = [text for text in offered if parse_mixer(text).kind == "taper"]
    return min(tapers, key=lambda text: abs(math.log(parse_mixer(text).numbers[0]) - ratio))


def family_axes(
    names: Sequence[str], experts: Sequence[ExpertsValue]
) -> tuple[tuple[ExpertsValue, ...], tuple[str, ...]]:
    """Values of the axes experts and mixer for the families asked for; the space is their product (mixtures of hybrids, too).

    Args:
        names: of `FAMILIES`. experts: what the space offers to "moe".

    Raises:
        SpecError: an unknown family, or experts asked of a space that has none.

    Example:
        >>> family_axes(["dense", "recurrent"], [])
        (((0, 0),), ('full', 'mamba2:0', 'mlstm:0'))
    """
    if not names:
        raise SpecError(f"no family given; known: {', '.join(FAMILIES)}")
    for name in names:
        if name not in FAMILIES:
            close = difflib.get_close_matches(name, FAMILIES, n=1)
            meant = f"did you mean '{close[0]}'? " if close else ""
            raise SpecError(f"unknown family '{name}'; {meant}known: {', '.join(FAMILIES)}")
    pairs: list[ExpertsValue] = [(0, 0)] if set(names) - {"moe"} else []
    if "moe" in names:
        many = [pair for pair in experts if pair[0]]
        if not many:
            raise SpecError("family 'moe': this space has no experts; take --space default or give it an axis experts")
        pairs += many
    return tuple(pairs), tuple(dict.fromkeys(m for name in names for m in FAMILIES[name]))
