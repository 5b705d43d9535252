from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from codesign.errors import SpecError
from codesign.predictors.mlp import MLPEnsemble

QUICK = {"hidden": (16, 16), "max_steps": 150}
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "rows are left out at random: a repeated row is split otherwise than "
    "one of weight 2",
}


@parametrize_with_checks([MLPEnsemble(hidden=(16,), max_steps=100)], expected_failed_checks=lambda _: EXPECTED)
def test_is_a_scikit_learn_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


def bowl(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).uniform(-1, 1, (rows, 2))
    return x, (x**2).sum(axis=1) + 0.5 * x[:, 0]


def test_learns_a_bowl() -> None:
    x, y = bowl(200)
    model = MLPEnsemble(hidden=(32, 32), max_steps=300).fit(x, y)
    mean, std = model.predict(bowl(100, 1)[0], return_std=True)
    error = np.abs(mean - bowl(100, 1)[1])
    assert error.mean() < 0.05
    assert std.shape == (100,)
    assert (std >= model.left_out_error_).all()


def test_noise_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    y = np.repeat(rng.normal(size=12), 5)
    model = MLPEnsemble(**QUICK).fit(rng.normal(size=(60, 3)), y, groups=groups)
    # The output layer starts at zero; nothing to learn keeps it near there, and the interval covers the groups' spread.
    assert np.ptp(model.predict(rng.normal(size=(50, 3)))) < 1.5 * y.std()
    assert model.left_out_error_ > 0.7 * y.std()


def test_groups_that_are_left_out_stop_training() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 6)
    name = np.repeat(rng.uniform(-1, 1, size=20), 6)  # tells the group, and nothing else
    x = np.c_[name, rng.uniform(size=120)]
    y = np.repeat(rng.normal(size=20), 6) + 0.3 * x[:, 1]
    honest, fooled = MLPEnsemble(**QUICK).fit(x, y, groups=groups), MLPEnsemble(**QUICK).fit(x, y)
    assert honest.left_out_error_ > fooled.left_out_error_


def test_weights_count() -> None:
    x = np.tile(np.arange(10.0), 6)[:, None]
    y = np.where(np.arange(60) < 30, 0.0, 1.0)
    mean = MLPEnsemble(**QUICK).fit(x, y, sample_weight=np.where(y > 0, 9.0, 1.0)).predict(x)
    assert mean == pytest.approx(np.full(60, 0.9), abs=0.07)


def test_the_same_numbers_every_time() -> None:
    import torch

    x, y = bowl(40)
    model = MLPEnsemble(**QUICK, random_state=3)
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    first = model.fit(x, y).predict(x, return_std=True)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.random.get_rng_state(), state)
    for other in (clone(model).fit(x, y), pickle.loads(pickle.dumps(model))):
        assert all(np.array_equal(a, b) for a, b in zip(first, other.predict(x, return_std=True), strict=True))
    assert first[0].dtype == first[1].dtype == np.float64
    assert not np.array_equal(first[0], clone(model).set_params(random_state=4).fit(x, y).predict(x))


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (MLPEnsemble(), {"y": "nan"}, "contains NaN. Leave those rows out"),
        (MLPEnsemble(), {"rows": 7}, "minimum of 8 is required"),
        (MLPEnsemble(), {"groups": ["a"] * 20}, "all rows are of one group"),
        (MLPEnsemble(members=7), {}, "members is 7; allowed: multiples of 5"),
        (MLPEnsemble(hidden=()), {}, "one or more layers"),
    ],
)
def test_bad_input(model: MLPEnsemble, change: dict[str, Any], message: str) -> None:
    x, y = bowl(change.get("rows", 20))
    if change.get("y") == "nan":
        y[3] = np.nan
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        model.fit(x, y, groups=change.get("groups"))
