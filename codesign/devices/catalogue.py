"""The device catalogue: bundled TOML files, plug-ins, and a user's own file by path.

`catalogue/index.json` maps every name and alias to its file, so loading one device reads one device file.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path

from codesign._paths import user_folder
from codesign.devices._names import name_key
from codesign.devices.device import Device
from codesign.devices.schema import read_device
from codesign.errors import SchemaError, UnknownNameError

__all__ = ["device_names", "load_bundled", "load_catalogue", "load_device", "user_devices"]

INDEX_VERSION = 1


def _folder() -> Path:
    """The bundled files. A wheel is always installed unpacked, so a path is enough; a zip import is not supported."""
    return Path(__file__).with_name("catalogue")


@lru_cache(maxsize=1)
def _index() -> dict[str, tuple[str, ...]]:
    """Device name to its aliases, from the generated index."""
    path = _folder() / "index.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version, devices = data["version"], data["devices"]
        if version == INDEX_VERSION:
            return {name: tuple(aliases) for name, aliases in devices.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{path}: cannot be read ({type(error).__name__}); reinstall codesign") from None
    raise SchemaError(f"{path}: version is {version}; allowed: {INDEX_VERSION}; reinstall codesign")


@lru_cache(maxsize=1)
def _bundled() -> dict[str, str]:
    """`name_key` of every bundled name and alias to the device name."""
    return {name_key(text): name for name, aliases in _index().items() for text in (name, *aliases)}


@lru_cache(maxsize=128)
def _read_bundled(name: str) -> Device:
    return read_device(_folder() / f"{name}.toml")


def _is_path(text: str) -> bool:
    return text.endswith(".toml") or "/" in text or os.sep in text


def load_device(name_or_path: str | os.PathLike[str], power_mode: str | None = None) -> Device:
    """Load a device by name, alias or path of a device file.

    A device file in the user's folder (what `codesign calibrate` writes) takes the place of a bundled device of its name.
    Case, spaces, '-', '_' and '.' in names do not matter. Without a power mode the device is at full power (MAXN on
    a Jetson), which is not what a new board boots into: see `PowerMode.is_default`.

    Args:
        name_or_path: ``orin``, ``RTX 4090``, ``./my.toml``.
        power_mode: see `Device.with_power_mode`.

    Raises:
        UnknownNameError: no such device or mode.
        SchemaError: the file cannot be read or is not a device file.
        SpecError: the file's content is not allowed, or two plug-ins have one name.

    Example:
        >>> load_device("orin").name
        'jetson_agx_orin_64gb'
        >>> load_device("orin", "30W").clock_Hz
        612000000.0
    """
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, os.PathLike) or _is_path(text):
        device = read_device(Path(text).expanduser())
    else:
        device = _load_named(text)
    return device if power_mode is None else device.with_power_mode(power_mode)


def user_devices() -> Path:
    """The folder of a person's own device files; one there takes the place of a bundled device of its name."""
    return user_folder() / "devices"


def load_bundled(name: str) -> Device:
    """A device as it came with codesign, a person's own calibration of it left aside.

    Raises:
        UnknownNameError: no such bundled device.
    """
    key = name_key(name)
    if key not in _bundled():
        raise UnknownNameError.near("device", name, _index(), "See 'codesign devices'.")
    return _read_bundled(_bundled()[key])


def _load_named(text: str) -> Device:
    key = name_key(text)
    bundled = _bundled()
    own = user_devices() / f"{bundled.get(key, key)}.toml"
    if own.is_file():
        return read_device(own)
    if key in bundled:
        return _read_bundled(bundled[key])
    if key == "host":
        raise UnknownNameError(
            "device 'host' (this machine) is not calibrated yet; run: codesign profile --device host --plan 20, then codesign "
            "calibrate --device host"
        )
    from codesign.devices.plugins import find_plugins, load_plugin  # importlib.metadata is slow to import

    plugins = find_plugins(bundled)
    if key in plugins:
        return load_plugin(plugins[key])
    aliases = [alias for aliases in _index().values() for alias in aliases]
    known = [*aliases, *_index(), *(entry.name for entry in plugins.values())]
    raise UnknownNameError.near("device", text, known, "See 'codesign devices'.")


def device_names() -> list[str]:
    """Return the names of all bundled and plug-in devices, sorted; aliases are not in it.

    Raises:
        SpecError: two plug-ins have one name, or a plug-in has a bundled name.
    """
    from codesign.devices.plugins import find_plugins

    own = [path.stem for path in user_devices().glob("*.toml")]
    return sorted({*_index(), *own, *(entry.name for entry in find_plugins(_bundled()).values())})


def load_catalogue() -> dict[str, Device]:
    """Load every device, plug-ins included, by name.

    Example:
        >>> len(load_catalogue()) >= 40
        True
    """
    return {name: load_device(name) for name in device_names()}
