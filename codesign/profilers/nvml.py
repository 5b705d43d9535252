"""The NVIDIA GPU that CUDA uses first, through NVML (`nvidia-ml-py`, optional).

On Jetson Orin NVML gives the name and hardly more: every other question is answered NOT_SUPPORTED. What a GPU does not
answer is None here.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["Gpu", "find_gpu"]


class Gpu:
    """One GPU.

    name: as the driver gives it; memory_B: its own memory in bytes, None where it has none of its own or does not say.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        name = self.ask("nvmlDeviceGetName")
        self.name = name.decode() if isinstance(name, bytes) else str(name or "NVIDIA GPU")
        memory = self.ask("nvmlDeviceGetMemoryInfo")
        self.memory_B = None if memory is None else float(memory.total)

    def ask(self, function: str, *args: Any) -> Any:
        """The answer of an NVML function for this GPU; None where driver, library or GPU do not support it."""
        call = getattr(self._nvml, function, None)
        if call is None:
            return None
        try:
            return call(self._handle, *args)
        except self._nvml.NVMLError:
            return None

    def constant(self, name: str) -> Any:
        """A constant of the library, such as NVML_CLOCK_SM."""
        return getattr(self._nvml, name)


def find_gpu() -> Gpu | None:
    """The GPU that CUDA_VISIBLE_DEVICES names first (else the first); None without library, driver or GPU.

    NVML numbers GPUs by PCI bus; CUDA does so only with CUDA_DEVICE_ORDER=PCI_BUS_ID, so on a machine with different
    GPUs set that, or name the GPU by its UUID.
    """
    try:
        import pynvml
    except ImportError:
        return None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        pynvml.nvmlInit()
        if first.startswith(("GPU-", "MIG-")):
            handle = pynvml.nvmlDeviceGetHandleByUUID(first)
        elif first.isdigit():
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(first))
        else:  # empty or -1: hidden from CUDA on purpose
            return None
    except pynvml.NVMLError:
        return None
    return Gpu(pynvml, handle)
