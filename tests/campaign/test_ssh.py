"""The real `ssh` program, the real agent and the real queue, over loopback; only the engine is made up."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from fleet_tasks import Book, task

pytest.importorskip("asyncssh", reason="asyncssh plays the boards' SSH server")
if shutil.which("ssh") is None:
    pytest.skip("no ssh program here", allow_module_level=True)

from ssh_boards import Board, Ground, wait_for

from codesign.campaign.fleet import run_fleet
from codesign.campaign.fleet_worker import WorkerLost
from codesign.campaign.ssh import SshWorker, ssh_workers
from codesign.errors import MeasurementError


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    made = Ground(tmp_path_factory.mktemp("ssh"))
    yield made
    made.close()


@pytest.fixture
def board(ground: Ground, request: pytest.FixtureRequest) -> Board:
    return ground.board(re.sub(r"[^a-z0-9]+", "-", request.node.name)[:60].strip("-"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


def why_not(worker: SshWorker) -> WorkerLost:
    with pytest.raises(WorkerLost) as caught:
        worker.start()
    worker.close()
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_campaign_on_three_boards_of_which_one_is_killed_and_one_cut_off(ground: Ground) -> None:
    boards = [ground.board(name) for name in ("good", "killed", "cut")]
    killed, cut = boards[1:]
    killed.hang(), cut.hang()
    seen: dict[str, int] = {}

    def disturb() -> None:
        wait_for(killed.hangs)
        time.sleep(0.3)  # its record is on its way
        killed.mend()
        os.kill(killed.pid(), signal.SIGKILL)
        wait_for(cut.hangs)
        time.sleep(0.3)
        seen["orphan"] = cut.pid()
        cut.mend()
        ground.cut(cut)

    trouble = threading.Thread(target=disturb)
    trouble.start()
    book = Book()
    workers = ssh_workers([b.host() for b in boards], ssh=ground.ssh)
    tasks = (task(n) for n in range(1, 31))
    report = run_fleet(
        workers, tasks, book.on_result, book.on_failure, on_record=book.on_record, backoff_s=0.2, reconnects=1
    )
    trouble.join()
    assert book.layers() == list(range(1, 31)) and not book.failures
    assert book.passes() == [(n, phase) for n in range(1, 31) for phase in ("decode", "prefill")]
    assert (report.done, report.failed, report.records) == (30, 0, 60)
    assert report.workers["good"].losses == 0 and report.workers["good"].tasks > 0
    assert report.workers["killed"].losses >= 1 and report.workers["cut"].losses >= 1
    split = [records for _, records, _ in book.results if len({m.host["name"] for m in records}) > 1]
    assert 1 <= len(split) <= 2  # begun on a board that dropped out, finished elsewhere
    wait_for(lambda: not alive(seen["orphan"]))  # no agent goes on measuring for nobody
    for b in boards:
        wait_for(lambda b=b: not alive(b.pid()))


def test_errors_of_a_task_come_back_as_what_they_were(ground: Ground, board: Board) -> None:
    worker = SshWorker(board.host(), ssh=ground.ssh)
    worker.start()
    assert worker.facts["host"]["pid"] == str(board.pid())
    assert ("torch" in worker.facts["engines"]) == (find_spec("torch") is not None)
    with pytest.raises(MeasurementError, match="^51 layers do not fit"):
        worker.run(task(51), lambda _: None)
    with pytest.raises(MeasurementError, match="^ValueError: engine crashed$"):
        worker.run(task(50), lambda _: None)
    got = []
    worker.run(task(2), got.append)  # it goes on
    assert [m.phase for m in got] == ["prefill", "decode"]
    worker.close()
    wait_for(lambda: not alive(board.pid()))


def test_the_wrong_key(ground: Ground, board: Board) -> None:
    error = why_not(SshWorker(board.host(), ssh=ground.config("stranger.conf", "stranger", "known")))
    assert error.permanent and "refused the login" in str(error) and "ssh-copy-id" in str(error)


def test_an_unknown_and_a_changed_host_key(ground: Ground, board: Board) -> None:
    (ground.folder / "nobody").write_text("")
    error = why_not(SshWorker(board.host(), ssh=ground.config("nobody.conf", "user", "nobody")))
    assert error.permanent and f"unknown; run 'ssh -p {board.port} me@127.0.0.1' once" in str(error)
    other = (ground.folder / "stranger.pub").read_text().split()
    (ground.folder / "other").write_text(f"[127.0.0.1]:{board.port} {other[0]} {other[1]}\n")
    error = why_not(SshWorker(board.host(), ssh=ground.config("other.conf", "user", "other")))
    assert error.permanent and "not the known one" in str(error)


def test_nobody_listens(ground: Ground) -> None:
    board = Board("off", ground.folder)
    board.port = 9  # discard: no server of ours
    error = why_not(SshWorker(board.host(), ssh=ground.ssh))
    assert not error.permanent and "cannot connect to me@127.0.0.1 port 9 (ssh: connect to host" in str(error)


@pytest.mark.parametrize(
    ("command", "said", "permanent"),
    [
        ("codesign-is-not-here agent", "no codesign at .*not found.*install codesign-llm on the board", True),
        ("python3 -S -c 'import sys; sys.exit(\"No module named codesign\")'", "no codesign at", True),
        ("echo Welcome; echo bad option >&2; exit 2", r"exit code 2 before it said hello \(bad option\)", True),
        ("echo Welcome to the board", "exit code 0 before it said hello .it printed 'Welcome to the board'", True),
        ("yes no", "prints other things than the agent's hello: 'no'", True),
        ("sleep 20", "no hello from 'sleep 20' within 0.5 s", False),
        ("echo '{\"error\": {\"type\": \"X\", \"message\": \"the board is taken\"}}'", "^the board is taken$", False),
    ],
)  # fmt: skip
def test_no_agent_there(ground: Ground, board: Board, command: str, said: str, permanent: bool) -> None:
    start_s = 0.5 if command.startswith("sleep") else 10.0
    error = why_not(SshWorker(board.host(command=command), ssh=ground.ssh, start_s=start_s))
    assert re.search(said, str(error)), str(error)
    assert error.permanent is permanent


def test_another_version_is_refused(ground: Ground, board: Board) -> None:
    error = why_not(SshWorker(board.host("old"), ssh=ground.ssh))
    assert error.permanent and "codesign 0.0.1 runs there" in str(error) and "pip install 'codesign-llm==" in str(error)


def test_a_login_script_that_prints_does_no_harm(ground: Ground, board: Board) -> None:
    worker = SshWorker(board.host(command=f"echo Last login; printf 'no newline'; {board.command()}"), ssh=ground.ssh)
    worker.start()
    got = []
    worker.run(task(1), got.append)
    worker.close()
    assert len(got) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("s/.id.:1.*/oops/", "not the agent's protocol: b'.*oops"),
        ("s/measurements/nothing/", "made 2 records of a task, of which 0 arrived"),
        ("s/wall_s/wall/", "a record that cannot be read: unknown measurement field.*wall"),
        ('s/.id.:1/"id":7/', "answered task 7 where task 1 runs"),
    ],
)
def test_garbage_in_the_middle_is_a_broken_link(ground: Ground, board: Board, change: str, said: str) -> None:
    worker = SshWorker(board.host(command=f"{board.command()} | sed -u '{change}'"), ssh=ground.ssh)
    worker.start()
    with pytest.raises(WorkerLost, match=said):
        worker.run(task(1), lambda _: None)
    wait_for(lambda: not alive(board.pid()))


def test_silence_and_a_task_without_end(ground: Ground, board: Board) -> None:
    board.hang()
    for how, options, said in (
        ("silent", {"silence_s": 0.5}, "silent for 0.5 s"),
        ("", {"task_s": 0.7, "silence_s": 0.5}, "longer than 0.7 s"),
    ):
        worker = SshWorker(board.host(how), ssh=ground.ssh, **options)
        worker.start()
        got = []
        with pytest.raises(WorkerLost, match=said):
            worker.run(task(1), got.append)
        assert len(got) == 1
        wait_for(lambda: not alive(board.pid()))


def test_close_ends_a_running_task(ground: Ground, board: Board) -> None:
    board.hang()
    worker = SshWorker(board.host(), ssh=ground.ssh)
    worker.start()
    threading.Timer(0.5, worker.close).start()
    with pytest.raises(WorkerLost) as caught:
        worker.run(task(1), lambda _: None)
    assert caught.value.permanent
    wait_for(lambda: not alive(board.pid()))


def test_a_second_agent_waits_for_the_board(ground: Ground, board: Board) -> None:
    first, second = (SshWorker(board.host(), ssh=ground.ssh) for _ in range(2))
    first.start()
    threading.Timer(0.7, first.close).start()
    start = time.monotonic()
    second.start()
    assert time.monotonic() - start > 0.6
    second.close()


def test_what_ssh_is_given(ground: Ground) -> None:
    board = Board("shown", ground.folder)
    board.port = 2222
    command = SshWorker(board.host(command="~/venv/bin/codesign agent")).command()
    assert command[-3:] == ["--", "me@127.0.0.1", "~/venv/bin/codesign agent"]
    assert "BatchMode=yes" in command and command[command.index("-p") + 1] == "2222"
    error = why_not(SshWorker(board.host(), ssh=("no-such-ssh",)))
    assert error.permanent and "install the OpenSSH client" in str(error)
