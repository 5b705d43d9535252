"""Which device of the catalogue a GPU, a board or a processor is."""

from __future__ import annotations

import re

__all__ = ["board_device_name", "cpu_device_name", "gpu_device_name"]

#: Pattern of NVML's product name, least and largest memory in bytes (None: any), device. First match wins.
_GPUS: tuple[tuple[str, float | None, float | None, str], ...] = (
    (r"\bA100.*SXM4-80GB|\bA100-SXM-80GB", None, None, "a100_sxm_80gb"),
    (r"\bA100.*SXM4-40GB|\bA100-SXM-40GB", None, None, "a100_sxm_40gb"),
    (r"\bA100 80GB PCIe", None, None, "a100_pcie_80gb"),
    (r"\bA40$", None, None, "a40"),
    (r"\bB200\b", 170e9, 200e9, "b200"),
    (r"\bGB10\b", None, None, "dgx_spark_gb10"),
    (r"\bGH200 480GB", 90e9, 105e9, "gh200"),
    (r"\bH200$", 130e9, 160e9, "h200_sxm"),
    (r"\bH100 80GB HBM3", None, None, "h100_sxm_80gb"),
    (r"\bH100 PCIe", None, None, "h100_pcie_80gb"),
    (r"\bL4$", None, None, "l4"),
    (r"\bL40S$", None, None, "l40s"),
    (r"RTX 3060$", 11e9, 14e9, "rtx_3060_12gb"),
    (r"RTX 3070$", None, None, "rtx_3070"),
    (r"RTX 3070 Laptop GPU", None, None, "rtx_3070_mobile"),
    (r"RTX 3080$", 9e9, 11.5e9, "rtx_3080"),
    (r"RTX 3080 Ti$", None, None, "rtx_3080_ti"),
    (r"RTX 3090$", None, None, "rtx_3090"),
    (r"RTX 3090 Ti$", None, None, "rtx_3090_ti"),
    (r"RTX 3500 Ada Generation Laptop GPU", None, None, "rtx_3500_ada_laptop"),
    (r"RTX 4000 Ada Generation$", None, None, "rtx_4000_ada"),
    (r"RTX 4070 Ti$", None, None, "rtx_4070_ti"),
    (r"RTX 4080$", None, None, "rtx_4080"),
    (r"RTX 4090$", None, None, "rtx_4090"),
    (r"RTX 5000 Ada Generation$", None, None, "rtx_5000_ada"),
    (r"RTX 5090$", None, None, "rtx_5090"),
    (r"RTX 6000 Ada Generation$", None, None, "rtx_6000_ada"),
    (r"RTX A6000$", None, None, "rtx_a6000"),
    (r"RTX PRO 6000 Blackwell Server Edition", None, None, "rtx_pro_6000_server"),
    (r"\bT4$", None, None, "t4"),
    (r"\bV100-SXM2-32GB", None, None, "v100_sxm2_32gb"),
)
#: Pattern of /proc/device-tree/model, device.
_BOARDS = ((r"Raspberry Pi 5", "raspberry_pi_5"), (r"Raspberry Pi (?:4 Model B|400)", "raspberry_pi_4b"))
#: Pattern of the processor's name, cores of one socket, device.
_CPUS = (
    (r"EPYC 9654 ", 96, "epyc_9654"),
    (r"Xeon.*Platinum 8480\+", 56, "xeon_8480plus"),
    (r"i5-1235U", 10, "i5_1235u"),
)


def gpu_device_name(name: str, memory_B: float | None) -> str | None:
    """The catalogue's GPU of NVML's product name; memory tells apart those that share a name.

    Example:
        >>> gpu_device_name("NVIDIA GeForce RTX 3060", 12.6e9), gpu_device_name("NVIDIA GeForce RTX 3060", 8.6e9)
        ('rtx_3060_12gb', None)
        >>> gpu_device_name("NVIDIA GeForce RTX 4090 Laptop GPU", 17.2e9) is None
        True
    """
    for pattern, low, high, device in _GPUS:
        fits = low is None or high is None or memory_B is None or low <= memory_B <= high
        if re.search(pattern, name) and fits:
            return device
    return None


def board_device_name(model: str | None) -> str | None:
    """The catalogue's board of a device tree's model, Jetson aside (see `read_jetson`)."""
    return next((device for pattern, device in _BOARDS if re.search(pattern, model or "")), None)


def cpu_device_name(model: str | None, cores: int | None, usable: int | None) -> str | None:
    """The catalogue's processor: its name, all cores of one socket there, and all for this process to use."""
    for pattern, expected, device in _CPUS:
        if re.search(pattern, f"{model} ") and cores == expected and usable is not None and usable >= expected:
            return device
    return None
