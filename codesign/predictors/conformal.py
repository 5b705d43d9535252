"""Conformal correction: intervals that hold as often as they say, on whole groups that the fit did not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted

from codesign.errors import SpecError

__all__ = ["ConformalRegressor", "coverage", "group_folds", "largest_group_masks"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
#: Standard normal quantile of a two-sided 90 % interval.
Z90 = 1.6448536269514722


def group_folds(groups: Any, count: int, seed: int = 0) -> list[Mask]:
    """Masks of left-out rows; no group is split, folds are as even in rows as whole groups allow.

    Groups go in random order, each to the fold with the fewest rows so far; fewer groups than `count` give that many folds.

    Raises:
        SpecError: Fewer than two groups.
    """
    names, index, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    index = index.ravel()
    if names.size < 2:
        raise SpecError(
            "all rows belong to one group, so none can be left out; give rows of at least two groups (shapes, sizes or sources)"
        )
    rng = np.random.default_rng(seed)
    folds = np.zeros(names.size, dtype=int)
    load = np.zeros(min(count, names.size))
    order = rng.permutation(names.size)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        folds[group] = int(np.argmin(load))
        load[folds[group]] += sizes[group]
    return [folds[index] == k for k in range(load.size)]


def largest_group_masks(size: Array, groups: Any, fractions: tuple[float, ...] = (0.2, 0.35)) -> list[Mask]:
    """Masks that leave out the groups of the largest mean size, at least two groups stay."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    index = index.ravel()
    mean = np.bincount(index, np.asarray(size, dtype=float)) / np.bincount(index)
    order = np.argsort(mean, kind="stable")
    masks: list[Mask] = []
    for fraction in fractions:
        count = max(1, round(fraction * names.size))
        if names.size - count < 2:
            continue
        mask = np.isin(index, order[-count:])
        if not any((mask == other).all() for other in masks):
            masks.append(mask)
    return masks


def coverage(error: Array, std: Array, factor: float) -> float:
    """Share of rows with ``|error| <= factor * std``."""
    return float((np.abs(error) <= factor * std).mean())


class ConformalRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is Any to mypy
    """Split-conformal intervals over whole groups (CV+, arXiv 1905.02928), with scores ``|y - mean| / std`` in logs.

    The factor at a level is the ``ceil((G + 1) level) / G`` quantile of the left-out scores, G groups: rows of one group err
    together, so it is the number of groups that the finite-sample correction counts. Beyond the box of the data the standard
    deviation gains a drift per log unit, the least that covers 90 % of the largest groups when these are left out.

    Args:
        estimator: With ``predict(X, return_std=True)``; where it has ``overshoot(X)``, that measures extrapolation.
        folds: Group folds.
        size: Name of the column by which "largest" is meant, or None for no drift.
        random_state: Seed of the folds.

    Attributes:
        left_: Mean and uncorrected std of each row when its group was left out: (rows, 2).
        factors_: Level -> factor on the std. drift_: per log unit, relative.
    """

    LEVELS = (0.5, 0.8, 0.9, 0.95)

    def __init__(self, estimator: Any, folds: int = 5, size: str | None = None, random_state: int = 0) -> None:
        self.estimator = estimator
        self.folds = folds
        self.size = size
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> ConformalRegressor:
        """Fit on all rows; factors and drift from rows left out.

        Raises:
            SpecError: Fewer than two groups.
        """
        target = np.asarray(y, dtype=float)
        names = np.arange(target.size) if groups is None else np.asarray(groups)
        self.left_ = np.empty((target.size, 2))
        for mask in group_folds(names, self.folds, self.random_state):
            part = clone(self.estimator).fit(X[~mask], target[~mask], groups=names[~mask])
            self.left_[mask] = np.stack(part.predict(X[mask], return_std=True), axis=1)
        mean, std = self.left_.T
        scores = np.abs(np.log(target / np.maximum(mean, 1e-12))) / np.maximum(std / mean, 1e-9)
        count = np.unique(names).size
        self.factors_ = {
            level: float(np.quantile(scores, min(1.0, np.ceil((count + 1) * level) / count))) for level in self.LEVELS
        }
        self.drift_ = self._drift(X, target, names)
        self.estimator_ = clone(self.estimator).fit(X, target, groups=names)
        return self

    def _drift(self, X: Any, target: Array, names: Any) -> float:
        self.beyond_: list[tuple[Mask, Array]] = []
        if self.size is None or self.size not in X.columns or not hasattr(self.estimator, "overshoot"):
            return 0.0
        missing, scale = [], self.factors_[0.9] / Z90
        for mask in largest_group_masks(np.asarray(X[self.size], dtype=float), names):
            part = clone(self.estimator).fit(X[~mask], target[~mask], groups=names[~mask])
            mean, std = part.predict(X[mask], return_std=True)
            self.beyond_.append((mask, mean))
            far = part.overshoot(X[mask])
            error = np.log(target[mask] / np.maximum(mean, 1e-12))
            lack = np.maximum((error / Z90) ** 2 - (scale * std / mean) ** 2, 0.0)
            near = far > 0.05
            missing.append(np.sqrt(lack[near]) / far[near])
        rows = np.concatenate(missing) if missing else np.zeros(0)
        return float(np.quantile(rows, 0.9)) if rows.size else 0.0

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The target; with ``return_std`` the corrected standard deviation: ``mean exp(+-1.645 std/mean)`` holds 90 %."""
        check_is_fitted(self, "estimator_")
        if not return_std:
            return self.estimator_.predict(X)
        mean, std = self.estimator_.predict(X, return_std=True)
        relative = np.sqrt((self.factors_[0.9] / Z90 * std / mean) ** 2 + self._far(X) ** 2)
        return mean, mean * relative

    def interval(self, X: Any, level: float = 0.9) -> tuple[Array, Array]:
        """Lower and upper end of the interval of a level in `LEVELS`, each (rows,).

        Raises:
            SpecError: Another level.
        """
        check_is_fitted(self, "estimator_")
        if level not in self.factors_:
            raise SpecError(f"no interval of level {level}; allowed: {', '.join(map(str, self.LEVELS))}")
        mean, std = self.estimator_.predict(X, return_std=True)
        factor = self.factors_[level]
        half = np.sqrt((factor * std / mean) ** 2 + (_quantile(level) * self._far(X)) ** 2)
        return mean * np.exp(-half), mean * np.exp(half)

    def overshoot(self, X: Any) -> Array:
        """See `Surrogate.overshoot`; zero where the estimator has none."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.overshoot(X) if hasattr(self.estimator_, "overshoot") else np.zeros(len(X))

    def _far(self, X: Any) -> Array:
        return self.drift_ * self.overshoot(X) if self.drift_ else np.zeros(len(X))


def _quantile(level: float) -> float:
    """Standard normal quantile of a two-sided interval."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + level / 2)
