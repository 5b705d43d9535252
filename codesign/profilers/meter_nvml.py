"""Energy of an NVIDIA GPU through NVML: its counter (Volta and newer), else sampled power.

The counter and the power reading are renewed about every 100 ms, and on some GPUs power covers a quarter of the time
only (arXiv 2312.02741), so windows below 2 s are refused: there the counter is good to about 5 %.
"""

from __future__ import annotations

import time

from codesign.errors import MeasurementError
from codesign.profilers.meter_base import Energy, PowerMeter, SampledMeter
from codesign.profilers.nvml import Gpu, find_gpu

__all__ = ["NvmlCounter", "open_nvml"]

_MIN_SECONDS = 2.0
_NOTE = "the GPU's board: the host is not in it"


class NvmlCounter:
    """Reads the GPU's total energy before and after.

    Raises:
        MeasurementError: started twice, or stopped before it was started.
    """

    name = "nvml"
    min_seconds = _MIN_SECONDS

    def __init__(self, gpu: Gpu) -> None:
        self.reason = ""
        self._gpu = gpu
        self._start: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin a window."""
        if self._start is not None:
            raise MeasurementError("the nvml meter is already running; stop it first")
        self._start, self.reason = (time.perf_counter(), self._read_mJ()), ""

    def stop(self) -> Energy | None:
        """End the window."""
        if self._start is None:
            raise MeasurementError("the nvml meter is not running; start it first")
        (began, before), self._start = self._start, None
        energy_J = (self._read_mJ() - before) / 1e3
        seconds = time.perf_counter() - began
        source = f"NVML energy counter of {self._gpu.name}"
        if seconds < self.min_seconds:
            self.reason = f"{source}: the window was {seconds:.2g} s; it needs at least {self.min_seconds:g} s"
        elif not energy_J > 0:
            self.reason = f"{source}: it did not move, or could not be read"
        else:
            note = f"{_NOTE}; renewed about every 0.1 s"
            return Energy(
                energy_J=energy_J,
                seconds=seconds,
                mean_power_W=energy_J / seconds,
                rails={self._gpu.name: energy_J},
                source=source,
                note=note,
            )
        return None

    def _read_mJ(self) -> float:
        value = self._gpu.ask("nvmlDeviceGetTotalEnergyConsumption")
        return float("nan") if value is None else float(value)


def open_nvml() -> PowerMeter:
    """A meter of the first visible GPU.

    Raises:
        MeasurementError: no GPU, library or driver, or a GPU that tells neither energy nor power (Jetson).
    """
    gpu = find_gpu()
    if gpu is None:
        raise MeasurementError("NVML finds no GPU; it needs NVIDIA's driver and pip install 'codesign-llm[nvml]'")
    if gpu.ask("nvmlDeviceGetTotalEnergyConsumption") is not None:
        return NvmlCounter(gpu)
    if gpu.ask("nvmlDeviceGetPowerUsage") is None:
        raise MeasurementError(f"{gpu.name} tells NVML neither energy nor power")

    def read() -> dict[str, float] | None:
        milli = gpu.ask("nvmlDeviceGetPowerUsage")
        return None if milli is None else {gpu.name: float(milli) / 1e3}

    return SampledMeter(
        name="nvml",
        source=f"NVML power of {gpu.name}",
        read=read,
        total=(gpu.name,),
        note=f"{_NOTE}; sampled",
        min_seconds=_MIN_SECONDS,
    )
