"""The heuristic search against the exact one, where both run.

    python benchmarks/search_quality.py       about two minutes; --seeds 1 for a quick look

Hypervolume ratio (reference 10 % beyond the worst values of the exact front; loss and latency as they are) and recall: the
share of the exact front's points that were found. Beside it NSGA-II (three objectives: NSGA-III) of pymoo alone: random start,
no coarse grid, no local search; all that it evaluated counts for its front too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from _machine import table, write  # before numpy: it pins the threads

# isort: split

import numpy as np

from codesign.budget import Budget
from codesign.devices import load_device
from codesign.predictors import load_law
from codesign.search import DesignSpace, Problem, build_problem, default_space
from codesign.search.enumerate import enumerate_space
from codesign.search.evolve import Evolution, evaluate_points, evolve_space
from codesign.search.front import Front, hypervolume
from codesign.workload import Workload


def space() -> DesignSpace:
    """Every second depth, every second width and seven FFN ratios of the default space, at two precisions."""
    axes = dict(default_space(("fp16", "w4a16")).axes)
    axes["n_layers"] = tuple(range(4, 81, 3))
    axes["d_model"] = tuple(range(256, 3073, 128))
    axes["ffn_ratio"] = (2.75, 3.25, 4.0, 5.0, 6.0, 8.0)
    axes["experts"] = ((0, 0), (8, 1), (8, 2), (16, 1), (16, 2), (32, 2), (64, 2))
    return DesignSpace(axes=axes, name="quality")


def problem(objectives: tuple[str, ...]) -> Problem:
    return build_problem(
        device=load_device("orin"), engine="vllm", space=space(), workload=Workload(), budget=Budget(latency_s=0.02),
        law=load_law("gemstones"), tokens=10e9, objectives=objectives,
    )  # fmt: skip


def plain(task: Problem, seed: int, evaluations: int) -> Front:
    """pymoo's algorithm alone, with an archive of everything that it evaluated."""
    evolution = Evolution(task.space.lengths, n_objectives=len(task.objectives), seed=seed, population=200)
    front, done = Front(len(task.objectives)), 0
    nobody = np.empty((0, len(task.space.lengths)), np.int64)
    while done < evaluations:
        asked = evolution.ask(nobody)[: evaluations - done]
        objectives, ok = evaluate_points(task, asked)
        evolution.tell(asked, objectives)
        front.add(objectives[ok], np.array([task.space.linear(row) for row in asked[ok].tolist()], dtype=np.int64))
        done += len(asked)
    return front


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[2000, 5000, 20_000])
    options = parser.parse_args()
    rows = []
    text = ""
    for objectives in (("loss", "latency"), ("loss", "latency", "memory")):
        task = problem(objectives)
        start = time.perf_counter()
        exact = enumerate_space(task, workers=1).front
        spent = time.perf_counter() - start
        low, high = exact.points.min(axis=0), exact.points.max(axis=0)
        reference = high + 0.1 * (high - low)
        whole, true = hypervolume(exact.points, reference), set(exact.index.tolist())
        coarse = task.space.coarser(200_000).size
        text += (
            f"\n{', '.join(objectives)}: {task.space.size:,} points, {len(exact)} on the exact front (found in {spent:.1f} s); the warm "
            f"start enumerates {coarse:,} of them, which is not counted among the evaluations.\n"
        )  # fmt: skip
        solvers: dict[str, Callable[[int, int], Front]] = {
            "codesign": lambda seed, n, task=task: evolve_space(task, seed=seed, evaluations=n).front,
            "plain": lambda seed, n, task=task: plain(task, seed, n),
        }
        for evaluations in options.evaluations:
            for name, solve in solvers.items():
                ratios, recalls, times = [], [], []
                for seed in range(1, options.seeds + 1):
                    start = time.perf_counter()
                    front = solve(seed, evaluations)
                    times.append(time.perf_counter() - start)
                    ratios.append(hypervolume(front.points, reference) / whole)
                    recalls.append(len(true & set(front.index.tolist())) / len(true))
                algorithm = "NSGA-II" if len(objectives) == 2 else "NSGA-III"
                shown = "warm start + local search" if name == "codesign" else f"{algorithm} alone"
                rows.append([len(objectives), f"{evaluations:,}", shown, f"{statistics.mean(ratios):.4f}", f"{min(ratios):.4f}",
                             f"{100 * statistics.mean(recalls):.0f} %", f"{100 * min(recalls):.0f} %", f"{statistics.mean(times):.1f}"])  # fmt: skip
                print(*rows[-1], sep="  ", flush=True)
    headings = [
        "objectives",
        "evaluations",
        "solver",
        "hypervolume ratio, mean",
        "lowest",
        "recall, mean",
        "lowest",
        "seconds",
    ]
    body = table(headings, rows) + text + f"\n{options.seeds} seeds each.\n"
    write("search_benchmark.md", "Heuristic against exact search", body)


if __name__ == "__main__":
    main()
