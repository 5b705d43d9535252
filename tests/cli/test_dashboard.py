"""`codesign dashboard` as a person starts and ends it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from command_line import codesign, command, environment

pytest.importorskip("flask", reason="the extra 'dashboard' is not installed")


def _terminal() -> None:
    """Signals as a terminal's child has them: a shell's background jobs ignore Ctrl-C, those of nohup a closed terminal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address that it printed."""
    process = subprocess.Popen(
        command("dashboard", "--port", "0", *arguments), cwd=home, env=environment(home), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=_terminal,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+/", line)
        assert found, line + process.stderr.read()
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()


def status(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def children(process: int) -> list[str]:
    """Of every thread: a child belongs to the one that started it, or, where that one has ended, to another."""
    found = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end between its listing and its reading
            found += (thread / "children").read_text().split()
    return found


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_answers_and_ends_cleanly(tmp_path: Path, kind: signal.Signals) -> None:
    with serving(tmp_path) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        code, text = status(address)
        assert code == 200 and "No runs in" in text
        assert status(address, Host="evil.example")[0] == 403
        assert not (tmp_path / "results").exists()
        process.send_signal(kind)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0 and out == "stopped\n" and err == ""


def test_a_search_that_was_started_ends_with_it(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, address):
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        form = opener.open(f"{address}search", timeout=60).read().decode()
        token = re.search(r'name="csrf" value="([^"]+)"', form)
        assert token is not None
        asked = {
            "csrf": token[1],
            "device": "orin",
            "latency": "20ms",
            "solver": "heuristic",
            "evaluations": "1000000000",
            "name": "long",
        }
        with opener.open(f"{address}search", urllib.parse.urlencode(asked).encode(), timeout=60) as answer:
            assert answer.url == f"{address}search/1"
        if not Path(f"/proc/{process.pid}/task/{process.pid}/children").exists():
            pytest.skip("no /proc here to see the search in")
        every = children(process.pid)
        assert len(every) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert not Path(f"/proc/{every[0]}").exists()


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = codesign(tmp_path, "dashboard", "--port", str(port))
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"error: cannot listen on 127\.0\.0\.1 port {port}: .*; give another --port.*\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "70000"), "--port is 70000; allowed: 0 to 65535"),
        (("--port", "x"), "--port"),
        (("--host", "no.such.host.invalid"), "is not an address of this machine"),
        (("--host", "unix:///tmp/x"), "is not an address of this machine"),
        (("--results", sys.executable), "is not a folder"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = codesign(tmp_path, "dashboard", *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_another_host_is_warned_of(tmp_path: Path) -> None:
    with serving(tmp_path, "--host", "0.0.0.0") as (process, address):
        port = address.rsplit(":", 1)[1]
        code, text = status(f"http://127.0.0.1:{port}search")
        assert code == 200 and "has no log-in" in text
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert err.startswith("warning: bound to 0.0.0.0") and err.count("\n") == 1


def test_without_flask_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['flask'] = None; from codesign.cli import main; sys.exit(main(['dashboard', '--port', '0']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: codesign dashboard needs the package 'flask', which is not installed; pip install 'codesign-llm[dashboard]'\n"
    )


def test_help_imports_nothing_of_it(tmp_path: Path) -> None:
    code = "import sys; from codesign.cli import main; main(['dashboard', '--help']); print({'flask', 'jinja2', 'plotly', 'sqlalchemy', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("set()\n") and "Example: codesign dashboard" in done.stdout
