"""The far side of a fleet: reads tasks from standard input, runs them here, writes records to standard output.

One JSON object a line, in UTF-8. From the agent:

- `{"agent": "0.1.0", "host": {…}, "engines": […]}` first: its version of codesign and what this board is; or
  `{"waiting": "…"}` before it, while another agent holds this board;
- `{"id": 3, "measurements": [{…}]}`: records of task 3, each sent the moment it is made;
- `{"id": 3, "done": 2}`: task 3 has ended and made two records; or `{"id": 3, "error": {"type": "…", "message": "…"}}`;
- `{"beat": 3}` every few seconds, with the running task or null: tells a long task from a dead link;
- `{"error": {…}}` without an id: this agent cannot go on.

To the agent: `{"id": 3, "task": {…}}`, `{"ping": true}` every few seconds, `{"stop": true}`. When it hears nothing for
`silence_s`, or its input ends, it ends at once, in the middle of a task too: nobody would receive the records, and the
next agent must find the board quiet. One agent at a time runs on a board, whoever started it (a lock file).

What engines print goes to standard error: file descriptor 1 is moved away before anything runs.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from codesign.campaign.fleet_worker import told_error
from codesign.errors import CodesignError, MeasurementError
from codesign.measurement import Measurement
from codesign.profilers.base import Task

__all__ = ["HEARTBEAT_S", "SILENCE_S", "RunTask", "agent_version", "board_lock", "run_agent", "serve"]

_LOG = logging.getLogger(__name__)
HEARTBEAT_S = 5.0
SILENCE_S = 60.0  # a dozen pings: a busy network is no dead one


class RunTask(Protocol):
    """What runs a task in this process, such as `codesign.profilers.measure.run_task`."""

    def __call__(self, task: Task, *, on_record: Callable[[Measurement], None]) -> object:
        """Run it; each record goes through `on_record` when it is made. What it returns is not used."""
        ...


def agent_version() -> str:
    """The version of codesign, which both sides of a fleet must share ("unknown" where it is not installed)."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("codesign-llm")
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def board_lock(
    wait_s: float = 0.0, *, path: Path | None = None, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold this machine for measuring: two measurements at once would both be wrong.

    The lock is a file in the directory for temporary files, held through `flock`, so that it is freed however its holder
    ends. It is only ever read, so that each user of the board can lock it.

    Args:
        wait_s: how long to wait for another holder. path: of the file. on_wait: called about once a second of waiting.

    Raises:
        MeasurementError: another process holds it, or the file cannot be opened.
    """
    import fcntl

    path = path or Path(tempfile.gettempdir()) / "codesign-board.lock"
    handle = _open_lock(path)
    try:
        end = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                message = f"another codesign process measures on {platform.node()} (lock {path})"
                if time.monotonic() >= end:
                    raise MeasurementError(f"{message}; wait for it to end, or end it") from None
                if on_wait is not None:
                    on_wait(message)
                time.sleep(min(1.0, max(0.05, end - time.monotonic())))
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_CREAT | os.O_EXCL, os.O_RDONLY):
        try:
            return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except (FileNotFoundError, FileExistsError):
            continue  # it appeared between two tries
        except OSError as error:
            raise MeasurementError(
                f"cannot open the lock {path}: {error.strerror}; remove it, or set TMPDIR"
            ) from error
    raise MeasurementError(f"cannot open the lock {path}: no such folder; set TMPDIR to one that exists")


class _Link:
    """The protocol's two streams and what is going on."""

    def __init__(
        self, stdin: BinaryIO, stdout: BinaryIO, heartbeat_s: float, silence_s: float, abandon: Callable[[], None]
    ):
        self.stdin, self.stdout = stdin, stdout
        self.heartbeat_s, self.silence_s, self.abandon = heartbeat_s, silence_s, abandon
        self.orders: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self.heard_s = time.monotonic()
        self.running: int | None = None
        self.over = threading.Event()
        self._write_lock = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._write_lock:
            try:
                self.stdout.write(line)
                self.stdout.flush()
            except (BrokenPipeError, ValueError):  # nobody reads any more
                self._end("standard output is closed")

    def read(self) -> None:
        """Thread: orders of the other side into the queue, until they end."""
        for line in self.stdin:
            self.heard_s = time.monotonic()
            try:
                order = json.loads(line)
                if not isinstance(order, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                _LOG.error("not an order: %r (%s)", line[:200], error)
                self.send({"error": {"type": "SchemaError", "message": f"the agent was sent no JSON object: {error}"}})
                break
            if order.get("stop"):
                break
            if "task" in order:
                self.orders.put(order)
        self._end("input ended")

    def beat(self) -> None:
        """Thread: tells that the agent lives, and notices that the other side does not."""
        while not self.over.wait(self.heartbeat_s):
            if time.monotonic() - self.heard_s > self.silence_s:
                self._end(f"nothing heard for {self.silence_s:g} s")
                return
            self.send({"beat": self.running})

    def _end(self, why: str) -> None:
        if self.over.is_set():
            return
        self.over.set()
        _LOG.info("agent ends: %s", why)
        self.orders.put(None)
        if self.running is not None:
            self.abandon()


def serve(
    run_task: RunTask,
    stdin: BinaryIO,
    stdout: BinaryIO,
    *,
    heartbeat_s: float = HEARTBEAT_S,
    silence_s: float = SILENCE_S,
    abandon: Callable[[], None],
    lock: Path | None = None,
) -> int:
    """Speak the protocol (see the module) until it ends; returns the exit code.

    Args:
        run_task: runs a task in this process.
        stdin, stdout: the two streams.
        abandon: called, in another thread, when the other side is gone while a task runs: ends this process.
        lock: the board's lock file.
    """
    link = _Link(stdin, stdout, heartbeat_s, silence_s, abandon)
    for target in (link.read, link.beat):
        threading.Thread(target=target, daemon=True).start()

    def on_wait(why: str) -> None:
        if link.over.is_set():
            raise MeasurementError("the other side left while this agent waited for the board")
        link.send({"waiting": why})

    try:
        with board_lock(silence_s + 5.0, path=lock, on_wait=on_wait):  # an orphan ends within silence_s
            link.send({"agent": agent_version(), "host": _host(), "engines": _engines()})
            while (order := link.orders.get()) is not None:
                _run(order, run_task, link)
    except CodesignError as error:
        link.send({"error": told_error(error)})
        return 2
    return 0


def _run(order: Mapping[str, Any], run_task: RunTask, link: _Link) -> None:
    made = 0

    def on_record(record: Measurement) -> None:
        nonlocal made
        made += 1
        link.send({"id": order.get("id"), "measurements": [record.to_dict()]})

    link.running = order.get("id")
    try:
        run_task(Task.from_dict(order["task"]), on_record=on_record)
        answer: dict[str, Any] = {"done": made}
    except Exception as error:  # whatever an engine raises must reach the other side
        if not isinstance(error, CodesignError):
            _LOG.exception("the task failed")
        answer = {"error": told_error(error)}
    link.running = None  # before the answer: who has it may end us, and then we end in peace
    link.send({"id": order.get("id"), **answer})


def _host() -> dict[str, str]:
    return {
        "name": platform.node(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "pid": str(os.getpid()),
    }


def _engines() -> list[str]:
    """Engines whose package is here (and plug-ins); whether they work is seen when a task runs."""
    from importlib.util import find_spec

    from codesign.profilers.engines import engine_names

    own = ("onnxruntime", "torch", "tensorrt")
    return [name for name in engine_names() if name not in own or find_spec(name) is not None]


def run_agent(
    run_task: RunTask | None = None, *, heartbeat_s: float = HEARTBEAT_S, silence_s: float = SILENCE_S
) -> int:
    """`codesign agent`: speak the protocol on this process's standard input and output; returns the exit code.

    Args:
        run_task: default: `codesign.profilers.measure.run_task`, imported with the first task.
        heartbeat_s, silence_s: see the module.
    """
    stdin, stdout = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # a program that an engine starts must not eat the protocol
    sys.stdout.flush()
    os.dup2(2, 1)
    if os.getpgrp() != os.getpid() and not stdin.isatty():  # at a terminal a new group could not read
        os.setpgid(0, 0)
    stdout.write(b"\n")  # ends a line that a login script left open
    return serve(run_task or _default, stdin, stdout, heartbeat_s=heartbeat_s, silence_s=silence_s, abandon=_die)


def _default(task: Task, *, on_record: Callable[[Measurement], None]) -> object:
    from codesign.profilers.measure import run_task

    return run_task(task, on_record=on_record)


def _die() -> None:
    """End this process and the programs that it started, now."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
