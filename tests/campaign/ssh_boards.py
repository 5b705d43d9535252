"""Boards on this machine: an SSH server (asyncssh) with keys of its own, which runs what it is told in a subprocess."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh

from codesign.campaign.fleet_hosts import Host, parse_host

HERE = Path(__file__).parent


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Board:
    """One board: its folder, its server's port, and the connections to it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.port = name, folder / name, 0
        self.folder.mkdir()
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.children: list[asyncio.subprocess.Process] = []

    def command(self, how: str = "") -> str:
        return f"{sys.executable} {HERE / 'fake_board.py'} {self.folder} {how}".rstrip()

    def host(self, how: str = "", **settings: Any) -> Host:
        return parse_host(f"me@127.0.0.1:{self.port}", **{"name": self.name, "command": self.command(how), **settings})

    def pid(self) -> int:
        return int((self.folder / "pid").read_text())

    def ran(self) -> list[str]:
        log = self.folder / "ran"
        return log.read_text().splitlines() if log.exists() else []

    def hang(self) -> None:
        """The engine will stop after the first record of the next task."""
        (self.folder / "hang").touch()

    def hangs(self) -> bool:
        return (self.folder / "hanging").exists()

    def mend(self) -> None:
        (self.folder / "hang").unlink()


class Ground:
    """All boards, in an event loop of a thread; keys, known hosts and the ssh configuration are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        for name in ("user", "stranger"):
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(folder / name)
            (folder / name).chmod(0o600)
            key.write_public_key(folder / f"{name}.pub")
        (folder / "known").touch()
        self.config("config", "user", "known")
        self.servers: list[asyncssh.SSHAcceptor] = []
        self.boards: list[Board] = []

    def config(self, name: str, key: str, known: str) -> tuple[str, ...]:
        """`ssh` with a configuration of its own."""
        path = self.folder / name
        path.write_text(
            f"Host *\n IdentityFile {self.folder / key}\n IdentitiesOnly yes\n IdentityAgent none\n"
            f" UserKnownHostsFile {self.folder / known}\n GlobalKnownHostsFile none\n"
        )
        return ("ssh", "-F", str(path))

    @property
    def ssh(self) -> tuple[str, ...]:
        return ("ssh", "-F", str(self.folder / "config"))

    def board(self, name: str) -> Board:
        board = Board(name, self.folder)
        self.boards.append(board)
        asyncio.run_coroutine_threadsafe(self._serve(board), self.loop).result(10)
        key = self.host_key.export_public_key().decode().split()
        with (self.folder / "known").open("a") as known:
            known.write(f"[127.0.0.1]:{board.port} {key[0]} {key[1]}\n")
        return board

    def cut(self, board: Board) -> None:
        """Drop the board's TCP connections without a word of SSH."""
        for connection in board.connections:
            self.loop.call_soon_threadsafe(connection.abort)

    async def _serve(self, board: Board) -> None:
        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                board.connections.append(conn)

        async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
            await _run(process, board.children, {**os.environ, "TMPDIR": str(board.folder), "OMP_NUM_THREADS": "1"})

        server = await asyncssh.create_server(
            Server, "127.0.0.1", 0, server_host_keys=[self.host_key], process_factory=run, encoding=None,
            authorized_client_keys=str(self.folder / "user.pub"),
        )  # fmt: skip
        self.servers.append(server)
        board.port = server.get_port()

    def close(self) -> None:
        async def end() -> None:
            for server in self.servers:
                server.close()
            for child in (child for board in self.boards for child in board.children if child.returncode is None):
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait(others, timeout=3) if others else None

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


async def _run(
    process: asyncssh.SSHServerProcess[bytes], children: list[asyncio.subprocess.Process], env: dict[str, str]
) -> None:
    """What sshd does: the command in a shell, its streams, its exit code or signal."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_shell(
        process.command or "", stdin=pipe, stdout=pipe, stderr=pipe, env=env, start_new_session=True
    )
    children.append(child)
    assert child.stdin and child.stdout and child.stderr

    async def feed() -> None:
        assert child.stdin
        try:
            while data := await process.stdin.read(65536):
                child.stdin.write(data)
                await child.stdin.drain()
        except (OSError, asyncssh.Error):
            pass
        child.stdin.close()

    async def pump(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
        while data := await source.read(65536):
            try:
                target.write(data)
                await target.drain()
            except (OSError, asyncssh.Error):
                pass

    feeding = asyncio.ensure_future(feed())
    await asyncio.gather(pump(child.stdout, process.stdout), pump(child.stderr, process.stderr))
    code = await child.wait()
    feeding.cancel()
    try:
        if code < 0:
            process.exit_with_signal("KILL")
        else:
            process.exit(code)
    except OSError:
        pass  # the client left
