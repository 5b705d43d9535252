"""A running non-dominated set; dominance and hypervolume come from moocore."""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray

__all__ = ["Front", "hypervolume"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def _keep_two(points: Array, index: Index) -> NDArray[np.int64]:
    """Positions of the non-dominated points of two objectives, one (the lowest index) of each set of equals."""
    order = np.lexsort((index, points[:, 1], points[:, 0]))
    second = points[order, 1]
    best = np.minimum.accumulate(second)
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = second[1:] < best[:-1]
    return order[keep]


class Front:
    """The non-dominated points seen so far; independent of the order in which they come.

    Of points with equal objectives the one with the lowest index stays.
    """

    def __init__(self, n_objectives: int) -> None:
        self.points: Array = np.empty((0, n_objectives))
        self.index: Index = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.index)

    def add(self, points: Array, index: Index) -> None:
        """Merge points (n, k), all objectives minimised, with their indices (n,)."""
        if not len(index):
            return
        points = np.concatenate([self.points, points])
        index = np.concatenate([self.index, index])
        if points.shape[1] == 2:
            keep = _keep_two(points, index)
        else:
            order = np.argsort(index, kind="stable")
            mask = moocore.is_nondominated(points[order], keep_weakly=False)
            keep = order[mask]
        keep = keep[np.argsort(index[keep], kind="stable")]
        unique = np.concatenate([[True], index[keep][1:] != index[keep][:-1]])
        self.points, self.index = points[keep][unique], index[keep][unique]


def hypervolume(points: Array, reference: Array) -> float:
    """Volume dominated by points (n, k) up to a reference point (k,), all objectives minimised."""
    inside = points[(points < reference).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0
