"""The agent's protocol, spoken to by hand over pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_tasks import task

from codesign.campaign.agent import agent_version, board_lock
from codesign.errors import MeasurementError
from codesign.measurement import Measurement

HERE = Path(__file__).parent
REAL = (
    "from codesign.campaign.agent import run_agent; raise SystemExit(run_agent(heartbeat_s=0.1, silence_s={silence}))"
)


class Agent:
    """An agent in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        command = [sys.executable, *(arguments or (str(HERE / "fake_board.py"), str(folder)))]
        environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)

    def send(self, message: object) -> None:
        assert self.process.stdin
        text = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.process.stdin.write(text + b"\n")
        self.process.stdin.flush()

    def read(self, *, beats: bool = False) -> dict[str, Any]:
        assert self.process.stdout
        while True:
            line = self.process.stdout.readline()
            if not line:
                return {}
            if line.strip():
                message: dict[str, Any] = json.loads(line)
                if beats or "beat" not in message:
                    return message

    def end(self) -> tuple[int, str]:
        """Exit code and standard error."""
        assert self.process.stdin and self.process.stderr
        self.process.stdin.close()
        said = self.process.stderr.read().decode()
        return self.process.wait(10), said

    def leave(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream
            stream.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.leave()


def test_hello_records_as_they_are_made_and_stop(agent: Agent) -> None:
    hello = agent.read()
    assert hello["agent"] == agent_version() and set(hello) == {"agent", "host", "engines"}
    assert hello["host"]["pid"] == str(agent.process.pid) and hello["host"]["python"]
    (agent.folder / "hang").touch()
    agent.send({"id": 7, "task": task(3).to_dict()})
    first = agent.read()
    made = Measurement.from_dict(first["measurements"][0])
    assert first["id"] == 7 and (made.phase, made.wall_s) == ("prefill", (3.0,))
    assert agent.read(beats=True) == {"beat": 7}  # the task still runs


def test_what_engines_print_goes_to_standard_error_and_their_children_read_nothing(agent: Agent) -> None:
    agent.read()
    agent.send({"id": 1, "task": task(3).to_dict()})
    agent.send({"id": 2, "task": task(4).to_dict()})
    answers = [agent.read() for _ in range(6)]
    assert [(a["id"], a.get("done")) for a in answers] == [(1, None), (1, None), (1, 2), (2, None), (2, None), (2, 2)]
    agent.send({"stop": True})
    code, said = agent.end()
    assert code == 0 and said.count("an engine prints here") == said.count("and here, past Python") == 2
    assert said.count("and its children") == 2


def test_errors_are_told_and_the_agent_goes_on(agent: Agent) -> None:
    agent.read()
    agent.send({"id": 1, "task": task(51).to_dict()})
    assert agent.read() == {
        "id": 1,
        "error": {"type": "MeasurementError", "message": f"51 layers do not fit {agent.folder.name}"},
    }
    agent.send({"id": 2, "task": {"surprise": 1}})
    error = agent.read()["error"]
    assert error["type"] == "SchemaError" and "same version of codesign" in error["message"]
    agent.send({"id": 3, "task": task(50).to_dict()})
    assert agent.read()["error"] == {"type": "ValueError", "message": "engine crashed"}
    agent.send(b"this is no order")
    assert agent.read()["error"]["type"] == "SchemaError"
    assert agent.end()[0] == 0


@pytest.mark.parametrize("how", ["input ends", "stop"])
def test_a_running_task_is_dropped_when_the_other_side_leaves(agent: Agent, how: str) -> None:
    agent.read()
    (agent.folder / "hang").touch()
    agent.send({"id": 1, "task": task(1).to_dict()})
    agent.read()
    start = time.monotonic()
    if how == "stop":
        agent.send({"stop": True})
    code, _ = agent.end()
    assert time.monotonic() - start < 5 and code == -signal.SIGKILL


def test_the_real_engine_silence_and_an_unknown_engine(tmp_path: Path) -> None:
    """The agent as it is, with what measures; it ends when it hears nothing for a second."""
    pytest.importorskip("onnxruntime")
    agent = Agent(tmp_path, "-c", REAL.format(silence=8))
    agent.read()
    agent.send({"id": 1, "task": task(1, engine="abacus").to_dict()})
    assert agent.read()["error"]["type"] == "UnknownNameError"
    agent.send({"id": 2, "task": task(1, engine="onnxruntime").to_dict()})
    answers = [agent.read() for _ in range(3)]
    records = [Measurement.from_dict(data) for a in answers for data in a.get("measurements", ())]
    assert [m.phase for m in records] == ["prefill", "decode"] and answers[2] == {"id": 2, "done": 2}, answers
    agent.leave()
    idle = Agent(tmp_path, "-c", REAL.format(silence=0.5))
    idle.read()
    assert idle.process.wait(10) == 0
    idle.leave()


def test_the_command(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "-c", "import typer; from codesign.cli.agent import agent; typer.run(agent)")
    assert agent.read()["agent"] == agent_version()
    agent.send({"stop": True})
    assert agent.end() == (0, "")
    agent.leave()


def test_one_process_at_a_time_measures_on_a_board(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with board_lock(path=path):
        with (
            pytest.raises(MeasurementError, match=r"another codesign process measures on .*lock .*; wait for it"),
            board_lock(path=path),
        ):
            pass
        told: list[str] = []
    with board_lock(path=path), pytest.raises(MeasurementError), board_lock(0.2, path=path, on_wait=told.append):
        pass
    assert told and "another codesign process" in told[0]
    with board_lock(path=path):
        pass  # free again
    with pytest.raises(MeasurementError, match="no such folder; set TMPDIR"), board_lock(path=tmp_path / "no" / "lock"):
        pass
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MeasurementError, match="remove it, or set TMPDIR"), board_lock(path=path):
        pass
