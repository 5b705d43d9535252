"""Search of a pruned space against the whole one, at equal evaluations.

    python benchmarks/prune.py       about two minutes of one core; --seeds 1 for a quick look

An enumerable space: what share of the exact frontier the pruned space still holds, and its hypervolume ratio. A space too large to
enumerate: the hypervolume that the heuristic search reaches, of the best known (the union of all runs), with the evaluations of pruning
given to the search that does not prune. Reference 10 % beyond the worst values of the best known frontier.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

from _machine import table, write  # before numpy: it pins the threads

# isort: split

import numpy as np
from moocore import is_nondominated
from search_quality import problem as small_problem

from codesign.budget import Budget
from codesign.devices import load_device
from codesign.predictors import load_law
from codesign.search import DesignSpace, Problem, build_problem, default_space
from codesign.search.api import EXACT_LIMIT
from codesign.search.enumerate import enumerate_space
from codesign.search.evolve import evolve_space
from codesign.search.front import Front, hypervolume
from codesign.search.prune import prune_space
from codesign.search.space import AXES
from codesign.workload import Workload


def large_space() -> DesignSpace:
    """The default space at four precisions, width by 32 and FFN ratio by an eighth."""
    axes = dict(default_space(("fp16", "int8", "w8a16", "w4a16")).axes)
    axes["d_model"] = tuple(range(256, 3073, 32))
    axes["ffn_ratio"] = tuple(2.75 + 0.125 * i for i in range(43))
    return DesignSpace(axes=axes, name="large")


def large_problem(objectives: tuple[str, ...]) -> Problem:
    return build_problem(
        device=load_device("orin"), engine="vllm", space=large_space(), workload=Workload(), budget=Budget(latency_s=0.02),
        law=load_law("gemstones"), tokens=10e9, objectives=objectives,
    )  # fmt: skip


def reference_of(points: np.ndarray) -> np.ndarray:
    low, high = points.min(axis=0), points.max(axis=0)
    return high + 0.1 * (high - low)


def enumerable(seeds: int) -> str:
    rows = []
    for objectives in (("loss", "latency"), ("loss", "latency", "memory")):
        task = small_problem(objectives)
        exact = enumerate_space(task, workers=1).front
        reference = reference_of(exact.points)
        whole = hypervolume(exact.points, reference)
        places = [task.space.indices(int(i)) for i in exact.index]
        for fraction in (0.3, 0.6):
            kept, ratios, sizes = [], [], []
            for seed in range(1, seeds + 1):
                left = prune_space(task, fraction, seed=seed).space
                kept.append(
                    np.mean(
                        [
                            all(task.space.axes[a][k] in left.axes[a] for a, k in zip(AXES, p, strict=True))
                            for p in places
                        ]
                    )
                )
                found = enumerate_space(replace(task, space=left), workers=1).front
                ratios.append(hypervolume(found.points, reference) / whole)
                sizes.append(left.size / task.space.size)
            rows.append([", ".join(objectives), f"{fraction:g}", f"{statistics.mean(sizes):.1%}", f"{statistics.mean(kept):.1%}",
                         f"{min(kept):.1%}", f"{statistics.mean(ratios):.4f}"])  # fmt: skip
    head = ["objectives", "--prune", "points left", "exact frontier kept, mean", "least", "hypervolume ratio"]
    print(table(head, rows), flush=True)
    return f"## An enumerable space of {task.space.size:,} points\n\n" + table(head, rows)


def too_large(seeds: int, budgets: list[int]) -> str:
    task = large_problem(("loss", "latency"))
    runs: list[tuple[str, int, int, Front, float]] = []
    for seed in range(1, seeds + 1):
        for fraction in (None, 0.3, 0.6):
            start = time.process_time()
            pruned = prune_space(task, fraction, seed=seed) if fraction else None
            spent = time.process_time() - start
            for evaluations in budgets:
                start = time.process_time()
                here = replace(task, space=pruned.space) if pruned else task
                extra = 0 if pruned else 45_000  # what pruning tries, its coarse grids included
                result = evolve_space(here, seed=seed, evaluations=evaluations + extra)
                runs.append(
                    (
                        f"{fraction:g}" if fraction else "whole space",
                        evaluations,
                        seed,
                        result.front,
                        spent + time.process_time() - start,
                    )
                )
            if pruned:
                print(pruned.describe(), flush=True)
            if pruned and pruned.space.size <= EXACT_LIMIT:
                start = time.process_time()
                exact = enumerate_space(replace(task, space=pruned.space), workers=1)
                runs.append(
                    (
                        f"{fraction:g}, then enumerated",
                        exact.n_evaluated,
                        seed,
                        exact.front,
                        spent + time.process_time() - start,
                    )
                )
    points = np.concatenate([front.points for _, _, _, front, _ in runs])
    reference = reference_of(points[is_nondominated(points)])
    whole = hypervolume(points, reference)
    rows = []
    names = list(dict.fromkeys(n for n, *_ in runs))
    for name in names:
        for evaluations in budgets if "enumerated" not in name else [max(e for n, e, *_ in runs if n == name)]:
            mine = [
                (hypervolume(f.points, reference) / whole, s)
                for n, e, _, f, s in runs
                if n == name and (e == evaluations or "enumerated" in n)
            ]
            ratios = [r for r, _ in mine]
            rows.append(
                [
                    name,
                    f"{evaluations:,}",
                    f"{statistics.mean(ratios):.4f}",
                    f"{min(ratios):.4f}",
                    f"{statistics.mean(s for _, s in mine):.1f} s",
                ]
            )
    head = ["--prune", "evaluations after it", "hypervolume ratio, mean", "least", "time"]
    print(table(head, rows), flush=True)
    return f"## A space of {task.space.size:,} points, heuristic search\n\n" + table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[2000, 10_000])
    options = parser.parse_args()
    text = enumerable(options.seeds) + "\n\n" + too_large(options.seeds, options.evaluations)
    write("search_prune.md", "Pruning of the space", text)


if __name__ == "__main__":
    main()
