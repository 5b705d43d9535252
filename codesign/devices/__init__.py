"""Devices: what they are, where each number comes from, and how to load them by name."""

from codesign.devices.catalogue import device_names, load_catalogue, load_device
from codesign.devices.describe import describe, device_row, mode_rows
from codesign.devices.device import Device, PowerMode
from codesign.devices.fit import DeviceFit, PhaseTerms, ResidualFit

__all__ = [
    "Device",
    "DeviceFit",
    "PhaseTerms",
    "PowerMode",
    "ResidualFit",
    "describe",
    "device_names",
    "device_row",
    "load_catalogue",
    "load_device",
    "mode_rows",
]
