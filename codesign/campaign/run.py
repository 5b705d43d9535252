"""A campaign: visits to many architectures, kept in the store, resumed where it was.

What is done is read from the store alone: running the same campaign again continues it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from codesign.architecture import Architecture
from codesign.campaign.plan import least_sure, space_filling
from codesign.errors import MeasurementError
from codesign.measurement import Measurement, Observation, observe
from codesign.operators import Phase
from codesign.profilers import Point, Task, TimingSettings
from codesign.profilers.compose import can_compose
from codesign.roofline.device_fit import Prior, pass_rows

__all__ = ["Campaign", "Outcome", "Progress", "Records", "belongs", "run_campaign"]

_FIRST = 8  # architectures that fill the space before the fitted model is asked
_BATCH = 4
_EXTRA = 2  # further visits to passes that do not repeat


class Records(Protocol):
    """What a campaign needs of a store (`codesign.store.Store` has it)."""

    def add(self, measurement: Measurement) -> object:
        """Keep a record; it is durable when this returns."""
        ...

    def find(self, *, campaign: str | None = None) -> Iterable[Measurement]:
        """The records of a campaign, in order."""
        ...


#: Runs tasks, here or elsewhere; calls back with each record, and with each task that failed and why.
Execute = Callable[[Sequence[Task], Callable[[Measurement], None], Callable[[Task, Exception], None]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is to be measured.

    Args:
        name: equal names share their records. architectures: either the models to measure, or the pool to plan from.
        plan: how many of the pool to measure; None: all, in order. precision, engine, engine_options, device, power_mode,
            points, settings: of every visit. engine_version, machine: records of others do not count as visits (empty: unknown).
            force, energy: see `Task`.
        visits: to each architecture at least, as far apart as the campaign is long. again_log: architectures with a pass
            whose two best visits differ by more (in ln seconds) get up to two more, if more than one was asked for.
        compose: measure depth 1 and a third of the depth instead of models of 8 layers or more. seed: of random weights and choices.
    """

    name: str
    architectures: Sequence[Architecture] = field(hash=False)
    plan: int | None = None
    precision: str
    engine: str
    engine_options: Mapping[str, str] = field(default_factory=dict, hash=False)
    engine_version: str = ""
    device: str
    machine: str = ""
    power_mode: str | None = None
    force: bool = False
    energy: bool = True
    points: tuple[Point, ...]
    settings: TimingSettings = TimingSettings()
    visits: int = 2
    again_log: float = 0.05
    compose: bool = False
    seed: int = 1

    def task(self, arch: Architecture) -> Task:
        """One visit."""
        deep = max(3, round(arch.n_layers / 3))  # noise of t(deep) - t(1) is stretched about threefold, not L / 2 times
        depths = (1, deep) if self.compose and arch.n_layers >= 8 and can_compose(arch) else None
        return Task(
            architecture=arch, precision=self.precision, engine=self.engine, engine_options=self.engine_options,
            points=self.points, device=self.device, power_mode=self.power_mode, campaign=self.name,
            settings=self.settings, depths=depths, force=self.force, energy=self.energy,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Visits done and planned (more may follow for what does not repeat), and what is measured now."""

    done: int
    total: int
    label: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a campaign did: architectures measured, records added now, and tasks that failed with the reason."""

    architectures: int = 0
    records: int = 0
    failed: list[tuple[Architecture, str]] = field(default_factory=list)


def run_campaign(
    campaign: Campaign,
    store: Records,
    execute: Execute,
    *,
    priors: Mapping[Phase, Prior],
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Run what is missing of a campaign.

    Planned campaigns choose 8 architectures spread over the space, then 4 at a time those whose measurement makes the
    predictions for the whole space surest. All architectures are visited once before any is visited again.

    Raises:
        MeasurementError: every task of a stage failed; the first reason is given.
    """
    state = _State(campaign, list(store.find(campaign=campaign.name)))
    outcome = Outcome()
    wanted = len(campaign.architectures) if campaign.plan is None else min(campaign.plan, len(campaign.architectures))
    total = wanted * campaign.visits

    def keep(record: Measurement) -> None:
        store.add(record)
        state.add(record)
        outcome.records += 1
        tell(record.label())

    def fail(task: Task, error: Exception) -> None:
        outcome.failed.append((task.architecture, str(error)))
        state.given_up.add(repr(task.architecture))
        tell(f"failed: {task.architecture.n_layers} layers x {task.architecture.d_model}")

    def tell(label: str) -> None:
        if on_progress is not None:
            done = sum(min(state.visits(a), campaign.visits) for a in state.known())
            done += campaign.visits * len(state.given_up)  # nothing more is to be done for them
            on_progress(Progress(done=done, total=max(total, done), label=label))

    def run(archs: Sequence[Architecture]) -> None:
        if not archs:
            return
        tell("starting")
        failed = len(outcome.failed)
        execute([campaign.task(arch) for arch in archs], keep, fail)
        if len(outcome.failed) - failed == len(archs) and not outcome.records:
            raise MeasurementError(f"nothing could be measured: {outcome.failed[-1][1]}")

    for batch in _stages(campaign, state, wanted, priors):
        run([arch for arch in batch if state.visits(arch) < 1])
        if not state.tried():
            raise MeasurementError("nothing was measured and nothing was reported to have failed; run with --debug")
    for visit in range(1, campaign.visits + 1):  # from 1: a killed process may have left a first visit half made
        run([arch for arch in state.known() if state.visits(arch) < visit])
    for visit in range(campaign.visits + 1, campaign.visits + 1 + (_EXTRA if campaign.visits > 1 else 0)):
        run([arch for arch in state.unsteady(campaign.again_log) if state.visits(arch) < visit])
    outcome.architectures = sum(state.visits(arch) > 0 for arch in campaign.architectures)
    return outcome


def _stages(
    campaign: Campaign, state: _State, wanted: int, priors: Mapping[Phase, Prior]
) -> Iterator[Sequence[Architecture]]:
    """Architectures to visit for the first time, stage by stage; each stage sees what the last one measured."""
    pool = list(campaign.architectures)
    if campaign.plan is None:
        yield pool
        return
    index = {repr(arch): i for i, arch in enumerate(pool)}
    while len(tried := [index[key] for key in state.tried() if key in index]) < wanted:
        missing = wanted - len(tried)
        rows = {phase: pass_rows(state.observations(), phase) for phase in priors}
        if len(tried) < _FIRST or not any(rows.values()):
            chosen = space_filling(pool, min(missing, max(_FIRST - len(tried), 1)), tried)
        else:
            chosen = least_sure(
                pool, rows, priors, campaign.precision, campaign.points, min(missing, _BATCH), skip=tried
            )
        if not chosen:
            return
        yield [pool[i] for i in chosen]


def belongs(m: Measurement, campaign: Campaign) -> bool:
    """Whether a record is of what the campaign measures: two campaigns may have been given one name, or the engine be new.

    Options that the campaign does not name are the engine's own choice; so is a version that it does not know.
    """
    if campaign.engine_version and m.engine_version != campaign.engine_version:
        return False
    if campaign.machine and m.machine and m.machine != campaign.machine:
        return False
    same = all(getattr(m, name) == getattr(campaign, name) for name in ("precision", "engine", "device", "power_mode"))
    return same and all(m.options.get(name, value) == value for name, value in campaign.engine_options.items())


class _State:
    """The records of a campaign by architecture."""

    def __init__(self, campaign: Campaign, records: Sequence[Measurement]) -> None:
        self._points = campaign.points
        self._allowed = {repr(arch) for arch in campaign.architectures}
        self._records: dict[str, list[Measurement]] = {}
        self.given_up: set[str] = set()
        for record in records:
            if belongs(record, campaign):
                self.add(record)

    def add(self, record: Measurement) -> None:
        self._records.setdefault(repr(record.architecture), []).append(record)

    def visits(self, arch: Architecture) -> int:
        """Visits in which every pass was recorded."""
        counts = dict.fromkeys(self._points, 0)
        for m in self._records.get(repr(arch), []):
            point = Point(phase=m.phase, batch_size=m.batch_size, tokens=m.tokens, context_tokens=m.context_tokens)
            if point in counts:
                counts[point] += 1
        return min(counts.values())

    def tried(self) -> list[str]:
        """Architectures of the campaign that were measured or given up, in order."""
        return [*(key for key in self._records if key in self._allowed and key not in self.given_up), *self.given_up]

    def known(self) -> list[Architecture]:
        """Architectures of the campaign that have records (not the shallow ones that others are composed of)."""
        return [
            records[0].architecture
            for key, records in self._records.items()
            if key in self._allowed and key not in self.given_up
        ]

    def observations(self) -> list[Observation]:
        """What the visits so far say."""
        return list(observe(m for key, part in self._records.items() if key in self._allowed for m in part))

    def unsteady(self, limit: float) -> list[Architecture]:
        """Architectures with a pass whose two best visits lie further apart than `limit`."""
        worst: dict[str, float] = {}
        for o in observe(m for key, part in self._records.items() if key in self._allowed for m in part):
            key = repr(o.first.architecture)
            if math.isfinite(o.again_log):
                worst[key] = max(worst.get(key, 0.0), o.again_log)
        return [arch for arch in self.known() if worst.get(repr(arch), 0.0) > limit]
