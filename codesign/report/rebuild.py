"""A run's problem built again from what its file says: device, rates, space, workload, budget, loss law.

The catalogue's device and calibration are tried first. Where they are not here (a board's own calibration on another
machine), or no longer give the run's figures, the rates that stand in the run itself are used. Either way what is
recomputed is compared with the run's figures, and every difference is a note for the reader.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from codesign.architecture import ArchitectureBatch, batch_key
from codesign.budget import Budget
from codesign.devices import Device, EnergyTerms, PhaseTerms, load_device
from codesign.errors import CodesignError, SchemaError, SpecError
from codesign.operators import Phase
from codesign.predictors import law_names, load_law
from codesign.roofline.calibration import LEVELS, load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.roofline.rates import PhaseRates, Rates
from codesign.search import DesignSpace, Frontier, Problem, build_problem
from codesign.search.experts import parse_experts
from codesign.workload import PRECISIONS, Workload

__all__ = ["Rebuilt", "rebuild"]

_log = logging.getLogger(__name__)
_Z90 = NormalDist().inv_cdf(0.95)
_SAME = 1e-3  # relative: a file keeps 17 digits, so what differs more was made by other rates
_PHASES: tuple[Phase, ...] = ("prefill", "decode")
_SHOWN_RATES = ("bandwidth_efficiency", "compute_efficiency", "layer_s", "step_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """problem: what was searched; from_catalogue: whether device and rates are the catalogue's (else the run's own);
    deviation: by metric, the largest |ln(recomputed / in the run)| over the designs (loss: nats); notes: what differs.
    """

    problem: Problem
    from_catalogue: bool
    deviation: Mapping[str, float] = field(hash=False)
    notes: tuple[str, ...] = ()


def _law(p: Mapping[str, Any]) -> str:
    """Name of the run's loss law; of one that is not shipped, the file that the run's command read.

    Raises:
        SpecError: that file is not there.
    """
    name = str(p["law"]["name"])
    if name in law_names():
        return name
    command = [str(word) for word in p.get("command", [])]
    given = [after for word, after in pairwise(command) if word == "--loss-law"]
    given += [word.removeprefix("--loss-law=") for word in command if word.startswith("--loss-law=")]
    if given and Path(given[-1]).is_file():
        return given[-1]
    raise SpecError(
        f"the run's loss law '{name}' is a file of your own"
        + (f", '{given[-1]}', which is not there from this folder" if given else "")
        + "; name it: --loss-law FILE"
    )


def rebuild(frontier: Frontier, *, law: str | None = None, calibration: Path | None = None) -> Rebuilt:
    """The problem of a run.

    Args:
        law: name or file of the loss law, where the run's is not one of those shipped. calibration: another file.

    Raises:
        SchemaError: the run's file lacks something or holds what cannot be.
        UnknownNameError: the run's loss law is not known here.
    """
    p = frontier.provenance
    try:
        named = law or _law(p)
    except (KeyError, TypeError) as error:
        raise SchemaError(f"the run's provenance names no loss law ({error!r}); run the search again") from error
    loss = load_law(named)
    try:
        workload = Workload.from_dict(p["workload"])
        budget = Budget(**{k: float(v) for k, v in p["budget"].items()})
        space = _space(p["space"])
        common: dict[str, Any] = {
            "space": space, "workload": workload, "budget": budget, "law": loss, "tokens": float(p["tokens"]),
            "objectives": tuple(p["objectives"]), "allow_extrapolation": bool(p["allow_extrapolation"]),
        }  # fmt: skip
        own = _of_the_run(frontier, common)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CodesignError) and not isinstance(error, SpecError):
            raise
        raise SchemaError(
            f"the run's provenance cannot be used ({type(error).__name__}: {error}); run the search again"
        ) from error
    notes: list[str] = []
    found = None
    try:
        device = load_device(str(p["device"]["name"]), p["device"]["power_mode"])
        fits = load_calibration(calibration)
        found = build_problem(device=device, engine=str(p["engine"]), calibration=fits, **common)
    except CodesignError as error:
        notes.append(f"device and rates are those written in the run: {error}")
    own_gap = _deviation(own, frontier)
    if found is not None:
        gap = _deviation(found, frontier)
        changed = _changes(found, p)
        if max(gap.values()) <= max(max(own_gap.values()), _SAME):
            notes += changed + _gaps(gap, "this version's catalogue and calibration")
            return Rebuilt(problem=found, from_catalogue=True, deviation=gap, notes=tuple(notes))
        notes.append("device and rates are those written in the run: this machine's catalogue gives other figures now")
        notes += changed
    notes += _gaps(own_gap, "the rates written in the run")
    return Rebuilt(problem=own, from_catalogue=False, deviation=own_gap, notes=tuple(notes))


def _space(data: Mapping[str, Any]) -> DesignSpace:
    axes = {name: tuple(values) for name, values in data["axes"].items()}
    axes["experts"] = tuple(parse_experts(name) for name in axes["experts"])
    return DesignSpace(
        axes=axes, ff_multiple=int(data["ff_multiple"]), tied_embeddings=bool(data["tied_embeddings"]),
        ffn_gated=bool(data["ffn_gated"]), name=str(data["name"]),
    )  # fmt: skip


def _of_the_run(frontier: Frontier, common: dict[str, Any]) -> Problem:
    """The problem with the device and rates that the run's file names."""
    p = frontier.provenance
    d = p["device"]
    facts: dict[str, Any] = {"vendor": "", "generation": "unknown", "family": "unknown"}
    try:
        known = load_device(str(d["name"]))
        facts = {"vendor": known.vendor, "generation": known.generation, "family": known.family, "kind": known.kind,
                 "tdp_W": known.tdp_W, "price_usd": known.price_usd, "price_note": known.price_note}  # fmt: skip
    except CodesignError as error:
        _log.debug("the run's device is not in this machine's catalogue: %s", error)
    usable = float(d["memory_usable_B"])
    device = Device(
        name=str(d["name"]), title=str(d["title"]), **facts, memory_B=usable, bandwidth_Bps=float(d["bandwidth_Bps"]),
        peak_flop_per_s={str(k): float(v) for k, v in d["peak_flop_per_s"].items()}, sources=dict(d["sources"]),
        confidence=str(d["confidence"]),
    )  # fmt: skip
    inside = [c.values["params_active"] for c in frontier.candidates if "latency:size_here" not in c.marks]
    span = (min(inside), max(inside)) if inside else (1.0, 1e18)
    models = {}
    metered = p.get("power_constants", {})
    for name, phases in p["rates"].items():
        rates = Rates(
            prefill=_phase(phases["prefill"], span),
            decode=_phase(phases["decode"], span),
            source=str(p["calibration"]),
            energy=EnergyTerms(**metered[name]) if name in metered else None,
        )
        models[name] = RooflineModel.of(device, rates)
    return Problem(
        models=models, memory_B=usable,
        model_log_sd={k: min(m.rates.of(k).interval_log for m in models.values()) / _Z90 for k in _PHASES},
        quantisation_priced=common["law"].name != "paper",
        latency_spans={name: {"here": (*span, True)} for name in models if inside},
        **common,
    )  # fmt: skip


def _phase(facts: Mapping[str, Any], span: tuple[float, float]) -> PhaseRates:
    level = LEVELS.index(facts["level"]) if facts["level"] in LEVELS else len(LEVELS) - 1
    interval = float(facts["interval_log"])
    if "seconds_per" not in facts:
        bandwidth, compute = float(facts["bandwidth_efficiency"]), float(facts["compute_efficiency"])
        return PhaseRates(
            bandwidth_efficiency=bandwidth, expert_bandwidth_efficiency=bandwidth, compute_efficiency=compute,
            attention_efficiency=compute, expert_compute_efficiency=compute, layer_s=float(facts["layer_s"]),
            step_s=float(facts["step_s"]), interval_log=interval, level=level, n_rows=int(facts["rows"]),
        )  # fmt: skip
    beyond = max(float(facts["interval_beyond_log"]), interval)
    terms = PhaseTerms(
        seconds_per={str(k): float(v) for k, v in facts["seconds_per"].items()}, interval_log=interval,
        interval_beyond_log=beyond, span_params=span, span_tokens=(0.0, 1e9), batches=(1,),
        mixtures=bool(facts["mixtures"]), mixers=tuple(facts.get("mixers", ("attention",))), n_rows=max(int(facts["rows"]), 1),
        n_architectures=max(int(facts["architectures"]), 1),
        held_out={str(k): float(v) for k, v in facts["held_out"].items()},
    )  # fmt: skip
    return PhaseRates(
        interval_log=interval, interval_beyond_log=beyond, level=level, n_rows=int(facts["rows"]), terms=terms
    )


def _deviation(problem: Problem, frontier: Frontier) -> dict[str, float]:
    """Largest |ln(recomputed / stored)| of the times, and |difference| of the losses, over the designs."""
    worst = {"latency_s": 0.0, "ttft_s": 0.0, "loss": 0.0}
    groups: dict[tuple[str, tuple[str, str]], list[Any]] = {}
    for c in frontier.candidates:
        groups.setdefault((c.precision, batch_key(c.architecture)), []).append(c)
    for (precision, _), members in groups.items():
        if precision not in problem.models:
            raise SchemaError(f"the run's design {members[0].name} has the precision '{precision}', its rates do not")
        form = PRECISIONS[precision]
        batch = ArchitectureBatch.of([c.architecture for c in members])
        estimate = problem.models[precision].estimate(batch, problem.workload, form, energy=False)
        for key, value in (("latency_s", estimate.decode_s), ("ttft_s", estimate.prefill_s)):
            stored = np.array([c.values[key] for c in members])
            if np.all(stored > 0):
                worst[key] = max(worst[key], float(np.max(np.abs(np.log(value / stored)))))
        losses = np.asarray(problem.loss(batch, form))
        worst["loss"] = max(worst["loss"], float(np.max(np.abs(losses - [c.loss for c in members]))))
    return worst


def _gaps(deviation: Mapping[str, float], what: str) -> list[str]:
    names = {"latency_s": "time per token", "ttft_s": "time to first token", "loss": "loss"}
    shown = [
        f"{names[key]} by up to {value:.3f} nats" if key == "loss" else f"{names[key]} by up to {100 * math.expm1(value):.1f} %"
        for key, value in deviation.items()
        if value > _SAME
    ]  # fmt: skip
    if not shown:
        return []
    return [
        f"{what} do not give the run's figures again: they differ in {', '.join(shown)}; the breakdowns are approximate"
    ]


def _changes(problem: Problem, p: Mapping[str, Any]) -> list[str]:
    """Data-sheet figures and rates that are now other than in the run; of the rates of a phase, the one that changed most."""
    device = next(iter(problem.models.values())).device
    then: dict[str, tuple[float, float]] = {
        "bandwidth, B/s": (p["device"]["bandwidth_Bps"], device.bandwidth_Bps),
        "usable memory, B": (p["device"]["memory_usable_B"], device.memory_usable_B),
    }
    for kind, peak in p["device"]["peak_flop_per_s"].items():
        then[f"{kind} peak, FLOP/s"] = (peak, device.peak_flop_per_s.get(kind, math.nan))
    found = [f"{key}: {a:.4g} in the run, {b:.4g} here" for key, (a, b) in then.items() if not _alike(a, b)]
    for name, model in problem.models.items():
        for phase in _PHASES:
            found += _rate_change(p["rates"][name][phase], model.rates.of(phase), phase, name)
    return found


def _rate_change(old: Mapping[str, Any], rates: PhaseRates, phase: str, name: str) -> list[str]:
    if (rates.terms is None) != ("seconds_per" not in old):
        own, other = "the device's own calibration", "the rates of published measurements"
        here, there = (other, own) if rates.terms is None else (own, other)
        return [f"{phase} ({name}): {there} in the run, {here} here"]
    if rates.terms is not None:
        old, new = old["seconds_per"], dict(rates.terms.seconds_per)
    else:
        new = {key: getattr(rates, key) for key in _SHOWN_RATES}
    pairs = {key: (old.get(key, 0.0), value) for key, value in new.items()}
    changed = [key for key, pair in pairs.items() if not _alike(*pair)]
    if not changed:
        return []
    key = max(changed, key=lambda key: _ratio(*pairs[key]))
    more = f" (the most of {len(changed)} that differ)" if len(changed) > 1 else ""
    return [f"{phase} {key} ({name}): {pairs[key][0]:.4g} in the run, {pairs[key][1]:.4g} here{more}"]


def _alike(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-15)


def _ratio(a: float, b: float) -> float:
    return abs(math.log(b / a)) if a > 0 and b > 0 else math.inf
