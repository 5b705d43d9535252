"""The report and the picture of training_validation.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from training_scores import COUNTS, DRAWS, LARGE, PART, REFERENCE, SMALL, Campaign, front, planned, predictions

from codesign.predictors.staged import Score
from codesign.units import format_count, format_seconds

Array = np.ndarray


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def score_table(found: Sequence[Score]) -> str:
    def share(v: float, digits: int = 0) -> str:
        return "" if not math.isfinite(v) else f"{100 * v:.{digits}f}"

    header = ("predictor", "MAE, nats", "relative, %", "Kendall tau", "80 % holds, %", "90 % holds, %")
    return markdown(
        header,
        [
            (s.name, f"{s.mae:.4f}", share(s.relative, 2), f"{s.tau:.3f}", share(s.coverage80), share(s.coverage90))
            for s in found
        ],
    )


def verdict_left_out(found: Sequence[Score]) -> str:
    by = {s.name: s for s in found}
    ours, power, count = (
        by[n] for n in ("**selection**", "power law in parameters alone", "parameters alone (isotonic)")
    )
    return (
        f"The selection errs {100 * ours.relative:.2f} % where a power law in parameters alone errs {100 * power.relative:.2f} %; it ranks with tau "
        f"{ours.tau:.3f}, the parameter count with {count.tau:.3f}. Its 90 % interval holds {100 * ours.coverage90:.0f} %"
        + ("." if 0.85 <= ours.coverage90 <= 0.95 else ": outside the aim of 85 to 95 %.")
    )


def verdict_larger(found: Sequence[Score]) -> str:
    by = {s.name: s for s in found}
    ours, power = by["**selection**"], by["power law in parameters alone"]
    least = min((s for s in found if not s.name.startswith(("power", "parameters", "**"))), key=lambda s: s.relative)
    return (
        f"The aim of at most 1 % on the largest is {'met' if ours.relative <= 0.01 else 'missed'} by the selection ({100 * ours.relative:.2f} %). Least among "
        f"the predictors is {least.name} ({100 * least.relative:.2f} %); the power law in parameters alone has {100 * power.relative:.2f} %."
    )


def verdict_fronts(rows: Sequence[dict[str, Any]]) -> str:
    by = {(r["part"], r["cost"], r["way"]): r["regret"] for r in rows}
    cases = list(dict.fromkeys((r["part"], r["cost"]) for r in rows))
    pairs = [(by[(*c, "surrogate")], by[(*c, "parameters alone")], by[(*c, "none: the trained ones")]) for c in cases]
    better, worse = sum(s < p - 5e-5 for s, p, _ in pairs), sum(s > p + 5e-5 for s, p, _ in pairs)
    return (
        f"Of {len(pairs)} cases the surrogate's regret is below that of the trained models alone in {sum(s < n for s, _, n in pairs)}; against a power law in "
        f"parameters alone it is lower in {better} and higher in {worse}."
    )


def report(campaign: Campaign, found: dict[str, Any], name: str) -> str:
    runs, first = campaign.runs, campaign.runs[0]
    size = campaign.costs["parameters"]
    recipe = first.recipe
    seconds = sum(run.seconds for run in runs)
    dates = sorted(run.created_at for run in runs if run.created_at)
    fronts = [
        (
            r["part"],
            r["cost"],
            r["way"],
            f"{r['regret']:.4f}",
            f"{r['recall']:.2f}",
            f"{r['precision']:.2f}",
            f"{r['members']:.1f}",
        )
        for r in found["fronts"]
    ]
    curve = [
        (
            str(r["count"]),
            r["order"],
            f"{100 * r['relative']:.2f}",
            f"{100 * r['worst']:.2f}",
            f"{r['tau']:.3f}",
            f"{100 * r['share']:.0f}",
        )
        for r in found["curve"]
    ]
    true = {cost: int(front(campaign.loss, values).sum()) for cost, values in campaign.costs.items()}
    chosen = ", ".join(f"{who} ({n} of 5)" for who, n in sorted(found["chosen"].items(), key=lambda kv: -kv[1]))
    again = found["largest"]
    return f"""# A campaign of {len(runs)} small language models, trained here

Made by `python tools/training_validation.py {name}` from runs that `codesign train` made and exported (`codesign train --export`).
{len(runs)} decoders of {format_count(size.min())} to {format_count(size.max())} parameters without embeddings, {format_count(recipe.tokens)} tokens each of
{first.data} ({first.tokenizer}); AdamW, {recipe.batch_tokens:,} tokens a step, peak learning rate by width, cosine. Campaign
`{first.campaign}`{f"; {campaign.stopped} other runs did not finish" if campaign.stopped else ""}. Losses are on held-out text, nats per token: {campaign.loss.min():.3f} to {campaign.loss.max():.3f}.

## What it took

Training took {format_seconds(seconds)} of one thread, evaluations left out ({format_seconds(seconds / len(runs))} a model, {format_seconds(max(r.seconds for r in runs))} the longest).
{f"The first run ended at {dates[0][:16]}, the last at {dates[-1][:16]} (UTC)." if dates else ""} The machine has 2 cores and other work ran beside it.

## Shapes left out

Five folds of whole shapes, each left out once; selection, intervals and laws see the other four alone. In use: {chosen}.

{score_table(found["left_out"])}

{verdict_left_out(found["left_out"])}

## Smaller models predict larger ones

Fitted on the smallest {SMALL} (up to {format_count(size[SMALL - 1])}), scored on the largest {LARGE} ({format_count(size[-LARGE])} to {format_count(size[-1])}); the interval of the
selection beyond the data widens with the distance. In use: {again["chosen"]} inside the data, {again["beyond"]} beyond.

{score_table(again["scores"])}

{verdict_larger(again["scores"])} The isotonic curve in the parameter count cannot fall below the best loss that it has seen; the power law can.

## The frontier found

{PART} or {SMALL} models count as trained, the losses of the others are predicted, and the frontier of both is compared with that of all
{len(runs)} measured losses ({true["parameters"]} members in parameters, {true["host latency"]} in predicted latency per token on the host CPU of results/host_cpu.md, fp32,
prompt 128). Regret: hypervolume that the members (at their true losses) lack of the true frontier's, loss and ln(cost) scaled to 0..1
over all models, reference ({REFERENCE}, {REFERENCE}). Recall: share of the true members that were named; precision: share of the named that are true.

{markdown(("trained", "cost", "predictions for the rest", "regret", "recall", "precision", "members"), fronts)}

{verdict_fronts(found["fronts"])}
The cost model was calibrated on models of {format_count(campaign.measured[0])} to {format_count(campaign.measured[1])} parameters, so latencies of models this small are its extrapolation (mostly
overheads); both frontiers use the same ones.

## How many models it takes

Error on models that are never trained on (every fourth by size, each quarter in turn), against the number of others that are.
Planned: in the order of `codesign train --plan`; random: mean of {DRAWS} draws. FLOP: share of training all.

{markdown(("models", "order", "relative error, %", "worst, %", "Kendall tau", "FLOP, %"), curve)}

![four plots](training_campaign.png)
"""


def plot(campaign: Campaign, found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 8), constrained_layout=True)
    size, loss = campaign.costs["parameters"], campaign.loss
    blue, orange, grey = "#1f5fa8", "#d1701c", "#9a9a9a"
    a = axes[0, 0]
    mean, low, high = found["largest"]["curve"]
    rest = np.arange(SMALL, loss.size)
    a.plot(size[:SMALL], loss[:SMALL], "o", color=grey, ms=4, label=f"trained, the smallest {SMALL}")
    a.errorbar(
        size[rest],
        mean[rest],
        yerr=[mean[rest] - low[rest], high[rest] - mean[rest]],
        fmt="s",
        color=blue,
        ms=4,
        lw=1,
        capsize=2,
        label="predicted from them, 90 % interval",
    )
    a.plot(size[rest], loss[rest], "x", color=orange, ms=6, mew=1.6, label="measured later")
    a.set_title("Smaller models predict larger ones", fontsize=10, loc="left")
    for axis, (cost_name, cost) in zip((axes[0, 1], axes[1, 0]), campaign.costs.items(), strict=True):
        trained = np.sort(planned(campaign, np.arange(loss.size), PART))
        believed = predictions(campaign, trained).copy()
        believed[trained] = loss[trained]
        on, true = front(believed, cost), front(loss, cost)
        scale = 1e6 if cost_name == "host latency" else 1.0
        axis.plot(cost * scale, loss, "o", color=grey, ms=4, label="all, measured")
        order = np.argsort(cost[true])
        axis.step(
            cost[true][order] * scale,
            loss[true][order],
            where="post",
            color=orange,
            lw=1.4,
            label="frontier of all measured",
        )
        axis.plot(
            cost[on] * scale,
            loss[on],
            "s",
            mfc="none",
            color=blue,
            ms=8,
            label=f"named after training {PART} (true losses)",
        )
        axis.set_title(f"Frontier in {cost_name}", fontsize=10, loc="left")
        axis.set_xlabel("latency per token, µs (predicted)" if scale > 1 else "parameters without embeddings")
    for axis in (axes[0, 0], axes[0, 1], axes[1, 0]):
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        ticks = [m * 10.0**e for e in range(9) for m in (1, 2, 3, 5) if low <= m * 10.0**e <= high]
        axis.set_xticks(ticks, [f"{v / 1e3:g}k" if v >= 1e4 else f"{v:g}" for v in ticks])
        axis.set_xticks([], minor=True)
        axis.set_ylabel("loss, nats per token")
        axis.legend(fontsize=8, frameon=False)
    axes[0, 0].set_xlabel("parameters without embeddings")
    b = axes[1, 1]
    for order, colour, mark in (("planned", blue, "s"), ("random", grey, "o")):
        rows = [r for r in found["curve"] if r["order"] == order]
        b.plot(
            [r["count"] for r in rows],
            [100 * r["relative"] for r in rows],
            mark + "-",
            color=colour,
            label=f"{order} order",
        )
    b.set_xlabel("models trained")
    b.set_ylabel("mean error on others, %")
    b.set_ylim(0, 115 * max(r["relative"] for r in found["curve"]))
    b.set_xticks(COUNTS)
    b.set_title("How many models it takes", fontsize=10, loc="left")
    b.legend(fontsize=8, frameon=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})
