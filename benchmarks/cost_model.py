"""How many architectures a second: the cost model alone, and the whole search.

python benchmarks/cost_model.py           seconds to a minute; --quick leaves out the space of 100 million points
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

from _machine import table, write  # before numpy: it pins the threads

# isort: split

import numpy as np

from codesign.architecture import Architecture, ArchitectureBatch
from codesign.budget import Budget
from codesign.devices import load_device
from codesign.predictors import load_law
from codesign.search import DesignSpace, Problem, build_problem, default_space
from codesign.search.enumerate import enumerate_space
from codesign.workload import PRECISIONS, Workload

CHUNK = 16_384
FORM, REQUEST = PRECISIONS["fp16"], Workload()


def best(work: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of several runs (the machine is shared)."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def problem(space: DesignSpace) -> Problem:
    return build_problem(
        device=load_device("orin"), engine="vllm", space=space, workload=REQUEST, budget=Budget(latency_s=0.02),
        law=load_law("gemstones"), tokens=10e9,
    )  # fmt: skip


def batch(rng: np.random.Generator, n: int, experts: bool) -> ArchitectureBatch:
    """Random depths, widths, heads and FFN widths, each its own array."""
    heads = rng.integers(4, 48, n)
    width = rng.integers(8, 160, n) * 64.0
    ffn = {"d_ff": 0, "n_experts": 8, "n_active_experts": 2, "d_ff_expert": width} if experts else {"d_ff": width}
    return ArchitectureBatch(
        n_layers=rng.integers(4, 81, n) * 1.0, d_model=heads * 64.0, n_heads=heads * 1.0, n_kv_heads=np.ones(n), d_head=64,
        vocab_size=50304, qk_norm="head", **ffn,
    )  # fmt: skip


def hundred_million() -> DesignSpace:
    """The default space with three precisions and 106 FFN ratios: just below what is searched exactly by default."""
    axes = dict(default_space(("fp16", "int8", "w4a16")).axes)
    axes["ffn_ratio"] = tuple(2.75 + 0.05 * i for i in range(106))
    return DesignSpace(axes=axes, name="100 million")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the space of 100 million points")
    parser.add_argument("--workers", type=int, default=2, help="processes of the large space")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    task = problem(default_space())
    model = task.models["fp16"]
    rows: list[list[object]] = []

    def row(what: str, count: int, seconds: float, note: str = "") -> float:
        rows.append([what, f"{count:,}", f"{seconds:.3g}", f"{count / seconds / 1e6:.3g}", note])
        return count / seconds

    dense = batch(rng, CHUNK, experts=False)
    mixed = batch(rng, CHUNK, experts=True)
    rounds = 50

    def flat(chunk: ArchitectureBatch) -> Callable[[], None]:
        def work() -> None:
            for _ in range(rounds):
                model.estimate(chunk, REQUEST, FORM, energy=False)

        return work

    fast = row(
        "flat batch, dense: prefill, decode, memory",
        rounds * CHUNK,
        best(flat(dense), 7),
        f"chunks of {CHUNK:,}; target 5",
    )
    row("flat batch, 8 experts top-2", rounds * CHUNK, best(flat(mixed), 7), f"chunks of {CHUNK:,}")

    models = [dense.pick((i,)) for i in range(300)]

    def loop(designs: list[Architecture]) -> None:
        for arch in designs:
            model.estimate(arch, REQUEST, FORM, energy=False)

    slow = row(
        "loop over Architecture objects", len(models), best(lambda: loop(models), 5), "the same function, one at a time"
    )

    blocks = [b for b in task.space.blocks() if b.valid.any()]
    points = sum(b.valid.size for b in blocks)

    def mesh() -> None:
        for block in blocks:
            model.estimate(block.arch, REQUEST, FORM, energy=False)

    row("open mesh of the default space", points, best(mesh, 3), "impossible points (heads that do not divide) counted")

    def whole() -> None:
        enumerate_space(task, workers=1)

    result = enumerate_space(task, workers=1)
    seconds = best(whole, 3)
    row("cost, bounds, loss and front of the default space", task.space.size, seconds, "all points; target 1")
    row("the same, possible architectures alone", result.n_evaluated, seconds, result.certificate)
    text = table(["what", "architectures", "seconds", "million a second", "note"], rows)
    text += f"\nOne core. A flat batch is {fast / slow:,.0f} times as fast as a loop over objects, by the same code.\n"
    if not options.quick:
        large = problem(hundred_million())
        start = time.perf_counter()
        found = enumerate_space(large, workers=options.workers)
        spent = time.perf_counter() - start
        own, theirs = (
            resource.getrusage(who).ru_maxrss / 1e3 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        text += (
            f"\nA space of {large.space.size:,} points on {options.workers} cores: {spent:.0f} s "
            f"({large.space.size / spent / 1e6:.3g} million points a second), peak {own:.0f} MB in the parent and "
            f"{theirs:.0f} MB in the largest worker.\nCertificate: {found.certificate}.\n"
        )
    write("benchmark_cost_model.md", "Speed of the cost model and of the exact search", text)


if __name__ == "__main__":
    main()
