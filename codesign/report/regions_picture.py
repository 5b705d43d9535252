"""The feasible regions and the law's closed forms as static pictures (matplotlib)."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign.report.closed_form_maps import LawMap, law_maps, our_depths, setting_of
from codesign.report.regions import limits_of, pairs, regions, share_of, slice_of
from codesign.report.regions_section import AXIS_WORDS, LAW_MAPS
from codesign.report.review import Review
from codesign.report.words import show_metric

__all__ = ["draw_closed_forms", "draw_regions", "map_axes", "picture"]

_COLOURS = {
    "latency_s": "#D55E00", "ttft_s": "#E69F00", "e2e_s": "#CC79A7", "memory_B": "#0072B2", "energy_J": "#009E73",
    "power_W": "#F0E442", "params": "#6e7781",
}  # fmt: skip
_HATCH = {
    "latency_s": "//", "memory_B": "\\\\", "ttft_s": "||", "e2e_s": "--", "energy_J": "++", "power_W": "oo", "params": "..",
}  # fmt: skip
_SHORT = {
    "latency_s": "time per token", "ttft_s": "first token", "e2e_s": "request", "memory_B": "memory", "energy_J": "energy",
    "power_W": "power", "params": "parameters",
}  # fmt: skip
_STYLES = ("-", "--", ":", "-.")
_INK = "#1b1f24"


def map_axes(review: Review) -> tuple[str, str] | None:
    """The first pair of axes that vary in the run's space: width and depth, where they do."""
    axes = review.problem.space.axes
    return next(((x, y) for x, y in pairs() if len(axes[x]) > 1 and len(axes[y]) > 1), None)


def draw_regions(review: Review, axes: Any) -> bool:
    """Which budget rules out which cell, through the best design; False where the space has no two axes that vary."""
    pair = map_axes(review)
    if pair is None:
        return False
    import matplotlib
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    best = review.best
    limits = limits_of(review.problem, best.precision)
    cells = slice_of(review.problem, best, *pair)
    found = regions(cells, limits, extrapolate=review.problem.allow_extrapolation)
    bits = sum(found.broken[key].astype(int) << k for k, key in enumerate(found.keys))
    kinds = np.where(bits == 0, -1 - found.tightest, bits)
    x, y = _places(cells.x_values), _places(cells.y_values)
    shown = [int(v) for v in np.unique(kinds)]
    colours = [_tint(found.keys, kind) for kind in shown]
    axes.pcolormesh(
        x, y, np.searchsorted(shown, kinds), cmap=ListedColormap(colours), shading="nearest", rasterized=True
    )
    with matplotlib.rc_context({"hatch.color": "#1b1f2450", "hatch.linewidth": 0.6}):
        for kind in shown:
            if kind > 0 and np.sum(kinds == kind) > 3 and min(kinds.shape) > 1:
                mask = (kinds == kind).astype(float)
                axes.contourf(x, y, mask, levels=[0.5, 1.5], colors="none", hatches=[_hatch(found.keys, kind)])
    if not review.problem.allow_extrapolation:
        axes.pcolormesh(
            x,
            y,
            np.where(cells.inside, np.nan, 1.0),
            cmap=ListedColormap(["white"]),
            alpha=0.66,
            shading="nearest",
            rasterized=True,
        )
    if min(kinds.shape) < 2:
        return False
    trusted = cells.values["loss"][cells.inside] if cells.inside.any() else cells.values["loss"]
    lines = axes.contour(
        x,
        y,
        cells.values["loss"],
        levels=np.linspace(trusted.min(), trusted.max(), 9)[:-1],
        colors=_INK,
        linewidths=0.7,
        alpha=0.7,
    )
    axes.clabel(lines, fontsize=7, fmt="%.2f")
    for k, key in enumerate(found.keys):
        share = np.log(share_of(cells, limits, key))
        if share.min() < 0 < share.max():
            axes.contour(x, y, share, levels=[0.0], colors=_COLOURS[key], linewidths=2.2, linestyles=_STYLES[k % 4])
    if found.best is not None:
        axes.plot([x[found.best[1]]], [y[found.best[0]]], marker="*", ms=15, mfc="#F0E442", mec=_INK, ls="")
    handles: list[Any] = [
        Patch(facecolor=_tint(found.keys, kind), edgecolor=_INK, lw=0.4, label=_words(found.keys, kind),
              hatch=_hatch(found.keys, kind))
        for kind in shown
    ]  # fmt: skip
    bounds = ", ".join(f"{_SHORT[key]} {show_metric(key, limits[key][0])}" for key in found.keys)
    axes.legend(handles=handles, fontsize=7, frameon=True, framealpha=0.9, loc="upper right")
    axes.set_xlabel(AXIS_WORDS[pair[0]])
    axes.set_ylabel(AXIS_WORDS[pair[1]])
    for values, places, axis in ((cells.x_values, x, axes.xaxis), (cells.y_values, y, axes.yaxis)):
        if not _numeric(values):
            axis.set_ticks(places, [_name(v) for v in values])
    axes.set_title(
        f"Feasible regions through {best.name}: {bounds}\nlines: loss, nats per token; star: lowest loss within the budgets",
        fontsize=10,
    )
    return True


def _numeric(values: tuple[Any, ...]) -> bool:
    return all(isinstance(v, int) for v in values) and len(values) > 12


def _places(values: tuple[Any, ...]) -> Any:
    return np.asarray(values, dtype=float) if _numeric(values) else np.arange(len(values), dtype=float)


def _name(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[1]} of {value[0]}" if value[0] else "dense"
    return f"{value:g}"


def _tint(keys: tuple[str, ...], kind: int) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    broken = [key for k, key in enumerate(keys) if kind > 0 and kind >> k & 1]
    base, share = (
        (_INK, 0.34)
        if len(broken) > 1
        else (_COLOURS[broken[0] if broken else keys[-1 - kind]] if keys else _INK, 0.47 if broken else 0.17)
    )
    r, g, b = (share * c + (1 - share) for c in to_rgb(base))
    return r, g, b


def _words(keys: tuple[str, ...], kind: int) -> str:
    if kind < 0:
        return f"within every budget, {_SHORT[keys[-1 - kind]]} tightest" if keys else "no budget"
    return "breaks " + " and ".join(_SHORT[key] for k, key in enumerate(keys) if kind >> k & 1)


def _hatch(keys: tuple[str, ...], kind: int) -> str:
    broken = [key for k, key in enumerate(keys) if kind > 0 and kind >> k & 1]
    return "" if not broken else _HATCH[broken[0]] if len(broken) == 1 else "xx"


def draw_closed_forms(review: Review, figure: Any) -> None:
    """Four maps of the law's own simplified model, each closed form over its brute force; the depth map has this run's too."""
    s = setting_of(review)
    maps = {m.key: m for m in law_maps(s, steps=(1.0,)) if m.phase in ("decode", "memory")}
    grid = figure.subplots(2, 2)
    for axes, key in zip(grid.reshape(-1), ("depth", "r", "rho", "rho-memory"), strict=True):
        _law(axes, maps[key])
        axes.set_title(f"{LAW_MAPS[key][0]}: {LAW_MAPS[key][1]}", fontsize=8)
    d = list(maps["depth"].widths)
    grid[0, 0].plot(
        d, our_depths(review.problem, review, d), color="#009E73", lw=2.4, ls="-.", label="this run's own cost model"
    )
    grid[0, 0].legend(fontsize=7, frameon=True, loc="upper right")
    figure.suptitle(
        f"Closed forms of arXiv 2602.10377 over brute force, under the paper's simplified model\n(decode {show_metric('latency_s', s.latency_s)}, "
        f"memory {show_metric('memory_B', s.memory_B)}, r = {s.r:.3g}, g = {s.g:.3g}, ρ = {s.rho:.3g})",
        fontsize=10,
    )


def _law(axes: Any, m: LawMap) -> None:
    if m.key != "depth":
        axes.pcolormesh(
            m.widths,
            m.y_values,
            np.log10(np.maximum(m.above, 1e-4)),
            cmap="cividis_r",
            vmin=-4,
            vmax=0,
            alpha=0.7,
            rasterized=True,
        )
    else:
        lines = axes.contour(
            m.widths, m.y_values, m.above, levels=np.arange(2.6, 4.2, 0.1), colors=_INK, linewidths=0.6, alpha=0.6
        )
        axes.clabel(lines, fontsize=6, fmt="%.1f")
    styles = {True: ("#CC79A7", "--"), False: ("#D55E00", "-")}
    for k, c in enumerate(m.curves):
        colour, style = styles[c.printed] if k == 0 or c.printed else (("#E69F00", ":"), ("#0072B2", "--"))[(k - 1) % 2]
        axes.plot(
            m.widths,
            c.values,
            color=colour,
            ls=style,
            lw=2,
            label=c.name.replace("rho", "ρ") + (" (corrected)" if c.corrected else ""),
        )
    axes.plot(m.widths[::3], m.brute[::3], marker="o", mfc="none", mec=_INK, ls="", ms=5, label="brute force")
    axes.set_yscale("log")
    axes.set_ylim(m.y_values[0], m.y_values[-1])
    axes.set_xlabel("width d")
    axes.set_ylabel({"n_layers": "depth l", "r": "activated FFN ratio r", "rho": "activation rate ρ"}[m.axis])
    axes.legend(fontsize=7, frameon=True, loc="upper right")


def picture(review: Review) -> Any:
    """Regions on the left (where the space has two axes that vary), the closed forms on the right."""
    from matplotlib.figure import Figure

    if map_axes(review) is None:
        figure = Figure(figsize=(11, 7.5), dpi=120, layout="constrained")
        draw_closed_forms(review, figure)
        return figure
    figure = Figure(figsize=(18, 7.5), dpi=120, layout="constrained")
    panels: Any = figure.subfigures(1, 2, width_ratios=(1.0, 1.15))
    draw_regions(review, panels[0].subplots())
    draw_closed_forms(review, panels[1])
    return figure
