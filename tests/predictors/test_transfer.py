"""Transfer: level and slope by hand, fewer target runs where the source knows the order, and how many runs an aim takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pandas")
pytest.importorskip("sklearn")

import pandas as pd

from codesign.errors import SpecError
from codesign.predictors.transfer import Curve, Transferred, learning_curves, runs_needed


class Source:
    """ln y = x, the source's law."""

    def predict(self, X: Any) -> Any:
        return np.exp(np.asarray(X["x"], dtype=float))


def frame(values: Any) -> pd.DataFrame:
    return pd.DataFrame({"x": np.asarray(values, dtype=float)})


def test_level_and_slope_by_hand() -> None:
    """ln source 0, 1, 2 (mean 1); ln target 0, 2, 4 (mean 2). Slope (1 x 2 + 1 x 2 + r) / (2 + r), r = (0.01 / 0.3)^2 = 0.00111: 1.9994."""
    model = Transferred(Source()).fit(frame([0, 1, 2]), np.exp([0.0, 2.0, 4.0]))
    assert (model.centre_, model.level_) == pytest.approx((1.0, 2.0))
    assert model.slope_ == pytest.approx(4.00111 / 2.00111, abs=1e-5)
    assert np.log(model.predict(frame([3]))[0]) == pytest.approx(2.0 + 2 * 1.99944, abs=1e-4)


def test_one_run_moves_the_level_alone() -> None:
    model = Transferred(Source()).fit(frame([1.0]), np.array([5.0]))
    assert model.slope_ == pytest.approx(1.0)
    assert model.predict(frame([2.0]))[0] == pytest.approx(5.0 * np.e)
    assert Transferred(Source(), slope=False).fit(frame([0, 1]), np.exp([0.0, 3.0])).slope_ == 1.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12, unique=True), st.floats(0.3, 3.0), st.floats(-1, 1))
def test_the_rank_is_the_sources_where_the_slope_is_positive(xs: list[float], slope: float, level: float) -> None:
    got = Transferred(Source()).fit(frame(xs), np.exp(level + slope * np.array(xs))).predict(frame(xs))
    assert (np.diff(got[np.argsort(xs)]) >= 0).all()


def test_curves_count_runs_on_groups_that_were_not_drawn() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 0.5, 60)
    y = np.exp(1.0 + 1.2 * x + 0.002 * rng.standard_normal(60))
    ways = {
        "source": lambda k: Transferred(Source()),
        "level alone": lambda k: Transferred(Source(), slope=False) if k >= 3 else None,
    }
    curves = {c.name: c for c in learning_curves(frame(x), y, np.arange(60) // 2, ways, (2, 5, 20), repeats=3)}
    assert curves["source"].runs == (2, 5, 20) and curves["level alone"].runs == (5, 20)
    assert curves["source"].relative[-1] < 0.004 < curves["level alone"].relative[-1]
    assert runs_needed(curves["source"], relative=0.01, tau=0.9) is not None


def test_an_aim_must_hold_at_every_larger_number() -> None:
    curve = Curve("x", (1, 2, 3), (0.001, 0.02, 0.001), (0.99, 0.5, 0.99))
    assert runs_needed(curve, relative=0.01) == 3 and runs_needed(curve, relative=1e-4) is None


def test_bad_targets_are_refused() -> None:
    for y in (np.array([1.0, np.nan]), np.array([1.0, -1.0])):
        with pytest.raises(SpecError, match="positive and finite"):
            Transferred(Source()).fit(frame([0, 1]), y)
