"""Section 4: parallel coordinates of the frontier, linked with the plot; each axis has a range to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from codesign.report.review import Review
from codesign.report.section import Section, render_template, static_text
from codesign.report.static_pictures import draw_parallel
from codesign.report.words import METRICS
from codesign.search import Candidate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["build", "picture", "varying_axes"]


def _ratio(c: Candidate) -> float:
    return float(c.architecture.d_ff_active) / float(c.architecture.d_model)


#: Key in the browser's data, title, and what decides whether the axis varies.
_AXES: tuple[tuple[str, str, Callable[[Candidate], Any]], ...] = (
    ("precision", "precision", lambda c: c.precision),
    ("n_layers", "layers", lambda c: c.architecture.n_layers),
    ("d_model", "width", lambda c: c.architecture.d_model),
    ("ffn_ratio", "FFN ratio (active)", _ratio),
    ("n_heads", "heads", lambda c: c.architecture.n_heads),
    ("n_kv_heads", "KV heads", lambda c: c.architecture.n_kv_heads),
    ("d_head", "head size", lambda c: c.architecture.d_head),
    ("n_recurrent_layers", "recurrent", lambda c: c.architecture.n_recurrent_layers),
    ("n_experts", "experts", lambda c: c.architecture.n_experts),
    ("params_active", "active", lambda c: c.values["params_active"]),
    ("memory_B", "memory", lambda c: c.values["memory_B"]),
    ("latency_s", "token", lambda c: c.values["latency_s"]),
    ("ttft_s", "first token", lambda c: c.values["ttft_s"]),
    ("energy_J", "energy", lambda c: c.values.get("energy_J")),
    ("loss", "loss", lambda c: c.loss if c.loss_known else None),
)


def varying_axes(designs: Sequence[Candidate]) -> list[tuple[str, str, Callable[[Candidate], Any]]]:
    """Key, title and reader of each axis that is known for all designs and not the same for all."""
    return [
        (key, title, read)
        for key, title, read in _AXES
        if len({read(c) for c in designs}) > 1 and all(read(c) is not None for c in designs)
    ]


def picture(review: Review) -> Figure | None:
    """The same, without the links."""
    return draw_parallel(review)


def build(review: Review) -> Section:
    """Axes that vary along the frontier."""
    designs = review.frontier.candidates
    axes = [{"key": key, "title": title} for key, title, _ in varying_axes(designs)]
    constant = [f"{title} {read(designs[0])}" for key, title, read in _AXES[:8] if len({read(c) for c in designs}) == 1]
    html = render_template(
        "parallel.html", axes=axes, constant=constant, n=len(designs), shade="loss" if review.shade_key == "loss" else METRICS[review.shade_key][0],
    )  # fmt: skip
    return Section(
        key="parallel",
        title="All dimensions",
        html=html,
        data={"axes": axes, "shade": review.shade_key},
        script=static_text("parallel.js"),
    )
