"""Energy counters of x86 processors (RAPL) through the kernel's powercap framework (kernel.org, power/powercap).

intel-rapl:<n> are packages, intel-rapl:<n>:<m> their parts (core, uncore) and dram; AMD processors use the same names.
The total is packages plus dram, which is beside its package, not in it. ``psys`` (the whole platform) overlaps both and
is only listed. The counters belong to the whole processor: whatever else runs is in them. Since 2020 they can be read
by root only, unless an administrator allows more.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from codesign.errors import MeasurementError
from codesign.profilers.meter_base import Energy
from codesign.profilers.sysfs import read_number, read_text

__all__ = ["RaplMeter", "open_rapl"]

_POLL_S = 20.0  # the smallest counters hold 65 kJ: no processor fills that in 20 s, so no wrap goes unseen


class RaplMeter:
    """Sums what the counters gain, over wrap-arounds.

    Args:
        zones: name of each zone to its folder and the counter's range in uJ; total: those that make the total.

    Raises:
        MeasurementError: started twice, or stopped before it was started.
    """

    name = "rapl"
    min_seconds = 0.1  # counters update about every millisecond

    def __init__(self, zones: dict[str, tuple[Path, float | None]], total: tuple[str, ...]) -> None:
        self.reason = ""
        self._zones, self._total = zones, total
        self._last: dict[str, float] = {}
        self._gained: dict[str, float] = {}
        self._lost: set[str] = set()
        self._began = 0.0
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin a window."""
        if self._thread is not None:
            raise MeasurementError("the rapl meter is already running; stop it first")
        self._last, self._gained, self._lost, self.reason = {}, dict.fromkeys(self._zones, 0.0), set(), ""
        self._halt.clear()
        self._update()
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._loop, name="codesign-rapl", daemon=True)
        self._thread.start()

    def stop(self) -> Energy | None:
        """End the window."""
        if self._thread is None:
            raise MeasurementError("the rapl meter is not running; start it first")
        seconds = time.perf_counter() - self._began
        self._halt.set()
        self._thread.join()
        self._thread = None
        self._update()
        source = f"RAPL {' + '.join(self._total)}"
        lost = sorted(self._lost.intersection(self._total))
        energy_J = sum(self._gained[name] for name in self._total) / 1e6
        if seconds < self.min_seconds:
            self.reason = f"{source}: the window was {seconds:.2g} s; it needs at least {self.min_seconds:g} s"
        elif lost:
            self.reason = f"{source}: {', '.join(lost)} could not be read throughout"
        elif energy_J <= 0:
            self.reason = f"{source}: the counters did not move"
        else:
            rails = {name: value / 1e6 for name, value in self._gained.items() if name not in self._lost}
            return Energy(
                energy_J=energy_J,
                seconds=seconds,
                mean_power_W=energy_J / seconds,
                rails=rails,
                source=source,
                note="the whole processor: other processes are in it, the rest of the board is not",
            )
        return None

    def _loop(self) -> None:
        while not self._halt.wait(_POLL_S):
            self._update()

    def _update(self) -> None:
        for name, (folder, span) in self._zones.items():
            now = read_number(folder, "energy_uj")
            last = self._last.get(name)
            if now is None or (last is not None and now < last and span is None):
                self._lost.add(name)
                continue
            if last is not None:
                self._gained[name] += now - last if now >= last else now - last + (span or 0.0)
            self._last[name] = now


def open_rapl(root: str | Path = "/") -> RaplMeter:
    """A meter of all packages.

    Raises:
        MeasurementError: no RAPL, or no permission to read it.
    """
    folder = Path(root, "sys/class/powercap")
    found = sorted(folder.glob("intel-rapl:*"))
    zones: dict[str, tuple[Path, float | None]] = {}
    total = []
    for zone in found:
        label = read_text(zone, "name") or zone.name
        part_of = zone.name.split(":")[1]
        name = label if zone.name.count(":") == 1 else f"{label}-{part_of}"
        readable = read_number(zone, "energy_uj") is not None
        counts = label.startswith("package") or label == "dram"
        if counts and not readable:
            raise MeasurementError(f"{zone / 'energy_uj'} cannot be read; an administrator must allow it (chmod o+r)")
        if readable:
            zones[name] = zone, read_number(zone, "max_energy_range_uj")
            if counts:
                total.append(name)
    if not total:
        raise MeasurementError(f"no RAPL package under {folder}")
    return RaplMeter(zones, tuple(total))
