"""Several runs side by side: what differs between their inputs, whether their losses compare, and the best of each at equal budgets.

Losses compare only under one loss law, at one number of training tokens and with one vocabulary. Runs that share these three are
a group; no loss of one group is set against another's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from codesign.budget import FORMATS, Budget
from codesign.errors import CodesignError, SchemaError, SpecError
from codesign.predictors import load_law
from codesign.predictors.quantisation import quantisation_penalty
from codesign.report.words import COST_KEYS, mark_text
from codesign.search import Candidate, Frontier, read_frontier
from codesign.units import format_count
from codesign.workload import PRECISIONS

__all__ = ["MAX_RUNS", "Comparison", "Input", "Run", "Standing", "compare_runs", "read_runs"]

MAX_RUNS = 12
_Z90 = NormalDist().inv_cdf(0.95)
_TIMES = ("latency_s", "e2e_s", "ttft_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run by its folder's name (with its parent's, where two are called the same)."""

    name: str
    frontier: Frontier

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the run says of itself."""
        return self.frontier.provenance

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The designs of its frontier."""
        return self.frontier.candidates

    @property
    def best(self) -> Candidate:
        """The lowest predicted loss within its own budget."""
        return min(self.candidates, key=lambda c: c.loss)

    @property
    def vocab(self) -> int:
        """Rows of the embedding of every design."""
        return int(self.provenance["space"]["axes"]["vocab_size"][0])

    @property
    def loss_scale(self) -> tuple[str, str, float, int]:
        """What losses must share to compare: law (name and what it was fitted on), training tokens, vocabulary."""
        p = self.provenance
        return str(p["law"]["name"]), str(p["law"]["summary"]), float(p["tokens"]), self.vocab

    def within(self, key: str, bound: float) -> Candidate | None:
        """The lowest loss among its designs whose metric is at most the bound."""
        fitting = [c for c in self.candidates if key in c.values and c.values[key] <= bound]
        return min(fitting, key=lambda c: c.loss, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of the runs as text, in the order of the runs."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs do not share it."""
        return len(set(self.values)) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A run at one bound, against the first run of its group.

    design: its lowest loss within the bound, None if none fits; difference: its loss less the reference's, nats (None where either
    has none), with its 90 % interval (None where the law is not at hand); ratio: its metric over the reference's.
    """

    run: str
    bound: float
    design: Candidate | None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """runs; groups: names of runs whose losses compare; reasons: for each run after the first that does not compare with it, why;
    inputs; key: the metric of the bounds; bounds: every run's own, ascending; standings: by group, then bound.
    """

    runs: tuple[Run, ...]
    groups: tuple[tuple[str, ...], ...]
    reasons: Mapping[str, str] = field(hash=False)
    inputs: tuple[Input, ...]
    key: str
    bounds: tuple[float, ...]
    standings: tuple[tuple[Standing, ...], ...]

    def run(self, name: str) -> Run:
        """By name."""
        return next(run for run in self.runs if run.name == name)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs.

    Raises:
        SpecError: fewer than two, too many, or one twice; designs without a predicted loss. SchemaError: one is not a run, or has no designs.
    """
    if not 2 <= len(folders) <= MAX_RUNS:
        raise SpecError(
            f"{len(folders)} run(s) given; allowed: 2 to {MAX_RUNS}, such as codesign compare results/a results/b"
        )
    paths = [folder.resolve() for folder in folders]
    for path, given in zip(paths, folders, strict=True):
        if paths.count(path) > 1:
            raise SpecError(f"the run {given} is given twice; give each once")
    runs = []
    for path, given in zip(paths, folders, strict=True):
        if not path.exists():
            raise SchemaError(
                f"no run at {given}; give the folder that codesign search wrote (it holds frontier.jsonl)"
            )
        frontier = read_frontier(path)
        if not frontier.candidates:
            raise SchemaError(f"{given} holds no designs; run the search again")
        unknown = [c for c in frontier.candidates if not c.loss_known]
        if unknown:
            why = mark_text(next(m for m in unknown[0].marks if m.startswith("unpriced:")))[1]
            raise SpecError(
                f"{len(unknown)} of {len(frontier.candidates)} designs of {given} have no predicted loss ({why}), and losses are what is "
                "compared; compare such runs by the costs in their frontier.csv, or leave them out"
            )
        runs.append(Run(name=_name(path, paths), frontier=frontier))
    return runs


def _name(path: Path, others: Sequence[Path]) -> str:
    own = path if path.is_dir() else path.parent
    same = [p for p in others if (p if p.is_dir() else p.parent).name == own.name]
    return own.name if len(same) < 2 else f"{own.parent.name}/{own.name}"


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Everything that the page shows.

    Raises:
        SchemaError: a run's provenance lacks what a comparison needs.
    """
    try:
        scales: dict[tuple[str, str, float, int], list[str]] = {}
        for run in runs:
            scales.setdefault(run.loss_scale, []).append(run.name)
        inputs = tuple(_inputs(runs))
        key = _key(runs)
        bounds = _bounds(runs, key)
        by_name = {run.name: run for run in runs}
        standings = tuple(
            tuple(_standing(by_name[name], by_name[names[0]], key, bound) for bound in bounds for name in names)
            for names in scales.values()
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, CodesignError):
            raise
        raise SchemaError(
            f"a run's provenance cannot be used ({type(error).__name__}: {error}); run its search again"
        ) from error
    first = runs[0]
    reasons = {run.name: _reason(first, run) for run in runs[1:] if run.loss_scale != first.loss_scale}
    return Comparison(
        runs=tuple(runs), groups=tuple(tuple(names) for names in scales.values()), reasons=reasons, inputs=inputs, key=key,
        bounds=bounds, standings=standings,
    )  # fmt: skip


def _reason(first: Run, run: Run) -> str:
    """Why the losses of two runs do not compare, in one line."""
    (law, fit, tokens, vocab), (law2, fit2, tokens2, vocab2) = first.loss_scale, run.loss_scale
    parts = []
    if law != law2:
        parts.append(f"its loss law is {law2}, not {law}")
    elif fit != fit2:
        parts.append(f"its loss law {law2} is another fit")
    if tokens != tokens2:
        parts.append(f"it counts {format_count(tokens2)} training tokens, not {format_count(tokens)}")
    if vocab != vocab2:
        parts.append(f"its vocabulary has {vocab2:,} tokens, not {vocab:,}")
    return f"losses of {run.name} do not compare with those of {first.name}: {' and '.join(parts)}"


def _key(runs: Sequence[Run]) -> str:
    """The time that most of the runs bound or minimise, else the first cost that all have."""

    def score(key: str) -> int:
        return sum((key in run.provenance["budget"]) + (key in _minimised(run)) for run in runs)

    known = [
        key
        for key in (*_TIMES, "memory_B", "energy_J", "params")
        if all(key in c.values for run in runs for c in run.candidates)
    ]
    return max(known, key=lambda key: (score(key), -known.index(key)))


def _minimised(run: Run) -> set[str]:
    return {COST_KEYS[name] for name in run.provenance["objectives"] if name in COST_KEYS}


def _bounds(runs: Sequence[Run], key: str) -> tuple[float, ...]:
    """Each run's own bound (its best design's value where it has none), each once."""
    return tuple(sorted({float(run.provenance["budget"].get(key, run.best.values[key])) for run in runs}))


def _standing(run: Run, reference: Run, key: str, bound: float) -> Standing:
    design, base = run.within(key, bound), reference.within(key, bound)
    if design is None or base is None or run is reference:
        return Standing(run=run.name, bound=bound, design=design)
    return Standing(
        run=run.name, bound=bound, design=design, difference=design.loss - base.loss, interval=_interval(run, design, base),
        ratio=design.values[key] / base.values[key],
    )  # fmt: skip


def _interval(run: Run, design: Candidate, base: Candidate) -> tuple[float, float] | None:
    """90 % interval of the loss difference under the law that both share; None where the law is not here."""
    p = run.provenance
    try:
        law = load_law(str(p["law"]["name"]))
    except CodesignError:
        return None
    if law.summary() != p["law"]["summary"]:
        return None
    tokens = float(p["tokens"])
    _, std = law.difference(design.architecture, base.architecture, tokens)
    spread = float(np.asarray(std))
    if law.name != "paper":
        prices = [
            float(
                np.asarray(
                    quantisation_penalty(c.architecture.params_active_nonembedding, tokens, PRECISIONS[c.precision])[1]
                )
            )
            for c in (design, base)
        ]
        spread = math.hypot(spread, prices[0] - prices[1])
    difference = design.loss - base.loss
    return difference - _Z90 * spread, difference + _Z90 * spread


def _inputs(runs: Sequence[Run]) -> list[Input]:
    rows: list[tuple[str, list[str]]] = []
    for name, read in _READERS.items():
        rows.append((name, [read(run.provenance) for run in runs]))
    axes = dict.fromkeys(axis for run in runs for axis in run.provenance["space"]["axes"])
    for axis in axes:
        if axis not in ("precision", "vocab_size"):
            rows.append((f"space: {axis}", [_axis(run.provenance["space"]["axes"].get(axis, [])) for run in runs]))
    return [Input(name=name, values=tuple(values)) for name, values in rows]


def _axis(values: Sequence[Any]) -> str:
    """The values of an axis in few words, exact enough to tell two axes apart.

    Example:
        >>> _axis([4, 6, 8, 10]), _axis([1]), _axis(["dense", "8x2"])
        ('4 to 10 by 2', '1', 'dense, 8x2')
    """
    if len(values) > 3 and all(isinstance(v, (int, float)) for v in values):
        steps = {round(b - a, 9) for a, b in itertools.pairwise(values)}
        if len(steps) == 1:
            return f"{values[0]:g} to {values[-1]:g} by {steps.pop():g}"
    return ", ".join(f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in values)


def _budget(p: Mapping[str, Any]) -> str:
    return Budget(**{k: float(v) for k, v in p["budget"].items()}).describe() or "none"


def _workload(p: Mapping[str, Any]) -> str:
    w = p["workload"]
    return f"{w['prompt_tokens']:,} in, {w['output_tokens']:,} out, batch {w['batch_size']}"


_READERS: dict[str, Any] = {
    "device": lambda p: str(p["device"]["title"]),
    "power mode": lambda p: str(p["device"]["power_mode"] or "–"),
    "engine": lambda p: str(p["engine"]),
    "precision": lambda p: ", ".join(p["space"]["axes"]["precision"]),
    "budget": _budget,
    "workload": _workload,
    "loss law": lambda p: str(p["law"]["summary"] or p["law"]["name"]),
    "training tokens": lambda p: str(format_count(float(p["tokens"]))),
    "vocabulary": lambda p: f"{int(p['space']['axes']['vocab_size'][0]):,}",
    "objectives": lambda p: ", ".join(p["objectives"]),
    "designs outside the data": lambda p: "kept, marked" if p["allow_extrapolation"] else "left out",
    "search": lambda p: "exact" if p["exact"] else "heuristic",
    "memory free": lambda p: FORMATS["memory_B"](float(p["device"]["memory_usable_B"])),
    "calibration": lambda p: str(p["calibration"]).split(";")[0],
    "seed": lambda p: str(p["seed"]),
    "codesign": lambda p: str(p.get("codesign", "unknown")),
}  # fmt: skip
