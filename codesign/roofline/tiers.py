"""Experts in slower memory: a cache of resident ones, the rest fetched from host memory or flash when they are routed to.

Tiers stand in order of speed; the first is the device's own memory. The experts that are used most lie in the fastest tier that has
room. A pass of B tokens touches D(B) of E experts in each layer on average (with popularity p_e, D = sum_e 1 - (1 - k_e)^B,
k_e the probability that one token of top-K chooses e), and those that lie in tier t cross to the device at its bandwidth:

    t_pass = t_resident + sum over tiers of  (expected experts fetched) * bytes of an expert / bandwidth of the tier

Fetching is not overlapped with computing, and what was fetched is not kept: an upper bound, which prefetching (arXiv 2312.17238)
and larger caches lower. Popularity follows Zipf's law with exponent `skew`: 0 is uniform routing, the load-balanced ideal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture
from codesign.errors import InfeasibleError, SpecError
from codesign.operators import weight_bytes
from codesign.roofline.cost import RooflineModel
from codesign.workload import Precision, Workload

__all__ = ["Tier", "TieredEstimate", "choice_probabilities", "estimate_tiered"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Memory beyond the device's own: bytes/s into the device, and bytes it holds (inf: as much as is needed).

    Raises:
        SpecError: a number that is not above zero.
    """

    name: str
    bandwidth_Bps: float
    memory_B: float = math.inf

    def __post_init__(self) -> None:
        for name in ("bandwidth_Bps", "memory_B"):
            value = getattr(self, name)
            if not value > 0 or math.isnan(value):
                raise SpecError(f"tier '{self.name}': {name} {value!r} must be above zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class TieredEstimate:
    """Latency with experts in several tiers.

    resident: experts of each layer in the device's memory (a mean over layers); placed: experts by tier name; hit_rate: share of a
    decode step's expert visits that find theirs resident; fetched_B: bytes a decode step fetches; memory_B: of the device in use.
    """

    decode_s: float
    prefill_s: float
    all_resident_decode_s: float
    resident: float
    placed: dict[str, float]
    hit_rate: float
    fetched_B: float
    memory_B: float


def choice_probabilities(n_experts: int, n_active: int, skew: float = 0.0) -> Array:
    """Probability that a token's top-K holds each expert, the most popular first: (E,), summing to K.

    min(1, c * rank^-skew) with c such that they sum to K.

    Raises:
        SpecError: a skew that is negative or not finite.

    Example:
        >>> choice_probabilities(8, 2).tolist()[0], round(float(choice_probabilities(8, 2, 1.0).sum()), 9)
        (0.25, 2.0)
    """
    if not (math.isfinite(skew) and skew >= 0):
        raise SpecError(
            f"skew {skew} must be a number of at least 0: the exponent of the experts' popularity, 0 for uniform"
        )
    raw = np.arange(1, n_experts + 1, dtype=float) ** -skew
    found = np.zeros(n_experts)
    free = np.ones(n_experts, dtype=bool)
    while True:
        left = n_active - found[~free].sum()
        share = raw[free] / raw[free].sum() * left
        if (share <= 1 + 1e-12).all():
            found[free] = share
            return np.minimum(found, 1.0)
        index = np.flatnonzero(free)[share > 1]
        found[index], free[index] = 1.0, False


def estimate_tiered(
    cost: RooflineModel, arch: Architecture, workload: Workload, precision: Precision, tiers: Sequence[Tier], *, skew: float = 0.0,
    memory_B: float | None = None,
) -> TieredEstimate:  # fmt: skip
    """Latency of a mixture whose experts do not all fit.

    Args:
        cost: of the device. tiers: beyond its memory, the fastest first. skew: see the module. memory_B: of the device that may be
            used; default: all that is free.

    Raises:
        SpecError: a dense model, no tier, or a bad skew.
        InfeasibleError: what always moves (all but the routed experts, and the cache) does not fit the device, or the experts do not
            fit the tiers.
    """
    if not arch.n_experts:
        raise SpecError(
            "tiers hold routed experts, and this model has none; take a device with more memory, or fewer bits"
        )
    if not tiers:
        raise SpecError("give at least one tier, such as flash=2GB/s")
    names = ["device", *(tier.name for tier in tiers)]
    if len(set(names)) < len(names):
        raise SpecError(f"tiers {', '.join(names[1:])} must have names of their own, other than device")
    estimate = cost.estimate(arch, workload, precision, energy=False)
    layers, experts = float(arch.n_moe_layers) * float(arch.loop_factor), arch.n_experts
    each = float(arch.params_expert) * precision.weight_bits_stored / 8
    routed = float(arch.n_moe_layers) * experts * each
    fixed = float(estimate.peak_memory_B) - routed
    limit = cost.device.memory_usable_B if memory_B is None else memory_B
    if fixed > limit:
        raise InfeasibleError(
            f"without its routed experts the model needs {fixed / 1e9:.2f} GB and {limit / 1e9:.2f} GB are there; take fewer bits, a "
            "shorter context or a device with more",
            nearest=arch,
            violated="memory",
        )
    per_layer = min((limit - fixed) / (arch.n_moe_layers * each), float(experts))
    places, left = [("device", per_layer, math.inf)], experts - per_layer
    for tier in tiers:
        room = min(left, tier.memory_B / (arch.n_moe_layers * each))
        places.append((tier.name, room, tier.bandwidth_Bps))
        left -= room
    if left > 1e-9:
        raise InfeasibleError(
            f"the experts take {float(weight_bytes(arch, precision)) / 1e9:.2f} GB with the other weights, and {left:.1f} of {experts} a layer find "
            "no place; add a larger tier, such as flash=2GB/s",
            nearest=arch,
            violated="memory",
        )
    chosen = choice_probabilities(experts, arch.n_active_experts, skew)
    step = workload.batch_size * workload.serving.step_tokens
    decode = 1 - (1 - chosen) ** step
    prefill = 1 - (1 - chosen) ** (workload.batch_size * max(workload.prompt_tokens, 1))
    seconds = {"decode": 0.0, "prefill": 0.0}
    start, resident, fetched = 0.0, 0.0, 0.0
    for name, count, bandwidth in places:
        held = {
            phase: _between(visits, start, start + count)
            for phase, visits in (("decode", decode), ("prefill", prefill))
        }
        if name == "device":
            resident = held["decode"]
        else:
            fetched += held["decode"] * layers * each
            for phase, visits in held.items():
                seconds[phase] += visits * layers * each / bandwidth
        start += count
    plain = float(estimate.decode_s)
    return TieredEstimate(
        decode_s=plain + seconds["decode"], prefill_s=float(estimate.prefill_s) + seconds["prefill"] if workload.prompt_tokens else 0.0,
        all_resident_decode_s=plain, resident=per_layer, placed={name: count for name, count, _ in places},
        hit_rate=resident / float(decode.sum()), fetched_B=fetched, memory_B=fixed + per_layer * arch.n_moe_layers * each,
    )  # fmt: skip


def _between(visits: Array, low: float, high: float) -> float:
    """Sum of visits of experts low to high, in fractions of an expert."""
    total = np.concatenate([[0.0], np.cumsum(visits)])
    return float(np.diff(np.interp([low, high], np.arange(len(total)), total))[0])
