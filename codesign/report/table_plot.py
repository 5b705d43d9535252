"""The picture of a table search: quality against the first cost, what was asked and in which order, the frontier, the next batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.search.table import CandidateTable
from codesign.search.table_search import Ask

__all__ = ["plot_table"]

# Okabe-Ito: told apart with any colour vision.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"


def plot_table(
    path: Path,
    table: CandidateTable,
    value: npt.NDArray[np.float64],
    order: npt.NDArray[np.int64],
    front: npt.NDArray[np.int64],
    view: Ask,
    ask: Ask | None,
) -> None:
    """Write a PNG; rows that were never asked are shown faintly where they are predicted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), dpi=130, layout="constrained")
    cost = table.costs[0].sign * table.cost[:, 0]
    shown = table.quality.sign * value
    if view.mean is not None:
        rest = np.setdiff1d(np.arange(len(table)), order)
        axes.plot(
            cost[rest],
            table.quality.sign * view.mean[rest],
            ".",
            ms=1 if len(rest) > 3000 else 4,
            color=_GREY,
            alpha=0.6,
            zorder=1,
        )
        axes.plot([], [], ".", color=_GREY, label=f"not asked: predicted ({len(rest):,})")
    if len(order):
        seen = axes.scatter(
            cost[order],
            shown[order],
            c=np.arange(1, len(order) + 1),
            s=16,
            cmap="viridis",
            zorder=2,
            label=f"asked ({len(order):,})",
        )
        figure.colorbar(seen, ax=axes, label="asked as number", pad=0.01)
    two = len(table.costs) == 1
    if len(front):
        axes.plot(cost[front], shown[front], "-" if two else "", drawstyle=_steps(table), marker="o", ms=6, mfc="none", color=_BLUE,
                  lw=1.2, zorder=3, label=f"frontier found ({len(front)})")  # fmt: skip
    if ask is not None and ask.mean is not None and ask.std is not None and len(ask.rows):
        rows = ask.rows
        axes.errorbar(cost[rows], table.quality.sign * ask.mean[rows], yerr=1.645 * ask.std[rows], fmt="D", ms=4, color=_ORANGE, lw=1,
                      capsize=2, zorder=4, label=f"to train next, 90 % interval ({len(rows)})")  # fmt: skip
    axes.set_xlabel(f"{table.costs[0].column} ({table.costs[0].direction})")
    axes.set_ylabel(f"{table.quality.column} ({table.quality.direction})")
    others = "" if two else f"; also {', '.join(goal.column for goal in table.costs[1:])}"
    axes.set_title(f"{table.name}: {len(order):,} of {len(table):,} rows asked{others}")
    _limits(axes, shown[order])
    axes.grid(alpha=0.25, lw=0.5)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="best")
    figure.savefig(path)
    plt.close(figure)


def _steps(table: CandidateTable) -> str:
    """The stair that the found rows dominate: level to the next dearer row."""
    if len(table.costs) > 1:
        return "default"
    return "steps-post"


def _limits(axes: Any, seen: npt.NDArray[np.float64]) -> None:
    """Models that came to nothing must not squeeze the rest together: the worst tenth may lie outside."""
    seen = seen[np.isfinite(seen)]
    if len(seen) < 10:
        return
    low, high = np.quantile(seen, [0.1, 0.9])
    span = max(float(high - low), 1e-9)
    bottom, top = max(seen.min(), low - 0.6 * span), min(seen.max(), high + 0.6 * span)
    axes.set_ylim(bottom - 0.05 * span, top + 0.05 * span)
