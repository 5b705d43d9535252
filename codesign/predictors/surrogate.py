"""`Surrogate`: a law as mean function and an estimator on what it leaves over; either alone as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils.validation import check_is_fitted

from codesign.errors import SpecError
from codesign.predictors.features import FeatureMap

__all__ = ["Surrogate"]

Array = npt.NDArray[np.float64]


class Surrogate(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is Any to mypy
    """``ln y = ln law(x) + model(features(x))``; without a law ``ln y = model``; without a model the law.

    The variance adds the model's and the spread of the law's parameters: where the model has no data its own variance grows
    to that of the residuals, and the law's goes on growing.

    Args:
        law: A `LawRegressor` or None.
        model: An estimator on a numeric matrix whose ``predict`` takes ``return_std``, or None.
        columns: Columns that the model's features are made of; None: those of `features.known_columns`.
    """

    def __init__(self, law: Any = None, model: Any = None, columns: Sequence[str] | None = None) -> None:
        self.law = law
        self.model = model
        self.columns = columns

    @property
    def extrapolates(self) -> bool:
        """Whether predictions beyond the data follow a law rather than the nearest rows."""
        return self.law is not None

    def fit(self, X: Any, y: Any, groups: Any = None) -> Surrogate:
        """Fit the law, then the model on the log residual.

        Raises:
            SpecError: See `LawRegressor.fit` and `FeatureMap.fit`.
        """
        if self.law is None and self.model is None:
            raise SpecError("a surrogate needs a law, a model, or both")
        target = np.asarray(y, dtype=float)
        if not (np.isfinite(target).all() and (target > 0).all()):
            raise SpecError("targets must be positive and finite; exclude diverged runs first")
        log_y = np.log(target)
        if self.law is not None:
            self.law_ = clone(self.law).fit(X, target, groups=groups)
            log_y = log_y - np.log(self.law_.predict(X))
        self.features_ = FeatureMap(self.columns).fit(X)
        if self.model is not None:
            self.model_ = clone(self.model).fit(self.features_.transform(X), log_y, groups=groups)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The target, (rows,); with ``return_std`` also its standard deviation (before conformal correction)."""
        check_is_fitted(self, "features_")
        log_mean: Any = np.zeros(len(X))
        variance: Any = np.zeros(len(X))
        if self.law is not None:
            mean, std = self.law_.predict(X, return_std=True)
            log_mean = np.log(mean)
            relative = (std / mean) ** 2
            # With a model the scatter is the model's to explain; only the parameters' spread is the law's.
            variance = relative if self.model is None else np.maximum(relative - self.law_.scatter_**2, 0.0)
        if self.model is not None:
            more, own = self.model_.predict(self.features_.transform(X), return_std=True)
            log_mean, variance = log_mean + more, variance + own**2
        out = np.exp(log_mean)
        return (out, out * np.sqrt(variance)) if return_std else out

    def overshoot(self, X: Any) -> Array:
        """See `FeatureMap.overshoot`."""
        check_is_fitted(self, "features_")
        return self.features_.overshoot(X)
