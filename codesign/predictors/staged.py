"""`StagedRegressor`: every predictor beside the others, judged on groups it did not see, and the one that earns its place.

Stages follow from the judgement, not from a row count: with few rows the law (its priors carry it) or a Gaussian process err least,
with many rows trees and ensembles may. For each predictor, on rows whose whole group was left out:

1. error: mean absolute relative error;
2. rank: Spearman's correlation must exceed that of the parameter count alone;
3. intervals: after the conformal correction, with the factor set on the *other* folds, the 90 % interval must hold 85 to 95 % of rows.

Of those that pass, the least error wins; among equals (within 2 %) the simpler. Rows beyond the data are predicted by the winner among
predictors that follow a law, judged on the largest groups left out (among equals, within 25 %, law + gp): trees, Gaussian
processes and networks alone never extrapolate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, spearmanr  # type: ignore[import-untyped,unused-ignore]
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from codesign.errors import SpecError
from codesign.predictors.candidates import CANDIDATES, BestLaw, ParameterCount, candidate, possible_laws
from codesign.predictors.conformal import NEAR, ConformalRegressor, Correction, group_folds
from codesign.predictors.stack import Stack, convex_weights

__all__ = ["COVERAGE_90", "Score", "StagedRegressor", "score"]

Array = npt.NDArray[np.float64]
#: Allowed share of left-out rows inside the 90 % interval.
COVERAGE_90 = (0.85, 0.95)
#: Errors within this ratio are equal; beyond the data two or three splits judge, which tell less.
_EQUAL, _EQUAL_BEYOND = 1.02, 1.25
#: Groups below which nothing can be left out and judged.
LEAST_GROUPS = 4


@dataclass(frozen=True)
class Score:
    """A predictor on rows that it did not see.

    Attributes:
        name: As in `candidates.CANDIDATES`, ``stack``, or ``parameters alone``.
        mae: Mean absolute error in units of the target. relative: Mean absolute relative error.
        tau, spearman: Rank correlations with the target.
        coverage80, coverage90: Share of rows inside the intervals.
        largest: Relative error on the largest groups left out (nan where there is no size).
        reason: Why it is not used; empty where it is eligible.
    """

    name: str
    mae: float
    relative: float
    tau: float
    spearman: float
    coverage80: float
    coverage90: float
    largest: float = float("nan")
    reason: str = ""


def score(name: str, target: Array, mean: Array, inside80: Any, inside90: Any, largest: float = float("nan")) -> Score:
    """A `Score` without a verdict; inside80 and inside90 say which rows their intervals hold."""
    error = np.abs(mean - target)
    constant = np.ptp(mean) == 0 or np.ptp(target) == 0
    return Score(
        name,
        float(error.mean()),
        float((error / target).mean()),
        float("nan") if constant else float(kendalltau(mean, target)[0]),
        float("nan") if constant else float(spearmanr(mean, target)[0]),
        float(np.mean(inside80)),
        float(np.mean(inside90)),
        largest,
    )


class StagedRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is Any to mypy
    """See the module.

    Args:
        names: Predictors that compete; None: all of `CANDIDATES` that the table allows.
        columns: Columns of the features; None: the known ones.
        size: Column by which "largest" is meant; None: no judgement of extrapolation.
        folds: Group folds.
        random_state: Seed of everything.

    Attributes:
        scores_: One `Score` a predictor, and one of the parameter count alone where the table has it.
        chosen_, chosen_beyond_: Names in use inside and beyond the data. members_: name -> fitted predictor with intervals.
        weights_: Of the stack. unfit_: name -> why a predictor could not be fitted, such as too few rows.
    """

    def __init__(
        self,
        names: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        size: str | None = None,
        folds: int = 5,
        random_state: int = 0,
    ) -> None:
        self.names = names
        self.columns = columns
        self.size = size
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> StagedRegressor:
        """Fit and judge all predictors.

        Raises:
            SpecError: Fewer than four groups, or an unknown name.
        """
        target = np.asarray(y, dtype=float)
        labels = np.arange(target.size) if groups is None else np.asarray(groups)
        count = np.unique(labels).size
        if count < LEAST_GROUPS:
            raise SpecError(
                f"{count} groups in {target.size} rows are too few to leave some out; at least {LEAST_GROUPS} groups are needed"
            )
        masks = group_folds(labels, self.folds, self.random_state)
        self.members_: dict[str, Any] = {}
        self.unfit_: dict[str, str] = {}
        for name, estimator in self._estimators(X, target, labels).items():
            wrapped = ConformalRegressor(estimator, self.folds, self.size, self.random_state)
            try:
                self.members_[name] = wrapped.fit(X, target, groups=labels)
            except SpecError as error:
                self.unfit_[name] = str(error)
        if not self.members_:
            raise SpecError("; ".join(dict.fromkeys(self.unfit_.values())))
        if len(self.members_) > 1 and (self.names is None or "stack" in self.names):
            self._stack(target, masks, labels)
        baseline = self._baseline(X, target, masks)
        self.scores_ = [self._judge(name, target, masks, labels, baseline) for name in self.members_]
        self._choose()
        if baseline is not None:
            self.scores_.append(baseline)
        return self

    def _estimators(self, X: Any, target: Array, labels: Any) -> dict[str, Any]:
        names = list(CANDIDATES) if self.names is None else [n for n in self.names if n != "stack"]
        forms = possible_laws(X)
        law_form = None
        if forms and any(name.startswith("law") for name in names):
            best = BestLaw(forms, self.size, draws=0, random_state=self.random_state).fit(X, target, groups=labels)
            law_form = best.median_
        self.law_form_ = law_form
        found = {}
        for name in names:
            made = candidate(name, forms, law_form, columns=self.columns, random_state=self.random_state)
            if made is not None:
                found[name] = made
        if not found:
            raise SpecError("none of the predictors fits this table: no law does, and no other was asked for")
        return found

    def _stack(self, target: Array, masks: Sequence[Any], labels: Any) -> None:
        """Weights from left-out rows; the stack's own left-out rows use weights of the other folds."""
        names = list(self.members_)
        logs = np.log(np.stack([self.members_[n].left_[:, 0] for n in names], axis=1))
        stds = np.stack([self.members_[n].left_[:, 1] / self.members_[n].left_[:, 0] for n in names], axis=1)
        left = np.empty((target.size, 2))
        for mask in masks:
            weights = convex_weights(logs[~mask], np.log(target[~mask]))
            left[mask] = Stack.combine(weights, logs[mask], stds[mask])
        self.weights_ = dict(zip(names, convex_weights(logs, np.log(target)).tolist(), strict=True))
        self.members_["stack"] = Stack(
            self.members_, self.weights_, left, Correction(target, left[:, 0], left[:, 1], labels), target
        )

    def _baseline(self, X: Any, target: Array, masks: Sequence[Any]) -> Score | None:
        try:
            left = np.empty((target.size, 2))
            for mask in masks:
                part = ParameterCount().fit(X[~mask], target[~mask])
                left[mask] = np.stack(part.predict(X[mask], return_std=True), axis=1)
            size = ParameterCount.size(X)
        except SpecError:
            return None
        found = score("parameters alone", target, left[:, 0], np.nan, np.nan)
        values = {**found.__dict__, "reason": "the free baseline"}
        # Its ranks are those of the count itself, over all rows: nothing is fitted.
        values["spearman"], values["tau"] = float(spearmanr(-size, target)[0]), float(kendalltau(-size, target)[0])
        return Score(**values)

    def _judge(self, name: str, target: Array, masks: Sequence[Any], labels: Any, baseline: Score | None) -> Score:
        member = self.members_[name]
        mean, std = member.left_.T
        error = np.abs(np.log(target / np.maximum(mean, 1e-12))) / np.maximum(std / mean, 1e-9)
        inside = np.empty((2, target.size), dtype=bool)
        for mask in masks:  # factors of the other folds
            other = Correction(target[~mask], mean[~mask], std[~mask], labels[~mask])
            inside[:, mask] = [error[mask] <= other.factors[0.8], error[mask] <= other.factors[0.9]]
        beyond = [np.abs(m / target[mask] - 1.0).mean() for mask, m, *_ in member.beyond_]
        found = score(name, target, mean, inside[0], inside[1], float(np.mean(beyond)) if beyond else float("nan"))
        low, high = COVERAGE_90
        reason = ""
        if baseline is not None and not found.spearman > baseline.spearman:
            reason = f"ranks no better than the parameter count ({found.spearman:.3f}, {baseline.spearman:.3f})"
        elif not low <= found.coverage90 <= high:
            reason = f"90 % interval holds {found.coverage90:.0%}"
        return Score(**{**found.__dict__, "reason": reason})

    def _choose(self) -> None:
        order = [*CANDIDATES, "stack"]
        # A Gaussian process on a law's residual keeps what it learned near the data and leaves the rest to the law.
        order_beyond = sorted(order, key=lambda name: (name != "law + gp", order.index(name)))

        def best(scores: list[Score], key: str, equal: float, preferred: list[str]) -> str:
            least = min(getattr(s, key) for s in scores)
            return min(
                (s for s in scores if getattr(s, key) <= equal * least), key=lambda s: preferred.index(s.name)
            ).name

        passed = [s for s in self.scores_ if not s.reason]
        self.fallback_ = not passed
        # Nothing passes: the law if there is one, else the least error; the scores say why.
        laws = [s for s in self.scores_ if s.name == "law"]
        self.chosen_ = (
            best(passed, "relative", _EQUAL, order)
            if passed
            else (laws or [min(self.scores_, key=lambda s: s.relative)])[0].name
        )
        beyond = [s for s in self.scores_ if self._extrapolates(s.name) and np.isfinite(s.largest)]
        self.chosen_beyond_ = best(beyond, "largest", _EQUAL_BEYOND, order_beyond) if beyond else None

    def _extrapolates(self, name: str) -> bool:
        member = self.members_.get(name)  # the parameter count is no member
        return bool(getattr(getattr(member, "estimator", member), "extrapolates", False))

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The target, (rows,), and with ``return_std`` its corrected standard deviation."""
        check_is_fitted(self, "chosen_")
        mean, std = (np.array(v, dtype=float) for v in self.members_[self.chosen_].predict(X, return_std=True))
        far = self.outside(X)
        if far.any() and self.chosen_beyond_ is not None:
            mean[far], std[far] = self.members_[self.chosen_beyond_].predict(X[far], return_std=True)
        return (mean, std) if return_std else mean

    def interval(self, X: Any, level: float = 0.9) -> tuple[Array, Array]:
        """Interval of a level in `conformal.LEVELS`: lower and upper end, each (rows,)."""
        check_is_fitted(self, "chosen_")
        low, high = (np.array(v, dtype=float) for v in self.members_[self.chosen_].interval(X, level))
        far = self.outside(X)
        if far.any() and self.chosen_beyond_ is not None:
            low[far], high[far] = self.members_[self.chosen_beyond_].interval(X[far], level)
        return low, high

    def outside(self, X: Any) -> Any:
        """Which rows lie beyond the box of the data, (rows,)."""
        check_is_fitted(self, "chosen_")
        return np.asarray(next(iter(self.members_.values())).overshoot(X) > NEAR)
