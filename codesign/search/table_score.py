"""How good a set of asked rows is, where the whole table is known: normalised hypervolume regret.

    regret = 1 - HV(rows asked) / HV(true front)

Objectives are scaled so that the true front spans 0 to 1 in each, and the reference is 1.1 in each: it is 10 % of the front's range beyond
the front's worst values, as is usual for benchmarks with a known front (Ishibuchi et al. 2018, "How to specify a reference point in
hypervolume calculation"). Scaled by all rows instead, or from the worst row, failed models fill most of the volume and every method
looks good.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError
from codesign.search.front import Front, hypervolume
from codesign.search.table import CandidateTable

__all__ = ["TrueFront", "front_of", "objectives_of"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
_MARGIN = 1.1


def objectives_of(table: CandidateTable, value: Array) -> Array:
    """Costs, then the quality, all minimised, (rows, costs + 1)."""
    return np.concatenate([table.cost, value[:, None]], axis=1)


def front_of(table: CandidateTable, value: Array, rows: Index) -> Index:
    """Which of the rows (indices) are the frontier, by first cost; rows that do not count (`CandidateTable.allowed`) are not."""
    rows = np.asarray(rows, dtype=np.int64)
    rows = np.sort(rows[table.allowed(value[rows])])
    front = Front(table.cost.shape[1] + 1)
    front.add(objectives_of(table, value)[rows], rows)
    return front.index[np.lexsort((front.index, table.cost[front.index, 0]))]


class TrueFront:
    """The frontier of a table whose quality is known in every row.

    Raises:
        SpecError: no row counts.

    Attributes:
        rows: Of the frontier.
    """

    def __init__(self, table: CandidateTable, value: Array) -> None:
        self.rows = front_of(table, value, np.arange(len(table)))
        if not len(self.rows):
            raise SpecError(
                f"'{table.name}' has no row whose {table.quality.column} keeps the bounds; relax --min or --max"
            )
        self._allowed = table.allowed(value)
        points = objectives_of(table, value)
        low, high = points[self.rows].min(axis=0), points[self.rows].max(axis=0)
        self._points = (points - low) / np.where(high > low, high - low, 1.0)
        self._reference = np.full(points.shape[1], _MARGIN)
        self._whole = hypervolume(self._points[self.rows], self._reference)

    def regret(self, rows: Index) -> float:
        """Share of the true front's hypervolume that the rows (indices) miss, 0 to 1."""
        rows = np.asarray(rows, dtype=np.int64)
        return 1.0 - hypervolume(self._points[rows[self._allowed[rows]]], self._reference) / self._whole
