"""Figures as plotly.js takes them: traces and axis titles; colours of the page are added in the browser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from codesign.dashboard.measured_rows import MeasuredRow
from codesign.training_run import CurvePoint, TrainingRun

__all__ = ["MOST_CURVES", "loss_curves", "times_over_parameters"]

#: Curves of one figure; more cannot be told apart.
MOST_CURVES = 60
#: Number of the style's series colours (`static/dashboard.css`: Okabe-Ito, lifted on dark ground); the browser puts them in.
COLOURS = 6
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x")


def loss_curves(runs: Sequence[TrainingRun]) -> dict[str, Any]:
    """Validation loss over tokens, one line a run; training loss where a run was not evaluated yet."""
    traces = []
    names: set[str] = set()
    for number, run in enumerate(runs[:MOST_CURVES]):
        points, which = _points(run)
        if not points:
            continue
        name = _name(run, names)
        traces.append({
            "type": "scatter", "mode": "lines+markers" if len(points) < 30 else "lines",
            "name": name,
            "x": [tokens for tokens, _ in points], "y": [loss for _, loss in points],
            "line": {"color": number % COLOURS, "width": 1.6,
                     "dash": DASHES[number // COLOURS % len(DASHES)]},
            "marker": {"size": 4},
            "text": f"{_plain(run.label())} ({which} loss)",
            "hovertemplate": "%{text}<br>%{x:,} tokens: %{y:.4f} nats per token<extra></extra>",
        })  # fmt: skip
    return {"data": traces, "x": "training tokens", "y": "loss, nats per token", "x_log": True, "y_log": False}


def _name(run: TrainingRun, taken: set[str]) -> str:
    """As short as tells it from the others: depth and width, then heads and FFN, then the learning rate and the seed."""
    a, r = run.architecture, run.recipe
    name = f"{a.n_layers} × {a.d_model}, {run.status}"
    for more in (
        f"{a.n_heads}/{a.n_kv_heads} heads, FFN {a.d_ff}",
        f"lr {r.lr:g}, seed {r.seed}",
        f"run {len(taken) + 1}",
    ):
        if name not in taken:
            break
        name = f"{name}, {more}"
    taken.add(name)
    return name


def _points(run: TrainingRun) -> tuple[list[tuple[int, float]], str]:
    def of(curve: Iterable[CurvePoint], name: str) -> list[tuple[int, float]]:
        values = ((point.tokens, getattr(point, name)) for point in curve)
        return [(tokens, loss) for tokens, loss in values if tokens > 0 and math.isfinite(loss)]

    valid = of(run.valid_curve, "valid_loss")
    return (valid, "validation") if valid else (of(run.curve, "train_loss"), "training")


def times_over_parameters(rows: Sequence[MeasuredRow]) -> dict[str, Any]:
    """Time of a pass over parameters, both logarithmic: one series an engine, precision and kind of pass, with spread."""
    series: dict[str, list[MeasuredRow]] = {}
    for row in rows:
        series.setdefault(row.series, []).append(row)
    traces = []
    for number, (name, members) in enumerate(series.items()):
        traces.append({
            "type": "scatter", "mode": "markers", "name": _plain(name),
            "x": [row.params for row in members], "y": [1e3 * row.seconds for row in members],
            "error_y": {
                "type": "data", "symmetric": False, "thickness": 1, "width": 2,
                "array": [1e3 * (row.high_s - row.seconds) for row in members],
                "arrayminus": [1e3 * (row.seconds - row.low_s) for row in members],
            },
            "marker": {"size": 7, "opacity": 0.8, "color": number % COLOURS,
                       "symbol": SYMBOLS[number % len(SYMBOLS)]},
            "text": [_plain(f"{row.model}, {row.work}") for row in members],
            "hovertemplate": "%{text}<br>%{x:.3s} parameters: %{y:.3~g} ms<extra>%{fullData.name}</extra>",
        })  # fmt: skip
    return {"data": traces, "x": "stored parameters", "y": "time of a pass, ms", "x_log": True, "y_log": True}


def _plain(text: str) -> str:
    """plotly.js reads some HTML in texts: a record's name must not become a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
