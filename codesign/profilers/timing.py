"""The timing loop: warm up until steady, repeat, keep every raw time.

The spread within one visit misleads: it says how steady the machine was for a second, not what a second measurement would
give. So a visit reports its median alone, visits lie minutes apart, and `codesign.measurement.observe` takes the smallest
of their medians and the gap to the next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from codesign.profilers.base import TimingSettings

__all__ = ["Clocks", "Timed", "time_pass"]

_MAX_WARMUP = 20
_DRIFT = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Where seconds come from: wall clock and process CPU time; a test puts a simulated machine here."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Raw times of one pass in seconds, and what can be said against them (keys of `codesign.measurement.FLAGS`).

    device_s is empty where the engine has no clock of its own.
    """

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    device_s: tuple[float, ...]
    flags: tuple[str, ...]


def time_pass(
    run: Callable[[], float | None],
    settings: TimingSettings,
    clocks: Clocks | None = None,
    on_warm: Callable[[], None] | None = None,
) -> Timed:
    """Time one pass of a loaded model.

    Warm-up ends when two successive passes differ by less than `settings.settle` (at the least two passes, at the most
    20, or max_time_s). Repeats go on until min_repeats and min_time_s are both reached, or max_repeats, or max_time_s.

    Args:
        run: one pass, to its end; returns the accelerator's seconds or None.
        on_warm: called between warm-up and the timed passes, when clocks have risen.
    """
    clocks = clocks or Clocks()
    flags = [] if _warm_up(run, settings, clocks) else ["unsteady"]
    if on_warm is not None:
        on_warm()
    wall: list[float] = []
    cpu: list[float] = []
    device: list[float] = []
    start = clocks.wall()
    while True:
        before, before_cpu = clocks.wall(), clocks.cpu()
        own = run()
        after_cpu, after = clocks.cpu(), clocks.wall()
        wall.append(after - before)
        cpu.append(after_cpu - before_cpu)
        if own is not None:
            device.append(own)
        spent = after - start
        if len(wall) >= settings.max_repeats or spent >= settings.max_time_s:
            break
        if len(wall) >= settings.min_repeats and spent >= settings.min_time_s:
            break
    if len(wall) < settings.min_repeats:
        flags.append("few")
    if _drifts(device or wall):
        flags.append("drift")
    return Timed(wall_s=tuple(wall), cpu_s=tuple(cpu), device_s=tuple(device), flags=tuple(flags))


def _warm_up(run: Callable[[], float | None], settings: TimingSettings, clocks: Clocks) -> bool:
    """Run until steady; whether it became so."""
    start = clocks.wall()
    last = 0.0
    for number in range(_MAX_WARMUP):
        before = clocks.wall()
        run()
        now = clocks.wall()
        taken = now - before
        if number > 0 and abs(taken - last) <= settings.settle * last:
            return True
        if now - start >= settings.max_time_s:
            return False
        last = taken
    return False


def _drifts(times: list[float]) -> bool:
    """Whether the medians of the two halves differ by more than 10 %."""
    if len(times) < 6:
        return False
    half = len(times) // 2
    first, second = statistics.median(times[:half]), statistics.median(times[-half:])
    return abs(second - first) > _DRIFT * min(first, second)
