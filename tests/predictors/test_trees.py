from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("xgboost")
pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from codesign.errors import SpecError
from codesign.predictors.trees import BoostedTrees

EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "rows are left out at random: a repeated row is split otherwise than "
    "one of weight 2",
}


@parametrize_with_checks([BoostedTrees(members=5)], expected_failed_checks=lambda _: EXPECTED)
def test_is_a_scikit_learn_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


def law(rows: int, seed: int = 0, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """ln N, ln D and a column that means nothing."""
    rng = np.random.default_rng(seed)
    x = rng.uniform([17, 22, 0], [21, 26, 1], (rows, 3))
    return x, 1.7 + np.exp(5.0 - 0.34 * x[:, 0]) + np.exp(5.5 - 0.28 * x[:, 1]) + noise * rng.normal(size=rows)


def test_learns_a_law_and_its_interval_holds_on_new_groups() -> None:
    x, y = law(400)
    groups = np.repeat(np.arange(80), 5)
    y += np.repeat(0.1 * np.random.default_rng(1).normal(size=80), 5)
    train = groups < 40
    model = BoostedTrees().fit(x[train], y[train], groups=groups[train])
    mean, std = model.predict(x[~train], return_std=True)
    assert np.corrcoef(mean, y[~train])[0, 1] > 0.8
    assert 0.8 < np.mean(np.abs(mean - y[~train]) < 1.645 * std) < 0.98


def test_early_stopping_leaves_whole_groups_out() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 8)
    name = np.repeat(rng.uniform(size=40), 8)  # tells the group, and nothing else
    x = np.c_[name, rng.uniform(size=320)]
    y = np.repeat(rng.normal(size=40), 8) + 0.3 * x[:, 1]
    honest, fooled = BoostedTrees().fit(x, y, groups=groups), BoostedTrees().fit(x, y)
    assert max(honest.rounds_) < min(fooled.rounds_)
    assert honest.left_out_error_ > 0.8 * y.std() > 2 * fooled.left_out_error_


def test_monotone_columns_stay_monotone() -> None:
    x, y = law(150, noise=0.2)
    grid = np.c_[np.linspace(17, 21, 200), np.full(200, 24.0), np.full(200, 0.5)]
    free = BoostedTrees().fit(x, y).predict(grid)
    for signs in ({0: -1, 1: -1}, (-1, -1, 0)):
        kept = BoostedTrees(monotone=signs).fit(x, y).predict(grid)
        assert (np.diff(kept) <= 1e-6).all()
    assert (np.diff(free) > 1e-3).any()


def test_outside_the_box_says_so_and_never_extrapolates() -> None:
    x, y = law(200)
    model = BoostedTrees().fit(x, y)
    edge, far = [21.0, 26.0, 0.5], [30.0, 40.0, 0.5]
    assert model.predict([far]) == model.predict([edge])
    assert model.inside([x[0], far, [17.5, 25, 2.0]]).tolist() == [True, False, False]
    assert model.inside(x).all()


def test_gain_and_contributions_find_what_matters() -> None:
    x, y = law(300)
    model = BoostedTrees().fit(x, y)
    assert model.feature_importances_.sum() == pytest.approx(1.0)
    assert model.feature_importances_[2] < 0.05
    shares = model.contributions(x)
    assert shares.shape == (300, 4)
    assert shares.sum(axis=1) == pytest.approx(model.predict(x), abs=1e-5)
    assert np.abs(shares[:, 2]).mean() < 0.1 * np.abs(shares[:, 0]).mean()


def test_weights_count() -> None:
    x = np.tile(np.arange(10.0), 6)[:, None]
    y = np.where(np.arange(60) < 30, 0.0, 1.0)
    mean = BoostedTrees().fit(x, y, sample_weight=np.where(y > 0, 9.0, 1.0)).predict(x)
    assert mean == pytest.approx(np.full(60, 0.9), abs=0.05)


def test_the_same_numbers_every_time_without_a_warning() -> None:
    x, y = law(60)
    model = BoostedTrees(members=5, random_state=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = model.fit(x, y).predict(x, return_std=True)
        again = clone(model).fit(x, y).predict(x, return_std=True)
        threads = clone(model).set_params(n_threads=2).fit(x, y).predict(x, return_std=True)
        kept = pickle.loads(pickle.dumps(model)).predict(x, return_std=True)
    for other in (again, threads, kept):
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert first[0].dtype == first[1].dtype == np.float64
    assert not np.array_equal(first[0], clone(model).set_params(random_state=4).fit(x, y).predict(x))


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (BoostedTrees(), {"y": "nan"}, "contains NaN. Leave those rows out"),
        (BoostedTrees(), {"rows": 7}, "minimum of 8 is required"),
        (BoostedTrees(), {"groups": ["a"] * 20}, "all rows are of one group"),
        (BoostedTrees(members=7), {}, "members is 7; allowed: multiples of 5"),
        (BoostedTrees(monotone={3: -1}), {}, "monotone has -1 for column 3; allowed: -1, 0, 1 for columns 0 to 2"),
        (BoostedTrees(monotone=[-1]), {}, "monotone has 1 numbers for 3 columns"),
    ],
)
def test_bad_input_has_one_clear_line(model: BoostedTrees, change: dict[str, Any], message: str) -> None:
    x, y = law(20)
    if change.pop("y", None):
        y[3] = np.nan
    rows = change.pop("rows", 20)
    with pytest.raises(SpecError, match=message) as caught:
        model.fit(x[:rows], y[:rows], **change)
    assert "\n" not in str(caught.value)


def test_another_width_is_refused() -> None:
    x, y = law(20)
    model = BoostedTrees(members=5).fit(x, y)
    for call in (model.predict, model.inside, model.contributions):
        with pytest.raises(SpecError, match="X has 2 features, but BoostedTrees is expecting 3"):
            call(x[:, :2])
