"""Static plots of a frontier (matplotlib, imported when a plot is drawn)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codesign.report.words import COST_KEYS, METRICS, SCALES, SIZE_KEY
from codesign.search import Frontier

__all__ = ["plot_frontier"]

# Okabe-Ito: told apart with any colour vision.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def plot_frontier(frontier: Frontier, path: Path) -> None:
    """Loss against time per token with 90 % intervals, the budget, and known models; written as PNG.

    Where the loss was not minimised, the size or the second cost against the first.

    Bars are the intervals of each design on its own. The errors of designs on one device and under one law largely move
    together, so their order is surer than the bars suggest.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), dpi=130, layout="constrained")
    candidates = frontier.candidates
    if "loss" not in frontier.provenance["objectives"]:
        _costs(axes, frontier)
        figure.savefig(path)
        plt.close(figure)
        return
    x = [1e3 * c.values["latency_s"] for c in candidates]
    y = [c.loss for c in candidates]
    low = [1e3 * c.intervals.get("latency_s", (c.values["latency_s"],) * 2)[0] for c in candidates]
    high = [1e3 * c.intervals.get("latency_s", (c.values["latency_s"],) * 2)[1] for c in candidates]
    loss_low, loss_high = ([c.intervals["loss"][k] for c in candidates] for k in (0, 1))
    step = frontier.provenance["objectives"] == ["loss", "latency"]
    axes.fill_between(x, loss_low, loss_high, color=_BLUE, alpha=0.12, lw=0, label="90 % interval of the loss")
    bars = [[a - b for a, b in zip(x, low, strict=True)], [b - a for a, b in zip(x, high, strict=True)]]
    axes.errorbar(x, y, xerr=bars, fmt="none", ecolor=_BLUE, alpha=0.18, lw=1, label="90 % interval of the latency")
    axes.plot(x, y, "-" if step else "", marker="o", ms=3.5, lw=1, color=_BLUE, drawstyle="steps-post",
              label=f"designs on the frontier ({len(candidates)})")  # fmt: skip
    _baselines(axes, frontier)
    budget = frontier.provenance["budget"].get("latency_s")
    if budget:
        axes.axvline(1e3 * budget, color=_GREY, ls="--", lw=1)
        axes.text(1e3 * budget, 0.98, f" budget {1e3 * budget:g} ms", color=_GREY, va="top", ha="right", rotation=90,
                  transform=axes.get_xaxis_transform(), fontsize=8)  # fmt: skip
    shown = [1e3 * b.candidate.values["latency_s"] for b in frontier.baselines]
    span = max([*x, *shown, 1e3 * budget if budget else 0])
    axes.set_xlim(0, span * 1.06)
    device = frontier.provenance["device"]
    mode = f", {device['power_mode']}" if device["power_mode"] else ""
    axes.set_title(
        f"{device['title']}{mode}, {frontier.provenance.get('engine', 'roofline')}: predicted loss against time per token"
    )
    axes.set_xlabel("time per generated token, ms")
    tokens = frontier.provenance["tokens"] / 1e9
    axes.set_ylabel(
        f"training loss after {tokens:g}B tokens, nats per token\n(law: {frontier.provenance['law']['name']})"
    )
    axes.grid(alpha=0.25, lw=0.5)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    figure.savefig(path)
    plt.close(figure)


def _costs(axes: Any, frontier: Frontier) -> None:
    """Two costs of the designs and of known models."""
    p = frontier.provenance
    keys = [COST_KEYS[name] for name in p["objectives"] if name in COST_KEYS][:2]
    keys = [keys[0], SIZE_KEY if "size" in p["objectives"] else keys[1]]
    (x, x_unit), (y, y_unit) = (SCALES.get(key, (1.0, "")) for key in keys)
    groups = [("o", _BLUE, f"designs on the frontier ({len(frontier.candidates)})", frontier.candidates)]
    groups += [
        (m, _ORANGE, b.candidate.name, (b.candidate,)) for m, b in zip("*DPX^v" * 8, frontier.baselines, strict=False)
    ]
    for marker, colour, label, members in groups:
        at = [(x * c.values[keys[0]], y * c.values[keys[1]]) for c in members]
        axes.plot(*zip(*at, strict=True), ls="", marker=marker, ms=4 if marker == "o" else 9, color=colour, label=label)
    for key, scale, line in ((keys[0], x, axes.axvline), (keys[1], y, axes.axhline)):
        if key in p["budget"]:
            line(scale * p["budget"][key], color=_GREY, ls="--", lw=1)
    mode = f", {p['device']['power_mode']}" if p["device"]["power_mode"] else ""
    axes.set_title(
        f"{p['device']['title']}{mode}, {p.get('engine', 'roofline')}: compared on cost alone (dashed: the budget)"
    )
    axes.set_xlabel(METRICS[keys[0]][0] + (f", {x_unit}" if x_unit else ""))
    axes.set_ylabel(METRICS[keys[1]][0] + (f", {y_unit}" if y_unit else ""))
    axes.grid(alpha=0.25, lw=0.5)
    axes.legend(fontsize=8, frameon=False)


def _baselines(axes: Any, frontier: Frontier) -> None:
    for marker, baseline in zip("*DPX^v" * 8, frontier.baselines, strict=False):
        c = baseline.candidate
        x, (low, high) = 1e3 * c.values["latency_s"], c.intervals["loss"]
        axes.errorbar([x], [c.loss], yerr=[[c.loss - low], [high - c.loss]], fmt=marker, ms=9, color=_ORANGE, capsize=3,
                      lw=1, label=f"{c.name} (same law, same tokens)")  # fmt: skip
        for gap, colour in ((baseline.at_latency, _GREEN), (baseline.at_loss, _GREEN)):
            match = next((d for d in frontier.candidates if gap and d.name == gap.design), None)
            if match is not None:
                axes.plot([x, 1e3 * match.values["latency_s"]], [c.loss, match.loss], color=colour, lw=1, ls=":")
                axes.annotate(match.name, (1e3 * match.values["latency_s"], match.loss), fontsize=7, color=colour,
                              xytext=(4, 5), textcoords="offset points")  # fmt: skip
