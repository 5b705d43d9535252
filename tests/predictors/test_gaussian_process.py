from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gpytorch")
pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.utils.estimator_checks import parametrize_with_checks

from codesign.errors import SpecError
from codesign.predictors.gaussian_process import GaussianProcess

EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "a weight divides the noise: two rows also tell the noise's size, one "
    "row of weight 2 does not",
}


@parametrize_with_checks([GaussianProcess()], expected_failed_checks=lambda _: EXPECTED)
def test_is_a_scikit_learn_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


def curve(rows: int, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(rows, 4))
    return x, truth(x) + noise * rng.normal(size=rows)


def truth(x: np.ndarray) -> np.ndarray:
    return np.sin(3 * x[:, 0]) + x[:, 1] ** 2


def test_predicts_as_scikit_learn_does_with_the_same_hyper_parameters() -> None:
    x, y = curve(40, 0.1)
    model = GaussianProcess().fit(x, y)
    hyper, scaled = model.hyper_, (x - x.mean(0)) / x.std(0)
    kernel = ConstantKernel(hyper["outputscale"][0], "fixed") * Matern(
        hyper["base_kernel.lengthscale"], "fixed", nu=2.5
    )
    other = GaussianProcessRegressor(kernel + WhiteKernel(hyper["noise"], "fixed"), alpha=0.0, optimizer=None)
    other.fit(scaled, (y - y.mean()) / y.std() - hyper["mean"])
    probe = np.random.default_rng(1).uniform(-0.5, 1.5, (30, 4))
    mean, std = model.predict(probe, return_std=True)
    other_mean, other_std = other.predict((probe - x.mean(0)) / x.std(0), return_std=True)
    assert mean == pytest.approx(y.mean() + y.std() * (other_mean + hyper["mean"]), rel=1e-6)
    assert std == pytest.approx(y.std() * model.widened_ * other_std, rel=1e-6)


def test_25_rows_with_useless_columns_are_not_overfitted() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(25, 8))
    y = x[:, 0] + 0.3 * rng.normal(size=25)
    model = GaussianProcess().fit(x, y)
    probe = rng.normal(size=(400, 8))
    mean, std = model.predict(probe, return_std=True)
    error = np.abs(mean - probe[:, 0])
    assert np.sqrt(np.mean(error**2)) < 0.5
    new = np.abs(mean - (probe[:, 0] + 0.3 * rng.normal(size=400)))
    assert 0.75 < np.mean(new < 1.645 * std) < 0.99


def test_learns_the_noise_and_reports_it() -> None:
    x, y = curve(200, 0.2)
    _, std = GaussianProcess().fit(x, y).predict(x, return_std=True)
    assert 0.17 < std.min() < 0.25


def test_ten_checkpoints_of_a_model_are_not_ten_witnesses() -> None:
    rng = np.random.default_rng(0)
    shapes, per = rng.uniform(size=(80, 2)), 10
    offset = 0.2 * rng.normal(size=80)
    x = np.c_[np.repeat(shapes, per, axis=0), np.tile(np.linspace(0, 1, per), 80)]
    groups = np.repeat([f"shape {i}" for i in range(80)], per)
    clean = x[:, 0] + 0.5 * x[:, 2]
    y = clean + np.repeat(offset, per) + 0.01 * rng.normal(size=800)
    train = np.isin(groups, [f"shape {i}" for i in range(20)])
    model = GaussianProcess(group_effect=True).fit(x[train], y[train], groups=groups[train])
    mean, std = model.predict(x[~train], return_std=True)
    assert 0.8 < np.mean(np.abs(mean - y[~train]) < 1.645 * std) < 0.99
    variance = model.hyper_["kernels.1.outputscale"][0] * y[train].var()
    assert 0.1 < np.sqrt(variance) < 0.4
    # A shape that was trained keeps its offset, at token counts that were not seen; a new one carries the offset's variance.
    first = groups == "shape 0"
    probe = x[first] + [0, 0, 0.05]
    known, known_std = model.predict(probe, return_std=True, groups=groups[first])
    unknown, unknown_std = model.predict(probe, return_std=True, groups=["another"] * per)
    assert np.all(known_std < 0.5 * unknown_std)
    assert np.abs(known - (x[first, 0] + 0.5 * probe[:, 2] + offset[0])).max() < 0.05
    again = model.predict(probe)
    assert again == pytest.approx(unknown, rel=1e-12)


def test_left_out_groups_in_closed_form_are_those_of_a_model_without_them() -> None:
    x, y = curve(30, 0.1)
    groups = np.repeat(np.arange(10), 3)
    model = GaussianProcess().fit(x, y)
    full = model.kernel_(model.train_).to_dense().numpy() + model.hyper_["noise"] * np.eye(30)
    target = (y - y.mean()) / y.std() - model.hyper_["mean"]
    square = []
    for group in range(10):
        out, rest = groups == group, groups != group
        solved = np.linalg.solve(full[np.ix_(rest, rest)], full[np.ix_(rest, out)])
        error = target[out] - solved.T @ target[rest]
        variance = np.diag(full[np.ix_(out, out)] - full[np.ix_(out, rest)] @ solved)
        square.append(np.mean(error**2 / variance))
    assert model._left_out(groups) == pytest.approx(np.mean(square), rel=1e-6)


def test_labels_are_compared_not_measured() -> None:
    rng = np.random.default_rng(0)
    label, number = rng.integers(0, 4, 80), rng.uniform(size=80)
    y = np.array([0.0, 5.0, 1.0, 3.0])[label] + number
    renamed = np.array([7.0, -2.0, 100.0, 3.0])[label]
    one = GaussianProcess(categorical=[1]).fit(np.c_[number, label], y)
    two = GaussianProcess(categorical=[-1]).fit(np.c_[number, renamed], y)
    assert one.predict(np.c_[number, label]) == pytest.approx(two.predict(np.c_[number, renamed]), rel=1e-9)
    assert np.abs(one.predict(np.c_[number, label]) - y).max() < 0.1
    only = GaussianProcess(categorical=[0]).fit(label[:, None], y - number)
    assert only.predict([[1]]) == pytest.approx([5.0], abs=0.1)


def test_a_linear_kernel_carries_a_trend_outward() -> None:
    x = np.linspace(0, 1, 20)[:, None]
    mean = GaussianProcess(linear=True).fit(x, 3 * x[:, 0]).predict([[3.0]])
    flat = GaussianProcess().fit(x, 3 * x[:, 0] + 0.3 * np.sin(9 * x[:, 0])).predict([[30.0]])
    assert mean == pytest.approx([9.0], rel=0.05)
    assert flat[0] < 10


def test_a_heavy_row_counts_more() -> None:
    x = np.r_[np.zeros(6), np.linspace(0, 1, 6)][:, None]
    y = np.r_[np.zeros(5), 1.0, np.zeros(6)]
    even = GaussianProcess().fit(x, y).predict([[0.0]])
    heavy = GaussianProcess().fit(x, y, sample_weight=np.r_[np.ones(5), 50.0, np.ones(6)]).predict([[0.0]])
    assert heavy[0] > even[0] + 0.2


def test_the_same_numbers_every_time_without_a_warning() -> None:
    x, y = curve(60, 0.05)
    x = np.r_[x, x]  # equal rows: a singular covariance but for the noise
    y = np.r_[y, y]
    model = GaussianProcess(restarts=2, hyper_rows=50, random_state=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = model.fit(x, y).predict(x[:9], return_std=True)
        again = clone(model).fit(x, y).predict(x[:9], return_std=True)
        kept = pickle.loads(pickle.dumps(model)).predict(x[:9], return_std=True)
    assert all(np.array_equal(a, b) and np.array_equal(a, c) for a, b, c in zip(first, again, kept, strict=True))
    assert first[0].dtype == first[1].dtype == np.float64


def test_constant_columns_and_targets_are_no_trouble() -> None:
    x, y = curve(20)
    assert np.isfinite(GaussianProcess().fit(np.c_[x, np.full(20, 3.0)], y).predict(np.c_[x, np.full(20, 4.0)])).all()
    mean, std = GaussianProcess().fit(x, np.full(20, 2.5)).predict(x, return_std=True)
    assert mean == pytest.approx(np.full(20, 2.5)) and np.isfinite(std).all()


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (GaussianProcess(), {"y": "nan"}, "contains NaN. Leave those rows out"),
        (GaussianProcess(), {"rows": 3}, "minimum of 4 is required"),
        (GaussianProcess(), {"groups": ["a"]}, r"groups has shape \(1,\)"),
        (GaussianProcess(), {"sample_weight": [0.0] * 17 + [1.0] * 3}, r"3 of 20 sample\(s\) have a sample_weight"),
        (GaussianProcess(), {"sample_weight": [-1.0] * 20}, "[Nn]egative"),
        (GaussianProcess(kernel="cubic"), {}, "unknown kernel 'cubic'; known: matern, rbf"),
        (GaussianProcess(categorical=[4]), {}, "categorical column 4 does not exist; X has 4 columns"),
        (GaussianProcess(group_effect=True), {}, "needs groups"),
    ],
)
def test_bad_input_has_one_clear_line(model: GaussianProcess, change: dict[str, Any], message: str) -> None:
    x, y = curve(20)
    if change.pop("y", None):
        y[3] = np.nan
    rows = change.pop("rows", 20)
    with pytest.raises(SpecError, match=message) as caught:
        model.fit(x[:rows], y[:rows], **change)
    assert "\n" not in str(caught.value)


def test_another_width_is_refused() -> None:
    x, y = curve(20)
    model = GaussianProcess().fit(x, y)
    with pytest.raises(SpecError, match="X has 3 features, but GaussianProcess is expecting 4"):
        model.predict(x[:, :3])
    x[0, 0] = np.inf
    with pytest.raises(SpecError, match="infinity"):
        model.predict(x)


def test_of_a_residual_nothing_is_added_far_away() -> None:
    """A residual of mean 0.3 on x in [0, 1]: near the rows it is followed; far away a process that is not centred adds nothing."""
    x = np.linspace(0, 1, 30)[:, None]
    y = 0.3 + 0.1 * np.sin(6 * x[:, 0])
    far = np.array([[80.0]])
    left = GaussianProcess(kernel="rbf", centred=False).fit(x, y)
    assert np.abs(left.predict(x) - y).max() < 0.02 and abs(left.predict(far)[0]) < 1e-6
    assert left.hyper_["mean"] == 0.0
    assert abs(GaussianProcess(kernel="rbf").fit(x, y).predict(far)[0]) > 0.1
