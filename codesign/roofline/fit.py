"""Fitting the effects: robust maximum a posteriori of ln(seconds), by Gauss-Newton steps on the exact cost model.

    minimise sum_i soft_l1(ln(t_model,i / t_measured,i) / noise) + sum_j (effect_j / sd_j)**2

Each latent rate is linear in its effects, so the Jacobian is a finite difference per latent times a design matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.measured_table import Case
from codesign.operators import Phase, lower
from codesign.roofline.calibration import PhaseFit
from codesign.roofline.effects import LATENTS, Cell
from codesign.roofline.rates import peak_flop_per_s

__all__ = ["Observation", "fit_phase", "observations", "predict_seconds"]

Array = NDArray[np.float64]
NOISE = 0.07  # spread of ln(seconds) between repeats and versions of one engine on one board: 6 to 8 % in the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One measured pass: its case, cell, workload's operators as arrays (n_ops,), and seconds.

    peak: dense FLOP/s of each operator's data type (attention and a 16-bit head run at 16 bits in an int8 model).
    """

    case: Case
    cell: Cell
    phase: Phase
    seconds: float
    flop: Array
    moved: Array
    weight: Array
    attention: Array
    expert: Array
    count: Array
    peak: Array


def observations(cases: Sequence[Case], phase: Phase) -> list[Observation]:
    """The passes of one phase that were measured.

    Rows with only an end-to-end time give a decode step: (total - prefill at half of the peak) / generated tokens; the
    prefill is 1 to 3 % of the total there.
    """
    found = []
    for case in cases:
        workload = case.prefill if phase == "prefill" else case.decode
        seconds = case.prefill_s if phase == "prefill" else case.decode_s
        if phase == "decode" and np.isnan(seconds) and case.e2e_s > 0 and case.prefill is not None:
            tokens = case.prefill.prompt_tokens * case.prefill.batch_size
            prefill = 4 * case.arch.params_active_nonembedding * tokens / peak_flop_per_s(case.device, "fp16")
            seconds = (case.e2e_s - prefill) / case.decode.output_tokens
        if workload is None or not seconds > 0:
            continue
        ops = lower(case.arch, workload, case.precision, phase)

        def column(values: list[Any]) -> Array:
            return np.asarray(values, dtype=np.float64)

        found.append(
            Observation(
                case=case,
                cell=Cell.of(case.device, case.engine, case.precision, workload.batch_size),
                phase=phase,
                seconds=float(seconds),
                flop=column([o.flop for o in ops]),
                moved=column([o.bytes_moved for o in ops]),
                weight=column([o.weight_B for o in ops]),
                attention=column([o.kind == "attention" for o in ops]),
                expert=column([o.name.startswith("experts") for o in ops]),
                count=column([o.count for o in ops]),
                peak=column([peak_flop_per_s(case.device, o.dtype) for o in ops]),
            )
        )
    return found


class _Packed:
    """Operators of all observations padded to one rectangle, and the model's seconds for given latents."""

    def __init__(self, obs: Sequence[Observation]) -> None:
        width = max(len(o.flop) for o in obs)

        def pad(name: str, fill: float = 0.0) -> Array:
            out = np.full((len(obs), width), fill)
            for i, o in enumerate(obs):
                values = getattr(o, name)
                out[i, : len(values)] = values
            return out

        self.flop, self.moved, self.weight = pad("flop"), pad("moved"), pad("weight")
        self.attention, self.expert, self.count = pad("attention") > 0, pad("expert") > 0, pad("count")
        self.bandwidth = np.array([o.cell.bandwidth_Bps for o in obs])[:, None]
        self.peak = pad("peak", 1.0)
        self.layers = np.array([float(o.case.arch.n_layers) for o in obs])
        self.sm_clock = np.array([o.cell.sm_clock_Hz if o.cell.unpack_roof else np.inf for o in obs])[:, None]
        self.phase = obs[0].phase

    def seconds(self, latents: dict[str, Array]) -> Array:
        rate = {
            name: 1 / (1 + np.exp(-value)) if LATENTS[self.phase][name].scale == "logistic" else np.exp(value)
            for name, value in latents.items()
        }
        share = np.where(self.expert, (rate["bandwidth"] * rate["expert"])[:, None], rate["bandwidth"][:, None])
        compute = rate["compute"][:, None]
        if "attention" in rate:
            compute = np.where(self.attention, compute * rate["attention"][:, None], compute)
        if "expert_compute" in rate:
            compute = np.where(self.expert, compute * rate["expert_compute"][:, None], compute)
        time = np.maximum(self.moved / (self.bandwidth * share), self.flop / (self.peak * compute))
        if "unpack" in rate:
            time = np.maximum(time, self.weight / (rate["unpack"][:, None] * self.sm_clock))
        total: Array = (time * self.count).sum(axis=1) + self.layers * rate["layer"] + rate["step"]
        return total


def _design(obs: Sequence[Observation], phase: Phase, index: dict[str, int], learn: bool) -> dict[str, Array]:
    entries: dict[str, list[tuple[int, int, float]]] = {}
    for name, latent in LATENTS[phase].items():
        found = entries.setdefault(name, [])
        for effect in latent.effects:
            for i, o in enumerate(obs):
                key = f"{name}:{effect.name}={effect.key(o.cell)}"
                if learn:
                    index.setdefault(key, len(index))
                if key in index:
                    found.append((i, index[key], effect.sd * effect.regressor(o.cell)))
    design = {}
    for name, found in entries.items():
        matrix = np.zeros((len(obs), len(index)))
        for i, j, value in found:
            matrix[i, j] = value
        design[name] = matrix
    return design


def _standard_deviation(key: str, phase: Phase) -> float:
    latent, rest = key.split(":", 1)
    name = rest.split("=", 1)[0]
    return next(effect.sd for effect in LATENTS[phase][latent].effects if effect.name == name)


def fit_phase(obs: Sequence[Observation], intervals: Sequence[float] = (0.0,) * 5) -> PhaseFit:
    """Fit the effects of one phase.

    Args:
        obs: measured passes of one phase.
        intervals: half-widths of ln(seconds) by level, as found on left-out groups.

    Returns:
        The effects, and how many rows each cell had.
    """
    phase = obs[0].phase
    index: dict[str, int] = {}
    design = _design(obs, phase, index, learn=True)
    packed = _Packed(obs)
    target = np.log([o.seconds for o in obs])
    means = {name: latent.mean for name, latent in LATENTS[phase].items()}

    def latents(x: Array) -> dict[str, Array]:
        return {name: means[name] + matrix @ x for name, matrix in design.items()}

    def residual(values: dict[str, Array]) -> Array:
        out: Array = np.log(packed.seconds(values)) - target
        return out

    x = np.zeros(len(index))
    weight = np.ones(len(obs))

    def objective(x: Array) -> float:
        z = residual(latents(x)) / NOISE
        return float(4 * (2 * np.sqrt(1 + z * z / 4) - 2).sum() + x @ x)

    damping, best = 1e-2, objective(x)
    for _ in range(60):
        values = latents(x)
        r = residual(values)
        weight = 1 / np.sqrt(1 + (r / NOISE) ** 2 / 4)
        jacobian = np.zeros((len(obs), len(index)))
        for name, matrix in design.items():
            moved = dict(values)
            moved[name] = values[name] + 1e-5
            jacobian += ((residual(moved) - r) / 1e-5)[:, None] * matrix
        scaled = jacobian * (weight / NOISE**2)[:, None]
        gradient = scaled.T @ r + x
        hessian = scaled.T @ jacobian + np.eye(len(index))
        while damping < 1e8:
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), -gradient)
            value = objective(x + step)
            if value <= best:
                break
            damping *= 4
        else:
            break
        x, gained, best, damping = x + step, best - value, value, damping / 3
        if gained < 1e-4 * max(best, 1.0):
            break
    cells: dict[str, int] = {}
    spans: dict[str, tuple[float, float, float]] = {}
    for o in obs:
        key = f"{o.cell.device}/{o.cell.engine}/{o.cell.kind}/{o.cell.generation}"
        cells[key] = cells.get(key, 0) + 1
        size, mixture = float(o.case.arch.params_active), float(o.case.arch.n_experts > 0)
        low, high, seen = spans.get(key, (size, size, mixture))
        spans[key] = (min(low, size), max(high, size), max(seen, mixture))
    effects = {key: float(x[j]) * _standard_deviation(key, phase) for key, j in index.items()}
    return PhaseFit(effects, cells, tuple(intervals), spans)


def predict_seconds(fit: PhaseFit, obs: Sequence[Observation]) -> Array:
    """Seconds of each observation under a fit: the same formula as `RooflineModel`, over padded operators."""
    phase = obs[0].phase
    packed = _Packed(obs)
    latents = {
        name: np.array([_unlink(latent.scale, fit.latent(name, phase, o.cell)) for o in obs])
        for name, latent in LATENTS[phase].items()
    }
    return packed.seconds(latents)


def _unlink(scale: str, value: float) -> float:
    return float(np.log(value / (1 - value)) if scale == "logistic" else np.log(value))
