"""A convex combination of predictors, weighted by what each predicts of left-out groups (Breiman 1996, Stacked regressions)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls  # type: ignore[import-untyped,unused-ignore]

from codesign.predictors.conformal import Correction, check_level, normal_quantile

__all__ = ["LEAST_WEIGHT", "Stack", "convex_weights"]

Array = npt.NDArray[np.float64]
#: Members below this share are left out.
LEAST_WEIGHT = 0.05


def convex_weights(predicted: Array, target: Array) -> Array:
    """Weights w >= 0 that sum to 1 and minimise ``|predicted w - target|``; predicted (rows, members), target (rows,).

    Example:
        >>> convex_weights(np.array([[1.0, 3.0], [2.0, 2.5], [3.0, 3.5]]), np.array([1.0, 2.0, 3.0])).round(6).tolist()
        [1.0, 0.0]
    """
    heavy = 1e3 * max(1.0, float(np.abs(predicted).max()))
    rows = np.vstack([predicted, np.full((1, predicted.shape[1]), heavy)])
    weights, _ = nnls(rows, np.append(target, heavy))
    return np.asarray(weights / weights.sum())


class Stack:
    """``ln y = sum_m w_m ln y_m``: members err in different corners of the space, and their mean errs less.

    The variance is the weighted mean of the members' own plus the weighted spread between them.

    Args:
        members: name -> fitted `ConformalRegressor`. weights: name -> weight, convex.
        left: Mean and std of each training row when its group was left out, (rows, 2). correction: From these.
        target: Of the training rows.
        apart: For each split of the members' ``beyond_`` the weights, (members,), that the other splits gave; None: `weights`.

    Attributes:
        weights: name -> share of the members in use: those of at least 5 %, together 1.
    """

    def __init__(
        self,
        members: Mapping[str, Any],
        weights: Mapping[str, float],
        left: Array,
        correction: Correction,
        target: Array,
        apart: Sequence[Array] | None = None,
    ) -> None:
        used = {name: weight for name, weight in weights.items() if weight >= LEAST_WEIGHT}
        self.weights = {name: weight / sum(used.values()) for name, weight in used.items()}
        self._used = [(weight, members[name]) for name, weight in self.weights.items()]
        self.left_ = left
        self.correction_ = correction
        self.beyond_: list[Any] = []
        self.drift_ = 0.0
        every = [members[name] for name in weights] if apart is not None else [member for _, member in self._used]
        for k, parts in enumerate(zip(*(member.beyond_ for member in every), strict=True)):
            mask, far = parts[0][0], parts[0][3]
            share = apart[k] if apart is not None else self._share()
            logs = np.log(np.stack([part[1] for part in parts], axis=1))
            stds = np.stack([part[2] / part[1] for part in parts], axis=1)
            mean, std = self.combine(share, logs, stds).T
            self.beyond_.append((mask, mean, std, far))
            self.drift_ = max(self.drift_, correction.drift(target[mask], mean, std, far))

    @property
    def extrapolates(self) -> bool:
        """Whether every member in use follows a law beyond the data."""
        return all(getattr(member.estimator, "extrapolates", False) for _, member in self._used)

    def _share(self) -> Array:
        return np.array([weight for weight, _ in self._used])

    @staticmethod
    def combine(weights: Array, logs: Array, stds: Array) -> Array:
        """Mean and standard deviation, (rows, 2), from log means and relative standard deviations, each (rows, members)."""
        log_mean = logs @ weights
        variance = (stds**2 + (logs - log_mean[:, None]) ** 2) @ weights
        mean = np.exp(log_mean)
        return np.stack([mean, mean * np.sqrt(variance)], axis=1)

    def _raw(self, X: Any) -> tuple[Array, Array]:
        parts = [member.estimator_.predict(X, return_std=True) for _, member in self._used]
        logs = np.log(np.stack([mean for mean, _ in parts], axis=1))
        mean, std = self.combine(self._share(), logs, np.stack([s / m for m, s in parts], axis=1)).T
        return mean, std

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """See `ConformalRegressor.predict`."""
        mean, std = self._raw(X)
        if not return_std:
            return mean
        far = self.drift_ * self.overshoot(X)
        return mean, mean * np.sqrt((self.correction_.scale * std / mean) ** 2 + far**2)

    def interval(self, X: Any, level: float = 0.9) -> tuple[Array, Array]:
        """See `ConformalRegressor.interval`."""
        check_level(level)
        mean, std = self._raw(X)
        own = self.correction_.factors[level] * std / mean
        half = np.sqrt(own**2 + (normal_quantile(level) * self.drift_ * self.overshoot(X)) ** 2)
        return mean * np.exp(-half), mean * np.exp(half)

    def overshoot(self, X: Any) -> Array:
        """See `FeatureMap.overshoot`."""
        return np.asarray(self._used[0][1].overshoot(X))
