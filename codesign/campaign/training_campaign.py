"""A training campaign: many runs, kept in the store as they end, resumed where they were, stopped early where hopeless.

What is finished is read from the store, what is under way from each run's folder: running the same campaign again continues
both. Decisions to stop are functions of the curves, so they come out the same again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from codesign.architecture import Architecture
from codesign.campaign.training_task import Execute, TrainingTask
from codesign.errors import MeasurementError
from codesign.training.spec import RunSpec
from codesign.training_run import CurvePoint, TrainingRun
from codesign.units import format_count

__all__ = ["Experiment", "RunStore", "TrainingCampaign", "TrainingOutcome", "TrainingProgress", "run_training"]


class RunStore(Protocol):
    """What a campaign needs of a store (`codesign.store.Store` has it)."""

    def add_runs(self, several: Iterable[TrainingRun]) -> object:
        """Keep records, all or none; they are durable when this returns."""
        ...

    def find_runs(self, *, key: Sequence[str]) -> Iterable[TrainingRun]:
        """The records of these experiments."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One run to be made: `key` as of `TrainingRun.key`, known before it is made; `flop` of its training."""

    key: str
    spec: RunSpec
    flop: float


class Judge(Protocol):
    """Which of several runs are worth going on with at a rung (`codesign.campaign.training_halving`)."""

    def __call__(
        self, curves: Sequence[Sequence[CurvePoint]], costs: Sequence[float], *, share: float
    ) -> Sequence[bool]:
        """One truth value a run, from the validation curves so far, the costs, and the share of the steps done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCampaign:
    """What is to be trained.

    Args:
        name: told by the records. experiments: what to train. folder: where each run has a folder of its own.
        rungs: shares of the steps, rising and below 1, at which hopeless runs are dropped; empty: none is.
        judge: which runs of one token count survive a rung, from their validation curves up to it and their costs.
        cost: of a model, the objective beside the loss.
    """

    name: str
    experiments: tuple[Experiment, ...]
    folder: Path
    rungs: tuple[float, ...] = ()
    judge: Judge | None = None
    cost: Callable[[Architecture], float] = lambda arch: float(arch.params_active_nonembedding)

    def run_folder(self, experiment: Experiment) -> Path:
        """Where a run keeps its checkpoint: campaigns that share a folder share their runs."""
        return self.folder / experiment.key

    def task(self, experiment: Experiment, until: float) -> TrainingTask:
        """Train it up to a share of its steps."""
        return TrainingTask(
            spec=experiment.spec, folder=str(self.run_folder(experiment)), root=str(self.folder), until=until
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """Runs ended and planned; what just happened, in words."""

    done: int
    total: int
    label: str


@dataclass(slots=True, kw_only=True)
class TrainingOutcome:
    """What became of a campaign: the record of each experiment by key, how many had ended before, and failures."""

    runs: dict[str, TrainingRun] = field(default_factory=dict)
    before: int = 0
    failed: list[tuple[Experiment, str]] = field(default_factory=list)

    def count(self, status: str) -> int:
        """How many runs have this status."""
        return sum(run.status == status for run in self.runs.values())


def run_training(
    campaign: TrainingCampaign,
    store: RunStore,
    execute: Execute,
    *,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainingOutcome:
    """Run what is missing of a campaign.

    Every run that ends (finished, diverged, or stopped) is in the store before the next thing happens.

    Raises:
        MeasurementError: every run that was tried failed; the first reason is given.
    """
    return _Running(campaign, store, execute, on_progress).run()


class _Running:
    """A campaign under way."""

    def __init__(
        self, campaign: TrainingCampaign, store: RunStore, execute: Execute,
        on_progress: Callable[[TrainingProgress], None] | None,
    ) -> None:  # fmt: skip
        self.campaign, self.store, self.execute, self.on_progress = campaign, store, execute, on_progress
        self.by_key = {experiment.key: experiment for experiment in campaign.experiments}
        self.runs = {run.key: run for run in store.find_runs(key=list(self.by_key))}
        self.alive = list(self.by_key)
        final = ("finished", "diverged", "stopped") if campaign.rungs else ("finished", "diverged")
        ended = [run for run in self.runs.values() if run.status in final]
        self.outcome = TrainingOutcome(runs=self.runs, before=len(ended))

    def run(self) -> TrainingOutcome:
        self.campaign.folder.mkdir(parents=True, exist_ok=True)
        for rung in self.campaign.rungs:
            self._train([key for key in self.alive if not self._reached(key, rung)], rung)
            self._drop(rung)
        self._train([key for key in self.alive if not self._reached(key, 1.0)], 1.0)
        return self.outcome

    def _train(self, keys: Sequence[str], until: float) -> None:
        if not keys:
            return
        self._tell("starting")
        failed = len(self.outcome.failed)

        def keep(task: TrainingTask, run: TrainingRun) -> None:
            if run.key not in self.by_key:  # as would be, on another machine's own text of the same name
                fail(task, MeasurementError(f"its text or tokenizer there is another ({run.data}, {run.data_digest})"))
                return
            run = replace(run, campaign=self.campaign.name)
            if run.status != "running":
                self.store.add_runs([run])
            self.runs[run.key] = run
            self._tell(_said(run))

        def fail(task: TrainingTask, error: Exception) -> None:
            key = Path(task.folder).name
            self.outcome.failed.append((self.by_key[key], str(error)))
            self.alive.remove(key)
            self._tell(f"failed: {error}")

        largest_first = sorted(
            (self.by_key[key] for key in keys), key=lambda e: -e.flop
        )  # the longest must not start last
        self.execute([self.campaign.task(experiment, until) for experiment in largest_first], keep, fail)
        if len(self.outcome.failed) - failed == len(keys) == len(self.by_key):
            raise MeasurementError(f"nothing could be trained: {self.outcome.failed[-1][1]}")

    def _reached(self, key: str, share: float) -> bool:
        run = self.runs.get(key)
        if run is None:
            return False
        recipe = run.recipe
        whole = math.ceil(share * recipe.steps - 1e-9) * recipe.batch_tokens
        return run.status in ("finished", "diverged") or (share < 1 and run.tokens_seen >= whole)

    def _drop(self, rung: float) -> None:
        """Stop the runs that did not survive a rung; runs of other token counts are other experiments."""
        self.alive = [key for key in self.alive if self.runs[key].status != "diverged"]
        judge = self.campaign.judge
        if judge is None:
            return
        stopped = []
        for count in sorted({self.runs[key].recipe.tokens for key in self.alive}):
            group = [key for key in self.alive if self.runs[key].recipe.tokens == count]
            curves = [_until(self.runs[key], rung) for key in group]
            costs = [self.campaign.cost(self.by_key[key].spec.architecture) for key in group]
            for key, survives in zip(group, judge(curves, costs, share=rung), strict=True):
                if not survives:
                    self.alive.remove(key)
                    if self.runs[key].status == "running":
                        why = f"at {rung:.0%} of its steps, a model of no more cost is ahead"
                        stopped.append(replace(self.runs[key], status="stopped", reason=why))
        if stopped:
            self.store.add_runs(stopped)
            self.runs.update((run.key, run) for run in stopped)
            self._tell(f"{len(stopped)} stopped at {rung:.0%}, {len(self.alive)} go on")

    def _tell(self, label: str) -> None:
        if self.on_progress is not None:
            ended = sum(run.status != "running" for run in self.runs.values()) + len(self.outcome.failed)
            self.on_progress(TrainingProgress(done=ended, total=len(self.by_key), label=label))


def _until(run: TrainingRun, share: float) -> tuple[CurvePoint, ...]:
    """The validation curve up to a share of the steps: what a decision there may know."""
    last = math.ceil(share * run.recipe.steps - 1e-9)
    return tuple(point for point in run.valid_curve if point.step <= last)


def _said(run: TrainingRun) -> str:
    a = run.architecture
    what = f"{a.n_layers} layers x {a.d_model}, {format_count(a.params_active_nonembedding)} parameters"
    if run.status == "finished":
        return f"{what}: loss {run.loss:.4f} in {run.seconds:.0f} s"
    if run.status == "diverged":
        return f"{what}: diverged, {run.reason}"
    return f"{what}: {run.tokens_seen / run.recipe.tokens:.0%}"
