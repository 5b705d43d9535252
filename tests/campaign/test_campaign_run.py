"""A campaign with a fake executor and a store in memory: order, resuming, failures, progress."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import PRIOR, TINY, Book, FakeEngine, dense, point_of, record, true_seconds

from codesign.architecture import Architecture
from codesign.campaign.local import run_here
from codesign.campaign.run import Campaign, Outcome, Progress, run_campaign
from codesign.errors import EngineLostError, MeasurementError
from codesign.measurement import Measurement
from codesign.operators import Phase
from codesign.profilers.base import Point, Task

POINTS = (Point.prefill(64), Point.decode(64))
PRIORS: dict[Phase, Any] = {"prefill": PRIOR, "decode": PRIOR}
RNG = np.random.default_rng(0)
POOL = list({repr(a): a for a in (dense(RNG) for _ in range(60))}.values())


def campaign(archs: Sequence[Architecture] = POOL[:4], **changes: Any) -> Campaign:
    values: dict[str, Any] = {
        "name": "c1", "architectures": archs, "precision": "fp32", "engine": "onnxruntime", "device": "host", "points": POINTS,
        "engine_options": {"threads": "1"},
    }  # fmt: skip
    return Campaign(**{**values, **changes})


class Executor:
    """Measures on the made-up machine; can fail, and can be killed before its n-th record."""

    def __init__(
        self,
        noise: Callable[[Task, Point], float] = lambda task, point: 0.01,
        fails: Callable[[Task], bool] = lambda task: False,
        killed_at: int | None = None,
    ) -> None:
        self.noise, self.fails, self.killed_at = noise, fails, killed_at
        self.visits: list[Architecture] = []
        self.stages: list[int] = []
        self.made = 0
        self.rng = np.random.default_rng(1)

    def __call__(self, tasks: Sequence[Task], on_record: Any, on_failure: Any) -> None:
        self.stages.append(len(tasks))
        for task in tasks:
            if self.fails(task):
                on_failure(task, MeasurementError("it does not fit"))
                continue
            self.visits.append(task.architecture)
            for point in task.points:
                if self.made == self.killed_at:
                    raise KeyboardInterrupt
                self.made += 1
                seconds = true_seconds(task.architecture, point) * np.exp(self.rng.exponential(self.noise(task, point)))
                on_record(record(task.architecture, point, float(seconds), campaign=task.campaign))


def run(of: Campaign, store: Book, executor: Executor, seen: list[Progress] | None = None) -> Outcome:
    return run_campaign(of, store, executor, priors=PRIORS, on_progress=None if seen is None else seen.append)


def complete(store: Book, of: Campaign) -> Counter[str]:
    """Whole visits by architecture."""
    counts = {(repr(a), p): 0 for a in of.architectures for p in of.points}
    for m in store.records:
        counts[repr(m.architecture), point_of(m)] += 1
    return Counter({repr(a): min(counts[repr(a), p] for p in of.points) for a in of.architectures})


def test_all_are_visited_once_before_any_is_visited_again() -> None:
    store, executor = Book(), Executor(noise=lambda task, point: 0.001)
    outcome = run(campaign(), store, executor)
    assert executor.visits == POOL[:4] * 2
    assert (outcome.architectures, outcome.records, outcome.failed) == (4, 16, [])
    again = Executor()
    assert run(campaign(), store, again).records == 0 and not again.visits


def test_what_does_not_repeat_is_visited_up_to_twice_more() -> None:
    wild = POOL[2]
    executor = Executor(
        noise=lambda task, point: 1.0 if task.architecture == wild and point.phase == "decode" else 0.001
    )
    store = Book()
    run(campaign(), store, executor)
    counts = Counter(map(repr, executor.visits))
    assert counts[repr(wild)] in (3, 4) and all(counts[repr(a)] == 2 for a in POOL[:4] if a != wild)
    quiet = Executor()
    run(campaign(again_log=99.0), Book(), quiet)
    assert len(quiet.visits) == 8


def test_more_visits_continue_a_campaign() -> None:
    store = Book()
    run(campaign(visits=1), store, Executor(noise=lambda task, point: 1e-6))
    executor = Executor(noise=lambda task, point: 1e-6)
    run(campaign(visits=3), store, executor)
    assert executor.visits == POOL[:4] * 2


def test_a_plan_fills_the_space_and_then_asks_the_fit() -> None:
    store, executor = Book(), Executor(noise=lambda task, point: 0.001)
    outcome = run(campaign(POOL, plan=14, visits=1), store, executor)
    assert executor.stages == [8, 4, 2] and outcome.architectures == 14 and len(set(map(repr, executor.visits))) == 14
    longer = Executor(noise=lambda task, point: 0.001)
    run(campaign(POOL, plan=16, visits=1), store, longer)  # a larger plan of the same pool goes on
    assert len(longer.visits) == 2 and not set(map(repr, longer.visits)) & set(map(repr, executor.visits))


def test_a_plan_is_the_same_again_and_takes_no_more_than_there_is() -> None:
    first, second = Executor(), Executor()
    run(campaign(POOL, plan=12), Book(), first)
    run(campaign(POOL, plan=12), Book(), second)
    assert first.visits == second.visits
    few = Executor()
    assert run(campaign(POOL[:3], plan=99, visits=1), Book(), few).architectures == 3


@pytest.mark.parametrize("killed_at", [1, 3, 7, 15, 16, 17, 21, 30])
@pytest.mark.parametrize(("plan", "visits"), [(None, 2), (10, 2), (10, 1)])
def test_a_killed_campaign_is_finished_by_the_same_command(killed_at: int, plan: int | None, visits: int) -> None:
    """Whatever the moment: every architecture gets all its visits, and no whole visit is made twice."""
    of = campaign(POOL if plan else POOL[:10], plan=plan, visits=visits, again_log=99.0)
    store = Book()
    with pytest.raises(KeyboardInterrupt) if killed_at < 20 * visits else nullcontext():
        run(of, store, Executor(killed_at=killed_at))
    before = complete(store, of)
    assert len(store.records) == min(killed_at, 20 * visits)  # each is there the moment it was made
    executor = Executor()
    run(of, store, executor)
    after = complete(store, of)
    assert sorted(n for n in after.values() if n) == [visits] * 10
    assert all(Counter(map(repr, executor.visits))[key] == after[key] - before[key] for key in after)


def test_a_task_that_fails_is_reported_and_the_others_go_on() -> None:
    bad = POOL[1]
    store, executor = Book(), Executor(fails=lambda task: task.architecture == bad)
    outcome = run(campaign(), store, executor)
    assert outcome.architectures == 3 and set(map(repr, executor.visits)) == {repr(a) for a in POOL[:4] if a != bad}
    assert outcome.failed == [(bad, "it does not fit")]  # once: it is not tried again in the second round


def test_a_plan_goes_on_around_what_fails() -> None:
    executor = Executor(fails=lambda task: task.architecture.n_layers > 8)
    outcome = run(campaign(POOL, plan=12, visits=1), Book(), executor)
    assert outcome.failed and outcome.architectures + len(outcome.failed) == 12
    assert len({repr(a) for a, _ in outcome.failed}) == len(outcome.failed)


def test_when_everything_fails_the_first_reason_is_the_error() -> None:
    with pytest.raises(MeasurementError, match="nothing could be measured: it does not fit"):
        run(campaign(), Book(), Executor(fails=lambda task: True))
    with pytest.raises(MeasurementError, match="nothing could be measured"):
        run(campaign(POOL, plan=12), Book(), Executor(fails=lambda task: True))


def test_a_store_that_fails_ends_the_campaign_and_keeps_what_it_has() -> None:
    store, executor = Book(full_after=5), Executor()
    with pytest.raises(MeasurementError, match="disk is full"):
        run(campaign(), store, executor)
    assert len(store.records) == 5 and len(executor.visits) == 3
    store.full_after = None
    run(campaign(again_log=99.0), store, again := Executor())
    assert len(again.visits) == 8 - 2  # two whole visits were kept


def told(seen: list[Progress]) -> None:
    assert seen and seen[0].label == "starting"
    for a, b in itertools.pairwise(seen):
        assert a.done <= b.done and a.total <= b.total
    assert all(0 <= p.done <= p.total for p in seen)


def test_progress_only_goes_up_and_ends_at_its_total() -> None:
    for of in (campaign(), campaign(POOL, plan=13)):
        seen: list[Progress] = []
        run(of, Book(), Executor(noise=lambda task, point: 0.2), seen)
        told(seen)
        assert seen[-1].done == seen[-1].total
        assert any(label.startswith("decode at context 64") for label in {p.label for p in seen})


def test_progress_goes_up_too_when_a_model_fails_at_its_second_visit() -> None:
    executor = Executor()
    executor.fails = lambda task: task.architecture == POOL[1] and len(executor.visits) >= 4
    seen: list[Progress] = []
    outcome = run(campaign(), Book(), executor, seen)
    told(seen)
    assert [a for a, _ in outcome.failed] == [POOL[1]] and seen[-1].done == seen[-1].total == 8
    assert outcome.architectures == 4  # it was measured once


def test_records_of_another_engine_or_precision_under_the_same_name_are_no_visits() -> None:
    """A person may give two campaigns one name; then neither counts the other's visits as its own."""
    store = Book()
    for changes in ({"engine": "torch"}, {"precision": "w4a32"}, {"options": {"threads": "2"}}, {"device": "orin"},
                    {"power_mode": "15W"}):  # fmt: skip
        store.records += [record(a, p, campaign="c1", **changes) for a in POOL[:4] for p in POINTS for _ in range(2)]
    executor = Executor(noise=lambda task, point: 1e-6)
    run(campaign(), store, executor)
    assert executor.visits == POOL[:4] * 2


def test_options_that_the_engine_adds_do_not_hide_a_record() -> None:
    """Of a board elsewhere the campaign knows what was asked for; the record also says what the engine took by default."""
    store = Book()
    options = {"threads": "1", "provider": "cpu"}
    store.records = [record(a, p, campaign="c1", options=options) for a in POOL[:4] for p in POINTS for _ in range(2)]
    executor = Executor()
    run(campaign(again_log=99.0), store, executor)
    assert not executor.visits


def test_deep_models_are_composed_if_asked() -> None:
    deep, shallow = TINY.evolve(n_layers=12), TINY.evolve(n_layers=7)
    of = campaign([deep, shallow], compose=True)
    assert of.task(deep).depths == (1, 4) and of.task(shallow).depths is None
    assert campaign([deep]).task(deep).depths is None
    mixed = deep.evolve(window_tokens=8, n_window_layers=6, family="mistral")
    assert of.task(mixed).depths is None


@pytest.fixture
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of the board in a folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.usefixtures("own_lock")
def test_here_a_model_that_fails_is_reported_and_a_store_that_fails_ends_all() -> None:
    tasks = [campaign().task(a) for a in POOL[:3]]
    kept: list[Measurement] = []
    failed: list[tuple[Task, Exception]] = []

    class Fails(FakeEngine):
        def load(self, arch: Architecture, *args: Any, **kwargs: Any) -> Any:
            if arch == POOL[1]:
                raise MeasurementError("no kernel")
            return super().load(arch, *args, **kwargs)

    run_here(Fails())(
        tasks, kept.append, lambda task, error: failed.append((task, error))
    )  # real clocks: it takes no time
    assert {repr(m.architecture) for m in kept} <= {repr(a) for a in (POOL[0], POOL[2])}
    assert [t.architecture for t, _ in failed if "no kernel" in str(_)] == [POOL[1]]

    def full(_: Measurement) -> None:
        raise MeasurementError("disk is full")

    failed.clear()
    engine = FakeEngine()
    with pytest.raises(MeasurementError, match="^disk is full$") as caught:
        run_here(engine)(tasks, full, lambda task, error: failed.append((task, error)))
    assert not failed and engine.log.count("close") == 1 and caught.value.__suppress_context__


@pytest.mark.usefixtures("own_lock")
def test_here_an_engine_that_runs_nothing_more_ends_the_campaign() -> None:
    loads = []

    class Lost(FakeEngine):
        def load(self, *args: Any, **kwargs: Any) -> Any:
            loads.append(args)
            raise EngineLostError("CUDA runs nothing more in this process")

    tasks = [campaign().task(TINY)] * 3
    with pytest.raises(EngineLostError, match="nothing more"):
        run_here(Lost())(tasks, lambda record: None, lambda task, error: pytest.fail(str(error)))
    assert len(loads) == 1


@pytest.mark.usefixtures("own_lock")
def test_here_the_machine_is_ours_alone_while_a_task_runs() -> None:
    from codesign.campaign.agent import board_lock

    def taken(_: Measurement) -> None:
        with pytest.raises(MeasurementError, match="another codesign process measures"), board_lock():
            pass

    run_here(FakeEngine())([campaign().task(TINY)], taken, lambda task, error: pytest.fail(str(error)))
    with board_lock():
        pass
