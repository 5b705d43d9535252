"""Reports and comparisons: made by `codesign.report` when they are asked for, and kept in the run's folder."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from codesign.dashboard.run_folders import FRONTIER, NotHere, RunFolders, inside
from codesign.dashboard.run_summary import RunSummary
from codesign.dashboard.search_form import Prefilled, from_command
from codesign.errors import SpecError

__all__ = ["REPORT", "MadePages"]

REPORT = "report.html"
#: What a report is made from.
_SOURCES = (FRONTIER, "validation.json")


class MadePages:
    """The pages of runs. One is made at a time: they take seconds of a core each."""

    def __init__(self, folders: RunFolders) -> None:
        self.folders = folders
        self._lock = threading.Lock()

    def state(self, name: str) -> str:
        """``ready``, ``old`` (the run is newer) or ``none``."""
        report = self.folders.file(name, REPORT)
        if report is None:
            return "none"
        sources = (self.folders.file(name, source) for source in _SOURCES)
        return "ready" if _written_ns(report) >= max(_written_ns(path) for path in sources) else "old"

    def report(self, name: str) -> Path:
        """The run's report, made now if it is missing or older than the run.

        Raises:
            NotHere: no such run.
            CodesignError: it cannot be made.
        """
        folder = self._folder(name)
        with self._lock:
            if self.state(name) != "ready":
                found = self.folders.get(name)
                _make(folder, from_command(found.command if isinstance(found, RunSummary) else ()))
            path = inside(folder, REPORT)
        if path is None:
            raise SpecError(
                f"the report of '{name}' was written, and is no file of the run's folder; remove {folder / REPORT}"
            )
        return path

    def compare(self, names: Sequence[str]) -> str:
        """One page about several runs.

        Raises:
            NotHere: no such run.
            SpecError: fewer than two. CodesignError: it cannot be made.
        """
        folders = [self._folder(name) for name in dict.fromkeys(names)]
        if len(folders) < 2:
            raise SpecError("a comparison needs two runs or more; choose them in the list of runs")
        with self._lock:
            return _compare(folders)

    def _folder(self, name: str) -> Path:
        folder = self.folders.folder(name)
        if folder is None:
            raise NotHere(f"no run '{name}' in {self.folders.root}")
        return folder


def _written_ns(path: Path | None) -> int:
    """When a file was written; 0 for one that is not there, or not any more."""
    try:
        return path.stat().st_mtime_ns if path is not None else 0
    except OSError:
        return 0


def _make(folder: Path, made_with: Prefilled) -> None:
    """Write a run's report; a loss law or calibration of a person's own is read from where the run's command had it."""
    from codesign.report.page import build_page, write_page
    from codesign.report.review import load_review

    values = {name: made_with.values[name] for name in ("loss-law", "calibration")}
    own = {name: value for name, value in values.items() if value in made_with.files}
    calibration = Path(own["calibration"]) if "calibration" in own else None
    review = load_review(folder, law=own.get("loss-law"), calibration=calibration)
    write_page(build_page(review), folder / REPORT)


def _compare(folders: Sequence[Path]) -> str:
    from codesign.report.compare import compare_runs, read_runs
    from codesign.report.compare_page import build_comparison

    return build_comparison(compare_runs(read_runs(folders)))
