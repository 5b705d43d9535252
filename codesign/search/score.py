"""From points of a front to candidates: intervals, probabilities, marks, and the comparison with known models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture, ArchitectureBatch
from codesign.errors import SpecError
from codesign.predictors.quantisation import quantisation_penalty
from codesign.search.frontier import Baseline, Candidate, Gap
from codesign.search.problem import Problem, metric, metric_log_sd
from codesign.workload import PRECISIONS

__all__ = ["compare", "score"]

Array = NDArray[np.float64]

_Z90 = NormalDist().inv_cdf(0.95)
_NORMAL = NormalDist()
MAX_PAIRED = 400
SAMPLES = 400
_VALUES = (
    ("latency_s", "latency"), ("ttft_s", "ttft"), ("e2e_s", "e2e"), ("memory_B", "memory"), ("energy_J", "energy"),
    ("power_W", "power"), ("params", "params"),
)  # fmt: skip


def score(problem: Problem, designs: Sequence[tuple[str, Architecture]], *, seed: int, prefix: str = "design") -> list[Candidate]:
    """Candidates of (precision, architecture) pairs, in the order given.

    The budget's probability multiplies that of each bound (independent errors: conservative). The probability to be
    non-dominated is the share of `SAMPLES` draws of all losses (with their joint covariance under the law) and latencies
    (the part of the calibration's error that differs from model to model) in which no other candidate dominates.
    """
    candidates = [_candidate(problem, f"{prefix}-{i}", name, arch) for i, (name, arch) in enumerate(designs, start=1)]
    if len(candidates) > 1:
        shares = _front_probabilities(problem, candidates, np.random.default_rng([seed, 7]))
        candidates = [
            Candidate(**{**{f: getattr(c, f) for f in Candidate.__dataclass_fields__}, "p_front": float(share)})
            for c, share in zip(candidates, shares, strict=True)
        ]
    return candidates


def _candidate(problem: Problem, name: str, precision: str, arch: Architecture) -> Candidate:
    form, model = PRECISIONS[precision], problem.models[precision]
    estimate = model.estimate(arch, problem.workload, form)
    loss, std = (float(np.asarray(v)) for v in problem.loss_with_std(arch, form))
    energy_log = model.power.interval_log if model.power else 0.0
    values, intervals = {}, {"loss": (loss - _Z90 * std, loss + _Z90 * std)}
    for key, kind in _VALUES:
        value = float(metric(kind, arch, estimate))
        if not math.isfinite(value):
            continue
        values[key] = value
        spread = math.exp(_Z90 * metric_log_sd(kind, model.rates, energy_log))
        if spread > 1:
            intervals[key] = (value / spread, value * spread)
    values |= {
        "weights_B": float(estimate.weights_B), "kv_B": float(estimate.kv_B), "workspace_B": float(estimate.workspace_B),
        "params_active": float(arch.params_active), "params_active_nonembedding": float(arch.params_active_nonembedding),
        "request_energy_J": float(estimate.request_energy_J),
    }  # fmt: skip
    values = {key: value for key, value in values.items() if math.isfinite(value)}
    chance = 1.0
    for bound_name, bound in problem.budget.bounds().items():
        kind = bound_name.rsplit("_", 1)[0] if bound_name != "params" else bound_name
        sd = metric_log_sd(kind, model.rates, energy_log)
        value = values.get(bound_name, math.nan)
        if sd > 0 and value > 0:
            chance *= _NORMAL.cdf((math.log(bound) - math.log(value)) / sd)
        elif value > bound:
            chance = 0.0
    return Candidate(
        name=name, architecture=arch, precision=precision, loss=loss, loss_std=std, values=values, intervals=intervals,
        p_budget=chance, marks=_marks(problem, arch, precision),
    )  # fmt: skip


def _marks(problem: Problem, arch: Architecture, precision: str) -> tuple[str, ...]:
    def on(flags: Mapping[str, Any]) -> list[str]:
        return [name for name, flag in flags.items() if bool(np.asarray(flag).any())]

    marks = [f"outside:{name}" for name in on(problem.law.outside(arch, problem.tokens)) if name != "vocab"]
    marks += [f"prior:{name}" for name in on(problem.law.priors(arch))]
    if problem.quantisation_priced and quantisation_penalty(1.0, problem.tokens, PRECISIONS[precision])[0] > 0:
        marks.append("prior:quantisation")
    return tuple(marks)


def _loss_deviations(problem: Problem, candidates: Sequence[Candidate], rng: np.random.Generator) -> Array:
    """Draws of the candidates' loss errors, (SAMPLES, n), with the law's joint covariance.

    The covariance follows from pairwise differences: C_ij = (v_i + v_j - Var(L_i - L_j)) / 2. Above MAX_PAIRED candidates
    only the differences to one of them are used and taken as independent, which overstates how far they may swap.
    """
    n = len(candidates)
    archs = [c.architecture for c in candidates]
    pool: Array = np.zeros((SAMPLES, n))
    for norm in sorted({a.qk_norm for a in archs}):
        rows = [i for i, a in enumerate(archs) if a.qk_norm == norm]
        batch = ArchitectureBatch.of([archs[i] for i in rows])
        if n > MAX_PAIRED:
            _, std = problem.law.difference(batch, archs[rows[len(rows) // 2]], problem.tokens)
            pool[:, rows] = rng.standard_normal((SAMPLES, len(rows))) * np.asarray(std)
            continue
        column, line = _reshaped(batch, (-1, 1)), _reshaped(batch, (1, -1))
        _, std = problem.law.difference(column, line, problem.tokens)
        pairs = np.asarray(std) ** 2
        own = np.asarray(problem.law.predict(batch, problem.tokens, return_std=True)[1]) ** 2
        covariance = (own[:, None] + own[None, :] - pairs) / 2
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        root = vectors * np.sqrt(np.clip(values, 0, None))
        pool[:, rows] = rng.standard_normal((SAMPLES, len(rows))) @ root.T
    quantised = np.array([
        float(quantisation_penalty(a.params_active_nonembedding, problem.tokens, PRECISIONS[c.precision])[1])
        for a, c in zip(archs, candidates, strict=True)
    ])  # fmt: skip
    if problem.quantisation_priced and quantised.any():
        pool = pool + rng.standard_normal((SAMPLES, 1)) * quantised
    return pool


def _reshaped(batch: ArchitectureBatch, shape: tuple[int, int]) -> ArchitectureBatch:
    fields = {}
    for name in ArchitectureBatch.__dataclass_fields__:
        value = getattr(batch, name)
        fields[name] = value.reshape(shape) if isinstance(value, np.ndarray) else value
    return ArchitectureBatch(**fields)


def _front_probabilities(problem: Problem, candidates: Sequence[Candidate], rng: np.random.Generator) -> Array:
    n = len(candidates)
    loss = np.array([c.loss for c in candidates]) + _loss_deviations(problem, candidates, rng)
    columns = [loss] if "loss" in problem.objectives else []
    for kind in problem.objectives:
        if kind == "loss":
            continue
        key = next(key for key, name in _VALUES if name == kind)
        value = np.array([c.values[key] for c in candidates])
        sd = np.array([_own_log_sd(problem, c, kind) for c in candidates])
        columns.append(value * np.exp(rng.standard_normal((SAMPLES, n)) * sd))
    alive = np.zeros(n)
    for s in range(SAMPLES):
        points = np.stack([column[s] for column in columns], axis=1)
        for low in range(0, n, 256):
            part = points[low : low + 256]
            better = (points[None] <= part[:, None]).all(-1) & (points[None] < part[:, None]).any(-1)
            alive[low : low + 256] += ~better.any(axis=1)
    return np.asarray(alive / SAMPLES)


def _own_log_sd(problem: Problem, candidate: Candidate, kind: str) -> float:
    """The part of ln(time)'s error that differs between models on one device and engine: the left-out-model error."""
    model = problem.models[candidate.precision]
    total = metric_log_sd(kind, model.rates, 0.0)
    own = problem.model_log_sd.get("prefill" if kind == "ttft" else "decode", total)
    return min(total, own)


def compare(problem: Problem, name: str, arch: Architecture, precision: str, frontier: Sequence[Candidate]) -> Baseline:
    """Score a known model with the same law, tokens and cost model, and find what the frontier offers beside it.

    At its latency: the lowest loss among candidates that are not slower. At its loss: the fastest candidate that is not
    worse. Either may not exist.

    Raises:
        SpecError: its vocabulary differs from the space's (losses per token would not compare).
    """
    vocab = problem.space.axes["vocab_size"][0]
    if arch.vocab_size != vocab:
        raise SpecError(
            f"the baseline '{name}' has a vocabulary of {arch.vocab_size} and the designs {vocab}: losses per token do not "
            f"compare; give --vocab {arch.vocab_size} or leave --vocab out"
        )
    base = _candidate(problem, name, precision, arch)
    not_slower = [c for c in frontier if c.values["latency_s"] <= base.values["latency_s"]]
    not_worse = [c for c in frontier if c.loss <= base.loss]
    at_latency = min(not_slower, key=lambda c: c.loss, default=None)
    at_loss = min(not_worse, key=lambda c: c.values["latency_s"], default=None)
    return Baseline(
        candidate=base,
        at_latency=_gap(problem, at_latency, base) if at_latency else None,
        at_loss=_gap(problem, at_loss, base) if at_loss else None,
    )


def _gap(problem: Problem, design: Candidate, base: Candidate) -> Gap:
    mean, std = problem.law.difference(design.architecture, base.architecture, problem.tokens)
    difference, spread = float(np.asarray(mean)), float(np.asarray(std))
    if problem.quantisation_priced:
        prices = [
            float(quantisation_penalty(c.architecture.params_active_nonembedding, problem.tokens, PRECISIONS[c.precision])[0])
            for c in (design, base)
        ]
        difference += prices[0] - prices[1]
        spread = math.hypot(spread, prices[0] - prices[1])
    ratio = design.values["latency_s"] / base.values["latency_s"]
    own = [_own_log_sd(problem, c, "latency") for c in (design, base)]
    factor = math.exp(_Z90 * math.hypot(*own))
    return Gap(
        design=design.name,
        loss_difference=difference,
        loss_interval=(difference - _Z90 * spread, difference + _Z90 * spread),
        perplexity_ratio=math.exp(difference),
        latency_ratio=ratio,
        latency_interval=(ratio / factor, ratio * factor),
    )
