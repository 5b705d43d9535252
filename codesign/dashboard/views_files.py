"""Files: reports, tables, configurations, and the scripts and styles that come with packages."""

from __future__ import annotations

import re
from importlib.resources import as_file, files
from pathlib import Path

from flask import Response, request, send_file
from werkzeug.exceptions import NotFound

from codesign.dashboard.guard import REPORT_POLICY
from codesign.dashboard.views_runs import state

__all__ = ["compare", "config", "frontier_csv", "page_css", "picture", "plotly", "report"]


def report(name: str) -> Response:
    """The run's report, made first where it is missing or old."""
    answer = send_file(state().pages.report(name).absolute(), mimetype="text/html", max_age=0)
    answer.headers["Content-Security-Policy"] = REPORT_POLICY
    return answer


def compare() -> Response:
    """Several runs on one page."""
    answer = Response(state().pages.compare(request.args.getlist("run")), mimetype="text/html")
    answer.headers["Content-Security-Policy"] = REPORT_POLICY
    return answer


def frontier_csv(name: str) -> Response:
    """The run's table."""
    return _file(state().folders.file(name, "frontier.csv"), "text/csv", f"{name}-frontier.csv")


def config(name: str, design: str) -> Response:
    """A design's config.json."""
    return _file(state().folders.file(name, design, "config.json"), "application/json", f"{name}-{design}-config.json")


def picture(name: str) -> Response:
    """The run's plot."""
    return _file(state().folders.file(name, "pareto.png"), "image/png")


def plotly() -> Response:
    """plotly.js as the installed package of plotly has it: nothing comes from elsewhere."""
    with as_file(files("plotly") / "package_data" / "plotly.min.js") as path:
        return send_file(path, mimetype="text/javascript", max_age=86_400)


def page_css() -> Response:
    """The style that reports have, too."""
    with as_file(files("codesign.report") / "static" / "page.css") as path:
        return _file(path if path.is_file() else None, "text/css")


def _file(path: Path | None, kind: str, saved_as: str = "") -> Response:
    if path is None:
        raise NotFound
    plain = re.sub(r"[^\w.-]+", "_", saved_as, flags=re.ASCII)
    return send_file(
        path.absolute(), mimetype=kind, as_attachment=bool(saved_as), download_name=plain or None, max_age=0
    )
