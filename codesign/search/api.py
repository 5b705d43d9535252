"""`search()`: device and budget in, frontier out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from codesign.architecture import Architecture
from codesign.budget import FORMATS, Budget, metric_of_bound
from codesign.devices import Device
from codesign.errors import InfeasibleError, SpecError
from codesign.operators import Phase
from codesign.roofline.calibration import LEVELS, Calibration, load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.roofline.effects import Cell
from codesign.roofline.rates import PhaseRates
from codesign.search.enumerate import Progress, SearchResult, enumerate_space
from codesign.search.evolve import evolve_space
from codesign.search.frontier import Candidate, Frontier
from codesign.search.marks import Spans
from codesign.search.mixers import mixer_needs
from codesign.search.problem import LossModel, Problem, metric
from codesign.search.score import check_vocabulary, compare, score
from codesign.search.space import DesignSpace
from codesign.units import format_count
from codesign.workload import PRECISIONS, Workload

__all__ = ["EXACT_LIMIT", "build_problem", "measured_spans", "search", "solves_exactly"]

#: Spaces up to this size are enumerated.
EXACT_LIMIT = 100_000_000
_Z90 = NormalDist().inv_cdf(0.95)
_PHASES: tuple[Phase, ...] = ("prefill", "decode")


def build_problem(
    *,
    device: Device,
    engine: str,
    space: DesignSpace,
    workload: Workload,
    budget: Budget,
    law: LossModel,
    tokens: float,
    objectives: Sequence[str] = ("loss", "latency"),
    allow_extrapolation: bool = False,
    calibration: Calibration | None = None,
) -> Problem:
    """The problem of a device: calibrated cost models for each precision of the space, and what memory it has free.

    Raises:
        SpecError: see `Problem`.
    """
    fits = calibration or load_calibration()
    models = {
        name: RooflineModel.of(device, fits.rates(device, engine, PRECISIONS[name], workload.batch_size, workload))
        for name in space.axes["precision"]
    }
    return Problem(
        space=space,
        workload=workload,
        budget=budget,
        models=models,
        law=law,
        tokens=tokens,
        objectives=tuple(objectives),
        memory_B=device.memory_usable_B,
        allow_extrapolation=allow_extrapolation,
        quantisation_priced=getattr(law, "name", "") != "paper",
        latency_spans={
            name: measured_spans(fits, device, engine, name, workload.batch_size) for name in space.axes["precision"]
        },
        model_log_sd={
            phase: min([fits.of(phase).intervals[0], *(m.rates.of(phase).interval_log for m in models.values())]) / _Z90
            for phase in _PHASES
        },
    )


def measured_spans(fits: Calibration, device: Device, engine: str, precision: str, batch_size: int) -> Spans:
    """Sizes that were measured: with the device's own calibration, it alone counts, and any size may be extrapolated to
    (with the wider interval), but not to experts where none were measured.
    """
    own = device.fit_for(engine, precision)
    if own is not None and own.decode is not None:
        mixtures = own.decode.mixtures
        return {"here": (*own.decode.span_params, mixtures), "anywhere": (0.0, math.inf, mixtures)}
    cell = Cell.of(device, engine, PRECISIONS[precision], batch_size)
    return {"here": fits.decode.span(cell), "anywhere": fits.decode.span()}


def solves_exactly(problem: Problem, solver: str = "auto") -> bool:
    """Whether a solver enumerates the space: "exact" does, "auto" up to EXACT_LIMIT points.

    Raises:
        SpecError: an unknown solver.
    """
    if solver not in ("auto", "exact", "heuristic"):
        raise SpecError(f"unknown solver '{solver}'; known: auto, exact, heuristic")
    return solver == "exact" or (solver == "auto" and problem.space.size <= EXACT_LIMIT)


def search(
    problem: Problem,
    *,
    baselines: Mapping[str, Architecture] | None = None,
    seed: int = 1,
    solver: str = "auto",
    evaluations: int = 20_000,
    workers: int | None = None,
    state: Path | None = None,
    on_progress: Callable[[Progress], Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Frontier:
    """Find the Pareto frontier of a problem.

    Args:
        problem: see `build_problem`.
        baselines: known models by name, placed beside the frontier.
        seed: of the heuristic solver and of the probabilities.
        solver: "exact", "heuristic", or "auto": exact up to EXACT_LIMIT points.
        evaluations: of the heuristic. workers, state, on_progress: see `enumerate_space`.
        provenance: goes into the frontier beside what the problem says of itself.

    Returns:
        Candidates in order of latency, with intervals, probabilities and marks.

    Raises:
        InfeasibleError: no design meets the budget; it carries the nearest one and the bound that it breaks most.
        SpecError: an unknown solver, or a baseline of another vocabulary.
    """
    for name, arch in (baselines or {}).items():
        check_vocabulary(problem, name, arch)
    exact = solves_exactly(problem, solver)
    impossible = problem.space.impossible_mixers()
    if len(impossible) == len(problem.space.axes["mixer"]):
        needs = "; ".join(f"{mixer} needs {mixer_needs(mixer)}" for mixer in impossible)
        raise InfeasibleError(f"no design of the space is possible: {needs}; widen --space or take other mixers")
    if exact:
        result = enumerate_space(problem, workers=workers, state=state, on_progress=on_progress)
    else:
        result = evolve_space(problem, seed=seed, evaluations=evaluations, state=state, on_progress=on_progress)
    if not len(result.front):
        raise _infeasible(problem)
    designs = [problem.space.point(int(i)) for i in result.front.index]
    candidates = _ordered(score(problem, designs, seed=seed))
    compared = []
    for name, arch in (baselines or {}).items():
        compared.append(compare(problem, name, arch, str(problem.space.axes["precision"][0]), candidates))
    return Frontier(
        candidates=tuple(candidates),
        provenance={
            **(provenance or {}),
            **_provenance(problem, result, seed),
            **({"impossible_mixers": list(impossible)} if impossible else {}),
        },
        baselines=tuple(compared),
    )


def _ordered(candidates: list[Candidate]) -> list[Candidate]:
    """By latency, then loss; names follow the order."""
    candidates.sort(key=lambda c: (c.values["latency_s"], c.loss))
    return [replace(c, name=f"design-{i}") for i, c in enumerate(candidates, start=1)]


def _provenance(problem: Problem, result: SearchResult, seed: int) -> dict[str, Any]:
    device = next(iter(problem.models.values())).device
    rates = {}
    for name, model in problem.models.items():
        rates[name] = {
            phase: {
                **_rate_facts(r), "interval_log": r.interval_log, "level": LEVELS[r.level], "rows": r.n_rows,
            }
            for phase, r in (("prefill", model.rates.prefill), ("decode", model.rates.decode))
        }  # fmt: skip
    powers = [model.power for model in problem.models.values() if model.power is not None]
    power = max(powers, key=lambda found: found.interval_log, default=None)
    return {
        "seed": seed,
        "certificate": result.certificate,
        "exact": result.exact,
        "device": {
            "name": device.name, "title": device.title, "power_mode": device.power_mode,
            "bandwidth_Bps": device.bandwidth_Bps, "peak_flop_per_s": dict(device.peak_flop_per_s),
            "memory_usable_B": device.memory_usable_B, "confidence": device.confidence, "sources": dict(device.sources),
        },
        "power_model": {"source": power.source, "measured": power.measured, "interval_log": power.interval_log} if power else None,
        "power_constants": {name: asdict(model.rates.energy) for name, model in problem.models.items() if model.rates.energy},
        "rates": rates,
        "calibration": next(iter(problem.models.values())).rates.source,
        "workload": problem.workload.to_dict(),
        "budget": problem.budget.bounds() | {"confidence": problem.budget.confidence},
        "objectives": list(problem.objectives),
        "tokens": problem.tokens,
        "law": {"name": problem.law.name, "summary": getattr(problem.law, "summary", lambda: "")()},
        "allow_extrapolation": problem.allow_extrapolation,
        "space": problem.space.to_dict(),
    }  # fmt: skip


def _rate_facts(rates: PhaseRates) -> dict[str, Any]:
    if rates.terms is None:
        return {
            "bandwidth_efficiency": rates.bandwidth_efficiency, "compute_efficiency": rates.compute_efficiency,
            "layer_s": rates.layer_s, "step_s": rates.step_s,
        }  # fmt: skip
    return {
        "seconds_per": dict(rates.terms.seconds_per), "residual_points": len(rates.terms.residual.points) if rates.terms.residual else 0,
        "interval_beyond_log": rates.interval_beyond_log, "held_out": dict(rates.terms.held_out),
        "covered": rates.n_rows > 0, "architectures": rates.terms.n_architectures, "mixtures": rates.terms.mixtures,
        "mixers": list(rates.terms.mixers),
    }  # fmt: skip


def _infeasible(problem: Problem) -> InfeasibleError:
    """Say what breaks: the nearest design of a coarse grid, or that only the law's range leaves nothing."""
    coarse = problem.space.coarser(5_000_000)
    best, where, broken = math.inf, None, ""
    extrapolating = 0
    for block in coarse.blocks():
        model, form = problem.models[block.precision], PRECISIONS[block.precision]
        estimate = model.estimate(block.arch, problem.workload, form)
        worst: Any = np.zeros(block.shape)
        how = problem.unlike(block.arch, block.precision)
        limits = problem.limits(block.precision)
        ratios = {k: np.broadcast_to(metric(k, block.arch, estimate) / v[how], block.shape) for k, v in limits.items()}
        for ratio in ratios.values():
            worst = np.maximum(worst, ratio)
        worst = np.where(block.valid, worst, np.inf)
        extrapolating += int((worst <= 1).sum())
        if not problem.allow_extrapolation:
            worst = np.where(problem.in_range(block.arch, block.precision), worst, np.inf)
        position = int(np.argmin(worst))
        value = float(worst.reshape(-1)[position])
        if value < best:
            best, where = value, block.start + position
            broken = max(ratios, key=lambda k: float(ratios[k].reshape(-1)[position]))
    if where is None:
        reason = (
            f"{extrapolating:,} designs tried meet the budget, but outside that range"
            if extrapolating
            else "none meets the budget either way"
        )
        return InfeasibleError(
            f"no design of the space is possible and lies inside the range that the loss law '{problem.law.name}' "
            f"({problem.tokens:.3g} training tokens asked) and the latencies were fitted on{_measured_sizes(problem)}; "
            f"{reason}: give --allow-extrapolation, other --tokens, or another --space"
        )
    precision, arch = coarse.point(where)
    estimate = problem.models[precision].estimate(arch, problem.workload, PRECISIONS[precision])
    key = next(name for name in FORMATS if metric_of_bound(name) == broken)
    show = FORMATS[key]
    value = float(metric(broken, arch, estimate))
    limit = float(problem.limits(precision)[broken][problem.unlike(arch, precision)])
    found = f"{arch.n_layers} layers x {arch.d_model} at {precision}"
    if not problem.allow_extrapolation:
        found += f" (designs outside the range of the data were not tried{_measured_sizes(problem)}; --allow-extrapolation does)"
    own = broken == "memory" and limit < (problem.budget.memory_B or math.inf)
    advice = (
        "take fewer bits a weight or a device with more"
        if own
        else f"raise --{broken}, take a faster precision or engine"
    )
    allowed = f"the device has {show(limit)} free" if own else f"{show(limit)} is allowed"
    return InfeasibleError(
        f"no design meets the budget ({problem.budget.describe()}); the nearest, {found}, has {broken} {show(value)} where "
        f"{allowed}: {advice}, or widen --space",
        nearest=arch,
        violated=broken,
    )


def _measured_sizes(problem: Problem) -> str:
    """What the models whose latency was measured are, in words: their active parameters, and what of the space none of them has."""
    spans = [span["anywhere"] for span in problem.latency_spans.values() if "anywhere" in span]
    if not spans:
        return ""
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    if math.isinf(high):  # the device's own calibration extrapolates over sizes
        asked = any(value[0] for value in problem.space.axes["experts"])
        lacking = asked and not any(span[2] for span in spans)
        return ": no mixture of experts was measured on this device" if lacking else ""
    return f": measured models have {format_count(low)} to {format_count(high)} active parameters"
