"""The public data sets on which surrogates are judged, as `LossTable`, and the published splits; read by surrogate_validation.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from codesign.predictors.conformal import group_folds
from codesign.predictors.evaluate import Split
from codesign.predictors.loss_table import LossTable, read_loss_table

__all__ = ["SETS", "DataSet", "Published", "published"]

_SHAPE = ("arch", "n_layers", "d_model", "d_ff", "n_experts", "d_ff_expert")


@dataclass(frozen=True)
class DataSet:
    """One data set: how to read it.

    Attributes:
        name, title: Short and long. question: architecture, technique or function.
        read: Folder that holds loss/ and nas/ -> its rows. columns: Of the features; None: the known ones.
        largest: Share of groups left out as "the largest"; 0 where there is nothing to extrapolate to.
    """

    name: str
    title: str
    question: str
    read: Callable[[Path], LossTable]
    columns: tuple[str, ...] | None = None
    largest: float = 0.2


def _keep(table: LossTable, rows: Any) -> LossTable:
    return table.take(np.asarray(rows, dtype=bool))


def _best(table: LossTable, by: list[str]) -> LossTable:
    """The row of the least target of each cell."""
    return table.take(np.sort(table.frame.groupby(by)[table.target].idxmin().to_numpy()))


def gemstones(folder: Path) -> LossTable:
    return read_loss_table(folder / "loss/gemstones.csv", where=["schedule=cooldown_end"])


def gemstones_constant(folder: Path) -> LossTable:
    """Checkpoints at 30B tokens and later, every fourth: as in measured_baselines.csv."""
    table = read_loss_table(folder / "loss/gemstones.csv", where=["schedule=constant_lr_no_cooldown"])
    table = _keep(table, table.frame["tokens"] >= 30e9)
    order = table.frame.sort_values(["n_layers", "d_model", "tokens"], kind="stable").index.to_numpy()
    return table.take(np.sort(order[::4]))


def openlm_grid(folder: Path) -> LossTable:
    table = read_loss_table(folder / "loss/openlm_grid.csv", where=["batch_tokens=131072", "is_best_of_shape=1"])
    return _best(table, ["d_model", "n_layers"])


def openlm_recipes(folder: Path) -> LossTable:
    """All runs of the grid at batch 64: heads and warm-up vary."""
    return read_loss_table(folder / "loss/openlm_grid.csv", where=["batch_tokens=131072"])


def openlm_scaling(folder: Path) -> LossTable:
    """Six sizes; the two largest come without a shape, so none has one here."""
    table = read_loss_table(folder / "loss/openlm_scaling.csv", group=["params_total"], where=["train_data=rpj"])
    frame = table.frame.drop(columns=["n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "lr"])
    return LossTable(table.name, frame, table.target, table.group_columns, table.excluded, table.size)


def porian(folder: Path) -> LossTable:
    """Four recipes on one corpus; points between 2 and 200 tokens a parameter."""
    table = read_loss_table(folder / "loss/porian_isoflop.csv", where=["train_data=refinedweb"])
    ratio = table.frame["tokens"] / table.frame["params_total"]
    return _keep(table, (ratio >= 2) & (ratio <= 200))


def routed(folder: Path) -> LossTable:
    """S-Base and dense models, half of the layers routed; the group is the size of the backbone."""
    table = read_loss_table(folder / "loss/deepmind_routed.csv", group=["d_model", "n_layers", "n_experts"])
    frame = table.frame
    plain = (frame["arch"] == "dense") | ((frame["routing_frequency"] == 0.5) & (frame["top_k"] == 1))
    table = _keep(table, frame["router_type"].isin(["S-Base", "Dense"]) & (frame["flop_increase"] == 1) & plain)
    return LossTable(table.name, table.frame, table.target, table.group_columns, table.excluded, "params_active")


def routed_all(folder: Path) -> LossTable:
    """All routers, frequencies and FLOP increases."""
    table = read_loss_table(folder / "loss/deepmind_routed.csv", group=["d_model", "n_layers", "n_experts"])
    return LossTable(table.name, table.frame, table.target, table.group_columns, table.excluded, "params_active")


def steplaw(folder: Path) -> LossTable:
    return read_loss_table(folder / "loss/steplaw_dense.csv", group=["n_layers", "d_model", "tokens"])


def steplaw_moe(folder: Path) -> LossTable:
    return read_loss_table(folder / "loss/steplaw_moe.csv", group=["n_experts", "top_k", "d_ff_expert", "tokens"])


def _xlstm(arch: str, context: int) -> Callable[[Path], LossTable]:
    def read(folder: Path) -> LossTable:
        table = read_loss_table(folder / "loss/xlstm_isoflop.csv", where=[f"arch={arch}", f"seq_len={context}"])
        frame = table.frame.assign(compute=6.0 * table.frame["params_nonembed_active"] * table.frame["tokens"])
        return LossTable(table.name, frame, table.target, table.group_columns, table.excluded, table.size)

    return read


def chinchilla(folder: Path) -> LossTable:
    """Sizes read off a figure: those within 1 % are one model. The five largest losses are left out, as those who read them off did
    (arXiv 2404.10102): runs of less than 0.41 tokens a parameter.
    """
    table = read_loss_table(folder / "loss/chinchilla_svg.csv", group=["params_total"])
    table = _keep(table, table.frame["loss"] < np.sort(table.frame["loss"])[-5])
    frame = table.frame.assign(model=np.round(np.log(table.frame["params_total"]) / 0.02))
    return LossTable(table.name, frame, table.target, ("model",), table.excluded, table.size)


def _lts(backbone: str, dataset: str) -> Callable[[Path], LossTable]:
    def read(folder: Path) -> LossTable:
        frame = pd.read_csv(folder / "nas/lts_transformer_lm.csv", low_memory=False)
        frame = frame[(frame["set"] == "random") & (frame["backbone"] == backbone) & (frame["dataset"] == dataset)]
        frame = frame.rename(columns={"n_layer": "n_layers", "params_decoder": "params_nonembed_active"})
        frame = frame.assign(
            loss=np.log(frame["valid_ppl"]), d_embed=frame["d_embed"].where(frame["d_embed"] > 0, frame["d_model"])
        ).reset_index(drop=True)
        return LossTable("lts_transformer_lm.csv", frame, "loss", ("name",), {}, "params_nonembed_active")

    return read


LTS = ("n_layers", "d_model", "params_nonembed_active", "d_embed", "div_val", "d_inner", "n_head")
_KINDS = ("sa_sdp", "sa_wma", "l_dft", "l_dct", "c_5", "c_9", "c_13")


def _edgetran(target: str, trained: bool) -> Callable[[Path], LossTable]:
    def read(folder: Path) -> LossTable:
        frame = pd.read_csv(folder / "nas/edgetran.csv", low_memory=False)
        frame = frame.drop_duplicates("arch_hash")
        if trained:
            frame = frame[frame["quality_source"] == "trained"]
        frame = frame[np.isfinite(frame[target])].reset_index(drop=True)
        hidden = [np.array([float(h) for h in str(text).split("-")]) for text in frame["hidden"]]
        ffn = [[[float(f) for f in layer.split("-")] for layer in str(text).split("|")] for text in frame["ffn"]]
        ops = [[layer.split("+") for layer in str(text).split("|")] for text in frame["ops"]]
        size = [
            sum(4 * h * h + h * sum(f) + sum(a * b for a, b in itertools.pairwise(f)) for h, f in zip(hs, fs, strict=True))
            for hs, fs in zip(hidden, ffn, strict=True)
        ]  # fmt: skip
        kinds = {
            kind: [np.mean([op.startswith(kind) for layer in row for op in layer]) for row in ops] for kind in _KINDS
        }
        frame = frame.rename(columns={"n_layer": "n_layers"}).assign(
            d_model=[h.mean() for h in hidden],
            params_nonembed_active=size,
            ffn_mean=[np.mean([sum(layer) for layer in f]) for f in ffn],
            heads_mean=[np.mean([len(layer) for layer in row]) for row in ops],
            **kinds,
        )
        frame["error"] = 1.0 - frame[target] if target == "glue" else frame[target]
        return LossTable("edgetran.csv", frame, "error", ("arch_hash",), {}, "params_nonembed_active")

    return read


EDGETRAN = ("n_layers", "d_model", "params_nonembed_active", "ffn_mean", "heads_mean", *_KINDS)


def accel(folder: Path) -> LossTable:
    """EfficientNet-like models on ImageNet; the target is the error, 100 - top-1 [%]."""
    frame = pd.read_csv(folder / "nas/accel_nasbench_imagenet.csv", low_memory=False)
    frame = frame.assign(error=100.0 - frame["val_top1"], params_total=1e6 * frame["params_m"])
    frame = frame[np.isfinite(frame["error"])].reset_index(drop=True).assign(model=lambda f: np.arange(len(f)))
    return LossTable("accel_nasbench_imagenet.csv", frame, "error", ("model",), {}, "params_total")


ACCEL = (*(f"{kind}{i}" for kind in ("e", "k", "l", "se") for i in range(7)), "params_total", "macs_m")
_EDGES = ("e01", "e02", "e12", "e03", "e13", "e23")


def nb201(folder: Path) -> LossTable:
    """NAS-Bench-201 on CIFAR-100: the error, 100 - test accuracy [%]; operations one-hot by edge, and how many of each kind.

    The file has no parameter count: a count of convolution weights stands for it (9 for 3x3, 1 for 1x1).
    """
    frame = pd.read_csv(folder / "nas/nb201_edge.csv", low_memory=False)
    codes = frame[list(_EDGES)].to_numpy(dtype=int)
    extra = {f"{edge}_{op}": (codes[:, i] == op).astype(float) for i, edge in enumerate(_EDGES) for op in range(5)}
    extra |= {f"count_{op}": (codes == op).sum(axis=1).astype(float) for op in range(5)}
    weights = 1.0 + 9.0 * (codes == 3).sum(axis=1) + (codes == 2).sum(axis=1)
    frame = frame.assign(error=100.0 - frame["cifar100_test"], params_total=weights, **extra)
    return LossTable("nb201_edge.csv", frame, "error", ("arch_idx",), {}, "params_total")


NB201 = (
    "params_total",
    *(f"{edge}_{op}" for edge in _EDGES for op in range(5)),
    *(f"count_{op}" for op in range(5)),
)

_A, _T, _F = "architecture", "technique", "function"
SETS = {
    item.name: item
    for item in (
        DataSet("gemstones", "Gemstones, annealed runs", _A, gemstones, largest=1 / 3),
        DataSet("gemstones-constant", "Gemstones, constant learning rate, D >= 30B, every 4th", _A, gemstones_constant),
        DataSet("openlm-grid", "OpenLM grid, best of warm-up and heads", _A, openlm_grid, largest=0.25),
        DataSet("openlm-recipes", "OpenLM grid, all runs at batch 64", _T, openlm_recipes),
        DataSet("openlm-scaling", "OpenLM scaling, RedPajama (6 sizes)", _T, openlm_scaling),
        DataSet("porian", "Porian isoFLOP, RefinedWeb, 4 recipes, 2 to 200 tokens a parameter", _T, porian),
        DataSet("routed", "Clark et al., S-Base and dense", _A, routed),
        DataSet("routed-all", "Clark et al., all routers, frequencies, FLOP increases", _F, routed_all),
        DataSet("steplaw", "Step Law dense, learning rate x batch", _T, steplaw),
        DataSet("steplaw-moe", "Step Law MoE, learning rate x batch", _T, steplaw_moe),
        DataSet("llama-2k", "xLSTM study, Llama, context 2048", _A, _xlstm("dense", 2048)),
        DataSet("llama-8k", "xLSTM study, Llama, context 8192", _A, _xlstm("dense", 8192)),
        DataSet("llama-16k", "xLSTM study, Llama, context 16384", _A, _xlstm("dense", 16384)),
        DataSet("mlstm-16k", "xLSTM study, mLSTM, context 16384", _F, _xlstm("mlstm", 16384)),
        DataSet("chinchilla", "Chinchilla, read off a figure", _A, chinchilla),
        DataSet("gpt2-wt103", "LTS GPT-2, WikiText-103", _A, _lts("GPT2", "wt103"), LTS),
        DataSet("gpt2-lm1b", "LTS GPT-2, LM1B", _A, _lts("GPT2", "lm1b"), LTS),
        DataSet("transxl-wt103", "LTS Transformer-XL, WikiText-103", _A, _lts("TransXL", "wt103"), LTS),
        DataSet("edgetran", "EdgeTran, trained (16), GLUE error", _F, _edgetran("glue", True), EDGETRAN, 0.0),
        DataSet("edgetran-scored", "EdgeTran, scored by the authors' surrogate", _F, _edgetran("glue", False), EDGETRAN, 0.0),
        DataSet("accel-nasbench", "Accel-NASBench, ImageNet error", _A, accel, ACCEL, 0.0),
        DataSet("nb201", "NAS-Bench-201, CIFAR-100 error", _F, nb201, NB201, 0.0),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A published split and the best number that is known for it.

    Attributes:
        key: Short; two numbers of one split share it. name: Of data set and split. set: In `SETS`. splits: Table -> splits. measure: mae (nats), relative or tau. number: Theirs.
        who: Which model of measured_baselines.csv or of the issue.
    """

    key: str
    name: str
    set: str
    splits: Callable[[LossTable], list[Split]]
    measure: str
    number: float
    who: str


def _mask(rule: Callable[[Any], Any]) -> Callable[[LossTable], list[Split]]:
    def make(table: LossTable) -> list[Split]:
        out = np.asarray(rule(table.frame), dtype=bool)
        return [Split(~out, out)]

    return make


def _folds(draws: int) -> Callable[[LossTable], list[Split]]:
    """Five folds of whole groups, drawn so often: which shapes fall together moves the error of one draw by half."""
    return lambda table: [Split(~mask, mask) for seed in range(draws) for mask in group_folds(table.groups, 5, seed)]


def _largest(column: str, count: int) -> Callable[[Any], Any]:
    return lambda frame: frame[column] >= np.sort(frame[column].to_numpy())[-count]


def _third(frame: Any) -> Any:
    sizes = np.unique(frame["params_nonembed_active"])
    return frame["params_nonembed_active"] >= sizes[-round(len(sizes) / 3)]


def _ncpl(part: str) -> Callable[[LossTable], list[Split]]:
    return lambda table: [
        Split(
            (table.frame["ncpl_split"] == "train").to_numpy(),
            (table.frame["ncpl_split"] == part).to_numpy(),
        )
    ]


def _cells(table: LossTable) -> list[Split]:
    """20 % of the (d, E) cells at random, five times: the published draw is not known."""
    out = []
    for seed in range(5):
        test = np.zeros(len(table.frame), dtype=bool)
        test[np.random.default_rng(seed).choice(len(test), 12, replace=False)] = True
        out.append(Split(~test, test))
    return out


def _fifty(table: LossTable) -> list[Split]:
    """50 rows to fit on, the other 150 to rank; five draws."""
    out = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(table.frame))
        out.append(Split(np.sort(order[:50]), np.sort(order[50:])))
    return out


def published() -> list[Published]:
    """All of them, in the order of the report."""
    big = _mask(lambda f: f["params_nonembed_active"] >= 0.8e9)
    return [
        Published("third", "gemstones, largest third of shapes out", "gemstones", _mask(_third), "relative", 0.008, "gate"),
        Published("big", "gemstones, N >= 0.8B out", "gemstones", big, "mae", 0.0264, "chinchilla+depth+width + GP"),
        Published("folds", "gemstones, 5-fold by shape", "gemstones", _folds(1), "relative", 0.0027, "gate (best published row: 0.44 %)"),
        Published("folds", "gemstones, 5-fold by shape", "gemstones", _folds(1), "mae", 0.0130, "chinchilla + GP"),
        Published("draws", "gemstones, 5-fold by shape, ten draws", "gemstones", _folds(10), "relative", 0.0027, "gate"),
        Published("tokens", "gemstones, D > 60B out", "gemstones", _mask(lambda f: f["tokens"] > 60e9), "mae", 0.0105, "best form + GP"),
        Published("big", "gemstones constant, N >= 0.8B out", "gemstones-constant", big, "mae", 0.0138, "best form + GP"),
        Published("quartile", "openlm-grid, top quartile of N out", "openlm-grid", _mask(_largest("params_total", 9)), "mae", 0.0095, "additive"),
        Published("compute", "llama-2k, largest compute out", "llama-2k", _mask(_largest("compute", 17)), "mae", 0.0140, "additive"),
        Published("compute", "llama-8k, largest compute out", "llama-8k", _mask(_largest("compute", 32)), "mae", 0.0244, "chinchilla + GP"),
        Published("wide", "routed, d = 2048 out", "routed", _mask(lambda f: f["d_model"] == 2048), "mae", 0.0263, "E+A/(Na^a Ehat^..)"),
        Published("experts", "routed, E >= 256 out", "routed", _mask(lambda f: f["n_experts"] >= 256), "mae", 0.0056, "GP"),
        Published("cells", "routed, 20 % of cells", "routed", _cells, "mae", 0.0016, "GP (one draw)"),
        Published("ood", "steplaw, out of distribution", "steplaw", _ncpl("ood_val"), "mae", 0.0105, "chinchilla + bowl + GP"),
        Published("ood", "steplaw, out of distribution", "steplaw", _ncpl("ood_val"), "mae", 0.0199, "NCPL paper (other rows)"),
        Published("in", "steplaw, in distribution", "steplaw", _ncpl("in_val"), "mae", 0.0082, "NCPL paper (other rows)"),
        Published("fifty", "gpt2-wt103, 50 rows", "gpt2-wt103", _fifty, "tau", 0.95, "gate (plain GP 0.96, XGBoost 0.90)"),
    ]  # fmt: skip
