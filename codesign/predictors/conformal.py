"""Conformal correction: intervals that hold as often as they say, on whole groups that the fit did not see."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted

from codesign.errors import SpecError

__all__ = [
    "FAR",
    "LEVELS",
    "ConformalRegressor",
    "Correction",
    "beyond_masks",
    "check_level",
    "effective_count",
    "group_folds",
    "largest_group_masks",
]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
LEVELS = (0.5, 0.8, 0.9, 0.95)
#: Overshoot (log units) below which a row counts as inside the data.
NEAR = 0.05
#: Overshoot beyond which only predictors that follow a law predict, a factor 1.4. Set on random groups and on the largest groups of
#: the smaller parts of public sets (results/surrogates.md names what was set so).
FAR = 0.35


def group_folds(groups: Any, count: int, seed: int = 0) -> list[Mask]:
    """Masks of left-out rows; no group is split, folds are as even in rows as whole groups allow.

    Groups go by size, equal ones in random order, each to the fold with the fewest rows so far; fewer groups than `count`
    give that many folds.

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
    """Masks that leave out the groups of the largest mean size, all of one size (within 1 %) together where two groups
    of another stay.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    index = index.ravel()
    mean = np.bincount(index, np.asarray(size, dtype=float)) / np.bincount(index)
    order = np.argsort(mean, kind="stable")
    masks: list[Mask] = []
    for fraction in fractions:
        count = max(1, round(fraction * names.size))
        if names.size - count < 2:
            continue
        out = mean >= 0.99 * mean[order[-count]]
        if names.size - out.sum() < 2:  # all of one size: the last in order
            out = np.isin(np.arange(names.size), order[-count:])
        mask = out[index]
        if not any((mask == other).all() for other in masks):
            masks.append(mask)
    return masks


def beyond_masks(X: Any, size: str, groups: Any) -> list[Mask]:
    """Splits that ask for extrapolation: the largest groups out (see `largest_group_masks`), and, where tokens vary within groups, the
    quarter of rows with the most tokens out.
    """
    masks: list[Mask] = []
    if size in X.columns:
        masks += largest_group_masks(np.asarray(X[size], dtype=float), groups)
    if "tokens" in X.columns:
        tokens = np.asarray(X["tokens"], dtype=float)
        names, index = np.unique(np.asarray(groups), return_inverse=True)
        spread = [np.unique(tokens[index.ravel() == i]).size for i in range(names.size)]
        if np.isfinite(tokens).all() and np.median(spread) >= 4:
            masks.append(tokens > np.quantile(tokens, 0.75))
    return [mask for mask in masks if 0 < mask.sum() < mask.size]


def effective_count(values: Array, groups: Any) -> float:
    """Rows that independent rows would need to say as much, between the number of groups and the number of rows.

    Example:
        >>> effective_count(np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]), [0, 0, 1, 1, 2, 2])
        3.0
    """
    if groups is None:
        return float(values.size)
    names, index, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    rows, count = values.size, names.size
    if count == rows or count < 2:
        return float(rows)
    means = np.bincount(index.ravel(), values) / sizes
    within = float(((values - means[index.ravel()]) ** 2).sum()) / (rows - count)
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (count - 1)
    usual = (rows - float((sizes**2).sum()) / rows) / (count - 1)
    spread = between + (usual - 1.0) * within
    share = min(1.0, max(0.0, (between - within) / spread)) if spread > 0 else 0.0
    return rows / (1.0 + (rows / count - 1.0) * share)


class Correction:
    """Factors on a relative standard deviation, from left-out rows.

    The factor at a level is the ``level (1 + 1 / n)`` quantile of ``|ln y - ln mean| / (std / mean)`` over the left-out rows (CV+,
    arXiv 1905.02928, with ``ceil((n + 1) level) / n``), n their *effective* number: rows of one group err together, and ``n
    = rows / (1 + (rows a group - 1) r)`` with r the intra-group correlation of the ln scores (Kish 1965). Counting all rows,
    intervals of 90 % held 75 to 86 % of rows of shapes left out of Gemstones (20 shapes); counting groups, the interval would be the
    widest error seen.

    Args:
        target, mean, std: Of rows whose group was left out, (rows,). groups: Label of each row, (rows,); None: rows are independent.
    """

    def __init__(self, target: Array, mean: Array, std: Array, groups: Any = None) -> None:
        self.scores = np.abs(np.log(target / np.maximum(mean, 1e-12))) / np.maximum(std / mean, 1e-9)
        count = effective_count(np.log(np.maximum(self.scores, 1e-3)), groups)
        self.factors = {
            level: float(np.quantile(self.scores, min(1.0, level * (1.0 + 1.0 / count)))) for level in LEVELS
        }

    @property
    def scale(self) -> float:
        """Factor that makes ``mean +- 1.645 std`` the 90 % interval."""
        return self.factors[0.9] / normal_quantile(0.9)

    def drift(self, target: Array, mean: Array, std: Array, far: Array) -> float:
        """Relative standard deviation per log unit that 90 % of the rows beyond the data need; 0 where none is beyond."""
        error = np.log(target / np.maximum(mean, 1e-12)) / normal_quantile(0.9)
        lack = np.maximum(error**2 - (self.scale * std / mean) ** 2, 0.0)
        beyond = far > NEAR
        return float(np.quantile(np.sqrt(lack[beyond]) / far[beyond], 0.9)) if beyond.any() else 0.0


class ConformalRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is Any to mypy
    """An estimator with corrected intervals; see `Correction`.

    Beyond the box of the data the standard deviation gains a drift per log unit: the least that covers 90 % of the largest groups, and
    of the longest training, when these are left out.

    Args:
        estimator: With ``predict(X, return_std=True)``; where it has ``overshoot(X)``, that measures extrapolation.
        folds: Group folds.
        size: Name of the column by which "largest" is meant, or None for no drift.
        random_state: Seed of the folds.

    Attributes:
        left_: Mean and uncorrected std of each row when its group was left out, (rows, 2).
        beyond_: For each split that leaves out the largest groups: mask, mean, std, overshoot of its rows.
        correction_, drift_: What was learned from them.
    """

    def __init__(self, estimator: Any, folds: int = 5, size: str | None = None, random_state: int = 0) -> None:
        self.estimator = estimator
        self.folds = folds
        self.size = size
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> ConformalRegressor:
        """Fit on all rows; the correction from rows left out.

        Raises:
            SpecError: Fewer than two groups.
        """
        target = np.asarray(y, dtype=float)
        names = np.arange(target.size) if groups is None else np.asarray(groups)
        self.left_ = np.empty((target.size, 2))
        for mask in group_folds(names, self.folds, self.random_state):
            part = clone(self.estimator).fit(X[~mask], target[~mask], groups=names[~mask])
            self.left_[mask] = np.stack(part.predict(X[mask], return_std=True), axis=1)
        self.correction_ = Correction(target, self.left_[:, 0], self.left_[:, 1], names)
        self.beyond_: list[tuple[Mask, Array, Array, Array]] = []
        self.drift_ = 0.0
        if self.size is not None and hasattr(self.estimator, "overshoot"):
            for mask in beyond_masks(X, self.size, names):
                part = clone(self.estimator).fit(X[~mask], target[~mask], groups=names[~mask])
                mean, std = part.predict(X[mask], return_std=True)
                far = part.overshoot(X[mask])
                self.beyond_.append((mask, mean, std, far))
                self.drift_ = max(self.drift_, self.correction_.drift(target[mask], mean, std, far))
        self.estimator_ = clone(self.estimator).fit(X, target, groups=names)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The target; with ``return_std`` the corrected standard deviation: ``mean exp(+-1.645 std/mean)`` holds 90 %."""
        check_is_fitted(self, "estimator_")
        if not return_std:
            return self.estimator_.predict(X)
        mean, std = self.estimator_.predict(X, return_std=True)
        relative = np.sqrt((self.correction_.scale * std / mean) ** 2 + self._far(X) ** 2)
        return mean, mean * relative

    def interval(self, X: Any, level: float = 0.9) -> tuple[Array, Array]:
        """Lower and upper end of the interval of a level in `LEVELS`, each (rows,).

        Raises:
            SpecError: Another level.
        """
        check_is_fitted(self, "estimator_")
        check_level(level)
        mean, std = self.estimator_.predict(X, return_std=True)
        own = self.correction_.factors[level] * std / mean
        half = np.sqrt(own**2 + (normal_quantile(level) * self._far(X)) ** 2)
        return mean * np.exp(-half), mean * np.exp(half)

    def overshoot(self, X: Any) -> Array:
        """See `FeatureMap.overshoot`; zero where the estimator has none."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.overshoot(X) if hasattr(self.estimator_, "overshoot") else np.zeros(len(X))

    def _far(self, X: Any) -> Array:
        return self.drift_ * self.overshoot(X) if self.drift_ else np.zeros(len(X))


def check_level(level: float) -> None:
    """Raises SpecError unless there is an interval of this level."""
    if level not in LEVELS:
        raise SpecError(f"no interval of level {level}; allowed: {', '.join(map(str, LEVELS))}")


def normal_quantile(level: float) -> float:
    """Standard normal quantile of a two-sided interval.

    Example:
        >>> round(normal_quantile(0.9), 3)
        1.645
    """
    return NormalDist().inv_cdf(0.5 + level / 2)
