"""How fast a review page opens: seconds from navigation to the first paint, the drawn frontier, and every section.

python benchmarks/report_page.py [--designs 63 5000] [--runs 7]

The browser opens the file by itself and is asked for its marks afterwards: a debugger attached while a page loads makes
plotly.js, which throws and catches while it starts, about half a second slower. The same is measured for a file of plotly.js
alone, the floor of any page with it. Needs the extra [test] and a Chromium (`.ci/chromium`, or CODESIGN_CHROMIUM).
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly
from _machine import RESULTS, table, write
from playwright.sync_api import Playwright, sync_playwright

from codesign.errors import SpecError
from codesign.report.page import build_page, write_page
from codesign.report.review import load_review
from codesign.search import Frontier
from codesign.search.score import score

EXAMPLE = RESULTS / "example"
CHROMIUM = os.environ.get("CODESIGN_CHROMIUM", "/usr/bin/chromium")
MARKS = ("first-contentful-paint", "frontier-plot", "ready")
TARGET_S = 2.0
ALONE = "plotly.js alone"


def many(count: int, run: Path) -> Path:
    """A run of so many designs of the example's space, scored as a search scores them."""
    review = load_review(EXAMPLE)
    space, rng = review.problem.space, np.random.default_rng(5)
    designs = []
    while len(designs) < count:
        try:
            designs.append(space.point(int(rng.integers(space.size))))
        except SpecError:  # a width that the heads do not divide
            continue
    candidates = sorted(score(review.problem, designs, seed=1), key=lambda c: c.values["latency_s"])
    named = tuple(replace(c, name=f"design-{i}") for i, c in enumerate(candidates, start=1))
    objectives = {"objectives": ["loss", "latency", "memory"]}
    frontier = Frontier(
        candidates=named, provenance={**review.frontier.provenance, **objectives}, baselines=review.frontier.baselines
    )
    run.mkdir()
    (run / "frontier.jsonl").write_text(frontier.to_jsonl())
    return run


def opened(playwright: Playwright, path: Path, wait_s: float) -> dict[str, float]:
    """Milliseconds from navigation to each mark of a page that a new browser opened by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1366,768",
                     f"--user-data-dir={profile}", f"--remote-debugging-port={port}", path.as_uri()]  # fmt: skip
        quiet = subprocess.DEVNULL
        with subprocess.Popen([CHROMIUM, *arguments], stdout=quiet, stderr=quiet) as process:
            try:
                time.sleep(wait_s)  # asked only when it is done
                browser = playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port}")
                page = next(p for c in browser.contexts for p in c.pages if p.url == path.as_uri())
                marks = page.evaluate(
                    "() => performance.getEntries().filter((e) => ['paint', 'mark'].includes(e.entryType)).map((e) => [e.name, e.startTime])"
                )
                browser.close()
            finally:
                process.terminate()
    return dict(reversed(marks))  # the first of each name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--designs", type=int, nargs="+", default=[63, 5000])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--wait", type=float, default=5.0, help="seconds given to a page before it is asked")
    options = parser.parse_args()
    script = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        pages = {ALONE: Path(folder) / "alone.html"}
        mark = "requestAnimationFrame(() => { performance.mark('ready'); });"
        pages[ALONE].write_text(
            f"<!doctype html><meta charset=utf-8><p>plotly.js<script>{script}</script><script>{mark}</script>"
        )
        for count in options.designs:
            path = pages[f"{count:,} designs"] = Path(folder) / f"{count}.html"
            write_page(build_page(load_review(many(count, Path(folder) / f"run-{count}"))), path)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
        for _ in range(options.runs):  # in turn: what else the machine does meets all alike
            for name, path in pages.items():
                found[name].append(opened(playwright, path, options.wait))
        for name, path in pages.items():
            cells = []
            for key in MARKS:
                times = [run[key] / 1e3 for run in found[name] if key in run]
                wanted = 0 if name == ALONE and key == "frontier-plot" else options.runs
                if len(times) != wanted:
                    raise SystemExit(f"{name}: not done after {options.wait:g} s; give --wait more")
                cells.append(f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})" if times else "–")
            rows.append([name, f"{path.stat().st_size / 1e6:.2f}", *cells])
    headings = ["page", "MB", "first paint, s", "frontier drawn, s", "every section ready, s"]
    body = table(headings, rows) + (
        f"\nSeconds from navigation, median (lowest to highest) of {options.runs} runs, each in a new headless Chromium without a GPU, "
        f"from a file. Aim: the frontier of 5,000 designs drawn in {TARGET_S:g} s.\n"
    )
    write("benchmark_report_page.md", "Opening a review page", body)


if __name__ == "__main__":
    main()
