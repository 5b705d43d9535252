from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("xgboost")
pytest.importorskip("gpytorch")

from run_tables import law_table

from codesign.errors import SpecError
from codesign.predictors import staged as module
from codesign.predictors.conformal import Correction, effective_count
from codesign.predictors.stack import Stack, convex_weights
from codesign.predictors.staged import MEAN_OF_LAWS, Score, StagedRegressor, score

SIZE = "params_nonembed_active"
QUICK = ["law", "law + gp", "trees", "stack"]


@pytest.fixture(scope="module")
def fitted() -> tuple[Any, np.ndarray, StagedRegressor]:
    frame, loss = law_table(shapes=12, tokens=3, noise=0.004)
    return frame, loss, StagedRegressor(QUICK, size=SIZE, folds=4).fit(frame, loss, groups=frame["shape"])


def test_a_law_beats_trees_on_rows_of_a_law(fitted: Any) -> None:
    _, _, model = fitted
    found = {s.name: s for s in model.scores_}
    assert set(found) == {*QUICK, MEAN_OF_LAWS, "parameters alone"}
    assert found["law"].relative < 0.01 < found["trees"].relative
    assert found["trees"].largest > found["law"].largest
    assert model.chosen_ != "trees"
    assert model.chosen_beyond_ == MEAN_OF_LAWS
    assert found["parameters alone"].reason == "the free baseline"
    assert sum(model.weights_.values()) == pytest.approx(1.0)


def test_rows_beyond_the_data_follow_a_law(fitted: Any) -> None:
    frame, _loss, model = fitted
    far = frame.assign(params_nonembed_active=1e12)
    assert not model.outside(frame).any()
    assert model.outside(far).all()
    beyond = model.members_[model.chosen_beyond_]
    assert model.predict(far) == pytest.approx(beyond.predict(far))
    assert model.predict(frame) == pytest.approx(model.members_[model.chosen_].predict(frame))
    assert model.predict(far).mean() < model.predict(frame).mean()


def test_intervals_hold_on_new_shapes(fitted: Any) -> None:
    _, _, model = fitted
    new, truth = law_table(shapes=30, tokens=4, noise=0.004, seed=5)
    inside = ~model.outside(new)
    for level in (0.8, 0.9):
        low, high = model.interval(new, level)
        held = (truth >= low) & (truth <= high)
        assert (low < high).all()
        assert held[inside].mean() > level - 0.15
    assert (model.interval(new, 0.9)[1] >= model.interval(new, 0.8)[1]).all()
    mean, std = model.predict(new, return_std=True)
    assert np.isfinite(std).all() and (std > 0).all() and mean.shape == truth.shape


def test_the_same_every_time() -> None:
    frame, loss = law_table(shapes=8, tokens=1, noise=0.01)
    one, two = (StagedRegressor(["law", "law + gp"], folds=3).fit(frame, loss, groups=frame["shape"]) for _ in range(2))
    assert repr(one.scores_) == repr(two.scores_)
    assert np.array_equal(one.predict(frame), two.predict(frame))


def judged(spearman: float, coverage: float, relative: float, name: str = "law") -> Score:
    return Score(name, 0.01, relative, 0.9, spearman, 0.8, coverage)


def test_who_is_not_used_and_why() -> None:
    """The rules on made-up left-out predictions: 40 groups of one row."""
    rng = np.random.default_rng(0)
    target = np.exp(0.2 * rng.normal(size=40))
    model = StagedRegressor()
    good = np.stack([target * np.exp(0.01 * rng.normal(size=40)), 0.01 * target], axis=1)
    # One predictor ranks at random; the other errs fifty times as much in one fold as in the rest.
    noise = np.stack([np.exp(0.2 * rng.normal(size=40)), 0.3 * target], axis=1)

    class Member:
        beyond_: ClassVar[list[Any]] = []

        def __init__(self, left: np.ndarray) -> None:
            self.left_ = left

    model.members_ = {"law": Member(good), "trees": Member(noise)}
    masks = [np.arange(40) % 4 == k for k in range(4)]
    labels = np.arange(40)
    baseline = judged(0.9, np.nan, 0.1, "parameters alone")
    assert model._judge("trees", target, masks, labels, baseline).reason.startswith(
        "ranks no better than the parameter count"
    )
    narrow = good.copy()
    narrow[masks[0], 0] = target[masks[0]] * np.exp(0.5)
    model.members_["law"] = Member(narrow)
    told = model._judge("law", target, masks, labels, None)
    assert not 0.85 <= told.coverage90 <= 0.95
    assert told.reason == f"90 % interval holds {told.coverage90:.0%}"


def test_among_equals_the_simpler_and_the_least_bad_where_none_passes() -> None:
    model = StagedRegressor()
    model.members_ = {}
    model.scores_ = [judged(1, 0.9, 0.0101), judged(1, 0.9, 0.0100, "law + gp"), judged(1, 0.9, 0.02, "trees")]
    model._choose()
    assert (model.chosen_, model.fallback_) == ("law", False)
    model.scores_ = [judged(1, 0.9, 0.0110), judged(1, 0.9, 0.0100, "law + gp")]
    model._choose()
    assert model.chosen_ == "law + gp"
    model.scores_ = [replace(s, reason="off") for s in model.scores_]
    model._choose()
    assert (model.chosen_, model.fallback_) == ("law", True)


@pytest.mark.parametrize(("rows", "missed", "off"), [(24, 1, False), (24, 6, True), (400, 8, True), (400, 24, False)])
def test_few_rows_cannot_tell_whether_intervals_are_off(rows: int, missed: int, off: bool) -> None:
    """23 of 24 rows are 96 %, within the standard error (6 %) of 95 %; 392 of 400 are 98 %, beyond it (1.5 %)."""
    scores = np.ones(rows)
    scores[: 4 * missed : 4] = 50.0  # all in the first fold: the others' factor is 1, and holds the rest
    target = np.exp(0.01 * scores)
    model = StagedRegressor()

    class Member:
        beyond_: ClassVar[list[Any]] = []
        left_ = np.stack([np.ones(rows), np.full(rows, 0.01)], axis=1)

    model.members_ = {"law": Member()}
    masks = [np.arange(rows) % 4 == k for k in range(4)]
    told = model._judge("law", target, masks, np.arange(rows), None)
    assert bool(told.reason) is off, told


def test_the_stack_is_used_where_its_intervals_hold() -> None:
    model = StagedRegressor()
    model.members_ = {}
    model.scores_ = [
        judged(1, 0.9, 0.01),
        judged(1, 0.9, 0.02, "gp"),
        judged(1, 0.9, 0.012, "stack"),
        judged(1, 0.9, 0.001, MEAN_OF_LAWS),
    ]
    model._choose()
    assert model.chosen_ == "stack"
    model.scores_[2] = replace(model.scores_[2], reason="90 % interval holds 80%")
    model._choose()
    assert model.chosen_ == "law"


def test_the_mean_of_laws_by_hand(fitted: Any) -> None:
    """Weights go with the inverse square of the mean error on the largest left out; each split is judged with those of the others."""
    _, loss, model = fitted
    names = [n for n in ("law", "law + gp", "trees") if model._extrapolates(n)]
    assert names == ["law", "law + gp"]
    errors = np.array([[np.abs(m / loss[mask] - 1).mean() for mask, m, *_ in model.members_[n].beyond_] for n in names])
    means = errors.mean(axis=1)
    weights = (1 / means**2) / (1 / means**2).sum()
    joint = model.members_[MEAN_OF_LAWS]
    assert list(joint.weights.values()) == pytest.approx(weights.tolist())
    assert errors.shape == (2, 2)  # two splits
    mask, mean, *_ = joint.beyond_[0]
    # the first split lies in the second: it is judged with weights of the rest of the second, the second with equal ones
    inner, outer = (model.members_[names[0]].beyond_[k][0] for k in (0, 1))
    assert (outer | ~inner).all()
    rest = outer & ~inner
    apart = (
        np.array([np.abs(model.members_[n].beyond_[1][1] / loss[outer] - 1)[rest[outer]].mean() for n in names]) ** -2.0
    )
    other = apart / apart.sum()
    logs = [np.log(model.members_[n].beyond_[0][1]) for n in names]
    assert mean == pytest.approx(np.exp(other[0] * logs[0] + other[1] * logs[1]))
    assert mask.sum() == mean.size
    second = np.mean([np.log(model.members_[n].beyond_[1][1]) for n in names], axis=0)
    assert joint.beyond_[1][1] == pytest.approx(np.exp(second))


def test_one_parameter_count_rules_nobody_out() -> None:
    """A sweep of the tokens at one size: the count ranks nothing, so no one must rank better than it."""
    frame, loss = law_table(shapes=10, tokens=4, noise=0.004)
    frame = frame.assign(params_nonembed_active=1e8)
    model = StagedRegressor(["law", "gp", "stack"], size=SIZE, folds=4).fit(frame, loss, groups=frame["shape"])
    assert not any(s.reason.startswith("ranks") for s in model.scores_)


def test_without_a_size_a_law_still_extrapolates() -> None:
    frame, loss = law_table(shapes=10, tokens=3, noise=0.004)
    model = StagedRegressor(["law", "trees"], folds=4).fit(frame, loss, groups=frame["shape"])
    assert model.chosen_beyond_ == "law"


def test_who_ranks_no_better_than_the_count_has_no_share_in_the_stack() -> None:
    frame, loss = law_table(shapes=12, tokens=3, noise=0.004)
    model = StagedRegressor(["law", "gp", "trees", "stack"], size=SIZE, folds=4).fit(frame, loss, groups=frame["shape"])
    poor = {s.name for s in model.scores_ if s.reason.startswith("ranks") and s.name != "stack"}
    assert set(model.weights_) == {"law", "gp", "trees"} - poor
    assert sum(model.shares_.values()) == pytest.approx(1.0)


def test_too_few_rows_for_trees_leave_the_others() -> None:
    frame, loss = law_table(shapes=9, tokens=1)
    model = StagedRegressor(["law", "trees"], size=SIZE).fit(frame, loss, groups=frame["shape"])
    assert list(model.members_) == ["law"]
    assert "minimum of 8 is required" in model.unfit_["trees"]
    with pytest.raises(SpecError, match="minimum of 8 is required"):
        StagedRegressor(["trees"], size=SIZE).fit(frame, loss, groups=frame["shape"])


@pytest.mark.parametrize("groups", [4, 5])
def test_few_groups_do_not_crash(groups: int) -> None:
    frame, loss = law_table(shapes=groups, tokens=3, noise=0.01)
    names = ["chinchilla* + gp", "gp", "trees", "stack"]
    model = StagedRegressor(names, size=SIZE).fit(frame, loss, groups=frame["shape"])
    assert np.isfinite(model.predict(frame)).all()


def test_bad_input() -> None:
    frame, loss = law_table(shapes=3)
    with pytest.raises(SpecError, match="3 groups in 12 rows are too few to leave some out; at least 4"):
        StagedRegressor().fit(frame, loss, groups=frame["shape"])
    with pytest.raises(LookupError, match="unknown predictor 'forest'"):
        StagedRegressor(["forest"]).fit(*law_table(shapes=6))


def test_score_by_hand() -> None:
    found = score("x", np.array([1.0, 2.0, 4.0]), np.array([1.1, 2.0, 3.0]), [1, 1, 0], [1, 1, 1])
    assert found.mae == pytest.approx(1.1 / 3)
    assert found.relative == pytest.approx((0.1 + 0 + 0.25) / 3)
    assert (found.tau, found.spearman, found.coverage90) == (1.0, pytest.approx(1.0), 1.0)
    assert np.isnan(score("x", np.ones(3), np.ones(3), 1, 1).tau)


def test_effective_rows_lie_between_groups_and_rows() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10)
    alone = rng.normal(size=200)
    shared = np.repeat(rng.normal(size=20), 10)
    assert effective_count(alone, groups) > 120
    assert effective_count(shared, groups) == pytest.approx(20, rel=0.01)
    assert 20 < effective_count(shared + alone, groups) < 60
    assert effective_count(alone, None) == effective_count(alone, np.arange(200)) == 200


def test_intervals_of_few_groups_are_wider() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 10)
    mean = np.ones(120)
    target = np.exp(0.01 * np.repeat(rng.normal(size=12), 10) + 0.002 * rng.normal(size=120))
    rows, grouped = (Correction(target, mean, 0.01 * mean, g).factors[0.9] for g in (None, groups))
    assert grouped > rows


def test_weights_are_convex_and_find_the_better() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=60)
    predicted = np.stack([target + 0.1 * rng.normal(size=60), target + 1.0 * rng.normal(size=60)], axis=1)
    weights = convex_weights(predicted, target)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all() and weights[0] > 0.9


def test_a_stack_of_two_by_hand() -> None:
    mean, std = Stack.combine(np.array([0.5, 0.5]), np.log([[2.0, 8.0]]), np.array([[0.1, 0.1]])).T
    assert mean[0] == pytest.approx(4.0)  # geometric
    # 0.1^2 and the squared distance ln 2 of each from the middle
    assert std[0] / mean[0] == pytest.approx(np.sqrt(0.01 + np.log(2.0) ** 2))


def test_the_rules_are_the_documented_ones() -> None:
    assert module.COVERAGE_90 == (0.85, 0.95)
    assert module.LEAST_GROUPS == 4
