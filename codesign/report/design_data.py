"""The designs and known models as the browser gets them: columns in little room, unpacked by `static/page.js`.

5,000 designs take about 2.5 MB: numbers have four or five digits, columns with few different values a letter each, and the
operators' times, bytes and FLOP 16 bits each (`codesign.report.packed`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from codesign.architecture import Architecture
from codesign.errors import SpecError
from codesign.hf_config import config_dict, known_config, known_models
from codesign.operators import Phase
from codesign.report.packed import pack
from codesign.report.review import Review
from codesign.report.section import column, significant
from codesign.report.words import family_text, ffn_text, mixer_text
from codesign.roofline.cost import OperatorCost
from codesign.search import Candidate
from codesign.workload import PRECISIONS

__all__ = ["designs_data"]

_ARCH = (
    "n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "n_experts", "n_active_experts", "d_ff_expert",
    "n_shared_experts", "d_ff_shared", "vocab_size", "window_tokens", "tied_embeddings", "n_window_layers", "n_recurrent_layers",
)  # fmt: skip
_UNSHOWN = {"params_active_nonembedding", "request_energy_J"}
_MANY = 1000  # above this figures have 16 bits in place of seven digits
_PHASES: tuple[Phase, ...] = ("prefill", "decode")


def designs_data(review: Review) -> dict[str, Any]:
    """Designs, then known models: names, shapes, figures, intervals, marks, configs and operators."""
    designs = list(review.frontier.candidates)
    everything = [*designs, *(known.candidate for known in review.known)]
    keys = sorted({key for c in everything for key in c.values} - (_UNSHOWN - {review.y_key}))
    spans = sorted({key for c in everything for key in c.intervals if key != "loss"})
    marks = sorted({mark for c in everything for mark in c.marks})
    phases = _PHASES if review.problem.workload.prompt_tokens else _PHASES[1:]
    return {
        "n_designs": len(designs),
        "name": column([c.name for c in everything]),
        "precision": column([c.precision for c in everything]),
        "arch": {name: column([_whole(c.architecture, name) for c in everything]) for name in _ARCH}
        | {"ffn": column([ffn_text(c.architecture) for c in everything]), "mixer": column([mixer_text(c.architecture) for c in everything]),
           "family": column([family_text(c.architecture) for c in everything])},
        "loss": column([significant(c.loss, 5) if c.loss_known else None for c in everything]),
        "loss_low": column([significant(c.intervals["loss"][0], 5) if c.loss_known else None for c in everything]),
        "loss_high": column([significant(c.intervals["loss"][1], 5) if c.loss_known else None for c in everything]),
        "values": {key: _numbers([c.values.get(key) for c in everything]) for key in keys},
        "down": {key: column([_share(c, key, 0) for c in everything]) for key in spans},
        "up": {key: column([_share(c, key, 1) for c in everything]) for key in spans},
        "p_budget": column([significant(c.p_budget, 3) for c in everything]),
        "p_front": column([significant(c.p_front, 3) for c in everything]),
        "marks": {"names": marks, "bits": column([sum(1 << marks.index(mark) for mark in c.marks) for c in everything])},
        "known": [
            {"note": known.note, "asked": known.baseline in review.frontier.baselines,
             "own_latency_s": _number(known.own_latency_s, 4),
             "at_latency": known.baseline.at_latency.to_json() if known.baseline.at_latency else None,
             "at_loss": known.baseline.at_loss.to_json() if known.baseline.at_loss else None}
            for known in review.known
        ],
        "configs": _configs(review, everything),
        "operators": {phase: _operators(review, everything, phase) for phase in phases},
    }  # fmt: skip


def _numbers(values: Sequence[float | None]) -> Any:
    """A column of positive figures; None where one is unknown."""
    if len(values) > _MANY and all(value is None or value > 0 for value in values):
        return pack([math.nan if value is None else value for value in values])
    return column([_number(value, 7) for value in values])


def _number(value: float | None, digits: int) -> float | int | None:
    return None if value is None else significant(value, digits)


def _share(candidate: Candidate, key: str, side: int) -> float | int | None:
    """An end of an interval over its value: equal for most designs, so that the column packs well."""
    if key not in candidate.intervals or not candidate.values.get(key):
        return None
    return significant(candidate.intervals[key][side] / candidate.values[key], 4)


def _configs(review: Review, everything: Sequence[Candidate]) -> list[dict[str, Any]]:
    """config.json of each, in groups with the same keys: columns by key."""
    workload = review.problem.workload
    positions = max(workload.max_context_tokens, 2048)
    bundled = set(known_models())
    groups: dict[tuple[str, ...], tuple[list[int], list[dict[str, Any]]]] = {}
    for i, c in enumerate(everything):
        if i >= len(review.frontier.candidates) and c.name in bundled:
            config = {key: value for key, value in known_config(c.name).items() if not key.startswith("_")}
        else:
            try:
                config = config_dict(c.architecture, max_position_embeddings=positions)
            except SpecError:  # a family that is read but not written
                continue
        rows, members = groups.setdefault(tuple(config), ([], []))
        rows.append(i)
        members.append(config)
    return [
        {"rows": rows, "keys": list(keys), "values": [column([config[key] for config in members]) for key in keys]}
        for keys, (rows, members) in groups.items()
    ]


def _operators(review: Review, everything: Sequence[Candidate], phase: Phase) -> dict[str, Any]:
    """Operators of a pass: for each name (in the order of the pass) how often it runs, by design; of the designs that have it
    (a count above zero) seconds, bytes, FLOP and bound.
    """
    workload = review.problem.workload
    breakdowns: list[dict[str, OperatorCost]] = []
    for c in everything:
        rows = review.models[c.precision].breakdown(c.architecture, workload, PRECISIONS[c.precision], phase)
        breakdowns.append({row.name: row for row in rows})
    names = list(dict.fromkeys(name for rows in sorted(breakdowns, key=len, reverse=True) for name in rows))
    there = {name: [rows[name] for rows in breakdowns if name in rows] for name in names}
    found: dict[str, Any] = {"names": names}
    found["count"] = [column([int(rows[n].count) if n in rows else 0 for rows in breakdowns]) for n in names]
    for key in ("seconds", "bytes_moved", "flop"):
        found[key] = [_work([getattr(row, key) for row in there[n]]) for n in names]
    found["bound"] = [column([row.bound for row in there[n]]) for n in names]
    return found


def _work(values: Sequence[float]) -> Any:
    """Packed; 0 where an operator does none of it in any design."""
    return pack(values) if any(value > 0 for value in values) else 0


def _whole(arch: Architecture, name: str) -> int:
    """A field as a number; the mean width of FFNs that differ."""
    return round(float(arch.d_ff_mean)) if name == "d_ff" else int(getattr(arch, name))
