"""Which boards: `user@host[:port]` on the command line, or a hosts file."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.devices import load_device
from codesign.errors import CodesignError, SpecError, UnknownNameError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Host", "find_hosts", "parse_host", "read_hosts"]

_COMMAND = "codesign agent"
# No character that a shell reads: ssh_config may hand host and user to one (ProxyCommand, CVE-2023-51385).
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][\w.+@\\-]*)@)?(?P<host>[A-Za-z0-9_][\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(?P<port>\d+))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One board.

    Args:
        name: for people; destination: `user@host` or an alias of ~/.ssh/config; port: None for ssh's own choice.
        command: what starts the agent there, as its shell reads it.
        device, power_mode: what the board is (catalogue name) and is set to; it takes only tasks of these (None: any).
    """

    name: str
    destination: str
    port: int | None = None
    command: str = _COMMAND
    device: str | None = None
    power_mode: str | None = None


def parse_host(text: str, **settings: Any) -> Host:
    """A board from `user@host[:port]`; an IPv6 address goes in brackets.

    Raises:
        SpecError: not such a text. What starts with '-' would be an option to ssh.

    Example:
        >>> host = parse_host("me@orin-1.local:2222")
        >>> host.destination, host.port, parse_host("me@[fe80::2%eth0]").destination
        ('me@orin-1.local', 2222, 'me@fe80::2%eth0')
    """
    found = _ADDRESS.fullmatch(text.strip())
    port = int(found["port"]) if found and found["port"] else None
    if not found or (port is not None and not 1 <= port <= 65535):
        raise SpecError(
            f"'{text}' is no board; give user@host, user@host:port, a name of ~/.ssh/config, or user@[IPv6 address]:port"
        )
    user = f"{found['user']}@" if found["user"] else ""
    settings.setdefault("name", text.strip())
    return Host(destination=user + found["host"].strip("[]"), port=port, **settings)


_FIELDS = ("name", "ssh", "command", "python", "device", "power_mode")


def read_hosts(path: str | Path) -> list[Host]:
    """The boards of a hosts file.

    Either TOML, with a table for each board, of which only `ssh` is needed:

        [[host]]
        name = "orin-1"
        ssh = "me@10.0.0.7:22"
        command = "~/venv/bin/codesign agent"   # or python = "~/venv/bin/python"
        device = "orin"
        power_mode = "30W"

    or plain text, one `user@host[:port]` a line, with `#` comments.

    Raises:
        SpecError: the file cannot be read, holds no board, one twice, or a field that is not allowed.
        UnknownNameError: a device or power mode that the catalogue lacks.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the hosts file {path}: {error}") from error
    lines = [(number, line.split("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line]
    if path.suffix == ".toml" or any(line.startswith("[[") or "=" in line for _, line in lines):
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"hosts file {path}: {error}") from error
        entries = data.pop("host", [])
        if data or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            given = ", ".join(data) or "host as no list of tables"
            raise SpecError(f"hosts file {path} holds {given}; allowed: [[host]] tables")
        hosts = [_of(entry, f"hosts file {path}, board {number}") for number, entry in enumerate(entries, 1)]
    else:
        hosts = []
        for number, line in lines:
            try:
                hosts.append(parse_host(line))
            except SpecError as error:
                raise SpecError(f"hosts file {path}, line {number}: {error}") from error
    if not hosts:
        raise SpecError(f"hosts file {path} names no board; write user@host lines or [[host]] tables")
    return _distinct(hosts)


def find_hosts(on: Sequence[str] = (), hosts: str | Path | None = None) -> list[Host]:
    """The boards of `--on` (each may hold several, by comma) and of a `--hosts` file together.

    Raises:
        SpecError: see `parse_host` and `read_hosts`; or a board twice.
    """
    named = [parse_host(part) for text in on for part in text.split(",") if part.strip()]
    return _distinct([*named, *(read_hosts(hosts) if hosts is not None else ())])


def _of(entry: Mapping[str, Any], where: str) -> Host:
    for name, value in entry.items():
        if name not in _FIELDS:
            raise SpecError(f"{where}: unknown field '{name}'; allowed: {', '.join(_FIELDS)}")
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise SpecError(f"{where}: {name} is {value!r}; allowed: text on one line, in quotes")
    if "ssh" not in entry:
        raise SpecError(f'{where}: no ssh; give ssh = "user@host"')
    if "python" in entry and "command" in entry:
        raise SpecError(f"{where}: python and command are both given; give one")
    settings: dict[str, Any] = {name: entry[name] for name in ("name", "command") if name in entry}
    if "python" in entry:
        settings["command"] = f"{entry['python']} -m {_COMMAND}"
    device, mode = entry.get("device"), entry.get("power_mode")
    try:
        if device is not None and device != "host":
            known = load_device(device, mode)
            settings.update(device=known.name, power_mode=known.power_mode if mode else None)
        else:
            settings.update(device=device, power_mode=mode)
        return parse_host(entry["ssh"], **settings)
    except UnknownNameError as error:
        raise UnknownNameError(f"{where}: {error}") from error
    except CodesignError as error:
        raise SpecError(f"{where}: {error}") from error


def _distinct(hosts: Sequence[Host]) -> list[Host]:
    for what, keys in (
        ("name", [h.name for h in hosts]),
        ("board", [f"{h.destination}:{h.port or 22}" for h in hosts]),
    ):
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise SpecError(f"{what} {twice[0]} is given twice; a board measures one thing at a time: name it once")
    return list(hosts)
