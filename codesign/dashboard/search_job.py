"""One `codesign search` at a time, started from a page, in a process group of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codesign.errors import SpecError

__all__ = ["Job", "SearchJobs"]

_KEPT = 20
_LOG_B = 20_000
#: Ctrl-C's signal first: the search then removes what it had half written. The others for one that hangs.
_STOP = ((signal.SIGINT, 5.0), (signal.SIGTERM, 5.0), (getattr(signal, "SIGKILL", signal.SIGTERM), 5.0))


@dataclass(slots=True, kw_only=True)
class Job:
    """One search. status: running, finished, failed or stopped; name: of the run's folder."""

    number: int
    name: str
    arguments: tuple[str, ...]
    folder: Path
    log_file: Path
    blocks: int
    process: subprocess.Popen[bytes]
    started_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    asked_to_stop: bool = False

    @property
    def status(self) -> str:
        """What has become of it."""
        code = self.process.poll()
        if code is None:
            return "stopping" if self.asked_to_stop else "running"
        if code == 0:
            return "finished"
        return "stopped" if self.asked_to_stop else "failed"

    @property
    def under_way(self) -> bool:
        """Whether its process lives."""
        return self.process.poll() is None

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return (time.monotonic() if self.under_way or self.ended_s is None else self.ended_s) - self.started_s

    @property
    def command(self) -> str:
        """What a person would type for the same."""
        return shlex.join(["codesign", "search", *self.arguments])

    @property
    def log(self) -> str:
        """The end of what it printed."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_B))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    @property
    def error(self) -> str:
        """The line that says what was wrong, of a search that failed."""
        if self.status != "failed":
            return ""
        lines = [line for line in self.log.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("error: ")]
        return (told or lines or [f"it ended with code {self.process.returncode} and said nothing"])[-1]

    @property
    def share(self) -> float | None:
        """How much of the space is done, 0 to 1; None where the search keeps no state (it is short then, or ends)."""
        state = self.folder.with_name(f".{self.folder.name}.state.json")
        try:
            return min(1.0, float(json.loads(state.read_text(encoding="utf-8"))["blocks"]) / max(1, self.blocks))
        except (OSError, ValueError, KeyError, TypeError):
            return None


class SearchJobs:
    """Starts, watches and stops; threads may share it.

    Args:
        results: folder that all runs go to; made when the first starts.
    """

    def __init__(self, results: Path) -> None:
        self.results = results
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._logs: Path | None = None

    @property
    def jobs(self) -> list[Job]:
        """The last ones, newest first."""
        return self._jobs[::-1]

    @property
    def current(self) -> Job | None:
        """The one under way."""
        return next((job for job in self.jobs if job.under_way), None)

    def get(self, number: int) -> Job | None:
        """By number; None if it is not kept."""
        return next((job for job in self._jobs if job.number == number), None)

    def start(self, arguments: Sequence[str], name: str, *, blocks: int = 0) -> Job:
        """Start `codesign search` with these arguments into the folder of this name.

        Args:
            arguments: checked ones, each one argument. name: plain and free (see `RunFolders`).
            blocks: of the space, to tell how far a large search is.

        Raises:
            SpecError: another is under way, or the process cannot be started.
        """
        with self._lock:
            if (running := self.current) is not None:
                raise SpecError(f"the search '{running.name}' is under way; wait for it, or stop it first")
            folder = self.results / name
            number = 1 + max((job.number for job in self._jobs), default=0)
            try:
                self.results.mkdir(parents=True, exist_ok=True)
                if self._logs is None:
                    self._logs = Path(tempfile.mkdtemp(prefix="codesign-dashboard-"))
                log_file = self._logs / f"{number}.log"
                told = (*arguments, f"--out={folder}")
                with log_file.open("wb") as log:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "codesign", "search", *told],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                        env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "140"},
                    )  # fmt: skip
            except (OSError, ValueError) as error:
                raise SpecError(f"cannot start the search: {error}") from error
            job = Job(number=number, name=name, arguments=told, folder=folder, log_file=log_file, blocks=blocks,
                      process=process)  # fmt: skip
            threading.Thread(target=_watch, args=(job,), daemon=True).start()
            self._jobs = [*self._jobs, job][-_KEPT:]
            return job

    def stop(self, job: Job) -> None:
        """End a search and wait until it has ended; its state, if it keeps one, stays for going on."""
        job.asked_to_stop = job.asked_to_stop or job.under_way
        for kind, wait_s in _STOP:
            if not job.under_way:
                return
            with contextlib.suppress(ProcessLookupError):
                if hasattr(os, "killpg"):
                    os.killpg(job.process.pid, kind)
                else:
                    job.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(wait_s)

    def close(self) -> None:
        """Stop what is under way and remove the logs."""
        if (job := self.current) is not None:
            self.stop(job)
        if self._logs is not None:
            shutil.rmtree(self._logs, ignore_errors=True)


def _watch(job: Job) -> None:
    job.process.wait()
    job.ended_s = time.monotonic()
