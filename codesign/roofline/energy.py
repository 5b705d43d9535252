"""Energy of a pass: idle power times time, plus energy per FLOP and per byte.

    E = P_idle * t + e_flop * FLOP + e_byte * bytes      [J]

A device whose own passes were metered has constants of its own (`codesign.roofline.device_energy`). Those of AGX Orin were fitted
by non-negative least squares on power measurements (see `results/energy_fit.md`, made by tools/fit_calibration.py). Other devices
have no measured constants: they take Orin's, scaled so that a pass at the memory roof (at the compute roof) draws the same share of
the board's power limit as it does on Orin. That scaling is an assumption and its interval is wide.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from codesign.devices import Device, EnergyTerms
from codesign.roofline.rates import peak_flop_per_s

__all__ = ["PowerModel", "power_model"]

_FILE = Path(__file__).with_name("energy.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerModel:
    """Power constants of one device: idle_W, flop_J (per FLOP), byte_J (per byte).

    interval_log: half-width of the 90 % interval of ln(energy) that the power model adds; measured: whether the
    constants were fitted on this device; source: where from.
    """

    idle_W: float
    flop_J: float
    byte_J: float
    interval_log: float
    measured: bool
    source: str

    def energy_J(self, seconds: Any, flop: Any, bytes_moved: Any) -> Any:
        """P_idle * t + e_flop * FLOP + e_byte * bytes; arrays broadcast."""
        return self.idle_W * seconds + self.flop_J * flop + self.byte_J * bytes_moved


@lru_cache(maxsize=1)
def _reference() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return data


def power_model(device: Device, own: EnergyTerms | None = None) -> PowerModel | None:
    """The power constants of a device at its mode; None where neither a fit nor a power limit is known.

    own: of the calibration in force, which goes first.
    """
    if own is not None:
        return PowerModel(
            idle_W=own.idle_W, flop_J=own.flop_J, byte_J=own.byte_J, interval_log=own.interval_log, measured=True,
            source=f"measured here on {own.n_rows} visits of {own.n_architectures} architectures, {own.held_out_mape_pct:.1f} % off with "
            f"architectures left out{f' ({own.meter})' if own.meter else ''}",
        )  # fmt: skip
    ref = _reference()
    orin = ref["device"]
    if device.name == orin["name"]:
        return PowerModel(
            idle_W=ref["idle_W"], flop_J=ref["flop_J"], byte_J=ref["byte_J"], interval_log=ref["interval_log"],
            measured=device.power_mode == orin["power_mode"], source=ref["source"],
        )  # fmt: skip
    limit = device.tdp_W or device.power_limit_W
    if limit is None:
        return None
    share = limit / orin["tdp_W"]
    nominal = device.with_power_mode("default") if device.power_modes else device
    return PowerModel(
        idle_W=ref["idle_W"] * share,
        flop_J=ref["flop_J"] * share * orin["peak_flop_per_s"] / peak_flop_per_s(nominal, "fp16"),
        byte_J=ref["byte_J"] * share * orin["bandwidth_Bps"] / nominal.bandwidth_Bps,
        interval_log=ref["interval_log_scaled"],
        measured=False,
        source=f"scaled from {orin['name']} by the power limit ({limit:g} W): an assumption, no power was measured here",
    )
