"""Runs of the reproduction of arXiv 2602.10377: its latency model, its space and workload, and what a frontier holds.

Used by tools/reproduce_paper.py and by the tests.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from codesign.architecture import ArchitectureLike
from codesign.budget import Budget
from codesign.devices import Device, load_device
from codesign.errors import InfeasibleError
from codesign.hf_config import read_config
from codesign.predictors import load_law
from codesign.predictors.priors import activated_width
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import Estimate, RooflineModel
from codesign.roofline.rates import peak_flop_per_s
from codesign.search import Candidate, Problem, build_problem, paper_space, search
from codesign.workload import PRECISIONS, Precision, Workload

WORKLOAD = Workload(prompt_tokens=1024, output_tokens=16, batch_size=1)
TOKENS = 10e9
VALUE = {"prefill": "ttft_s", "decode": "latency_s", "request": "e2e_s"}
OBJECTIVE = {"prefill": "ttft", "decode": "latency", "request": "e2e"}
LATENCY_MODELS = {
    "equations": "the paper's closed-form equations: prefill is arithmetic only, decode is bytes only, no head",
    "per operator": "the paper's roofline per operator: in prefill the projections and the FFN each take the longer of "
    "their FLOP and their weights' bytes (all experts), no head",
    "calibrated": "this product: every operator, the output head, efficiencies and overheads fitted to measurements",
}
INT8_MODELS = ("equations", "equations, 8-bit KV", "per operator", "ideal roofline with head", "calibrated")
BASELINE_CASES = (
    ("equations", "paper"),
    ("per operator", "paper"),
    ("calibrated", "paper"),
    ("calibrated", "gemstones"),
)
Z90 = 1.6448536269514722


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperLatency(RooflineModel):
    """The paper's latency and memory model, in the place of ours: no embedding, no head, no attention scores.

    per_operator: take the roofline of each operator in prefill, instead of its arithmetic alone. narrow_kv: 8-bit KV
    cache with 8-bit weights (the paper does not say).
    """

    per_operator: bool = False
    narrow_kv: bool = False

    def estimate(
        self, arch: ArchitectureLike, workload: Workload, precision: Precision, *, energy: bool = True
    ) -> Estimate:
        """Equations as in the reference: prefill, decode step at the mean context, whole request, memory of weights."""
        l, d, tokens = arch.n_layers, arch.d_model, workload.batch_size * workload.prompt_tokens
        share = np.divide(arch.n_kv_heads, arch.n_heads)  # 1/g
        r = activated_width(arch) / d
        spread = arch.n_experts / np.maximum(arch.n_active_experts, 1)
        stored = r * np.where(np.asarray(arch.n_experts) > 0, spread, 1.0)
        b_w = precision.weight_bits / 8
        b_kv = b_w if self.narrow_kv else precision.kv_bits / 8
        peak, beta = peak_flop_per_s(self.device, precision.compute), self.device.bandwidth_Bps
        attention_s, ffn_s = tokens * (4 + 4 * share) / peak, tokens * 6 * r / peak
        if self.per_operator:
            attention_s = np.maximum(attention_s, (2 + 2 * share) * b_w / beta)
            ffn_s = np.maximum(ffn_s, 3 * stored * b_w / beta)
        prefill = l * d**2 * (attention_s + ffn_s)
        cached = 2 * workload.mean_context_tokens * d * share * b_kv
        decode = l / beta * ((2 + 2 * share + 3 * r) * d**2 * b_w + cached)
        memory = l * (2 + 2 * share + 3 * stored) * d**2 * b_w
        nothing = np.nan
        return Estimate(
            prefill_s=prefill, decode_s=decode, total_s=prefill + workload.output_tokens * decode, weights_B=memory,
            kv_B=0.0, workspace_B=0.0, peak_memory_B=memory, energy_J=nothing, request_energy_J=nothing, power_W=nothing,
        )  # fmt: skip


def device() -> Device:
    """Jetson AGX Orin 64 GB at MAXN (assumed: the paper does not say which Orin, nor the power mode)."""
    return load_device("orin", "MAXN")


def problem(
    latency: str,
    law: str,
    precision: str,
    objectives: Sequence[str],
    *,
    extrapolate: bool = False,
    memory_B: float | None = None,
    ratios: Sequence[float] | None = None,
) -> Problem:
    """The search problem: the paper's space and workload, under one latency model and one loss law."""
    space = paper_space((precision,), read_config("qwen2.5-0.5b").vocab_size)
    if ratios:
        space = replace(space, axes={**space.axes, "ffn_ratio": tuple(ratios)})
    orin, fits = device(), load_calibration()
    built = build_problem(
        device=orin, engine=fits.engine_for(orin, PRECISIONS[precision]), space=space, workload=WORKLOAD,
        budget=Budget(e2e_s=2.0, memory_B=memory_B), law=load_law(law), tokens=TOKENS,
        objectives=("loss", *objectives), allow_extrapolation=extrapolate, calibration=fits,
    )  # fmt: skip
    if latency == "calibrated":
        return built
    model = PaperLatency(device=orin, per_operator=latency == "per operator")
    return replace(built, models={precision: model}, latency_spans={}, model_log_sd={})


@cache
def frontier(
    latency: str, law: str, precision: str, phase: str, *, extrapolate: bool = False, memory_B: float | None = None,
    ratios: tuple[float, ...] | None = None, with_memory: bool = False,
) -> tuple[Candidate, ...]:  # fmt: skip
    """Exact frontier of loss and the phase's time (and memory) for requests of at most 2 s; empty if nothing fits."""
    objectives = (OBJECTIVE[phase], "memory") if with_memory else (OBJECTIVE[phase],)
    asked = problem(latency, law, precision, objectives, extrapolate=extrapolate, memory_B=memory_B, ratios=ratios)
    try:
        found = search(asked).candidates
    except InfeasibleError:
        return ()
    return tuple(sorted(found, key=lambda c: (c.values[VALUE[phase]], c.loss)))


def ratio(c: Candidate) -> float:
    """Activated FFN width over d_model."""
    return float(activated_width(c.architecture)) / c.architecture.d_model


def experts(c: Candidate) -> int:
    """Experts of a layer; 1 for a dense FFN."""
    return max(1, c.architecture.n_experts)


def share(front: Sequence[Candidate], test: Any) -> float:
    """Share of a frontier that passes a test, in percent."""
    return 100.0 * sum(bool(test(c)) for c in front) / len(front) if front else math.nan


def is_top1(c: Candidate) -> bool:
    """A mixture that routes each token to one expert."""
    return c.architecture.n_experts > 1 and c.architecture.n_active_experts == 1


def expert_shares(front: Sequence[Candidate]) -> str:
    """Percent of the points with 1, 8 and 16 experts."""
    if not front:
        return "nothing fits"
    return " / ".join(f"{share(front, lambda c, n=n: experts(c) == n):.0f}" for n in (1, 8, 16))


def shape(c: Candidate) -> str:
    """One design in words."""
    a = c.architecture
    ffn = f"{a.n_experts} experts, top-{a.n_active_experts}" if a.n_experts else "dense"
    return f"{a.n_layers} x {a.d_model}, {a.n_kv_heads} KV heads, r = {ratio(c):.2g}, {ffn}"


def baseline_gap(
    latency: str, law: str, phase: str, *, extrapolate: bool, no_more_memory: bool = False
) -> dict[str, Any] | None:
    """The lowest loss at Qwen2.5-0.5B's FP16 time in a phase, less its own loss, with the 90 % interval.

    no_more_memory: also within its memory. None where nothing of the space is as fast.
    """
    qwen = read_config("qwen2.5-0.5b")
    asked = problem(latency, law, "fp16", (OBJECTIVE[phase],), extrapolate=extrapolate)
    estimate = asked.models["fp16"].estimate(qwen, WORKLOAD, PRECISIONS["fp16"])
    seconds = {"prefill": estimate.prefill_s, "decode": estimate.decode_s, "request": estimate.total_s}[phase]
    memory = float(estimate.peak_memory_B) if no_more_memory else None
    front = frontier(latency, law, "fp16", phase, extrapolate=extrapolate, memory_B=memory)
    fast = [c for c in front if c.values[VALUE[phase]] <= seconds]
    if not fast:
        return None
    best = min(fast, key=lambda c: c.loss)
    mean, std = (float(v) for v in asked.law.difference(best.architecture, qwen, TOKENS))
    own = float(asked.loss(qwen, PRECISIONS["fp16"]))
    return {
        "best": best,
        "seconds": float(seconds),
        "loss": own,
        "difference": mean,
        "low": mean - Z90 * std,
        "high": mean + Z90 * std,
        "memory_ratio": best.values["memory_B"] / float(estimate.peak_memory_B),
    }


def int8_gain(estimates: str, phase: str) -> tuple[float, float, float]:
    """FP16 time over INT8 time of the designs on the FP16 request frontier: lowest, median, highest.

    estimates: a latency model, "equations, 8-bit KV" or "ideal roofline with head".
    """
    orin = device()
    key = "calibrated" if estimates == "calibrated" else "equations"
    models: dict[str, RooflineModel] = {}
    for precision in ("fp16", "int8"):
        if estimates == "calibrated":
            models[precision] = problem("calibrated", "paper", precision, ("e2e",)).models[precision]
        elif estimates == "ideal roofline with head":
            models[precision] = RooflineModel(device=orin)
        else:
            models[precision] = PaperLatency(
                device=orin, per_operator=estimates == "per operator", narrow_kv=estimates.endswith("8-bit KV")
            )
    gains = []
    for c in frontier(key, "paper", "fp16", "request"):
        field = {"prefill": "prefill_s", "decode": "decode_s", "request": "total_s"}[phase]
        runs = [models[p].estimate(c.architecture, WORKLOAD, PRECISIONS[p]) for p in ("fp16", "int8")]
        gains.append(float(getattr(runs[0], field)) / float(getattr(runs[1], field)))
    return min(gains), float(np.median(gains)), max(gains)
