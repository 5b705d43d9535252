"""A user's own device file: whatever is wrong with it is said in one line with file, field, given and allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from codesign.devices import Device, PowerMode, load_device
from codesign.devices.catalogue import _folder
from codesign.errors import CodesignError, SchemaError, SpecError

ORIN = (_folder() / "jetson_agx_orin_64gb.toml").read_text(encoding="utf-8")


def _load(folder: Path, text: str | bytes) -> Device:
    path = folder / "my.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_device(str(path))


CASES = [
    ("schema = 1", "", SchemaError, "schema is None; allowed: 1"),
    ("schema = 1", "schema = 2", SchemaError, "schema is 2; allowed: 1; a newer codesign"),
    ("schema = 1", 'schema = "1"', SchemaError, "schema is '1'"),
    ("schema = 1", "schema = = 1", SchemaError, "not TOML"),
    ("bandwidth_Bps = 204.8e9", "bandwidth_Bps = -1.0", SpecError, "bandwidth_Bps is -1.0; allowed: a finite number"),
    ("bandwidth_Bps = 204.8e9", "bandwidth_Bps = 0", SpecError, "bandwidth_Bps is 0.0"),
    ("bandwidth_Bps = 204.8e9", "bandwidth_Bps = inf", SpecError, "bandwidth_Bps is inf"),
    ("bandwidth_Bps = 204.8e9", "bandwidth_Bps = nan", SpecError, "bandwidth_Bps is nan"),
    ("bandwidth_Bps = 204.8e9", "bandwidth_Bps = true", SpecError, "memory.bandwidth_Bps is True; allowed: number"),
    ("bandwidth_Bps = 204.8e9", 'bandwidth_Bps = "204.8 GB/s"', SpecError, "allowed: number"),
    ("bandwidth_Bps = 204.8e9", "bandwidth_GBps = 204.8", SpecError, "did you mean 'memory.bandwidth_Bps'?"),
    ("capacity_B = 64e9", "", SpecError, "memory.capacity_B is missing; allowed: number"),
    ("capacity_B = 64e9", "capacity_B = 3e9", SpecError, "memory_reserved_B is 4000000000.0 of 3000000000.0"),
    ("n_sm = 16", "n_sm = 16.5", SpecError, "n_sm is 16.5; allowed: integer"),
    ("n_sm = 16", "n_sm = 0", SpecError, "n_sm is 0"),
    ("tdp_W = 60.0", "tdp_w = 60.0", SpecError, "unknown key 'tdp_w'; did you mean 'tdp_W'?"),
    ("tdp_W = 60.0", "xyzzy = 1", SpecError, "unknown key 'xyzzy'; allowed: schema, name"),
    ("fp16 = 42.63e12", "half = 42.63e12", SpecError, "unknown key 'peak_flop_per_s.half'"),
    ("fp16 = 42.63e12", "fp16 = -1", SpecError, "peak_flop_per_s.fp16 is -1.0"),
    ("fp16 = 42.63e12", "fp16 = 42e12", SpecError, "in power mode 'MAXN'; allowed: the file's figures are those"),
    ('kind = "gpu"', 'kind = "tpu"', SpecError, "kind is 'tpu'; allowed: gpu, cpu, npu"),
    ('confidence = "high"', 'confidence = "sure"', SpecError, "confidence is 'sure'; allowed: high, medium, low"),
    ('power_mode = "MAXN"', 'power_mode = "FAST"', SpecError, "power_mode is 'FAST'; allowed: MAXN, 50W, 30W, 15W"),
    ('power_mode = "MAXN"', "", SpecError, "power_mode is None"),
    ('name = "50W"', 'name = "30W"', SpecError, "a name or the mark is_default twice"),
    ("power_budget_W = 50.0", "power_budget_W = -5", SpecError, "power mode '50W': power_budget_W is -5.0"),
    ("is_default = true", "is_default = 1", SpecError, "power_modes[2].is_default is 1; allowed: true or false"),
    ("aliases = [", "aliases = [1, ", SpecError, "allowed: list of texts"),
]


@pytest.mark.parametrize(("old", "new", "error", "message"), CASES)
def test_malformed_file(tmp_path: Path, old: str, new: str, error: type[CodesignError], message: str) -> None:
    assert old in ORIN
    with pytest.raises(error) as caught:
        _load(tmp_path, ORIN.replace(old, new, 1))
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "my.toml"))
    assert message in text
    assert "\n" not in text


def test_an_unchanged_copy_loads(tmp_path: Path) -> None:
    assert _load(tmp_path, ORIN) == load_device("orin")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot be read"):
        load_device(tmp_path / "absent.toml")
    with pytest.raises(SchemaError, match="not UTF-8"):
        _load(tmp_path, b"\xff\xfe")
    with pytest.raises(SchemaError, match="cannot be read"):
        load_device(tmp_path)


def test_objects_are_checked_like_files() -> None:
    with pytest.raises(SpecError, match="bandwidth_Bps"):
        PowerMode(name="x", bandwidth_Bps=0.0, peak_flop_per_s={"fp16": 1.0}, source="")
    with pytest.raises(SpecError, match="peak_flop_per_s is empty"):
        PowerMode(name="x", bandwidth_Bps=1.0, peak_flop_per_s={}, source="")
    with pytest.raises(SpecError, match="unknown data type 'int3'"):
        PowerMode(name="x", bandwidth_Bps=1.0, peak_flop_per_s={"int3": 1.0}, source="")
