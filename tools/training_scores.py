"""What predictors say of a campaign's runs that they did not see, and the frontiers found: the figures of training_validation.py."""

from __future__ import annotations

import gzip
import json
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
