"""What calibration gives the cost model: bounded efficiencies and overheads of one device, engine and precision."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from codesign.devices import Device, EnergyTerms, PhaseTerms
from codesign.operators import Operator, Phase

__all__ = ["PhaseRates", "Rates", "operator_seconds", "peak_flop_per_s"]


#: What 90 % of errors stay within where a calibration on dense layers alone meets other mixers or experts, on a host CPU and an H100
#: (results/families_unseen.md).
UNSEEN_KIND_LOG = math.log(1.88)
#: And where one of single requests meets other batches or lengths, on a host CPU (results/batches_unseen.md).
UNSEEN_PASS_LOG = {"prefill": math.log(1.18), "decode": math.log(1.29)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRates:
    """Rates of one phase (prefill or decode).

    Args:
        bandwidth_efficiency, expert_bandwidth_efficiency: share of the DRAM bandwidth that operators (routed experts)
            reach, in (0, 1].
        compute_efficiency, attention_efficiency, expert_compute_efficiency: share of the dense peak that matrix products
            (attention, routed experts) reach.
        unpack_Bps: weight bytes per second that the SMs unpack (a second decode roof); inf where there is none.
        layer_s, step_s: launch and host overhead per layer and per pass, in seconds, at least 0.
        interval_log: half-width of the 90 % interval of ln(seconds).
        level: 0 device, engine and precision measured; 1 device and engine; 2 engine on the same GPU generation;
            3 engine elsewhere, or the device with another engine; 4 neither.
        n_rows: measurements of exactly this device, engine and precision.
        terms: a fit to this very device; where it is given, it replaces all efficiencies and overheads.
        interval_beyond_log: as interval_log, for models smaller or larger than those that were measured.
    """

    bandwidth_efficiency: float = 1.0
    expert_bandwidth_efficiency: float = 1.0
    compute_efficiency: float = 1.0
    attention_efficiency: float = 1.0
    expert_compute_efficiency: float = 1.0
    unpack_Bps: float = math.inf
    layer_s: float = 0.0
    step_s: float = 0.0
    interval_log: float = 0.0
    level: int = 4
    n_rows: int = 0
    terms: PhaseTerms | None = None
    interval_beyond_log: float = 0.0

    def half_width_log(self, unlike: int) -> float:
        """Half-width of the 90 % interval for a model like those that were measured (0), of another size (1), or of a kind (a mixer,
        experts) that was not measured (2): then at least `UNSEEN_KIND_LOG`.
        """
        near = max(self.interval_log, self.interval_beyond_log) if unlike else self.interval_log
        return max(near, UNSEEN_KIND_LOG) if unlike == 2 and near > 0 else near


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of both phases, and where they come from. The default is the ideal roofline.

    energy: power constants of the device's own calibration, where it has them.
    """

    prefill: PhaseRates = field(default_factory=PhaseRates)
    decode: PhaseRates = field(default_factory=PhaseRates)
    source: str = "ideal roofline: efficiency 1, no overhead"
    energy: EnergyTerms | None = None

    def of(self, phase: Phase) -> PhaseRates:
        """The rates of one phase."""
        return self.prefill if phase == "prefill" else self.decode


def peak_flop_per_s(device: Device, dtype: str) -> float:
    """Dense peak for a compute type; what the device lacks runs at its 16-bit rate (or fp32 where it has no other).

    16-bit takes the larger of the fp16 and bf16 rates: GeForce fp16 with fp16 accumulation, Xeon bf16 on AMX.
    """
    peaks = device.peak_flop_per_s
    if dtype == "fp32" and "fp32" in peaks:
        return peaks["fp32"]
    half = max(peaks.get("fp16", 0.0), peaks.get("bf16", 0.0)) or peaks.get("fp32", 0.0) or max(peaks.values())
    if dtype in ("fp16", "bf16", "fp32"):
        return half
    return max(peaks.get(dtype, 0.0), half)


def operator_seconds(
    operator: Operator,
    *,
    bandwidth: Any,
    expert_bandwidth: Any,
    compute: Any,
    attention: Any,
    expert_compute: Any,
    unpack: Any,
) -> Any:
    """Roofline time of one occurrence: max(bytes / bandwidth, FLOP / peak, weight bytes / unpack rate), in seconds.

    Args:
        operator: its `kind`, `name`, `flop`, `weight_B` and bytes.
        bandwidth, expert_bandwidth: effective bytes/s; compute, attention, expert_compute: effective FLOP/s; unpack: bytes/s
            or inf. The expert rates are those of routed experts (operators named experts_*). Recurrences run at attention's
            rate: no published measurement at hand tells theirs.
    """
    routed = operator.name.startswith("experts")
    seconds = operator.bytes_moved * (1.0 / (expert_bandwidth if routed else bandwidth))
    if operator.kind in ("gemm", "attention", "scan"):
        rate = (expert_compute if routed else compute) if operator.kind == "gemm" else attention
        seconds = np.maximum(seconds, operator.flop * (1.0 / rate))
        if unpack != np.inf:
            seconds = np.maximum(seconds, operator.weight_B * (1.0 / unpack))
    return seconds
