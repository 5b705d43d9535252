"""Evolution over families: with operators that know categories and repair, and without, against the exact frontier.

    python benchmarks/search_families.py     # 3 minutes, one core; writes results/benchmark_search_families.md

36 million designs of five families on AGX Orin, 16k prompts, loss against latency and memory within 20 ms; small enough to enumerate, so
the frontier is known. Regret: share of its hypervolume that is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import moocore
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import codesign
from codesign.search import evolve
from codesign.search.enumerate import SearchResult, enumerate_space
from codesign.search.mixers import family_axes
from codesign.search.problem import Problem
from codesign.search.space import DesignSpace

OUT = Path(__file__).parent.parent / "results" / "benchmark_search_families.md"
FAMILIES = ["dense", "moe", "window", "hybrid", "recurrent"]
EVALUATIONS, SEEDS = (2000, 5000, 20000), range(1, 6)


def problem() -> Problem:
    space = codesign.default_space()
    experts, mixers = family_axes(FAMILIES, space.axes["experts"])
    return codesign.build_problem(
        device=codesign.load_device("orin"), engine="vllm", space=space.with_axis("experts", experts).with_axis("mixer", mixers),
        workload=codesign.Workload(prompt_tokens=16384), budget=codesign.Budget(latency_s=0.02), law=codesign.load_law("gemstones"),
        tokens=10e9, objectives=("loss", "latency", "memory"),
    )  # fmt: skip


@contextmanager
def unaware() -> Iterator[None]:
    """All axes as numbers, impossible points left as they are."""
    categories, repaired = evolve.CATEGORIES, DesignSpace.repaired
    evolve.CATEGORIES, DesignSpace.repaired = (), lambda self, points: points  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        evolve.CATEGORIES, DesignSpace.repaired = categories, repaired  # type: ignore[method-assign]


def main() -> None:
    one = problem()
    exact = enumerate_space(one, workers=1)
    low, high = exact.front.points.min(axis=0), 1.05 * exact.front.points.max(axis=0)

    def volume(found: SearchResult) -> float:
        return float(moocore.hypervolume((found.front.points - low) / (high - low), ref=np.ones(len(low))))

    whole = volume(exact)
    lines = [
        "# Evolution over families", "",
        "Made by `python benchmarks/search_families.py`: " + " ".join(__doc__.split("\n\n")[2].split()), "",
        f"{one.space.size:,} points, {len(exact.front):,} on the exact frontier, {len(SEEDS)} seeds.", "",
        "| evaluations | regret, family-aware | regret, unaware | possible and within the budget, aware | unaware |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for evaluations in EVALUATIONS:
        regrets: dict[str, list[float]] = {"aware": [], "unaware": []}
        feasible: dict[str, list[float]] = {"aware": [], "unaware": []}
        for seed in SEEDS:
            for name in regrets:
                if name == "aware":
                    found = evolve.evolve_space(one, seed=seed, evaluations=evaluations)
                else:
                    with unaware():
                        found = evolve.evolve_space(one, seed=seed, evaluations=evaluations)
                regrets[name].append(1 - volume(found) / whole)
                feasible[name].append(found.n_feasible / found.n_evaluated)
        cells = [f"{np.mean(regrets[n]):.4f} ({min(regrets[n]):.4f} to {max(regrets[n]):.4f})" for n in regrets]
        cells += [f"{np.mean(feasible[n]):.0%}" for n in feasible]
        lines.append(f"| {evaluations:,} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    OUT.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
