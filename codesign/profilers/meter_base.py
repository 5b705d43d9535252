"""What power meters share: the reading, the protocol, and sampling in a thread."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from codesign.errors import MeasurementError

__all__ = ["Energy", "PowerMeter", "Sample", "SampledMeter", "energy_of", "mean_power"]

#: Seconds on the meter's clock, and watts by rail.
Sample = tuple[float, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy over a window.

    energy_J: of the rails that make the total; seconds: length of the window; mean_power_W: their quotient; rails:
    joules of every rail that was read, those within others included; source: which meter and rails; note: what the
    figure covers and how fine it is.
    """

    energy_J: float
    seconds: float
    mean_power_W: float
    rails: Mapping[str, float] = field(hash=False)
    source: str
    note: str = ""


class PowerMeter(Protocol):
    """Measures energy between `start` and `stop`; can be used again.

    name: kind of meter; min_seconds: shorter windows are refused; reason: why the last `stop` gave None.
    """

    name: str
    min_seconds: float
    reason: str

    def start(self) -> None:
        """Begin a window."""
        ...

    def stop(self) -> Energy | None:
        """End the window; None, with `reason` set, where it was too short or the sensor failed."""
        ...


def mean_power(samples: Sequence[Sample]) -> dict[str, float]:
    """Time-weighted mean power by rail, in watts, by the trapezoidal rule; rails that a sample lacks are left out.

    Example:
        >>> mean_power([(0.0, {"VDD_IN": 4.0}), (1.0, {"VDD_IN": 8.0}), (3.0, {"VDD_IN": 8.0})])
        {'VDD_IN': 7.333333333333333}
    """
    if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
        return {}
    rails = set(samples[0][1]).intersection(*(set(watts) for _, watts in samples))
    seconds = samples[-1][0] - samples[0][0]
    return {
        rail: sum((b[0] - a[0]) * (a[1][rail] + b[1][rail]) / 2 for a, b in itertools.pairwise(samples)) / seconds
        for rail in sorted(rails)
    }


class SampledMeter:
    """Reads power at an interval in a thread of its own and integrates it.

    The thread costs this process a little CPU time: give the energy a window of its own, apart from the timed passes.

    Args:
        name, source, note: see `PowerMeter` and `Energy`.
        read: watts by rail now, None where the sensor did not answer.
        total: rails whose sum is the total.
        interval_s: between readings; min_seconds: least window.

    Raises:
        MeasurementError: started twice, or stopped before it was started.
    """

    def __init__(
        self,
        *,
        name: str,
        source: str,
        read: Callable[[], Mapping[str, float] | None],
        total: Sequence[str],
        note: str = "",
        interval_s: float = 0.05,
        min_seconds: float = 1.0,
    ) -> None:
        self.name, self.min_seconds, self.reason = name, min_seconds, ""
        self._source, self._note, self._read = source, note, read
        self._total, self._interval_s = tuple(total), interval_s
        self._samples: list[Sample] = []
        self._missed = 0
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin a window."""
        if self._thread is not None:
            raise MeasurementError(f"the {self.name} meter is already running; stop it first")
        self._samples, self._missed, self.reason = [], 0, ""
        self._halt.clear()
        self._sample()
        self._thread = threading.Thread(target=self._loop, name=f"codesign-{self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> Energy | None:
        """End the window."""
        if self._thread is None:
            raise MeasurementError(f"the {self.name} meter is not running; start it first")
        self._halt.set()
        self._thread.join()
        self._thread = None
        self._sample()
        note = self._note + (f"; {self._missed} readings failed" if self._missed else "")
        energy, self.reason = energy_of(
            self._samples, self._total, least_s=self.min_seconds, source=self._source, note=note.lstrip("; ")
        )
        return energy

    def _loop(self) -> None:
        while not self._halt.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        began = time.perf_counter()
        watts = self._read()
        if watts is None:
            self._missed += 1
        else:
            self._samples.append(((began + time.perf_counter()) / 2, watts))


def energy_of(
    samples: Sequence[Sample], total: Sequence[str], *, least_s: float, source: str, note: str
) -> tuple[Energy | None, str]:
    """Fold samples into a reading, or say why there is none."""
    seconds = samples[-1][0] - samples[0][0] if samples else 0.0
    if seconds < least_s:
        return None, f"{source}: the window had {seconds:.2g} s of readings; it needs at least {least_s:g} s"
    watts = mean_power(samples)
    if missing := [rail for rail in total if rail not in watts]:
        return None, f"{source}: no reading of {', '.join(missing)}"
    power = sum(watts[rail] for rail in total)
    if power <= 0:
        return None, f"{source}: mean power is {power:g} W, which cannot be"
    rails = {rail: value * seconds for rail, value in watts.items()}
    return Energy(
        energy_J=power * seconds, seconds=seconds, mean_power_W=power, rails=rails, source=source, note=note
    ), ""
