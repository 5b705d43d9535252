"""The list of runs, and one run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from flask import current_app, render_template, request

from codesign.dashboard.run_folders import FRONTIER, BrokenRun, NotHere
from codesign.dashboard.run_summary import RunSummary
from codesign.dashboard.tables import Column, filter_of, make_table
from codesign.report.words import arch_text, show_metric
from codesign.search import Candidate, read_frontier

if TYPE_CHECKING:
    from codesign.dashboard.app import State

__all__ = ["run", "runs", "state"]

_REPORT = {"ready": "open", "old": "renew", "none": "make"}

COLUMNS: tuple[Column[RunSummary], ...] = (
    Column(key="name", title="Run", text=lambda r: r.name, order=lambda r: r.name.lower()),
    Column(key="device", title="Device", text=lambda r: r.device, order=lambda r: (r.device, r.power_mode),
           more=lambda r: ", ".join(part for part in (r.power_mode, r.engine) if part)),
    Column(key="budget", title="Budget", text=lambda r: r.budget.replace("<=", "≤"), order=lambda r: r.budget),
    Column(key="workload", title="Workload", text=lambda r: r.workload, order=lambda r: r.workload),
    Column(key="precision", title="Precision", text=lambda r: r.precision, order=lambda r: r.precision),
    Column(key="designs", title="Designs", text=lambda r: f"{r.designs:,}", order=lambda r: r.designs, number=True),
    Column(key="loss", title="Best loss", text=lambda r: f"{r.best_loss:.3f}", order=lambda r: r.best_loss,
           more=lambda r: f"{r.law}, {r.tokens}", number=True),
    Column(key="certificate", title="Certificate", text=lambda r: "exact" if r.exact else "heuristic",
           order=lambda r: r.certificate, more=lambda r: r.certificate.partition(": ")[2] or r.certificate),
    Column(key="date", title="Written (UTC)", text=lambda r: r.written, order=lambda r: r.written_s),
)  # fmt: skip


def _metric(key: str, title: str) -> Column[Candidate]:
    return Column(
        key=key, title=title, number=True,
        text=lambda c: show_metric(key, c.values.get(key, math.nan)), order=lambda c: c.values.get(key),
    )  # fmt: skip


DESIGN_COLUMNS: tuple[Column[Candidate], ...] = (
    Column(key="name", title="Design", text=lambda c: c.name),
    Column(key="shape", title="Architecture", text=lambda c: arch_text(c.architecture),
           order=lambda c: c.architecture.params_total),
    Column(key="precision", title="Precision", text=lambda c: c.precision, order=lambda c: c.precision),
    Column(key="loss", title="Loss", text=lambda c: f"{c.loss:.3f}", order=lambda c: c.loss, number=True,
           more=lambda c: "{:.3f} to {:.3f}".format(*c.intervals["loss"]) if "loss" in c.intervals else ""),
    _metric("latency_s", "Time per token"),
    _metric("ttft_s", "To first token"),
    _metric("memory_B", "Memory"),
    _metric("energy_J", "Energy per token"),
    _metric("params", "Parameters"),
)  # fmt: skip


def state() -> State:
    """What the application holds."""
    return cast("State", current_app.extensions["codesign"])


def runs() -> str:
    """All runs: filter, sort, choose."""
    found = state().folders.all()
    text, device = request.args.get("q", "").strip(), request.args.get("device", "")
    shown = [
        run
        for run in found.runs
        if all(word in run.words for word in text.lower().split()) and device in ("", run.device)
    ]
    table = make_table(COLUMNS, shown, request.args, first="date", falling=True)
    return str(
        render_template(
            "runs.html", page="runs", title="Runs", table=table, found=found, text=text,
            filters=[filter_of("device", "Device", (run.device for run in found.runs), request.args)],
            reports={run.name: _REPORT[state().pages.state(run.name)] for run in table.rows},
        )
    )  # fmt: skip


def run(name: str) -> str:
    """One run: what was asked, its designs, its files."""
    found = state().folders.get(name)
    if found is None:
        raise NotHere(f"no run '{name}' in {state().settings.results}")
    if isinstance(found, BrokenRun):
        return str(render_template("error.html", page="runs", title=found.name, said=found.why))
    path = state().folders.file(name, FRONTIER)
    table = make_table(DESIGN_COLUMNS, read_frontier(path).candidates if path else (), request.args)
    return str(
        render_template(
            "run.html", page="runs", title=found.name, run=found, table=table, report=_REPORT[state().pages.state(name)],
            picture=state().folders.file(name, "pareto.png") is not None,
            csv=state().folders.file(name, "frontier.csv") is not None,
        )
    )  # fmt: skip
