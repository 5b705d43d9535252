"""Section 1: loss against cost, known models beside it, and everything about the chosen design."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codesign.report.review import COST_KEYS, Review
from codesign.report.section import Section, render_template, significant, static_text
from codesign.report.static_pictures import draw_frontier
from codesign.report.words import mark_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["build", "picture"]

_AXES = ("latency_s", "ttft_s", "e2e_s", "memory_B", "energy_J", "params")


def picture(review: Review) -> Figure:
    """Loss against the first cost."""
    return draw_frontier(review)


def build(review: Review) -> Section:
    """Plot, details of the chosen design, breakdown, table."""
    p = review.frontier.provenance
    axes = [key for key in _AXES if all(key in c.values for c in review.frontier.candidates)]
    axes.sort(key=lambda key: key != review.cost_key)
    marks = sorted({mark for c in review.frontier.candidates for mark in c.marks} | {m for k in review.known for m in k.candidate.marks})  # fmt: skip
    complete = [COST_KEYS[name] for name in review.problem.objectives if name in COST_KEYS]
    measured: list[dict[str, Any]] = []
    if review.validation is not None:
        names = {c.name for c in review.frontier.candidates}
        measured = [
            {"name": row["design"], "metric": row["metric"], "measured": significant(row["measured"], 5),
             "predicted": significant(row["predicted"], 5), "inside": bool(row["inside"])}
            for row in review.validation["rows"]
            if row["design"] in names
        ]  # fmt: skip
    html = render_template(
        "frontier.html", axes=axes, complete=complete, n=len(review.frontier.candidates), n_known=len(review.known),
        measured=bool(measured), precisions=list(review.models), exact=bool(p["exact"]), law=p["law"]["name"], tokens=review.problem.tokens,
        certificate=p["certificate"], vocab=int(review.problem.space.axes["vocab_size"][0]),
        changed=any(known.note for known in review.known),
    )  # fmt: skip
    data = {
        "axes": axes, "complete": complete, "measured": measured, "marks": {mark: list(mark_text(mark)) for mark in marks},
        "budget": review.problem.budget.bounds(), "memory_B": significant(review.problem.memory_B, 6),
    }  # fmt: skip
    return Section(key="frontier", title="Frontier", html=html, data=data, script=static_text("frontier.js"))
