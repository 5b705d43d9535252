"""Search on a table against random choice, NSGA-II, TPE and qLogNEHVI, on the complete NAS-Bench-201 with measured latencies.

    python benchmarks/table_search.py --data ../shared/data/nas/nb201_edge.csv           what is in results/table_search.*
    python benchmarks/table_search.py --data ... --methods random,codesign --seeds 1     a quick look

Needs `pip install optuna botorch` beside the extra `predictors` for the methods of those names; without them their rows are left
out. Every finished run is kept in --cache, one file each, so that the command can be interrupted and goes on.

All methods see the same: 15,625 cells as six operations, the latency of every cell, and the accuracy of those that they asked. They
start from 20 cells and ask in batches of 10 (TPE, which asks one by one: 1).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from _machine import RESULTS, table, write  # before numpy: it pins the threads

# isort: split

import numpy as np
from table_search_methods import FIRST, GATE, METHODS, Pair

from codesign.search.table_search import TableSearch

TARGETS = {100: 0.046, 200: 0.029}
#: Settings were chosen on the first two; the others were run once with the result.
PAIRS = {
    "development": (("cifar10_test", "pixel3"), ("in16_test", "eyeriss")),
    "test": (GATE, ("cifar100_test", "fpga"), ("in16_test", "raspi4"), ("cifar10_test", "essential_ph_1")),
}
MARKS = (60, 100, 150, 200)


def _file(cache: Path, pair: Pair, method: str, seed: int, evaluations: int) -> Path:
    return cache / f"{pair.name}-{method}-{seed}-{evaluations}.json"


def finished(cache: Path, pair: Pair, method: str, seed: int, evaluations: int) -> dict[str, Any] | None:
    """The kept run, or a new one; None where its package is missing."""
    file = _file(cache, pair, method, seed, evaluations)
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text())
        return kept
    start = time.process_time()
    try:
        asked = METHODS[method][1](pair, seed, evaluations)
    except ModuleNotFoundError as error:
        print(f"{method}: left out, the package '{error.name}' is not installed")
        return None
    assert len(set(asked)) == len(asked) == evaluations, (
        f"{method} asked {len(asked)} rows, {len(set(asked))} different"
    )
    marks = [n for n in MARKS if n <= evaluations]
    done = {
        "asked": asked, "cpu_s": round(time.process_time() - start, 2),
        "regret": {str(n): pair.truth.regret(np.array(asked[:n])) for n in marks},
        "loose": {str(n): pair.loose(asked[:n]) for n in marks},
    }  # fmt: skip
    cache.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(done))
    part.replace(file)
    print(
        pair.name, method, seed, {n: round(v, 4) for n, v in done["regret"].items()}, f"{done['cpu_s']} s", flush=True
    )
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="nb201_edge.csv")
    parser.add_argument("--cache", default="/tmp/codesign-table-search", help="folder of finished runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--other-seeds", type=int, default=5, help="seeds of the pairs beside the gate's")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--pairs", default="", help="such as cifar100_test-raspi4; default: all")
    parser.add_argument("--run-only", action="store_true", help="fill the cache, write no report")
    parser.add_argument("--cached-only", action="store_true", help="report the finished runs, start none")
    options = parser.parse_args()
    chosen = [name for name in METHODS if name in options.methods.split(",")]
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    pairs: dict[str, tuple[str, Pair]] = {}
    for kind, listed in PAIRS.items():
        for quality, device in listed:
            if options.pairs and f"{quality}-{device}" not in options.pairs.split(","):
                continue
            pair = Pair(options.data, quality, device)
            pairs[pair.name] = (kind, pair)
            for method in chosen:
                if method == "qlognehvi" and (quality, device) != GATE:
                    continue
                evaluations = 100 if method == "qlognehvi" else 200
                for seed in range(options.seeds if (quality, device) == GATE else options.other_seeds):
                    missing = (
                        options.cached_only
                        and not _file(Path(options.cache), pair, method, seed, evaluations).is_file()
                    )
                    done = None if missing else finished(Path(options.cache), pair, method, seed, evaluations)
                    if done is not None:
                        results.setdefault((pair.name, method), []).append(done)
    if not options.run_only:
        report(pairs, results)


def _mean(runs: list[dict[str, Any]], which: str, mark: int) -> str:
    values = [run[which][str(mark)] for run in runs if str(mark) in run[which]]
    if not values:
        return "–"
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{error}"


def report(pairs: dict[str, tuple[str, Pair]], results: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    body = ""
    lines = ["pair,method,seed,evaluations,regret,regret_all_rows"]
    for name, (kind, pair) in sorted(pairs.items(), key=lambda item: (item[0] != "-".join(GATE), item[1][0] != "test")):
        head = "the gate" if name == "-".join(GATE) else f"{kind} pair"
        body += f"\n## {name} ({head})\n\n{len(pair.table):,} usable cells"
        dropped = ", ".join(f"{count} {reason}" for reason, count in pair.table.dropped.items())
        body += f" (dropped: {dropped})" if dropped else ""
        body += f", {len(pair.truth.rows)} on the true front. Mean regret ± its standard error.\n\n"
        rows = []
        for method, (label, _) in METHODS.items():
            runs = results.get((name, method))
            if not runs:
                continue
            other = [_mean(runs, "loose", mark) for mark in (100, 200)]
            seconds = statistics.mean(run["cpu_s"] for run in runs)
            rows.append([label, len(runs), *(_mean(runs, "regret", mark) for mark in MARKS), *other, f"{seconds:.1f}"])
            for seed, run in enumerate(runs):
                lines += [f"{name},{method},{seed},{n},{v:.6f},{run['loose'][n]:.6f}" for n, v in run["regret"].items()]
        body += table(
            ["method", "seeds", *(f"{mark}" for mark in MARKS), "all rows, 100", "all rows, 200", "CPU s a run"], rows
        )
        if name == "-".join(GATE):
            body += _verdict(results.get((name, "codesign"), [])) + _intervals(
                pair, results.get((name, "codesign"), [])
            )
    (RESULTS / "table_search.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    gate = pairs.get("-".join(GATE))
    if gate is not None:
        picture(gate[1], results)
    write("table_search.md", "Search on a table", INTRODUCTION + body + NOTES)


def _verdict(runs: list[dict[str, Any]]) -> str:
    """The targets on the gate's pair, met or missed."""
    told = []
    for mark, target in TARGETS.items():
        values = [run["regret"][str(mark)] for run in runs]
        if values:
            mean = statistics.mean(values)
            told.append(
                f"after {mark} at most {target}: {'met' if mean <= target else '**missed**'} (mean {mean:.3f}, median "
                f"{statistics.median(values):.3f}, worst {max(values):.3f})"
            )
    return "\nTargets for codesign, mean of 10 seeds: " + "; ".join(told) + ".\n" if told else ""


def _intervals(pair: Pair, runs: list[dict[str, Any]]) -> str:
    """What 90 % intervals hold of the rows that were not asked: of all, and of those that could gain (better than the reference)."""
    told = []
    for mark in (100, 200):
        held: dict[str, list[float]] = {"all": [], "better": []}
        for seed, run in enumerate(runs):
            asked = np.array(run["asked"][:mark])
            known = np.isin(np.arange(len(pair.table)), asked)
            value = np.where(known, pair.table.value, np.nan)
            view = TableSearch(
                replace(pair.table, value=value, asked=known), pair.features, seed, FIRST, asked.tolist()
            ).predict()
            assert view.mean is not None and view.std is not None and view.reference is not None
            inside = np.abs(pair.table.value - view.mean) <= 1.645 * view.std
            held["all"].append(float(inside[~known].mean()))
            held["better"].append(float(inside[~known & (pair.table.value < view.reference[-1])].mean()))
        if runs:
            told.append(
                f"after {mark}, {statistics.mean(held['all']):.0%} of all and {statistics.mean(held['better']):.0%} of those that could gain"
            )
    return (
        f"\n90 % intervals of codesign hold, of the rows not asked (mean of {len(runs)} seeds): {'; '.join(told)}.\n"
        if told
        else ""
    )


INTRODUCTION = """Which of 15,625 cells to train next: accuracy is unknown until a cell was asked for, its latency is known.

![Regret against trainings](table_search.png)

**Regret**: 1 - HV(asked) / HV(true front), objectives scaled so that the true front spans 0 to 1, reference 1.1 in each. Cells whose accuracy
is at most twice that of guessing (no signal passes) are no part of the front; asking for them counts as a training. Of the definitions
that were tried this one gives what was published for random choice on CIFAR-100 and Raspberry Pi 4 (0.170 after 100, 0.132 after
200). The last columns scale by all usable rows instead, reference at their worst values (1, 1): there random choice already has
0.05 after 100 trainings, which tells methods apart badly.
"""

NOTES = """
Settings (cell counts, first batch, reference, where failed rows are cut, which predictors are mixed, the bolder part of a batch) were
chosen on the development pairs with seeds 0, 1, 2, 3, 6 and 8. Four earlier versions were run on the gate's pair; in them one or two of
ten seeds were late to find, or never found, the accurate half of the front, and looking into these runs is what led to the present cut,
to the random first batch and to the bolder part. So the gate's number is not from a pair that nobody had looked at.
The fifth and present version adds the process with a linear trend. The gate's stuck seeds prompted it; it was chosen on the development
pairs, with seeds from 100 on and 100 trainings, and then run on the gate's pair once. Mean regret without -> with it, same seeds:
cifar10_test-pixel3, 8 seeds (100 to 107): after 60 0.089 -> 0.092, after 100 0.051 -> 0.054, worst 0.076 -> 0.067; in16_test-eyeriss, 6 seeds
(100, 101, 102, 104, 108, 111): after 60 0.101 -> 0.072, after 100 0.040 -> 0.036; 2 more that were taken because they were the worst of
14 without it (109, 112): after 60 0.254 -> 0.122, after 100 0.094 -> 0.052. So it frees late seeds and is worth little elsewhere. A trend
in every process is worse on pixel3 (0.060 against 0.050 after 100, 5 seeds) and was dropped.
The data sets share their cells, and accuracies of the pairs are correlated: a test pair is another question, not an
independent table.

qLogNEHVI: one Gaussian process on one-hot operations for each objective, 32 quasi-random samples, batches of 10 picked greedily from 1,000 random
cells (a fresh thousand each batch; all 15,625 took too long), to 100 trainings, on the gate's pair only. NSGA-II and TPE do not
pay for a cell that they suggest again. "codesign" sees the same six operations, counted along the cell's paths
(`--cell none=0,layers=2+3`); "operations only" has them as labels, without the knowledge of what a cell is.
"""


def picture(pair: Pair, results: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """Mean regret against trainings on the gate's pair."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.8), dpi=130, layout="constrained")
    colours = ["#999999", "#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#0072B2"]
    for (method, (label, _)), colour in zip(METHODS.items(), colours, strict=True):
        runs = results.get((pair.name, method))
        if not runs:
            continue
        steps = np.arange(20, len(runs[0]["asked"]) + 1, 5)
        each = np.array([[pair.truth.regret(np.array(run["asked"][:n])) for n in steps] for run in runs])
        mean, error = each.mean(axis=0), each.std(axis=0, ddof=min(1, len(runs) - 1)) / len(runs) ** 0.5
        axes.plot(
            steps, mean, color=colour, lw=2 if method == "codesign" else 1.3, label=f"{label} ({len(runs)} seeds)"
        )
        axes.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.15, lw=0)
    axes.plot(list(TARGETS), list(TARGETS.values()), "k_", ms=14, mew=2, label="target")
    axes.set_yscale("log")
    axes.set_xlabel("cells trained")
    axes.set_ylabel("share of the hypervolume missed")
    axes.set_title("NAS-Bench-201, CIFAR-100 accuracy against latency on a Raspberry Pi 4")
    axes.grid(alpha=0.25, lw=0.5, which="both")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(RESULTS / "table_search.png")
    plt.close(figure)


if __name__ == "__main__":
    main()
