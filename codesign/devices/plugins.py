"""Devices of other packages, by the entry point group ``codesign.devices``.

An entry point's name is the name people write; it loads to a `Device` or to a callable without arguments that
returns one. The device's own name or one of its aliases must be the entry point's name.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

from codesign.devices._names import name_key
from codesign.devices.device import Device
from codesign.errors import SpecError

__all__ = ["GROUP", "find_plugins", "load_plugin"]

GROUP = "codesign.devices"


def _owner(entry: importlib.metadata.EntryPoint) -> str:
    return f"'{entry.dist.name}'" if entry.dist is not None else f"an unknown distribution ({entry.value})"


def find_plugins(bundled: Mapping[str, str]) -> dict[str, importlib.metadata.EntryPoint]:
    """List the installed device plug-ins by `name_key`; nothing is imported.

    Args:
        bundled: `name_key` to device name, of every bundled name and alias.

    Raises:
        SpecError: two plug-ins, or a plug-in and a bundled device, have one name; names both distributions.
    """
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        key = name_key(entry.name)
        other = "codesign itself" if key in bundled else _owner(found[key]) if key in found else None
        if other is not None:
            raise SpecError(
                f"device '{entry.name}' is provided twice, by {_owner(entry)} and by {other}; "
                "rename the entry point or uninstall one of the two"
            )
        found[key] = entry
    return found


def load_plugin(entry: importlib.metadata.EntryPoint) -> Device:
    """Import one plug-in and return its device.

    Raises:
        SpecError: the import or the call fails, or what comes back is not a `Device` of that name.
    """
    where = f"device plug-in '{entry.name}' of {_owner(entry)}"
    try:
        value = entry.load()
        device = value if isinstance(value, Device) else value()
    except Exception as error:  # a plug-in may fail in any way; the user needs to know which one did
        raise SpecError(f"{where} failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(device, Device):
        raise SpecError(f"{where} gives a {type(device).__name__}; allowed: a codesign.devices.Device")
    names = (device.name, *device.aliases)
    if name_key(entry.name) not in map(name_key, names):
        raise SpecError(f"{where} gives the device '{device.name}'; allowed: the entry point's name as name or alias")
    return device
