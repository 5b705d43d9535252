"""What boosted trees say of features: sums that must hold, the feature that matters found."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("xgboost")
pytest.importorskip("pandas")

import pandas as pd

from codesign.predictors.importance import importance
from codesign.predictors.trees import BoostedTrees


def rows(count: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "n_layers": rng.integers(4, 40, count),
            "tokens": 1e9 * 2.0 ** rng.integers(0, 6, count),
            "lr": 1e-3 * 2.0 ** rng.integers(0, 4, count),
        }
    )


def test_the_feature_that_moves_the_target_is_first_with_its_trend() -> None:
    frame = rows()
    found = importance(frame, 4.0 - 0.1 * np.log(frame["tokens"]) + 0.001 * np.log(frame["n_layers"]))
    assert found[0].name == "ln D" and found[0].trend < -0.9
    assert sum(one.gain for one in found) == pytest.approx(1.0)
    assert found[0].contribution > 10 * found[-1].contribution


def test_contributions_of_a_row_sum_to_its_prediction() -> None:
    x = rows().to_numpy(dtype=float)
    model = BoostedTrees(members=5).fit(x, x[:, 0] ** 0.5)
    np.testing.assert_allclose(model.contributions(x).sum(axis=1), model.predict(x), rtol=1e-4)
