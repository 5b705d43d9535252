"""The committed catalogue is what the importer makes of the published tables."""

from __future__ import annotations

import csv
import importlib.util
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.devices import load_device
from codesign.devices.catalogue import _folder

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "latency"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published tables (../shared/data/latency) are absent")


def _importer() -> ModuleType:
    path = ROOT / "tools" / "import_devices.py"
    spec = importlib.util.spec_from_file_location("import_devices", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


IMPORTER = _importer()


@needs_data
def test_regeneration_gives_the_committed_files(tmp_path: Path) -> None:
    assert IMPORTER.main(["--data", str(DATA), "--out", str(tmp_path)]) == 0
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in _folder().iterdir()}
    assert IMPORTER.main(["--data", str(DATA), "--check"]) == 0
    (tmp_path / "rtx_4090.toml").write_text("stale")
    assert IMPORTER.main(["--data", str(DATA), "--out", str(tmp_path), "--check"]) == 1


@needs_data
def test_every_measured_device_and_mode_is_known() -> None:
    with (DATA / "measured.csv").open(newline="", encoding="utf-8") as file:
        stated = {(row["device_id"], row["power_mode"]) for row in csv.DictReader(file)}
    assert len(stated) > 40
    for name, mode in stated:
        assert load_device(name, mode).name == name


@given(st.decimals(min_value=Decimal("0.001"), max_value=Decimal(9999), places=3), st.sampled_from([0, 6, 9, 12]))
def test_number_parses_to_the_same_float(value: Decimal, exponent: int) -> None:
    text = IMPORTER.number(value, exponent)
    assert float(text) == float(f"{value}e{exponent}")
    assert "." in text or "e" in text  # a TOML float, not an integer
