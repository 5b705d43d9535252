"""The timing loop: warm up until steady, repeat, keep every raw time.

The spread within one epoch misleads: it says how steady the machine was for a second, not what a second measurement would
give. So passes are timed in interleaved epochs, of which the smallest median counts; visits lie minutes apart, and
`codesign.measurement.observe` takes the smallest of them and the gap to the next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codesign.measurement import Clock, epoch_medians
from codesign.profilers.base import Point, TimingSettings

__all__ = ["Clocks", "Timed", "time_pass", "time_points", "warm_up"]

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

    device_s is empty where the engine has no clock of its own; epochs: how many repeats each epoch has, in order.
    """

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    device_s: tuple[float, ...]
    epochs: tuple[int, ...]
    flags: tuple[str, ...]


def time_pass(
    run: Callable[[], float | None],
    settings: TimingSettings,
    clocks: Clocks | None = None,
    *,
    warm: bool = False,
) -> Timed:
    """Time one epoch of a pass of a loaded model.

    A pass that was `warm` a moment ago runs once before it is timed (another pass emptied the caches). Else warm-up ends when
    two successive passes differ by less than `settings.settle` (at the least two passes, at the most 20, or max_time_s).
    Repeats go on until min_repeats and min_time_s are both reached, or max_repeats, or max_time_s.

    Args:
        run: one pass, to its end; returns the accelerator's seconds or None.
    """
    clocks = clocks or Clocks()
    flags = []
    if warm:
        run()
    elif not warm_up(run, settings, clocks):
        flags.append("unsteady")
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
    return Timed(
        wall_s=tuple(wall), cpu_s=tuple(cpu), device_s=tuple(device), epochs=(len(wall),), flags=tuple(flags)
    )  # fmt: skip


def time_points(
    runs: Mapping[Point, Callable[[], float | None]],
    settings: TimingSettings,
    clock: Clock,
    clocks: Clocks | None = None,
) -> dict[Point, Timed]:
    """Time several passes of one model in interleaved epochs.

    Every pass gets `min_epochs`, in turns; then those whose two smallest epochs' medians differ by more than `agree`
    get more, up to `max_epochs` or max_time_s of timed passes. So the epochs of one pass lie apart, and what disturbs one
    rarely disturbs all.

    Args:
        runs: a function for each pass, as `LoadedModel.runner` gives it. clock: whose seconds decide.
    """
    found: dict[Point, Timed] = {}
    for epoch in range(settings.max_epochs):
        for point, run in runs.items():
            known = found.get(point)
            if known is not None and epoch >= settings.min_epochs and _settled(known, settings, clock):
                continue
            found[point] = _joined(known, time_pass(run, settings, clocks, warm=known is not None))
    return found


def _settled(timed: Timed, settings: TimingSettings, clock: Clock) -> bool:
    """Whether the two smallest epochs agree, or the time is used up."""
    medians = sorted(epoch_medians(_of(timed, clock), timed.epochs))
    agree = len(medians) > 1 and medians[1] <= (1 + settings.agree) * medians[0]
    return agree or sum(timed.wall_s) >= settings.max_time_s


def _of(timed: Timed, clock: Clock) -> tuple[float, ...]:
    return {"wall": timed.wall_s, "cpu": timed.cpu_s, "device": timed.device_s}[clock]


def _joined(known: Timed | None, new: Timed) -> Timed:
    if known is None:
        return new
    return Timed(
        wall_s=known.wall_s + new.wall_s,
        cpu_s=known.cpu_s + new.cpu_s,
        device_s=known.device_s + new.device_s,
        epochs=known.epochs + new.epochs,
        flags=tuple(dict.fromkeys(known.flags + new.flags)),
    )


def warm_up(run: Callable[[], float | None], settings: TimingSettings, clocks: Clocks) -> bool:
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
