"""Power meters on fake trees, a fake tegrastats and a fake NVML."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from platform_trees import DATA, build_tree, fake_nvml, hide_nvml, put

from codesign.errors import MeasurementError, UnknownNameError
from codesign.profilers.meter_base import SampledMeter, mean_power
from codesign.profilers.meter_ina3221 import find_rails, open_ina3221, total_rails
from codesign.profilers.meter_nvml import NvmlCounter, open_nvml
from codesign.profilers.meter_rapl import open_rapl
from codesign.profilers.meter_tegrastats import TegrastatsMeter, parse_tegrastats
from codesign.profilers.meters import METER_KINDS, find_meter


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide_nvml(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # a Jetson that runs these tests has a tegrastats


def test_ina3221_of_orin_nano(tmp_path: Path) -> None:
    meter = open_ina3221(build_tree("orin_nano_super_jp62", tmp_path))
    meter.min_seconds = 0.1
    meter.start()
    time.sleep(0.2)
    energy = meter.stop()
    assert energy is not None
    assert energy.mean_power_W == pytest.approx(4.968 * 1.520)  # the total; the other rails are parts of it
    assert energy.energy_J == pytest.approx(energy.mean_power_W * energy.seconds)
    assert energy.rails["VDD_CPU_GPU_CV"] == pytest.approx(4.960 * 1.784 * energy.seconds)
    assert set(energy.rails) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert 0.2 <= energy.seconds < 5
    assert energy.source == "INA3221 VDD_IN"
    assert "carrier" in energy.note


def test_ina3221_follows_a_change(tmp_path: Path) -> None:
    root = build_tree("orin_nano_super_jp62", tmp_path)
    meter = open_ina3221(root)
    meter.min_seconds = 0.1
    meter.start()
    time.sleep(0.3)
    put(root, "sys/class/hwmon/hwmon1/curr1_input", 2 * 1520)
    time.sleep(0.3)
    energy = meter.stop()
    assert energy is not None
    assert 1.1 < energy.mean_power_W / (4.968 * 1.520) < 1.9


def test_ina3221_of_agx_orin_has_no_total_rail(tmp_path: Path) -> None:
    rails = find_rails(build_tree("agx_orin_64gb_jp62", tmp_path))
    assert set(rails) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}  # no NC, no shunt sums
    meter = open_ina3221(tmp_path)
    meter.min_seconds = 0.0
    meter.start()
    energy = meter.stop()
    assert energy is not None
    expected = (12008 * 280 + 12008 * 40 + 4968 * 980) / 1e6  # VDDQ_VDD2_1V8AO is inside VIN_SYS_5V0
    assert energy.mean_power_W == pytest.approx(expected)


def test_rails_without_a_known_total_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "ina3221")
    for n, label in enumerate(("VDD_GPU", "VDD_NEW"), 1):
        put(tmp_path, f"sys/class/hwmon/hwmon0/in{n}_label", label)
        put(tmp_path, f"sys/class/hwmon/hwmon0/in{n}_input", 5000)
        put(tmp_path, f"sys/class/hwmon/hwmon0/curr{n}_input", 100)
    with pytest.raises(MeasurementError, match="VDD_GPU, VDD_NEW: which of them make the total is not known"):
        open_ina3221(tmp_path)
    assert find_meter(tmp_path, accelerator=True) is None


def test_sensor_that_fails_in_the_window(tmp_path: Path) -> None:
    root = build_tree("orin_nx_16gb_jp5", tmp_path)
    meter = open_ina3221(root)
    meter.min_seconds = 0.05
    meter.start()
    (root / "sys/class/hwmon/hwmon4/curr2_input").unlink()
    time.sleep(0.15)
    assert meter.stop() is None
    assert "it needs at least 0.05 s" in meter.reason


def test_sampled_meter_misuse_and_short_window() -> None:
    meter = SampledMeter(name="fake", source="fake meter", read=lambda: {"a": 1.0}, total=("a",), min_seconds=5.0)
    with pytest.raises(MeasurementError, match="not running"):
        meter.stop()
    meter.start()
    with pytest.raises(MeasurementError, match="already running"):
        meter.start()
    assert meter.stop() is None
    assert meter.reason.startswith("fake meter: the window had")
    meter.min_seconds = 0.0
    meter.start()  # can be used again
    assert meter.stop() is not None
    assert meter.reason == ""


def test_zero_power_is_no_energy() -> None:
    meter = SampledMeter(name="fake", source="fake meter", read=lambda: {"a": 0.0}, total=("a",), min_seconds=0.0)
    meter.start()
    assert meter.stop() is None
    assert "cannot be" in meter.reason


def test_mean_power_is_weighted_by_time() -> None:
    samples = [(0.0, {"a": 2.0, "b": 1.0}), (1.0, {"a": 2.0, "b": 1.0}), (1.5, {"a": 6.0})]
    assert mean_power(samples) == {"a": pytest.approx((2 * 1 + 4 * 0.5) / 1.5)}
    assert mean_power(samples[:1]) == {}


LINES = [line for line in (DATA / "tegrastats.txt").read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        (LINES[0], {"VDD_IN": 4.742, "VDD_CPU_GPU_CV": 0.482, "VDD_SOC": 1.446}),
        (LINES[1], {"VDD_GPU_SOC": 3.178, "VDD_CPU_CV": 0.794, "VIN_SYS_5V0": 4.543}),
        (LINES[2], {"VDD_IN": 9.761, "VDD_CPU_GPU_CV": 4.238, "VDD_SOC": 1.825}),
        (LINES[3], {"POM_5V_IN": 2.132, "POM_5V_GPU": 0.078, "POM_5V_CPU": 0.275}),
        (LINES[4], {"GPU": 0.0, "CPU": 0.465, "SOC": 1.242, "CV": 0.0, "VDDRQ": 0.31, "SYS5V": 2.76}),
        ("tegrastats: command not found", {}),
    ],
)
def test_tegrastats_lines(line: str, watts: dict[str, float]) -> None:
    assert parse_tegrastats(line) == watts
    assert bool(total_rails(watts)) == bool(watts)


def _script(path: Path, body: str) -> str:
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{body}")
    path.chmod(0o755)
    return str(path)


def test_tegrastats_process(tmp_path: Path) -> None:
    """A fake tegrastats that prints a transcribed line at the interval it was given."""
    body = f"while True:\n    print({LINES[1]!r}, flush=True)\n    time.sleep(int(sys.argv[2]) / 1e3)\n"
    meter = TegrastatsMeter(_script(tmp_path / "tegrastats", body), interval_ms=50)
    meter.start()
    with pytest.raises(MeasurementError, match="already running"):
        meter.start()
    time.sleep(0.3)
    assert meter.stop() is None
    assert "it needs at least 2 s" in meter.reason
    meter.min_seconds = 0.2
    meter.start()
    time.sleep(0.3)
    energy = meter.stop()
    assert energy is not None
    assert energy.mean_power_W == pytest.approx(3.178 + 0.794 + 4.543)
    assert energy.seconds == pytest.approx(0.3, abs=0.2)
    assert energy.source == "tegrastats VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"


def test_tegrastats_that_prints_no_rails(tmp_path: Path) -> None:
    meter = TegrastatsMeter(_script(tmp_path / "tegrastats", "print('RAM 1/2MB')\n"))
    meter.start()
    assert meter.stop() is None
    assert "printed no line with power rails" in meter.reason
    with pytest.raises(MeasurementError, match="cannot run"):
        TegrastatsMeter(str(tmp_path / "nothing")).start()


def test_rapl_counts_packages_and_dram_over_a_wrap(tmp_path: Path) -> None:
    root = build_tree("x86_server", tmp_path)
    meter = open_rapl(root)
    meter.min_seconds = 0.0
    meter.start()
    folder = "sys/class/powercap"
    put(root, f"{folder}/intel-rapl:0/energy_uj", 1000000 + 5_000_000)
    put(root, f"{folder}/intel-rapl:0:0/energy_uj", 500000 + 2_000_000)
    put(root, f"{folder}/intel-rapl:1/energy_uj", 671150)  # 328850 uJ to the range's end, then from 0
    put(root, f"{folder}/intel-rapl:1:0/energy_uj", 40 + 1_000_000)
    put(root, f"{folder}/intel-rapl:2/energy_uj", 900 + 50_000_000)
    energy = meter.stop()
    assert energy is not None
    assert energy.energy_J == pytest.approx(5 + 2 + 1)  # neither core (part of its package) nor psys (overlaps)
    assert energy.rails == pytest.approx({"package-0": 5, "dram-0": 2, "package-1": 1, "core-1": 1, "psys": 50})
    assert energy.source == "RAPL package-0 + dram-0 + package-1"


def test_rapl_refuses(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="no RAPL package"):
        open_rapl(tmp_path)
    root = build_tree("x86_server", tmp_path)
    meter = open_rapl(root)
    meter.start()
    assert meter.stop() is None and "needs at least 0.1 s" in meter.reason
    meter.min_seconds = 0.0
    meter.start()
    assert meter.stop() is None and "did not move" in meter.reason
    meter.start()
    (root / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    assert meter.stop() is None and "package-1 could not be read" in meter.reason
    with pytest.raises(MeasurementError, match="an administrator must allow it"):  # as without permission
        open_rapl(root)


class Clock:
    """A clock that tests move by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


def _nvml_meter(monkeypatch: pytest.MonkeyPatch, read: Callable[[], Any]) -> tuple[NvmlCounter, Clock]:
    fake_nvml(monkeypatch, {"nvmlDeviceGetName": "NVIDIA L4", "nvmlDeviceGetTotalEnergyConsumption": read})
    clock = Clock()
    monkeypatch.setattr("codesign.profilers.meter_nvml.time", clock)
    meter = open_nvml()
    assert isinstance(meter, NvmlCounter)
    return meter, clock


def test_nvml_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = [5_000_000]
    meter, clock = _nvml_meter(monkeypatch, lambda: counter[0])
    meter.start()
    clock.now, counter[0] = 103.0, 5_210_000
    energy = meter.stop()
    assert energy is not None
    assert (energy.energy_J, energy.seconds, energy.mean_power_W) == (210.0, 3.0, 70.0)
    assert energy.source == "NVML energy counter of NVIDIA L4"
    meter.start()
    clock.now, counter[0] = 104.0, 5_280_000
    assert meter.stop() is None and "the window was 1 s; it needs at least 2 s" in meter.reason
    meter.start()
    clock.now = 110.0
    assert meter.stop() is None and "did not move" in meter.reason
    with pytest.raises(MeasurementError, match="not running"):
        meter.stop()


def test_nvml_power_where_there_is_no_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, {"nvmlDeviceGetName": "Quadro P4000", "nvmlDeviceGetPowerUsage": 45_000})
    meter = open_nvml()
    assert meter.min_seconds == 2.0
    meter.min_seconds = 0.0
    meter.start()
    energy = meter.stop()
    assert energy is not None
    assert energy.mean_power_W == pytest.approx(45.0)
    assert "sampled" in energy.note


def test_nvml_of_a_jetson_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvml(monkeypatch, {"nvmlDeviceGetName": "Orin (nvgpu)"})
    with pytest.raises(MeasurementError, match="neither energy nor power"):
        open_nvml()
    assert find_meter(tmp_path, accelerator=True) is None


def test_which_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nano = build_tree("orin_nano_super_jp62", tmp_path / "nano")
    server = build_tree("x86_server", tmp_path / "server")
    for accelerator in (True, False):
        meter = find_meter(nano, accelerator=accelerator)
        assert meter is not None and meter.name == "ina3221"
    cpu = find_meter(server, accelerator=False)
    assert cpu is not None and cpu.name == "rapl"
    assert find_meter(server, accelerator=True) is None  # the CPU's energy is not the GPU's
    fake_nvml(monkeypatch, {"nvmlDeviceGetName": "NVIDIA L4", "nvmlDeviceGetTotalEnergyConsumption": 1})
    gpu = find_meter(server, accelerator=True)
    assert gpu is not None and gpu.name == "nvml"
    assert find_meter(server, "none", accelerator=True) is None
    script = Path(_script(tmp_path / "tegrastats", ""))
    monkeypatch.setenv("PATH", str(script.parent))
    board = find_meter(tmp_path / "empty", accelerator=True)
    assert board is not None and board.name == "tegrastats"


def test_a_named_meter_that_is_not_there(tmp_path: Path) -> None:
    for kind in METER_KINDS[2:]:
        with pytest.raises(MeasurementError):
            find_meter(tmp_path, kind, accelerator=True)
    with pytest.raises(UnknownNameError, match="unknown meter 'rappl'; did you mean 'rapl'"):
        find_meter(tmp_path, "rappl", accelerator=False)


def test_this_machine() -> None:
    meter = find_meter(accelerator=False)
    if meter is None:
        pytest.skip("this machine has no power meter that can be read")
    meter.start()
    time.sleep(meter.min_seconds + 0.2)
    energy = meter.stop()
    assert energy is None or 0.1 < energy.mean_power_W < 5000
