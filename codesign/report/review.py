"""What every section of the review page reads: the run, its problem built again, and known models scored the same way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codesign.devices import Device
from codesign.errors import CodesignError, SchemaError, SpecError
from codesign.hf_config import known_models, read_config
from codesign.predictors.priors import unpriced
from codesign.report.rebuild import Rebuilt, rebuild
from codesign.report.words import COST_KEYS, METRICS, SIZE_KEY
from codesign.roofline.cost import RooflineModel
from codesign.search import Baseline, Candidate, Frontier, Problem, read_frontier
from codesign.search.score import compare
from codesign.workload import PRECISIONS

__all__ = ["Known", "Review", "load_review"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A known model scored as the designs are, and what was changed for that (empty: nothing).

    own_latency_s: its time per token with its own vocabulary.
    """

    baseline: Baseline
    note: str = ""
    own_latency_s: float | None = None

    @property
    def candidate(self) -> Candidate:
        """Its figures."""
        return self.baseline.candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A run, ready to be shown.

    folder, name: of the run. frontier: as read. rebuilt: its problem (space, workload, budget, cost models by precision, loss
    law, tokens) and how well it gives the run's figures again. known: known models, those that the search named first.
    validation: what `codesign validate` wrote, or None.
    """

    folder: Path
    name: str
    frontier: Frontier
    rebuilt: Rebuilt
    known: tuple[Known, ...] = ()
    validation: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def problem(self) -> Problem:
        """What was searched."""
        return self.rebuilt.problem

    @property
    def models(self) -> Mapping[str, RooflineModel]:
        """The cost model of each precision."""
        return self.problem.models

    @property
    def device(self) -> Device:
        """At its power mode."""
        return next(iter(self.problem.models.values())).device

    @property
    def engine(self) -> str:
        """Its name."""
        return str(self.frontier.provenance["engine"])

    @property
    def cost_key(self) -> str:
        """The metric of the first objective that is a cost."""
        return next((COST_KEYS[name] for name in self.problem.objectives if name in COST_KEYS), "latency_s")

    @property
    def loss_known(self) -> bool:
        """Whether every design and every mixer of the space has a predicted loss; else the run is compared on cost alone."""
        return self.problem.loss_known and all(c.loss_known for c in self.frontier.candidates)

    @property
    def y_key(self) -> str:
        """What is drawn against the first cost: the loss, the size, or the second cost where neither is an objective."""
        costs = [COST_KEYS[name] for name in self.problem.objectives if name in COST_KEYS]
        if "loss" in self.problem.objectives:
            return "loss"
        return SIZE_KEY if "size" in self.problem.objectives else costs[1]

    @property
    def shade_key(self) -> str:
        """What decides between designs, and colours them: the loss, else the size if that was an objective, else the first cost."""
        if self.loss_known:
            return "loss"
        return SIZE_KEY if "size" in self.problem.objectives else self.cost_key

    def first(self, designs: Iterable[Candidate]) -> Candidate | None:
        """The design of the lowest predicted loss; in a run without predicted losses the largest, if that was an objective, or that of
        the lowest first cost.
        """
        if self.loss_known:
            return min(designs, key=lambda c: c.loss, default=None)
        sign = -1 if self.shade_key == SIZE_KEY else 1
        return min(designs, key=lambda c: sign * c.values[self.shade_key], default=None)

    @property
    def best_text(self) -> str:
        """In what `best` is best, in words."""
        if self.loss_known:
            return "lowest loss"
        return f"{'most' if self.shade_key == SIZE_KEY else 'lowest'} {METRICS[self.shade_key][0]}"

    @property
    def best(self) -> Candidate:
        """`first` of all designs; every design of the run is within the budget."""
        found = self.first(self.frontier.candidates)
        assert found is not None  # `load_review` refuses a run without designs
        return found

    @property
    def power_mode(self) -> str | None:
        """As the run has it."""
        mode = self.frontier.provenance["device"]["power_mode"]
        return str(mode) if mode else None


def load_review(folder: Path, *, law: str | None = None, calibration: Path | None = None) -> Review:
    """Read a run's folder and build its problem again.

    Args:
        law, calibration: see `rebuild`.

    Raises:
        SchemaError: not a run, a run without designs, or a validation that cannot be read.
        UnknownNameError: the run's loss law is not known here.
    """
    frontier = read_frontier(folder)
    if not frontier.candidates:
        raise SchemaError(f"{folder} holds no designs; run the search again")
    rebuilt = rebuild(frontier, law=law, calibration=calibration)
    path = folder if folder.is_dir() else folder.parent
    return Review(
        folder=path, name=path.absolute().name, frontier=frontier, rebuilt=rebuilt,
        known=_known(frontier, rebuilt.problem), validation=_validation(path / "validation.json"),
    )  # fmt: skip


def _known(frontier: Frontier, problem: Problem) -> tuple[Known, ...]:
    """The run's baselines, then every bundled model that fits the device's memory, with the run's vocabulary."""
    found = [Known(baseline=baseline) for baseline in frontier.baselines]
    names = {known.candidate.name for known in found}
    vocab = int(problem.space.axes["vocab_size"][0])
    precision = str(problem.space.axes["precision"][0])
    model, form = problem.models[precision], PRECISIONS[precision]
    scored = []
    for name in known_models():
        if name in names:
            continue
        own = read_config(name)
        if unpriced(own):  # no loss to place it by
            continue
        arch, note = own, ""
        if own.vocab_size != vocab:
            arch = replace(own, vocab_size=vocab)
            note = f"scored with this run's vocabulary of {vocab:,} in place of its own {own.vocab_size:,}"
        if float(model.estimate(arch, problem.workload, form).peak_memory_B) > problem.memory_B:
            continue
        try:
            baseline = compare(problem, name, arch, precision, frontier.candidates)
        except CodesignError:  # a law that cannot score this shape
            continue
        latency = float(model.estimate(own, problem.workload, form).decode_s)
        scored.append(Known(baseline=baseline, note=note, own_latency_s=latency))
    scored.sort(key=lambda k: k.candidate.values["latency_s"])
    return (*found, *scored)


def _validation(path: Path) -> Mapping[str, Any] | None:
    """Rows and summary of validation.json, checked; None where there is none.

    Raises:
        SchemaError: it is there and cannot be used.
    """
    if not path.is_file():
        return None
    hint = "run codesign validate again, or remove it"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != "codesign.validation" or data["version"] != 1:
            raise SpecError(f"it has schema {data['schema']!r}, version {data['version']!r}")
        for row in data["rows"]:
            low, high = row["interval_90"]
            if not all(float(v) > 0 for v in (row["predicted"], row["measured"], low, high)):
                raise SpecError("a time is not above zero")
            str(row["design"]), str(row["metric"]), bool(row["inside"]), float(row["error"])
        dict(data["summary"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"cannot read {path} ({type(error).__name__}: {error}); {hint}") from error
    checked: Mapping[str, Any] = data
    return checked
