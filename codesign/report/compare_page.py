"""`codesign compare`: one page across devices, budgets or precisions, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codesign.report.compare import Comparison, Run, Standing
from codesign.report.page import render_page
from codesign.report.section import Section, column, render_template, significant, static_text
from codesign.report.words import METRICS, ffn_text, mark_text, mixer_text, show_metric

__all__ = ["build_comparison", "draw_comparison", "warnings_of", "write_comparison_pictures"]

_METRICS = ("latency_s", "ttft_s", "e2e_s", "memory_B", "energy_J")
_ARCH = (
    "n_layers",
    "d_model",
    "n_heads",
    "n_kv_heads",
    "d_head",
    "d_ff",
    "n_experts",
    "n_active_experts",
    "d_ff_expert",
)
#: Okabe-Ito colours, markers and dashes of the runs: told apart without colour too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "D", "s", "^", "P", "X", "*", "v")
_SCALES = {"s": (1e3, "ms"), "B": (1e-9, "GB"), "J": (1e3, "mJ")}


def build_comparison(c: Comparison) -> str:
    """The page.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
    """
    keys = [key for key in _METRICS if all(key in d.values for run in c.runs for d in run.candidates)]
    keys = [c.key, *(key for key in keys if key != c.key)]
    notes = warnings_of(c)
    differing = [row for row in c.inputs if row.differs]
    header = render_template("compare_header.html", c=c, notes=notes, differing=differing, n=len(c.runs))
    frontiers = Section(
        key="frontiers", title="Frontiers",
        html=render_template("compare.html", c=c, keys=keys, notes=notes, letters=letters(c), title=METRICS[c.key][0]),
        data={
            "keys": keys, "key": c.key, "bounds": [significant(v, 6) for v in c.bounds], "groups": [list(names) for names in c.groups],
            "runs": [_run(run, keys) for run in c.runs],
        },
        script=static_text("compare.js"),
    )  # fmt: skip
    equal = Section(
        key="equal", title="At equal budget",
        html=render_template("compare_equal.html", c=c, groups=_tables(c), title=METRICS[c.key][0], incomplete=_incomplete(c), letters=letters(c)),
    )  # fmt: skip
    inputs = Section(
        key="inputs",
        title="What differs",
        html=render_template("compare_inputs.html", c=c, differing=differing, letters=letters(c)),
    )
    names = ", ".join(run.name for run in c.runs)
    return render_page(
        f"Comparison of {len(c.runs)} runs: {names}", [frontiers, equal, inputs], header=header, source=names
    )


def letters(c: Comparison) -> dict[str, str]:
    """A letter for each run, beside its colour and marker."""
    return {run.name: chr(ord("A") + i) for i, run in enumerate(c.runs)}


def warnings_of(c: Comparison) -> list[str]:
    """What a reader must know before comparing: losses that do not compare, other workloads, a metric that a run did not minimise."""
    notes = list(c.reasons.values())
    if len(c.groups) > 1:
        notes.append(
            f"the runs fall into {len(c.groups)} groups with losses of their own; each group has its own plot and tables"
        )
    for run in c.runs:
        left = {mark for d in run.candidates for mark in d.marks if mark.startswith("unpriced:")}
        if left:
            told = "; ".join(mark_text(mark)[1] for mark in sorted(left))
            notes.append(f"losses of {run.name} are surer and lower than they should be: {told}")
    rows = {row.name: row for row in c.inputs}
    if rows["workload"].differs:
        notes.append("the workloads differ: times and energies are of different requests")
    if rows["designs outside the data"].differs:
        notes.append(
            "some runs keep designs outside the range of the loss law's data (marked !), others leave them out"
        )
    missing = _incomplete(c)
    if missing:
        notes.append(
            f"the {METRICS[c.key][0]} was not minimised by {' and '.join(missing)}: designs better in it may exist than those shown"
        )
    return notes


def _incomplete(c: Comparison) -> list[str]:
    wanted = c.key.rsplit("_", 1)[0]
    return [run.name for run in c.runs if wanted not in run.provenance["objectives"]]


def _run(run: Run, keys: list[str]) -> dict[str, Any]:
    """A run's designs in columns, in the order of the first metric."""
    designs = sorted(run.candidates, key=lambda d: d.values[keys[0]])
    p = run.provenance
    mode = f", {p['device']['power_mode']}" if p["device"]["power_mode"] else ""

    def share(key: str, side: int) -> Any:
        return column(
            [
                significant(d.intervals[key][side] / d.values[key], 4) if key in d.intervals and d.values[key] else 1
                for d in designs
            ]
        )

    return {
        "name": run.name, "device": f"{p['device']['title']}{mode}", "engine": str(p["engine"]), "n": len(designs),
        "budget": {k: v for k, v in p["budget"].items() if k != "confidence"}, "minimised": list(p["objectives"]),
        "names": column([d.name for d in designs]), "precision": column([d.precision for d in designs]),
        "loss": column([significant(d.loss, 5) for d in designs]),
        "loss_low": column([significant(d.intervals["loss"][0], 5) for d in designs]),
        "loss_high": column([significant(d.intervals["loss"][1], 5) for d in designs]),
        "values": {key: column([significant(d.values[key], 5) for d in designs]) for key in keys},
        "down": {key: share(key, 0) for key in keys}, "up": {key: share(key, 1) for key in keys},
        "arch": {name: column([int(getattr(d.architecture, name)) for d in designs]) for name in _ARCH}
        | {"mixer": column([mixer_text(d.architecture) for d in designs]), "ffn": column([ffn_text(d.architecture) for d in designs])},
        "marked": column([int(any(mark.startswith("outside:") for mark in d.marks)) for d in designs]),
    }  # fmt: skip


def _tables(c: Comparison) -> list[list[tuple[float, list[Standing]]]]:
    """Standings by group, then by bound."""
    return [[(bound, [s for s in standings if s.bound == bound]) for bound in c.bounds] for standings in c.standings]


def draw_comparison(c: Comparison) -> Any:
    """Frontiers overlaid, one plot a group of runs whose losses compare (matplotlib)."""
    from matplotlib.figure import Figure

    scale, unit = _SCALES.get(c.key.rsplit("_", 1)[-1], (1.0, ""))
    figure = Figure(
        figsize=(9.0 if len(c.groups) == 1 else 6.5 * min(len(c.groups), 3), 5.8), dpi=140, layout="constrained"
    )
    places = [run.name for run in c.runs]
    for axes, names in zip(figure.subplots(1, len(c.groups), squeeze=False)[0], c.groups, strict=True):
        for name in names:
            k, run = places.index(name), c.run(name)
            designs = sorted(run.candidates, key=lambda d: d.values[c.key])
            x, y = [scale * d.values[c.key] for d in designs], [d.loss for d in designs]
            colour, marker = COLOURS[k % 6], MARKERS[k % 8]
            complete = run.provenance["objectives"] == ["loss", c.key.rsplit("_", 1)[0]]
            axes.plot(x, y, ls="-" if complete else "none", drawstyle="steps-post", color=colour, lw=1, marker=marker, ms=3.5, alpha=0.9,
                      label=f"{letters(c)[name]}  {name}: {run.provenance['device']['title']}")  # fmt: skip
            best = run.best
            low, high = best.intervals["loss"]
            axes.errorbar([scale * best.values[c.key]], [best.loss], yerr=[[best.loss - low], [high - best.loss]], fmt=marker, ms=9, color=colour,
                          mec="#1b1f24", capsize=3, lw=1)  # fmt: skip
            bound = run.provenance["budget"].get(c.key)
            if bound:
                axes.axvline(scale * float(bound), color=colour, ls="--", lw=0.8)
        p = c.run(names[0]).provenance
        axes.set_title(
            f"law {p['law']['name']}, {p['tokens'] / 1e9:g}B tokens, vocabulary {c.run(names[0]).vocab:,}", fontsize=9
        )
        axes.set_xlabel(f"{METRICS[c.key][0]}{f', {unit}' if unit else ''}")
        axes.set_ylabel("predicted training loss, nats per token")
        axes.grid(alpha=0.25, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    figure.suptitle(
        "Frontiers of the runs; large: lowest loss within its budget, 90 % interval; dashed: budgets", fontsize=10
    )
    return figure


def write_comparison_pictures(c: Comparison, page: Path) -> list[Path]:
    """PNG and SVG beside the page.

    Raises:
        SpecError: they cannot be written.
    """
    from codesign.report.static_pictures import save_figure

    return save_figure(draw_comparison(c), page.with_name(f"{page.stem}-frontiers"))


def summary_lines(c: Comparison) -> list[str]:
    """The comparison in the terminal: warnings, the best of each run, and differences at each bound."""
    marks = letters(c)
    lines = [f"warning: {note}" for note in warnings_of(c)]
    for run in c.runs:
        best = run.best
        lines.append(
            f"{marks[run.name]} {run.name}: {run.provenance['device']['title']}, best loss {best.loss:.3f} at "
            f"{show_metric(c.key, best.values[c.key])} ({best.name}, {best.precision})"
        )
    for standings in c.standings:
        for s in standings:
            if s.design is None:
                lines.append(f"within {show_metric(c.key, s.bound)}: {marks[s.run]} has no design")
            elif s.difference is not None:
                span = f" ({s.interval[0]:+.3f} to {s.interval[1]:+.3f})" if s.interval else ""
                reference = next(names[0] for names in c.groups if s.run in names)
                lines.append(
                    f"within {show_metric(c.key, s.bound)}: {marks[s.run]} against {marks[reference]}: loss {s.difference:+.3f}{span}"
                )
    return lines
