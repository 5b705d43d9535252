"""From points of a front to candidates: intervals, probabilities, marks, and the comparison with known models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import moocore
import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture, ArchitectureBatch, batch_key
from codesign.budget import metric_of_bound
from codesign.errors import SpecError
from codesign.predictors.quantisation import quantisation_penalty
from codesign.roofline.cost import RooflineModel
from codesign.search.frontier import Baseline, Candidate, Gap
from codesign.search.marks import design_marks, unlike
from codesign.search.problem import Problem, metric, metric_log_sd
from codesign.workload import PRECISIONS

__all__ = ["check_vocabulary", "compare", "score"]

Array = NDArray[np.float64]

_Z90 = NormalDist().inv_cdf(0.95)
_NORMAL = NormalDist()
SAMPLES = 400
_VALUES = (
    ("latency_s", "latency"), ("ttft_s", "ttft"), ("e2e_s", "e2e"), ("memory_B", "memory"), ("energy_J", "energy"),
    ("power_W", "power"), ("params", "params"),
)  # fmt: skip


def score(
    problem: Problem, designs: Sequence[tuple[str, Architecture]], *, seed: int, prefix: str = "design"
) -> list[Candidate]:
    """Candidates of (precision, architecture) pairs, in the order given.

    The budget's probability multiplies that of each bound (independent errors: conservative). The probability to be
    non-dominated is the share of `SAMPLES` draws of all losses (with what they share under the law) and latencies (the
    part of the calibration's error that differs from model to model) in which no other candidate dominates.
    """
    found: dict[int, Candidate] = {}
    deviations = np.zeros((SAMPLES, len(designs)))
    rng = np.random.default_rng([seed, 7])
    keys = sorted({(precision, batch_key(arch)) for precision, arch in designs})
    for precision, shared in keys:
        rows = [i for i, (p, a) in enumerate(designs) if (p, batch_key(a)) == (precision, shared)]
        archs = [designs[i][1] for i in rows]
        for i, candidate in zip(rows, _candidates(problem, precision, archs), strict=True):
            found[i] = replace(candidate, name=f"{prefix}-{i + 1}")
    for shared in sorted({batch_key(arch) for _, arch in designs}):
        rows = [i for i, (_, a) in enumerate(designs) if batch_key(a) == shared]
        batch = ArchitectureBatch.of([designs[i][1] for i in rows])
        deviations[:, rows] = problem.law.error_samples(batch, problem.tokens, SAMPLES, rng)
    candidates = [found[i] for i in range(len(designs))]
    if len(candidates) < 2:
        return candidates
    shares = _front_probabilities(problem, candidates, deviations, rng)
    return [replace(c, p_front=float(share)) for c, share in zip(candidates, shares, strict=True)]


def _candidates(problem: Problem, precision: str, archs: Sequence[Architecture]) -> list[Candidate]:
    form, model = PRECISIONS[precision], problem.models[precision]
    batch = ArchitectureBatch.of(list(archs))
    estimate = model.estimate(batch, problem.workload, form)
    mean, std = problem.loss_with_std(batch, form)
    energy_log = model.power.interval_log if model.power else 0.0
    columns = {key: metric(kind, batch, estimate) for key, kind in _VALUES}
    spreads = {
        how: {key: math.exp(_Z90 * metric_log_sd(kind, model.rates, energy_log, how)) for key, kind in _VALUES}
        for how in range(3)
    }
    columns |= {
        "weights_B": estimate.weights_B, "kv_B": estimate.kv_B, "workspace_B": estimate.workspace_B,
        "params_active": batch.params_active, "params_active_nonembedding": batch.params_active_nonembedding,
        "request_energy_J": estimate.request_energy_J,
    }  # fmt: skip
    shape = (len(archs),)
    table = {key: np.broadcast_to(np.asarray(value, dtype=float), shape) for key, value in columns.items()}
    marks = design_marks(
        batch, shape, law=problem.law, tokens=problem.tokens, precision=form, serving=problem.workload.serving,
        priced=problem.quantisation_priced, latency=problem.latency_outside(batch, precision),
    )  # fmt: skip
    out = []
    for i, arch in enumerate(archs):
        values = {key: float(column[i]) for key, column in table.items() if math.isfinite(column[i])}
        loss, deviation = float(np.broadcast_to(mean, shape)[i]), float(np.broadcast_to(std, shape)[i])
        intervals = {"loss": (loss - _Z90 * deviation, loss + _Z90 * deviation)}
        how = unlike(marks[i])
        intervals |= {k: (values[k] / s, values[k] * s) for k, s in spreads[how].items() if s > 1 and k in values}
        out.append(
            Candidate(
                name="", architecture=arch, precision=precision, loss=loss, loss_std=deviation, values=values,
                intervals=intervals, p_budget=_budget_probability(problem, model, values, how), marks=marks[i],
            )
        )  # fmt: skip
    return out


def _budget_probability(problem: Problem, model: RooflineModel, values: Mapping[str, float], how: int) -> float:
    energy_log = model.power.interval_log if model.power else 0.0
    chance = 1.0
    for name, bound in problem.budget.bounds().items():
        kind = metric_of_bound(name)
        sd = metric_log_sd(kind, model.rates, energy_log, how)
        value = values[name]
        if sd > 0 and value > 0:
            chance *= _NORMAL.cdf((math.log(bound) - math.log(value)) / sd)
        elif value > bound:
            chance = 0.0
    return chance


def _front_probabilities(
    problem: Problem, candidates: Sequence[Candidate], deviations: Array, rng: np.random.Generator
) -> Array:
    n = len(candidates)
    if problem.quantisation_priced:
        priced = [
            float(
                quantisation_penalty(
                    c.architecture.params_active_nonembedding, problem.tokens, PRECISIONS[c.precision]
                )[1]
            )
            for c in candidates
        ]
        deviations = deviations + rng.standard_normal((SAMPLES, 1)) * np.array(priced)
    columns = []
    for kind in problem.objectives:
        if kind == "loss":
            columns.append(np.array([c.loss for c in candidates]) + deviations)
            continue
        if kind == "size":
            columns.append(np.tile([-c.values["params_active_nonembedding"] for c in candidates], (SAMPLES, 1)))
            continue
        key = next(key for key, name in _VALUES if name == kind)
        value = np.array([c.values[key] for c in candidates])
        sd = np.array([_own_log_sd(problem, c, kind) for c in candidates])
        columns.append(value * np.exp(rng.standard_normal((SAMPLES, n)) * sd))
    points = np.stack(columns, axis=-1)
    alive = sum(moocore.is_nondominated(np.ascontiguousarray(draw), keep_weakly=True).astype(float) for draw in points)
    return np.asarray(alive / SAMPLES)


def _own_log_sd(problem: Problem, candidate: Candidate, kind: str) -> float:
    """The part of ln(time)'s error that differs between models on one device and engine: the left-out-model error."""
    model = problem.models[candidate.precision]
    total = metric_log_sd(kind, model.rates, 0.0)
    own = problem.model_log_sd.get("prefill" if kind == "ttft" else "decode", total)
    return min(total, own)


def check_vocabulary(problem: Problem, name: str, arch: Architecture) -> None:
    """Refuse a known model whose losses would not compare.

    Raises:
        SpecError: its vocabulary differs from the space's.
    """
    vocab = problem.space.axes["vocab_size"][0]
    if arch.vocab_size != vocab:
        raise SpecError(
            f"the baseline '{name}' has a vocabulary of {arch.vocab_size} and the designs {vocab}: losses per token do not "
            f"compare; give --vocab {arch.vocab_size} or leave --vocab out"
        )


def compare(problem: Problem, name: str, arch: Architecture, precision: str, frontier: Sequence[Candidate]) -> Baseline:
    """Score a known model with the same law, tokens and cost model, and find what the frontier offers beside it.

    Latency here is the first time among the objectives (per token, of the request, or to the first token): in that the
    frontier is complete. At its latency: the lowest loss among candidates that are not slower. At its loss: the fastest candidate that is not
    worse. Either may not exist; neither does where no data at hand tells the loss of the model, or of the designs.

    Raises:
        SpecError: its vocabulary differs from the space's (losses per token would not compare).
    """
    check_vocabulary(problem, name, arch)
    base = replace(_candidates(problem, precision, [arch])[0], name=name)
    key = _time_key(problem)
    told = [c for c in frontier if c.loss_known] if base.loss_known else []
    not_slower = [c for c in told if c.values[key] <= base.values[key]]
    not_worse = [c for c in told if c.loss <= base.loss]
    at_latency = min(not_slower, key=lambda c: c.loss, default=None)
    at_loss = min(not_worse, key=lambda c: c.values[key], default=None)
    return Baseline(
        candidate=base,
        at_latency=_gap(problem, at_latency, base) if at_latency else None,
        at_loss=_gap(problem, at_loss, base) if at_loss else None,
    )


def _time_key(problem: Problem) -> str:
    times = {"latency": "latency_s", "e2e": "e2e_s", "ttft": "ttft_s"}
    return next((times[name] for name in problem.objectives if name in times), "latency_s")


def _gap(problem: Problem, design: Candidate, base: Candidate) -> Gap:
    mean, std = problem.law.difference(design.architecture, base.architecture, problem.tokens)
    difference, spread = float(np.asarray(mean)), float(np.asarray(std))
    if problem.quantisation_priced:
        prices = [
            float(
                quantisation_penalty(
                    c.architecture.params_active_nonembedding, problem.tokens, PRECISIONS[c.precision]
                )[0]
            )
            for c in (design, base)
        ]
        difference += prices[0] - prices[1]
        spread = math.hypot(spread, prices[0] - prices[1])
    key = _time_key(problem)
    ratio = design.values[key] / base.values[key]
    own = [_own_log_sd(problem, c, key.removesuffix("_s")) for c in (design, base)]
    same = (design.architecture, design.precision) == (base.architecture, base.precision)
    factor = 1.0 if same else math.exp(_Z90 * math.hypot(*own))
    return Gap(
        design=design.name,
        loss_difference=difference,
        loss_interval=(difference - _Z90 * spread, difference + _Z90 * spread),
        perplexity_ratio=math.exp(difference),
        latency_ratio=ratio,
        latency_interval=(ratio / factor, ratio * factor),
    )
