"""The co-design law's closed forms over brute force, under the law's own simplified model (arXiv 2602.10377).

That model has ideal rates, no output head, no overheads, and a loss law of its own: its curves say how the optimum moves with the
width, not what a design of this run costs. Each map holds, for widths d and one other axis, the loss above the best of that
width, with everything else that is free (the depth) filling the budgets. The brute force minimises the same loss on a dense
grid and uses no closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.predictors.scaling import PAPER_PARAMETERS, paper_eq2
from codesign.report.review import Review
from codesign.roofline.rates import peak_flop_per_s
from codesign.search import Problem
from codesign.search import closed_form as cf
from codesign.workload import PRECISIONS

__all__ = ["PAPER_BOX", "Curve", "LawMap", "LawSetting", "law_maps", "our_depths", "setting_of"]

Array = NDArray[np.float64]
Loss = Callable[[Any, Any, Any, Any, Any], Array]

#: What the law was fitted on: width, depth, and the smallest activation rate.
PAPER_BOX: Mapping[str, tuple[float, float]] = {"d_model": (768, 3072), "n_layers": (4, 32), "rho": (1 / 16, 1)}
CELLS = 40
DENSE = 4001
STEPS = (0.5, 1.0, 2.0)
_AXES = {"r": (0.1, 16.0), "g": (1.0, 64.0), "rho": (1 / 64, 1.0), "n_layers": (2.0, 128.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LawSetting:
    """Budgets and the fixed part of a shape, in the law's terms.

    moved_B: bytes per generated token (latency * bandwidth); flop: FLOP per prompt token; memory_B; r, g, rho: of the design;
    kv_width: 2 * context * batch * b_kv / b_w, so that kv = kv_width / d; b_w: bytes a weight; latency_s, ttft_s: the times;
    memory_set: memory does not bind on this device, and was lowered for the picture.
    """

    latency_s: float
    ttft_s: float | None
    moved_B: float
    flop: float | None
    memory_B: float
    memory_set: bool
    r: float
    g: float
    rho: float
    kv_width: float
    b_w: float

    def kv(self, d: float) -> float:
        """KV bytes of a step over weight bytes, per layer."""
        return self.kv_width / d

    def time_depth(self, phase: str, d: Any, r: Any, g: Any, scale: float) -> Array:
        """Depth that fills `scale` times the time budget, written out as in the paper, not taken from `closed_form`."""
        if phase == "prefill":
            assert self.flop is not None
            return np.asarray(scale * self.flop / ((4 + 4 / g + 6 * r) * d**2))
        per_layer = (2 + 2 / g + 3 * r) * d**2 * self.b_w + self.kv_width * d * self.b_w / g
        return np.asarray(scale * self.moved_B / per_layer)

    def memory_depth(self, d: Any, r: Any, g: Any, rho: Any) -> Array:
        """Depth that fills the memory, written out."""
        return np.asarray(self.memory_B / ((2 + 2 / g + 3 * r / rho) * d**2 * self.b_w))


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A closed form over the widths (nan where it does not apply), and how far brute force is from it.

    corrected: the paper prints another form, which brute force contradicts; gap: largest |formula / brute - 1| where both lie
    inside the axis; printed: the printed form itself.
    """

    name: str
    values: Array = field(hash=False)
    gap: float
    corrected: bool = False
    printed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LawMap:
    """Loss above the best of each width: above[i, j] at y_values[i], widths[j]; brute: optima of the dense grid at the widths."""

    key: str
    axis: str
    phase: str
    scale: float
    widths: Array = field(hash=False)
    y_values: Array = field(hash=False)
    above: Array = field(hash=False)
    brute: Array = field(hash=False)
    curves: tuple[Curve, ...] = ()


def setting_of(review: Review) -> LawSetting:
    """The run's budgets and best design in the law's terms; where the run has no time budget, the best design's own time.

    The activation rate is kept within what the law was fitted on.
    """
    problem, best = review.problem, review.best
    form, device, workload, arch = PRECISIONS[best.precision], review.device, problem.workload, best.architecture
    latency = problem.budget.latency_s or best.values["latency_s"]
    ttft = (problem.budget.ttft_s or best.values["ttft_s"]) if workload.prompt_tokens else None
    peak = peak_flop_per_s(device, form.compute)
    active = arch.d_ff_active
    rho = arch.n_active_experts / arch.n_experts if arch.n_experts else 1.0
    g, r, b_w = arch.n_heads / arch.n_kv_heads, active / arch.d_model, form.weight_bits_stored / 8
    memory = min(problem.budget.memory_B or np.inf, problem.memory_B)
    middle = float(np.sqrt(np.prod(PAPER_BOX["d_model"])))
    kv_width = 2 * workload.mean_context_tokens * workload.batch_size * form.kv_bits / 8 / b_w
    moved = latency * device.bandwidth_Bps
    depth = moved / ((2 + 2 / g + 3 * r) * middle**2 * b_w + kv_width * middle * b_w / g)
    full = depth * middle**2 * b_w * (2 + 2 / g + 3 * r / PAPER_BOX["rho"][0])
    lowered = memory >= full
    if lowered:
        memory = float(depth * middle**2 * b_w * (2 + 2 / g + 3 * r * 6))
    return LawSetting(
        latency_s=latency, ttft_s=ttft, moved_B=moved,
        flop=ttft * peak / (workload.batch_size * workload.prompt_tokens) if ttft else None,
        memory_B=memory, memory_set=bool(lowered), r=r, g=g, rho=max(rho, PAPER_BOX["rho"][0]), kv_width=kv_width, b_w=b_w,
    )  # fmt: skip


def _loss(l: Any, d: Any, r: Any, g: Any, rho: Any) -> Array:
    """Eq. 2 of the paper, KV width d/g."""
    return np.asarray(paper_eq2(PAPER_PARAMETERS, l, d, np.divide(d, g), r, rho))


def widths(count: int = CELLS) -> Array:
    """The widths of the maps: what the law was fitted on, and a little more."""
    low, high = PAPER_BOX["d_model"]
    return np.linspace(low * 0.85, high * 1.08, count)


def law_maps(s: LawSetting, *, cells: int = CELLS, steps: Sequence[float] = STEPS) -> list[LawMap]:
    """All maps: depth, r, g and the dual rate for each phase and scale of the time budget; the memory-bound rate once."""
    maps = []
    for phase in ("decode", "prefill") if s.flop is not None else ("decode",):
        for scale in steps:
            maps += [_depth(s, phase, scale, cells), _ratio(s, phase, scale, cells), _group(s, phase, scale, cells),
                     _dual(s, phase, scale, cells)]  # fmt: skip
    maps.append(_memory_bound(s, cells))
    return maps


def _map(
    key: str, axis: str, phase: str, scale: float, cells: int, loss: Callable[[Array, Array], Array],
    forms: Mapping[str, Callable[[float], float]], corrected: Sequence[str] = (), printed: Sequence[str] = (),
) -> LawMap:  # fmt: skip
    d = widths(cells)
    low, high = _AXES[axis]
    dense = np.geomspace(low, high, DENSE)
    values = loss(d[None, :], dense[:, None])
    lowest = values.min(axis=0)
    brute = dense[np.argmin(values, axis=0)]
    y = np.geomspace(low, high, cells)
    above = loss(d[None, :], y[:, None]) - np.where(np.isfinite(lowest), lowest, 0.0)[None, :]
    interior = (brute > low * 1.0001) & (brute < high * 0.9999)
    curves = []
    for name, form in forms.items():
        line = np.array([form(float(width)) for width in d])
        line = np.where((line >= low) & (line <= high), line, np.nan)
        both = interior & np.isfinite(line)
        gap = float(np.max(np.abs(line[both] / brute[both] - 1))) if both.any() else float("nan")
        curves.append(Curve(name=name, values=line, gap=gap, corrected=name in corrected, printed=name in printed))
    return LawMap(
        key=key, axis=axis, phase=phase, scale=scale, widths=d, y_values=y,
        above=np.maximum(above, 0.0), brute=brute, curves=tuple(curves),
    )  # fmt: skip


def _depth(s: LawSetting, phase: str, scale: float, cells: int) -> LawMap:
    """Depth: infeasible where a budget is broken; the optimum is as deep as both allow."""

    def loss(d: Array, l: Array) -> Array:
        room = np.minimum(s.time_depth(phase, d, s.r, s.g, scale), s.memory_depth(d, s.r, s.g, s.rho))
        return np.where(l <= room, _loss(l, d, s.r, s.g, s.rho), np.inf)

    def time(d: float) -> float:
        if phase == "prefill":
            return cf.prefill_depth(scale * (s.flop or 0.0), d, s.r, s.g)
        return cf.decode_depth(scale * s.moved_B, d, s.r, s.g, s.kv(d), s.b_w)

    def memory(d: float) -> float:
        return cf.memory_depth(s.memory_B, d, s.r, s.g, s.rho, s.b_w)

    both = _map("depth", "n_layers", phase, scale, cells, loss, {"l*": lambda d: min(time(d), memory(d))})
    d = both.widths
    single = [Curve(name=name, values=np.array([form(float(w)) for w in d]), gap=float("nan"))
              for name, form in (("fills the time", time), ("fills the memory", memory))]  # fmt: skip
    return LawMap(
        key=both.key, axis=both.axis, phase=phase, scale=scale, widths=d, y_values=both.y_values,
        above=np.asarray(_loss(both.y_values[:, None], d[None, :], s.r, s.g, s.rho)), brute=both.brute,
        curves=(*both.curves, *single),
    )  # fmt: skip


def _ratio(s: LawSetting, phase: str, scale: float, cells: int) -> LawMap:
    """FFN ratio, the depth filling the time budget (memory left aside)."""

    def form(d: float) -> float:
        if phase == "prefill":
            return cf.prefill_ratio(scale * (s.flop or 0.0), d, s.g, s.rho)
        return cf.decode_ratio(scale * s.moved_B, d, s.g, s.rho, s.kv(d), s.b_w)

    return _map("r", "r", phase, scale, cells,
                lambda d, r: _loss(s.time_depth(phase, d, r, s.g, scale), d, r, s.g, s.rho), {"r*": form})  # fmt: skip


def _group(s: LawSetting, phase: str, scale: float, cells: int) -> LawMap:
    """Query heads per KV head, the depth filling the time budget (memory left aside)."""

    def form(d: float) -> float:
        if phase == "prefill":
            return cf.prefill_group(scale * (s.flop or 0.0), d, s.r)
        return cf.decode_group(scale * s.moved_B, d, s.r, s.kv(d), s.b_w)

    return _map("g", "g", phase, scale, cells,
                lambda d, g: _loss(s.time_depth(phase, d, s.r, g, scale), d, s.r, g, s.rho), {"g*": form})  # fmt: skip


def _dual(s: LawSetting, phase: str, scale: float, cells: int) -> LawMap:
    """Activation rate, the depth as large as the time and the memory allow."""

    def loss(d: Array, rho: Array) -> Array:
        room = np.minimum(s.time_depth(phase, d, s.r, s.g, scale), s.memory_depth(d, s.r, s.g, rho))
        return _loss(room, d, s.r, s.g, rho)

    def fills(d: float, printed: bool = False) -> float:
        if phase == "prefill":
            rate = cf.dual_prefill_rho(s.r, s.g, scale * (s.flop or 0.0) / s.memory_B, s.b_w)
        else:
            form = cf.printed_dual_decode_rho if printed else cf.dual_decode_rho
            rate = form(s.r, s.g, scale * s.moved_B / s.memory_B, s.kv(d))
        return rate if rate > 0 else np.inf

    def held(d: float) -> float:
        return cf.memory_filled_rho(s.memory_B, d, s.r, s.g, s.b_w)

    def optimum(d: float) -> float:
        return float(np.clip(min(fills(d), held(d)), *_AXES["rho"]))

    def both(d: float, printed: bool = False) -> float:
        return fills(d, printed) if fills(d) <= held(d) else np.nan

    forms = {"rho*": optimum, "rho* where both bind": both}
    if phase == "decode":
        forms["rho* where both bind, as printed"] = lambda d: both(d, printed=True)
    return _map("rho", "rho", phase, scale, cells, loss, forms, ["rho*"], ["rho* where both bind, as printed"])


def _memory_bound(s: LawSetting, cells: int) -> LawMap:
    """Activation rate where memory alone binds: the stored FFN width (r / rho) is fixed, so r grows with rho."""
    stored = s.r / s.rho
    return _map("rho-memory", "rho", "memory", 1.0, cells, lambda d, rho: _loss(16.0, d, stored * rho, s.g, rho),
                {"rho*, memory alone": cf.memory_bound_rho})  # fmt: skip


def our_depths(problem: Problem, review: Review, d: Sequence[float]) -> Array:
    """Deepest model within the run's own time and memory limits at each width under this run's cost model, the rest as in
    the best design; 0 where none fits. Continuous in the depth, by bisection.
    """
    from codesign.report.regions import limits_of, within

    best = review.best
    limits = limits_of(problem, best.precision)
    low, high = np.zeros(len(d)), np.full(len(d), 512.0)
    for _ in range(40):
        middle = (low + high) / 2
        fits = within(problem, best, np.asarray(d, dtype=float), middle, limits)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return low
