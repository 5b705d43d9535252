"""Power meters: which one this machine has."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from codesign.errors import MeasurementError, UnknownNameError
from codesign.profilers.meter_base import Energy, PowerMeter

__all__ = ["METER_KINDS", "Energy", "PowerMeter", "find_meter"]

_LOG = logging.getLogger(__name__)

METER_KINDS = ("auto", "none", "ina3221", "tegrastats", "nvml", "rapl")


def _ina3221(root: str | Path) -> PowerMeter:
    from codesign.profilers.meter_ina3221 import open_ina3221

    return open_ina3221(root)


def _tegrastats(root: str | Path) -> PowerMeter:
    from codesign.profilers.meter_tegrastats import open_tegrastats

    return open_tegrastats()


def _nvml(root: str | Path) -> PowerMeter:
    from codesign.profilers.meter_nvml import open_nvml

    return open_nvml()


def _rapl(root: str | Path) -> PowerMeter:
    from codesign.profilers.meter_rapl import open_rapl

    return open_rapl(root)


_OPEN: dict[str, Callable[[str | Path], PowerMeter]] = {
    "ina3221": _ina3221,
    "tegrastats": _tegrastats,
    "nvml": _nvml,
    "rapl": _rapl,
}


def find_meter(root: str | Path = "/", kind: str = "auto", *, accelerator: bool) -> PowerMeter | None:
    """The best meter of what runs the model; None where there is none.

    A Jetson's rails come first: they cover CPU, GPU and memory. Else NVML for an accelerator (the host is not in it) and
    RAPL for a CPU. A meter of the other part is never taken in place of the right one.

    Args:
        root: where /sys is. kind: one of `METER_KINDS`. accelerator: the model runs on a GPU, not on the CPU.

    Raises:
        UnknownNameError: no such kind.
        MeasurementError: the kind was named and is not there, and why.

    Example:
        >>> find_meter(kind="none", accelerator=False) is None
        True
    """
    if kind not in METER_KINDS:
        raise UnknownNameError.near("meter", kind, METER_KINDS, "'auto' takes the best one there is.")
    if kind == "none":
        return None
    if kind != "auto":
        return _OPEN[kind](root)
    for name in ("ina3221", "tegrastats", "nvml" if accelerator else "rapl"):
        try:
            return _OPEN[name](root)
        except MeasurementError as error:
            _LOG.debug("no %s meter: %s", name, error)
    return None
