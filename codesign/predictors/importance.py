"""What boosted trees say of the features of a table: gain, and SHAP contributions of each feature and of each value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.predictors.features import FeatureMap
from codesign.predictors.trees import BoostedTrees

__all__ = ["Importance", "importance", "value_contributions"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """One feature.

    Attributes:
        name: As `FeatureMap` calls it.
        gain: Share of the squared error that its splits took away.
        contribution: Mean absolute SHAP value, units of the target.
        trend: Correlation of the feature with its SHAP values: -1 where more of it lowers the target.
    """

    name: str
    gain: float
    contribution: float
    trend: float


def importance(
    X: Any, y: Any, groups: Any = None, columns: Sequence[str] | None = None, random_state: int = 0
) -> list[Importance]:
    """Features of a table by their mean absolute SHAP value, the largest first.

    Raises:
        SpecError: Fewer than 8 rows, one group, or no column varies.
    """
    features = FeatureMap(columns).fit(X)
    matrix = features.transform(X)
    model = BoostedTrees(random_state=random_state).fit(matrix, np.asarray(y, dtype=float), groups=groups)
    shares = model.contributions(matrix)[:, :-1]
    found = []
    for i, name in enumerate(features.names_):
        flat = np.ptp(shares[:, i]) < 1e-12 or np.ptp(matrix[:, i]) < 1e-12
        trend = 0.0 if flat else float(np.corrcoef(matrix[:, i], shares[:, i])[0, 1])
        found.append(Importance(name, float(model.feature_importances_[i]), float(np.abs(shares[:, i]).mean()), trend))
    return sorted(found, key=lambda one: -one.contribution)


def value_contributions(model: BoostedTrees, matrix: Array) -> list[dict[float, float]]:
    """Mean SHAP value of each value of each column, as GBDT-NAS (arXiv 2007.04785, Section 3.2) ranks them to prune a space.

    Args:
        model: Fitted on such rows. matrix: (rows, columns) of few distinct values each.

    Returns:
        For each column value -> mean contribution, units of the target.

    Example:
        >>> x = np.array([[a, b] for a in range(4) for b in range(5)], dtype=float)
        >>> found = value_contributions(BoostedTrees().fit(x, 3.0 * (x[:, 0] == 2)), x)
        >>> max(found[0], key=found[0].get)
        2.0
    """
    shares = model.contributions(matrix)[:, :-1]
    out = []
    for column, share in zip(matrix.T, shares.T, strict=True):
        values, index = np.unique(column, return_inverse=True)
        index = index.ravel()
        means = np.bincount(index, share) / np.bincount(index)
        out.append(dict(zip(values.tolist(), means.tolist(), strict=True)))
    return out
