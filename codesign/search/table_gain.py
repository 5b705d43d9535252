"""Expected hypervolume gain of one more row whose costs are known and whose quality is uncertain: closed form.

With costs c (one or two, minimised) and a quality y ~ N(m, s^2) (minimised), let f(t) be the best quality found at costs at most t
and r the reference. A new row gains, at every point t of the cost plane with c <= t <= r, the part of [y, f(t)] that nobody held:

    gain(y) = integral over t >= c of (f(t) - y)^+ dt,   E[gain] = sum over cells k of |cell_k and t >= c| EI(f_k)
    EI(f) = s (z Phi(z) + phi(z)),   z = (f - m) / s

because f is constant on the cells of the grid that the costs of the frontier's rows make. One cost gives strips (Emmerich, Deutz
and Klinkenberg 2011, "Hypervolume-based expected improvement: monotonicity properties and exact computation", whose cells shrink
to strips where one objective is known).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr  # type: ignore[import-untyped,unused-ignore]

from codesign.errors import SpecError

__all__ = ["Cells", "cells_of", "expected_gain", "expected_improvement"]

Array = npt.NDArray[np.float64]


class Cells(NamedTuple):
    """The cost space cut where f steps.

    edges: for each cost its borders, ascending, from -inf to the reference. level: index into `levels` of each cell, of the shape
    (cells of cost 1,) or (cells of cost 1, cells of cost 2). levels: the values of f, (values,).
    """

    edges: tuple[Array, ...]
    level: npt.NDArray[np.int64]
    levels: Array


def cells_of(cost: Array, value: Array, reference: Array) -> Cells:
    """Cells of rows with cost (rows, costs) and quality value (rows,), up to the reference (costs + 1,), the quality's last.

    Raises:
        SpecError: more than two costs.

    Example:
        >>> cells = cells_of(np.array([[1.0], [2.0]]), np.array([3.0, 1.0]), np.array([4.0, 5.0]))
        >>> cells.edges[0].tolist(), cells.levels[cells.level].tolist()
        ([-inf, 1.0, 2.0, 4.0], [5.0, 3.0, 1.0])
    """
    count = cost.shape[1]
    if count not in (1, 2):
        raise SpecError(f"{count} costs; allowed: one or two beside the quality")
    inside = (cost < reference[:-1]).all(axis=1) & (value < reference[-1])
    cost, value = cost[inside], value[inside]
    starts = [np.unique(cost[:, k]) for k in range(count)]
    edges = tuple(np.concatenate([[-np.inf], start, [reference[k]]]) for k, start in enumerate(starts))
    best = np.full([len(start) + 1 for start in starts], reference[-1])
    place = tuple(np.searchsorted(starts[k], cost[:, k]) + 1 for k in range(count))
    np.minimum.at(best, place, value)
    for axis in range(count):
        best = np.minimum.accumulate(best, axis=axis)
    levels, level = np.unique(best, return_inverse=True)
    return Cells(edges, level.reshape(best.shape), levels)


def expected_improvement(level: Array, mean: Array, std: Array) -> Array:
    """E[(level - y)^+] for y ~ N(mean, std^2); std 0 is allowed. Shapes broadcast.

    Example:
        >>> round(float(expected_improvement(np.array(0.0), np.array(0.0), np.array(1.0))), 4)
        0.3989
    """
    safe = np.where(std > 0, std, 1.0)
    z = (level - mean) / safe
    soft = safe * (z * ndtr(z) + np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))
    return np.asarray(np.where(std > 0, np.maximum(soft, 0.0), np.maximum(level - mean, 0.0)))


def expected_gain(cells: Cells, cost: Array, mean: Array, std: Array) -> Array:
    """E[gain], (rows,), of rows with cost (rows, costs), mean and std (rows,) of the quality.

    Example:
        >>> cells = cells_of(np.array([[1.0]]), np.array([3.0]), np.array([4.0, 5.0]))
        >>> expected_gain(cells, np.array([[2.0], [0.5]]), np.array([2.0, 4.0]), np.zeros(2)).tolist()
        [2.0, 0.5]
    """
    improvement = expected_improvement(cells.levels[None, :], mean[:, None], std[:, None])
    widths = [
        np.clip(edges[None, 1:] - np.maximum(cost[:, k, None], edges[None, :-1]), 0.0, None)
        for k, edges in enumerate(cells.edges)
    ]
    if len(widths) == 1:
        return np.asarray((widths[0] * improvement[:, cells.level]).sum(axis=1))
    total = np.zeros(len(mean))
    for i in range(cells.level.shape[0]):
        total += widths[0][:, i] * (widths[1] * improvement[:, cells.level[i]]).sum(axis=1)
    return total
