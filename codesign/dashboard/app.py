"""The Flask application: which address shows what, and how errors are shown."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from flask import Flask, render_template, request
from markupsafe import Markup
from werkzeug.exceptions import HTTPException

from codesign.dashboard import views_files, views_records, views_runs, views_search
from codesign.dashboard.guard import csrf_token, guard, style_nonce
from codesign.dashboard.made_pages import MadePages
from codesign.dashboard.measured_rows import RowCache
from codesign.dashboard.run_folders import NotHere, RunFolders
from codesign.dashboard.search_job import SearchJobs
from codesign.dashboard.serve import Settings
from codesign.errors import CodesignError

__all__ = ["State", "make_app"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the views share: `app.extensions["codesign"]`."""

    settings: Settings
    folders: RunFolders
    pages: MadePages
    jobs: SearchJobs
    measured: RowCache


def make_app(settings: Settings, *, port: int | None = None) -> Flask:
    """The application.

    Args:
        port: that it is served at; cookies do not know ports, so their name does: two dashboards do not log each other out.
    """
    app = Flask("codesign.dashboard", static_folder="static", template_folder="templates")
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),
        SESSION_COOKIE_NAME=f"codesign_dashboard_{port or settings.port}",
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        MAX_CONTENT_LENGTH=64_000,
        MAX_FORM_PARTS=200,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    folders = RunFolders(settings.results)
    app.extensions["codesign"] = State(
        settings=settings,
        folders=folders,
        pages=MadePages(folders),
        jobs=SearchJobs(settings.results),
        measured=RowCache(),
    )
    guard(app, settings)
    for rule, view, methods in (
        ("/", views_runs.runs, ["GET"]),
        ("/runs/<name>", views_runs.run, ["GET"]),
        ("/runs/<name>/report", views_files.report, ["GET"]),
        ("/runs/<name>/frontier.csv", views_files.frontier_csv, ["GET"]),
        ("/runs/<name>/pareto.png", views_files.picture, ["GET"]),
        ("/runs/<name>/designs/<design>/config.json", views_files.config, ["GET"]),
        ("/compare", views_files.compare, ["GET"]),
        ("/plotly.min.js", views_files.plotly, ["GET"]),
        ("/page.css", views_files.page_css, ["GET"]),
        ("/training", views_records.training, ["GET"]),
        ("/measurements", views_records.measurements, ["GET"]),
        ("/search", views_search.form, ["GET"]),
        ("/search", views_search.start, ["POST"]),
        ("/search/<int:number>", views_search.job, ["GET"]),
        ("/search/<int:number>/stop", views_search.stop, ["POST"]),
    ):
        app.add_url_rule(rule, endpoint=f"{view.__name__}", view_func=view, methods=methods)
    app.register_error_handler(CodesignError, _codesign_error)
    app.register_error_handler(HTTPException, _http_error)
    app.jinja_env.globals.update(
        csrf_token=csrf_token, style_nonce=style_nonce, sort_link=_sort_link, chart_data=_chart_data, settings=settings
    )
    return app


def _codesign_error(error: CodesignError) -> tuple[str, int]:
    unknown = isinstance(error, NotHere)
    return _error_page(
        "Not found" if unknown else "This did not work", " ".join(str(error).split()), 404 if unknown else 400
    )


def _http_error(error: Any) -> tuple[str, int]:
    said = {404: "there is no such page", 405: "this address does not take that", 500: "the dashboard made a mistake; its "
            "terminal says more"}.get(error.code, error.description)  # fmt: skip
    return _error_page(str(error.name), str(said), int(error.code or 500))


def _error_page(title: str, said: str, code: int) -> tuple[str, int]:
    return render_template("error.html", title=title, said=said, page=""), code


def _sort_link(key: str, table: Any) -> str:
    """This page sorted by a column; the other way round if it is already."""
    asked = {name: request.args.getlist(name) for name in request.args}
    asked["sort"], asked["dir"] = [key], ["down" if table.sort == key and not table.falling else "up"]
    return f"{quote(request.path)}?{urlencode(asked, doseq=True)}"


def _chart_data(chart: Any) -> Markup:
    """JSON inside a script element of a type that no browser runs."""
    from codesign.report.section import strict_json

    return Markup(strict_json(chart))  # noqa: S704 (escaped for this place)
