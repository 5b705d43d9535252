"""From one data set to another: the source's prediction as the mean function of the target, and how many target runs that saves.

    ln y = a + b (ln source(x) - m) [+ model(features(x))]

m is the mean of ln source over the target's rows; a is free, b has the prior 1 +- 0.3 against an error of `noise` a run, so that two
runs move the level, ten the slope. Corpus, tokenizer and recipe move the level most; which model is better, least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau  # type: ignore[import-untyped,unused-ignore]
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted

from codesign.errors import SpecError
from codesign.predictors.features import FeatureMap

__all__ = ["Curve", "Transferred", "learning_curves", "runs_needed"]

Array = npt.NDArray[np.float64]


class Transferred(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is Any to mypy
    """See the module.

    Args:
        source: Fitted estimator of the source data set; read only.
        slope: Whether b is fitted; without, it is 1.
        model: Estimator on a numeric matrix for what the source leaves over, or None.
        columns: Columns that the model's features are made of; None: the known ones.
        noise: Relative error of one run. slope_std: Standard deviation of the slope's prior.

    Attributes:
        level_, slope_, centre_: a, b and m.
    """

    def __init__(
        self,
        source: Any,
        slope: bool = True,
        model: Any = None,
        columns: Sequence[str] | None = None,
        noise: float = 0.01,
        slope_std: float = 0.3,
    ) -> None:
        self.source = source
        self.slope = slope
        self.model = model
        self.columns = columns
        self.noise = noise
        self.slope_std = slope_std

    def fit(self, X: Any, y: Any, groups: Any = None) -> Transferred:
        """Fit level and slope, then the model on what is left.

        Raises:
            SpecError: A target is not positive and finite, or there is no row.
        """
        target = np.asarray(y, dtype=float)
        if target.size == 0 or not (np.isfinite(target).all() and (target > 0).all()):
            raise SpecError("targets must be positive and finite, and at least one; exclude diverged runs first")
        log_y, z = np.log(target), np.log(np.asarray(self.source.predict(X), dtype=float))
        self.centre_, self.level_ = float(z.mean()), float(log_y.mean())
        ridge = (self.noise / self.slope_std) ** 2
        z = z - self.centre_
        self.slope_ = float((z @ (log_y - self.level_) + ridge) / (z @ z + ridge)) if self.slope else 1.0
        self.model_ = None
        if self.model is not None:
            self.features_ = FeatureMap(self.columns).fit(X)
            left = log_y - self.level_ - self.slope_ * z
            self.model_ = clone(self.model).fit(self.features_.transform(X), left, groups=groups)
        return self

    def predict(self, X: Any) -> Array:
        """The target, (rows,)."""
        check_is_fitted(self, "level_")
        z = np.log(np.asarray(self.source.predict(X), dtype=float)) - self.centre_
        log_y = self.level_ + self.slope_ * z
        if self.model_ is not None:
            log_y = log_y + self.model_.predict(self.features_.transform(X))
        return np.asarray(np.exp(log_y))


@dataclass(frozen=True)
class Curve:
    """One way of predicting against the number of target runs.

    Attributes:
        name: Of the way. runs: How many target runs. relative: Median over the draws of the mean absolute relative error on the other groups.
        tau: Median over the draws of Kendall's tau there.
    """

    name: str
    runs: tuple[int, ...]
    relative: tuple[float, ...]
    tau: tuple[float, ...]


def learning_curves(
    X: Any,
    y: Array,
    groups: Any,
    ways: Mapping[str, Callable[[int], Any]],
    runs: Sequence[int],
    repeats: int = 5,
    seed: int = 0,
) -> list[Curve]:
    """Error of each way on the target rows of groups without a run among the drawn ones.

    Args:
        X, y, groups: The target data set.
        ways: name -> function of the number of runs that gives an unfitted estimator, or None where there are too few.
        runs: Numbers of target runs, at random. repeats: Draws; all ways see the same.
    """
    labels = np.asarray(groups)
    errors: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for count in runs:
        for repeat in range(repeats):
            rng = np.random.default_rng((seed, repeat))
            train = rng.permutation(len(y))[:count]
            test = ~np.isin(labels, labels[train])
            if test.sum() < 5:
                continue
            for name, make in ways.items():
                model = make(count)
                if model is None:
                    continue
                got = model.fit(X.iloc[train], y[train], groups=labels[train]).predict(X[test])
                error = float(np.mean(np.abs(got / y[test] - 1.0)))
                tau = float(kendalltau(got, y[test])[0]) if np.ptp(got) > 0 else 0.0
                errors.setdefault((name, count), []).append((error, tau))
    curves = []
    for name in ways:
        found = [(count, np.median(errors[name, count], axis=0)) for count in runs if (name, count) in errors]
        if found:
            curves.append(
                Curve(
                    name,
                    tuple(c for c, _ in found),
                    tuple(float(m[0]) for _, m in found),
                    tuple(float(m[1]) for _, m in found),
                )
            )
    return curves


def runs_needed(curve: Curve, relative: float | None = None, tau: float | None = None) -> int | None:
    """Fewest runs from which on the aim holds at every larger number too; None where it never does.

    Example:
        >>> curve = Curve("x", (2, 5, 10, 20), (0.03, 0.009, 0.012, 0.008), (0.5, 0.9, 0.95, 0.96))
        >>> runs_needed(curve, relative=0.01), runs_needed(curve, tau=0.9)
        (20, 5)
    """
    good = [
        (relative is None or e <= relative) and (tau is None or t >= tau)
        for e, t in zip(curve.relative, curve.tau, strict=True)
    ]
    needed = None
    for count, fine in zip(reversed(curve.runs), reversed(good), strict=True):
        if not fine:
            break
        needed = count
    return needed
