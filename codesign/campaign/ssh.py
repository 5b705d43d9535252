"""Boards over SSH: an agent there (`codesign agent`), JSON lines through the system's `ssh` program.

Why the program and no SSH library: it reads the person's own ~/.ssh/config, keys, agent, known hosts and jump hosts, it
is what she tried the connection with, and it adds no package. BatchMode keeps it from asking (a campaign runs
unattended: it fails instead, with a line that says what to do), ServerAliveInterval ends a link whose far end is
gone without a word within 45 s, which TCP alone does not notice for hours. It does not become a ControlMaster: one that
lingers in the background keeps our pipes open.
"""

from __future__ import annotations

import json
import logging
import queue
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from codesign.campaign.agent import HEARTBEAT_S, agent_version
from codesign.campaign.fleet_hosts import Host
from codesign.campaign.fleet_worker import OnRecord, WorkerLost, rebuilt_error
from codesign.errors import CodesignError
from codesign.measurement import Measurement
from codesign.profilers.base import Task

__all__ = ["SshWorker", "ssh_workers"]

_LOG = logging.getLogger(__name__)
_OPTIONS = (
    "-T", "-x", "-a",
    "-o", "BatchMode=yes",
    "-o", "ConnectTimeout=15",
    "-o", "ServerAliveInterval=15",
    "-o", "ServerAliveCountMax=3",
    "-o", "ControlMaster=no",
    "-o", "ClearAllForwardings=yes",
    "-o", "RemoteCommand=none",
    "-o", "LogLevel=INFO",
)  # fmt: skip


class SshWorker:
    """One board over SSH; see `Worker`.

    Args:
        host: where and what.
        ssh: the program and its first options.
        start_s: how long the agent may take to say hello after the last sign of life (a slow card loads Python slowly).
        silence_s: a working agent that sends no beat for this long is taken for dead (an engine may hold Python's lock
            for a while; a dead link shows earlier, through ServerAliveInterval).
        task_s: longest time for one task, engine building included; beyond it the engine is taken to hang.

    Attributes:
        facts: what the agent told of its board when it last said hello.
    """

    def __init__(
        self, host: Host, *, ssh: Sequence[str] = ("ssh",), start_s: float = 60.0, silence_s: float = 120.0,
        task_s: float = 3600.0,
    ) -> None:  # fmt: skip
        self.name, self.device, self.power_mode = host.name, host.device, host.power_mode
        self.host, self.ssh = host, tuple(ssh)
        self.start_s, self.silence_s, self.task_s = start_s, silence_s, task_s
        self.facts: Mapping[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._said: deque[str] = deque(maxlen=40)
        self._stderr: threading.Thread | None = None
        self._down = threading.Event()
        self._closed = False
        self._write_lock = threading.Lock()
        self._id = 0
        self._got = 0

    def command(self) -> list[str]:
        """The program that is started. After `--` nothing is taken for an option."""
        port = ("-p", str(self.host.port)) if self.host.port else ()
        return [*self.ssh, *_OPTIONS, *port, "--", self.host.destination, self.host.command]

    def start(self) -> None:
        """Connect and wait for the agent's hello.

        Raises:
            WorkerLost: no connection, no agent, or an agent of another version.
        """
        self._hang_up()
        if self._closed:
            raise WorkerLost("closed", permanent=True)
        if shutil.which(self.ssh[0]) is None:
            raise WorkerLost(f"no program '{self.ssh[0]}' here; install the OpenSSH client", permanent=True)
        self._lines, self._said, self._down = queue.SimpleQueue(), deque(maxlen=40), threading.Event()
        process = subprocess.Popen(
            self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to handle: records under way still arrive
        )  # fmt: skip
        self._process, self.facts = process, {}
        self._stderr = threading.Thread(target=_drain, args=(process, self._said, self.name), daemon=True)
        for thread in (
            self._stderr,
            threading.Thread(target=_read, args=(process, self._lines), daemon=True),
            threading.Thread(target=self._ping, args=(self._down,), daemon=True),
        ):
            thread.start()
        try:
            if not self._closed:  # by another thread, just now
                self._hello()
        except WorkerLost:
            self._hang_up()
            raise
        if self._closed:
            self._hang_up()
            raise WorkerLost("the link was closed", permanent=True)

    def _hello(self) -> None:
        noise: list[str] = []
        while True:
            line = self._line(self.start_s)
            if line is None:
                raise WorkerLost(
                    f"no hello from '{self.host.command}' within {self.start_s:g} s{_heard(noise, self._said)}"
                )
            if line == b"":
                raise self._ended(noise)
            message = _parse(line)
            if message is None:  # what a login script prints
                noise.extend([text] if (text := line.decode(errors="replace").strip()) else [])
                if len(noise) > 1000:
                    raise WorkerLost(f"prints other things than the agent's hello: {noise[0][:200]!r}", permanent=True)
            elif "error" in message:
                raise WorkerLost(str(message["error"].get("message", "the agent cannot start")))
            elif "waiting" in message:
                _LOG.info("%s waits: %s", self.name, message["waiting"])
            elif "agent" in message:
                break
        here, there = agent_version(), str(message["agent"])
        if here != there:
            raise WorkerLost(
                f"codesign {there} runs there and {here} here; both sides need the same version: pip install "
                f"'codesign-llm=={here}' on the board",
                permanent=True,
            )
        self.facts = {name: message.get(name) for name in ("agent", "host", "engines")}
        _LOG.info("%s is connected: %s", self.name, self.facts)

    def run(self, task: Task, on_record: OnRecord) -> None:
        """Run a task there; see `Worker.run`.

        Raises:
            WorkerLost: the link broke, the agent died, was silent or took longer than `task_s`.
            CodesignError: what the task raised there.
        """
        self._id += 1
        self._got = 0
        end_s = time.monotonic() + self.task_s
        try:
            self._send({"id": self._id, "task": task.to_dict()})
            while (left_s := end_s - time.monotonic()) > 0:
                line = self._line(min(self.silence_s, left_s))
                if line == b"":
                    raise self._ended([])
                if line is None and self.silence_s < left_s:
                    raise WorkerLost(f"the agent was silent for {self.silence_s:g} s in the middle of a task")
                if line is not None and self._take(line, on_record):
                    return
            raise WorkerLost(f"a task took longer than {self.task_s:g} s; the engine may hang there")
        except WorkerLost:
            self._hang_up()
            raise

    def _take(self, line: bytes, on_record: OnRecord) -> bool:
        """One line while a task runs; True at the task's end."""
        message = _parse(line)
        if message is None:
            raise WorkerLost(
                f"sent what is not the agent's protocol: {line[:200]!r}; find what prints that on the board"
            )
        if "beat" in message:
            return False
        if "error" in message and "id" not in message:
            raise WorkerLost(str(message["error"].get("message", "the agent gave up")))
        if message.get("id") != self._id:
            raise WorkerLost(f"answered task {message.get('id')} where task {self._id} runs")
        try:
            records = [Measurement.from_dict(data) for data in message.get("measurements", ())]
        except CodesignError as error:
            raise WorkerLost(f"sent a record that cannot be read: {error}", permanent=True) from error
        for record in records:
            on_record(record)
        self._got += len(records)
        if "error" in message:
            raise rebuilt_error(message["error"])
        if message.get("done", self._got) != self._got:
            raise WorkerLost(f"made {message['done']} records of a task, of which {self._got} arrived")
        return "done" in message

    def close(self) -> None:
        """End the agent and the link; a waiting `start` or `run` raises WorkerLost."""
        self._closed = True
        self._hang_up()

    def _line(self, timeout_s: float) -> bytes | None:
        """The next line; b"" when there will be none, None when none came in time."""
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _send(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with self._write_lock:
            try:
                process.stdin.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
                process.stdin.flush()
            except (OSError, ValueError):
                pass  # the link is gone: its reader tells why

    def _ping(self, down: threading.Event) -> None:
        while not down.wait(HEARTBEAT_S):
            self._send({"ping": True})

    def _ended(self, noise: Sequence[str]) -> WorkerLost:
        """Why the program ended."""
        process = self._process
        if self._closed or process is None:
            return WorkerLost("the link was closed", permanent=True)
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None  # it closed its output and lives on
        if self._stderr is not None:
            self._stderr.join(timeout=1)
        return explain(code, tuple(self._said), noise, self.host, greeted=bool(self.facts))

    def _hang_up(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._down.set()
        with self._write_lock:
            try:
                if process.stdin is not None:
                    process.stdin.close()  # the agent ends with its input
            except OSError:
                pass
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ssh_workers(hosts: Sequence[Host], **options: Any) -> list[SshWorker]:
    """A worker for each board; options as of `SshWorker`."""
    return [SshWorker(host, **options) for host in hosts]


def explain(code: int | None, said: Sequence[str], noise: Sequence[str], host: Host, *, greeted: bool) -> WorkerLost:
    """Why `ssh` ended, from its exit code and what was on standard error, with the next step.

    `ssh` exits with 255 for its own errors, else with the remote command's code (ssh(1)); 127 is the shell's for a
    command that is not there. The texts are OpenSSH's, which are not translated.

    Args:
        code: exit code; None where it still runs. said: lines of standard error. noise: what came before a hello.
        greeted: the agent had said hello on this link.
    """
    text = "\n".join(said)
    where = host.destination + (f" port {host.port}" if host.port else "")
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    told = f" ({last})" if last else _heard(noise, ())
    login = f"ssh {f'-p {host.port} ' if host.port else ''}{host.destination}"
    if code == 255 or code is None:
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in text:
            return WorkerLost(
                f"the host key of {where} is not the known one: another machine answers, or it was installed anew; check it, "
                f"then remove the old key with ssh-keygen -R",
                permanent=True,
            )
        if "Host key verification failed" in text:
            return WorkerLost(f"the host key of {where} is unknown; run '{login}' once and check it", permanent=True)
        if "Permission denied" in text or "Too many authentication failures" in text:
            return WorkerLost(
                f"{where} refused the login{told}; give it your public key with ssh-copy-id, and unlock the key (ssh-add)",
                permanent=True,
            )
        if greeted:
            return WorkerLost(f"the agent on {where} died or the link broke{told}")
        return WorkerLost(f"cannot connect to {where}{told}; is it on, and does '{login}' work?")
    if code == 127 or "No module named codesign" in text:
        return WorkerLost(
            f"no codesign at {where}{told}: '{host.command}' is not there; install codesign-llm on the board, or name the "
            'program in the hosts file, such as command = "~/venv/bin/codesign agent"',
            permanent=True,
        )
    if greeted:
        killed = " of SIGKILL, perhaps for lack of memory" if code == 137 else ""
        return WorkerLost(f"the agent on {where} died{killed} (exit code {code}){told}")
    return WorkerLost(
        f"'{host.command}' on {where} ended with exit code {code} before it said hello{told}", permanent=True
    )


def _heard(noise: Sequence[str], said: Sequence[str]) -> str:
    first = next(iter([*noise, *said]), "")
    return f" (it printed {first[:200]!r})" if first else ""


def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(b"")


def _drain(process: subprocess.Popen[bytes], said: deque[str], name: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        text = line.decode(errors="replace").rstrip()
        said.append(text)
        _LOG.debug("%s: %s", name, text)


def _parse(line: bytes) -> dict[str, Any] | None:
    """A message of the agent; None for anything else."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
