"""What the rows of a loss surrogate span, as a design space for `codesign search --space`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w

__all__ = ["space_of", "space_text"]

_RATIOS = (0.5, 0.75, 1.0, 1.5, 2.0, 2.75, 3.25, 4.0, 4.5, 5.5, 6.5, 8.0)
_WIDTHS = 48  # at most, in even steps


def space_of(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Axes within the rows' ranges (heads and KV heads as the rows have them), or None where the rows do not tell shapes.

    Depths are the rows' own and those between; widths are multiples of the head sizes.
    """
    ranges, values = data["ranges"], data["values"]
    if not {"n_layers", "d_model", "ffn_ratio"} <= set(ranges) or data["priors"]["vocab"]["data"] is None:
        return None
    low, high = (int(edge) for edge in ranges["n_layers"])
    depths = (
        list(range(low, high + 1))
        if high - low < 32
        else sorted({*map(int, values["n_layers"]), *range(low, high + 1, 2)})
    )
    heads = [int(v) for v in values.get("head_dim", [])] or [64, 128]
    step = min(heads)
    narrow, wide = (int(edge) for edge in ranges["d_model"])
    first = -(-narrow // step) * step
    stride = step * max(1, -(-(wide - first) // (step * _WIDTHS)))
    bounds = ranges["ffn_ratio"]
    ratios = [r for r in _RATIOS if bounds[0] * 0.999 <= r <= bounds[1] * 1.001] or [round(sum(bounds) / 2, 3)]
    experts = ["dense"] if ranges["experts"][1] <= 1 or data["ffn_matrices"] == 2 else None
    axes: dict[str, Any] = {
        "vocab_size": int(data["priors"]["vocab"]["data"]), "d_head": heads, "n_kv_heads": [int(v) for v in values.get("n_kv_heads", [])] or [1, 2, 4, 8],
        "n_layers": depths, "d_model": list(range(first, wide + 1, stride)), "ffn_ratio": ratios,
    }  # fmt: skip
    if experts is not None:
        axes["experts"] = experts
    if not axes["d_model"]:
        return None
    return {"ff_multiple": min(step, 64), "ffn_gated": data["ffn_matrices"] == 3, "axes": axes}


def space_text(space: Mapping[str, Any], law: str) -> str:
    """The TOML file."""
    return f"# What the rows of {law} span; codesign fit wrote it, and it may be edited.\n" + tomli_w.dumps(dict(space))
