"""A `Device` as a device file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from codesign.devices.device import Device, PowerMode
from codesign.devices.schema import SCHEMA_VERSION
from codesign.errors import CodesignError

__all__ = ["device_dict", "write_device"]


def _present(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None and value not in ("", ())}


def _mode(mode: PowerMode) -> dict[str, Any]:
    table = {
        "name": mode.name, "power_budget_W": mode.power_budget_W, "n_sm": mode.n_sm, "clock_Hz": mode.clock_Hz,
        "bandwidth_Bps": mode.bandwidth_Bps, "is_default": mode.is_default, "aliases": list(mode.aliases) or None,
        "source": mode.source, "note": mode.note,
    }  # fmt: skip
    return {**_present(table), "peak_flop_per_s": dict(mode.peak_flop_per_s)}


def device_dict(device: Device) -> dict[str, Any]:
    """The content of a device file that reads back as this device at its nominal power mode.

    Example:
        >>> from codesign.devices import load_device
        >>> from codesign.devices.schema import parse_device
        >>> orin = load_device("orin")
        >>> parse_device(device_dict(orin), "orin") == orin
        True
    """
    nominal = next((mode.name for mode in device.power_modes if mode.is_nominal), device.power_mode)
    if device.power_modes and device.power_mode != nominal:
        device = device.with_power_mode("default")
    sources = dict(device.sources)
    reserved = sources.pop("memory_reserved")
    table = {
        "schema": SCHEMA_VERSION, "name": device.name, "title": device.title, "vendor": device.vendor,
        "generation": device.generation, "family": device.family, "kind": device.kind, "aliases": list(device.aliases),
        "n_sm": device.n_sm, "clock_Hz": device.clock_Hz, "tdp_W": device.tdp_W, "price_usd": device.price_usd,
        "price_note": device.price_note, "power_mode": nominal, "peak_is_estimated": device.peak_is_estimated,
        "confidence": device.confidence, "notes": device.notes,
    }  # fmt: skip
    memory = {
        "capacity_B": device.memory_B, "bandwidth_Bps": device.bandwidth_Bps, "l2_B": device.l2_B,
        "unified": device.unified_memory, "reserved_B": device.memory_reserved_B, "reserved_source": reserved,
    }  # fmt: skip
    content = {
        **_present(table),
        "memory": {key: value for key, value in memory.items() if value is not None},
        "peak_flop_per_s": dict(device.peak_flop_per_s),
        "sources": sources,
    }
    if device.power_modes:
        content["power_modes"] = [_mode(mode) for mode in device.power_modes]
    if device.fits:
        content["calibration"] = [fit.to_dict() for fit in device.fits]
    return content


def write_device(device: Device, path: Path, heading: str = "") -> None:
    """Write a device file; the name is taken over only when the file is whole.

    Raises:
        CodesignError: the folder or the disk does not take it.
    """
    lines = "".join(f"# {line}\n" for line in heading.splitlines())
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(lines + tomli_w.dumps(device_dict(device)), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise CodesignError(
            f"cannot write the device file {path}: {error.strerror}; give another --out or make room"
        ) from error
