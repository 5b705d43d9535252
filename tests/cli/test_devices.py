"""`codesign devices` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codesign.devices import device_names, load_device


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codesign", "devices", *arguments], capture_output=True, text=True, encoding="utf-8", cwd=cwd,
        env={**os.environ, **environment}, timeout=60, check=False,
    )  # fmt: skip


def test_the_list() -> None:
    got = run(COLUMNS="140")
    assert got.returncode == 0 and got.stderr == ""
    for name in device_names():
        assert f"{name} " in got.stdout
    assert got.stdout.startswith(f"{len(device_names())} devices") and "codesign devices orin" in got.stdout
    assert max(map(len, got.stdout.splitlines())) <= 140


def test_a_narrow_terminal_and_plain_ascii() -> None:
    assert max(map(len, run(COLUMNS="80").stdout.splitlines())) <= 80
    plain = run(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert plain.returncode == 0 and plain.stdout.isascii()


def test_one_device_with_modes_and_sources() -> None:
    got = run("orin")
    assert got.returncode == 0 and got.stderr == ""
    for expected in ("Jetson AGX Orin 64 GB", "204.8 GB/s", "MAXN", "30W", "sources:", "2048"):
        assert expected in got.stdout


def test_json() -> None:
    listed = json.loads(run("--json").stdout)
    assert [row["name"] for row in listed] == device_names()
    one = json.loads(run("orin", "--json").stdout)
    assert one["name"] == "jetson_agx_orin_64gb" and one["bandwidth"] == "204.8 GB/s"
    assert [mode["mode"] for mode in one["power_modes"]] == [mode.name for mode in load_device("orin").power_modes]
    assert set(one["sources"]) == set(load_device("orin").sources)


def test_a_device_file(tmp_path: Path) -> None:
    source = Path(load_device.__code__.co_filename).parent / "catalogue" / "rtx_4090.toml"
    (tmp_path / "mine.toml").write_text(
        source.read_text(encoding="utf-8").replace('"rtx_4090"', '"my_card"'), encoding="utf-8"
    )
    got = run("./mine.toml", cwd=tmp_path)
    assert got.returncode == 0 and "my_card" in got.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("orion",), "unknown device 'orion'; did you mean 'orin'? See 'codesign devices'."),
        (("./absent.toml",), "absent.toml: cannot be read"),
        (("./broken.toml",), "broken.toml"),
        (("orin", "extra"), "extra"),
        (("--yaml",), "No such option"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "broken.toml").write_text("name = ", encoding="utf-8")
    got = run(*arguments, cwd=tmp_path)
    assert got.returncode == 2 and got.stdout == ""
    assert got.stderr.startswith("error: ") and got.stderr.count("\n") == 1
    assert message in got.stderr and "Traceback" not in got.stderr
