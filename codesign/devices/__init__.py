"""Devices: what they are, where each number comes from, and how to load them by name."""

from codesign.devices.catalogue import device_names, load_bundled, load_catalogue, load_device, user_devices
from codesign.devices.describe import describe, device_row, mode_rows
from codesign.devices.device import Device, PowerMode
from codesign.devices.fit import DeviceFit, EnergyTerms, PhaseTerms, ResidualFit
from codesign.devices.write import write_device

__all__ = [
    "Device",
    "DeviceFit",
    "EnergyTerms",
    "PhaseTerms",
    "PowerMode",
    "ResidualFit",
    "describe",
    "device_names",
    "device_row",
    "load_bundled",
    "load_catalogue",
    "load_device",
    "mode_rows",
    "user_devices",
    "write_device",
]
