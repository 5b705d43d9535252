"""Starting a search from a page, watching it, stopping it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from flask import abort, redirect, render_template, request, url_for

from codesign.dashboard.run_folders import BrokenRun, NotHere, is_plain
from codesign.dashboard.run_summary import RunSummary
from codesign.dashboard.search_form import FIELDS, GROUPS, FormError, Prefilled, check_form, from_command, suggestions
from codesign.dashboard.search_job import Job
from codesign.dashboard.views_runs import state
from codesign.errors import SpecError
from codesign.search import load_space
from codesign.workload import parse_precision

__all__ = ["form", "job", "start", "stop"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def form() -> str:
    """The form, filled from a run (``from``) or from a search that was started here (``again``) where one is named."""
    source, filled = _prefilled(request.args)
    return _page(filled.values, filled, source, {})


def start() -> Any:
    """Start what the form asks for, or show what is wrong with it."""
    if not state().settings.local:
        abort(403, description="searches start from this machine only; see the terminal of the dashboard")
    source, filled = _prefilled(request.form)
    values = {f.name: request.form.get(f.name, "") for f in FIELDS}
    wanted = request.form.get("name", "").strip()
    errors: dict[str, str] = {}
    arguments: list[str] = []
    try:
        arguments = check_form(values, filled.files)
    except FormError as error:
        errors = error.errors
    folders = state().folders
    if wanted and not _NAME.fullmatch(wanted):
        errors["name"] = "a name has letters, digits, '.', '_' and '-', and starts with a letter or digit"
    elif wanted and folders.free_name(wanted) != wanted:
        errors["name"] = f"'{wanted}' is there already; give another name"
    if not errors:
        try:
            name = wanted or folders.free_name(_default_name(values, arguments))
            begun = state().jobs.start(arguments, name, blocks=_blocks(values))
            return redirect(url_for("job", number=begun.number), code=303)
        except SpecError as error:
            errors["name"] = str(error)
    return _page({**values, "name": wanted}, filled, source, errors), 422


def job(number: int) -> str:
    """One search: how far, what it printed, what came of it."""
    found = _job(number)
    has_run = found.status == "finished" and state().folders.folder(found.name) is not None
    return str(render_template("job.html", page="search", title=f"Search {found.name}", job=found, has_run=has_run))


def stop(number: int) -> Any:
    """End a search."""
    state().jobs.stop(_job(number))
    return redirect(url_for("job", number=number), code=303)


def _page(values: dict[str, str], filled: Prefilled, source: RunSummary | None, errors: dict[str, str]) -> str:
    jobs = state().jobs
    return str(
        render_template(
            "search.html", page="search", title="Start a search", fields=FIELDS, groups=GROUPS, values=values, filled=filled,
            source=source, errors=errors, suggestions=suggestions(), current=jobs.current, jobs=jobs.jobs,
            may_start=state().settings.local,
        )
    )  # fmt: skip


def _source(name: str) -> RunSummary | None:
    if not name:
        return None
    found = state().folders.get(name) if is_plain(name) else None
    if found is None or isinstance(found, BrokenRun):
        raise NotHere(f"no run '{name}' in {state().settings.results} to start from")
    return found


def _prefilled(asked: Mapping[str, str]) -> tuple[RunSummary | None, Prefilled]:
    again = asked.get("again", "")
    if again.isdecimal():
        return None, from_command(["codesign", "search", *_job(int(again)).arguments])
    source = _source(asked.get("from", ""))
    return source, from_command(source.command if source else ())


def _job(number: int) -> Job:
    found = state().jobs.get(number)
    if found is None:
        raise NotHere(f"no search {number}; the dashboard keeps those that it started itself")
    return found


def _default_name(values: dict[str, str], arguments: list[str]) -> str:
    """As `codesign search` names runs: device, first bound, digits of all that was asked."""
    bound = next(values[f.name] for f in FIELDS if f.group == "Budget" and f.name != "confidence" and values[f.name])
    digits = hashlib.sha256("\n".join(arguments).encode()).hexdigest()[:8]
    device = re.sub(r"[^A-Za-z0-9]+", "-", values["device"]).strip("-")[:40]
    return f"{device or 'run'}-{re.sub(r'[^A-Za-z0-9.]+', '', bound)}-{digits}"


def _blocks(values: dict[str, str]) -> int:
    """Blocks of the space, to tell how far a large search is; 0 where it cannot be told beforehand."""
    precisions = [parse_precision(part).name for part in values["precision"].split(",") if part.strip()] or ["fp16"]
    try:
        return load_space(values["space"] or "default", precisions, 50304).n_blocks
    except SpecError:
        return 0
