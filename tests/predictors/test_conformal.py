from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")

from hypothesis import given, settings
from hypothesis import strategies as st
from run_tables import law_table
from sklearn.base import BaseEstimator, RegressorMixin

from codesign.errors import SpecError
from codesign.predictors.conformal import (
    ConformalRegressor,
    Correction,
    beyond_masks,
    group_folds,
    largest_group_masks,
    normal_quantile,
)
from codesign.predictors.law_regressor import LawRegressor
from codesign.predictors.surrogate import Surrogate


class Guess(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The mean of the training rows, with a standard deviation that is `share` of the true one."""

    def __init__(self, share: float = 0.2) -> None:
        self.share = share

    def fit(self, X: Any, y: Any, groups: Any = None) -> Guess:
        self.mean_, self.std_ = float(np.mean(y)), self.share * float(np.std(y))
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        mean = np.full(len(X), self.mean_)
        return (mean, np.full(len(X), self.std_)) if return_std else mean


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=4, max_size=60), st.integers(2, 6), st.integers(0, 5))
def test_folds_hold_whole_groups_and_every_row_once(labels: list[int], count: int, seed: int) -> None:
    groups = np.array(labels)
    if np.unique(groups).size < 2:
        with pytest.raises(SpecError, match="none can be left out"):
            group_folds(groups, count, seed)
        return
    masks = group_folds(groups, count, seed)
    assert (np.sum(masks, axis=0) == 1).all()
    assert len(masks) == min(count, np.unique(groups).size)
    for mask in masks:
        assert 0 < mask.sum() < groups.size
        assert not set(groups[mask]) & set(groups[~mask])


def test_folds_do_not_depend_on_the_names_of_groups() -> None:
    groups = np.repeat(np.arange(6), 3)
    for a, b in zip(group_folds(groups, 3), group_folds(np.array(list("abcdef"))[groups], 3), strict=True):
        assert (a == b).all()


def test_the_largest_groups_by_hand() -> None:
    size = np.array([1.0, 1.0, 5.0, 5.0, 3.0, 2.0, 4.0, 2.5, 3.5, 0.5])
    groups = np.array([0, 0, 1, 1, 2, 3, 4, 5, 6, 7])
    twenty, third = largest_group_masks(size, groups)  # 8 groups: 2 and 3 of them
    assert sorted(set(groups[twenty])) == [1, 4]
    assert sorted(set(groups[third])) == [1, 4, 6]


def test_long_training_is_beyond_where_tokens_vary_within_groups() -> None:
    frame, _ = law_table(shapes=6, tokens=4)
    masks = beyond_masks(frame, "params_nonembed_active", frame["shape"])
    assert masks[-1].sum() > 0
    assert frame["tokens"][masks[-1]].min() > frame["tokens"][~masks[-1]].max()
    single, _ = law_table(shapes=6, tokens=1)
    assert len(beyond_masks(single, "params_nonembed_active", single["shape"])) == 2


def test_the_factor_is_a_quantile_by_hand() -> None:
    # nine rows whose errors are 1 to 9 standard deviations: the 80 % factor is that of rank ceil(10 * 0.8) = 8
    mean = np.full(9, 2.0)
    target = mean * np.exp(0.01 * np.arange(1, 10))
    factors = Correction(target, mean, 0.01 * mean).factors
    assert factors[0.8] == pytest.approx(8.0, abs=0.2)
    assert factors[0.95] == pytest.approx(9.0)


def test_intervals_that_were_too_narrow_hold_afterwards() -> None:
    rng = np.random.default_rng(0)
    y = np.exp(0.2 * rng.normal(size=800))
    X = pd.DataFrame({"x": rng.normal(size=800)})
    model = ConformalRegressor(Guess(0.1)).fit(X[:400], y[:400])
    for level in (0.5, 0.8, 0.9, 0.95):
        low, high = model.interval(X[400:], level)
        assert np.mean((y[400:] >= low) & (y[400:] <= high)) == pytest.approx(level, abs=0.05)
    mean, std = model.predict(X[400:], return_std=True)
    assert np.mean(np.abs(np.log(y[400:] / mean)) < normal_quantile(0.9) * std / mean) == pytest.approx(0.9, abs=0.05)


def test_intervals_widen_beyond_the_data() -> None:
    frame, loss = law_table(noise=0.01)
    model = ConformalRegressor(Surrogate(LawRegressor("chinchilla", draws=4)), size="params_nonembed_active")
    model.fit(frame, loss, groups=frame["shape"])
    far = frame.assign(params_nonembed_active=1e12)
    assert (model.overshoot(frame) == 0).all()
    assert (model.overshoot(far) > 1).all()
    inside, outside = (model.predict(rows, return_std=True) for rows in (frame, far))
    assert (outside[1] / outside[0]).mean() > (inside[1] / inside[0]).mean()


def test_bad_input() -> None:
    frame, loss = law_table(shapes=4)
    with pytest.raises(SpecError, match="none can be left out"):
        ConformalRegressor(Guess()).fit(frame, loss, groups=np.zeros(len(loss)))
    with pytest.raises(SpecError, match=r"no interval of level 0.3; allowed: 0.5, 0.8, 0.9, 0.95"):
        ConformalRegressor(Guess()).fit(frame, loss).interval(frame, 0.3)
