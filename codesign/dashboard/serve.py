"""Settings, and the server: one person's, on this machine."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from codesign.errors import MissingExtraError, SpecError

__all__ = ["Settings", "is_loopback", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is served, and where.

    Args:
        results: folder of the runs; it need not exist. store: see `codesign.store.Store`; None is the person's own.
        host, port: to bind to; port 0 takes a free one.

    Raises:
        SpecError: a port out of range, a host that is a path, or results that are no folder.
    """

    results: Path = Path("results")
    store: str | None = None
    host: str = "127.0.0.1"
    port: int = 8750

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SpecError(f"--port is {self.port}; allowed: 0 to 65535 (0 takes a free one)")
        if self.results.exists() and not self.results.is_dir():
            raise SpecError(f"--results {self.results} is not a folder; give the folder that the runs are in")
        if not self.host or "/" in self.host:  # werkzeug takes unix:// for a socket's path
            raise SpecError(f"--host '{self.host}' is not an address of this machine; give 127.0.0.1, ::1 or a name")

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it. If not, it shows but starts nothing: there is no log-in."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an address or name reaches this machine alone.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
        (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(settings: Settings, on_ready: Callable[[str], object]) -> None:
    """Serve until Ctrl-C, SIGTERM or the end of the terminal; a search that was started from a page is stopped too.

    Args:
        on_ready: called with the address once it answers.

    Raises:
        MissingExtraError: Flask or another package is missing.
        SpecError: the port is taken, or the host is no address of this machine.
    """
    try:
        import sqlalchemy  # noqa: F401
        from werkzeug.serving import make_server

        from codesign.dashboard.app import make_app
    except ModuleNotFoundError as error:
        package = (error.name or "flask").split(".")[0]
        raise MissingExtraError.of(package, "dashboard", "codesign dashboard") from error

    listening = _bind(settings)
    port = listening.getsockname()[1]
    app = make_app(settings, port=port)
    for name in ("SIGTERM", "SIGHUP"):  # a closed terminal too, unless nohup asked for the opposite
        kind = getattr(signal, name, None)
        if kind is not None and signal.getsignal(kind) is not signal.SIG_IGN:
            signal.signal(kind, _interrupt)
    try:
        server = make_server(settings.host, port, app, threaded=True, fd=listening.fileno(), request_handler=_handler())
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        on_ready(f"http://{shown}:{port}/")
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        app.extensions["codesign"].jobs.close()
        listening.close()


def _bind(settings: Settings) -> socket.socket:
    """Bound before the server is made: werkzeug's own message about a taken port ends the process."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SpecError(
            f"--host '{settings.host}' is not an address of this machine ({error.strerror or error}); give 127.0.0.1"
        ) from error
    try:
        if hasattr(socket, "SO_REUSEPORT"):  # not Windows, where SO_REUSEADDR would share the port with another program
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise SpecError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; give another --port, or 0 "
            "for a free one"
        ) from error
    return listening


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _handler() -> Any:
    """Requests are logged for --debug alone: a terminal full of them hides what matters."""
    import logging

    from werkzeug.serving import WSGIRequestHandler

    log = logging.getLogger("codesign.dashboard")

    class Handler(WSGIRequestHandler):  # type: ignore[misc]
        def version_string(self) -> str:
            return "codesign"  # versions are nobody's business

        def log(self, type: str, message: str, *args: Any) -> None:
            log.debug(f"%s {message.rstrip()}", self.address_string(), *args)

    return Handler
