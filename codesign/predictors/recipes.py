"""Which learning rate and batch an architecture wants: advice from a joint model of shape and recipe, with intervals.

The advice is the least predicted loss on a fine grid inside the recipes of the table. Its interval comes from cells (one shape
at one number of tokens) that were left out: the factor that holds 90 % of the distances between the advice and the best run of the
cell's own sweep, which is itself known to a grid step only.

Published formula beside it: Step Law, arXiv 2503.04715, ``lr = 1.79 N^-0.713 D^0.307``, ``batch = 0.58 D^0.571`` tokens, N without
embeddings (fitted there on the runs of steplaw_dense.csv and more).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone

from codesign.errors import SpecError
from codesign.predictors.columns import number
from codesign.predictors.conformal import group_folds
from codesign.predictors.loss_table import LossTable, group_of

__all__ = ["Advice", "RecipeAdvisor", "cells_of", "regret", "step_law"]

Array = npt.NDArray[np.float64]
_GRID = (49, 33)
_LEVEL = 0.9


def step_law(params: Any, tokens: Any) -> tuple[Any, Any]:
    """Learning rate and batch (tokens) of Step Law; of a mixture give all its parameters: with the active ones the learning rate is
    several times too high on the published sweeps of mixtures (results/questions.md).

    Example:
        >>> lr, batch = step_law(1e9, 1e11)
        >>> f"{lr:.2e} {batch:.3g}"
        '1.63e-03 1.11e+06'
    """
    n, d = np.asarray(params, dtype=float), np.asarray(tokens, dtype=float)
    return 1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571


def cells_of(table: LossTable) -> Any:
    """A number a row, equal where only the recipe differs: one sweep, (rows,)."""
    return group_of(
        table.frame, [*table.group_columns, *(c for c in ("tokens", "seq_len") if c in table.frame.columns)]
    )


@dataclass(frozen=True)
class Advice:
    """Recommended recipe of one row, each with a 90 % interval (None where no cells were left out), and the predicted loss."""

    lr: float
    batch_tokens: float
    loss: float
    lr_90: tuple[float, float] | None
    batch_90: tuple[float, float] | None


class RecipeAdvisor:
    """See the module.

    Args:
        model: Estimator with ``fit(X, y, groups)`` and ``predict(X)`` on tables, such as a `Surrogate`.
        folds: Parts into which the cells are split to be left out.
        progress: Called with (done, all) parts.
    """

    def __init__(self, model: Any, folds: int = 10, progress: Callable[[int, int], None] | None = None) -> None:
        self.model = model
        self.folds = folds
        self.progress = progress

    def fit(self, table: LossTable, intervals: bool = True) -> RecipeAdvisor:
        """Fit on all rows; intervals from cells left out, a tenth of them at a time.

        Raises:
            SpecError: The table does not vary learning rate and batch, or has fewer than four cells.
        """
        for name in ("lr", "batch_tokens"):
            values = number(table.frame, name)
            if values is None or np.unique(values).size < 3:
                raise SpecError(
                    f"'{table.name}' cannot advise a recipe: column '{name}' must hold at least 3 values, one in every row"
                )
        cells = cells_of(table)
        names = np.unique(cells)
        if names.size < 4:
            raise SpecError(
                f"'{table.name}' has {names.size} cells (a shape at a number of tokens); at least 4 are needed for advice"
            )
        self.lr_, self.batch_ = (
            np.geomspace(table.frame[name].min(), table.frame[name].max(), count)
            for name, count in zip(("lr", "batch_tokens"), _GRID, strict=True)
        )
        self.table_, self.cells_ = table, cells
        self.left_: dict[int, tuple[float, float]] = {}
        if intervals:
            parts = group_folds(cells, self.folds, 0)
            for done, mask in enumerate(parts):
                part = table.take(~mask)
                model = clone(self.model).fit(part.frame, part.y, groups=part.groups)
                for name in np.unique(cells[mask]).tolist():
                    self.left_[name] = self._best(model, table.take(cells == name).frame.iloc[[0]])[:2]
                if self.progress is not None:
                    self.progress(done + 1, len(parts))
        self.model_ = clone(self.model).fit(table.frame, table.y, groups=table.groups)
        return self

    def advise(self, row: Any) -> Advice:
        """Advice for one row: a frame with the columns of the table, its recipe ignored."""
        lr, batch, loss = self._best(self.model_, row)
        spans = self._spans()
        if spans is None:
            return Advice(lr, batch, loss, None, None)
        return Advice(lr, batch, loss, (lr / spans[0], lr * spans[0]), (batch / spans[1], batch * spans[1]))

    def left_out_regret(self) -> Array:
        """Loss that the advice costs in each left-out cell, see `regret`, (cells,)."""
        return np.array([regret(self.table_.take(self.cells_ == name), *advice) for name, advice in self.left_.items()])

    def _spans(self) -> tuple[float, float] | None:
        if not self.left_:
            return None
        away = []
        for name, advice in self.left_.items():
            cell = self.table_.take(self.cells_ == name)
            best = cell.frame.iloc[int(np.argmin(cell.y))]
            away.append([abs(np.log(best[c] / a)) for c, a in zip(("lr", "batch_tokens"), advice, strict=True)])
        level = min(1.0, np.ceil((len(away) + 1) * _LEVEL) / len(away))
        return tuple(np.exp(np.quantile(np.array(away), level, axis=0)).tolist())

    def _best(self, model: Any, row: Any) -> tuple[float, float, float]:
        lr, batch = (grid.ravel() for grid in np.meshgrid(self.lr_, self.batch_, indexing="ij"))
        frame = row.iloc[np.zeros(lr.size, dtype=int)].reset_index(drop=True).copy()
        frame["lr"], frame["batch_tokens"] = lr, batch
        loss = np.asarray(model.predict(frame))
        best = int(np.argmin(loss))
        return float(lr[best]), float(batch[best]), float(loss[best])


def regret(cell: LossTable, lr: float, batch: float) -> float:
    """Loss of the run nearest the recipe (in steps of the sweep) less that of the cell's best run."""
    steps = []
    for name, value in (("lr", lr), ("batch_tokens", batch)):
        logs = np.log(np.asarray(cell.frame[name], dtype=float))
        own = np.unique(logs)
        step = float(np.median(np.diff(own))) if own.size > 1 else 1.0
        steps.append((logs - np.log(value)) / step)
    return float(cell.y[int(np.argmin(np.hypot(*steps)))] - cell.y.min())
