"""The dashboard in a real headless Chromium, served by the real server."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_pages import MARKUP, add_run, fill_store, measured

from codesign.dashboard import Settings
from codesign.dashboard.app import make_app
from codesign.store import Store

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CODESIGN_CHROMIUM", "/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists(), reason=f"no Chromium at {CHROMIUM}; run .ci/chromium, or set CODESIGN_CHROMIUM"
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--disable-quic"]  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two runs, one of them with a hostile name, and a store with hostile records, served on a free port."""
    from werkzeug.serving import make_server

    home = tmp_path_factory.mktemp("dashboard")
    add_run(home / "results")
    add_run(home / "results", MARKUP, changes=(('"Jetson AGX Orin 64 GB"', '"Jetson Thor"'),))
    fill_store(home / "store.sqlite")
    with Store(home / "store.sqlite") as store:
        store.add(measured(5, engine=MARKUP, device="</script><script>alert(1)</script>"))
    app = make_app(Settings(results=home / "results", store=str(home / "store.sqlite")))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    app.extensions["codesign"].jobs.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """A window in which an error, a dialog or a request to another place fails the test."""
    context = chromium.new_context(viewport={"width": 1366, "height": 768}, base_url=address)
    context.set_default_timeout(120_000)  # two cores that others use, too
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda m: wrong.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(f"page: {error}"))
    opened.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    context.on(
        "request", lambda r: wrong.append(r.url) if not r.url.startswith((f"{address}/", "data:", "blob:")) else None
    )
    yield opened
    context.close()
    assert not wrong


def until(page: Any, function: str, argument: Any = None) -> None:
    """Wait for it, two minutes at most; playwright's own wait_for_function evaluates text, which the page's policy forbids."""
    for _ in range(1200):
        if page.evaluate(function, argument):
            return
        page.wait_for_timeout(100)
    raise AssertionError(function)


def test_list_filter_sort_and_open_a_report(page: Any) -> None:
    page.goto("/")
    table = page.get_by_role("table")
    assert table.get_by_role("row").count() == 3
    page.get_by_label("Device").select_option("Jetson Thor")  # applies at once
    page.wait_for_url("**device=Jetson+Thor*")
    assert table.get_by_role("row").count() == 2 and page.get_by_role("link", name=MARKUP, exact=True).is_visible()
    page.get_by_role("link", name="Clear").click()
    page.get_by_label("Text").fill("orin-20ms")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=orin-20ms*")
    assert table.get_by_role("row").count() == 2
    page.get_by_role("link", name="Best loss").press("Enter")  # by keyboard
    page.wait_for_url("**q=orin-20ms&sort=loss*")
    assert page.locator("th[aria-sort]").inner_text().startswith("Best loss")
    page.get_by_role("link", name="make report").click()
    page.wait_for_url("**/runs/orin-20ms/report")
    assert "Deployment review" in page.title() or "orin-20ms" in page.title()
    assert page.evaluate("origin") == "null"  # sandboxed: of no origin that the dashboard knows
    page.go_back()
    assert page.get_by_role("link", name="open report").count() == 1


def test_choosing_runs_to_compare(page: Any) -> None:
    page.goto("/")
    button = page.get_by_role("button", name="Compare")
    assert button.is_disabled()
    for box in page.get_by_role("checkbox").all():
        box.check()
    assert button.is_enabled() and page.get_by_role("status").inner_text() == "2 chosen"
    button.click()
    page.wait_for_url("**/compare?run=*&run=*")
    assert page.get_by_text(MARKUP).count() and page.locator("main img").count() == 0


def test_plots_have_their_points_and_follow_the_colours(page: Any) -> None:
    page.goto("/training")
    page.wait_for_selector(".plot .scatterlayer .trace")
    assert page.locator(".plot .scatterlayer .trace").count() == 3
    before = page.locator(".plot .legendtext").first.evaluate("e => getComputedStyle(e).fill")
    page.get_by_role("button", name="Use dark colours").click()
    page.wait_for_function(
        "old => getComputedStyle(document.querySelector('.plot .legendtext')).fill !== old", arg=before
    )
    page.goto("/measurements")
    page.wait_for_selector(".plot .points path")
    assert page.locator(".plot .points path").count() == 3
    assert page.locator("html").get_attribute("data-theme") == "dark"  # remembered
    names = page.locator(".plot .legendtext").all_text_contents()
    assert f"decode, {MARKUP}, fp32, </script><script>alert(1)</script>" in names  # as text
    assert page.locator("main img").count() == 0
    point = page.locator(".plot .points path").first.bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert "parameters" in page.locator(".hoverlayer").text_content()


def test_what_is_under_way_refreshes_and_keeps_its_plot(page: Any) -> None:
    page.goto("/training")
    page.wait_for_selector(".plot .scatterlayer .trace")
    page.evaluate("document.querySelector('[data-chart]').mark = 1; document.querySelector('#live table').mark = 1")
    until(page, "() => !document.querySelector('#live table').mark")
    assert page.evaluate("document.querySelector('[data-chart]').mark") == 1
    assert page.locator(".plot .scatterlayer .trace").count() == 3


def test_the_form_shows_where_it_is_wrong(page: Any, address: str) -> None:
    page.goto("/")
    page.get_by_role("row", name="Jetson AGX Orin").get_by_role("link", name="start from it").click()
    assert (
        page.get_by_label("Device").input_value() == "orin"
        and page.get_by_label("Time per token").input_value() == "20ms"
    )
    page.get_by_label("Prompt tokens").fill("-1")
    page.route(
        "**/search", lambda route: route.fulfill(response=route.fetch(), status=200)
    )  # a 422 is told on the console
    page.get_by_role("button", name="Start the search").click()
    assert page.get_by_role("alert").evaluate("e => e === document.activeElement")
    assert page.get_by_label("Prompt tokens").get_attribute("aria-invalid") == "true"


@pytest.mark.parametrize(
    "path", ["/", "/runs/orin-20ms", "/training", "/measurements", "/search", "/search?from=orin-20ms"]
)
def test_every_control_has_a_name_and_every_table_its_headers(page: Any, path: str) -> None:
    page.goto(path)
    unnamed = page.evaluate("""() => Array.from(document.querySelectorAll("input:not([type=hidden]), select, button, a, progress"))
        .filter(e => !e.hidden && !(e.labels && e.labels.length) && !e.getAttribute("aria-label") && !e.textContent.trim()).map(e => e.outerHTML)""")
    assert unnamed == []
    assert page.evaluate("Array.from(document.querySelectorAll('thead th')).every(e => e.scope === 'col')")
    assert page.evaluate("Array.from(document.querySelectorAll('table')).every(e => e.caption)")
    assert page.locator("h1").count() == 1 and page.locator("main").count() == 1
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1366  # the page itself does not scroll sideways
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
