"""One visit, with a fake engine on a simulated machine: what the records carry, and what happens when something fails."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from synthetic import TINY, FakeEngine, Machine, true_seconds

from codesign.architecture import Architecture
from codesign.campaign import local
from codesign.errors import MeasurementError, SchemaError, SpecError
from codesign.measurement import Measurement
from codesign.profilers import measure
from codesign.profilers.base import Point, Task, TimingSettings
from codesign.profilers.host import detect_host
from codesign.profilers.measure import check_memory, needed_bytes, run_task
from codesign.profilers.meters import Energy

POINTS = (Point.prefill(64), Point.prefill(8, 2), Point.decode(32))
MEMINFO = "MemTotal: {total} kB\nMemAvailable: {free} kB\n"


def task(arch: Architecture = TINY, **changes: Any) -> Task:
    values: dict[str, Any] = {
        "architecture": arch, "precision": "fp32", "engine": "fake", "engine_options": {"threads": "1"}, "points": POINTS,
        "device": "orin", "power_mode": "30W", "campaign": "c1", "settings": TimingSettings(min_repeats=3, max_repeats=3),
        "force": True,  # these machines are made up
    }  # fmt: skip
    return Task(**{**values, **changes})


GPU: dict[str, Any] = {"clock": "device", "options": {}}


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A system that tells its memory and nothing else."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO.format(total=8_000_000, free=4_000_000))
    return str(tmp_path)


def run(engine: FakeEngine, root: str, of: Task | None = None, **more: Any) -> list[Measurement]:
    return run_task(of or task(), engine=engine, clocks=engine.machine.clocks, root=root, **more)


def test_records_carry_everything(root: str) -> None:
    engine, seen = FakeEngine(), []
    records = run(engine, root, on_record=lambda m: seen.append((m, list(engine.log))))
    assert [m for m, _ in seen] == records and all(
        log == ["load 2 fp32 64"] for _, log in seen
    )  # at once, before close
    assert engine.log == ["load 2 fp32 64", "close"]  # 64: the longest context of the points
    for m, point in zip(records, POINTS, strict=True):
        assert (m.phase, m.batch_size, m.tokens, m.context_tokens) == dataclasses.astuple(point)
        assert (m.architecture, m.precision, m.device, m.power_mode, m.campaign) == (TINY, "fp32", "orin", "30W", "c1")
        assert (m.engine, m.engine_version, m.options, m.clock) == ("fake", "7.0", {"threads": "1"}, "cpu")
        assert m.cpu_s == pytest.approx([true_seconds(TINY, point)] * 6) and m.epochs == (3, 3)
        assert m.wall_s == pytest.approx([1.1 * t for t in m.cpu_s]) and m.device_s == ()
        assert m.peak_memory_B is not None and m.peak_memory_B > 1e6
        assert m.energy_J is None and m.power_W is None and m.flags == () and m.source == "profile"
        assert m.host["memory_B"] == "8192000000" and "python" in m.host and m.created_at.endswith("+00:00")
        assert set(m.state) == {"before", "after"}
        assert Measurement.from_dict(json.loads(json.dumps(m.to_dict()))) == m


def test_the_accelerators_clock_counts_where_the_engine_has_one(root: str) -> None:
    records = run(FakeEngine(clock="device", options={}, device_memory_B=1e9), root)
    assert all(m.times == m.device_s and len(m.wall_s) == 6 for m in records)
    assert all(m.peak_memory_B is None for m in records)  # the process's own memory is not the model's


def test_memory_is_refused_before_the_model_is_built(root: str) -> None:
    Path(root, "proc/meminfo").write_text(MEMINFO.format(total=8_000_000, free=400))
    engine = FakeEngine()
    with pytest.raises(
        MeasurementError, match=r"2 layers x 64 at fp32 needs about .* is free; take a smaller"
    ) as caught:
        run(engine, root)
    assert engine.log == [] and "\n" not in str(caught.value)
    with pytest.raises(MeasurementError, match=r"needs about .* 1 kB is free"):
        run(FakeEngine(device_memory_B=1000.0), root)  # of the accelerator, where the models live there
    check_memory(TINY, "fp32", POINTS, None)  # unknown: not refused


def test_what_a_visit_needs_grows_with_all_that_takes_memory() -> None:
    base = needed_bytes(TINY, "fp32", [Point.decode(32)])
    assert base > 2.5 * 4 * TINY.params_total * 0.99
    for more in (
        needed_bytes(TINY.evolve(n_layers=4), "fp32", [Point.decode(32)]),
        needed_bytes(TINY, "fp32", [Point.decode(64)]),
        needed_bytes(TINY, "fp32", [Point.decode(32, 2)]),
        needed_bytes(TINY, "fp32", [Point.decode(32), Point.prefill(33)]),
        needed_bytes(TINY, "fp32", [Point.decode(32), Point.decode(31)]),
    ):
        assert more > base
    assert needed_bytes(TINY, "w4a32", [Point.decode(32)]) < base
    assert needed_bytes(TINY, "fp32", [Point.decode(32)], 5.0) - base == pytest.approx(
        2.5 * 4 * TINY.params_total, rel=0.01
    )


class Breaks(FakeEngine):
    """Raises `error` where it is told to: load, runner, a pass, or close."""

    def __init__(self, where: str, error: Exception, **changes: Any) -> None:
        super().__init__(where=where, error=error, **changes)

    def load(self, arch: Architecture, precision: str, **options: Any) -> Any:
        if self.where == "load":
            raise self.error
        model = super().load(arch, precision, **options)
        plain, plain_close = model.runner, model.close

        def runner(point: Point) -> Any:
            if self.where == "runner":
                raise self.error
            return self.breaks if self.where == "pass" else plain(point)

        def close() -> None:
            plain_close()
            if self.where == "close":
                raise self.error

        model.runner, model.close = runner, close  # type: ignore[method-assign]
        return model

    def breaks(self) -> float:
        raise self.error


@pytest.mark.parametrize("where", ["load", "runner", "pass", "close"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA error: out of memory\nSearch for cudaErrorMemoryAllocation"), r"fake 7.0 failed \(RuntimeError\): CUDA error: out of memory$"),
        (MemoryError(), r"fake 7.0 failed \(MemoryError\): MemoryError$"),
    ],
)  # fmt: skip
def test_whatever_an_engine_raises_is_a_measurement_error(root: str, where: str, error: Exception, said: str) -> None:
    engine = Breaks(where, error)
    with pytest.raises(MeasurementError, match=said) as caught:
        run(engine, root)
    assert caught.value.__cause__ is error and (where == "load" or engine.log[-1] == "close")
    with pytest.raises(SpecError, match="as it is"):  # codesign's own errors have their line already
        run(Breaks(where, SpecError("as it is")), root)


def test_a_model_that_fails_does_not_end_the_campaign(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "board_lock", lambda wait_s: contextlib.nullcontext())
    monkeypatch.setattr(measure, "detect_host", lambda at: detect_host(root))
    engine, told = Breaks("pass", RuntimeError("CUDA out of memory")), list[str]()
    local.run_here(engine)([task(), task()], lambda m: None, lambda of, why: told.append(str(why)))
    assert told == ["engine fake 7.0 failed (RuntimeError): CUDA out of memory"] * 2


def test_an_engine_that_fails_in_a_pass_is_closed_and_the_visit_leaves_nothing(root: str) -> None:
    """The passes are timed in turns: none was timed to its end."""
    engine = FakeEngine(fail_in=POINTS[2])
    kept: list[Measurement] = []
    affinity = os.sched_getaffinity(0)
    with pytest.raises(MeasurementError, match="failed in a pass"):
        run(engine, root, on_record=kept.append)
    assert engine.log[-1] == "close" and not kept and os.sched_getaffinity(0) == affinity


def test_a_record_that_cannot_be_kept_closes_the_model(root: str) -> None:
    def full(_: Measurement) -> None:
        raise OSError(28, "No space left on device")

    engine = FakeEngine()
    with pytest.raises(OSError, match="No space"):
        run(engine, root, on_record=full)
    assert engine.log[-1] == "close"
    with pytest.raises(OSError, match="No space"):  # although the engine cannot be closed either
        run(Breaks("close", RuntimeError("closed twice")), root, on_record=full)


def test_a_clock_that_stands_still_is_refused(root: str) -> None:
    engine = FakeEngine()
    engine.machine.work = lambda seconds: None  # type: ignore[method-assign]
    with pytest.raises(MeasurementError, match="holds 0.0; allowed: finite seconds above zero"):
        run(engine, root)
    assert engine.log[-1] == "close"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin threads")
def test_threads_of_a_cpu_engine_are_pinned_during_the_visit_only(root: str) -> None:
    allowed = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    class Looks(Machine):
        def work(self, cpu_s: float) -> None:
            seen.append(os.sched_getaffinity(0))
            super().work(cpu_s)

    run(FakeEngine(Looks()), root)
    assert all(cpus == {max(allowed)} for cpus in seen) and os.sched_getaffinity(0) == allowed
    seen.clear()
    run(FakeEngine(Looks(), clock="device"), root)
    assert all(cpus == allowed for cpus in seen)


class FakeMeter:
    """Made up: 5 W whatever runs; or a sensor that failed."""

    name, min_seconds, reason = "fake", 6.0, "sensor gone"

    def __init__(self, machine: Machine, fails: bool = False) -> None:
        self.machine, self.fails, self.started = machine, fails, 0.0

    def start(self) -> None:
        self.started = self.machine.now

    def stop(self) -> Energy | None:
        seconds = self.machine.now - self.started
        assert seconds >= self.min_seconds
        watts = 5.0
        return None if self.fails else Energy(energy_J=watts * seconds, seconds=seconds, mean_power_W=watts, rails={}, source="fake")  # fmt: skip


def test_energy_is_of_one_pass_over_a_window_that_the_meter_can_resolve(root: str, monkeypatch: Any) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(measure, "find_meter", lambda root, accelerator: FakeMeter(engine.machine))
    for m in run(engine, root):
        assert m.energy_J == pytest.approx(5.0 * m.wall_s[0]) and m.power_W == 5.0
        assert m.state["energy"].startswith("fake over 6.")


def test_a_meter_that_fails_leaves_energy_empty_and_says_why(root: str, monkeypatch: Any) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(measure, "find_meter", lambda root, accelerator: FakeMeter(engine.machine, fails=True))
    for m in run(engine, root):
        assert m.energy_J is None and m.power_W is None and m.state["energy"] == "fake: sensor gone"


def test_a_clock_that_falls_during_the_passes_marks_the_record(root: str) -> None:
    frequency = Path(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    frequency.parent.mkdir(parents=True)
    frequency.write_text("3500000")

    class Hot(Machine):
        passes = 0

        def work(self, cpu_s: float) -> None:
            self.passes += 1
            if self.passes == 5:  # after the warm-up, among the timed passes
                frequency.write_text("2000000")
            super().work(cpu_s)

    for m in run(FakeEngine(Hot()), root):  # the passes are timed in turns: all saw it
        assert m.flags == ("throttled",) and "CPU clock fell from 3.5 to 2 GHz" in m.state["throttled"]
        assert m.state["before"]["cpu_clock_Hz"] == 3.5e9 and m.state["after"]["cpu_clock_Hz"] == 2e9

    frequency.write_text("3500000")
    assert run(FakeEngine(Hot(), **GPU), root)[0].flags == ()  # the CPU waits for the accelerator
    frequency.write_text("800000")  # an idle machine

    class Wakes(Machine):
        def work(self, cpu_s: float) -> None:
            frequency.write_text("3500000")
            super().work(cpu_s)

    first = run(FakeEngine(Wakes()), root)[0]
    assert first.flags == () and first.state["before"]["cpu_clock_Hz"] == 3.5e9  # looked at when warm


def test_two_depths_are_composed_to_the_whole_model(root: str) -> None:
    deep = TINY.evolve(n_layers=12)
    engine = FakeEngine()
    records = run(engine, root, task(deep, depths=(1, 3)))
    assert [m.architecture.n_layers for m in records] == [1] * 3 + [3] * 3 + [12] * 3
    assert engine.log == ["load 1 fp32 64", "close", "load 3 fp32 64", "close"]  # the whole model is never built
    for m, point in zip(records[6:], POINTS, strict=True):
        assert m.seconds == pytest.approx(true_seconds(deep, point), rel=1e-6) and m.flags == ("composed",)


@pytest.mark.parametrize("depths", [(0, 3), (3, 3), (4, 3), (1, 2), (1, 9)])
def test_depths_that_make_no_sense_are_refused(depths: tuple[int, int]) -> None:
    with pytest.raises(SpecError, match="two rising depths below the model's 2 layers"):
        task(depths=depths)


def test_a_task_comes_back_from_json_and_a_foreign_one_is_refused() -> None:
    for of in (task(), task(TINY.evolve(n_layers=9), depths=(1, 3), power_mode=None, force=False)):
        assert Task.from_dict(json.loads(json.dumps(of.to_dict()))) == of
    for change in ({"points": [{"phase": "decode", "spin": 1}]}, {"settings": None}, {"extra": 1}, {"architecture": 3}):
        with pytest.raises(SchemaError, match="same version of codesign"):
            Task.from_dict({**task().to_dict(), **change})
    with pytest.raises(SpecError, match="at least one pass"):
        task(points=())
    with pytest.raises(SpecError, match="at least one request"):
        Point.decode(-1)
