"""Devices of other packages, by entry points."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable
from typing import Any

import pytest

from codesign.devices import Device, device_names, load_catalogue, load_device
from codesign.errors import SpecError, UnknownNameError

BOARD = dataclasses.replace(load_device("4090"), name="my_board", aliases=())
PLAIN = 5


def make_board() -> Device:
    return BOARD


def break_board() -> Device:
    raise RuntimeError("no\nlicence")


class _Distribution:
    def __init__(self, name: str) -> None:
        self.name = name


def _entry(name: str, attribute: str, distribution: str) -> importlib.metadata.EntryPoint:
    entry = importlib.metadata.EntryPoint(name, f"{__name__}:{attribute}", "codesign.devices")
    vars(entry)["dist"] = _Distribution(distribution)
    return entry


Install = Callable[..., list[str]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def _install(*entries: importlib.metadata.EntryPoint) -> list[str]:
        scans: list[str] = []

        def _entry_points(**selected: Any) -> tuple[importlib.metadata.EntryPoint, ...]:
            scans.append(selected["group"])
            return entries

        monkeypatch.setattr(importlib.metadata, "entry_points", _entry_points)
        return scans

    return _install


@pytest.mark.parametrize("attribute", ["BOARD", "make_board"])
def test_plugin_gives_a_device(install: Install, attribute: str) -> None:
    install(_entry("my-board", attribute, "acme"))
    assert load_device("My Board") == BOARD
    assert "my-board" in device_names()
    assert load_catalogue()["my-board"] == BOARD


def test_bundled_names_never_scan(install: Install) -> None:
    scans = install(_entry("my-board", "BOARD", "acme"))
    load_device("orin")
    assert scans == []
    with pytest.raises(UnknownNameError, match="did you mean 'my-board'"):
        load_device("my-bord")
    assert scans == ["codesign.devices"]


def test_two_plugins_of_one_name(install: Install) -> None:
    install(_entry("my-board", "BOARD", "acme"), _entry("my_board", "make_board", "globex"))
    for call in (device_names, lambda: load_device("my-board")):
        with pytest.raises(SpecError, match="provided twice") as caught:
            call()
        assert "'acme'" in str(caught.value) and "'globex'" in str(caught.value)


@pytest.mark.parametrize("name", ["orin", "rtx_4090"])
def test_plugin_with_a_bundled_name(install: Install, name: str) -> None:
    install(_entry(name, "BOARD", "acme"))
    with pytest.raises(SpecError, match=f"device '{name}' is provided twice, by 'acme' and by codesign itself"):
        device_names()


@pytest.mark.parametrize(
    ("name", "attribute", "message"),
    [
        ("my-board", "break_board", "device plug-in 'my-board' of 'acme' failed: RuntimeError: no licence"),
        ("my-board", "absent", "failed: AttributeError"),
        ("my-board", "PLAIN", "failed: TypeError"),
        ("my-board", "_entry_count", "gives a int; allowed: a codesign.devices.Device"),
        ("other", "BOARD", "gives the device 'my_board'; allowed: the entry point's name"),
    ],
)
def test_broken_plugin(install: Install, name: str, attribute: str, message: str) -> None:
    install(_entry(name, attribute, "acme"))
    with pytest.raises(SpecError) as caught:
        load_device(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def _entry_count() -> int:
    return 1
