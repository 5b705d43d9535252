"""Tables and pictures of surrogate_validation.py from its finished cells."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from surrogate_sets import SETS, published

__all__ = ["write_held_out", "write_report"]

COMMAND = "python tools/surrogate_validation.py --data ../shared/data --cache CACHE"
ORDER = (
    "parameters alone", "law", "law + gp", "gp", "chinchilla* + gp", "additive** + gp", "law + trees", "trees", "law + mlp", "mlp",
    "stack", "mean of laws", "staged",
)  # fmt: skip
_NUMBERS = ("mae", "relative", "tau", "spearman", "coverage80", "coverage90")
Rows = list[dict[str, Any]]


def pooled(done: Rows) -> Rows:
    """One row a (set, kind, split, predictor): means over its cells, errors and coverages weighted by test rows."""
    found: dict[tuple[str, str, str, str], Rows] = defaultdict(list)
    count: dict[tuple[str, str, str], int] = defaultdict(int)
    for cell in done:
        split = cell["key"].rsplit(".", 1)[0] if cell["kind"] != "largest" else "largest"
        count[cell["set"], cell["kind"], split] += 1
        for row in cell["rows"]:
            found[cell["set"], cell["kind"], split, row["name"]].append(row)
    out = []
    for (name, kind, split, predictor), rows in found.items():
        weight = np.array([row["n_test"] for row in rows], dtype=float)
        values: dict[str, Any] = {}
        for key in _NUMBERS:
            column = np.array([row[key] for row in rows], dtype=float)
            good = np.isfinite(column)
            by = np.ones(good.sum()) if key in ("tau", "spearman") else weight[good]
            values[key] = float(np.average(column[good], weights=by)) if good.any() else math.nan
        reasons = [row["reason"] for row in rows if row["reason"]]
        out.append(
            {
                "set": name, "question": SETS[name].question, "kind": kind, "split": split, "predictor": predictor,
                "n_train": round(float(np.mean([row["n_train"] for row in rows]))), "n_test": int(weight.sum()),
                "cells": len(rows), "all_cells": count[name, kind, split], **values,
                "share_chosen": float(np.mean([row["chosen"] for row in rows])), "share_beyond": float(np.mean([row["beyond"] for row in rows])),
                "weight": float(np.mean([row["weight"] for row in rows])), "reason": reasons[0] if reasons else "",
            }
        )  # fmt: skip
    return sorted(out, key=lambda r: (list(SETS).index(r["set"]), r["kind"], r["n_train"], r["split"], _place(r)))


def _place(row: dict[str, Any]) -> int:
    return ORDER.index(row["predictor"]) if row["predictor"] in ORDER else len(ORDER)


def _title(row: dict[str, Any]) -> str:
    if row["kind"] == "curve":
        return f"other groups, {row['split']} rows"
    if row["kind"] == "largest":
        return "largest models out"
    return next(p.name for p in published() if p.set == row["set"] and p.key == row["split"])


def write_held_out(done: Rows, path: Path) -> None:
    """The table that `codesign predictors` shows: the longest curve and the largest models out, of each set."""
    rows = pooled(done)
    longest: dict[str, int] = {}
    for row in rows:
        if row["kind"] == "curve":
            longest[row["set"]] = max(longest.get(row["set"], 0), int(row["split"]))
    entries = []
    for row in rows:
        if row["kind"] == "largest" or (row["kind"] == "curve" and int(row["split"]) == longest[row["set"]]):
            entries.append(
                {
                    "question": row["question"], "dataset": row["set"], "split": _title(row), "predictor": row["predictor"],
                    "n_train": row["n_train"], "n_test": row["n_test"],
                    **{key: None if math.isnan(row[key]) else float(f"{row[key]:.4g}") for key in _NUMBERS},
                    "share_chosen": round(row["share_chosen"], 3), "share_beyond": round(row["share_beyond"], 3), "weight": round(row["weight"], 3),
                    "reason": row["reason"],
                }
            )  # fmt: skip
    head = {
        "schema": "codesign.held_out",
        "version": 1,
        "command": COMMAND,
        "data": "../shared/data/loss and ../shared/data/nas",
    }
    body = ",\n".join(json.dumps(entry) for entry in entries)
    path.write_text(json.dumps(head)[:-1] + f', "rows": [\n{body}\n]}}\n')


def write_report(done: Rows, folder: Path) -> None:
    """results/surrogates.csv, .md and .png."""
    rows = pooled(done)
    with (folder / "surrogates.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})
    lines = ["# Surrogates on rows they did not see", "", f"Made by `{COMMAND}`.", ""]
    lines += (Path(__file__).parent / "surrogate_notes.md").read_text().splitlines()
    lines += ["", *_gates(rows), *_extrapolation(rows), *_curves(rows), *_coverage(rows)]
    (folder / "surrogates.md").write_text("\n".join(lines) + "\n")
    _picture(rows, folder / "surrogates.png")


def _of(rows: Rows, **wanted: Any) -> Rows:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _gates(rows: Rows) -> list[str]:
    lines = [
        "## Published numbers and gates",
        "",
        "*staged* is what the product predicts; *best* is the best single predictor on these test rows (known only afterwards).",
        "",
        "| split | fit / test rows (of all draws) | measure | theirs | by | staged | | 90 % interval holds | in use inside | best |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry in published():
        found = _of(rows, set=entry.set, kind="published", split=entry.key)
        if not found:
            lines.append(f"| {entry.name} | | {entry.measure} | {entry.number:g} | {entry.who} | not run | | | | |")
            continue
        staged = _of(found, predictor="staged")[0]
        value = staged[entry.measure]
        won = value >= entry.number if entry.measure == "tau" else value <= entry.number
        others = [
            r for r in found if r["predictor"] not in ("staged", "parameters alone") and math.isfinite(r[entry.measure])
        ]
        best = (max if entry.measure == "tau" else min)(others, key=lambda r: r[entry.measure])
        used = ", ".join(f"{r['predictor']} {r['share_chosen']:.0%}" for r in found if r["share_chosen"] > 0)
        lines.append(
            f"| {entry.name} | {staged['n_train']} / {staged['n_test']} | {entry.measure} | {_show(entry.number, entry.measure)} | {entry.who} | "
            f"{_show(value, entry.measure)} | {'won' if won else 'lost'} | {staged['coverage90']:.0%} | {used} | "
            f"{best['predictor']} {_show(best[entry.measure], entry.measure)} |"
        )
    return [*lines, ""]


def _show(value: float, measure: str) -> str:
    return f"{100 * value:.2f} %" if measure == "relative" else f"{value:.3f}" if measure == "tau" else f"{value:.4f}"


def _extrapolation(rows: Rows) -> list[str]:
    lines = [
        "## The largest models left out",
        "",
        "Mean absolute relative error; the aim is 1 %.",
        "",
        "| data set | fit / test rows | staged | | 90 % interval holds | parameters alone | law | law + gp | gp | trees | mlp | stack | mean of laws |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in SETS:
        found = {row["predictor"]: row for row in _of(rows, set=name, kind="largest")}
        if "staged" not in found:
            continue
        staged = found["staged"]
        others = [
            f"{100 * found[k]['relative']:.2f} %" if k in found else ""
            for k in ("parameters alone", "law", "law + gp", "gp", "trees", "mlp", "stack", "mean of laws")
        ]
        lines.append(
            f"| {name} | {staged['n_train']} / {staged['n_test']} | {100 * staged['relative']:.2f} % | "
            f"{'holds' if staged['relative'] <= 0.01 else 'missed'} | {staged['coverage90']:.0%} | "
            + " | ".join(others)
            + " |"
        )
    return [*lines, ""]


def _curves(rows: Rows) -> list[str]:
    lines = [
        "## Error against training rows",
        "",
        "Mean absolute relative error [%] on other groups, means over repeats.",
        "",
    ]
    lines += ["| data set | rows | " + " | ".join(ORDER) + " |", "| --- | --- |" + " --- |" * len(ORDER)]
    for name in SETS:
        for size in sorted({int(row["split"]) for row in _of(rows, set=name, kind="curve")}):
            found = {row["predictor"]: row for row in _of(rows, set=name, kind="curve", split=str(size))}
            cells = [f"{100 * found[k]['relative']:.2f}" if k in found else "" for k in ORDER]
            lines.append(f"| {name} | {size} | " + " | ".join(cells) + " |")
    lines += ["", "Kendall tau of the same.", ""]
    lines += ["| data set | rows | " + " | ".join(ORDER) + " |", "| --- | --- |" + " --- |" * len(ORDER)]
    for name in SETS:
        for size in sorted({int(row["split"]) for row in _of(rows, set=name, kind="curve")}):
            found = {row["predictor"]: row for row in _of(rows, set=name, kind="curve", split=str(size))}
            cells = [f"{found[k]['tau']:.3f}" if k in found else "" for k in ORDER]
            lines.append(f"| {name} | {size} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _coverage(rows: Rows) -> list[str]:
    """Share of cells in the band, and mean coverage, of each predictor over the curves."""
    lines = ["## Intervals", "", "Coverage on other groups over all curves: mean of the data sets.", ""]
    lines += ["| rows | " + " | ".join(ORDER[1:]) + " |", "| --- |" + " --- |" * len(ORDER[1:])]
    curve = _of(rows, kind="curve")
    for size in sorted({int(row["split"]) for row in curve}):
        for key in ("coverage80", "coverage90"):
            cells = []
            for name in ORDER[1:]:
                values = [row[key] for row in _of(curve, split=str(size), predictor=name) if math.isfinite(row[key])]
                cells.append(f"{np.mean(values):.0%}" if values else "")
            lines.append(f"| {size}, {key[-2:]} % | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _picture(rows: Rows, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [
        name for name in SETS if len({row["split"] for row in _of(rows, set=name, kind="curve")}) > 1
    ]  # one size is no curve
    if not names:
        return
    shown = {
        "parameters alone": ("0.6", ":"), "law": ("tab:blue", "-"), "law + gp": ("tab:cyan", "-"), "gp": ("tab:green", "-"),
        "trees": ("tab:orange", "-"), "mlp": ("tab:purple", "-"), "stack": ("tab:red", "-"), "staged": ("black", "--"),
    }  # fmt: skip
    columns = 4
    lines = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(lines, columns, figsize=(15, 2.9 * lines), squeeze=False)
    for axis, name in zip(axes.ravel(), names, strict=False):
        for predictor, (colour, style) in shown.items():
            found = sorted(_of(rows, set=name, kind="curve", predictor=predictor), key=lambda r: int(r["split"]))
            if found:
                axis.plot(
                    [int(r["split"]) for r in found], [100 * r["relative"] for r in found], style, color=colour, marker="o",
                    markersize=3, linewidth=1.8 if predictor == "staged" else 1.2, label=predictor,
                )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(f"{name} ({SETS[name].question})", fontsize=9)
        axis.set_xlim(20, 500)
        axis.set_xticks([25, 50, 100, 200, 400], ["25", "50", "100", "200", "400"])
        axis.minorticks_off()
        low, high = axis.get_ylim()
        ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= t <= high]
        axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    for axis in axes.ravel()[len(names) :]:
        axis.axis("off")
    handles, labels = [], []
    for axis in axes.ravel():
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="upper center", ncol=len(labels), fontsize=9, frameon=False)
    figure.supxlabel("training rows", fontsize=10)
    figure.supylabel("relative error on other groups, %", fontsize=10)
    figure.tight_layout(rect=(0.01, 0.01, 1, 0.985))
    figure.savefig(path, dpi=80)
    plt.close(figure)
