"""The runs in a results folder. Every path that a page opens comes from here, and none leaves the folder."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from codesign.dashboard.run_summary import RunSummary, summarise
from codesign.errors import SchemaError, UnknownNameError

__all__ = ["FRONTIER", "BrokenRun", "NotHere", "RunFolders", "RunList", "inside", "is_plain"]

FRONTIER = "frontier.jsonl"


class NotHere(UnknownNameError):
    """No such run or search: answered with 404."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRun:
    """A folder that looks like a run and cannot be read, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunList:
    """The runs, those that cannot be read, and how many were left out because they lead out of the folder."""

    runs: tuple[RunSummary, ...]
    broken: tuple[BrokenRun, ...]
    outside: int


def is_plain(name: str) -> bool:
    """Whether a text is the name of one visible entry of a folder, and can be written in an address.

    Example:
        >>> [is_plain(name) for name in ("orin-20ms", "..", "a/b", ".hidden", "a\\x00b", "")]
        [True, False, False, False, False, False]
    """
    if not name or name.startswith(".") or any(sign in name for sign in ("/", "\\", "\0")):
        return False
    try:
        name.encode("utf-8")  # a name of other bytes cannot be
    except UnicodeEncodeError:
        return False
    return True


def inside(folder: Path, *parts: str) -> Path | None:
    """The regular file at folder/part/part with all links resolved; None where there is none or it lies outside.

    Args:
        parts: each the plain name of one entry: no separators, nothing that starts with a dot.
    """
    if not all(is_plain(part) for part in parts):
        return None
    try:
        base = folder.resolve(strict=True)
        path = folder.joinpath(*parts).resolve(strict=True)
        regular = stat.S_ISREG(path.stat().st_mode)  # a pipe or a device would hang who reads it
    except (OSError, RuntimeError, ValueError):
        return None
    return path if regular and path.is_relative_to(base) else None


class RunFolders:
    """The folders of a results folder that hold a frontier.jsonl. Threads may share one.

    Args:
        root: need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._read: dict[str, tuple[tuple[int, int, int], RunSummary | BrokenRun]] = {}

    def all(self) -> RunList:
        """All runs in order of name. A frontier is read again only when its file changed."""
        runs, broken, outside = [], [], 0
        for name in self._names():
            path = inside(self.root, name, FRONTIER)
            if path is None or not self._is_folder(name):
                outside += os.path.exists(self.root / name / FRONTIER) if is_plain(name) else 1
                continue
            found = self._summary(name, path)
            if isinstance(found, RunSummary):
                runs.append(found)
            else:
                broken.append(found)
        return RunList(runs=tuple(runs), broken=tuple(broken), outside=outside)

    def folder(self, name: str) -> Path | None:
        """The folder of a run; None where there is no such run here."""
        if not is_plain(name) or inside(self.root, name, FRONTIER) is None or not self._is_folder(name):
            return None
        return self.root / name

    def get(self, name: str) -> RunSummary | BrokenRun | None:
        """The run of this name; None where there is none here."""
        folder = self.folder(name)
        path = inside(folder, FRONTIER) if folder else None
        return self._summary(name, path) if path else None

    def file(self, name: str, *parts: str) -> Path | None:
        """A file of a run; None where there is none, or where it lies outside the run."""
        folder = self.folder(name)
        return inside(folder, *parts) if folder else None

    def free_name(self, name: str) -> str:
        """This name, or with a number behind it, such that nothing of that name is there."""
        number, free = 1, name
        while os.path.lexists(self.root / free):
            number += 1
            free = f"{name}-{number}"
        return free

    def _names(self) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.root) if not entry.name.startswith("."))
        except OSError:  # not there yet
            return []

    def _is_folder(self, name: str) -> bool:
        """A folder in the results folder itself, not a link to one elsewhere."""
        try:
            return (self.root / name).resolve(strict=True).is_relative_to(self.root.resolve(strict=True))
        except (OSError, RuntimeError):
            return False

    def _summary(self, name: str, path: Path) -> RunSummary | BrokenRun:
        try:
            facts = path.stat()
        except OSError as error:  # replaced at this moment
            return BrokenRun(name=name, why=str(error))
        stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        with self._lock:
            kept = self._read.get(name)
            if kept is not None and kept[0] == stamp:
                return kept[1]
        try:
            found: RunSummary | BrokenRun = summarise(name, path)
        except SchemaError as error:
            found = BrokenRun(name=name, why=str(error))
        with self._lock:
            self._read[name] = (stamp, found)
        return found
