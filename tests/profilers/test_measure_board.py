"""One visit on made-up machines: which device, mode, memory and meter count. Engine and facts of boards are made up."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from synthetic import TINY, FakeEngine, Machine

from codesign.errors import MeasurementError, UnknownNameError
from codesign.measurement import Measurement
from codesign.profilers import measure
from codesign.profilers.base import Point, Task, TimingSettings, uses_accelerator
from codesign.profilers.host import detect_host
from codesign.profilers.jetson import JetsonFacts
from codesign.profilers.measure import check_memory, needed_bytes, run_task

POINTS = (Point.prefill(64), Point.decode(32))


def task(**changes: Any) -> Task:
    values: dict[str, Any] = {
        "architecture": TINY, "precision": "fp32", "engine": "fake", "engine_options": {}, "points": POINTS,
        "device": "host", "settings": TimingSettings(min_repeats=3, max_repeats=3),
    }  # fmt: skip
    return Task(**{**values, **changes})


def pretend(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Pretend that this machine is another; made up."""
    plain = {"jetson": None, "gpu_memory_B": None, "accelerator_device": None, "cpu_device": None}
    facts = dataclasses.replace(detect_host(), **{**plain, **changes})
    monkeypatch.setattr(measure, "detect_host", lambda root: facts)


def orin(mode: str | None = "MODE_30W", name: str | None = "30W") -> dict[str, Any]:
    device = "jetson_agx_orin_64gb"
    jetson = JetsonFacts(model="Jetson AGX Orin", device=device, power_mode=mode, catalogue_power_mode=name)
    return {"jetson": jetson, "accelerator_device": device}


GPU: dict[str, Any] = {"clock": "device", "options": {}}
ORIN: dict[str, Any] = {"device": "jetson_agx_orin_64gb", "power_mode": "30W"}


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A system that tells its memory and nothing else."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n")
    return str(tmp_path)


def run(engine: FakeEngine, root: str, of: Task | None = None, **more: Any) -> list[Measurement]:
    return run_task(of or task(), engine=engine, clocks=engine.machine.clocks, root=root, **more)


def test_the_provider_decides_what_runs_the_model_and_not_the_clock(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime on CUDA is timed by the wall clock, with a number of threads that it hardly uses."""
    asked: list[bool] = []
    monkeypatch.setattr(measure, "find_meter", lambda root, accelerator: asked.append(accelerator))
    seen: list[set[int]] = []

    class Looks(Machine):
        def work(self, cpu_s: float) -> None:
            seen.append(os.sched_getaffinity(0))
            super().work(cpu_s)

    engine = FakeEngine(Looks(), clock="wall", options={"threads": "1", "provider": "cuda"})
    records = run(engine, root)
    assert uses_accelerator(engine) and asked == [True] and all(m.peak_memory_B is None for m in records)
    assert not hasattr(os, "sched_getaffinity") or all(cpus == os.sched_getaffinity(0) for cpus in seen)
    for options, clock, on_gpu in (({"provider": "cpu"}, "cpu", False), ({}, "wall", False), ({}, "device", True)):
        assert uses_accelerator(FakeEngine(options=options, clock=clock)) is on_gpu
    run(FakeEngine(), root)
    assert asked == [True, False]


def test_the_memory_that_counts_is_the_accelerators_own(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = {"clock": "wall", "options": {"provider": "cuda"}}
    pretend(monkeypatch, gpu_memory_B=1000.0)
    with pytest.raises(MeasurementError, match="and 1 kB is free"):
        run(FakeEngine(**cuda), root)
    assert run(FakeEngine(), root) and run(FakeEngine(**cuda, device_memory_B=1e9), root)  # as the engine says
    pretend(monkeypatch, gpu_memory_B=None)  # shares the host's
    assert run(FakeEngine(**cuda), root)
    pretend(monkeypatch, gpu_memory_B=1000.0, jetson=JetsonFacts(model="Jetson"))
    assert run(FakeEngine(**cuda), root)


def test_tensorrt_needs_five_copies_of_the_weights_while_it_builds(root: str) -> None:
    free = needed_bytes(TINY, "fp32", POINTS, 4.0)
    assert run(FakeEngine(**GPU, device_memory_B=free), root)
    with pytest.raises(MeasurementError, match="5 times the weights"):
        run(FakeEngine(**GPU, device_memory_B=free, name="tensorrt"), root)
    check_memory(TINY, "fp32", POINTS, free)
    with pytest.raises(MeasurementError):
        check_memory(TINY, "fp32", POINTS, free, 5.0)


def test_a_board_is_refused_where_it_is_not_the_tasks_device(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, of = FakeEngine(**GPU), task(**ORIN)
    pretend(monkeypatch, **orin())
    assert all((m.power_mode, m.options) == ("30W", {}) for m in run(engine, root, of))
    assert run(FakeEngine(**GPU), root, task(device="orin", power_mode="30 w"))
    pretend(monkeypatch, accelerator_device="jetson_orin_nano_8gb")
    engine.log.clear()
    with pytest.raises(
        MeasurementError,
        match="not a 'jetson_agx_orin_64gb' but a 'jetson_orin_nano_8gb'; name --device jetson_orin_nano",
    ) as caught:
        run(engine, root, of)
    assert engine.log == [] and "\n" not in str(caught.value)  # nothing was built
    assert run(engine, root, dataclasses.replace(of, force=True))[0].device == "jetson_agx_orin_64gb"
    pretend(monkeypatch)
    with pytest.raises(MeasurementError, match="not a 'jetson_agx_orin_64gb' but .* CPUs, .* GB; name --device host"):
        run(engine, root, of)
    assert run(engine, root, task(device="host"))
    assert run(engine, root, task(device="my_own_board", power_mode="12W"))  # the user's word
    pretend(monkeypatch, cpu_device="raspberry_pi_5")
    assert run(FakeEngine(), root, task(device="raspberry_pi_5"))
    with pytest.raises(MeasurementError, match="not a 'raspberry_pi_5' but"):  # its CPU is not what runs the model
        run(engine, root, task(device="raspberry_pi_5"))


def test_a_power_mode_that_changes_in_a_campaign_is_noticed(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, of = FakeEngine(**GPU), task(**ORIN)
    pretend(monkeypatch, **orin())
    assert run(engine, root, of)
    pretend(monkeypatch, **orin("MODE_15W", "15W"))
    with pytest.raises(
        MeasurementError, match="is in power mode 15W, not 30W; set it with nvpmodel, name --power-mode 15W"
    ):
        run(engine, root, of)
    forced = run(engine, root, dataclasses.replace(of, force=True))
    assert all((m.power_mode, m.options) == ("30W", {"nvpmodel": "MODE_15W"}) for m in forced)
    pretend(monkeypatch, **orin(None, None))
    with pytest.raises(MeasurementError, match="nvpmodel does not tell the board's power mode; allowed: MAXN, "):
        run(engine, root, of)
    pretend(monkeypatch, **orin("MY_MODE", None))
    with pytest.raises(MeasurementError, match="'jetson_agx_orin_64gb' has no power mode 'MY_MODE'; allowed: MAXN, "):
        run(engine, root, of)
    with pytest.raises(UnknownNameError, match="unknown power mode '99W'"):
        run(engine, root, dataclasses.replace(of, power_mode="99W"))


def test_modes_that_the_catalogue_does_not_know_keep_visits_apart(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for mode in ("MAXN", "5W"):
        jetson = JetsonFacts(model="Jetson Nano", device="jetson_nano_4gb", power_mode=mode)
        pretend(monkeypatch, jetson=jetson, accelerator_device="jetson_nano_4gb")
        of = task(device="jetson_nano_4gb")
        first = run(FakeEngine(**GPU), root, of)[0]
        assert first.options == {"nvpmodel": mode} and first.power_mode is None
        keys.add(first.key)
        on_cpu = run(FakeEngine(), root, task(device="host"))[0]
        assert on_cpu.options == {"threads": "1", "nvpmodel": mode}
    assert len(keys) == 2
