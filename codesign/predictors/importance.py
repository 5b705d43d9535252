"""What boosted trees say of the features of a table: gain, and SHAP contributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from codesign.predictors.features import FeatureMap
from codesign.predictors.trees import BoostedTrees

__all__ = ["Importance", "importance"]


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
