"""Halving for two objectives, replayed on curves that were trained to the end: what it saves, and what the frontier loses.

    python benchmarks/halving.py                      about a minute
    python benchmarks/halving.py --runs FILE.jsonl.gz  other runs: what codesign train --export wrote

Nothing is trained: a rule sees each curve up to a rung and says who goes on. Its constants were chosen on the published curves
(Gemstones) and on a pilot of 20 random models with 250 K tokens each, not on the campaign. Beside it: halving on the loss alone, halving by
non-dominated layers of (loss, cost) (MO-ASHA's ranking, arXiv 2106.12639), and random halving: keeping half at each rung, and
keeping as many as ours.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from _machine import RESULTS, table, write  # before numpy: it pins the threads

# isort: split

import numpy as np
from numpy.typing import NDArray

from codesign.campaign.training_halving import RUNGS, can_still_win
from codesign.store import read_runs_jsonl
from codesign.training_run import CurvePoint

Array = NDArray[np.float64]
SUBSETS = 200


@dataclass(frozen=True, slots=True)
class Curves:
    """Validation loss (runs, points) after `share` of the steps (points,); parameters and training FLOP (runs,)."""

    name: str
    share: Array
    loss: Array
    params: Array
    flop: Array

    def subset(self, rows: NDArray[np.int64]) -> Curves:
        return Curves(self.name, self.share, self.loss[rows], self.params[rows], self.flop[rows])


#: Which of the runs `alive` go on, from their losses so far (runs, points), and parameters.
Rule = Callable[[Array, Array, float, Array], NDArray[np.bool_]]


def ours(loss: Array, params: Array, rung: float, share: Array) -> NDArray[np.bool_]:
    curves = [
        [CurvePoint(step=i + 1, tokens=round(1e9 * s), train_loss=y, valid_loss=y, lr=0.0, seconds=0.0)
         for i, (s, y) in enumerate(zip(share.tolist(), row, strict=True))]
        for row in loss.tolist()
    ]  # fmt: skip
    return np.array(can_still_win(curves, params.tolist(), share=rung))


def layers(loss: Array, params: Array) -> Array:
    """Number of the non-dominated layer of (loss, parameters); within a layer, those far from others first."""
    last, left = loss[:, -1], np.ones(len(loss), dtype=bool)
    score = np.zeros(len(loss))
    layer = 0
    while left.any():
        rows = np.flatnonzero(left)
        own = rows[[not np.any((last[rows] < last[i]) & (params[rows] <= params[i])) for i in rows]]
        order = own[np.argsort(params[own])]
        x = np.log(params[order])
        gap = np.full(len(order), np.inf)
        gap[1:-1] = x[2:] - x[:-2]
        score[order] = layer + np.argsort(np.argsort(-gap, kind="stable")) / (len(order) + 1)
        left[own] = False
        layer += 1
    return score


def replay(curves: Curves, rule: Rule) -> tuple[NDArray[np.bool_], Array, list[int]]:
    """Survivors, share of its steps that each run was trained, and how many were kept at each rung."""
    n = len(curves.params)
    alive, spent, counts = np.arange(n), np.zeros(n), []
    for rung in RUNGS:
        spent[alive] = rung
        seen = curves.share <= rung * (1 + 1e-9)
        alive = alive[rule(curves.loss[alive][:, seen], curves.params[alive], rung, curves.share[seen])]
        counts.append(len(alive))
    spent[alive] = 1.0
    kept = np.zeros(n, dtype=bool)
    kept[alive] = True
    return kept, spent, counts


def frontier(loss: Array, params: Array) -> list[int]:
    members, least = [], math.inf
    for i in np.lexsort((loss, params)):
        if loss[i] < least:
            members.append(int(i))
            least = loss[i]
    return members


def judged(curves: Curves, kept: NDArray[np.bool_], spent: Array) -> tuple[float, float, float, float]:
    """FLOP saved; frontier members kept; hypervolume over the full one; mean excess loss at the full frontier's sizes."""
    final, x = curves.loss[:, -1], np.log(curves.params)
    full = frontier(final, curves.params)
    rows = np.flatnonzero(kept)
    reached = rows[frontier(final[rows], curves.params[rows])]
    corner = np.array([x.max() + 0.1 * np.ptp(x), final.max() + 0.1 * np.ptp(final)])

    def volume(members: Sequence[int]) -> float:
        """Area between a frontier (by rising size) and the corner."""
        total = 0.0
        for k, i in enumerate(members):
            right = x[members[k + 1]] if k + 1 < len(members) else corner[0]
            total += (right - x[i]) * (corner[1] - final[i])
        return total

    excess = []
    for i in full:
        smaller = rows[curves.params[rows] <= curves.params[i]]
        excess.append(final[smaller].min() / final[i] - 1 if len(smaller) else math.inf)
    saved = 1 - float((spent * curves.flop).sum() / curves.flop.sum())
    return (
        saved,
        len(set(full) & set(rows.tolist())) / len(full),
        volume(reached) / volume(full),
        float(np.mean(excess)),
    )


def compared(curves: Curves, seed: int, draws: int) -> dict[str, list[tuple[float, float, float, float]]]:
    """Each rule; the random ones `draws` times."""
    rng = np.random.default_rng(seed)
    kept, spent, counts = replay(curves, ours)
    found = {"can still win (codesign train)": [judged(curves, kept, spent)]}
    full = np.isin(np.arange(len(kept)), frontier(curves.loss[:, -1], curves.params))
    found["knowing the end: what could be saved"] = [judged(curves, full, np.where(full, 1.0, RUNGS[0]))]
    scores: dict[str, Callable[[Array, Array], Array]] = {
        "loss alone": lambda loss, _: np.asarray(loss[:, -1]),
        "non-dominated layers": layers,
        "random": lambda loss, _: rng.random(len(loss)),
    }
    for said in ("keeps half", "keeps as many"):
        for name, score in scores.items():
            judgements = []
            for _ in range(draws if name == "random" else 1):
                kept, spent, _ = replay(curves, _keeping(score, counts if said == "keeps as many" else None))
                judgements.append(judged(curves, kept, spent))
            found[f"{name}, {said}"] = judgements
    return found


def _keeping(score: Callable[[Array, Array], Array], counts: Sequence[int] | None) -> Rule:
    """The lowest scores go on: half of them, or so many at each rung."""
    left = None if counts is None else iter(counts)

    def rule(loss: Array, params: Array, rung: float, share: Array) -> NDArray[np.bool_]:
        count = math.ceil(len(params) / 2) if left is None else next(left)
        kept = np.zeros(len(params), dtype=bool)
        kept[np.argsort(score(loss, params), kind="stable")[:count]] = True
        return kept

    return rule


def gemstones(data: Path, schedule: str) -> Curves:
    runs: dict[tuple[float, ...], list[tuple[float, float]]] = defaultdict(list)
    with (data / "gemstones.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["schedule"] == schedule:
                size = float(row["params_nonembed_active"])
                runs[(size, float(row["n_layers"]))].append((float(row["tokens"]), float(row["loss"])))
    keys = sorted(runs)
    points = [sorted(runs[key]) for key in keys]
    tokens = np.array([t for t, _ in points[0]])
    params = np.array([key[0] for key in keys])
    loss = np.array([[y for _, y in row] for row in points])
    return Curves(f"Gemstones, {schedule}", tokens / tokens[-1], loss, params, params)


def of_runs(file: Path, name: str) -> Curves:
    from codesign.campaign.training_plan import training_flop

    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    runs = [run for run in read_runs_jsonl(text.decode("utf-8").splitlines(), str(file)) if run.status == "finished"]
    share = np.array([p.step / runs[0].recipe.steps for p in runs[0].valid_curve])
    loss = np.array([[p.valid_loss for p in run.valid_curve] for run in runs], dtype=np.float64)
    loss[:, -1] = [run.loss for run in runs]  # the final loss is on more text than the curve's last point
    params = np.array([float(run.architecture.params_active_nonembedding) for run in runs])
    flop = np.array([training_flop(run.architecture, run.recipe.tokens, run.recipe.seq_len) for run in runs])
    return Curves(name, share, loss, params, flop)


def section(curves: Curves) -> str:
    whole = compared(curves, 0, 200)
    rng = np.random.default_rng(1)
    size = 2 * len(curves.params) // 3
    parts: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for k in range(SUBSETS):
        one = curves.subset(np.sort(rng.permutation(len(curves.params))[:size]))
        for name, rows in compared(one, k, 5).items():
            parts[name].append(tuple(np.mean(rows, axis=0).tolist()))
    lines = []
    for name, rows in {"no halving": [(0.0, 1.0, 1.0, 0.0)], **whole}.items():
        mean = np.mean(rows, axis=0)
        excess = f"{100 * mean[3]:.2f} %" if math.isfinite(mean[3]) else "smallest lost"
        cells = [name, *(f"{100 * v:.1f} %" for v in mean[:3]), excess]
        if name in parts:
            m, worst = np.mean(parts[name], axis=0), np.min(np.array(parts[name])[:, 2])
            cells += [f"{100 * m[0]:.1f} %", f"{100 * m[1]:.1f} %", f"{100 * m[2]:.2f} %", f"{100 * worst:.1f} %"]
        else:
            cells += ["-"] * 4
        lines.append(cells)
    full = len(frontier(curves.loss[:, -1], curves.params))
    heads = ("rule", "FLOP saved", "frontier kept", "hypervolume", "excess loss", f"saved, {size} of them", "frontier kept",
             "hypervolume", "least hypervolume")  # fmt: skip
    return f"## {curves.name}: {len(curves.params)} models, {full} on the frontier\n\n{table(heads, lines)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/loss")
    parser.add_argument("--runs", type=Path, default=RESULTS / "training_runs.jsonl.gz")
    parser.add_argument("--pilot", type=Path, default=RESULTS / "training_pilot.jsonl.gz")
    given = parser.parse_args()
    body = __doc__.split("\n\n")[-1].strip() + "\n\n"
    body += (
        f"Rungs at {', '.join(f'{r:.0%}' for r in RUNGS)} of the steps; cost is the parameter count without embeddings. Hypervolume "
        "over (ln parameters, loss), reference 10 % beyond the worst, as a ratio to that of training all to the end. Excess loss: "
        "mean, over the sizes of the full frontier, of the best loss left at no more size over the frontier's. Gemstones' cost in FLOP is "
        "taken as proportional to parameters. Right: means over "
        f"{SUBSETS} random two thirds of the models, and the least hypervolume of them.\n\n"
    )
    body += (
        "Campaign and pilot: `codesign train --plan 44 --data stdlib --tokens 1M --min-params 30k --max-params 600k --seed 1 --no-halving` "
        "and `codesign train --random 20 --data stdlib --tokens 250k --max-params 250k --seed 7 --no-halving`. On Gemstones, nearly every "
        "model is on the frontier, so that nothing can be saved; what is tested there is that none is lost.\n\n"
    )
    body += section(of_runs(given.runs, "Campaign (test)"))
    if given.pilot.exists():
        body += section(of_runs(given.pilot, "Pilot (constants were chosen on it)"))
    if (given.data / "gemstones.csv").exists():
        body += section(gemstones(given.data, "constant_lr_no_cooldown"))
        body += section(gemstones(given.data, "constant_lr_half"))
    write("halving.md", "Halving for two objectives", body)


if __name__ == "__main__":
    main()
