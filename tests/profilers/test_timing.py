"""The timing loop on a simulated machine, and what the visits' statistic is worth there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from synthetic import POINTS, TINY, Machine, record

from codesign.errors import SpecError
from codesign.measurement import epoch_medians, observe
from codesign.profilers.base import Point, TimingSettings
from codesign.profilers.timing import Timed, time_pass, time_points


def passes(machine: Machine, times: Iterator[float]) -> Callable[[], None]:
    return lambda: machine.work(next(times))


def timed(times: Iterator[float], **settings: float) -> tuple[Timed, Machine]:
    machine = Machine(stolen=0.25)
    return time_pass(passes(machine, times), TimingSettings(**settings), machine.clocks), machine  # type: ignore[arg-type]


def test_warm_up_ends_when_two_passes_agree() -> None:
    slow = [1.0, 0.5, 0.2, 0.1, 0.104]  # the fifth is within 5 % of the fourth
    got, _ = timed(itertools.chain(slow, itertools.repeat(0.1)), min_repeats=3, max_repeats=3)
    assert got.cpu_s == pytest.approx((0.1,) * 3) and got.flags == ()


def test_wall_and_process_time_are_kept_raw_and_in_order() -> None:
    warm = [0.1, 0.1]
    got, _ = timed(iter([*warm, 0.11, 0.12, 0.1, 0.13]), min_repeats=4, max_repeats=4)
    assert got.cpu_s == pytest.approx((0.11, 0.12, 0.1, 0.13))
    assert got.wall_s == pytest.approx([1.25 * t for t in got.cpu_s]) and got.device_s == ()


def test_the_accelerators_own_times_are_kept() -> None:
    machine, own = Machine(), itertools.count(1)

    def run() -> float:
        machine.work(0.1)
        return 0.01 * next(own)

    got = time_pass(run, TimingSettings(min_repeats=3, max_repeats=3), machine.clocks)
    assert got.device_s == pytest.approx((0.03, 0.04, 0.05)) and len(got.wall_s) == 3


def test_a_machine_that_never_settles_is_flagged() -> None:
    got, machine = timed(itertools.cycle([0.1, 0.2]), min_repeats=4, max_repeats=4)
    assert got.flags == ("unsteady",)
    assert machine.cpu - 50 == pytest.approx(20 * 0.15 + 4 * 0.15)  # 20 warm-up passes and no more


@pytest.mark.parametrize(
    ("each", "settings", "count", "flags"),
    [
        (0.01, {"min_repeats": 5, "max_repeats": 1000, "min_time_s": 1.0}, 80, ()),  # until min_time_s, at 12.5 ms a pass
        (0.01, {"min_repeats": 5, "max_repeats": 9, "min_time_s": 1.0}, 9, ()),
        (1.0, {"min_repeats": 5, "min_time_s": 0.1}, 5, ()),
        (8.0, {"min_repeats": 5, "max_time_s": 20.0}, 2, ("few",)),  # 10 s a pass: the second ends at the limit
        (30.0, {"min_repeats": 5, "max_time_s": 20.0}, 1, ("unsteady", "few")),  # one pass is longer than the limit
    ],
)  # fmt: skip
def test_repeats_and_limits(each: float, settings: dict[str, float], count: int, flags: tuple[str, ...]) -> None:
    got, _ = timed(itertools.repeat(each), **settings)
    assert (len(got.wall_s), got.flags) == (count, flags)


def test_drift_is_flagged_and_noise_is_not() -> None:
    rising = (0.1 * 1.02**i for i in range(100))  # a machine that heats up: 2 % a pass
    assert timed(rising, min_repeats=20, max_repeats=20)[0].flags == ("drift",)
    rng = np.random.default_rng(0)
    noisy = (0.1 * float(np.exp(rng.normal(0, 0.05))) for _ in range(100))
    assert timed(noisy, min_repeats=40, max_repeats=40, settle=0.5)[0].flags == ()
    assert "drift" not in timed(iter([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 9.0]), min_repeats=5, max_repeats=5)[0].flags


@pytest.mark.parametrize(
    "bad",
    [
        {"min_repeats": 0},
        {"min_repeats": 9, "max_repeats": 8},
        {"min_time_s": -1},
        {"min_time_s": 30},
        {"min_epochs": 0},
        {"min_epochs": 5},
        {"agree": -0.1},
    ],
)
def test_limits_out_of_order_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="in order"):
        TimingSettings(**bad)  # type: ignore[arg-type]


class Turns(Machine):
    """Notes which pass ran; a pass takes what its list says, in turn, then what its last entry says."""

    def __init__(self, times: dict[Point, list[float]]) -> None:
        super().__init__(stolen=0.0)
        self.left, self.ran = {p: list(t) for p, t in times.items()}, []

    def runs(self) -> dict[Point, Callable[[], None]]:
        return {point: (lambda point=point: self.one(point)) for point in self.left}  # type: ignore[misc]

    def one(self, point: Point) -> None:
        self.ran.append(point)
        left = self.left[point]
        self.work(left.pop(0) if len(left) > 1 else left[0])


A, B = POINTS[0], POINTS[2]
THREE = {"min_repeats": 3, "max_repeats": 3, "min_time_s": 0.0, "max_epochs": 4}


def in_turns(times: dict[Point, list[float]], **settings: float) -> tuple[dict[Point, Timed], Turns]:
    machine = Turns(times)
    return time_points(machine.runs(), TimingSettings(**{**THREE, **settings}), "cpu", machine.clocks), machine  # type: ignore[arg-type]


def test_epochs_of_several_passes_are_interleaved() -> None:
    found, machine = in_turns({A: [0.1], B: [0.2]})
    assert machine.ran == [A] * 5 + [B] * 5 + [A] * 4 + [B] * 4  # two passes to warm up, later one; three timed
    assert [(t.epochs, len(t.cpu_s), t.flags) for t in found.values()] == [((3, 3), 6, ())] * 2
    assert found[B].cpu_s == pytest.approx((0.2,) * 6) and list(found) == [A, B]


def epochs(*each: float) -> list[float]:
    """Times of a pass whose epochs take so long: two passes to warm up, later one, and three timed."""
    return [each[0], *(t for t in each for _ in range(4))]


@pytest.mark.parametrize(
    ("each", "count"),
    [
        ((0.1, 0.101), 2), ((0.1, 0.12, 0.12), 4), ((0.12, 0.1, 0.101), 3), ((0.13, 0.12, 0.11, 0.1), 4),
        ((0.1, 0.13, 0.1), 3),
    ],
)  # fmt: skip
def test_epochs_follow_until_the_two_best_agree(each: tuple[float, ...], count: int) -> None:
    found, machine = in_turns({A: epochs(*each), B: [0.2]})
    assert found[A].epochs == (3,) * count and found[B].epochs == (3, 3)
    assert min(epoch_medians(found[A].cpu_s, found[A].epochs)) == pytest.approx(min(each))
    assert machine.ran[10:18] == [A] * 4 + [B] * 4 and set(machine.ran[18:]) <= {A}


def test_epochs_end_at_the_time_limit_and_at_their_number() -> None:
    disagree = epochs(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert in_turns({A: disagree}, max_epochs=6)[0][A].epochs == (3,) * 6
    assert in_turns({A: disagree}, max_epochs=6, max_time_s=1.0)[0][A].epochs == (3, 3, 3)  # 0.3, 0.9, then 1.8 s
    assert in_turns({A: disagree}, min_epochs=1, max_epochs=1)[0][A].epochs == (3,)
    assert in_turns({A: epochs(0.1, 0.1)}, min_epochs=1, max_epochs=5)[0][A].epochs == (
        3,
        3,
    )  # one alone agrees with nothing


def test_the_clock_that_counts_decides_whether_epochs_agree() -> None:
    machine = Turns({A: [0.1]})
    own = itertools.chain([0.1] * 5, [0.2] * 4, [0.1] * 99)

    def run() -> float:
        machine.one(A)
        return next(own)

    settings = TimingSettings(**THREE)  # type: ignore[arg-type]
    assert time_points({A: run}, settings, "device", machine.clocks)[A].epochs == (3, 3, 3)
    assert time_points({A: run}, settings, "wall", machine.clocks)[A].epochs == (3, 3)


class SlowlyBusy(Machine):
    """A shared machine: other load adds time, the same for a minute, drawn anew for the next; 1 % jitter beside it."""

    def __init__(self, rng: np.random.Generator, load: Callable[[np.random.Generator], float]) -> None:
        super().__init__(stolen=0.0)
        self.rng, self.load, self.until, self.extra = rng, load, 0.0, 0.0

    def work(self, cpu_s: float) -> None:
        if self.now >= self.until:
            self.until, self.extra = self.now + 60.0, self.load(self.rng)
        super().work(cpu_s * math.exp(self.extra + self.rng.normal(0, 0.01)))


LOADS = {
    "exponential 2 %": lambda rng: rng.exponential(0.02),
    "exponential 15 %": lambda rng: rng.exponential(0.15),
    "half normal 5 %": lambda rng: abs(rng.normal(0, 0.05)),
    "lognormal 5 %": lambda rng: 0.05 * math.exp(rng.normal(0, 0.75)),
    "lognormal 15 %, long tail": lambda rng: 0.15 * math.exp(rng.normal(0, 1.25)),
}


@pytest.mark.parametrize("visits", [2, 3, 5])
@pytest.mark.parametrize("load", LOADS)
def test_what_again_log_says_of_a_second_measurement(load: str, visits: int) -> None:
    """`Observation.again_log` is a scale: the statistic measured again moves by at most that in about half to two thirds
    of the cases, by at most three times that in about four fifths, and its median over passes is not too small.

    The spread within a visit says how the pass repeats for a second: it would be far too narrow.
    """
    rng = np.random.default_rng(len(load) + visits)
    settings = TimingSettings(min_repeats=5, max_repeats=5, min_time_s=0.0)
    moved, again, within = [], [], []
    for _ in range(300):
        machine = SlowlyBusy(rng, LOADS[load])
        both = []
        for _ in range(2):
            found = []
            for _ in range(visits):
                one = time_points(
                    {POINTS[0]: lambda machine=machine: machine.work(0.1)}, settings, "cpu", machine.clocks
                )  # type: ignore[misc]
                found.append(record(TINY, POINTS[0], cpu_s=one[POINTS[0]].cpu_s, epochs=one[POINTS[0]].epochs))
                machine.now += 600.0  # visits lie apart by more than the load lasts
            both += observe(found)
        first, second = both
        assert first.visits == visits and first.seconds >= 0.098  # never faster than the machine itself
        moved.append(abs(math.log(second.seconds / first.seconds)))
        again.append(first.again_log)
        best = np.log(min((m.cpu_s for m in found), key=np.median))
        within.append(1.2533 * np.std(best, ddof=1) / math.sqrt(len(best)))  # standard error of a median
    m, a, w = np.array(moved), np.array(again), np.array(within)
    assert 0.45 < np.mean(m <= a) < 0.76
    assert 0.72 < np.mean(m <= 3 * a) < 0.92
    assert np.median(m) < 1.3 * np.median(a) < 4 * np.median(m)  # 0.4 to 0.93; of 300 cases it is known to about 0.1
    assert np.mean(m <= 2 * w) < (0.3 if "15 %" in load else 0.8)  # an interval that claims 95 %
