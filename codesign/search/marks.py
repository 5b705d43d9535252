"""Where to be careful with a design: beyond the range of the law's or the calibration's data, priors that act, losses without a price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from codesign.architecture import ArchitectureLike, mixer_kind
from codesign.predictors.priors import unpriced
from codesign.predictors.quantisation import quantisation_penalty, unpriced_bits
from codesign.roofline.rates import Rates
from codesign.serving import Serving
from codesign.workload import Precision

__all__ = ["Spans", "design_marks", "latency_flags", "unlike", "unlike_level", "unlike_levels", "unpriced_serving"]

#: Active parameters (low, high) and whether mixtures were measured: "here" (device, engine and precision) and "anywhere".
Spans = Mapping[str, tuple[float, float, bool]]


def latency_flags(arch: ArchitectureLike, spans: Spans, rates: Rates) -> dict[str, Any]:
    """Masks of designs unlike what was measured.

    "size" and "experts": smaller or larger, in active parameters, than any model measured anywhere, and experts where none were;
    "size_here" and "experts_here": on this device, engine and precision; "mixer_here": no model with its mixers was; "mixer": nor may the
    device's own calibration be extrapolated to them.
    """
    flags: dict[str, Any] = {}
    for where, suffix in (("anywhere", ""), ("here", "_here")):
        if where in spans:
            low, high, mixtures = spans[where]
            active = arch.params_active
            flags["size" + suffix] = (active < low) | (active > high)
            if not mixtures:
                flags["experts" + suffix] = np.asarray(arch.n_experts) > 0
    if (kind := mixer_kind(arch)) != "attention":
        measured = rates.decode.terms
        other = np.asarray(arch.n_recurrent_layers) + np.asarray(arch.kv_rank) > 0
        if measured is None or kind not in measured.mixers:
            flags["mixer_here"] = other
            if measured is not None:
                flags["mixer"] = other
    return flags


def unlike_level(flag: str) -> int:
    """How unlike the measured models a design with this flag is: 1, of another size; 2, of a kind (mixer, experts) that was not measured.

    Example:
        >>> [unlike_level(flag) for flag in ("size_here", "mixer_here", "experts")]
        [1, 2, 2]
    """
    return 2 if flag.startswith(("mixer", "experts")) else 1


def unlike_levels(flags: Mapping[str, Any]) -> Any:
    """The highest `unlike_level` of each design, 0 where it is like the measured ones, from `latency_flags`."""
    found: Any = 0
    for name, flag in flags.items():
        found = np.maximum(found, np.where(flag, unlike_level(name), 0))
    return found


def unlike(marks: Iterable[str]) -> int:
    """The highest level of a design's marks; 0: like the measured ones."""
    flags = [mark.removeprefix("latency:") for mark in marks if mark.startswith("latency:")]
    return max(map(unlike_level, flags), default=0)


def unpriced_serving(serving: Serving, arch: ArchitectureLike) -> dict[str, Any]:
    """Serving options whose cost in loss no data at hand tells, by name: masks of the designs that they change."""
    attends = np.asarray(arch.n_attention_layers) > 0
    options = {"kv_budget": serving.kv_budget_tokens, "sparse": serving.sparse_tokens}
    return {name: attends for name, tokens in options.items() if tokens}


def design_marks(
    arch: ArchitectureLike, shape: tuple[int, ...], *, law: Any, tokens: float, precision: Precision, serving: Serving, priced: bool,
    latency: Mapping[str, Any],
) -> list[tuple[str, ...]]:  # fmt: skip
    """Marks of each design of a batch of this shape (one dimension).

    Args:
        law, tokens: what its loss is predicted by. priced: whether quantised weights pay a price in loss. latency: `latency_flags`.
    """
    flags = {f"outside:{k}": v for k, v in law.outside(arch, tokens).items() if k != "vocab"}
    flags |= {f"prior:{name}": flag for name, flag in law.priors(arch).items()}
    if priced:
        price = quantisation_penalty(arch.params_active_nonembedding, tokens, precision)[0]
        flags["prior:quantisation"] = np.asarray(price) > 0
    flags |= {f"unpriced:{name}": flag for name, flag in unpriced(arch).items()}
    flags |= {f"unpriced:{name}": np.True_ for name in unpriced_bits(precision)}
    flags |= {f"unpriced:{name}": flag for name, flag in unpriced_serving(serving, arch).items()}
    flags |= {f"latency:{name}": flag for name, flag in latency.items()}
    table = {name: np.broadcast_to(flag, shape) for name, flag in flags.items()}
    return [tuple(name for name, column in table.items() if column[i]) for i in range(shape[0])]
