"""Grids of numbers in little room: 16 bits a value on a logarithmic scale, as base64 text that the browser unpacks.

    q = round(65534 * ln(v / low) / ln(high / low)),  v' = low * (high / low)^(q / 65534)

A value comes back within (high / low)^(1 / 131068) - 1, less than 0.01 % where the grid spans a factor of 100,000. 65535 is
"no value". `static/regions.js` has the other half.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["pack", "pack_flags", "unpack"]

_TOP = 65534
_NONE = 65535


def pack(values: ArrayLike) -> dict[str, Any]:
    """Positive numbers of any shape, in C order: ``{"low", "high", "q"}``; what is not finite or not above zero has no value.

    Example:
        >>> packed = pack([1.0, 10.0, 100.0])
        >>> packed["low"], packed["high"], [round(float(v), 3) for v in unpack(packed)]
        (1.0, 100.0, [1.0, 10.0, 100.0])
    """
    flat = np.asarray(values, dtype=float).reshape(-1)
    there = np.isfinite(flat) & (flat > 0)
    if not there.any():
        return {"low": 1.0, "high": 1.0, "q": _text(np.full(flat.size, _NONE, np.uint16))}
    low, high = float(flat[there].min()), float(flat[there].max())
    span = np.log(high / low) or 1.0
    q = np.full(flat.size, _NONE, np.uint16)
    q[there] = np.clip(np.rint(_TOP * np.log(flat[there] / low) / span), 0, _TOP).astype(np.uint16)
    return {"low": low, "high": high, "q": _text(q)}


def _text(q: NDArray[np.uint16]) -> str:
    return base64.b64encode(q.astype("<u2").tobytes()).decode("ascii")


def unpack(packed: dict[str, Any]) -> NDArray[np.float64]:
    """The values of `pack`, flat; nan where there was none."""
    q = np.frombuffer(base64.b64decode(packed["q"]), "<u2").astype(float)
    values = packed["low"] * (packed["high"] / packed["low"]) ** (q / _TOP)
    return np.where(q == _NONE, np.nan, values)


def pack_flags(*masks: ArrayLike) -> str:
    """Up to eight masks of one shape as a byte a cell (the first mask is bit 0), base64.

    Example:
        >>> pack_flags([True, False], [True, True])
        'AwI='
    """
    total = sum(np.asarray(mask, dtype=np.uint8).reshape(-1) << bit for bit, mask in enumerate(masks))
    return base64.b64encode(np.asarray(total, dtype=np.uint8).tobytes()).decode("ascii")
