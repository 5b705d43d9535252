"""Pruning of a space too large to enumerate: axis values that no near-optimal region uses are dropped, step by step.

GBDT-NAS's way (Luo et al. 2020, arXiv 2007.04785, Section 3.2): boosted trees learn what they can of a sample, the values that contribute
worst are dropped, the rest is sampled anew. There the target is one accuracy; here it is a distance to the frontier, because a value
can be poor for small models and the best for large ones:

    gap(x) = max over frontier points f of min over objectives k of ln(y_k(x) / f_k) / s_k,   between 0 and 1

with s_k the frontier's own span in ln y_k: the part of that span by which x would have to improve in every objective to be dominated by no
point of the frontier of what was tried; 1 where the budget is broken. In the place of their own value, designs near the frontier are given each other
value, and the trees say which values that suits worst. These are tried: the 25 designs predicted best with each. A value goes if none
of them comes near the frontier (a gap of at most `NEAR`), so fewer than the asked share may go; values next to one in use stay, since a
frontier's end needs several axes moved at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.errors import SpecError
from codesign.search.enumerate import enumerate_space
from codesign.search.evolve import evaluate_points
from codesign.search.front import Front
from codesign.search.frontier import Frontier
from codesign.search.problem import Problem
from codesign.search.space import AXES, DesignSpace

__all__ = ["Pruned", "gaps", "prune_for_search", "prune_space"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

STEPS = 3
_SAMPLE = 4000
_COARSE = 20_000
_TRIED = 400
_PROBES = 25
#: Gap up to which a design counts as near the frontier; and that of one that is impossible or breaks the budget.
NEAR = 0.03
_INFEASIBLE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What is left of a space.

    Attributes:
        space: With fewer values an axis. size_before: Points of the whole space. dropped: axis -> values that went, of axes that lost
            some. n_evaluated: Points tried.
    """

    space: DesignSpace
    size_before: int
    dropped: dict[str, tuple[Any, ...]]
    n_evaluated: int

    def describe(self) -> str:
        """One line: what went, and how much smaller the space is."""
        told = "; ".join(f"{axis} {_shown(values)}" for axis, values in self.dropped.items())
        return f"pruned from {self.size_before:.3g} to {self.space.size:.3g} points after {self.n_evaluated:,} evaluations; dropped: {told or 'nothing'}"

    def note(self, frontier: Frontier) -> Frontier:
        """The frontier with what was pruned in its certificate and its provenance."""
        facts = {
            "points_before": self.size_before, "points": self.space.size, "evaluations": self.n_evaluated,
            "dropped": {a: [_shown((v,)) for v in values] for a, values in self.dropped.items()},
        }  # fmt: skip
        certificate = f"{frontier.provenance['certificate']}, of the pruned space; {self.describe()}"
        return replace(frontier, provenance={**frontier.provenance, "certificate": certificate, "pruned": facts})


def prune_for_search(problem: Problem, fraction: float, solver: str, seed: int) -> tuple[Problem, Pruned]:
    """The problem on its pruned space, for a search that would not enumerate it.

    Raises:
        SpecError: The space would be searched exactly; see also `prune_space`.
    """
    from codesign.search.api import solves_exactly

    if solves_exactly(problem, solver):
        raise SpecError(
            f"a space of {problem.space.size:,} points is searched exactly; leave out --prune, which only a heuristic search needs"
        )
    pruned = prune_space(problem, fraction, seed=seed)
    return replace(problem, space=pruned.space), pruned


def _shown(values: tuple[Any, ...]) -> str:
    texts = [
        "dense"
        if v == (0, 0)
        else f"{v[0]}x{v[1]}"
        if isinstance(v, tuple)
        else f"{v:g}"
        if not isinstance(v, str)
        else v
        for v in values
    ]
    return ", ".join(texts) if len(texts) <= 8 else f"{len(texts)} values ({texts[0]}, {texts[1]}, ... {texts[-1]})"


def gaps(objectives: Array, front: Array) -> Array:
    """Distance of each row to a frontier, see the module; rows with inf get the distance of infeasible designs.

    Example:
        >>> gaps(np.array([[1.0, 4.0], [1.5, 5.0], [np.inf, np.inf]]), np.array([[1.0, 4.0], [2.0, 2.0]])).round(3).tolist()
        [0.0, 0.322, 1.0]
    """
    out = np.full(len(objectives), _INFEASIBLE)
    fine = np.isfinite(objectives).all(axis=1)
    span = np.maximum(np.ptp(np.log(front), axis=0), 1e-9)
    logs, best = np.log(objectives[fine]) / span, np.log(front) / span
    found = np.zeros(len(logs))
    for start in range(0, len(logs), 1024):  # (1024, frontier, objectives) at once
        part = logs[start : start + 1024]
        found[start : start + 1024] = (part[:, None, :] - best[None, :, :]).min(axis=2).max(axis=1)
    out[fine] = np.clip(found, 0.0, _INFEASIBLE)
    return out


def prune_space(
    problem: Problem,
    fraction: float,
    *,
    seed: int = 1,
    steps: int = STEPS,
    sample: int = _SAMPLE,
    on_progress: Callable[[int, int], Any] | None = None,
) -> Pruned:
    """Drop up to `fraction` of the axis values.

    Args:
        problem: What is searched. fraction: Of the values of all axes together, between 0 and 0.9.
        seed: Of samples and trees. steps: Rounds of sample, fit, drop. sample: Points tried a round, beside a coarse grid of 20,000.
        on_progress: Called with (done, all) rounds.

    Raises:
        SpecError: The fraction is out of range, or fewer than 3 designs of the coarse grid are on its frontier.
    """
    if not 0 < fraction <= 0.9:
        raise SpecError(
            f"--prune {fraction:g} must be above 0 and at most 0.9: the share of axis values that is dropped"
        )
    from codesign.predictors.trees import BoostedTrees

    rng = np.random.default_rng([seed, 11])
    space, front = problem.space, Front(len(problem.objectives))
    total = sum(space.lengths)
    n_evaluated = 0
    for step in range(steps):
        left = round(total * (1 - fraction * (step + 1) / steps))
        here = replace(problem, space=space)
        coarse = space.coarser(_COARSE)
        grid = enumerate_space(replace(problem, space=coarse), workers=1)
        near = _from_coarse(space, coarse, grid.front.index)
        if len(near) < 3:
            raise SpecError(
                f"{len(near)} designs of a coarse grid are on the frontier: too few to prune the space by; leave out --prune, or widen the budget"
            )
        chosen = np.concatenate(
            [rng.integers(0, space.lengths, size=(sample // 2, len(AXES))), _moved(rng, space, near, sample // 2)]
        )
        objectives, feasible = evaluate_points(here, chosen)
        n_evaluated += sample + grid.n_evaluated
        front.add(grid.front.points, np.arange(len(grid.front)))
        front.add(objectives[feasible], np.flatnonzero(feasible))
        rows = np.concatenate([chosen, near])
        gap = np.concatenate([gaps(objectives, front.points), gaps(grid.front.points, front.points)])
        varied = [i for i, length in enumerate(space.lengths) if length > 1]
        model = BoostedTrees(members=5, max_depth=6, max_rounds=400, learning_rate=0.15, patience=20, random_state=seed)
        model.fit(_features(space, rows)[:, varied], gap)
        best = np.unique(rows[gap <= NEAR], axis=0)

        def predict(points: Index, model: Any = model, space: DesignSpace = space, varied: Any = varied) -> Array:
            return np.asarray(model.predict(_features(space, points)[:, varied]))

        doubted = _doubted(space, best, predict, left, rng)
        tried = np.concatenate([points for _, _, points in doubted]) if doubted else np.empty((0, len(AXES)), np.int64)
        objectives, feasible = evaluate_points(here, tried)
        n_evaluated += len(tried)
        front.add(objectives[feasible], np.flatnonzero(feasible))
        nearest = gaps(objectives, front.points).reshape(len(doubted), -1).min(axis=1) if doubted else np.empty(0)
        gone = {(k, i) for (k, i, _), gap_ in zip(doubted, nearest, strict=True) if gap_ > NEAR}
        space = replace(
            space,
            axes={a: tuple(v for i, v in enumerate(space.axes[a]) if (k, i) not in gone) for k, a in enumerate(AXES)},
        )
        if on_progress is not None:
            on_progress(step + 1, steps)
    dropped = {a: tuple(v for v in problem.space.axes[a] if v not in space.axes[a]) for a in AXES}
    return Pruned(
        space=space,
        size_before=problem.space.size,
        dropped={a: v for a, v in dropped.items() if v},
        n_evaluated=n_evaluated,
    )


def _from_coarse(space: DesignSpace, coarse: DesignSpace, linear: Index) -> Index:
    """Axis indices in the space of points of its coarser subset, (m, axes)."""
    position = [[space.axes[axis].index(value) for value in coarse.axes[axis]] for axis in AXES]
    rows = [[position[k][i] for k, i in enumerate(coarse.indices(int(point)))] for point in linear]
    return np.asarray(rows, dtype=np.int64).reshape(len(rows), len(AXES))


def _features(space: DesignSpace, rows: Index) -> Array:
    """Numbers as their logs, experts as the count times 1000 and the active ones, names as their position, (rows, axes)."""
    columns = []
    for k, axis in enumerate(AXES):
        values = space.axes[axis]
        if isinstance(values[0], tuple):
            table = [1000.0 * value[0] + sum(value[1:]) for value in values]
        elif isinstance(values[0], str):
            table = list(range(len(values)))
        else:
            table = [math.log(v) if v > 0 else -1.0 for v in values]
        columns.append(np.asarray(table, dtype=float)[rows[:, k]])
    return np.stack(columns, axis=1)


def _moved(rng: np.random.Generator, space: DesignSpace, points: Index, count: int) -> Index:
    """Points with up to two axes set at random, (count, axes)."""
    rows: Index = points[rng.integers(len(points), size=count)].copy()
    for _ in range(2):
        axis = rng.integers(len(AXES), size=count)
        move = rng.random(count) < 0.75
        fresh = rng.integers(0, np.asarray(space.lengths)[axis])
        rows[np.flatnonzero(move), axis[move]] = fresh[move]
    return rows


def _doubted(
    space: DesignSpace, best: Index, predict: Callable[[Index], Array], left: int, rng: np.random.Generator
) -> list[tuple[int, int, Index]]:
    """Axis, position and the `_PROBES` best predicted designs of each value that may go: the worst predicted, until `left` values stay.

    Values of designs near the frontier stay, and on axes of numbers those next to them; the others are judged in the place of these
    designs' own.
    """
    found = []
    for k, axis in enumerate(AXES):
        own = set(best[:, k].tolist())
        ordered = not isinstance(space.axes[axis][0], (str, tuple))
        beside = {i + step for i in own for step in (-1, 1)} if ordered else set()
        for i in range(len(space.axes[axis])):
            if i in own | beside or len(space.axes[axis]) == 1:
                continue
            tried = np.concatenate([best, _moved(rng, space, best, _TRIED)])
            tried[:, k] = i
            order = np.argsort(predict(tried), kind="stable")
            found.append((float(predict(tried[order[:_PROBES]]).mean()), k, i, tried[order[:_PROBES]]))
    found.sort(key=lambda one: one[:3])
    spare = sum(space.lengths) - left
    return [(k, i, points) for _, k, i, points in found[max(len(found) - spare, 0) :]]
