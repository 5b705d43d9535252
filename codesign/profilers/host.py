"""What machine this is: processor, memory, limits, board, accelerator, and its name in the device catalogue."""

from __future__ import annotations

import platform
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from codesign import measurement
from codesign.profilers import host_cpu
from codesign.profilers.host_limits import cpu_quota, memory_bytes
from codesign.profilers.host_names import board_device_name, cpu_device_name, gpu_device_name
from codesign.profilers.host_peaks import measure_peaks
from codesign.profilers.jetson import JetsonFacts, read_jetson
from codesign.profilers.nvml import find_gpu
from codesign.profilers.sysfs import is_real_root, read_text

__all__ = ["HostFacts", "detect_host", "detected_device_name", "machine_name", "measure_peaks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """This machine, without its name. What it does not tell is None.

    Args:
        cpu_model: name of the processor (on Arm of its cores).
        cores_physical, cores_logical: cores and hardware threads that are on.
        cores_usable: hardware threads that this process may run on; cpu_quota: CPUs' worth of time by control group.
        isa: instruction sets that matter here (avx2, avx512_vnni, amx_int8, neon, dotprod, i8mm, ...).
        memory_B, memory_available_B: total and available, the least of machine and control group.
        l2_B, l3_B: all caches of that level together.
        os, kernel, python: versions; machine: x86_64, aarch64, arm64.
        virtualised: a virtual machine.
        board: the device tree's model; jetson: see `JetsonFacts`.
        gpu: product name by NVML; gpu_memory_B: its own memory.
        accelerator_device: catalogue name of the board or GPU; cpu_device: of the processor or a board without GPU.
    """

    cpu_model: str | None
    cores_physical: int | None
    cores_logical: int | None
    cores_usable: int | None
    cpu_quota: float | None
    isa: tuple[str, ...]
    memory_B: float | None
    memory_available_B: float | None
    l2_B: float | None
    l3_B: float | None
    os: str
    kernel: str
    machine: str
    python: str
    virtualised: bool | None
    board: str | None
    jetson: JetsonFacts | None
    gpu: str | None
    gpu_memory_B: float | None
    accelerator_device: str | None
    cpu_device: str | None

    def summary(self) -> dict[str, str]:
        """What is known, as text by name: `Measurement.host`. Available memory is left out: it changes."""
        out: dict[str, str] = {}
        for f in fields(self):
            _add(out, f.name, getattr(self, f.name))
        out.pop("memory_available_B", None)
        return out


def _add(out: dict[str, str], name: str, value: Any) -> None:
    if isinstance(value, JetsonFacts):
        for f in fields(value):
            _add(out, f"jetson_{f.name}", getattr(value, f.name))
    elif isinstance(value, tuple):
        out[name] = " ".join(value)
    elif isinstance(value, bool):
        out[name] = "yes" if value else "no"
    elif isinstance(value, float):
        out[name] = f"{value:.10g}"
    elif value is not None:
        out[name] = str(value)
    if not out.get(name):
        out.pop(name, None)


def machine_name(facts: HostFacts) -> str:
    """What tells this host from another, as a record of it does: see `codesign.measurement.machine_name`."""
    return measurement.machine_name(facts.summary())


def detect_host(root: str | Path = "/") -> HostFacts:
    """Read this machine, or the copy of /proc, /sys, /etc and /var under `root`.

    Takes milliseconds, and up to some tenths of a second for NVML and `nvpmodel -q` where they are.
    """
    model, cores = host_cpu.cpu_model(root), host_cpu.cores_physical(root)
    usable, virtual = host_cpu.cores_usable(root), host_cpu.virtualised(root)
    memory_B, available_B = memory_bytes(root)
    board, jetson, gpu = read_text(root, "proc/device-tree/model"), read_jetson(root), find_gpu()
    accelerator = jetson.device if jetson else gpu_device_name(gpu.name, gpu.memory_B) if gpu else None
    return HostFacts(
        cpu_model=model,
        cores_physical=cores,
        cores_logical=host_cpu.cores_logical(root),
        cores_usable=usable,
        cpu_quota=cpu_quota(root),
        isa=host_cpu.isa_flags(root),
        memory_B=memory_B,
        memory_available_B=available_B,
        l2_B=host_cpu.cache_bytes(root, 2),
        l3_B=host_cpu.cache_bytes(root, 3),
        os=platform.system(),
        kernel=_kernel(root),
        machine=platform.machine(),
        python=platform.python_version(),
        virtualised=virtual,
        board=board,
        jetson=jetson,
        gpu=gpu.name if gpu else None,
        gpu_memory_B=gpu.memory_B if gpu else None,
        accelerator_device=accelerator,
        cpu_device=board_device_name(board) or (None if virtual else cpu_device_name(model, cores, usable)),
    )


def _kernel(root: str | Path) -> str:
    return platform.release() if is_real_root(root) else read_text(root, "proc/sys/kernel/osrelease") or ""


def detected_device_name(root: str | Path = "/", *, accelerator: bool = True) -> str:
    """Catalogue name of what runs the model here, else ``host``.

    Args:
        root: see `detect_host`. accelerator: whether the model runs on the GPU (a Jetson's too) or on the CPU.
    """
    facts = detect_host(root)
    return (facts.accelerator_device if accelerator else facts.cpu_device) or "host"
