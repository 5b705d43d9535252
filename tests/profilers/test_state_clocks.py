"""Clocks, temperatures, throttling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from platform_trees import build_tree, fake_nvml, hide_nvml, put

from codesign.profilers.state import read_state, throttled


def test_orin_nano(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_nvml(monkeypatch)
    root = build_tree("orin_nano_super_jp62", tmp_path)
    before = read_state(root)
    assert before == {
        "cpu_clock_Hz": 1.728e9,
        "cpu_clock_limit_Hz": 1.728e9,
        "cpu_governor": "schedutil",
        "temperature_cpu-thermal_C": 51.25,
        "temperature_gpu-thermal_C": 50.468,
        "temperature_tj-thermal_C": 51.25,
        "gpu_clock_Hz": 1.02e9,
        "gpu_load": 0.999,
        "emc_clock_Hz": 3.199e9,
        "overcurrent_oc1_count": 0.0,
        "overcurrent_oc2_count": 0.0,
        "overcurrent_oc3_count": 27390.0,
        "load_1min": 1.25,
    }
    put(root, "sys/class/devfreq/17000000.gpu/cur_freq", 612000000)
    put(root, "sys/class/hwmon/hwmon3/oc3_event_cnt", 27400)
    put(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", 1510400)
    put(root, "sys/devices/system/cpu/cpu4/cpufreq/scaling_max_freq", 1510400)
    assert throttled(before, read_state(root)) == (
        True,
        "CPU clock limit fell from 1.73 to 1.51 GHz; GPU clock fell from 1.02 to 0.612 GHz; "
        "overcurrent oc3 events rose by 10",
    )


def test_an_idle_gpu_is_not_throttled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_nvml(monkeypatch)
    after = read_state(build_tree("agx_orin_64gb_jp62", tmp_path))
    assert (after["gpu_clock_Hz"], after["gpu_load"]) == (306e6, 0.0)
    assert throttled({"gpu_clock_Hz": 1.3e9}, after) == (False, "")
    assert throttled({"gpu_clock_Hz": 1.3e9}, {**after, "gpu_load": 0.99})[0]


def test_jetpack_5_gpu_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_nvml(monkeypatch)
    assert read_state(build_tree("orin_nx_16gb_jp5", tmp_path))["gpu_clock_Hz"] == 612e6


def test_x86(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_nvml(monkeypatch)
    root = build_tree("x86_server", tmp_path)
    before = read_state(root)
    assert before["cpu_clock_Hz"] == 3.5e9
    assert before["cpu_throttle_count"] == 3 + 1 + 7
    assert (before["temperature_x86_pkg_temp_C"], before["temperature_x86_pkg_temp_2_C"]) == (61.0, 58.0)
    put(root, "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 4)
    assert throttled(before, read_state(root)) == (True, "cpu throttle events rose by 3")


def test_clock_from_cpuinfo_and_amd_sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_nvml(monkeypatch)
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\ncpu MHz\t\t: 2596.126\nprocessor\t: 1\ncpu MHz\t\t: 2000.5\n")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "k10temp\n")
    put(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", "45125\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "off")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", -256000)
    assert read_state(tmp_path) == {"cpu_clock_Hz": pytest.approx(2.596126e9), "temperature_k10temp_C": 45.125}


def test_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_nvml(monkeypatch)
    assert read_state(tmp_path) == {}
    assert throttled({}, {}) == (False, "")


def test_fake_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {
        "nvmlDeviceGetName": "NVIDIA L4",
        "nvmlDeviceGetClockInfo": 2040,
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    }
    fake_nvml(monkeypatch, answers)
    before = read_state(tmp_path)
    assert before == {"gpu_clock_Hz": 2.04e9, "gpu_temperature_C": 61.0, "gpu_throttle_reasons": "power cap"}
    assert throttled(before, read_state(tmp_path)) == (False, "")  # the GPU's normal limit
    answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x4 | 0x20
    assert throttled(before, read_state(tmp_path)) == (True, "GPU reports software thermal slowdown")
    answers |= {"nvmlDeviceGetCurrentClocksEventReasons": 0x1, "nvmlDeviceGetClockInfo": 210}
    assert throttled(before, read_state(tmp_path)) == (False, "")
    del answers["nvmlDeviceGetCurrentClocksEventReasons"]  # an older driver
    answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x48
    assert throttled(before, read_state(tmp_path)) == (
        True,
        "GPU clock fell from 2.04 to 0.21 GHz; GPU reports hardware slowdown, hardware thermal slowdown",
    )


def test_fake_nvml_of_a_jetson_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, {"nvmlDeviceGetName": "Orin (nvgpu)"})
    assert "gpu_throttle_reasons" not in read_state(build_tree("orin_nano_super_jp62", tmp_path))


def test_this_machine() -> None:
    state = read_state()
    assert all(isinstance(value, (float, str)) for value in state.values())
    clock = state.get("cpu_clock_Hz")
    assert clock is None or 1e8 < float(clock) < 1e10
    assert throttled(state, state)[0] in (False, True)  # a GPU may report a fault just now
