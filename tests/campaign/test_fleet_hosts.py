"""Boards as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from codesign.campaign.fleet_hosts import Host, find_hosts, parse_host, read_hosts
from codesign.errors import SpecError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "destination", "port"),
    [
        ("orin", "orin", None),
        ("me@orin-1.local", "me@orin-1.local", None),
        (" me@10.0.0.7:2222 ", "me@10.0.0.7", 2222),
        ("me@[fe80::1]:22", "me@fe80::1", 22),
        ("first.last@corp.example@orin", "first.last@corp.example@orin", None),
        ("my_board", "my_board", None),
    ],
)
def test_boards(text: str, destination: str, port: int | None) -> None:
    host = parse_host(text)
    assert (host.destination, host.port, host.name, host.command) == (destination, port, text.strip(), "codesign agent")


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=touch x", "-l@host", "me@-oX", "me@host;ls", "$(id)@host", "me@`id`", "a b", "me@host:", "me@host:0",
     "me@host:70000", "me@host:ssh", "fe80::1", "me@", "@host", "me@host\n-v", "me@hôte", "a'b@c", "me@host:22:22"],
)  # fmt: skip
def test_what_is_no_board_never_reaches_ssh(text: str) -> None:
    with pytest.raises(SpecError, match="is no board; give user@host, user@host:port"):
        parse_host(text)


def test_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "boards.toml"
    path.write_text(
        '[[host]]\nname = "orin-1"\nssh = "me@10.0.0.7:2222"\ncommand = "~/venv/bin/codesign agent"\ndevice = "orin"\n'
        'power_mode = "30 W"\n[[host]]\nssh = "nano"\npython = "~/venv/bin/python"\ndevice = "host"\n'
    )
    first, second = read_hosts(path)
    assert first == Host(
        name="orin-1", destination="me@10.0.0.7", port=2222, command="~/venv/bin/codesign agent", device="jetson_agx_orin_64gb",
        power_mode="30W",
    )  # fmt: skip
    assert second == Host(name="nano", destination="nano", command="~/venv/bin/python -m codesign agent", device="host")


def test_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "boards"
    path.write_text("# our shelf\n\nme@a   # the left one\nme@b:2222\n")
    assert [(h.destination, h.port) for h in read_hosts(str(path))] == [("me@a", None), ("me@b", 2222)]
    assert [h.name for h in find_hosts(["c,d", "e"], path)] == ["c", "d", "e", "me@a", "me@b:2222"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no board"),
        ("me@a\n-v\n", "line 2: '-v' is no board"),
        ("me@a\nme@b\nme@a\n", "name me@a is given twice"),
        ("[[host]]\nname = 'x'\nssh = 'a'\n[[host]]\nssh = 'a:22'\n", "board a:22 is given twice"),
        ("[[host]]\nname = 'x'\n", 'board 1: no ssh; give ssh = "user@host"'),
        ("[[host]]\nssh = 'a'\nport = 22\n", "board 1: unknown field 'port'; allowed: name, ssh"),
        ("[[host]]\nssh = 22\n", "board 1: ssh is 22; allowed: text"),
        ("[[host]]\nssh = 'a'\ncommand = \"x\\ny\"\n", "command is 'x.ny'; allowed: text on one line"),
        ("[[host]]\nssh = '-oProxyCommand=x'\n", "board 1: '-oProxyCommand=x' is no board"),
        ("[[host]]\nssh = 'a'\npython = 'p'\ncommand = 'c'\n", "python and command are both given"),
        ("[[hosts]]\nssh = 'a'\n", r"holds hosts; allowed: \[\[host\]\] tables"),
        ("host = 3\n", "host as no list of tables"),
        ("[[host]\nssh = 'a'\n", "hosts file .*: Expected"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "boards"
    path.write_text(text)
    with pytest.raises(SpecError, match=said):
        read_hosts(path)


def test_an_unknown_device_and_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "boards.toml"
    path.write_text("[[host]]\nssh = 'a'\ndevice = 'orion'\n")
    with pytest.raises(UnknownNameError, match="board 1: unknown device 'orion'; did you mean 'orin'"):
        read_hosts(path)
    with pytest.raises(SpecError, match="cannot read the hosts file .*No such file"):
        read_hosts(tmp_path / "none")
