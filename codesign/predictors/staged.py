"""`StagedRegressor`: every predictor beside the others, judged on groups it did not see, and the one that earns its place.

Stages follow from the judgement, not from a row count: with few rows the law (its priors carry it) or a Gaussian process err least,
with many rows trees and ensembles may. For each predictor, on rows whose whole group was left out:

1. error: mean absolute relative error;
2. rank: Spearman's correlation must exceed that of the parameter count alone;
3. intervals: after the conformal correction, with the factor set on the *other* folds, the 90 % interval must hold 85 to 95 % of rows,
   or miss that by less than the standard error of so many rows (of 25 rows 24 are 96 %, which rules nothing out).

Rows like the data are predicted by the ``stack`` (`codesign.predictors.stack`): left-out groups weigh those that pass 2, and its own
intervals must pass 3. Where they do not, the single predictor with the least error of those that pass; among equals (within 2 %) the
simpler. Twenty groups seldom tell which of several good predictors is best; their mean is hurt by none that is not.

Rows far beyond the data (`conformal.FAR`) are predicted by the ``mean of laws``: predictors that follow a law, weighted by the inverse
square of their error on the largest groups left out (Bates and Granger 1969, The combination of forecasts). Trees, Gaussian processes
and networks alone never extrapolate. What both choices cost and gain on public sets: results/surrogates.md.
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
from codesign.predictors.conformal import FAR, NEAR, ConformalRegressor, Correction, group_folds
from codesign.predictors.stack import Stack, convex_weights

__all__ = ["COVERAGE_90", "MEAN_OF_LAWS", "Score", "StagedRegressor", "score"]

Array = npt.NDArray[np.float64]
MEAN_OF_LAWS = "mean of laws"
#: Allowed share of left-out rows inside the 90 % interval.
COVERAGE_90 = (0.85, 0.95)
#: Errors within this ratio are equal.
_EQUAL = 1.02
_RANKS = "ranks"  # how a reason begins that rules out a share in the stack as well
#: Groups below which nothing can be left out and judged.
LEAST_GROUPS = 4


@dataclass(frozen=True)
class Score:
    """A predictor on rows that it did not see.

    Attributes:
        name: As in `candidates.CANDIDATES`, ``stack``, ``mean of laws``, or ``parameters alone``.
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
        weights_: Of the stack; `shares_` of what is in use. unfit_: name -> why a predictor could not be fitted, such as too few rows.
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
        baseline = self._baseline(X, target, masks)
        self.scores_ = [self._judge(name, target, masks, labels, baseline) for name in self.members_]
        ranked = [s.name for s in self.scores_ if not s.reason.startswith(_RANKS)] or list(self.members_)
        laws = [n for n, m in self.members_.items() if self._extrapolates(n) and m.beyond_]
        joint = []
        if len(self.members_) > 1 and (self.names is None or "stack" in self.names):
            self._stack(ranked, target, masks, labels)
            joint.append("stack")
        if len(laws) > 1:
            self._mean_of_laws(laws, target, labels)
            joint.append(MEAN_OF_LAWS)
        self.scores_ += [self._judge(name, target, masks, labels, baseline) for name in joint]
        self._choose()
        self.shares_ = self.shares(self.chosen_)
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

    def _stack(self, names: Sequence[str], target: Array, masks: Sequence[Any], labels: Any) -> None:
        """Weights from left-out rows; the stack's own left-out rows use weights of the other folds."""
        logs, stds = self._left(names)
        left = np.empty((target.size, 2))
        for mask in masks:
            weights = convex_weights(logs[~mask], np.log(target[~mask]))
            left[mask] = Stack.combine(weights, logs[mask], stds[mask])
        self.weights_ = dict(zip(names, convex_weights(logs, np.log(target)).tolist(), strict=True))
        self._join("stack", self.weights_, left, target, labels)

    def _mean_of_laws(self, names: Sequence[str], target: Array, labels: Any) -> None:
        """Weights from the largest groups left out. Each split of these is judged with weights of other rows: those of the other
        splits that are not in it, equal ones where there is none (the largest fifth is among the largest third).
        """
        splits = [self.members_[n].beyond_ for n in names]  # members, splits
        errors = np.full((len(names), len(splits[0]), target.size), np.nan)
        for i, member in enumerate(splits):
            for k, (mask, mean, *_) in enumerate(member):
                errors[i, k, mask] = np.abs(mean / target[mask] - 1.0)
        weights = _inverse_square(np.nanmean(errors, axis=2))
        apart = []
        for k, (mask, *_) in enumerate(splits[0]):
            others = np.delete(errors, k, axis=1)[:, :, ~mask]
            known = np.isfinite(others).any(axis=2).all(axis=0)
            apart.append(
                _inverse_square(np.nanmean(others[:, known], axis=2))
                if known.any()
                else np.full(len(names), 1 / len(names))
            )
        left = Stack.combine(weights, *self._left(names))
        self._join(MEAN_OF_LAWS, dict(zip(names, weights.tolist(), strict=True)), left, target, labels, apart)

    def _left(self, names: Sequence[str]) -> tuple[Array, Array]:
        """Logs and relative standard deviations of left-out rows, each (rows, members)."""
        left = [self.members_[n].left_ for n in names]
        return np.log(np.stack([m[:, 0] for m in left], axis=1)), np.stack([m[:, 1] / m[:, 0] for m in left], axis=1)

    def _join(
        self, name: str, weights: dict[str, float], left: Array, target: Array, labels: Any, apart: Any = None
    ) -> None:
        correction = Correction(target, left[:, 0], left[:, 1], labels)
        self.members_[name] = Stack(self.members_, weights, left, correction, target, apart)

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
        slack = np.sqrt(0.9 * 0.1 / target.size)
        reason = ""
        if baseline is not None and np.isfinite(baseline.spearman) and not found.spearman > baseline.spearman:
            reason = f"{_RANKS} no better than the parameter count ({found.spearman:.3f}, {baseline.spearman:.3f})"
        elif not low - slack <= found.coverage90 <= high + slack:
            reason = f"90 % interval holds {found.coverage90:.0%}"
        return Score(**{**found.__dict__, "reason": reason})

    def _choose(self) -> None:
        inside = [s for s in self.scores_ if s.name != MEAN_OF_LAWS]
        passed = {s.name: s for s in inside if not s.reason}
        self.fallback_ = not passed
        # Nothing passes: the law if there is one, else the least error; the scores say why.
        laws = [s for s in inside if s.name == "law"]
        if "stack" in passed:
            self.chosen_ = "stack"
        elif passed:
            least = min(s.relative for s in passed.values())
            self.chosen_ = next(n for n in CANDIDATES if n in passed and passed[n].relative <= _EQUAL * least)
        else:
            self.chosen_ = (laws or [min(inside, key=lambda s: s.relative)])[0].name
        follow = [s for s in inside if self._extrapolates(s.name)]
        if MEAN_OF_LAWS in self.members_:
            self.chosen_beyond_: str | None = MEAN_OF_LAWS
        else:
            self.chosen_beyond_ = min(follow, key=lambda s: s.relative).name if follow else None

    def shares(self, name: str) -> dict[str, float]:
        """Of a member what it is made of: name -> share, together 1."""
        member = self.members_[name]
        return dict(member.weights) if isinstance(member, Stack) else {name: 1.0}

    def _extrapolates(self, name: str) -> bool:
        member = self.members_.get(name)
        return bool(getattr(getattr(member, "estimator", member), "extrapolates", False))

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The target, (rows,), and with ``return_std`` its corrected standard deviation."""
        check_is_fitted(self, "chosen_")
        mean, std = (np.array(v, dtype=float) for v in self.members_[self.chosen_].predict(X, return_std=True))
        far = self.far(X)
        if far.any() and self.chosen_beyond_ is not None:
            mean[far], std[far] = self.members_[self.chosen_beyond_].predict(X[far], return_std=True)
        return (mean, std) if return_std else mean

    def interval(self, X: Any, level: float = 0.9) -> tuple[Array, Array]:
        """Interval of a level in `conformal.LEVELS`: lower and upper end, each (rows,)."""
        check_is_fitted(self, "chosen_")
        low, high = (np.array(v, dtype=float) for v in self.members_[self.chosen_].interval(X, level))
        far = self.far(X)
        if far.any() and self.chosen_beyond_ is not None:
            low[far], high[far] = self.members_[self.chosen_beyond_].interval(X[far], level)
        return low, high

    def outside(self, X: Any) -> Any:
        """Which rows lie beyond the box of the data, (rows,)."""
        return self._overshoot(X) > NEAR

    def far(self, X: Any) -> Any:
        """Which rows lie so far beyond that `chosen_beyond_` predicts them, (rows,)."""
        return self._overshoot(X) > FAR

    def _overshoot(self, X: Any) -> Array:
        check_is_fitted(self, "chosen_")
        return np.asarray(next(iter(self.members_.values())).overshoot(X))


def _inverse_square(errors: Array) -> Array:
    """Weights of members, (members,), from their errors on splits, (members, splits)."""
    weights = np.maximum(errors.mean(axis=1), 1e-6) ** -2.0
    return np.asarray(weights / weights.sum())
