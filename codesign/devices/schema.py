"""A device file (TOML) to a `Device`: one clear line for everything that can be wrong with it.

The keys carry their units. The file must hold dense peaks; a sparse marketing figure cannot be told from a dense one.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.devices.device import DTYPES, Device, PowerMode
from codesign.devices.fit import DeviceFit
from codesign.errors import SchemaError, SpecError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["SCHEMA_VERSION", "parse_device", "read_device"]

SCHEMA_VERSION = 1

# key: (kind of value, required)
_Fields = dict[str, tuple[str, bool]]
_TOP: _Fields = {
    "schema": ("integer", True),
    "name": ("text", True),
    "title": ("text", True),
    "vendor": ("text", True),
    "generation": ("text", True),
    "family": ("text", True),
    "kind": ("text", True),
    "aliases": ("list of texts", False),
    "n_sm": ("integer", False),
    "clock_Hz": ("number", False),
    "tdp_W": ("number", False),
    "price_usd": ("number", False),
    "price_note": ("text", False),
    "power_mode": ("text", False),
    "peak_is_estimated": ("true or false", False),
    "confidence": ("text", True),
    "notes": ("text", False),
    "memory": ("table", True),
    "peak_flop_per_s": ("table", True),
    "sources": ("table", True),
    "power_modes": ("list of tables", False),
    "calibration": ("list of tables", False),
}
_MEMORY: _Fields = {
    "capacity_B": ("number", True),
    "bandwidth_Bps": ("number", True),
    "l2_B": ("number", False),
    "unified": ("true or false", True),
    "reserved_B": ("number", True),
    "reserved_source": ("text", True),
}
_MODE: _Fields = {
    "name": ("text", True),
    "power_budget_W": ("number", False),
    "n_sm": ("integer", False),
    "clock_Hz": ("number", False),
    "bandwidth_Bps": ("number", True),
    "is_default": ("true or false", False),
    "aliases": ("list of texts", False),
    "source": ("text", True),
    "note": ("text", False),
    "peak_flop_per_s": ("table", True),
}
_PEAKS: _Fields = dict.fromkeys(DTYPES, ("number", False))
_SOURCES: _Fields = {
    "spec": ("text", True),
    "peak": ("text", True),
    "price": ("text", False),
    "memory": ("text", False),
}


def _is(value: object, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "true or false":
        return isinstance(value, bool)
    if kind == "table":
        return isinstance(value, dict)
    inside = "text" if kind == "list of texts" else "table"
    return isinstance(value, list) and all(_is(item, inside) for item in value)


def _check_table(table: Mapping[str, Any], fields: _Fields, where: str, prefix: str = "") -> None:
    """Refuse unknown keys, missing keys and values of the wrong kind."""
    for key, value in table.items():
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
            meant = f"did you mean '{prefix}{close[0]}'?" if close else f"allowed: {', '.join(fields)}"
            raise SpecError(f"{where}: unknown key '{prefix}{key}'; {meant}")
        if not _is(value, fields[key][0]):
            raise SpecError(f"{where}: {prefix}{key} is {value!r}; allowed: {fields[key][0]}")
    for key, (kind, required) in fields.items():
        if required and key not in table:
            raise SpecError(f"{where}: {prefix}{key} is missing; allowed: {kind}")


def _floats(table: Mapping[str, Any], *names: str) -> dict[str, float]:
    return {name: float(table[name]) for name in names if name in table}


def _mode(table: Mapping[str, Any], nominal: str | None) -> PowerMode:
    return PowerMode(
        name=table["name"],
        n_sm=table.get("n_sm"),
        bandwidth_Bps=float(table["bandwidth_Bps"]),
        peak_flop_per_s=_floats(table["peak_flop_per_s"], *table["peak_flop_per_s"]),
        is_default=table.get("is_default", False),
        is_nominal=table["name"] == nominal,
        aliases=tuple(table.get("aliases", ())),
        source=table["source"],
        note=table.get("note", ""),
        **_floats(table, "power_budget_W", "clock_Hz"),
    )


def _check_modes(device: Device) -> None:
    """The file's own figures are those of its nominal mode, and names are unique."""
    names = [mode.name for mode in device.power_modes]
    if len(set(names)) < len(names) or sum(mode.is_default for mode in device.power_modes) > 1:
        raise SpecError("power_modes have a name or the mark is_default twice; allowed: each name once, one default")
    mode = device.mode
    if mode is None:
        return
    for name in ("n_sm", "clock_Hz", "bandwidth_Bps", "peak_flop_per_s"):
        if getattr(mode, name) != getattr(device, name):
            given = f"{name} is {getattr(device, name)!r} but {getattr(mode, name)!r} in power mode '{mode.name}'"
            raise SpecError(f"{given}; allowed: the file's figures are those of its power_mode")


def parse_device(data: Mapping[str, Any], where: str) -> Device:
    """Build a device from the content of a device file.

    Args:
        data: the parsed TOML.
        where: the file's name, for messages.

    Raises:
        SchemaError: the content is not a device file, or of a newer version.
        SpecError: a key is unknown or missing, or a value is not allowed.
    """
    version = data.get("schema")
    if not _is(version, "integer"):
        raise SchemaError(f"{where}: schema is {version!r}; allowed: {SCHEMA_VERSION} (is this a device file?)")
    if version != SCHEMA_VERSION:
        raise SchemaError(f"{where}: schema is {version}; allowed: {SCHEMA_VERSION}; a newer codesign may read it")
    _check_table(data, _TOP, where)
    memory, peaks = data["memory"], data["peak_flop_per_s"]
    _check_table(memory, _MEMORY, where, "memory.")
    _check_table(peaks, _PEAKS, where, "peak_flop_per_s.")
    _check_table(data["sources"], _SOURCES, where, "sources.")
    for index, table in enumerate(data.get("power_modes", ())):
        _check_table(table, _MODE, where, f"power_modes[{index}].")
        _check_table(table["peak_flop_per_s"], _PEAKS, where, f"power_modes[{index}].peak_flop_per_s.")
    nominal = data.get("power_mode")
    plain = [key for key, (kind, _) in _TOP.items() if kind in ("text", "true or false") or key == "n_sm"]
    plain_values: dict[str, Any] = {key: data[key] for key in plain if key in data}
    plain_values |= _floats(data, "clock_Hz", "tdp_W", "price_usd") | _floats(memory, "l2_B")
    try:
        device = Device(
            aliases=tuple(data.get("aliases", ())),
            peak_flop_per_s=_floats(peaks, *peaks),
            bandwidth_Bps=float(memory["bandwidth_Bps"]),
            memory_B=float(memory["capacity_B"]),
            memory_reserved_B=float(memory["reserved_B"]),
            unified_memory=memory["unified"],
            power_modes=tuple(_mode(table, nominal) for table in data.get("power_modes", ())),
            sources={**data["sources"], "memory_reserved": memory["reserved_source"]},
            fits=tuple(DeviceFit.from_dict(table) for table in data.get("calibration", ())),
            **plain_values,
        )
        _check_modes(device)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    return device


def read_device(path: Path) -> Device:
    """Read one device file.

    Raises:
        SchemaError: the file cannot be read, is not TOML, is not a device file, or is of a newer version.
        SpecError: a key is unknown or missing, or a value is not allowed.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SchemaError(f"{path}: cannot be read ({reason}); give the path of a device file") from None
    except tomllib.TOMLDecodeError as error:
        raise SchemaError(f"{path}: not TOML: {' '.join(str(error).split())}") from None
    return parse_device(data, str(path))
