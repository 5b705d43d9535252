"""The same workload and budget on every device and power mode of the catalogue.

Each is scored with the engine that its calibration would take (`Calibration.engine_for`), twice: the designs of this run alone,
and with them those designs of the run's space that can be best anywhere (`pool_of`), since a faster board carries larger
designs than this run looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture, ArchitectureBatch, batch_key
from codesign.cache import kv_bytes_per_token
from codesign.devices import Device, load_catalogue
from codesign.errors import CodesignError
from codesign.operators import Phase, weight_bytes
from codesign.report.review import Review
from codesign.roofline.calibration import load_calibration
from codesign.search import Problem, build_problem
from codesign.search.marks import unlike_levels
from codesign.search.problem import metric, metric_log_sd
from codesign.workload import PRECISIONS

__all__ = ["TIME_KEYS", "UNMEASURED", "Alternative", "Choice", "Pool", "Stair", "alternatives", "pool_of", "time_key"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Group = tuple[str, ArchitectureBatch, Array, Ints]

#: Bounds that a slider may move, and the quantity of each.
TIME_KEYS = {"latency_s": "latency", "ttft_s": "ttft", "e2e_s": "e2e"}
_PHASES: dict[str, tuple[Phase, ...]] = {"latency": ("decode",), "ttft": ("prefill",), "e2e": ("decode", "prefill")}
_Z90 = NormalDist().inv_cdf(0.95)
POOL_SIZE = 5_000_000
#: What of a design may not have been measured on a device: marks S, M and X.
UNMEASURED = ("size", "experts", "mixer")
STEPS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Designs to try everywhere: by precision, architectures, their losses, and which of the run's designs each is (-1: none).

    thinned: the run's space was too large to look at every point.
    """

    groups: tuple[Group, ...] = field(hash=False)
    thinned: bool = False

    @property
    def n_searched(self) -> int:
        """Designs beside the run's own."""
        return sum(int((own < 0).sum()) for *_, own in self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One design on one device: value of the time that the slider moves, loss, mean power (nan: unknown), where it is in the pool
    (group, row), the run's design that it is (-1: none), how unlike the models measured there it is (`Problem.unlike`), and
    what was not measured there: of "size", "experts" and "mixer".
    """

    time_s: float
    loss: float
    power_W: float
    at: tuple[int, int]
    own: int
    unlike: int = 0
    unmeasured: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stair:
    """Designs in order of time; each has a lower loss than all before that are no more unlike what was measured there."""

    choices: tuple[Choice, ...]

    def within(self, bound: float, factors: Sequence[float] = (1.0, 1.0, 1.0)) -> Choice | None:
        """The lowest loss within a bound on the time, times the factor of each design's `Choice.unlike`."""
        fitting = [c for c in self.choices if c.time_s <= bound * factors[c.unlike]]
        return min(fitting, key=lambda c: c.loss, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A device at a power mode.

    level: index into `codesign.roofline.calibration.LEVELS`, the worse phase of those that the budget reads; rows: measurements of
    this device, engine and precision; width_log: half-width of the 90 % interval of ln(time), and factors: what tightens the bound
    so that it holds with the budget's confidence, for each `Choice.unlike`; searched, designs: stairs of the coarse search (the
    run's designs included) and of the run's designs alone; cap_W: power cap of the mode or TDP; metered: whether its power model is
    fitted on metered passes; here: the run's own. problem: its text where it could not be scored.
    """

    device: Device = field(hash=False)
    engine: str
    precision: str
    level: int
    rows: int
    width_log: tuple[float, ...]
    factors: tuple[float, ...]
    searched: Stair
    designs: Stair
    metered: bool = False
    here: bool = False
    problem: str = ""

    @property
    def cap_W(self) -> float | None:
        """Power cap of the mode; the TDP where it has none."""
        return self.device.power_limit_W

    def best(self, bound: float) -> Choice | None:
        """The lowest loss within a bound that must hold with the budget's confidence."""
        return self.searched.within(bound, self.factors)

    def interval(self, bound: float) -> tuple[float | None, float | None]:
        """Loss if times are at the short end of their 90 % interval, and at the long end (None: nothing fits then)."""
        fast, slow = (self.searched.within(bound, [math.exp(sign * w) for w in self.width_log]) for sign in (1, -1))
        return (fast.loss if fast else None), (slow.loss if slow else None)


def time_key(problem: Problem) -> str:
    """The time that the slider bounds: the first that the budget bounds, else the first among the objectives, else per token."""
    bounds = problem.budget.bounds()
    bounded = next((key for key in TIME_KEYS if key in bounds), None)
    wanted = next((key for key, name in TIME_KEYS.items() if name in problem.objectives), "latency_s")
    return bounded or wanted


def pool_of(review: Review, size: int = POOL_SIZE) -> Pool:
    """The run's designs, and those of its space that no other beats in everything that a device charges for.

    That is the loss, active parameters, bytes of weights, layers and bytes of KV cache a token. Under a roofline whose times grow
    with these, the best design within any budget is among them, but for small terms (activations, attention in prefill). Spaces
    of more than `size` points are thinned first.
    """
    problem = review.problem
    space = problem.space.coarser(size)
    found: dict[tuple[str, bool, str], tuple[list[Array], list[Ints]]] = {}
    for block in space.blocks():
        form = PRECISIONS[block.precision]
        mask = np.array(block.valid)
        if not problem.allow_extrapolation and mask.any():
            mask &= np.broadcast_to(problem.in_range(block.arch, block.precision), block.shape)
        if not mask.any():
            continue
        columns = (
            problem.loss(block.arch, form), block.arch.params_active, weight_bytes(block.arch, form), block.arch.n_layers,
            kv_bytes_per_token(block.arch, form) * block.arch.n_attention_layers,
        )  # fmt: skip
        points = np.stack([np.broadcast_to(np.asarray(c, dtype=float), block.shape)[mask] for c in columns], axis=1)
        alone = moocore.is_nondominated(points)
        key = (block.precision, bool(np.any(block.arch.n_experts)), block.mixer)
        rows, index = found.setdefault(key, ([], []))
        rows.append(points[alone])
        index.append(block.start + np.flatnonzero(mask)[alone])
    groups = []
    lengths = space.lengths
    for rows, index in found.values():
        alone = moocore.is_nondominated(np.concatenate(rows))
        chosen = np.stack(np.unravel_index(np.concatenate(index)[alone], lengths), axis=1)
        for precision, _, arch, _ in space.flat(chosen):
            n = len(np.atleast_1d(np.broadcast_to(arch.n_layers, arch.shape)))
            groups.append(_group(problem, precision, arch, np.full(n, -1)))
    own: dict[tuple[str, tuple[str, str]], list[int]] = {}
    for i, c in enumerate(review.frontier.candidates):
        own.setdefault((c.precision, batch_key(c.architecture)), []).append(i)
    for (precision, _), members in own.items():
        batch = ArchitectureBatch.of([review.frontier.candidates[i].architecture for i in members])
        groups.append(_group(problem, precision, batch, np.array(members)))
    return Pool(groups=tuple(groups), thinned=space.size < problem.space.size)


def _group(problem: Problem, precision: str, arch: ArchitectureBatch, own: Ints) -> Group:
    loss = np.broadcast_to(np.asarray(problem.loss(arch, PRECISIONS[precision]), dtype=float), own.shape)
    return precision, arch, loss, own


def alternatives(
    review: Review, pool: Pool, devices: Mapping[str, Device] | None = None, *, steps: int = STEPS
) -> list[Alternative]:
    """Every device and power mode, scored; the run's own with the run's own engine and rates.

    Args:
        devices: the catalogue by default. steps: most choices of a stair.
    """
    fits = load_calibration()
    found = []
    here = (review.device.name, review.power_mode)
    listed = dict(devices if devices is not None else load_catalogue())
    listed[review.device.name] = review.device
    for device in listed.values():
        modes: Sequence[str | None] = [mode.name for mode in device.power_modes] or [None]
        if device.name == here[0] and here[1] not in modes:
            modes = [here[1]]
        for mode in modes:
            own = (device.name, mode) == here
            found.append(
                _alternative(
                    review, pool, device if own or mode is None else device.with_power_mode(mode), fits, own, steps
                )
            )
    return found


def _alternative(review: Review, pool: Pool, device: Device, fits: Any, here: bool, steps: int) -> Alternative:
    problem, key = review.problem, time_key(review.problem)
    precisions = list(problem.models)
    problems: dict[str, tuple[str, Problem]] = {}
    why = ""
    for precision in precisions:
        engine = review.engine if here else fits.engine_for(device, PRECISIONS[precision])
        try:
            at = problem if here else build_problem(
                device=device, engine=engine, space=problem.space.with_axis("precision", (precision,)),
                workload=problem.workload, budget=problem.budget, law=problem.law, tokens=problem.tokens,
                objectives=problem.objectives, allow_extrapolation=problem.allow_extrapolation, calibration=fits,
            )  # fmt: skip
        except CodesignError as error:
            why = str(error)
            continue
        problems[precision] = (engine, at)
    choices: list[Choice] = []
    for number, group in enumerate(pool.groups):
        if group[0] in problems:
            choices += _choices(problems[group[0]][1], key, number, group)
    if not problems:
        return Alternative(device=device, engine="", precision=precisions[0], level=4, rows=0, width_log=(0.0,) * 3,
                           factors=(1.0,) * 3, searched=Stair(choices=()), designs=Stair(choices=()), here=here, problem=why)  # fmt: skip
    key_kind = TIME_KEYS[key]
    bound = problem.budget.bounds().get(key) or review.best.values[key]
    z = NormalDist().inv_cdf(problem.budget.confidence)
    spreads = {
        name: [metric_log_sd(key_kind, at.models[name].rates, unlike=how) for how in range(3)]
        for name, (_, at) in problems.items()
    }
    widths = {sd for sds in spreads.values() for sd in sds}
    kept = [bound * math.exp(f * sd) for sd in widths for f in (-z, 0.0, -_Z90, _Z90)] + [bound]
    searched = _stair(choices, kept, steps)
    lead = searched.within(bound) or (searched.choices[0] if searched.choices else None)
    precision = pool.groups[lead.at[0]][0] if lead else next(iter(problems))
    engine, at = problems[precision]
    rates, power = [at.models[precision].rates.of(phase) for phase in _PHASES[key_kind]], at.models[precision].power
    return Alternative(
        device=device, engine=engine, precision=precision, level=max(r.level for r in rates), rows=min(r.n_rows for r in rates),
        width_log=tuple(_Z90 * sd for sd in spreads[precision]), factors=tuple(math.exp(-z * sd) for sd in spreads[precision]),
        searched=searched, designs=_stair([c for c in choices if c.own >= 0], kept, steps), here=here,
        metered=power is not None and power.measured,
    )  # fmt: skip


def _choices(problem: Problem, key: str, number: int, group: Group) -> list[Choice]:
    """Designs of a group that keep every bound but the slider's, reduced to those that no faster one beats."""
    precision, arch, loss, own = group
    n, form = len(own), PRECISIONS[precision]
    estimate = problem.models[precision].estimate(arch, problem.workload, form)
    flags = problem.latency_outside(arch, precision)
    mask = np.ones(n, dtype=bool)
    if not problem.allow_extrapolation:
        for name, flag in flags.items():
            if not name.endswith("_here"):
                mask &= ~np.broadcast_to(np.asarray(flag), (n,)) | (own >= 0)
    unmeasured = {name: np.broadcast_to(np.asarray(flags.get(f"{name}_here", False)), (n,)) for name in UNMEASURED}
    how = np.broadcast_to(unlike_levels(flags), (n,))
    for kind, limit in problem.limits(precision).items():
        if kind != TIME_KEYS[key]:
            mask &= np.broadcast_to(metric(kind, arch, estimate) <= limit[how], (n,))
    times = np.broadcast_to(np.asarray(metric(TIME_KEYS[key], arch, estimate), dtype=float), (n,))
    watts = np.broadcast_to(np.asarray(estimate.power_W, dtype=float), (n,))
    kept: list[int] = []
    for level in range(3):
        here = mask & (how == level)
        for rows in (np.flatnonzero(here), np.flatnonzero(here & (own >= 0))):
            order = rows[np.lexsort((loss[rows], times[rows]))]
            if len(order):
                best = np.minimum.accumulate(loss[order])
                kept += [int(i) for i in order[np.concatenate(([True], best[1:] < best[:-1]))]]
    return [
        Choice(
            time_s=float(times[i]),
            loss=float(loss[i]),
            power_W=float(watts[i]),
            at=(number, i),
            own=int(own[i]),
            unlike=int(how[i]),
            unmeasured=tuple(name for name in UNMEASURED if unmeasured[name][i]),
        )
        for i in dict.fromkeys(kept)
    ]


def _stair(choices: Sequence[Choice], bounds: Sequence[float], steps: int) -> Stair:
    """Choices in order of time, none beaten by one that is no slower, no worse and no more unlike what was measured; of each level the
    best within each of `bounds` is kept, and of the others from an eighth to eight times the last bound as many as make its share of
    `steps`, evenly in the logarithm of the time; the fastest stays.
    """
    least = [math.inf] * 3
    levels: list[list[Choice]] = [[], [], []]
    for c in sorted(choices, key=lambda c: (c.time_s, c.loss, c.unlike)):
        if c.loss < min(least[: c.unlike + 1]):
            least[c.unlike] = c.loss
            levels[c.unlike].append(c)
    share = steps // max(sum(bool(level) for level in levels), 1)
    targets = [*bounds, *np.geomspace(bounds[-1] / 8, bounds[-1] * 8, max(share - len(bounds), 0))]
    found: list[Choice] = []
    for level in levels:
        if len(level) > share:
            times = np.array([c.time_s for c in level])
            kept = {0, *(int(np.searchsorted(times, target, side="right")) - 1 for target in targets)}
            level = [level[i] for i in sorted(kept) if i >= 0]
        found += level
    return Stair(choices=tuple(sorted(found, key=lambda c: (c.time_s, c.loss))))


def design_at(pool: Pool, at: tuple[int, int]) -> tuple[str, Architecture]:
    """Precision and architecture of a choice."""
    precision, arch, *_ = pool.groups[at[0]]
    return precision, arch.pick((at[1],))
