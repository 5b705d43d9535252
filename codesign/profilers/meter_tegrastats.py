"""Power from a running `tegrastats`, where the rails cannot be read from sysfs directly.

A line holds ``<rail> <now>mW/<mean>mW``; JetPack 4 leaves out the unit (``POM_5V_IN 2532/2698``) and JetPack 7 adds a
third figure. The first figure is used (NVIDIA Jetson Linux Developer Guide, tegrastats utility).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time

from codesign.errors import MeasurementError
from codesign.profilers.meter_base import Energy, Sample, energy_of
from codesign.profilers.meter_ina3221 import MODULE_NOTE, total_rails

__all__ = ["TegrastatsMeter", "open_tegrastats", "parse_tegrastats"]

_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+mW)?(?!\S)")
_FIRST_LINE_S = 5.0


def parse_tegrastats(line: str) -> dict[str, float]:
    """Watts by rail in one line; empty where it has none.

    Example:
        >>> parse_tegrastats("RAM 2/7620MB SWAP 0/3810MB CPU [1%@729] VDD_IN 4742mW/4742mW VDD_SOC 1446mW/1446mW")
        {'VDD_IN': 4.742, 'VDD_SOC': 1.446}
    """
    return {name: int(milli) / 1e3 for name, milli in _RAIL.findall(line)}


class TegrastatsMeter:
    """Runs `tegrastats` for the length of the window and integrates its lines.

    Args:
        command: path of tegrastats. interval_ms: between lines.

    Raises:
        MeasurementError: started twice, stopped before it was started, or the command does not run.
    """

    name = "tegrastats"
    min_seconds = 2.0

    def __init__(self, command: str, interval_ms: int = 100) -> None:
        self.reason = ""
        self._command = [command, "--interval", str(interval_ms)]
        self._process: subprocess.Popen[str] | None = None
        self._samples: list[Sample] = []
        self._first = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = 0.0

    def start(self) -> None:
        """Begin a window: waits for the first line, so that none of the window goes unmeasured."""
        if self._process is not None:
            raise MeasurementError("the tegrastats meter is already running; stop it first")
        self._samples, self.reason = [], ""
        self._first.clear()
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            raise MeasurementError(f"cannot run {self._command[0]}: {error}") from error
        self._thread = threading.Thread(target=self._follow, name="codesign-tegrastats", daemon=True)
        self._thread.start()
        self._first.wait(_FIRST_LINE_S)
        self._began = time.perf_counter()

    def stop(self) -> Energy | None:
        """End the window."""
        process, thread = self._process, self._thread
        if process is None or thread is None:
            raise MeasurementError("the tegrastats meter is not running; start it first")
        ended = time.perf_counter()
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        thread.join()
        self._process = self._thread = None
        samples = self._within(self._began, ended)
        if not samples:
            self.reason = f"{self._command[0]} printed no line with power rails"
            return None
        total = total_rails(samples[0][1])
        if not total:
            self.reason = f"tegrastats rails {', '.join(samples[0][1])}: which of them make the total is not known"
            return None
        energy, self.reason = energy_of(
            samples, total, least_s=self.min_seconds, source=f"tegrastats {' + '.join(total)}", note=MODULE_NOTE
        )
        return energy

    def _within(self, began: float, ended: float) -> list[Sample]:
        """Lines of the window, the last one before it counting from its beginning, the last one up to its end."""
        before = [watts for t, watts in self._samples if t <= began]
        inside = [(t, watts) for t, watts in self._samples if began < t <= ended]
        samples = ([(began, before[-1])] if before else []) + inside
        return [*samples, (ended, samples[-1][1])] if samples else []

    def _follow(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if watts := parse_tegrastats(line):
                    self._samples.append((time.perf_counter(), watts))
                    self._first.set()
        self._first.set()  # it ended: nothing to wait for


def open_tegrastats(command: str = "tegrastats") -> TegrastatsMeter:
    """A meter that runs `tegrastats`.

    Raises:
        MeasurementError: the command is not there.
    """
    path = shutil.which(command)
    if path is None:
        raise MeasurementError(f"{command} is not on the PATH; it comes with JetPack")
    return TegrastatsMeter(path)
