"""Peak memory of this process while a block runs."""

from __future__ import annotations

import sys
from pathlib import Path

from codesign.profilers.sysfs import read_table

__all__ = ["PeakMemory"]


class PeakMemory:
    """Largest resident set of this process since the block was entered, in bytes.

    Linux: writing 5 to /proc/self/clear_refs sets the kernel's high-water mark back (man 5 proc_pid_clear_refs), and
    VmHWM of /proc/self/status reads it. Where that is not allowed, `ru_maxrss` is the peak of the whole life of the
    process: it is the block's own peak only if it rose, and `note` says which. The kernel counts pages in batches per
    thread, so the figure is good to a few MiB. Memory of an accelerator of its own is not in it.

    note: how far the figure can be trusted; empty if it is the block's own.

    Example:
        >>> with PeakMemory() as memory:
        ...     block = bytearray(1 << 20)
        >>> memory.peak_B() is None or memory.peak_B() > 1 << 20
        True
    """

    def __init__(self, root: str | Path = "/") -> None:
        self._proc = Path(root, "proc/self")
        self._reset = False
        self._life_before_B: float | None = None
        self._final_B: float | None = None
        self._done = False
        self.note = ""

    def __enter__(self) -> PeakMemory:
        self._done = False
        try:
            (self._proc / "clear_refs").write_text("5")
            self._reset = self._high_water_B() is not None
        except OSError:
            self._reset = False
        self._life_before_B = _life_peak_B()
        return self

    def __exit__(self, *_error: object) -> None:
        self._final_B = self.peak_B()
        self._done = True

    def peak_B(self) -> float | None:
        """Peak so far (in the block), or of the block (after it); None where the system does not say."""
        if self._done:
            return self._final_B
        if self._reset:
            return self._high_water_B()
        life = _life_peak_B()
        if life is None:
            self.note = "this system does not tell a process's peak memory"
        elif self._life_before_B is not None and life > self._life_before_B:
            self.note = ""
        else:
            self.note = "peak of the whole process: the block stayed below an earlier peak"
        return life

    def _high_water_B(self) -> float | None:
        words = read_table(self._proc, "status").get("VmHWM", "").split()
        return float(words[0]) * 1024 if words and words[0].isdigit() else None


def _life_peak_B() -> float | None:
    """Peak of the process's life: `ru_maxrss`, which is in KiB, but in bytes on macOS."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) * (1 if sys.platform == "darwin" else 1024)
