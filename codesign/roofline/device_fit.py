"""Fitting one device to its own measurements: the additive roofline's coefficients, by maximum a posteriori.

    minimise  sum_i soft_l1(ln(sum_k exp(phi_k) x_ik / t_i) / noise)  +  sum_k soft_l1((phi_k - prior_k) / sd_k)

phi are ln of the seconds per unit of each term, so coefficients are never negative; a term that the measurements do not
determine stays at its prior (data-sheet or probed peaks, or what the catalogue's calibration says of the device).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from codesign.architecture import Architecture
from codesign.devices import Device, ResidualFit
from codesign.measurement import Measurement, Observation
from codesign.operators import Phase
from codesign.roofline.rates import PhaseRates, peak_flop_per_s
from codesign.roofline.terms import CHUNKED, RECURRENT, TERMS, pass_features, pass_terms, residual_log
from codesign.workload import PRECISIONS, Precision, Workload

__all__ = ["Array", "PassRow", "Prior", "catalogue_prior", "fit_terms", "pass_rows", "predict_log", "probed_prior"]

Array = NDArray[np.float64]
#: ln of seconds per unit, and its standard deviation, by term.
Prior = Mapping[str, tuple[float, float]]
_MIN_NOISE = 0.02
#: Fields that say how many layers there are, of each kind, and in which order; and the lists of a number each.
_DEPTHS = (
    "n_layers", "n_recurrent_layers", "n_window_layers", "n_kv_shared_layers", "n_looped_layers", "n_dense_layers", "extra_ffn_layers",
    "layout", "ffn_widths", "layer_heads", "layer_kv_heads",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRow:
    """One observed pass as the fit sees it. again_log and flags: see `Observation`."""

    arch: Architecture
    workload: Workload
    phase: Phase
    seconds: float
    again_log: float
    terms: Mapping[str, float]
    features: tuple[float, ...]
    flags: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The architecture's identity."""
        return repr(self.arch)

    @property
    def shape(self) -> str:
        """The architecture without its depth: what is left out together, since depths 1 and 3 of a shape tell the whole."""
        return repr({name: value for name, value in self.arch.to_dict().items() if name not in _DEPTHS})

    @property
    def params_active(self) -> float:
        """Active parameters: the size by which measured and unmeasured models are told apart."""
        return float(self.arch.params_active)


def pass_workload(m: Measurement) -> Workload:
    """The workload whose prefill, or mean decode step, is the measured pass.

    A decode step on `context_tokens` cached tokens attends to those and itself: prompt = context, one token out.
    """
    prompt = m.tokens if m.phase == "prefill" else m.context_tokens
    return Workload(prompt_tokens=prompt, output_tokens=1, batch_size=m.batch_size)


def pass_rows(observations: Sequence[Observation], phase: Phase) -> list[PassRow]:
    """The rows of one phase. Prefills on a filled cache are left out: their operators are not modelled."""
    rows = []
    for o in observations:
        m = o.first
        if m.phase != phase or (phase == "prefill" and m.context_tokens):
            continue
        workload, form = pass_workload(m), PRECISIONS[m.precision]
        terms = {k: float(v) for k, v in pass_terms(m.architecture, workload, form, phase).items() if float(v) > 0}
        features = tuple(float(v) for v in pass_features(m.architecture, workload, phase))
        rows.append(
            PassRow(
                arch=m.architecture, workload=workload, phase=phase, seconds=o.seconds, again_log=o.again_log,
                terms=terms, features=features, flags=o.flags,
            )
        )  # fmt: skip
    return rows


#: What share of a dense layer's overhead is taken to be whose before anything is measured.
_LAYER = {"layer": 0.4, "attention_layer": 0.25, "kv_layer": 0.15, "qk_norm": 0.2}


def probed_prior(device: Device, precision: Precision) -> Prior:
    """A wide prior from a device's peaks: 60 % of the compute peak, 80 % of the bandwidth, 20 us a layer of attention and FFN and
    20 us more a recurrent one or a chunk, 50 us a pass.

    Its standard deviations (a factor of e on most terms) let a handful of measurements decide.
    """
    flop = 1.0 / (0.6 * peak_flop_per_s(device, precision.compute))
    attention = 1.0 / (0.3 * peak_flop_per_s(device, "fp32" if precision.activation_bits == 32 else "fp16"))
    byte = 1.0 / (0.8 * device.bandwidth_Bps)
    seconds = {
        "matmul_flop": (flop, 1.0), "matmul_B": (byte, 1.0), "head_flop": (flop, 1.0), "head_B": (byte, 0.7), "attention_flop": (attention, 1.0),
        "attention_B": (byte, 1.0), "activation_B": (byte, 1.0), "experts_flop": (flop, 1.0), "experts_B": (byte, 1.0),
        "latent_flop": (attention, 1.0), "latent_B": (byte, 1.0), "scan_flop": (attention, 1.0), "scan_B": (byte, 1.0),
        **{f"{kind}_layer": (20e-6, 1.5) for kind in RECURRENT}, **{f"{kind}_chunk": (20e-6, 1.5) for kind in CHUNKED},
        "latent": (20e-6, 1.5), "expert": (20e-6, 1.5), "step": (50e-6, 1.5),
        **{term: (share * 20e-6, 1.5) for term, share in _LAYER.items()},
    }  # fmt: skip
    return {term: (math.log(value), sd) for term, (value, sd) in seconds.items()}


def catalogue_prior(device: Device, precision: Precision, rates: PhaseRates) -> Prior:
    """What the catalogue's calibration says of a device, as a prior; narrower where the device itself was measured."""
    sd = 0.3 if rates.level <= 1 else 0.6
    bandwidth, peak = device.bandwidth_Bps, peak_flop_per_s(device, precision.compute)
    byte = max(1.0 / (bandwidth * rates.bandwidth_efficiency), 1.0 / rates.unpack_Bps)
    moved = 1.0 / (bandwidth * rates.bandwidth_efficiency)
    seconds = {
        "matmul_flop": 1.0 / (peak * rates.compute_efficiency),
        "matmul_B": byte,
        "head_flop": 1.0 / (peak * rates.compute_efficiency),
        "head_B": byte,
        "attention_flop": 1.0 / (peak * rates.attention_efficiency),
        "attention_B": moved,
        "latent_flop": 1.0 / (peak * rates.attention_efficiency),
        "latent_B": moved,
        "activation_B": moved,
        "scan_flop": 1.0 / (peak * rates.attention_efficiency),
        "scan_B": moved,
        **{f"{kind}_layer": max(rates.layer_s, 1e-7) for kind in RECURRENT},
        **{f"{kind}_chunk": max(rates.layer_s / 4, 1e-7) for kind in CHUNKED},
        "latent": max(rates.layer_s / 4, 1e-7),
        "experts_flop": 1.0 / (peak * rates.expert_compute_efficiency),
        "experts_B": 1.0 / (bandwidth * rates.expert_bandwidth_efficiency),
        "expert": 1e-6,
        **{term: max(share * rates.layer_s, 1e-7) for term, share in _LAYER.items()},
        "step": max(rates.step_s, 1e-7),
    }
    wide = {  # of which the catalogue has no measurement
        "expert", "scan_flop", "scan_B", "latent", "latent_flop", "latent_B", *(f"{kind}_layer" for kind in RECURRENT),
        *(f"{kind}_chunk" for kind in CHUNKED),
    }  # fmt: skip
    return {term: (math.log(value), 1.5 if term in wide else sd) for term, value in seconds.items()}


def fit_terms(rows: Sequence[PassRow], prior: Prior) -> tuple[dict[str, float], Array]:
    """Coefficients (seconds per unit by term) and the posterior covariance of their ln, (n_terms, n_terms) in TERMS' order.

    The noise is estimated from the residuals, at least 2 %; terms that no row has stay at their prior.
    """
    names = list(TERMS)
    x = np.array([[row.terms.get(name, 0.0) for name in names] for row in rows]).reshape(len(rows), len(names))
    log_t = np.log([row.seconds for row in rows])
    center = np.array([prior[name][0] for name in names])
    sd = np.array([prior[name][1] for name in names])
    phi, noise = center.copy(), 0.05
    jac = np.zeros((0, len(names)))
    for _ in range(2):

        def residuals(p: Array, noise: float = noise) -> Array:
            return np.concatenate([(np.log(x @ np.exp(p)) - log_t) / noise, (p - center) / sd])

        def jacobian(p: Array, noise: float = noise) -> Array:
            parts = x * np.exp(p)
            return np.concatenate([parts / parts.sum(axis=1, keepdims=True) / noise, np.diag(1.0 / sd)])

        found = least_squares(residuals, phi, jac=jacobian, loss="soft_l1", f_scale=2.0)
        phi = found.x
        jac = jacobian(phi)
        error = np.abs(np.log(x @ np.exp(phi)) - log_t)
        noise = max(_MIN_NOISE, 1.48 * float(np.median(error))) if len(rows) >= 4 else 0.05
    covariance = np.linalg.inv(jac.T @ jac)
    return {name: float(math.exp(v)) for name, v in zip(names, phi, strict=True)}, covariance


def predict_log(
    rows: Sequence[PassRow], seconds_per: Mapping[str, float], residual: ResidualFit | None = None
) -> Array:
    """ln(seconds) of each row by the additive roofline, times the residual's correction."""
    base = np.log([sum(amount * seconds_per.get(term, 0.0) for term, amount in row.terms.items()) for row in rows])
    if residual is None or not rows:
        return np.asarray(base)
    features = [np.array(column) for column in zip(*(row.features for row in rows), strict=True)]
    return np.asarray(base + residual_log(residual, features))
