"""Helpers of the review page's tests: make a report, open it, watch what the browser says and fetches."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.report.page import build_page, write_page
from codesign.report.review import load_review

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "results" / "example"
HOST_EXAMPLE = ROOT / "results" / "host_example"
CHROMIUM = os.environ.get("CODESIGN_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--disable-quic"]  # fmt: skip
#: What the software renderer of a machine without a GPU says of its own speed; nothing of the page.
_DRIVER = "GL Driver Message"
_RESET = """() => {
    for (const e of document.querySelectorAll("main select, main input")) {
        const was = e.tagName === "SELECT" ? String([...e.options].findIndex((o) => o.defaultSelected) < 0 ? e.options[0].value : e.value) : null;
        if (e.type === "checkbox" || e.type === "radio") { if (e.checked !== e.defaultChecked && (e.defaultChecked || e.type === "checkbox")) e.click(); }
        else if (was !== null && e.value !== was) { e.value = was; e.dispatchEvent(new Event("change", { bubbles: true })); }
    }
    document.getElementById("parallel-clear")?.click();
    for (const d of document.querySelectorAll("details[open]")) d.open = false;
    if (document.documentElement.dataset.theme === "dark") document.getElementById("theme-toggle").click();
    codesign.page.select(codesign.page.facts.best);
    window.scrollTo({ top: 0, behavior: "instant" });
}"""


@dataclass
class Opened:
    """A page in the browser, and what went wrong in it."""

    page: Any
    context: Any
    path: Path
    wrong: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def check(self) -> None:
        """No message, no error, no dialog, and nothing fetched but the file itself."""
        assert self.wrong == []
        assert set(self.fetched) == {self.path.as_uri()}

    def drawn(self, plot: str) -> None:
        """Scroll a plot into view and wait until Plotly has drawn it, as the controls are now."""
        self.page.locator(f"#{plot}").scroll_into_view_if_needed()
        self.frames()
        self.page.wait_for_function(f"document.getElementById('{plot}').data !== undefined")

    def unfold(self, details: str, body: str) -> Any:
        """Open a <details> and wait for its table: the browser says so in an event of its own, after the click. Its rows."""
        self.page.locator(f"{details} summary").click()
        rows = self.page.locator(f"{body} tbody tr")
        rows.first.wait_for()
        return rows

    def reset(self) -> None:
        """Controls, choice, filter, theme and details as they were when the page was opened."""
        self.page.evaluate(_RESET)
        self.frames()

    def frames(self, count: int = 2) -> None:
        """Let the browser draw; the plots of a review page that are near the window are up to date then."""
        for _ in range(count):
            self.page.evaluate("() => new Promise((done) => requestAnimationFrame(done))")
        self.page.wait_for_function("!window.codesign?.page?.drawing")


def write_report(run: Path, path: Path) -> Path:
    """The page of a run as a file."""
    write_page(build_page(load_review(run)), path)
    return path


def open_page(chromium: Any, path: Path, **context: Any) -> Opened:
    """Open a file in a window of its own (1366 x 768 unless told) and wait until its script has run."""
    own = chromium.new_context(**({"viewport": {"width": 1366, "height": 768}} | context))
    own.set_default_timeout(120_000)  # a busy machine is slow, not wrong
    found = Opened(page=own.new_page(), context=own, path=path)
    page = found.page
    page.on("console", lambda m: None if _DRIVER in m.text else found.wrong.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda error: found.wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (found.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: found.fetched.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.documentElement.dataset.ready === 'true'", timeout=120_000)
    return found
