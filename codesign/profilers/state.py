"""Clocks, temperatures and throttling of the machine at one moment, and whether it slowed down between two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from codesign.profilers.nvml import find_gpu
from codesign.profilers.sysfs import read_number, read_text

__all__ = ["State", "read_state", "throttled"]

State = dict[str, float | str | None]

_CLOCKS = {
    "cpu_clock_Hz": "CPU clock",
    "cpu_clock_limit_Hz": "CPU clock limit",
    "gpu_clock_Hz": "GPU clock",
    "emc_clock_Hz": "memory clock",
}
_FALL = 0.05
_IDLE_LOAD = 0.1
#: Bits of NVML's clocks event reasons (nvml.h). A power cap in software is the GPU's normal limit and no fault.
_GPU_REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}
_GPU_FAULTS = ("hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake")
_GPU_DEVFREQ = re.compile(r"\.(gpu|ga10b|gv11b|gp10b)$|^gpu-gpc-0$")


def read_state(root: str | Path = "/") -> State:
    """Read what the machine tells now; what it does not tell is left out. Takes milliseconds.

    Keys: cpu_clock_Hz (of the fastest CPU now), cpu_clock_limit_Hz, cpu_governor, cpu_throttle_count (x86),
    temperature_<zone>_C, load_1min; on Jetson gpu_clock_Hz, gpu_load (0 to 1), emc_clock_Hz (needs root) and
    overcurrent_oc<n>_count; with NVML gpu_clock_Hz, gpu_temperature_C and gpu_throttle_reasons (words joined by ", ").

    Sources: kernel.org cpufreq and thermal sysfs; NVIDIA Jetson Linux Developer Guide, Platform Power and Performance
    (devfreq, soctherm_oc event counters); nvml.h.
    """
    state: State = {**_cpu(Path(root)), **_temperatures(Path(root)), **_jetson(Path(root)), **_nvidia()}
    load = (read_text(root, "proc/loadavg") or "").split()
    if load:
        state["load_1min"] = float(load[0])
    return state


def _cpu(root: Path) -> State:
    cpus = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*"))
    state: State = {}
    clocks = [value for cpu in cpus if (value := read_number(cpu, "cpufreq/scaling_cur_freq"))]
    if clocks:
        state["cpu_clock_Hz"] = max(clocks) * 1e3
    elif found := re.findall(r"^cpu MHz\s*:\s*([\d.]+)", read_text(root, "proc/cpuinfo") or "", re.M):
        state["cpu_clock_Hz"] = max(map(float, found)) * 1e6
    limits = [value for cpu in cpus if (value := read_number(cpu, "cpufreq/scaling_max_freq"))]
    if limits:
        state["cpu_clock_limit_Hz"] = max(limits) * 1e3
    if governor := next((text for cpu in cpus if (text := read_text(cpu, "cpufreq/scaling_governor"))), None):
        state["cpu_governor"] = governor
    counts = [read_number(cpu, "thermal_throttle/core_throttle_count") for cpu in cpus]
    packages = [read_number(cpu, "thermal_throttle/package_throttle_count") or 0.0 for cpu in cpus]
    if any(count is not None for count in counts):  # every CPU of a package repeats the package's count
        state["cpu_throttle_count"] = sum(count or 0.0 for count in counts) + max(packages)
    return state


def _temperatures(root: Path) -> State:
    """Thermal zones by type, and the CPU's sensor where it is no zone (AMD); a sensor that is off is left out."""
    found: list[tuple[str, float | None]] = [
        (read_text(zone, "type") or zone.name, read_number(zone, "temp"))
        for zone in sorted(root.glob("sys/class/thermal/thermal_zone[0-9]*"), key=lambda p: int(p.name[12:]))
    ]
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if (name := read_text(chip, "name")) in ("k10temp", "zenpower", "cpu_thermal"):
            found.append((name or "", read_number(chip, "temp1_input")))
    state: State = {}
    for name, milli in found:
        if milli is None or milli < -40e3:  # zones of a unit without power answer -256 C
            continue
        key, n = f"temperature_{name}_C", 2
        while key in state:
            key, n = f"temperature_{name}_{n}_C", n + 1
        state[key] = milli / 1e3
    return state


def _jetson(root: Path) -> State:
    state: State = {}
    for device in sorted(root.glob("sys/class/devfreq/*")):
        if _GPU_DEVFREQ.search(device.name) and (clock := read_number(device, "cur_freq")):
            state.setdefault("gpu_clock_Hz", clock)
            if (load := read_number(device, "device/load")) is not None:
                state.setdefault("gpu_load", load / 1000)
    if clock := read_number(root, "sys/kernel/debug/bpmp/debug/clk/emc/rate"):
        state["emc_clock_Hz"] = clock
    for path in sorted(root.glob("sys/class/hwmon/hwmon*/oc[0-9]_event_cnt")):
        if (count := read_number(path)) is not None:
            state[f"overcurrent_{path.name[:3]}_count"] = count
    return state


def _nvidia() -> State:
    gpu = find_gpu()
    if gpu is None:
        return {}
    state: State = {}
    if clock := gpu.ask("nvmlDeviceGetClockInfo", gpu.constant("NVML_CLOCK_SM")):
        state["gpu_clock_Hz"] = float(clock) * 1e6
    temperature = gpu.ask("nvmlDeviceGetTemperature", gpu.constant("NVML_TEMPERATURE_GPU"))
    if temperature is not None:
        state["gpu_temperature_C"] = float(temperature)
    bits = gpu.ask("nvmlDeviceGetCurrentClocksEventReasons")
    if bits is None:  # its name before driver 535
        bits = gpu.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    if bits is not None:
        state["gpu_throttle_reasons"] = ", ".join(text for bit, text in _GPU_REASONS.items() if bits & bit) or "none"
    return state


def throttled(
    before: Mapping[str, float | str | None], after: Mapping[str, float | str | None], *, accelerator: bool = False
) -> tuple[bool, str]:
    """Whether the machine slowed down between two states, and why in words.

    A clock fell by more than 5 %, a throttling or over-current counter rose, or NVML names a thermal or power fault.
    An idle GPU lowers its clock by itself, and one at its power limit does in normal use (NVML's "power cap"), so its clock
    counts only where the later state says neither: take the later state right after the last pass.

    Args:
        before, after: of `read_state`. accelerator: the GPU runs the passes; the CPU only waits then, and its governor may
            lower its clock.

    Example:
        >>> throttled({"cpu_clock_Hz": 3.5e9}, {"cpu_clock_Hz": 2.8e9})
        (True, 'CPU clock fell from 3.5 to 2.8 GHz')
        >>> throttled({"cpu_clock_Hz": 3.5e9}, {"cpu_clock_Hz": 3.4e9})
        (False, '')
        >>> throttled({"gpu_clock_Hz": 1.98e9}, {"gpu_clock_Hz": 1.845e9, "gpu_throttle_reasons": "power cap"})
        (False, '')
    """
    reasons = []
    words = str(after.get("gpu_throttle_reasons") or "").split(", ")
    load = after.get("gpu_load")
    usual = "idle" in words or "power cap" in words or (isinstance(load, float) and load < _IDLE_LOAD)
    ignored = {name for name, off in (("gpu_clock_Hz", usual), ("cpu_clock_Hz", accelerator)) if off}
    for key, name in _CLOCKS.items():
        old, new = before.get(key), after.get(key)
        if not isinstance(old, (int, float)) or not isinstance(new, (int, float)) or key in ignored:
            continue
        if new < (1 - _FALL) * old:
            reasons.append(f"{name} fell from {old / 1e9:.3g} to {new / 1e9:.3g} GHz")
    for key in sorted(before.keys() & after.keys()):
        old, new = before[key], after[key]
        if key.endswith("_count") and isinstance(old, (int, float)) and isinstance(new, (int, float)) and new > old:
            reasons.append(f"{key.removesuffix('_count').replace('_', ' ')} events rose by {new - old:.0f}")
    if faults := [word for word in words if word in _GPU_FAULTS]:
        reasons.append(f"GPU reports {', '.join(faults)}")
    return bool(reasons), "; ".join(reasons)
