"""Memory and CPU time that this process may use: /proc/meminfo and the control groups it is in (versions 1 and 2).

Source: kernel.org, admin-guide/cgroup-v1/memory, scheduler/sched-bwc and admin-guide/cgroup-v2.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from codesign.profilers.sysfs import is_real_root, read_number, read_table, read_text

__all__ = ["cpu_quota", "memory_bytes"]


def _groups(root: str | Path, controller: str) -> Iterator[Path]:
    """Folders of this process's group and of those above it, for a controller, that are visible from here.

    In a container the path of /proc/self/cgroup is often that of the host: then only the mount's top is there, and it
    is the container's own group.
    """
    mount = Path(root, "sys/fs/cgroup")
    unified = mount if (mount / "cgroup.controllers").exists() else mount / "unified"
    for line in (read_text(root, "proc/self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or (parts[1] and controller not in parts[1].split(",")):
            continue
        base = mount / parts[1] if parts[1] else unified
        if parts[1] and not base.is_dir():
            base = mount / controller
        folder = base / parts[2].strip("/")
        if ".." in folder.parts:
            folder = base
        while True:
            if folder.is_dir():
                yield folder
            if folder == base:
                break
            folder = folder.parent


def cpu_quota(root: str | Path = "/") -> float | None:
    """CPUs' worth of time that the process may use per second of wall time; None without a limit."""
    quotas = []
    for folder in _groups(root, "cpu"):
        limit = (read_text(folder, "cpu.max") or "").split()  # version 2: "200000 100000" or "max 100000"
        if len(limit) == 2 and limit[0].isdigit():
            quotas.append(int(limit[0]) / int(limit[1]))
        quota, period = read_number(folder, "cpu.cfs_quota_us"), read_number(folder, "cpu.cfs_period_us")
        if quota and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def memory_bytes(root: str | Path = "/") -> tuple[float | None, float | None]:
    """Total and available memory in bytes, each the least of what the machine and the control groups give."""
    table = read_table(root, "proc/meminfo")

    def of(name: str) -> float | None:
        words = table.get(name, "").split()
        return float(words[0]) * 1024 if words else None

    machine, available = of("MemTotal"), of("MemAvailable")
    if machine is None:
        return (_sysconf_memory_B(), None) if is_real_root(root) else (None, None)
    total = machine
    for folder in _groups(root, "memory"):
        limit = read_number(folder, "memory.max") or read_number(folder, "memory.limit_in_bytes")
        if limit is None or limit >= machine:  # "max" is no number, and version 1 writes 2^63 for no limit
            continue
        total = min(total, limit)
        used = read_number(folder, "memory.current") or read_number(folder, "memory.usage_in_bytes") or 0.0
        free = max(0.0, limit - used + _reclaimable_B(folder))
        available = free if available is None else min(available, free)
    return total, available


def _reclaimable_B(folder: Path) -> float:
    """File cache that the kernel gives back when memory is short; it counts as used."""
    stat = dict(line.split(" ", 1) for line in (read_text(folder, "memory.stat") or "").splitlines() if " " in line)
    return float(stat.get("total_inactive_file", stat.get("inactive_file", "0")))


def _sysconf_memory_B() -> float | None:
    """Total memory where there is no /proc (macOS); None on Windows."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
