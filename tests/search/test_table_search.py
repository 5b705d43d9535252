"""The loop: what is asked, and how well; never twice, the same by seed, spread along the front."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from table_files import opened, write_table

import codesign
from codesign.errors import CodesignError
from codesign.search.table import Bound, parse_goal, read_candidates
from codesign.search.table_features import features_of, parse_cell
from codesign.search.table_model import MIN_ROWS, TableModel
from codesign.search.table_score import TrueFront, front_of
from codesign.search.table_search import TableSearch, replay

pytest.importorskip("gpytorch")
pytest.importorskip("xgboost")

NB201 = Path(codesign.__file__).parents[2] / "shared" / "data" / "nas" / "nb201_edge.csv"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    file = tmp_path_factory.mktemp("table") / "t.csv"
    write_table(file, 150, answered=None)
    return opened(file)


def test_never_twice_and_the_same_by_seed(whole) -> None:  # type: ignore[no-untyped-def]
    table, features = whole
    runs = [replay(table, features, 36, batch_size=8, seed=seed, first=12).order for seed in (3, 3, 4)]
    assert all(len(set(order)) == len(order) == 36 for order in runs)
    assert runs[0] == runs[1] != runs[2]


def test_better_than_chance(whole) -> None:  # type: ignore[no-untyped-def]
    """With 36 of 150 rows the front is nearly whole; 36 rows at random miss about twice as much."""
    table, features = whole
    truth = TrueFront(table, table.value)
    own = truth.regret(np.array(replay(table, features, 36, batch_size=8, seed=0, first=12).order))
    rng = np.random.default_rng(0)
    chance = np.mean([truth.regret(rng.permutation(len(table))[:36]) for _ in range(50)])
    assert own < 0.03 and own < 0.6 * chance


def test_a_batch_spreads_along_the_front(whole) -> None:  # type: ignore[no-untyped-def]
    table, features = whole
    search = _started(table, features, 20)
    ask = search.ask(10)
    assert ask.gain is not None and (np.diff(ask.gain[:8]) <= 1e-12).all()  # the last two are the bold ones
    cost = table.cost[ask.rows, 0]
    assert len(set(ask.rows.tolist())) == 10 and not set(ask.rows.tolist()) & set(search.order)
    assert np.ptp(cost) > 0.3 * np.ptp(table.cost) and len(np.unique(cost)) >= 8


def test_the_whole_table_can_be_asked(whole) -> None:  # type: ignore[no-untyped-def]
    """To the last row, also where nothing can gain any more; and no more than there are."""
    table, features = whole
    search = _started(table, features, 145)
    ask = search.ask(10)
    assert len(ask.rows) == 5
    search.tell(ask.rows, table.value[ask.rows])
    assert len(search.ask(10).rows) == 0
    assert search.front().tolist() == front_of(table, table.value, np.arange(len(table))).tolist()
    with pytest.raises(CodesignError, match="told twice"):
        search.tell(ask.rows[:1], table.value[ask.rows[:1]])


def test_a_first_batch_is_drawn_at_random(whole) -> None:  # type: ignore[no-untyped-def]
    table, features = whole
    search = _started(table, features, 0)
    ask = search.ask(16)
    assert ask.mean is None and len(set(ask.rows.tolist())) == 16
    assert ask.rows.tolist() == _started(table, features, 0).ask(16).rows.tolist()
    few = _started(table, features, MIN_ROWS - 1).ask(3)
    assert few.mean is None and len(few.rows) == MIN_ROWS


def test_failed_rows_are_learnt_from_and_never_on_the_front(whole) -> None:  # type: ignore[no-untyped-def]
    """Everything of one kind fails: after a few, the others are asked."""
    table, features = whole
    conv = np.array(table.column("op")) == "conv"
    search = replay(
        replace(table, value=np.where(conv, np.nan, table.value)), features, 44, batch_size=8, seed=0, first=12
    )
    assert not conv[search.front()].any()
    assert conv[search.order[20:]].mean() < 0.5 * conv.mean()


def test_rows_outside_a_bound_on_the_quality_are_never_on_the_front(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", 150, answered=None)
    table, features = opened(tmp_path / "t.csv", Bound("accuracy", 75.0, True))
    search = replay(table, features, 30, seed=0, first=12)
    assert (-search.value[search.front()] >= 75.0).all()
    with pytest.raises(CodesignError, match="no row whose accuracy keeps the bounds"):
        TrueFront(replace(table, bounds=(Bound("accuracy", 1e6, True),)), table.value)


def test_two_costs(whole) -> None:  # type: ignore[no-untyped-def]
    table, features = whole
    width = np.array(table.column("width"), dtype=float)
    both = replace(
        table, cost=np.column_stack([table.cost[:, 0], width]), costs=(*table.costs, parse_goal("width:min", "--cost"))
    )
    order = replay(both, features, 44, batch_size=8, seed=0, first=12).order
    truth = TrueFront(both, both.value)
    rng = np.random.default_rng(0)
    assert truth.regret(np.array(order)) < 0.5 * np.mean([truth.regret(rng.permutation(150)[:44]) for _ in range(30)])


def test_requests_that_cannot_be(whole, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    table, features = whole
    for evaluations in (0, 151):
        with pytest.raises(CodesignError, match="allowed: 1 to the 150 usable rows"):
            replay(table, features, evaluations)
    write_table(tmp_path / "t.csv", 60, answered=10)
    with pytest.raises(CodesignError, match=r"accuracy is empty in 50 of 60 usable rows; .* leave out"):
        replay(*opened(tmp_path / "t.csv"), 20)


def test_the_surrogate_is_judged_on_left_out_rows(whole) -> None:  # type: ignore[no-untyped-def]
    table, features = whole
    rows = np.arange(60)
    model = TableModel(features).fit(rows, table.value[rows])
    processes = {"gp on numbers", "gp on numbers, with trend", "gp on numbers and labels"}
    assert set(model.scores) == {*processes, "trees"}
    best = min(model.scores.values())
    assert set(model.used) == {name for name, score in model.scores.items() if score <= 1.25 * best}
    mean, std = model.predict()
    error = np.abs(mean - table.value)[60:]
    assert error.mean() < 0.2 * np.std(table.value) and (error < 1.645 * std[60:]).mean() > 0.7


def test_a_constant_quality_stops_nobody(whole) -> None:  # type: ignore[no-untyped-def]
    table, features = whole
    assert len(replay(replace(table, value=np.zeros(len(table))), features, 30, seed=0, first=12).order) == 30


@pytest.mark.skipif(not NB201.is_file(), reason="NAS-Bench-201 with latencies (../shared/data/nas) is absent")
def test_published_cells() -> None:
    """CIFAR-10 and Pixel 3, one seed, 60 trainings: random choice misses 0.22 of the hypervolume on average, this at most 0.19.

    Seed 0 is a poor one (0.164); seeds 100 to 106 miss 0.07 to 0.13.
    """
    bounds = [Bound("cifar10_test", 20.01, True), Bound("lat_ms_pixel3", 0.5, True)]
    goals = parse_goal("cifar10_test:max", "--quality"), [parse_goal("lat_ms_pixel3", "--cost", "min")]
    table = read_candidates(NB201, *goals, bounds)
    assert len(table) == 15_625 - 273  # as the data's README counts
    features = features_of(table, ["e??"], cell=parse_cell("none=0,layers=2+3"))
    order = replay(table, features, 60, seed=0).order
    assert TrueFront(table, table.value).regret(np.array(order)) < 0.19


def _started(table, features, count: int) -> TableSearch:  # type: ignore[no-untyped-def]
    """A search that knows `count` rows."""
    rows = np.random.default_rng(1).permutation(len(table))[:count]
    nothing = replace(table, value=np.full(len(table), np.nan), asked=np.zeros(len(table), dtype=bool))
    search = TableSearch(nothing, features, 0)
    search.tell(rows, table.value[rows])
    return search


def test_rows_with_the_same_features_stop_nobody(whole) -> None:  # type: ignore[no-untyped-def]
    """Fifteen kinds of rows, ten alike of each, whose qualities are equal to the last digit: a singular covariance."""
    table, features = whole
    kind = np.arange(len(table)) % 15
    alike = replace(features, numbers=features.numbers[kind], labels=features.labels[kind])
    model = TableModel(alike).fit(np.arange(120), table.value[kind[:120]])
    mean, std = model.predict()
    assert np.isfinite(mean).all() and np.isfinite(std).all()
    assert np.abs(mean - table.value[kind]).max() < 0.2 * np.ptp(table.value)
