"""The CPU of this machine: model, cores, instruction sets, caches, and whether it is a virtual machine's."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from codesign.profilers.sysfs import is_real_root, read_table, read_text

__all__ = ["cache_bytes", "cores_logical", "cores_physical", "cores_usable", "cpu_model", "isa_flags", "virtualised"]

#: Flags of /proc/cpuinfo that decide how fast a model runs, and what they are called here.
_ISA = {
    "avx2": "avx2", "fma": "fma", "f16c": "f16c", "avx512f": "avx512f", "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16", "avx512_fp16": "avx512_fp16", "avx_vnni": "avx_vnni", "amx_tile": "amx_tile",
    "amx_int8": "amx_int8", "amx_bf16": "amx_bf16", "asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod",
    "i8mm": "i8mm", "bf16": "bf16", "sve": "sve", "sve2": "sve2",
}  # fmt: skip
#: Arm's part numbers (util-linux, sys-utils/lscpu-arm.c).
_ARM_PARTS = {
    "0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2", "0xd4f": "Neoverse-V2", "0xd83": "Neoverse-V3AE",
}  # fmt: skip


def _sysctl(name: str) -> str | None:
    """A value of macOS's sysctl, None elsewhere."""
    if sys.platform != "darwin":
        return None
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def cpu_model(root: str | Path = "/") -> str | None:
    """Name of the processor; on Arm the core's name, several cores joined by " + "."""
    text = read_text(root, "proc/cpuinfo") or ""
    if parts := sorted(set(re.findall(r"^CPU part\s*:\s*(\w+)", text, re.M))):
        return " + ".join(_ARM_PARTS.get(part, f"Arm part {part}") for part in parts)
    if found := re.search(r"^model name\s*:\s*(.+)$", text, re.M):
        return found[1].strip()
    if is_real_root(root) and not text:
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or None
    return None


def cores_logical(root: str | Path = "/") -> int | None:
    """Logical CPUs that are on."""
    found = re.findall(r"^processor\s*:", read_text(root, "proc/cpuinfo") or "", re.M)
    return len(found) or (os.cpu_count() if is_real_root(root) else None)


def cores_physical(root: str | Path = "/") -> int | None:
    """Cores, each once however many threads it has."""
    siblings = {
        text
        for path in Path(root).glob("sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")
        if (text := read_text(path))
    }
    if siblings:
        return len(siblings)
    text = read_text(root, "proc/cpuinfo") or ""
    pairs = set(re.findall(r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", text, re.M | re.S))
    if pairs:
        return len(pairs)
    count = _sysctl("hw.physicalcpu") if is_real_root(root) else None
    return int(count) if count and count.isdigit() else None


def cores_usable(root: str | Path = "/") -> int | None:
    """Logical CPUs that this process may run on (affinity); a quota comes on top."""
    if is_real_root(root) and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    allowed = read_table(root, "proc/self/status").get("Cpus_allowed_list")
    if allowed:
        return sum(int(b or a) - int(a) + 1 for a, b in re.findall(r"(\d+)(?:-(\d+))?", allowed))
    return cores_logical(root)


def isa_flags(root: str | Path = "/") -> tuple[str, ...]:
    """Instruction sets of interest, by the names avx2, avx512_vnni, amx_int8, neon, dotprod, i8mm, ..., sorted."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", read_text(root, "proc/cpuinfo") or "", re.M)
    given = set(found[1].split()) if found else set()
    return tuple(sorted(name for flag, name in _ISA.items() if flag in given))


def cache_bytes(root: str | Path, level: int) -> float | None:
    """All caches of one level together, in bytes, each once however many CPUs share it; None where not told."""
    sizes: dict[str, float] = {}
    for index in Path(root).glob("sys/devices/system/cpu/cpu[0-9]*/cache/index[0-9]*"):
        size = re.fullmatch(r"(\d+)([KMG])", read_text(index, "size") or "")
        if read_text(index, "level") != str(level) or read_text(index, "type") == "Instruction" or size is None:
            continue
        shared = read_text(index, "shared_cpu_list") or index.parent.parent.name
        sizes[shared] = float(size[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[size[2]]
    return sum(sizes.values()) or None


def virtualised(root: str | Path = "/") -> bool | None:
    """Whether this is a virtual machine; None where the machine does not tell."""
    text = read_text(root, "proc/cpuinfo") or ""
    if found := re.search(r"^flags\s*:\s*(.+)$", text, re.M):  # x86 only: Arm writes "Features"
        return "hypervisor" in found[1].split()
    product = f"{read_text(root, 'sys/class/dmi/id/sys_vendor')} {read_text(root, 'sys/class/dmi/id/product_name')}"
    if re.search(r"QEMU|KVM|VMware|Virtual", product) or Path(root, "proc/device-tree/hypervisor").exists():
        return True
    return False if read_text(root, "proc/device-tree/model") else None
