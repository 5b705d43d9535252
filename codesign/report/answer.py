"""The answer in one look: the best design, what it offers against known models, and what to be careful about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from codesign.predictors.priors import UNPRICED_SHAPES
from codesign.report.review import Known, Review
from codesign.report.words import mark_text, space_edges
from codesign.search import Candidate, Gap
from codesign.search.mixers import COST_ONLY, parse_mixer
from codesign.units import format_bytes

__all__ = ["answer", "cautions", "edges", "safe_design", "unknown_losses"]

_SURE = 0.9
_TIGHT = 0.9  # of the device's free memory: a caution
_ROUGH = math.log(1.5)  # a 90 % interval wider than this factor is a caution


def answer(review: Review) -> dict[str, Any]:
    """What the page's header shows."""
    p = review.frontier.provenance
    best = review.best
    safe = safe_design(review)
    return {
        "best": best, "safe": safe if safe is not None and safe.name != best.name else None, "certificate": p["certificate"],
        "exact": bool(p["exact"]), "gaps": _gaps(review), "cautions": cautions(review)[:3],
        "n_cautions": len(cautions(review)), "n_designs": len(review.frontier.candidates),
        "budget": _budget(review), "precisions": list(review.models), "objectives": list(review.problem.objectives),
    }  # fmt: skip


def safe_design(review: Review) -> Candidate | None:
    """The best design (`Review.first`) that meets the budget with at least 90 % probability; None where there is none."""
    return review.first(c for c in review.frontier.candidates if c.p_budget >= _SURE)


def _budget(review: Review) -> str:
    return review.problem.budget.describe().replace("<=", "≤") or "no bound but the device's memory"


def _gaps(review: Review) -> list[tuple[Known, str, Gap, Candidate]]:
    """Up to three known models with what the frontier offers at their latency (or else at their loss): those that the search
    named first, then those within the frontier's reach that are nearest to the best design's cost.
    """
    found = []
    by_name = {c.name: c for c in review.frontier.candidates}
    key = review.cost_key
    asked = [k for k in review.known if k.baseline in review.frontier.baselines]
    reach = 1.1 * max(c.values[key] for c in review.frontier.candidates)
    others = [
        k for k in review.known if k not in asked and not _outside(k.candidate) and k.candidate.values[key] <= reach
    ]
    target = review.best.values[key]
    others.sort(key=lambda k: abs(math.log(k.candidate.values[key] / target)))
    for known in [*asked, *others]:
        base = known.baseline
        for where, gap in (("at its time", base.at_latency), ("at its loss", base.at_loss)):
            if gap is not None and gap.design in by_name:
                found.append((known, where, gap, by_name[gap.design]))
                break
    return found[:3]


def _outside(candidate: Candidate) -> bool:
    return any(mark.startswith("outside:") for mark in candidate.marks)


def cautions(review: Review) -> list[str]:
    """What a reviewer must know before deciding, the gravest first; counted from this run."""
    p = review.frontier.provenance
    found: list[tuple[float, str]] = []
    best, n = review.best, len(review.frontier.candidates)
    if not review.loss_known:
        found.append((10, f"No data at hand tells the loss of {unknown_losses(review)}: this run compares cost alone."))
    if review.rebuilt.notes and not review.rebuilt.from_catalogue:
        gap = max(review.rebuilt.deviation.values())
        if gap > 1e-3:
            found.append(
                (9, "The run's figures could not be computed again here: breakdowns are approximate (see Trust).")
            )
    elif review.rebuilt.notes:
        found.append(
            (9, "Device figures or rates have changed since this run (see Trust): search again before deciding.")
        )
    if best.p_budget < _SURE:
        safe = safe_design(review)
        other = f"; {safe.name} does with {safe.p_budget:.0%}" if safe else "; no design here reaches 90 %"
        found.append((8, f"The best design meets the budget with {best.p_budget:.0%} probability{other}."))
    free_B = float(p["device"]["memory_usable_B"])
    if best.values["memory_B"] > _TIGHT * free_B:
        found.append((7.8, f"The best design takes {format_bytes(best.values['memory_B'])} of the {format_bytes(free_B)} that the device has free: nothing else fits beside it."))  # fmt: skip
    if not p["exact"]:
        found.append((7, "The search was heuristic: better designs may exist in the space."))
    found += _transferred(p["rates"])
    beyond = [c for c in review.frontier.candidates if _outside(c) or any(m in ("latency:size", "latency:experts") for m in c.marks)]  # fmt: skip
    if beyond:
        found.append((8.2 if best in beyond else 6.5, f"{len(beyond)} of {n} designs lie outside the range of the data: their intervals are surer than they should be."))  # fmt: skip
    power = p.get("power_model")
    if power and power["interval_log"] > _ROUGH and ("energy_J" in best.values):
        used = "energy" in review.problem.objectives or {"energy_J", "power_W"} & set(p["budget"])
        found.append((7.5 if used else 3, f"Energy and power are rough: 90 % interval times or divided by {math.exp(power['interval_log']):.1f}."))  # fmt: skip
    gravity = {
        "latency:mixer_here": 6.85,
        "latency:experts_here": 6.8,
        "prior:mixer": 5.6,
        "prior:moe": 5.5,
        "latency:size_here": 5,
    }
    for mark, grave in gravity.items():
        marked = sum(mark in c.marks for c in review.frontier.candidates)
        if marked:
            which = f"{marked} of {n} designs" + (", the best among them" if mark in best.marks and marked < n else "")
            text = mark_text(mark)[1]
            found.append((grave + marked / n, f"{text[0].upper()}{text[1:]}: {which}."))
    found += [(5.2, text) for text in edges(review)]
    weak = [s for s in (review.validation or {}).get("summary", {}).values() if s.get("coverage", 1.0) < 0.7]
    if weak:
        found.append((8.8, "Measured on the device, fewer than 70 % of the designs fall inside their 90 % intervals (see Trust)."))  # fmt: skip
    if p["device"].get("confidence") == "low":
        found.append((4, "The device's own figures have low confidence: see its sources."))
    found.sort(key=lambda item: -item[0])
    return [text for _, text in found]


def unknown_losses(review: Review) -> str:
    """The mixers of the space and the features of its designs whose loss no data at hand tells."""
    mixers = [text for text in review.problem.space.axes["mixer"] if parse_mixer(text).kind in COST_ONLY]
    marks = dict.fromkeys(m for c in review.frontier.candidates for m in c.marks if not c.loss_known)
    shapes = [mark_text(mark)[1].split(":")[0] for mark in marks if mark.removeprefix("unpriced:") in UNPRICED_SHAPES]
    return ", ".join(mixers or shapes)


def _transferred(rates: Mapping[str, Any]) -> list[tuple[float, str]]:
    """One caution for all rates that come from other devices, engines or precisions; its gravity grows with their interval."""
    far = [
        (phase, name, of[phase])
        for phase in ("decode", "prefill")
        for name, of in rates.items()
        if "were measured" not in of[phase]["level"] or not of[phase]["rows"]
    ]
    if not far:
        return []
    phases = " and ".join(dict.fromkeys(phase for phase, _, _ in far))
    names = ", ".join(dict.fromkeys(name for _, name, _ in far))
    worst = max(far, key=lambda item: float(item[2]["interval_log"]))[2]
    factor = math.exp(worst["interval_log"])
    text = f"{phases.capitalize()} times ({names}) are transferred: {worst['level']}; 90 % interval: times or divided by up to {factor:.2f}."
    return [(8.5 if factor > 1.5 else 6, text)]


def edges(review: Review) -> list[str]:
    """Axes of the space at whose end at least half of the designs sit."""
    names = {"n_layers": "depth", "d_model": "width", "ffn_ratio": "FFN ratio", "experts": "number of experts"}
    count = len(review.frontier.candidates)
    return [
        f"{sitting} of {count} designs sit at the edge of the space ({names[name]} {edge:g}): a wider space may hold better ones."
        for name, edge, sitting in space_edges(review.frontier)
    ]
