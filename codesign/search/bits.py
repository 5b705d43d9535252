"""Bits for each part of a model: the exact trade between bytes and the sum of the parts' losses.

A part (a layer's mixer, its FFN, the output head) takes one of several bit widths; bytes and losses add up over the parts. The
curve of all choices that no other dominates is a multiple-choice knapsack, solved by joining the parts one by one and dropping
what is dominated (Nemhauser and Ullmann 1969).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InfeasibleError, SpecError

__all__ = ["BitsCurve", "allocate", "monotone"]

Array = NDArray[np.float64]

#: More points than these are thinned to one for each equal step of the bytes: a step of 1 / 20,000 of their range.
_MOST = 20_000


@dataclass(frozen=True, slots=True)
class BitsCurve:
    """Choices that no other dominates, bytes ascending and losses descending.

    bytes, loss: (points,); choices: column of each part, (points, parts).
    """

    bytes: Array
    loss: Array
    choices: NDArray[np.int16]

    def within(self, budget: float) -> int:
        """The point of least loss that takes at most `budget` bytes.

        Raises:
            InfeasibleError: none does.
        """
        place = int(np.searchsorted(self.bytes, budget * (1 + 1e-12), side="right")) - 1
        if place < 0:
            raise InfeasibleError(f"no choice of bits takes {budget:.4g} bytes; the least is {self.bytes[0]:.4g}")
        return place


def monotone(loss: Array) -> Array:
    """Measured losses (parts, choices), choices from few bits to many, freed of noise: none below 0, none that rises with the bits.

    Example:
        >>> monotone(np.array([[0.5, 0.1, 0.2, -0.1]])).tolist()
        [[0.5, 0.2, 0.2, 0.0]]
    """
    return np.maximum.accumulate(np.maximum(loss, 0.0)[:, ::-1], axis=1)[:, ::-1]


def allocate(sizes: Array, loss: Array) -> BitsCurve:
    """The whole curve.

    Args:
        sizes, loss: bytes and loss of each part at each choice, (parts, choices).

    Raises:
        SpecError: shapes that differ, no parts, or values that are not finite.

    Example:
        >>> curve = allocate(np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[0.9, 0.0], [0.1, 0.0]]))
        >>> curve.bytes.tolist(), curve.loss.tolist(), curve.choices.tolist()
        ([2.0, 3.0, 4.0], [1.0, 0.1, 0.0], [[0, 0], [1, 0], [1, 1]])
    """
    sizes, loss = np.asarray(sizes, dtype=float), np.asarray(loss, dtype=float)
    if sizes.ndim != 2 or sizes.shape != loss.shape or not sizes.size:
        raise SpecError(f"sizes {sizes.shape} and losses {loss.shape} must both be (parts, choices)")
    if not (np.isfinite(sizes).all() and np.isfinite(loss).all()):
        raise SpecError("sizes and losses of the choices must be finite")
    total, lost = np.zeros(1), np.zeros(1)
    chosen = np.zeros((1, 0), dtype=np.int16)
    for part_sizes, part_loss in zip(sizes, loss, strict=True):
        more = (total[:, None] + part_sizes).reshape(-1)
        worse = (lost[:, None] + part_loss).reshape(-1)
        kept = _front(more, worse)
        before, choice = np.divmod(kept, len(part_sizes))
        total, lost = more[kept], worse[kept]
        chosen = np.hstack([chosen[before], choice[:, None].astype(np.int16)])
    return BitsCurve(bytes=total, loss=lost, choices=chosen)


def _front(more: Array, worse: Array) -> NDArray[np.intp]:
    """Places of the points that no other dominates, bytes ascending; thinned to `_MOST` and the last."""
    order = np.lexsort((worse, more))
    best = np.minimum.accumulate(worse[order])
    kept = order[np.concatenate([[True], best[1:] < best[:-1]])]
    if len(kept) > _MOST:
        low, high = more[kept[0]], more[kept[-1]]
        step = np.minimum(((more[kept] - low) / (high - low) * _MOST).astype(np.int64), _MOST - 1)
        last = np.flatnonzero(np.diff(step, append=step[-1] + 1))  # the least loss of each step
        kept = kept[np.union1d(last, [0])]
    found: NDArray[np.intp] = kept
    return found
