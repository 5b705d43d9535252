"""Section 3: which budget binds where, with sliders, and the co-design law's closed forms over brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from codesign.report.closed_form_maps import LawMap, LawSetting, law_maps, our_depths, setting_of
from codesign.report.packed import pack, pack_flags
from codesign.report.regions import MAP_AXES, Slice, chosen_designs, limits_of, own_values, pairs, slice_of
from codesign.report.review import Review
from codesign.report.section import Section, column, render_template, significant, static_text
from codesign.report.words import METRICS as WORDS
from codesign.search import Problem

__all__ = ["AXIS_WORDS", "LAW_MAPS", "build", "map_metrics", "picture"]

AXIS_WORDS = {
    "d_model": "width (d_model)", "n_layers": "depth (layers)", "ffn_ratio": "activated FFN ratio", "n_kv_heads": "KV heads",
    "experts": "experts",
}  # fmt: skip
#: Maps of the law: title, and what it holds fixed.
LAW_MAPS = {
    "depth": ("depth l*", "as deep as the time and the memory allow"),
    "r": ("FFN ratio r*", "the depth fills the time; memory is left aside"),
    "g": ("query heads per KV head g*", "the depth fills the time; memory is left aside"),
    "rho": ("activation rate ρ*, time and memory", "as deep as both allow"),
    "rho-memory": ("activation rate ρ*, memory alone", "depth and stored FFN fixed"),
}  # fmt: skip
_COUNT = 6


def build(review: Review) -> Section:
    """Maps through some designs of the frontier, their sliders, and the law's maps."""
    problem, best = review.problem, review.best
    keys = map_metrics(problem)
    designs = chosen_designs(review.frontier.candidates, best.name, _COUNT)
    shown = [(x, y) for x, y in pairs() if len(problem.space.axes[x]) > 1 and len(problem.space.axes[y]) > 1]
    maps = [_map(slice_of(problem, d, x, y, [k for k in keys if k != "e2e_s"])) for d in designs for x, y in shown]
    limits = {name: limits_of(problem, name) for name in problem.models}
    own = [own_values(problem.space, c.precision, c.architecture) for c in review.frontier.candidates]
    law = _law(review)
    axes = [axis for axis in MAP_AXES if any(axis in pair for pair in shown)]
    data: dict[str, Any] = {
        "axes": {axis: AXIS_WORDS[axis] for axis in axes},
        "metrics": [
            {"key": key, "title": WORDS[key][0], "bound": _bound(problem, key), "free": key == "memory_B" and problem.budget.memory_B is None}
            for key in keys
        ],
        "factors": {
            name: {key: [significant(f, 7) for f in found[key][1]] for key in keys} for name, found in limits.items()
        },
        "extrapolate": problem.allow_extrapolation, "output_tokens": problem.workload.output_tokens,
        "designs": [{"name": d.name, "precision": d.precision} for d in designs], "best": best.name,
        "maps": maps, "law": law,
        "own": {axis: column([_plain(o[axis]) for o in own]) for axis in ("precision", "experts", "d_head", "n_kv_heads", "n_layers", "d_model", "ffn_ratio")},
    }  # fmt: skip
    html = render_template(
        "regions.html", axes=[(axis, AXIS_WORDS[axis]) for axis in axes], designs=designs, best=best.name, keys=keys,
        maps=bool(maps), law=law, law_maps=LAW_MAPS, extrapolate=problem.allow_extrapolation,
    )  # fmt: skip
    return Section(key="regions", title="Feasible regions", html=html, data=data, script=static_text("regions.js"))


def map_metrics(problem: Problem) -> list[str]:
    """Metrics that a slider may bound: times, memory and, where a power model is known, energy; the rest where the budget has them."""
    bounds = problem.budget.bounds()
    keys = ["latency_s", *(["ttft_s"] if problem.workload.prompt_tokens else []), "e2e_s", "memory_B"]
    if all(model.power is not None for model in problem.models.values()):
        keys.append("energy_J")
    return keys + [key for key in ("power_W", "params") if key in bounds]


def _bound(problem: Problem, key: str) -> float | int | None:
    bound = problem.budget.bounds().get(key, math.inf)
    if key == "memory_B":
        bound = min(bound, problem.memory_B)
    return significant(bound, 6)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return f"{value[1]} of {value[0]}" if value[0] else "dense"
    return (
        int(value)
        if isinstance(value, (int, np.integer))
        else significant(value, 6)
        if isinstance(value, float)
        else value
    )


def _map(cells: Slice) -> dict[str, Any]:
    return {
        "design": cells.design, "x": cells.x, "y": cells.y, "xv": [_plain(v) for v in cells.x_values],
        "yv": [_plain(v) for v in cells.y_values], "own": list(cells.own),
        "grids": {key: pack(grid) for key, grid in cells.values.items()},
        "flags": pack_flags(cells.possible, cells.inside, cells.unlike == 1, cells.unlike == 2),
    }  # fmt: skip


def _law(review: Review) -> dict[str, Any]:
    """The law's maps, the agreement of each closed form over all of them, and the depths that this run's own model allows."""
    s = setting_of(review)
    maps = law_maps(s)
    ours = our_depths(review.problem, review, list(maps[0].widths))
    return {
        "setting": _setting(review, s),
        "widths": [significant(float(v), 5) for v in maps[0].widths],
        "ours": [significant(float(v), 4) for v in ours],
        "maps": [_law_map(m) for m in maps],
        "agreement": _agreement(maps),
    }


def _setting(review: Review, s: LawSetting) -> dict[str, Any]:
    bounds = review.problem.budget.bounds()
    return {
        "latency_s": significant(s.latency_s, 5), "ttft_s": significant(s.ttft_s, 5) if s.ttft_s else None,
        "memory_B": significant(s.memory_B, 4), "memory_set": s.memory_set, "r": significant(s.r, 4), "g": significant(s.g, 4),
        "rho": significant(s.rho, 4), "latency_given": "latency_s" in bounds, "ttft_given": "ttft_s" in bounds,
        "design": review.best.name,
    }  # fmt: skip


def _law_map(m: LawMap) -> dict[str, Any]:
    return {
        "key": m.key, "axis": m.axis, "phase": m.phase, "scale": m.scale,
        "low": float(m.y_values[0]), "high": float(m.y_values[-1]), "n": len(m.y_values),
        "above": pack(np.maximum(m.above, 1e-6)), "brute": [significant(float(v), 4) for v in m.brute],
        "curves": [
            {"name": c.name, "values": [significant(float(v), 4) for v in c.values], "printed": c.printed, "corrected": c.corrected}
            for c in m.curves
        ],
    }  # fmt: skip


def _agreement(maps: list[LawMap]) -> list[dict[str, Any]]:
    """Each closed form: the largest gap to brute force over all widths, phases and budgets where both lie inside the map."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for m in maps:
        for c in m.curves:
            if math.isnan(c.gap):
                continue
            row = rows.setdefault(
                (m.key, c.name), {"map": LAW_MAPS[m.key][0], "assumes": LAW_MAPS[m.key][1], "name": c.name, "gap": 0.0, "printed": c.printed,
                                  "corrected": c.corrected, "phases": []},
            )  # fmt: skip
            row["gap"] = max(row["gap"], c.gap)
            if m.phase not in row["phases"]:
                row["phases"].append(m.phase)
    return [{**row, "gap": significant(row["gap"], 2)} for row in rows.values()]


def picture(review: Review) -> Any:
    """The map through the best design beside the closed forms."""
    from codesign.report.regions_picture import picture as draw

    return draw(review)
