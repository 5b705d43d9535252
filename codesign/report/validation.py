"""A validation as files: validation.json, validation.csv and validation.png in the run's folder."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from codesign.campaign.validate import Validation
from codesign.errors import SpecError
from codesign.report.words import MEASURED_TITLES

__all__ = ["write_validation"]

SCHEMA = "codesign.validation"
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"


def write_validation(validation: Validation, folder: Path) -> list[Path]:
    """Write the three files, each under a temporary name first.

    Raises:
        SpecError: the folder cannot be written.
    """
    texts = {"validation.json": _json(validation), "validation.csv": _csv(validation)}
    written = []
    try:
        for name, text in texts.items():
            part = folder / f".{name}.part-{os.getpid()}"
            part.write_text(text, encoding="utf-8")
            os.replace(part, folder / name)
            written.append(folder / name)
        part = folder / f".validation.part-{os.getpid()}.png"
        _plot(validation, part)
        os.replace(part, folder / "validation.png")
    except OSError as error:
        raise SpecError(f"cannot write the validation to {folder}: {error.strerror or error}") from error
    return [*written, folder / "validation.png"]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _json(validation: Validation) -> str:
    rows = [
        {
            "design": row.design, "metric": row.metric, "predicted": row.predicted, "interval_90": list(row.interval),
            "measured": row.measured, "error": row.error, "inside": row.inside, "again_log": _finite(row.again_log),
        }
        for row in validation.rows
    ]  # fmt: skip
    summary = {m: {k: _finite(v) for k, v in values.items()} for m, values in validation.summary().items()}
    facts = {
        "schema": SCHEMA, "version": 1, "summary": summary, "pareto_measured": list(validation.pareto), "rows": rows,
        "device": validation.provenance["device"], "engine": validation.provenance["engine"],
        "workload": validation.provenance["workload"],
    }  # fmt: skip
    return json.dumps(facts, indent=1, allow_nan=False) + "\n"


def _csv(validation: Validation) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["design", "metric", "predicted", "low_90", "high_90", "measured", "error_pct", "inside", "again_log"]
    )
    for r in validation.rows:
        writer.writerow(
            [r.design, r.metric, r.predicted, *r.interval, r.measured, 100 * r.error, int(r.inside), r.again_log]
        )
    return out.getvalue()


def _plot(validation: Validation, path: Path) -> None:
    """Left: measured over predicted with the 90 % interval; right: loss over time, predicted and measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    metrics = [metric for metric in MEASURED_TITLES if validation.of(metric)]
    figure, axes = plt.subplots(
        1, len(metrics) + 1, figsize=(5.2 * (len(metrics) + 1), 4.8), dpi=130, layout="constrained", squeeze=False
    )
    for ax, metric in zip(axes[0], metrics, strict=False):
        _scatter(ax, validation, metric)
    _front(axes[0][-1], validation)
    device = validation.provenance["device"]
    assert isinstance(device, dict)
    mode = f", {device['power_mode']}" if device["power_mode"] else ""
    figure.suptitle(f"{device['title']}{mode}, {validation.provenance['engine']}: predicted and measured", fontsize=11)
    figure.savefig(path)
    plt.close(figure)


def _scatter(ax: Any, validation: Validation, metric: str) -> None:
    rows, s = validation.of(metric), validation.summary()[metric]
    predicted = [1e3 * r.predicted for r in rows]
    measured = [1e3 * r.measured for r in rows]
    bars = [[1e3 * (r.predicted - r.interval[0]) for r in rows], [1e3 * (r.interval[1] - r.predicted) for r in rows]]
    low, high = 0.85 * min(*predicted, *measured), 1.15 * max(*predicted, *measured)
    ax.plot([low, high], [low, high], color=_GREY, lw=1, label="equal")
    ax.errorbar(measured, predicted, yerr=bars, fmt="o", ms=5, color=_BLUE, ecolor=_BLUE, elinewidth=1, capsize=2,
                label="designs, 90 % interval")  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_title(
        f"{MEASURED_TITLES[metric]}: mean error {s['mape_pct']:.1f} %, {s['coverage']:.0%} inside", fontsize=10
    )
    unit = "mJ" if metric == "energy_J" else "ms"
    ax.set_xlabel(f"measured, {unit}")
    ax.set_ylabel(f"predicted, {unit}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}" if high < 10 * low else "")
    ax.tick_params(axis="x", which="both", labelrotation=45, labelsize=8)
    ax.tick_params(axis="y", which="both", labelsize=8)
    ax.grid(alpha=0.25, lw=0.5)
    ax.legend(fontsize=8, frameon=False, loc="upper left")


def _front(ax: Any, validation: Validation) -> None:
    rows = {row.design: row for row in validation.of("latency_s")}
    designs = [c for c in validation.candidates if c.name in rows]
    losses = [c.loss for c in designs]
    predicted = [1e3 * rows[c.name].predicted for c in designs]
    measured = [1e3 * rows[c.name].measured for c in designs]
    for c, a, b in zip(designs, predicted, measured, strict=True):
        ax.plot([a, b], [c.loss, c.loss], color=_GREY, lw=1)
    ax.plot(predicted, losses, "o", ms=5, mfc="white", color=_BLUE, label="predicted")
    ax.plot(measured, losses, "D", ms=5, color=_ORANGE, label="measured")
    alive = len(validation.pareto)
    ax.set_title(f"{alive} of {len(designs)} measured designs are non-dominated", fontsize=10)
    ax.set_xlabel("time per generated token, ms")
    ax.set_ylabel("predicted training loss, nats per token")
    ax.grid(alpha=0.25, lw=0.5)
    ax.legend(fontsize=8, frameon=False)
