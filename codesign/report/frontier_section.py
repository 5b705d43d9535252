"""Section 1: loss against cost, known models beside it, and everything about the chosen design."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codesign.report.answer import unknown_losses
from codesign.report.review import Review
from codesign.report.section import Section, render_template, significant, static_text
from codesign.report.static_pictures import draw_frontier
from codesign.report.words import COST_KEYS, SIZE_KEY, mark_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["build", "picture"]

_AXES = ("latency_s", "ttft_s", "e2e_s", "memory_B", "energy_J", "params")


def picture(review: Review) -> Figure:
    """Loss (else the second objective) against the first cost."""
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
    ys = [] if review.y_key == "loss" else [review.y_key]
    ys += ["loss", "perplexity"] if review.loss_known else []
    html = render_template(
        "frontier.html", axes=axes, complete=complete, n=len(review.frontier.candidates), n_known=len(review.known),
        measured=bool(measured), precisions=list(review.models), exact=bool(p["exact"]), law=p["law"]["name"], tokens=review.problem.tokens,
        certificate=p["certificate"], vocab=int(review.problem.space.axes["vocab_size"][0]),
        quality={"loss": "loss", SIZE_KEY: "size (active parameters without embeddings)"}.get(review.y_key, ""),
        ys=ys, unknown="" if review.loss_known else unknown_losses(review),
        changed=review.loss_known and any(known.note for known in review.known),
    )  # fmt: skip
    data = {
        "axes": axes, "ys": ys, "complete": complete, "measured": measured, "marks": {mark: list(mark_text(mark)) for mark in marks},
        "budget": review.problem.budget.bounds(), "memory_B": significant(review.problem.memory_B, 6),
    }  # fmt: skip
    return Section(key="frontier", title="Frontier", html=html, data=data, script=static_text("frontier.js"))
