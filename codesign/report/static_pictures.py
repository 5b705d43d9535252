"""The page's pictures as PNG and SVG (matplotlib, imported when one is drawn)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codesign.errors import SpecError
from codesign.report.review import Review
from codesign.report.words import METRICS, SCALES, family_text, show_metric
from codesign.search import Candidate
from codesign.workload import PRECISIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "draw_frontier",
    "draw_parallel",
    "draw_roofline",
    "draw_trust",
    "new_figure",
    "save_figure",
    "write_pictures",
]

# Okabe-Ito: told apart with any colour vision; each comes with a marker shape of its own.
BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY, GREY, INK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6e7781", "#1b1f24",
)  # fmt: skip
_FAMILY_COLOURS = (BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY, GREY)
_FAMILY_MARKERS = ("o", "D", "s", "^", "P", "X", "v", "<", ">", "p", "h")  # 11 and 7: no pair comes again soon


def new_figure(width: float = 9.0, height: float = 5.5) -> tuple[Figure, Any]:
    """A figure with one axes, without a window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), dpi=140, layout="constrained")
    axes.grid(alpha=0.25, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def write_pictures(review: Review, page: Path, sections: tuple[str, ...]) -> list[Path]:
    """PNG and SVG of each section that has a picture, named after the page: report-frontier.png beside report.html.

    A section has one if its module has ``picture(review) -> Figure | None``.

    Raises:
        SpecError: they cannot be written.
    """
    written = []
    for name in sections:
        module = import_module(f"codesign.report.{name}")
        draw: Callable[[Review], Figure | None] | None = getattr(module, "picture", None)
        figure = draw(review) if draw is not None else None
        if figure is not None:
            key = name.removesuffix("_section").replace("_", "-")
            written += save_figure(figure, page.with_name(f"{page.stem}-{key}"))
    return written


def save_figure(figure: Figure, base: Path) -> list[Path]:
    """Write base.png and base.svg, each under a temporary name first.

    Raises:
        SpecError: they cannot be written.
    """
    import matplotlib
    from matplotlib import pyplot as plt

    paths = []
    try:
        for kind in ("png", "svg"):
            path = base.with_name(f"{base.name}.{kind}")
            part = path.with_name(f".{path.name}.part-{os.getpid()}")
            # the same run gives the same bytes: no date, ids from a fixed salt; text stays text
            with matplotlib.rc_context({"svg.hashsalt": "codesign", "svg.fonttype": "none"}):
                metadata = {"Date": None} if kind == "svg" else None
                figure.savefig(part, format=kind, metadata=metadata)
            os.replace(part, path)
            paths.append(path)
    except OSError as error:
        raise SpecError(
            f"cannot write the pictures beside {base}: {error.strerror or error}; give another --out"
        ) from error
    finally:
        plt.close(figure)
    return paths


def _title(review: Review) -> str:
    mode = f" at {review.power_mode}" if review.power_mode else ""
    return f"{review.frontier.provenance['device']['title']}{mode}, {review.engine}"


def draw_frontier(review: Review) -> Figure:
    """Loss, or the second objective, against the first cost: designs with intervals, known models, the budget, measured points."""
    figure, axes = new_figure()
    key, up = review.cost_key, review.y_key
    up_scale, up_unit = SCALES.get(up, (1.0, ""))

    def height(c: Candidate) -> float:
        return c.loss if up == "loss" else up_scale * c.values[up]

    scale, unit = SCALES.get(key, (1.0, ""))
    designs = sorted(review.frontier.candidates, key=lambda c: c.values[key])
    x = [scale * c.values[key] for c in designs]
    if len(review.problem.objectives) == 2 and up == "loss":
        low, high = ([c.intervals["loss"][side] for c in designs] for side in (0, 1))
        axes.fill_between(x, low, high, color=BLUE, alpha=0.12, lw=0, label="90 % interval of the loss")
        axes.plot(x, [height(c) for c in designs], lw=1, color=BLUE, alpha=0.6, drawstyle="steps-post")
    families = dict.fromkeys(("dense", "mixture of experts")) | {family_text(c.architecture): None for c in designs}
    for k, name in enumerate(families):  # these two always look the same
        colour, marker = _FAMILY_COLOURS[k % len(_FAMILY_COLOURS)], _FAMILY_MARKERS[k % len(_FAMILY_MARKERS)]
        group = [c for c in designs if family_text(c.architecture) == name]
        if group:
            gx, gy = [scale * c.values[key] for c in group], [height(c) for c in group]
            if key in group[0].intervals and len(group) <= 400:
                bars = [[abs(scale * c.intervals[key][side] - scale * c.values[key]) for c in group] for side in (0, 1)]
                axes.errorbar(gx, gy, xerr=bars, fmt="none", ecolor=colour, alpha=0.2, lw=0.9)
            axes.plot(
                gx, gy, ls="", marker=marker, ms=4.5, mec="white", mew=0.5, color=colour, label=f"{name} ({len(group)})"
            )
    bound = review.problem.budget.bounds().get(key)
    top = 1.12 * max([*x, scale * bound if bound and scale * bound < 4 * max(x) else 0])
    if bound and scale * bound < top:
        axes.axvline(scale * bound, color=VERMILLION, ls="--", lw=1)
        axes.text(scale * bound, 0.02, f" budget {show_metric(key, bound)}", color=VERMILLION, va="bottom", ha="right", rotation=90,
                  fontsize=8, transform=axes.get_xaxis_transform())  # fmt: skip
    known = [k.candidate for k in review.known if scale * k.candidate.values[key] <= top]
    if known:
        spans = (
            [[c.loss - c.intervals["loss"][0] for c in known], [c.intervals["loss"][1] - c.loss for c in known]]
            if up == "loss"
            else None
        )
        axes.errorbar([scale * c.values[key] for c in known], [height(c) for c in known], yerr=spans, fmt="*", ms=10, color=ORANGE, mec=INK,
                      mew=0.6, elinewidth=0.8, capsize=2, label="known models" + (", same law and tokens" if up == "loss" else ""))  # fmt: skip
        for i, c in enumerate(known):
            axes.annotate(c.name, (scale * c.values[key], height(c)), fontsize=7, color=GREY, textcoords="offset points",
                          xytext=(5, 5 if i % 2 else -10))  # fmt: skip
    _measured(review, axes, key, scale, height)
    best = review.best
    axes.plot([scale * best.values[key]], [height(best)], marker="o", ms=13, mfc="none", mec=VERMILLION, mew=1.8, ls="",
              label=f"{review.best_text}: {best.name}")  # fmt: skip
    axes.set_xlim(max(0.0, min(x) - 0.05 * top), top)
    axes.set_xlabel(f"{METRICS[key][0] if key in METRICS else key}{', ' + unit if unit else ''}")
    after = f"predicted training loss after {review.problem.tokens / 1e9:g}B tokens, nats per token"
    axes.set_ylabel(
        after if up == "loss" else f"{METRICS[up][0] if up in METRICS else up}{', ' + up_unit if up_unit else ''}"
    )
    exact = "exact" if review.frontier.provenance["exact"] else "heuristic"
    axes.set_title(
        f"{_title(review)}: frontier ({exact}), budget {review.problem.budget.describe().replace('<=', '≤') or 'none'}",
        fontsize=10,
    )
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    return figure


def _measured(review: Review, axes: Any, key: str, scale: float, height: Callable[[Candidate], float]) -> None:
    by_name = {c.name: c for c in review.frontier.candidates}
    rows = [r for r in (review.validation or {}).get("rows", []) if r["metric"] == key and r["design"] in by_name]
    for row in rows:
        y = height(by_name[row["design"]])
        axes.plot([scale * row["predicted"], scale * row["measured"]], [y, y], color=INK, lw=1)
    if rows:
        axes.plot([scale * r["measured"] for r in rows], [height(by_name[r["design"]]) for r in rows], ls="", marker="x", ms=6, color=INK,
                  label=f"measured ({len(rows)})")  # fmt: skip


def draw_roofline(review: Review, design: Candidate | None = None) -> Figure:
    """Operators of the best design on the device's roofs, log-log."""
    from codesign.report.roofline_section import roofs

    figure, axes = new_figure()
    chosen = design or review.best
    form, model = PRECISIONS[chosen.precision], review.models[chosen.precision]
    styles: tuple[tuple[Any, str, str], ...] = (("prefill", BLUE, "o"), ("decode", VERMILLION, "D"))
    xs: list[float] = []
    ys: list[float] = []
    for phase, colour, marker in styles:
        if phase == "prefill" and not review.problem.workload.prompt_tokens:
            continue
        rows = model.breakdown(chosen.architecture, review.problem.workload, form, phase)
        total = sum(r.seconds for r in rows)
        points = [r for r in rows if r.flop > 0 and r.bytes_moved > 0 and r.seconds > 0]
        px, py = [r.flop / r.bytes_moved for r in points], [r.flop / r.seconds for r in points]
        sizes = [20 + 700 * r.seconds / total for r in points]
        axes.scatter(
            px,
            py,
            s=sizes,
            marker=marker,
            color=colour,
            alpha=0.75,
            edgecolor="white",
            lw=0.6,
            label=f"operators, {phase}",
        )
        _name_points(
            axes,
            [
                (r.name, r.flop / r.bytes_moved, r.flop / r.seconds)
                for r in sorted(points, key=lambda r: -r.seconds)[:3]
            ],
        )
        flop, moved = sum(r.flop for r in rows), sum(r.bytes_moved for r in rows)
        axes.plot(
            [flop / moved],
            [flop / total],
            ls="",
            marker="X",
            ms=10,
            color=colour,
            mec=INK,
            mew=0.8,
            label=f"whole {phase}, with overheads",
        )
        xs, ys = [*xs, *px], [*ys, *py]
    sheet = roofs(model, form, "decode")
    ridge = sheet["peak_flop_per_s"] / sheet["bandwidth_Bps"]
    low, high = min([*xs, ridge]) / 2.2, 4 * max([*xs, ridge])
    grid = [low * (high / low) ** (i / 200) for i in range(201)]
    axes.plot(grid, [min(i * sheet["bandwidth_Bps"], sheet["peak_flop_per_s"]) for i in grid], color=INK, lw=1.6,
              label=f"device figures: {show_metric('memory_B', sheet['bandwidth_Bps'])}/s, {_rate(sheet['peak_flop_per_s'])} {sheet['dtype']}")  # fmt: skip
    for phase, colour, _ in styles:
        found = roofs(model, form, phase)
        for roof in found["calibrated"][:1]:
            moving = [i * roof["bandwidth_Bps"] for i in grid]
            reach = [
                1 / (1 / m + 1 / roof["flop_per_s"]) if found["add"] else min(m, roof["flop_per_s"]) for m in moving
            ]
            axes.plot(grid, reach, color=colour, ls="--", lw=1.1, label=f"{phase}, calibrated for {roof['name']}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(min(ys) / 2.5, 2 * sheet["peak_flop_per_s"])
    axes.set_xlabel("arithmetic intensity, FLOP per byte moved")
    axes.set_ylabel("FLOP/s")
    axes.set_title(f"{_title(review)}: roofline of {chosen.name} ({chosen.precision})", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def _rate(flop_per_s: float) -> str:
    scale, unit = next(
        (step for step in ((1e12, "TFLOP/s"), (1e9, "GFLOP/s")) if flop_per_s >= step[0]), (1e6, "MFLOP/s")
    )
    return f"{flop_per_s / scale:.3g} {unit}"


def _name_points(axes: Any, points: list[tuple[str, float, float]]) -> None:
    """Names beside points; those that fall on each other share one text."""
    places: list[tuple[list[str], float, float]] = []
    for name, x, y in points:
        same = next((p for p in places if abs(math.log(x / p[1])) < 0.5 and abs(math.log(y / p[2])) < 0.35), None)
        if same is not None:
            same[0].append(name)
        else:
            places.append(([name], x, y))
    for names, x, y in places:
        text = "\n".join(names)
        axes.annotate(text, (x, y), fontsize=7.5, textcoords="offset points", xytext=(14, -8), va="top")


def draw_parallel(review: Review) -> Figure | None:
    """Parallel coordinates of the frontier, coloured by loss (or the first cost); None where fewer than two designs or axes differ."""
    from codesign.report.parallel_section import varying_axes

    designs = review.frontier.candidates
    axes_of = [(key, title, read) for key, title, read in varying_axes(designs) if key != "precision"]
    if len(designs) < 2 or len(axes_of) < 2:
        return None
    figure, axes = new_figure(11.0, 5.0)
    from matplotlib import colormaps

    shade_key = review.shade_key
    losses = [c.loss if shade_key == "loss" else c.values[shade_key] for c in designs]
    low, high = min(losses), max(losses)
    columns = [[float(read(c)) for c in designs] for _, _, read in axes_of]
    spans = [(min(column), max(column)) for column in columns]
    for i in sorted(range(len(designs)), key=lambda i: -losses[i]):
        line = [(column[i] - a) / (b - a) for column, (a, b) in zip(columns, spans, strict=True)]
        shade = colormaps["cividis"](0.9 * (losses[i] - low) / ((high - low) or 1.0))
        axes.plot(range(len(columns)), line, color=shade, lw=0.8, alpha=0.75)
    for k, ((key, _, _), (a, b)) in enumerate(zip(axes_of, spans, strict=True)):
        axes.axvline(k, color=GREY, lw=0.8)
        for value, y, side in ((a, -0.03, "top"), (b, 1.03, "bottom")):
            axes.text(k, y, show_metric(key, value), ha="center", va=side, fontsize=7.5)
    axes.set_xticks(range(len(columns)), [title for _, title, _ in axes_of], fontsize=8.5)
    axes.tick_params(axis="x", length=0, pad=16)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(
        f"{_title(review)}: the {len(designs)} designs of the frontier, dark: low {'loss' if shade_key == 'loss' else METRICS[shade_key][0]}",
        fontsize=10,
        pad=26,
    )
    return figure


def draw_trust(review: Review) -> Figure | None:
    """Predicted against measured: the run's own validation, else published rows that the fit did not see."""
    from codesign.report.trust_section import published_rows

    figure, axes = new_figure(6.4, 6.0)
    if review.validation is not None:
        groups = {
            title: [(1e3 * r["measured"], 1e3 * r["predicted"]) for r in review.validation["rows"] if r["metric"] == metric]
            for metric, title in (("latency_s", "time per token"), ("ttft_s", "time to first token"))
        }  # fmt: skip
        what = "designs of this frontier, measured on the device"
    else:
        rows = [r for r in published_rows(review) if r["left_out"] == "model" and r["phase"] == "decode"]
        name = review.frontier.provenance["device"]["name"]
        pairs = [
            (r["device"] == name, r["engine"] == review.engine, (float(r["measured_ms"]), float(r["predicted_ms"])))
            for r in rows
        ]
        groups = {
            "other devices": [p for here, _, p in pairs if not here],
            "this device, other engines": [p for here, engine, p in pairs if here and not engine],
            f"this device, {review.engine}": [p for here, engine, p in pairs if here and engine],
        }
        what = "published decode times, the model left out of the fit"
    points = [p for group in groups.values() for p in group]
    if not points:
        from matplotlib import pyplot as plt

        plt.close(figure)
        return None
    low, high = 0.8 * min(min(p) for p in points), 1.25 * max(max(p) for p in points)
    axes.plot([low, high], [low, high], color=GREY, lw=1, label="equal")
    looks = (
        [(BLUE, "o", 0.9), (VERMILLION, "D", 0.9)]
        if review.validation is not None
        else [(GREY, ".", 0.5), (BLUE, "s", 0.85), (VERMILLION, "D", 0.95)]
    )
    for (title, members), (colour, marker, alpha) in zip(groups.items(), looks, strict=True):
        if members:
            error = sum(abs(p / m - 1) for m, p in members) / len(members)
            axes.plot(
                *zip(*members, strict=True),
                ls="",
                marker=marker,
                ms=6,
                color=colour,
                alpha=alpha,
                label=f"{title}: {len(members)}, mean error {error:.1%}",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    if high < 30 * low:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
    axes.set_xlabel("measured, ms")
    axes.set_ylabel("predicted, ms")
    axes.set_title(f"{_title(review)}\n{what}", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure
