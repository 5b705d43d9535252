"""Power constants of one device from its own metered passes: E = P_idle * t + e_flop * FLOP + e_byte * bytes.

    minimise  sum_i soft_l1(ln(E_predicted_i / E_i) / 0.1)  +  sum_k soft_l1((phi_k - center_k) / 1.5)

phi are ln of the three constants, centered on half of the median power, spent idle, at the compute peak or at the memory peak:
a wide prior, which keeps a constant positive that the passes do not tell from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from codesign.devices import Device, EnergyTerms
from codesign.measurement import Measurement, observe
from codesign.roofline.cost import RooflineModel
from codesign.roofline.device_calibration import conformal_log
from codesign.roofline.device_fit import Array, pass_rows
from codesign.roofline.rates import peak_flop_per_s
from codesign.workload import PRECISIONS

__all__ = ["FEW_METERED", "calibrate_energy"]

#: Architectures (of different shapes) below which the error with one left out says too little.
FEW_METERED = 4
_NOISE, _PRIOR_SD = 0.1, 1.5


@dataclass(frozen=True, slots=True)
class _Pass:
    seconds: float
    flop: float
    bytes_moved: float
    energy_J: float
    shape: str
    meter: str


def calibrate_energy(measurements: Sequence[Measurement], device: Device) -> EnergyTerms | None:
    """Fit the constants; errors are of architectures left out by shape.

    Args:
        measurements: of one device, engine, precision, options and power mode; those without energy are left aside.
        device: whose peaks center the prior.

    Returns:
        None where fewer than `FEW_METERED` shapes have metered passes.
    """
    passes = [found for m in measurements if (found := _pass(m, RooflineModel(device=device))) is not None]
    shapes = sorted({p.shape for p in passes})
    if len(shapes) < FEW_METERED:
        return None
    x = np.array([[p.seconds, p.flop, p.bytes_moved] for p in passes])
    log_e = np.log([p.energy_J for p in passes])
    watts = float(np.median(np.exp(log_e) / x[:, 0]))
    peak = peak_flop_per_s(device, PRECISIONS[measurements[0].precision].compute)
    center = np.log([watts / 2, watts / 2 / peak, watts / 2 / device.bandwidth_Bps])
    errors = np.zeros(len(passes))
    for shape in shapes:
        held = np.array([p.shape == shape for p in passes])
        errors[held] = np.log(x[held] @ _fit(x[~held], log_e[~held], center)) - log_e[held]
    idle, flop, byte = (float(v) for v in _fit(x, log_e, center))
    return EnergyTerms(
        idle_W=idle, flop_J=flop, byte_J=byte, interval_log=conformal_log(errors), n_rows=len(passes), n_architectures=len(shapes),
        held_out_mape_pct=round(float(100 * np.mean(np.abs(np.expm1(errors)))), 3), meter=", ".join(sorted({p.meter for p in passes})),
    )  # fmt: skip


def _pass(m: Measurement, model: RooflineModel) -> _Pass | None:
    rows = pass_rows(observe([m]), m.phase) if m.energy_J is not None and m.energy_J > 0 else []
    if not rows or m.energy_J is None:
        return None
    row = rows[0]
    work = model.phase(row.arch, row.workload, PRECISIONS[m.precision], row.phase)
    return _Pass(
        seconds=row.seconds, flop=float(work.flop), bytes_moved=float(work.bytes_moved), energy_J=m.energy_J, shape=row.shape,
        meter=str(m.state.get("energy") or "a meter").split(" over ")[0],
    )  # fmt: skip


def _fit(x: Array, log_e: Array, center: Array) -> Array:
    """The constants, (3,)."""

    def residuals(phi: Array) -> Array:
        return np.concatenate([(np.log(x @ np.exp(phi)) - log_e) / _NOISE, (phi - center) / _PRIOR_SD])

    return np.asarray(np.exp(least_squares(residuals, center, loss="soft_l1", f_scale=2.0).x))
