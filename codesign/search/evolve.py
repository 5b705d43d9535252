"""Heuristic search for spaces too large to enumerate: NSGA-II or NSGA-III (pymoo), then local search.

The first population is the exact frontier of a coarser grid. Each generation draws from a random stream of its own
(seed, generation), so that the state between generations is the population alone and a killed search resumes with the
identical result. This file and `codesign.search.evolve_operators` alone import pymoo.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.errors import SchemaError
from codesign.search.enumerate import Progress, SearchResult, enumerate_space, fingerprint, save_state
from codesign.search.front import Front
from codesign.search.problem import Problem
from codesign.search.space import AXES, CATEGORIES, DesignSpace

__all__ = ["Evolution", "evolve_space"]

Index = NDArray[np.int64]
Array = NDArray[np.float64]

COARSE_POINTS = 200_000
#: Generations in a row without a point that is new after which a space counts as exhausted.
_STALE = 20
_WORST = 1e30  # objective of an infeasible point: dominated by everything


class Evolution:
    """Ask/tell: `ask()` gives axis indices (n, axes) to evaluate, `tell()` takes their objectives.

    Args:
        lengths: number of values of each axis.
        n_objectives: columns that `tell` gets.
        seed: of everything random. population: size. start: indices (m, axes) of the first population (warm start).
        categories: axes whose values have no order; repair: gives impossible points (n, axes) possible ones near by.

    Example:
        >>> evolution = Evolution((4, 4), n_objectives=2, seed=1, population=8)
        >>> for _ in range(5):
        ...     asked = evolution.ask()
        ...     evolution.tell(asked, np.stack([asked[:, 0], 3 - asked[:, 0] + asked[:, 1]], axis=1).astype(float))
        >>> sorted(evolution.front_points()[:, 0].tolist())
        [0.0, 1.0, 2.0, 3.0]
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        n_objectives: int,
        seed: int,
        population: int = 200,
        start: Index | None = None,
        categories: Sequence[int] = (),
        repair: Callable[[Index], Index] = lambda points: points,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.n_objectives, self.seed, self.population, self.generation = n_objectives, seed, population, 0
        self.categories = np.isin(np.arange(len(self.lengths)), categories)
        self.repair = repair
        self.x: Index = np.empty((0, len(self.lengths)), np.int64)
        self.f: Array = np.empty((0, n_objectives))
        self.start = start if start is not None else np.empty((0, len(self.lengths)), np.int64)

    def ask(self, elite: Index | None = None) -> Index:
        """Axis indices to evaluate next; the first call gives the start and random points beside it.

        elite: indices (m, axes) of the best points known, around which to search; by default the population's own.
        """
        rng = np.random.default_rng([self.seed, self.generation])
        if not len(self.x):
            fresh = rng.integers(0, self.lengths, size=(max(self.population - len(self.start), 0), len(self.lengths)))
            return np.concatenate([self.start, fresh]).astype(np.int64)
        offspring = self._algorithm(rng).ask()  # None where a small space leaves nothing new
        asked = np.empty((0, len(self.lengths)), np.int64) if offspring is None else np.asarray(offspring.get("X"))
        neighbours = self._neighbours(rng, self._elite() if elite is None else elite)
        asked = np.concatenate([asked.astype(np.int64).reshape(-1, len(self.lengths)), neighbours])
        if not len(asked):
            asked = rng.integers(0, self.lengths, size=(self.population, len(self.lengths)))
        return np.unique(self.repair(asked), axis=0)

    def tell(self, x: Index, f: Array) -> None:
        """Take the objectives (n, k) of asked points; infeasible ones as inf. Keeps the best `population` of all."""
        x = np.concatenate([self.x, x])
        f = np.concatenate([self.f, np.where(np.isfinite(f), f, _WORST)])
        _, first = np.unique(x, axis=0, return_index=True)
        first.sort()
        x, f = x[first], f[first]
        keep = self._survive(f, np.random.default_rng([self.seed, self.generation, 1]))
        self.x, self.f = x[keep], f[keep]
        self.generation += 1

    def front_points(self) -> Array:
        """Objectives of the population's non-dominated points."""
        front = Front(self.n_objectives)
        feasible = np.flatnonzero((self.f < _WORST).all(axis=1))
        front.add(self.f[feasible], feasible)
        return front.points

    def _pymoo(self) -> Any:
        from pymoo.core.problem import Problem as PymooProblem

        return PymooProblem(n_var=len(self.lengths), n_obj=self.n_objectives, xl=0, xu=self.lengths - 1, vtype=int)

    def _algorithm(self, rng: np.random.Generator) -> Any:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.algorithms.moo.nsga3 import NSGA3
        from pymoo.core.evaluator import Evaluator
        from pymoo.core.population import Population
        from pymoo.problems.static import StaticProblem

        from codesign.search.evolve_operators import Exchange, Reset

        operators = {
            "crossover": Exchange(self.categories),
            "mutation": Reset(self.categories, self.lengths),
            "eliminate_duplicates": True,
        }
        problem = self._pymoo()
        start = Population.new("X", self.x)
        if self.n_objectives > 2:
            directions = _directions(self.n_objectives, min(self.population, 100), self.seed)
            algorithm: Any = NSGA3(directions, pop_size=max(len(self.x), len(directions)), sampling=start, **operators)
        else:
            algorithm = NSGA2(pop_size=len(self.x), sampling=start, **operators)
        algorithm.setup(problem, seed=int(rng.integers(2**31)), verbose=False)
        first = algorithm.ask()
        known = {tuple(row): objectives for row, objectives in zip(self.x.tolist(), self.f, strict=True)}
        objectives = np.array([known[tuple(int(v) for v in row)] for row in first.get("X")])
        Evaluator().eval(StaticProblem(problem, F=objectives), first)
        algorithm.tell(infills=first)
        return algorithm

    def _elite(self) -> Index:
        front = Front(self.n_objectives)
        feasible = np.flatnonzero((self.f < _WORST).all(axis=1))
        front.add(self.f[feasible], feasible)
        return self.x[front.index]

    def _neighbours(self, rng: np.random.Generator, elite: Index) -> Index:
        """Local search: points of the elite with one to three axes moved by one to three values (categories: to any other)."""
        if not len(elite):
            return np.empty((0, len(self.lengths)), np.int64)
        base = elite[rng.integers(len(elite), size=self.population)]
        order = (rng.random(base.shape) + (self.lengths == 1)).argsort(axis=1).argsort(axis=1)
        moved = order < rng.integers(1, 4, size=(len(base), 1))
        steps = rng.integers(1, 4, size=base.shape) * rng.choice([-1, 1], size=base.shape)
        found: Index = np.clip(base + moved * steps, 0, self.lengths - 1)
        other = (base + rng.integers(1, np.maximum(self.lengths, 2), size=base.shape)) % self.lengths
        return np.where(moved & self.categories, other, found)

    def _survive(self, f: Array, rng: np.random.Generator) -> Index:
        """NSGA-II's survival: fronts in order, the last by crowding distance."""
        from pymoo.core.population import Population
        from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

        size = min(self.population, len(f))
        population = Population.new("F", f, "position", np.arange(len(f)))
        population.set("G", np.zeros((len(f), 0)))
        kept = RankAndCrowding().do(self._pymoo(), population, n_survive=size, random_state=rng)
        positions: Index = np.sort(np.asarray(kept.get("position"), dtype=np.int64))
        return positions


@cache
def _directions(n_objectives: int, count: int, seed: int) -> Array:
    """NSGA-III's reference directions: an optimisation of its own, seconds long."""
    from pymoo.util.ref_dirs import get_reference_directions

    return np.asarray(get_reference_directions("energy", n_objectives, count, seed=seed))


def evolve_space(
    problem: Problem,
    *,
    seed: int = 1,
    evaluations: int = 20_000,
    population: int = 200,
    state: Path | None = None,
    on_progress: Callable[[Progress], Any] | None = None,
) -> SearchResult:
    """Search a space that is too large to enumerate.

    Args:
        problem: what to search. seed: of everything random. evaluations: different points to evaluate after the coarse grid.
        population: kept between generations. state: file for resuming with the identical result.
        on_progress: called after each generation.

    Returns:
        The best frontier found (of a space no larger than the coarse grid the exact one), with the certificate ``heuristic: n different points ...``; fewer where the space has no more.

    Raises:
        SchemaError: the state file is corrupt.
    """
    coarse = problem.space.coarser(COARSE_POINTS)
    front = Front(len(problem.objectives))
    space = problem.space
    evolution = Evolution(
        space.lengths, n_objectives=len(problem.objectives), seed=seed, population=population,
        categories=[AXES.index(axis) for axis in CATEGORIES], repair=space.repaired,
    )  # fmt: skip
    identity = fingerprint(problem, f"evolve {seed} {evaluations} {population}") if state else ""
    feasible, seen = 0, set[int]()
    if state is not None and state.exists():
        feasible, seen = _load(state, identity, evolution, front)
    if not evolution.generation:
        exact = enumerate_space(_on(problem, coarse), workers=1)
        if coarse.size == space.size:  # nothing is left to search
            return exact
        start = _from_coarse(problem, coarse, exact.front.index)
        front.add(exact.front.points, np.array([problem.space.linear(row) for row in start.tolist()], dtype=np.int64))
        chosen = np.unique(np.linspace(0, len(start) - 1, min(len(start), population // 2)).astype(np.int64))
        evolution.start = start[chosen]
    stale = 0
    while len(seen) < evaluations and stale < _STALE:
        elite = np.array([problem.space.indices(int(i)) for i in front.index], dtype=np.int64)
        rng = np.random.default_rng([seed, evolution.generation, 2])
        asked, linear = _unseen(space, evolution.ask(elite.reshape(len(front), len(AXES))), seen)
        if len(asked) < population // 2:  # converged: look elsewhere, too
            fresh = space.repaired(rng.integers(0, space.lengths, size=(population, len(AXES))))
            asked, linear = _unseen(space, np.concatenate([asked, fresh]), seen)
        if len(asked) > evaluations - len(seen):  # any of them: they are in the order of their axes
            some = rng.permutation(len(asked))[: evaluations - len(seen)]
            asked, linear = asked[some], linear[some]
        stale = 0 if len(asked) else stale + 1
        objectives, ok = evaluate_points(problem, asked)
        evolution.tell(asked, objectives)
        front.add(objectives[ok], linear[ok])
        seen.update(linear.tolist())
        feasible += int(ok.sum())
        if state is not None:
            _save(state, identity, evolution, front, seen, feasible)
        if on_progress is not None:
            on_progress(Progress(done=len(seen), total=evaluations, front=len(front)))
    if state is not None and state.exists():
        state.unlink()
    certificate = (
        f"heuristic: {len(seen):,} different points of {problem.space.size:,} evaluated, seed {seed}, after all {coarse.size:,} of a coarser "
        f"grid (impossible ones counted in both); {len(front):,} on the frontier"
    )
    return SearchResult(front=front, n_evaluated=len(seen), n_feasible=feasible, exact=False, certificate=certificate)


def _unseen(space: DesignSpace, points: Index, seen: set[int]) -> tuple[Index, Index]:
    """Points (n, axes) that are not among the linear indices seen, each once, and their linear indices."""
    linear = np.ravel_multi_index(tuple(points.T), space.lengths)
    new = np.array([i not in seen for i in linear.tolist()], dtype=bool)
    new &= np.isin(np.arange(len(linear)), np.unique(linear, return_index=True)[1])
    return points[new], linear[new]


def _on(problem: Problem, space: Any) -> Problem:
    from dataclasses import replace

    return replace(problem, space=space)


def _from_coarse(problem: Problem, coarse: Any, index: Index) -> Index:
    """Axis indices in the full space of points of the coarser one."""
    rows = []
    for linear in index.tolist():
        values = [coarse.axes[axis][i] for axis, i in zip(AXES, coarse.indices(linear), strict=True)]
        rows.append([problem.space.axes[axis].index(value) for axis, value in zip(AXES, values, strict=True)])
    return np.asarray(rows, dtype=np.int64).reshape(len(rows), len(AXES))


def evaluate_points(problem: Problem, indices: Index) -> tuple[Array, NDArray[np.bool_]]:
    """Objectives (n, k) of arbitrary points, inf where infeasible, and which are feasible."""
    objectives = np.full((len(indices), len(problem.objectives)), np.inf)
    for precision, rows, arch, valid in problem.space.flat(indices):
        found = problem.evaluate(precision, arch, valid, (len(rows),), rows)
        objectives[found.index] = found.objectives
    return objectives, np.isfinite(objectives).all(axis=1)


def _hex(values: Array) -> list[list[str]]:
    return [[float(v).hex() for v in row] for row in values]


def _unhex(rows: list[list[str]], width: int) -> Array:
    return np.array([[float.fromhex(v) for v in row] for row in rows], dtype=float).reshape(len(rows), width)


def _save(path: Path, identity: str, evolution: Evolution, front: Front, seen: set[int], feasible: int) -> None:
    data = {
        "identity": identity, "seen": sorted(seen), "feasible": feasible,
        "generation": evolution.generation, "x": evolution.x.tolist(), "f": _hex(evolution.f),
        "index": front.index.tolist(), "points": _hex(front.points),
    }  # fmt: skip
    save_state(path, data)


def _load(path: Path, identity: str, evolution: Evolution, front: Front) -> tuple[int, set[int]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["identity"] != identity:
            return 0, set()
        k = evolution.n_objectives
        evolution.generation = data["generation"]
        evolution.x, evolution.f = np.array(data["x"], dtype=np.int64), _unhex(data["f"], k)
        front.index, front.points = np.array(data["index"], dtype=np.int64), _unhex(data["points"], k)
        if len(front.index) != len(front.points) or len(evolution.x) != len(evolution.f):
            raise ValueError("points and objectives differ in number")
        return int(data["feasible"]), {int(i) for i in data["seen"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"the search state {path} is corrupt ({error}); delete it to start again") from error
