"""The predictors that compete for a question, and the choice of the law that is their mean function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.isotonic import IsotonicRegression
from sklearn.utils.validation import check_is_fitted

from codesign.errors import SpecError, UnknownNameError
from codesign.predictors.columns import law_inputs
from codesign.predictors.conformal import group_folds, largest_group_masks
from codesign.predictors.law_regressor import LawRegressor
from codesign.predictors.law_terms import MIXTURES, build_law, median_forms
from codesign.predictors.surrogate import Surrogate

__all__ = ["CANDIDATES", "BestLaw", "ParameterCount", "candidate", "possible_laws"]

Array = npt.NDArray[np.float64]

#: Names in the order of preference among equals: the simpler first.
CANDIDATES = (
    "law", "law + gp", "gp", "chinchilla* + gp", "additive** + gp", "law + trees", "trees", "law + mlp", "mlp",
)  # fmt: skip
_FORMS = (
    "chinchilla", "aspect", "additive", "chinchilla*", "aspect*", "additive*", "chinchilla**", "aspect**", "additive**",
    "depth_width*", "quadratic**", "moe", "moe*", "sparse", "sparse*",
)  # fmt: skip

#: Folds by which forms are compared, and the left-out error, in that of the best, up to which a form joins the median.
_FOLDS = 4
_SANE = 2.0


def possible_laws(X: Any) -> list[str]:
    """Law forms that the columns of a table allow and that its rows can tell apart.

    Depth and width must not be tied to N (a law of shape needs rows of two aspects), coupled data terms need varying tokens,
    the mixtures' laws varying experts and what they read.
    """
    x = law_inputs(X)
    varies = {name: float(np.ptp(v)) > 1e-9 for name, v in x.items()}
    if not varies.get("n", False) and not (varies.get("l", False) or varies.get("w", False)):
        return []
    shape = "l" in x and "w" in x and _independent(x["l"], x["w"])
    out = []
    for name in _FORMS:
        size = name.rstrip("*")
        if "*" in name and not varies.get("t", False):
            continue
        if name.endswith("*") and not name.endswith("**") and "n" not in x:  # its data term reads N
            continue
        if (size in ("aspect", "additive", "depth_width", "quadratic") or name.endswith("**")) and not shape:
            continue
        if size in ("chinchilla", "aspect", "depth_width", "moe") and not varies.get("n", False):
            continue
        if (size in MIXTURES) != varies.get("e", False):
            continue
        if size == "sparse" and not {"p", "a"} <= set(x):
            continue
        out.append(name)
    return out


def _independent(a: Array, b: Array) -> bool:
    """Whether two log inputs vary apart: at least four distinct pairs and a correlation below 0.98."""
    if np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9 or len({(round(u, 6), round(v, 6)) for u, v in zip(a, b, strict=True)}) < 4:
        return False
    return abs(float(np.corrcoef(a, b)[0, 1])) < 0.98


class ParameterCount(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is Any to mypy
    """The free baseline: the target as a falling function of the parameter count alone (isotonic regression in logs)."""

    def fit(self, X: Any, y: Any, groups: Any = None) -> ParameterCount:
        """Fit; raises SpecError where the table has no parameter count in every row."""
        x = law_inputs(X)
        if "n" not in x:
            raise SpecError("the table has no parameter count (params_nonembed_active, params_active or params_total)")
        self.model_ = IsotonicRegression(increasing=False, out_of_bounds="clip").fit(
            x["n"], np.log(np.asarray(y, dtype=float))
        )
        self.scatter_ = float(np.std(np.log(np.asarray(y, dtype=float)) - self.model_.predict(x["n"])))
        return self

    @staticmethod
    def size(X: Any) -> Array:
        """ln N of the rows."""
        return law_inputs(X)["n"]

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The target and, with ``return_std``, the scatter about the curve."""
        check_is_fitted(self, "model_")
        mean = np.exp(self.model_.predict(law_inputs(X)["n"]))
        return (mean, mean * max(self.scatter_, 1e-6)) if return_std else mean


class BestLaw(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is Any to mypy
    """The law form that errs least on left-out groups and on the largest groups, then fitted on all rows.

    The score of a form is the mean of its left-out error and its error on the largest groups (relative, mean absolute). Among forms within 5 %
    of the best the one with the fewest parameters is taken.

    Args:
        forms: Names to choose from; None: `possible_laws` of the table.
        size: Column by which "largest" is meant; None: left-out groups alone.
        draws: Of the final fit's bootstrap.
        random_state: Seed.

    Attributes:
        form_: The chosen name. scores_: name -> score.
        median_: ``median(...)`` of the forms whose left-out error is within twice the best; the chosen name where fewer than
            three forms are, and for mixtures, whose forms read different things: one that misses is no variant of one that fits.
    """

    def __init__(
        self, forms: Sequence[str] | None = None, size: str | None = None, draws: int = 12, random_state: int = 0
    ) -> None:
        self.forms = forms
        self.size = size
        self.draws = draws
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> BestLaw:
        """Choose and fit.

        Raises:
            SpecError: No law can be fitted to the table's columns.
        """
        target = np.asarray(y, dtype=float)
        names = np.arange(target.size) if groups is None else np.asarray(groups)
        forms = list(self.forms) if self.forms is not None else possible_laws(X)
        if not forms:
            raise SpecError("no law fits this table: it has no varying parameter count, depth or width")
        self.scores_: dict[str, float] = {}
        left: dict[str, float] = {}
        if len(forms) > 1:
            masks = group_folds(names, _FOLDS, self.random_state)
            largest: list[Any] = []
            if self.size is not None and self.size in X.columns:
                largest = largest_group_masks(np.asarray(X[self.size], dtype=float), names)
            for form in forms:
                law = LawRegressor(form, draws=0, starts=1, random_state=self.random_state)
                error = np.empty(target.size)
                for mask in masks:
                    error[mask] = self._error(law, X, target, mask)
                score = left[form] = float(error.mean())
                if largest:
                    score = 0.5 * (
                        score + float(np.mean([self._error(law, X, target, mask).mean() for mask in largest]))
                    )
                self.scores_[form] = score
            best = min(self.scores_.values())
            equal = [form for form in forms if self.scores_[form] <= 1.05 * best]
        else:
            equal = forms
        fits = {form: LawRegressor(form, draws=self.draws, random_state=self.random_state) for form in equal}
        counts = {form: len(_parameters(form)) for form in equal}
        self.form_ = min(equal, key=lambda form: (counts[form], self.scores_.get(form, 0.0)))
        self.law_ = fits[self.form_].fit(X, target, groups=names)
        sane = [form for form in forms if left.get(form, 0.0) <= _SANE * min(left.values(), default=0.0)]
        mixture = self.form_.rstrip("*") in MIXTURES
        self.median_ = f"median({', '.join(sane)})" if len(sane) >= 3 and not mixture else self.form_
        self.scatter_ = self.law_.scatter_
        return self

    @staticmethod
    def _error(law: LawRegressor, X: Any, target: Array, mask: Any) -> Array:
        predicted = clone(law).fit(X[~mask], target[~mask]).predict(X[mask])
        return np.asarray(np.abs(predicted / target[mask] - 1.0))

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """See `LawRegressor.predict`."""
        check_is_fitted(self, "law_")
        return self.law_.predict(X, return_std=return_std)


def _parameters(form: str) -> tuple[Any, ...]:
    return build_law(form).parameters


def candidate(
    name: str,
    forms: Sequence[str],
    law_form: str | None,
    *,
    columns: Sequence[str] | None = None,
    random_state: int = 0,
) -> Any:
    """An unfitted predictor by its name in `CANDIDATES`; None where the table has no law for it.

    Args:
        name: Such as ``law + gp``.
        forms: `possible_laws` of the table.
        law_form: The form that ``law`` stands for, or a median of forms.
        columns: Columns of the features; None: the known ones.
        random_state: Seed.

    Raises:
        UnknownNameError: No such predictor.
    """
    if name not in CANDIDATES:
        raise UnknownNameError.near("predictor", name, CANDIDATES, "See 'codesign predictors'.")
    mean, _, kind = name.rpartition(" + ")
    if name == "law":
        mean, kind = "law", ""
    form = law_form if mean == "law" else mean
    if mean and (form is None or not set(median_forms(form) or [form]) <= set(forms)):
        return None
    law = LawRegressor(form, starts=1, random_state=random_state) if form else None
    return Surrogate(law, _model(kind, random_state, alone=law is None) if kind else None, columns)


def _model(kind: str, random_state: int, alone: bool) -> Any:
    """An estimator on features: of the target (alone), or of what a law leaves over."""
    if kind == "gp":
        from codesign.predictors.gaussian_process import GaussianProcess

        return GaussianProcess(kernel="rbf", centred=alone, noise_floor=1e-4, hyper_rows=400, random_state=random_state)
    if kind == "trees":
        from codesign.predictors.trees import BoostedTrees

        return BoostedTrees(members=5, learning_rate=0.08, patience=40, random_state=random_state)
    from codesign.predictors.mlp import MLPEnsemble

    return MLPEnsemble(random_state=random_state)
