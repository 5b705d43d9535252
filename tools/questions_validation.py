"""The questions beside architecture: recipes advised, operators told apart, networks pre-trained on free statistics; and importance.

    python tools/questions_validation.py --data ../shared/data         about four minutes of one core; --part recipe function pretrain importance

Writes results/questions.md (a part that is not asked for keeps its text). Architecture and the joint question: results/surrogates.md.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np
import pandas as pd
from scipy.stats import kendalltau  # type: ignore[import-untyped,unused-ignore]
from sklearn.base import clone

from codesign.predictors.conformal import group_folds
from codesign.predictors.features import FUNCTION
from codesign.predictors.gaussian_process import GaussianProcess
from codesign.predictors.importance import importance
from codesign.predictors.law_regressor import LawRegressor
from codesign.predictors.loss_table import LossTable, group_of, read_loss_table
from codesign.predictors.mlp import MLPEnsemble
from codesign.predictors.pretrain import PretrainedEnsemble
from codesign.predictors.questions import ask
from codesign.predictors.recipes import RecipeAdvisor, cells_of, regret, step_law
from codesign.predictors.surrogate import Surrogate

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python tools/questions_validation.py --data ../shared/data"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _model(form: str, gp: bool = True) -> Surrogate:
    law = LawRegressor(form, draws=0, starts=1)
    return Surrogate(
        law, GaussianProcess(kernel="rbf", centred=False, noise_floor=1e-4, hyper_rows=300, max_iter=80) if gp else None
    )


# ---- technique


def recipe(data: Path) -> Iterator[str]:
    yield (
        "Step Law's sweeps of learning rate and batch: what a recommended recipe costs, in loss above the best run of the sweep (the run nearest the "
        "recommendation is taken). The sweep itself was left out (a tenth of the sweeps at a time; or all sweeps of its shape). Step Law's formula was fitted "
        "by its authors on runs that include these, so its figures are not held out. 'Holds': share of sweeps whose best run lies in the 90 % interval "
        "around the recommendation that the *other* sweeps give."
    )
    yield ""
    rows = []
    dense = read_loss_table(data / "loss/steplaw_dense.csv")
    moe = read_loss_table(data / "loss/steplaw_moe.csv", group=["n_experts", "top_k"])
    for name, table, form in (("dense", dense, "chinchilla"), ("mixtures", moe, "chinchilla")):
        cells = cells_of(table)
        parts = [table.take(cells == c) for c in np.unique(cells)]
        advised: dict[str, list[tuple[float, float]]] = {
            "Step Law's formula, active parameters": [tuple(map(float, step_law(p.frame.params_nonembed_active.iloc[0], p.frame.tokens.iloc[0]))) for p in parts],
            "median recipe of the set": [(float(table.frame.lr.median()), float(table.frame.batch_tokens.median()))] * len(parts),
        }  # fmt: skip
        for label, gp in (("law with a bowl", False), ("law with a bowl + GP", True)):
            advisor = RecipeAdvisor(_model(form, gp)).fit(table)
            advised[f"{label}, sweep left out"] = [advisor.left_[c] for c in np.unique(cells).tolist()]
        if name == "mixtures":
            advised["Step Law's formula, all parameters"] = [
                tuple(map(float, step_law(p.frame.params_total.iloc[0], p.frame.tokens.iloc[0]))) for p in parts
            ]
        if name == "dense":
            advised["law with a bowl + GP, shape left out"] = _by_shape(table, cells, _model(form))
        else:
            advised["law with a bowl + GP of the dense sweeps alone, active parameters"] = _from_dense(
                dense, parts, _model("chinchilla")
            )
        for label, recipes in advised.items():
            costs = np.array([regret(p, *r) for p, r in zip(parts, recipes, strict=True)])
            best = [p.frame.iloc[int(np.argmin(p.y))] for p in parts]
            away = np.abs(
                [[np.log(b.lr / r[0]), np.log(b.batch_tokens / r[1])] for b, r in zip(best, recipes, strict=True)]
            )
            held = []
            for i in range(len(parts)):
                others = np.delete(away, i, axis=0)
                level = min(1.0, np.ceil((len(others) + 1) * 0.9) / len(others))
                held.append(away[i] <= np.quantile(others, level, axis=0) + 1e-9)
            factor = np.exp(np.quantile(away, 0.9, axis=0))
            rows.append([f"{name}: {label}", str(len(parts)), f"{costs.mean():.4f} ({np.mean([c / p.y.min() for c, p in zip(costs, parts, strict=True)]):.3%})",
                         f"{costs.max():.4f}", f"x {factor[0]:.2f}, {np.mean(held, axis=0)[0]:.0%}", f"x {factor[1]:.2f}, {np.mean(held, axis=0)[1]:.0%}"])  # fmt: skip
    yield from _table(
        [
            "recommendation",
            "sweeps",
            "cost, mean (relative)",
            "largest",
            "learning rate within, holds",
            "batch within, holds",
        ],
        rows,
    )
    yield ""
    yield (
        "A mixture's learning rate follows all of its parameters, not the active ones: compare the two rows of the formula, and the advice learned from dense models. "
        "Fitted to mixtures themselves, the recommendation needs neither."
    )


def _by_shape(table: LossTable, cells: Any, model: Any) -> list[tuple[float, float]]:
    found: dict[int, tuple[float, float]] = {}
    for shape in np.unique(table.groups):
        out = table.groups == shape
        advisor = RecipeAdvisor(model).fit(table.take(~out), intervals=False)
        for cell in np.unique(cells[out]):
            advice = advisor.advise(table.take(cells == cell).frame.iloc[[0]])
            found[int(cell)] = (advice.lr, advice.batch_tokens)
    return [found[int(c)] for c in np.unique(cells)]


def _from_dense(dense: LossTable, parts: list[LossTable], model: Any) -> list[tuple[float, float]]:
    columns = ["params_nonembed_active", "tokens", "lr", "batch_tokens"]
    frame = dense.frame[[*columns, *dense.group_columns]]
    table = LossTable(dense.name, frame.assign(loss=dense.y), "loss", dense.group_columns, {}, dense.size)
    model = clone(model).set_params(columns=columns)
    advisor = RecipeAdvisor(model).fit(table, intervals=False)
    out = []
    for part in parts:
        row = table.frame.iloc[[0]].copy()
        for column in columns:
            row[column] = float(part.frame[column].iloc[0])
        advice = advisor.advise(row)
        out.append((advice.lr, advice.batch_tokens))
    return out


# ---- function


def function(data: Path) -> Iterator[str]:
    yield (
        "The same predictor (Gaussian process) with and without the columns that name the operator; whole shapes left out (5 folds). 'Pairs': of rows equal in "
        "shape, experts and tokens that differ in the operator, the share in which the predicted order is the true one."
    )
    yield ""
    rows = []
    cases = [
        ("routers (S-Base, RL-R, hash, dense)", "deepmind_routed.csv", [], ["n_layers", "d_model"], ["n_layers", "d_model", "n_experts", "top_k", "routing_frequency"]),
        ("Llama and mLSTM, 8k and 16k", "xlstm_isoflop.csv", [], ["n_layers", "d_model"], ["n_layers", "d_model", "seq_len", "tokens"]),
    ]  # fmt: skip
    for title, name, where, group, same in cases:
        table, columns = ask("function", read_loss_table(data / "loss" / name, group=group, where=where))
        if name.startswith("xlstm"):
            table = table.take((table.frame.seq_len > 2048).to_numpy())
        columns = [c for c in columns if table.frame[c].notna().all() or c in ("n_experts", "top_k")]
        operators = [c for c in columns if c in FUNCTION]
        cells = group_of(table.frame, [c for c in same if c in table.frame.columns])
        for label, read in (("with", columns), ("without", [c for c in columns if c not in FUNCTION])):
            mean = np.empty(table.y.size)
            model = Surrogate(None, GaussianProcess(kernel="rbf", noise_floor=1e-4, hyper_rows=250, max_iter=80), read)
            for mask in group_folds(table.groups, 5):
                mean[mask] = (
                    clone(model)
                    .fit(table.frame[~mask], table.y[~mask], groups=table.groups[~mask])
                    .predict(table.frame[mask])
                )
            right = []
            for cell in np.unique(cells):
                at = np.flatnonzero(cells == cell)
                for i in at:
                    for j in at:
                        differ = any(table.frame[c].iloc[i] != table.frame[c].iloc[j] for c in operators)
                        if i < j and differ and abs(table.y[i] - table.y[j]) > 1e-4:
                            guess = (mean[i] - mean[j]) * (table.y[i] - table.y[j])
                            right.append(0.5 if abs(mean[i] - mean[j]) < 1e-9 else float(guess > 0))
            error = np.abs(mean / table.y - 1)
            rows.append([f"{title}: {label} {', '.join(operators)}", str(table.y.size), f"{error.mean():.2%}", f"{kendalltau(mean, table.y)[0]:.3f}",
                         f"{np.mean(right):.0%} of {len(right)}" if right else "no such pair"])  # fmt: skip
    yield from _table(["variants", "rows", "error", "tau", "pairs in the right order"], rows)


# ---- free statistics first


def pretrain(data: Path) -> Iterator[str]:
    yield (
        "An ensemble of networks fitted to few labels, alone; with its hidden layers first trained on statistics that need no training run (FBNetV3's way); and with "
        "these statistics as further inputs. Kendall's tau and mean absolute error on the other rows, mean of 2 draws; '-': in a draw the prediction was one constant "
        "(early stopping found nothing to learn)."
    )
    yield ""
    rows, gains = [], []
    for title, X, facts, y in _spaces(data):
        for labelled in (10, 25, 50, 100):
            found: dict[str, list[tuple[float, float]]] = {}
            for repeat in range(2):
                order = np.random.default_rng((7, repeat)).permutation(len(y))
                train, test = order[:labelled], order[labelled : labelled + 1500]
                every = np.hstack([X, facts])
                ways: dict[str, tuple[Any, Any]] = {
                    "alone": (MLPEnsemble(max_steps=300, random_state=repeat), X),
                    "pre-trained": (
                        PretrainedEnsemble(X, facts, pretrain_steps=300, max_steps=300, random_state=repeat),
                        X,
                    ),
                    "as inputs": (MLPEnsemble(max_steps=300, random_state=repeat), every),
                }
                for name, (model, inputs) in ways.items():
                    got = model.fit(inputs[train], y[train]).predict(inputs[test])
                    tau = float(kendalltau(got, y[test])[0]) if np.ptp(got) > 0 else np.nan
                    found.setdefault(name, []).append((tau, float(np.abs(got - y[test]).mean())))
            means = [np.mean(found[n], axis=0) for n in ("alone", "pre-trained", "as inputs")]
            cells = [f"{'-' if np.isnan(m[0]) else f'{m[0]:.3f}'} / {m[1]:.4g}" for m in means]
            gains.append(1.0 - means[1][1] / means[0][1])
            rows.append([title if labelled == 10 else "", str(labelled), *cells])
    yield from _table(
        ["space, label, statistics", "labelled rows", "alone", "pre-trained", "statistics as inputs"], rows
    )
    yield ""
    yield (
        f"Pre-training lowers the error of the network in {sum(g > 0 for g in gains)} of {len(gains)} cases (by {min(gains):.0%} to {max(gains):.0%}). It does not make "
        "the network the best predictor: on the GPT-2 set the selection has tau 0.96 with 50 rows (results/surrogates.md). Hence no selection pre-trains unasked: "
        "`PretrainedEnsemble` is there for spaces with many free statistics and few labels."
    )


def _spaces(data: Path) -> Iterator[tuple[str, Any, Any, Any]]:
    lts = pd.read_csv(data / "nas/lts_transformer_lm.csv")
    lts = lts[(lts.set == "random") & (lts.backbone == "GPT2") & (lts.dataset == "wt103")]
    layers = [[[float(v) for v in str(t).split("-")] for t in lts[c]] for c in ("d_inner", "n_head")]
    wide = max(len(r) for r in layers[0])
    padded = [np.array([r + [0.0] * (wide - len(r)) for r in rows]) for rows in layers]
    X = np.hstack([lts[["n_layer", "d_model", "div_val"]].to_numpy(dtype=float), padded[0] / 1000, padded[1]])
    facts = np.log(lts[["params_total", "params_decoder", "params_attn", "params_ffn"]].to_numpy(dtype=float))
    yield (
        "GPT-2 on WikiText-103, ln perplexity; 4 parameter counts",
        X,
        facts,
        np.log(lts.valid_ppl.to_numpy(dtype=float)),
    )
    rng = np.random.default_rng(1)
    cells = pd.read_csv(data / "nas/nb201_edge.csv").dropna(subset=["cifar100_test", "lat_ms_fpga"])
    cells = cells.iloc[rng.permutation(len(cells))[:2500]]
    edges = cells[["e01", "e02", "e12", "e03", "e13", "e23"]].to_numpy(dtype=int)
    facts = np.log(
        np.maximum(
            cells[["lat_ms_fpga", "lat_ms_eyeriss", "lat_ms_1080ti_1", "lat_ms_silver_4114"]].to_numpy(dtype=float), 0.5
        )
    )
    yield (
        "NAS-Bench-201, CIFAR-100 error; 4 latencies",
        np.eye(5)[edges].reshape(len(cells), -1),
        facts,
        100 - cells.cifar100_test.to_numpy(dtype=float),
    )
    nets = pd.read_csv(data / "nas/accel_nasbench_imagenet.csv").dropna(
        subset=["val_top1", "macs_m", "params_m", "latency_zcu102_ms"]
    )
    nets = nets.iloc[rng.permutation(len(nets))[:2500]]
    X = nets[[f"{k}{i}" for k in ("e", "k", "l", "se") for i in range(7)]].to_numpy(dtype=float)
    facts = np.log(nets[["macs_m", "params_m", "latency_zcu102_ms", "throughput_a100_img_s"]].to_numpy(dtype=float))
    yield (
        "Accel-NASBench, ImageNet top-1 in %; MACs, parameters, 2 speeds",
        X,
        facts,
        nets.val_top1.to_numpy(dtype=float),
    )


# ---- importance


def worth(data: Path) -> Iterator[str]:
    yield "Mean absolute SHAP value of boosted trees (TreeSHAP), in nats per token, largest first; in brackets the trend (-1: more of it lowers the loss)."
    yield ""
    rows = []
    for title, name, where in (("Gemstones, annealed", "gemstones.csv", ["schedule=cooldown_end"]), ("Step Law, dense", "steplaw_dense.csv", []),
                               ("Step Law, mixtures", "steplaw_moe.csv", []), ("routed models", "deepmind_routed.csv", [])):  # fmt: skip
        group = ["n_experts", "top_k", "tokens"] if name == "steplaw_moe.csv" else None
        table, columns = ask("joint", read_loss_table(data / "loss" / name, group=group, where=where))
        columns = [c for c in columns if table.frame[c].notna().all() or c in ("n_experts", "top_k")]
        found = importance(table.frame, table.y, table.groups, columns)[:6]
        rows.append([title, ", ".join(f"{one.name} {one.contribution:.3f} ({one.trend:+.1f})" for one in found)])
    yield from _table(["data", "features"], rows)


PARTS: dict[str, tuple[str, Callable[[Path], Iterator[str]]]] = {
    "recipe": ("Technique: the recipe of an architecture", recipe),
    "function": ("Function: operator variants", function),
    "pretrain": ("Free statistics as pre-training targets", pretrain),
    "importance": ("Feature importance", worth),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", nargs="*", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    path = ROOT / "results/questions.md"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    old = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", before, flags=re.M | re.S))
    texts = []
    for key, (title, part) in PARTS.items():
        if key in options.part:
            start = time.process_time()
            body = "\n".join(part(options.data))
            body += f"\n\n({time.process_time() - start:.0f} s of one core)"
            print(f"{title}\n{body}\n", flush=True)
        else:
            body = old.get(title, "not run").strip()
        texts.append(f"## {title}\n\n{body}\n")
    path.write_text(f"# Questions beside the architecture\n\n`{COMMAND}`\n\n" + "\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
