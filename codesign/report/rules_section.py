"""Design rules (part of section 4): sentences with numbers, and small multiples linked with the other plots."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from codesign.report.once import once
from codesign.report.review import Review
from codesign.report.rules import FLAT, MOVES, SWEEP, Rule, rules_of
from codesign.report.section import Section, column, render_template, significant, static_text
from codesign.report.words import METRICS

__all__ = ["build", "draw_rules", "picture"]

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#6e7781"


@once
def found_rules(review: Review) -> list[Rule]:
    """The rules, once for the page and its picture."""
    return rules_of(review)


def build(review: Review) -> Section:
    """One rule an axis, the axes that move first."""
    rules = _ordered(found_rules(review))
    key = review.cost_key
    thinned = review.problem.space.size > SWEEP
    html = render_template(
        "rules.html", rules=rules, n=len(review.frontier.candidates), cost=METRICS[key][0], flat=FLAT, thinned=thinned,
        budget=review.problem.budget.describe(), losses=review.loss_known, exact=bool(review.frontier.provenance["exact"]),
    )  # fmt: skip
    data: dict[str, Any] = {
        "cost": key, "flat": FLAT,
        "rules": [
            {
                "axis": r.axis, "title": r.title, "names": isinstance(r.values[0], str), "constant": r.constant,
                "values": column([v if isinstance(v, str) else significant(float(v), 5) for v in r.values]),
                "offered": [v if isinstance(v, str) else significant(float(v), 5) for v in r.offered],
                "law": [significant(v, 5) for v in (r.law.scale, r.law.exponent, r.law.low, r.law.high, r.law.r2)] if r.law else None,
                "rank": significant(r.rank, 3), "edge": significant(float(r.edge[0]), 5) if r.edge else None,
                "held": [[k if isinstance(k, str) else significant(float(k), 5), significant(v, 4) if math.isfinite(v) else None] for k, v in r.held.items()],
                "text": r.text,
            }
            for r in rules
        ],
    }  # fmt: skip
    return Section(key="rules", title="Design rules", html=html, data=data, script=static_text("rules.js"))


def _ordered(rules: list[Rule]) -> list[Rule]:
    """Axes that vary on the frontier, then those that are constant, then those that the space fixes."""
    return sorted(rules, key=lambda r: (len(r.offered) == 1, r.constant))


def draw_rules(review: Review, figure: Any, rules: list[Rule] | None = None) -> bool:
    """Each axis that varies along the frontier, against the cost; False where none does."""
    moving = [r for r in _ordered(rules if rules is not None else found_rules(review)) if not r.constant]
    if not moving:
        return False
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    key = review.cost_key
    scale, unit = {"s": (1e3, ", ms"), "B": (1e-9, ", GB"), "J": (1e3, ", mJ")}.get(key.rsplit("_", 1)[-1], (1.0, ""))
    cost = [scale * c.values[key] for c in review.frontier.candidates]
    columns = min(3, len(moving))
    grid = figure.subplots(-(-len(moving) // columns), columns, squeeze=False, sharex=True)
    for axes, rule in zip(grid.reshape(-1), moving, strict=False):
        named = isinstance(rule.values[0], str)
        order = [v for v in rule.offered if v in rule.values] if named else []
        places = [order.index(v) for v in rule.values] if named else list(rule.values)
        axes.plot(cost, places, "o", ms=3.5, color=_BLUE, alpha=0.8)
        if rule.law is not None and abs(rule.rank) >= MOVES and rule.law.r2 >= 0.5:
            along = np.geomspace(min(cost), max(cost), 40)  # a power law is no line where the cost alone is logarithmic
            axes.plot(along, rule.law.scale * (along / scale) ** rule.law.exponent, color=_ORANGE, lw=1.5)
            axes.set_title(
                f"{rule.title} ∝ cost^{rule.law.exponent:.2f} ({rule.law.low:.2f} to {rule.law.high:.2f})", fontsize=9
            )
        else:
            axes.set_title(rule.title, fontsize=9)
        if rule.edge is not None:
            axes.axhline(rule.edge[0], color=_GREY, ls="--", lw=1)
        if named:
            axes.set_yticks(range(len(order)), order)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, lw=0.5)
    for axes in grid.reshape(-1)[len(moving) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel(f"{METRICS[key][0]}{unit}", fontsize=8)
    figure.suptitle("How the designs change along the frontier (dashed: an end of the space)", fontsize=10)
    return True


def picture(review: Review) -> Any:
    """`draw_rules` as a figure, or None."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), dpi=140, layout="constrained")
    return figure if draw_rules(review, figure) else None
