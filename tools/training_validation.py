"""What a campaign of trained models teaches a loss law, and the frontier it finds: results/training_campaign.md and .png.

    python tools/training_validation.py results/training_runs.jsonl.gz

reads runs that `codesign train --export` wrote. Everything is fitted on one set of architectures and scored on another; nothing
is tuned on the scored ones. Latency is that of the calibrated host of results/host_cpu_measurements.jsonl.gz.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moocore
import numpy as np

from codesign.campaign.calibrate import calibrate_measurements
from codesign.campaign.training_plan import plan_training
from codesign.cli.fit_store import runs_table
from codesign.devices import Device
from codesign.predictors.candidates import ParameterCount
from codesign.predictors.conformal import group_folds
from codesign.predictors.law_regressor import LawRegressor
from codesign.predictors.loss_table import LossTable
from codesign.predictors.staged import Score, StagedRegressor, score
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.store import read_jsonl, read_runs_jsonl
from codesign.training_run import TrainingRun
from codesign.units import format_count, format_seconds
from codesign.workload import PRECISIONS, Workload

Array = np.ndarray
#: What competes in the learning curve and on frontiers, where many fits are made: those that are in use on so few rows.
FEW = ("law", "law + gp")
COUNTS = (10, 15, 20, 30)
FOLDS = 4
DRAWS, RANDOM = 2, 4
SMALL, LARGE, PART = 30, 10, 20
REFERENCE = 1.1


@dataclass(frozen=True)
class Campaign:
    """Finished runs in the order of their sizes: `table` row i is `runs[i]`; costs by name, each (runs,)."""

    runs: list[TrainingRun]
    table: LossTable
    costs: dict[str, Array]
    stopped: int
    measured: tuple[int, int]  # active parameters of the models that the cost model was calibrated on

    @property
    def loss(self) -> Array:
        return self.table.y


def load(path: Path, measurements: Path, example: Path) -> Campaign:
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    runs = list(read_runs_jsonl(text.splitlines(), str(path)))
    finished = [run for run in runs if run.status == "finished"]
    table = runs_table(finished, {})
    by_key = {run.key: run for run in finished}
    ordered = np.argsort(np.asarray(table.frame["params_nonembed_active"]), kind="stable")
    table = table.take(ordered)
    finished = [by_key[key] for key in table.frame["run_id"]]
    model, measured = host_model(measurements, example)
    work = Workload(prompt_tokens=128, output_tokens=128, batch_size=1)
    latency = [float(model.estimate(run.architecture, work, PRECISIONS["fp32"]).decode_s) for run in finished]
    size = np.asarray(table.frame["params_nonembed_active"], dtype=float)
    return Campaign(
        finished, table, {"parameters": size, "host latency": np.array(latency)}, len(runs) - len(finished), measured
    )


def host_model(measurements: Path, example: Path) -> tuple[RooflineModel, tuple[int, int]]:
    """The cost model of the measured host CPU, and the sizes that it was calibrated on."""
    head = json.loads(example.read_text().splitlines()[0])["device"]
    text = gzip.decompress(measurements.read_bytes()).decode()
    found = list(read_jsonl(text.splitlines(), str(measurements)))
    device = Device(
        name="host", title=head["title"], vendor="", generation="x86", family="cpu-x86", kind="cpu",
        peak_flop_per_s=head["peak_flop_per_s"], bandwidth_Bps=head["bandwidth_Bps"], memory_B=head["memory_usable_B"],
        sources={"spec": "the measurements", "peak": "probed"},
    )  # fmt: skip
    device, _ = calibrate_measurements(device, found, source=measurements.name, force=True)
    work = Workload(prompt_tokens=128, output_tokens=128, batch_size=1)
    rates = load_calibration().rates(device, "onnxruntime", PRECISIONS["fp32"], 1, work)
    sizes = [m.architecture.params_active for m in found]
    return RooflineModel.of(device, rates), (min(sizes), max(sizes))


# ---- predictors on rows that they did not see


def fitted(table: LossTable, rows: Any, names: Sequence[str] | None = None) -> StagedRegressor:
    part = table.take(rows)
    return StagedRegressor(names, None, table.size).fit(part.frame, part.y, groups=part.groups)


def size_law(train: LossTable) -> LawRegressor:
    """A power law in the parameter count alone, which extrapolates where the isotonic baseline cannot."""
    return LawRegressor("chinchilla").fit(train.frame, train.y, groups=train.groups)


def judged(members: dict[str, Any], table: LossTable, rows: Any) -> dict[str, Array]:
    """Per predictor (rows, 3): prediction, and whether the 80 and 90 % intervals hold the measured loss (nan: has none)."""
    test = table.take(rows)
    out = {}
    for name, member in members.items():
        mean = member.predict(test.frame)
        if hasattr(member, "interval"):
            held = [
                (low <= test.y) & (test.y <= high) for low, high in (member.interval(test.frame, v) for v in (0.8, 0.9))
            ]
        else:
            held = [np.full(mean.size, np.nan)] * 2
        out[name] = np.stack([mean, *held], axis=1)
    return out


def everyone(table: LossTable, rows: Any) -> tuple[dict[str, Any], StagedRegressor]:
    """All predictors fitted on some rows, the selection among them, and the baselines in parameters alone."""
    staged, part = fitted(table, rows), table.take(rows)
    alone = {
        "power law in parameters alone": size_law(part),
        "parameters alone (isotonic)": ParameterCount().fit(part.frame, part.y),
    }
    return {"**selection**": staged, **staged.members_, **alone}, staged


def scores(table: LossTable, rows: Any, found: dict[str, Array]) -> list[Score]:
    y = table.take(rows).y
    out = []
    for name, values in found.items():
        made = score(name, y, values[:, 0], values[:, 1], values[:, 2])
        if name.startswith("parameters alone"):  # its ranks are those of the count itself
            made = score(name, y, -np.asarray(table.take(rows).frame[table.size], dtype=float), np.nan, np.nan)
            made = Score(
                **{
                    **made.__dict__,
                    "mae": float(np.abs(values[:, 0] - y).mean()),
                    "relative": float(np.abs(values[:, 0] / y - 1).mean()),
                }
            )
        out.append(made)
    return out


def left_out(table: LossTable) -> tuple[list[Score], Array, dict[str, int]]:
    """Each of five folds of whole shapes left out once: scores, (rows, 2) of the selection's prediction and fold, who was chosen."""
    pooled: dict[str, Array] = {}
    chosen: dict[str, int] = {}
    for mask in group_folds(table.groups, 5, 0):
        members, staged = everyone(table, ~mask)
        chosen[staged.chosen_] = chosen.get(staged.chosen_, 0) + 1
        for name, values in judged(members, table, mask).items():
            pooled.setdefault(name, np.full((table.y.size, 3), np.nan))[mask] = values
    every = np.arange(table.y.size)
    pooled = {name: values for name, values in pooled.items() if np.isfinite(values[:, 0]).all()}
    return scores(table, every, pooled), pooled["**selection**"], chosen


# ---- frontiers


def front(loss: Array, cost: Array) -> Array:
    """Mask of the non-dominated."""
    return np.asarray(moocore.is_nondominated(np.ascontiguousarray(np.stack([loss, cost], axis=1)), keep_weakly=True))


def volume(loss: Array, cost: Array, chosen: Any, every_loss: Array, every_cost: Array) -> float:
    """Hypervolume of some models, in loss and ln(cost) scaled to 0..1 over all trained models; reference (1.1, 1.1)."""

    def unit(v: Array, among: Array) -> Array:
        return (v - among.min()) / np.ptp(among)

    points = np.stack([unit(loss, every_loss), unit(np.log(cost), np.log(every_cost))], axis=1)[chosen]
    return float(moocore.hypervolume(np.ascontiguousarray(points), ref=[REFERENCE, REFERENCE]))


def found_front(campaign: Campaign, trained: Array, cost: Array, predicted: Array | None) -> dict[str, float]:
    """What is on the frontier of measured losses of the trained models and predicted ones of the rest, against the truth.

    Without predictions: of the trained models alone.
    """
    loss = campaign.loss
    known = np.zeros(loss.size, dtype=bool)
    known[trained] = True
    believed = np.where(known, loss, np.inf if predicted is None else predicted)
    on, true = front(believed, cost) & np.isfinite(believed), front(loss, cost)
    regret = 1 - volume(loss, cost, on, loss, cost) / volume(loss, cost, true, loss, cost)
    return {
        "regret": regret,
        "recall": float((on & true).sum() / true.sum()),
        "precision": float((on & true).sum() / on.sum()),
        "members": float(on.sum()),
    }


def planned(campaign: Campaign, pool: Array, count: int) -> Array:
    """The models of a pool that the planner trains first, as indices."""
    where = {repr(campaign.runs[i].architecture): int(i) for i in pool}
    recipe = campaign.runs[0].recipe
    plan = plan_training([campaign.runs[i].architecture for i in pool], [recipe.tokens], count, seq_len=recipe.seq_len)
    return np.array([where[repr(p.architecture)] for p in plan])


def frontiers(campaign: Campaign) -> list[dict[str, Any]]:
    """Both costs, several parts trained: with predictions, with those of parameters alone, and without."""
    every = np.arange(campaign.loss.size)
    parts = {f"planned {PART}": [planned(campaign, every, PART)]}
    parts[f"random {PART}, mean of {RANDOM}"] = [
        np.random.default_rng((7, d)).permutation(every)[:PART] for d in range(RANDOM)
    ]
    parts[f"smallest {SMALL}"] = [every[:SMALL]]
    rows = []
    for part, draws in parts.items():
        for cost_name, cost in campaign.costs.items():
            found: dict[str, list[dict[str, float]]] = {}
            for trained in draws:
                train = np.sort(trained)
                ways = {
                    "surrogate": predictions(campaign, train),
                    "parameters alone": size_law(campaign.table.take(train)).predict(campaign.table.frame),
                    "none: the trained ones": None,
                }
                for way, predicted in ways.items():
                    found.setdefault(way, []).append(found_front(campaign, train, cost, predicted))
            for way, results in found.items():
                rows.append(
                    {
                        "part": part,
                        "cost": cost_name,
                        "way": way,
                        **{k: float(np.mean([r[k] for r in results])) for k in results[0]},
                    }
                )
    return rows


_PREDICTED: dict[bytes, Array] = {}


def predictions(campaign: Campaign, train: Array) -> Array:
    """Losses of all models predicted from some, (runs,)."""
    key = train.tobytes()
    if key not in _PREDICTED:
        _PREDICTED[key] = np.asarray(fitted(campaign.table, train, FEW).predict(campaign.table.frame))
    return _PREDICTED[key]


def learning_curve(campaign: Campaign) -> list[dict[str, Any]]:
    """Error on models that are never trained on, against how many others are: in the planner's order and at random.

    Four test sets, each every fourth model by size; the pool is the rest.
    """
    rows = []
    every = np.arange(campaign.loss.size)
    for count in COUNTS:
        found: dict[str, list[tuple[float, float, float]]] = {}
        for fold in range(FOLDS):
            test = every[every % FOLDS == fold]
            pool = every[every % FOLDS != fold]
            if count > pool.size:
                continue
            orders = {"planned": [planned(campaign, pool, count)]}
            orders["random"] = [np.random.default_rng((11, fold, d)).permutation(pool)[:count] for d in range(DRAWS)]
            for order, draws in orders.items():
                for trained in draws:
                    predicted = predictions(campaign, np.sort(trained))
                    truth = campaign.loss[test]
                    flop = sum(float(campaign.table.frame["params_nonembed_active"][i]) for i in trained)
                    made = score("", truth, predicted[test], np.nan, np.nan)
                    found.setdefault(order, []).append((made.relative, made.tau, flop))
        everything = float(campaign.costs["parameters"].sum())
        for order, values in found.items():
            mean = np.mean(values, axis=0)
            rows.append(
                {
                    "count": count,
                    "order": order,
                    "relative": mean[0],
                    "worst": float(np.max([v[0] for v in values])),
                    "tau": mean[1],
                    "share": mean[2] / everything,
                }
            )
    return rows


# ---- the report


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


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--measurements", type=Path, default=Path("results/host_cpu_measurements.jsonl.gz"))
    parser.add_argument(
        "--example", type=Path, default=Path("results/host_example/frontier.jsonl"), help="has the host's peaks"
    )
    parser.add_argument("--out", type=Path, default=Path("results/training_campaign.md"))
    options = parser.parse_args(argv)
    campaign = load(options.runs, options.measurements, options.example)
    count = campaign.loss.size
    if count < SMALL + LARGE:
        raise SystemExit(f"{options.runs} has {count} finished runs; {SMALL + LARGE} are needed")
    found: dict[str, Any] = {}

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    tell(f"{count} finished runs")
    members, staged = everyone(campaign.table, np.arange(SMALL))
    test = np.arange(count - LARGE, count)
    mean = staged.predict(campaign.table.frame)
    low, high = staged.interval(campaign.table.frame, 0.9)
    found["largest"] = {"scores": scores(campaign.table, test, judged(members, campaign.table, test)), "chosen": staged.chosen_,
                        "beyond": staged.chosen_beyond_, "curve": (mean, low, high)}  # fmt: skip
    tell("smaller models predicted larger ones")
    found["fronts"] = frontiers(campaign)
    tell("frontiers")
    found["curve"] = learning_curve(campaign)
    tell("learning curve")
    found["left_out"], _, found["chosen"] = left_out(campaign.table)
    tell("shapes left out")
    plot(campaign, found, options.out.with_suffix(".png"))
    options.out.write_text(report(campaign, found, str(options.runs)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
