"""The calibration file: round trip, and one clear line for every way in which it can be broken."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from codesign.devices import load_device
from codesign.errors import SchemaError
from codesign.roofline.calibration import LEVELS, load_calibration
from codesign.workload import PRECISIONS

BUNDLED = load_calibration()


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_round_trip(tmp_path: Path) -> None:
    again = load_calibration(write(tmp_path / "c.json", BUNDLED.to_json()))
    assert again.to_json() == BUNDLED.to_json()
    assert again == BUNDLED
    orin = load_device("orin")
    assert again.rates(orin, "vllm", PRECISIONS["fp16"]) == BUNDLED.rates(orin, "vllm", PRECISIONS["fp16"])


def test_the_bundled_file_is_sound() -> None:
    for phase in ("prefill", "decode"):
        fit = BUNDLED.of(phase)  # type: ignore[arg-type]
        assert set(fit.cells) == set(fit.spans)
        assert set(fit.held_out) == {"model", "source", "device"}
        for low, high, mixture in fit.spans.values():
            assert 0 < low <= high and mixture in (0.0, 1.0)
    assert BUNDLED.rates(load_device("orin"), "vllm", PRECISIONS["fp16"]).decode.level == 0


def broken(**change: Any) -> dict[str, Any]:
    """The bundled content with fields of its decode phase replaced (None: left out)."""
    data: dict[str, Any] = json.loads(json.dumps(BUNDLED.to_json()))
    for key, value in change.items():
        if value is None:
            del data["phases"]["decode"][key]
        else:
            data["phases"]["decode"][key] = value
    return data


FEW = {"a/b/c/d": 1}
CASES: dict[str, Any] = {
    "empty": "",
    "cut": json.dumps(BUNDLED.to_json())[:5000],
    "binary": "\x00\x01",
    "deep": "[" * 100_000,
    "list": [1, 2],
    "null": None,
    "another kind": {"schema": "codesign.frontier", "version": 1},
    "newer version": {**BUNDLED.to_json(), "version": 2},
    "no version": {k: v for k, v in BUNDLED.to_json().items() if k != "version"},
    "no source": {k: v for k, v in BUNDLED.to_json().items() if k != "source"},
    "no phases": {k: v for k, v in BUNDLED.to_json().items() if k != "phases"},
    "phases a list": {**BUNDLED.to_json(), "phases": []},
    "one phase": {**BUNDLED.to_json(), "phases": {"decode": {}}},
    "no effects": broken(effects=None),
    "no cells": broken(cells=None),
    "no intervals": broken(intervals=None),
    "no spans": broken(spans=None),
    "effect NaN": broken(effects={"step:engine=vllm": math.nan}),
    "effect infinite": broken(effects={"step:engine=vllm": math.inf}),
    "effect huge": broken(effects={"step:engine=vllm": -1e5}),
    "effect a giant integer": broken(effects={"step:engine=vllm": 10**400}),
    "effect a word": broken(effects={"step:engine=vllm": "fast"}),
    "effects a list": broken(effects=[1.0]),
    "few intervals": broken(intervals=[0.1, 0.2]),
    "interval NaN": broken(intervals=[math.nan] * 5),
    "interval negative": broken(intervals=[-0.1] * 5),
    "cell without generation": broken(cells={"orin/vllm/fp16": 3}),
    "cell count infinite": broken(cells={"a/b/c/d": math.inf}),
    "cell count negative": broken(cells={"a/b/c/d": -1}),
    "span too short": broken(cells=FEW, spans={"a/b/c/d": [1.0]}),
    "span NaN": broken(cells=FEW, spans={"a/b/c/d": [math.nan, 1.0, 0.0]}),
    "held_out a number": broken(held_out=3),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "broken.json", CASES[name])
    with pytest.raises(SchemaError) as caught:
        load_calibration(path)
    text = str(caught.value)
    assert str(path) in text
    assert "--calibration" in text or "update codesign" in text  # what to do next
    assert "\n" not in text and len(text) < 500


def test_not_utf8_missing_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "utf16.json").write_bytes(json.dumps(BUNDLED.to_json()).encode("utf-16"))
    for path in (tmp_path / "utf16.json", tmp_path / "absent.json", tmp_path, Path("nul\0byte")):
        with pytest.raises(SchemaError, match="cannot read the calibration"):
            load_calibration(path)


def scaled(value: float) -> dict[str, Any]:
    return broken(intervals=[value] * len(LEVELS))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", scaled(0.25))
    assert load_calibration(path).decode.intervals == (0.25,) * 5
    assert load_calibration(path) is load_calibration(path)  # read once while it stays
    write(path, scaled(0.5))
    os.utime(path, ns=(1, 1))
    assert load_calibration(path).decode.intervals == (0.5,) * 5
    write(path, "{")
    with pytest.raises(SchemaError):
        load_calibration(path)
    path.unlink()
    with pytest.raises(SchemaError):
        load_calibration(path)


def test_a_relative_path_means_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("a", 0.25), ("b", 0.75)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "c.json", scaled(value))
        os.utime(tmp_path / name / "c.json", ns=(1, 1))
    for name, value in (("a", 0.25), ("b", 0.75)):
        monkeypatch.chdir(tmp_path / name)
        assert load_calibration(Path("c.json")).decode.intervals == (value,) * 5
