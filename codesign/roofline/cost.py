"""The cost model: operators of a pass, each at its roofline, plus overheads; memory; energy.

    t = sum over operators of count * max(bytes / (e_b * bandwidth), FLOP / (e_c * peak), weights / unpack rate)
        + n_layers * t_layer + t_step                                                          [s]

with efficiencies e <= 1 and overheads >= 0, so a prediction is never below the ideal roofline. One implementation
serves one model, a flat batch and an open mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from codesign._mixers import projection_widths
from codesign.architecture import ArchitectureLike
from codesign.cache import cache_bytes, kv_bytes_per_token
from codesign.devices import Device
from codesign.operators import Operator, Phase, lower, weight_bytes
from codesign.roofline.energy import PowerModel, power_model
from codesign.roofline.rates import PhaseRates, Rates, operator_seconds, peak_flop_per_s
from codesign.roofline.terms import layer_terms, operator_terms, pass_features, residual_log
from codesign.roofline.terms import operator_seconds as fitted_seconds
from codesign.workload import Precision, Workload

__all__ = ["CostModel", "Estimate", "OperatorCost", "PhaseCost", "RooflineModel", "memory_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """Cost of one pass: seconds, FLOP and bytes moved (numbers or arrays)."""

    seconds: Any
    flop: Any
    bytes_moved: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCost:
    """One operator of a breakdown: time of all its occurrences and what bounds it.

    bound is compute, bandwidth or unpack; for the rows named "layer overhead" and "step overhead", overhead.
    """

    name: str
    count: float
    seconds: float
    flop: float
    bytes_moved: float
    bound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a model costs; numbers or arrays of one shape.

    prefill_s: time to first token; decode_s: time per output token at the mean context (for a batch: one step, a token
    for every request); total_s: prefill_s + output_tokens * decode_s; weights_B, kv_B, workspace_B and their sum
    peak_memory_B (kv_B holds recurrent states, too); energy_J: per generated token of one request; request_energy_J: of the whole batch of requests;
    power_W: mean power of the phase that draws more. Energies are nan where no power model is known.
    """

    prefill_s: Any
    decode_s: Any
    total_s: Any
    weights_B: Any
    kv_B: Any
    workspace_B: Any
    peak_memory_B: Any
    energy_J: Any
    request_energy_J: Any
    power_W: Any


class CostModel(Protocol):
    """Anything that estimates costs of architectures."""

    def estimate(self, arch: ArchitectureLike, workload: Workload, precision: Precision) -> Estimate:
        """Cost of one architecture or of a batch."""
        ...


def memory_bytes(arch: ArchitectureLike, workload: Workload, precision: Precision) -> tuple[Any, Any, Any]:
    """Weights, KV cache (and recurrent state) at the longest context, and activation workspace, in bytes.

    The workspace is the largest set of activations alive at once in prefill: residual stream, the FFN's hidden state
    (gate and up) or Q, K, V and the attention output (or a recurrence's projections), and the last position's logits in fp32.
    """
    tokens = workload.batch_size * max(workload.prompt_tokens, 1)
    act = precision.activation_bits / 8
    kv = cache_bytes(arch, workload, precision)
    hidden: Any = arch.d_ff * (arch.ffn_matrices - 1)
    if np.any(arch.n_experts):
        routed = (arch.n_active_experts * arch.d_ff_expert + arch.n_shared_experts * arch.d_ff_shared) * (
            arch.ffn_matrices - 1
        )
        hidden = np.maximum(hidden, routed)
    projections = 2 * arch.n_heads_widest * arch.d_head
    if np.any(arch.n_recurrent_layers):
        projections = np.maximum(projections, projection_widths(arch)[0])
    workspace = (2 * arch.d_model + np.maximum(hidden, projections)) * (tokens * act)
    evicted = workload.prompt_tokens - workload.serving.kept_tokens(workload.prompt_tokens)
    if evicted:  # a layer's whole cache lives until that layer's prompt is done
        widest = kv_bytes_per_token(arch, precision, workload.serving)
        if np.size(arch.layer_kv_heads):
            widest = widest * (arch.n_kv_heads / arch.n_kv_heads_mean)
        workspace = workspace + widest * (workload.batch_size * evicted)
    return weight_bytes(arch, precision), kv, workspace + arch.vocab_size * (4 * workload.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineModel:
    """The calibrated roofline of one device and engine at one precision.

    Args:
        device: at its power mode.
        rates: efficiencies and overheads (`Calibration.rates`); the default is the ideal roofline.
        power: energy constants, or None.

    Example:
        >>> from codesign.architecture import Architecture
        >>> from codesign.devices import load_device
        >>> from codesign.workload import PRECISIONS
        >>> model = RooflineModel(device=load_device("orin"))
        >>> tiny = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
        >>> bool(model.estimate(tiny, Workload(), PRECISIONS["fp16"]).decode_s > 0)
        True
    """

    device: Device
    rates: Rates = Rates()
    power: PowerModel | None = None

    @classmethod
    def of(cls, device: Device, rates: Rates) -> RooflineModel:
        """With the power model that the device has."""
        return cls(device=device, rates=rates, power=power_model(device, rates.energy))

    def _seconds(self, operator: Operator, rates: PhaseRates) -> Any:
        if rates.terms is not None:
            return fitted_seconds(operator, rates.terms.seconds_per)
        bandwidth = self.device.bandwidth_Bps
        peak = peak_flop_per_s(self.device, operator.dtype)
        return operator_seconds(
            operator,
            bandwidth=bandwidth * rates.bandwidth_efficiency,
            expert_bandwidth=bandwidth * rates.expert_bandwidth_efficiency,
            compute=peak * rates.compute_efficiency,
            attention=peak * rates.attention_efficiency,
            expert_compute=peak * rates.expert_compute_efficiency,
            unpack=rates.unpack_Bps,
        )

    def phase(
        self, arch: ArchitectureLike, workload: Workload, precision: Precision, phase: Phase, *, totals: bool = True
    ) -> PhaseCost:
        """Seconds, FLOP and bytes of one pass (FLOP and bytes nan without `totals`)."""
        rates = self.rates.of(phase)
        operators = lower(arch, workload, precision, phase)
        seconds = _total(operators, [self._seconds(op, rates) for op in operators])
        for _, count, each in _overheads(arch, workload, phase, rates):
            seconds = seconds + count * each
        return PhaseCost(
            seconds=seconds * _correction(arch, workload, phase, rates),
            flop=_total(operators, [op.flop for op in operators]) if totals else np.nan,
            bytes_moved=_total(operators, [op.bytes_moved for op in operators]) if totals else np.nan,
        )

    def estimate(
        self, arch: ArchitectureLike, workload: Workload, precision: Precision, *, energy: bool = True
    ) -> Estimate:
        """Prefill, decode, memory and (unless left out, for speed) energy of one architecture or a batch."""
        _keep_heap()
        totals = energy and self.power is not None
        prefill = _NOTHING
        if workload.prompt_tokens:
            prefill = self.phase(arch, workload, precision, "prefill", totals=totals)
        decode = self.phase(arch, workload, precision, "decode", totals=totals)
        weights, kv, workspace = memory_bytes(arch, workload, precision)
        per_token: Any = np.nan
        request: Any = np.nan
        watts: Any = np.nan
        if energy and self.power is not None:
            step = self.power.energy_J(decode.seconds, decode.flop, decode.bytes_moved)
            first = self.power.energy_J(prefill.seconds, prefill.flop, prefill.bytes_moved)
            per_token = step * (1.0 / workload.batch_size)
            request = first + step * workload.output_tokens
            watts = step / decode.seconds
            if workload.prompt_tokens:
                watts = np.maximum(watts, first / prefill.seconds)
        return Estimate(
            prefill_s=prefill.seconds,
            decode_s=decode.seconds,
            total_s=prefill.seconds + decode.seconds * workload.output_tokens,
            weights_B=weights,
            kv_B=kv,
            workspace_B=workspace,
            peak_memory_B=weights + kv + workspace,
            energy_J=per_token,
            request_energy_J=request,
            power_W=watts,
        )

    def breakdown(
        self, arch: ArchitectureLike, workload: Workload, precision: Precision, phase: Phase
    ) -> list[OperatorCost]:
        """Each operator of one model with its time and bound; the times sum to the pass's seconds."""
        rates = self.rates.of(phase)
        factor = float(_correction(arch, workload, phase, rates))
        rows = []
        for op in lower(arch, workload, precision, phase):
            seconds = float(self._seconds(op, rates)) * factor
            rows.append(
                OperatorCost(
                    name=op.name,
                    count=float(op.count),
                    seconds=seconds * float(op.count),
                    flop=float(op.flop) * float(op.count),
                    bytes_moved=float(op.bytes_moved) * float(op.count),
                    bound=self._bound(op, rates, seconds),
                )
            )
        for name, count, each in _overheads(arch, workload, phase, rates):
            seconds = float(count * each) * factor
            rows.append(
                OperatorCost(
                    name=name, count=float(count), seconds=seconds, flop=0.0, bytes_moved=0.0, bound="overhead"
                )
            )
        return rows

    def _bound(self, op: Operator, rates: PhaseRates, seconds: float) -> str:
        if rates.terms is not None:
            parts = {"compute": 0.0, "bandwidth": 0.0}
            for term, amount in operator_terms(op).items():
                kind = "compute" if term.endswith("_flop") else "bandwidth"
                parts[kind] += float(amount) * rates.terms.seconds_per.get(term, 0.0)
            return max(parts, key=lambda kind: parts[kind])
        if float(op.weight_B) / rates.unpack_Bps >= seconds * (1 - 1e-9) and op.kind == "gemm" and seconds > 0:
            return "unpack"
        share = rates.expert_bandwidth_efficiency if op.name.startswith("experts") else rates.bandwidth_efficiency
        moving = float(op.bytes_moved) / (self.device.bandwidth_Bps * share)
        return "bandwidth" if moving >= seconds * (1 - 1e-9) else "compute"


def _overheads(
    arch: ArchitectureLike, workload: Workload, phase: Phase, rates: PhaseRates
) -> list[tuple[str, Any, float]]:
    """Name, count and seconds each of what is not an operator's time."""
    terms = layer_terms(arch, workload, phase)
    if rates.terms is None:
        each = {"layer": rates.layer_s, "step": rates.step_s}
        return [(name, count, each[term]) for name, term, count in terms if term in each]
    per = rates.terms.seconds_per
    return [(name, count, per.get(term, 0.0)) for name, term, count in terms]


def _correction(arch: ArchitectureLike, workload: Workload, phase: Phase, rates: PhaseRates) -> Any:
    """exp of the residual that the device's own measurements show against its roofline; 1 where there is none."""
    if rates.terms is None or rates.terms.residual is None:
        return 1.0
    return np.exp(residual_log(rates.terms.residual, pass_features(arch, workload, phase)))


@cache
def _keep_heap() -> None:
    """Let glibc keep freed memory: five times the speed on batches of 100 kB arrays and more.

    Freeing one block that was mapped raises glibc's dynamic thresholds (mallopt(3), M_MMAP_THRESHOLD) to its size; else the
    temporaries of each formula are given back to the system and faulted in again. No memory is touched; elsewhere a no-op.
    """
    np.empty((32 << 20) - (64 << 10), np.uint8)


def _total(operators: list[Operator], values: list[Any]) -> Any:
    """Sum of count * value. Operators with the same count are summed before they are multiplied by it, so that on an open
    mesh everything but the last product has the shape of one layer.
    """
    groups: dict[int, tuple[Any, Any]] = {}
    for op, value in zip(operators, values, strict=True):
        count, total = groups.get(id(op.count), (op.count, 0.0))
        groups[id(op.count)] = (count, total + value)
    result: Any = 0.0
    for count, total in groups.values():
        result = result + count * total
    return result


_NOTHING = PhaseCost(seconds=0.0, flop=0.0, bytes_moved=0.0)
