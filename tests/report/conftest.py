"""A real headless Chromium, started once a module, and review pages opened in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from review_pages import ARGUMENTS, CHROMIUM, EXAMPLE, Opened, open_page, write_report


@pytest.fixture(scope="session")
def example_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of results/example."""
    return write_report(EXAMPLE, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser a module; skipped with the reason where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; run .ci/chromium, or set CODESIGN_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def example_page(chromium: Any, example_report: Path) -> Iterator[Opened]:
    """The page of results/example, opened once a module: parsing plotly.js is most of the time of a test."""
    found = open_page(chromium, example_report)
    yield found
    found.context.close()


@pytest.fixture
def example(example_page: Opened) -> Iterator[Opened]:
    """The same, as it was when it was opened."""
    example_page.reset()
    yield example_page
    example_page.check()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Opens pages; at the end each must have had no console message, no error, no dialog and no request but for itself."""
    pages: list[Opened] = []

    def opening(path: Path, **context: Any) -> Opened:
        pages.append(open_page(chromium, path, **context))
        return pages[-1]

    yield opening
    for page in pages:
        page.check()
        page.context.close()
