"""The review page: one HTML file with its data, its scripts and plotly.js inside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from codesign.errors import MissingExtraError, SpecError
from codesign.report.answer import answer, unknown_losses
from codesign.report.design_data import designs_data
from codesign.report.review import Review
from codesign.report.section import Section, render_template, static_text, strict_json

__all__ = ["SECTIONS", "build_page", "render_page", "sections_of", "write_page"]

#: Modules of the sections in the order of the page; each has ``build(review) -> Section``.
SECTIONS = (
    "frontier_section", "roofline_section", "regions_section", "parallel_section", "rules_section", "trust_section",
    "what_if_section",
)  # fmt: skip

#: Sections that look for the lowest loss: left out where losses are not predicted.
_OF_LOSSES = ("regions_section", "what_if_section")

_TITLES = {
    "latency_s": "Time per token", "ttft_s": "Time to first token", "e2e_s": "Whole request", "memory_B": "Peak memory",
    "energy_J": "Energy per token",
}  # fmt: skip


def sections_of(review: Review) -> tuple[str, ...]:
    """The sections that say something of this run."""
    return tuple(name for name in SECTIONS if review.loss_known or name not in _OF_LOSSES)


def build_page(review: Review) -> str:
    """The page of a run.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
    """
    device = review.frontier.provenance["device"]
    mode = f" at {review.power_mode}" if review.power_mode else ""
    figures = [key for key in ("latency_s", "ttft_s", "e2e_s", "memory_B", "energy_J") if key in review.best.values]
    if review.cost_key in figures:
        figures.insert(0, figures.pop(figures.index(review.cost_key)))
    header = render_template(
        "header.html", review=review, answer=answer(review), figures=figures, titles=_TITLES,
        unknown="" if review.loss_known else unknown_losses(review),     )  # fmt: skip
    sections = [import_module(f"codesign.report.{name}").build(review) for name in sections_of(review)]
    data = {"designs": designs_data(review), "facts": _facts(review)}
    return render_page(
        f"Deployment review: {device['title']}{mode} ({review.name})",
        sections,
        header=header,
        data=data,
        source=review.name,
    )


def render_page(
    title: str, sections: Sequence[Section], *, header: str, data: Mapping[str, Any] | None = None, source: str = ""
) -> str:
    """Any page of sections.

    Args:
        header: its markup, escaped already. data: ``designs`` (see `designs_data`) and ``facts``, where there are any.

    Raises:
        MissingExtraError: jinja2 or plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError.of("plotly", "report", "the review page") from error
    everything = {**(data or {}), "sections": {section.key: section.data for section in sections}}
    return render_template(
        "page.html", title=title, header=header, sections=sections, css=static_text("page.css"), source=source,
        data=strict_json(everything), plotly=get_plotlyjs(), page_script=static_text("page.js"), version=_version(),
    )  # fmt: skip


def write_page(text: str, path: Path) -> None:
    """Write the file under a temporary name, then put it in its place.

    Raises:
        SpecError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise SpecError(f"cannot write the report to {path}: {error.strerror or error}; give another --out") from error


def _version() -> str:
    try:
        return version("codesign-llm")
    except PackageNotFoundError:
        return "unknown"


def _facts(review: Review) -> dict[str, Any]:
    p, problem = review.frontier.provenance, review.problem
    return {
        "run": review.name, "device": p["device"]["title"], "power_mode": review.power_mode, "engine": review.engine,
        "workload": dict(p["workload"]), "budget": problem.budget.bounds(), "confidence": problem.budget.confidence,
        "tokens": problem.tokens, "law": problem.law.name, "objectives": list(problem.objectives), "cost": review.cost_key,
        "exact": bool(p["exact"]), "best": review.best.name, "precisions": list(review.models),
        "memory_usable_B": problem.memory_B,
    }  # fmt: skip
