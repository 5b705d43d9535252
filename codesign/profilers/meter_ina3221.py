"""Power rails of a Jetson module, from its INA3221 monitors through hwmon (kernel.org, hwmon/ina3221).

Channel n: in<n>_input (bus voltage, mV) x curr<n>_input (mA), named by in<n>_label. Which rails make the total, from
NVIDIA's Jetson Linux Developer Guide, Platform Power and Performance ("Software-Based Power Consumption Modeling"):

- Orin Nano, Orin NX, Xavier NX: ``VDD_IN`` is the total power of the module, the others are parts of it.
- AGX Orin: no rail is the total. ``VDD_GPU_SOC`` + ``VDD_CPU_CV`` + ``VIN_SYS_5V0``; ``VDDQ_VDD2_1V8AO`` is included in
  ``VIN_SYS_5V0`` ("VDDQ_VDD2_1V8AO power is also included in VIN_SYS_5V0 power").
- AGX Xavier: the sum of its six rails.

All are measured on the module: carrier board, fan and the supply's losses are not in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from codesign.errors import MeasurementError
from codesign.profilers.meter_base import SampledMeter
from codesign.profilers.sysfs import read_number, read_text

__all__ = ["find_rails", "open_ina3221", "total_rails"]

_TOTALS = (
    ("VDD_IN",),
    ("POM_5V_IN",),  # Jetson Nano
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
MODULE_NOTE = "the module only: carrier board and supply are not in it"


def total_rails(rails: Iterable[str]) -> tuple[str, ...]:
    """The rails whose sum is the module's power; empty where no known set is complete.

    Example:
        >>> total_rails(["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"])
        ('VDD_IN',)
        >>> total_rails(["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"])
        ('VDD_GPU_SOC', 'VDD_CPU_CV', 'VIN_SYS_5V0')
    """
    known = set(rails)
    return next((total for total in _TOTALS if known.issuperset(total)), ())


def find_rails(root: str | Path = "/") -> dict[str, tuple[Path, Path]]:
    """Name of each connected channel to its voltage (mV) and current (mA) files."""
    rails: dict[str, tuple[Path, Path]] = {}
    for chip in sorted(Path(root).glob("sys/class/hwmon/hwmon*")):
        if read_text(chip, "name") != "ina3221":
            continue
        for n in (1, 2, 3):  # in4 to in7 are shunt voltages
            label = read_text(chip, f"in{n}_label")
            pair = chip / f"in{n}_input", chip / f"curr{n}_input"
            if not label or label == "NC" or read_number(chip, f"in{n}_enable") == 0:
                continue
            if all(read_number(path) is not None for path in pair):
                rails[label] = pair
    return rails


def open_ina3221(root: str | Path = "/") -> SampledMeter:
    """A meter of the module's rails, read 20 times a second (a reading of three rails takes about 3 ms on the bus).

    Raises:
        MeasurementError: no INA3221, or rails of which no total is known.
    """
    rails = find_rails(root)
    if not rails:
        raise MeasurementError(f"no INA3221 power monitor under {Path(root, 'sys/class/hwmon')}")
    total = total_rails(rails)
    if not total:
        raise MeasurementError(f"INA3221 rails {', '.join(sorted(rails))}: which of them make the total is not known")

    def read() -> dict[str, float] | None:
        watts = {}
        for name, (voltage, current) in rails.items():
            mV, mA = read_number(voltage), read_number(current)
            if mV is None or mA is None:
                return None
            watts[name] = mV * mA / 1e6
        return watts

    return SampledMeter(
        name="ina3221", source=f"INA3221 {' + '.join(total)}", read=read, total=total, note=MODULE_NOTE, interval_s=0.05
    )
