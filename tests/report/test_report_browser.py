"""The review page in a real headless Chromium: points, choice, toggles, keyboard, filter, themes, print."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from review_pages import EXAMPLE, HOST_EXAMPLE, Opened, write_report

from codesign.hf_config import config_dict
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.search import read_frontier
from codesign.units import format_seconds
from codesign.workload import PRECISIONS, Workload

FRONTIER = read_frontier(EXAMPLE)
Open = Callable[..., Opened]


def trace(page: Any, name: str, plot: str = "frontier-plot") -> Any:
    """The trace of a plot whose name starts so, as JSON."""
    return page.evaluate(
        """([plot, name]) => { const t = document.getElementById(plot).data.find((t) => (t.name || "").startsWith(name));
           return t && JSON.parse(JSON.stringify({x: t.x, y: t.y, customdata: t.customdata, text: t.text, opacity: t.marker && t.marker.opacity})); }""",
        [plot, name],
    )  # fmt: skip


def chosen(page: Any) -> str:
    return str(page.locator("#frontier-chosen").text_content())


def spot(page: Any, name: str) -> tuple[float, float]:
    """Where a design's point is in the window."""
    x, y = page.evaluate(
        """(name) => { const plot = document.getElementById("frontier-plot"), box = plot.getBoundingClientRect(), l = plot._fullLayout;
           for (const t of plot.data) { const i = (t.customdata || []).indexOf(name); if (i < 0) continue;
             return [box.x + l._size.l + l.xaxis.d2p(t.x[i]), box.y + l._size.t + l.yaxis.d2p(t.y[i])]; } }""",
        name,
    )  # fmt: skip
    return x, y


def test_every_design_is_a_point_with_its_values(example: Opened) -> None:
    found = example
    found.drawn("frontier-plot")
    points = {}
    for group in ("dense", "mixture of experts"):
        t = trace(found.page, group)
        points |= {n: (x, y) for n, x, y in zip(t["customdata"], t["x"], t["y"], strict=True)}
    assert set(points) == {c.name for c in FRONTIER.candidates}
    for c in FRONTIER.candidates:
        assert points[c.name] == pytest.approx((1e3 * c.values["latency_s"], c.loss), rel=1e-4)
    known = trace(found.page, "known models")
    assert {"qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.2-1b", "smollm2-360m", "gemma-3-1b"} <= set(known["customdata"])


def test_hover_and_click_show_the_right_design(example: Opened) -> None:
    found = example
    page = found.page
    found.drawn("frontier-plot")
    assert chosen(page) == min(FRONTIER.candidates, key=lambda c: c.loss).name
    design = FRONTIER.candidates[-6]
    page.locator("#frontier-plot").evaluate("(plot) => plot.scrollIntoView({block: 'center', behavior: 'instant'})")
    page.mouse.move(*spot(page, design.name))
    page.wait_for_selector("#frontier-plot .hoverlayer text")
    assert design.name in page.locator("#frontier-plot .hoverlayer").text_content()
    page.mouse.click(*spot(page, design.name))
    page.wait_for_function("(name) => document.getElementById('frontier-chosen').textContent === name", arg=design.name)
    details = page.locator("#frontier-details").inner_text()
    for text in (f"{design.architecture.n_layers} layers × {design.architecture.d_model}", f"{design.loss:.3f}",
                 format_seconds(design.values["latency_s"]), f"{math.exp(design.loss):.1f}"):  # fmt: skip
        assert text in details, text
    assert page.locator("#roofline-name").inner_text() == design.name


def test_the_config_is_the_designs_and_is_copied(example: Opened) -> None:
    found = example
    page = found.page
    design = FRONTIER.candidates[3]
    page.evaluate("(name) => codesign.page.select(name)", design.name)
    shown = json.loads(page.locator("#frontier-config").text_content())
    assert shown == config_dict(design.architecture, max_position_embeddings=2048)
    assert json.loads((EXAMPLE / design.name / "config.json").read_text()) == shown
    page.evaluate(
        "() => { navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }; }"
    )
    page.locator("#frontier-copy").click()
    page.wait_for_function("document.getElementById('frontier-copied').textContent === 'copied'")
    assert json.loads(page.evaluate("window.copied")) == shown


def test_the_breakdown_is_the_cost_models(example: Opened) -> None:
    """Names, bounds and times of each operator; the shares sum to one."""
    found = example
    design = FRONTIER.candidates[20]
    from codesign.devices import load_device

    device = load_device("orin")
    model = RooflineModel.of(device, load_calibration().rates(device, "vllm", PRECISIONS["fp16"]))
    for phase in ("prefill", "decode"):
        rows = found.page.evaluate(
            "([name, phase]) => codesign.page.breakdown(codesign.page.design(name), phase)", [design.name, phase]
        )
        wanted = {r.name: r for r in model.breakdown(design.architecture, Workload(), PRECISIONS["fp16"], phase)}  # type: ignore[arg-type]
        assert {r["name"] for r in rows} == set(wanted)
        assert sum(r["share"] for r in rows) == pytest.approx(1)
        for row in rows:
            want = wanted[row["name"]]
            assert (row["bound"], row["count"]) == (want.bound, want.count)
            got = (row["seconds"], row["bytes"], row["flop"])
            assert got == pytest.approx((want.seconds, want.bytes_moved, want.flop), rel=1e-3)
    found.page.evaluate("(name) => codesign.page.select(name)", design.name)
    assert "Decode is bandwidth-bound" in found.page.locator("#frontier-why").inner_text()


def test_toggles_change_the_plot(example: Opened) -> None:
    found = example
    page = found.page
    found.drawn("frontier-plot")
    page.get_by_label("perplexity", exact=True).check()
    page.get_by_label("known models", exact=True).uncheck()
    page.get_by_label("90 % intervals").uncheck()
    page.locator("#frontier-x").select_option("memory_B")
    found.frames()
    dense = trace(page, "dense")
    first = next(c for c in FRONTIER.candidates if c.name == dense["customdata"][0])
    assert dense["x"][0] == pytest.approx(1e-9 * first.values["memory_B"], rel=1e-4)
    assert dense["y"][0] == pytest.approx(math.exp(first.loss), rel=1e-3)
    assert trace(page, "known models") is None and trace(page, "90 % interval") is None
    assert "did not minimise peak memory" in page.locator("#frontier-hint").inner_text()
    page.locator("#frontier-x").select_option("latency_s")
    page.get_by_label("logarithmic").check()
    found.frames()
    assert page.evaluate("document.getElementById('frontier-plot')._fullLayout.xaxis.type") == "log"
    assert "budget 20 ms" in page.evaluate(
        "document.getElementById('frontier-plot').layout.annotations.map((a) => a.text)"
    )


def test_the_keyboard_reaches_everything(example: Opened) -> None:
    """Arrow keys on the plot; Enter on a row of the table; headers sort; the order of focus has no trap."""
    found = example
    page = found.page
    found.drawn("frontier-plot")
    page.locator("#frontier-plot").focus()
    page.keyboard.press("Home")
    assert chosen(page) == FRONTIER.candidates[0].name
    page.keyboard.press("ArrowRight")
    assert chosen(page) == FRONTIER.candidates[1].name
    page.keyboard.press("End")
    assert chosen(page) == FRONTIER.candidates[-1].name
    page.locator("#frontier-table-details summary").focus()
    page.keyboard.press("Enter")
    rows = page.locator("#frontier-table tbody tr")
    rows.first.wait_for()
    assert rows.count() == len(FRONTIER.candidates)
    rows.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert chosen(page) == FRONTIER.candidates[1].name
    assert page.locator("#frontier-table tr[aria-selected=true]").count() == 1
    page.locator("#frontier-table th button", has_text="loss").click()
    assert page.locator("#frontier-table th[aria-sort=ascending]").inner_text().startswith("loss")
    assert rows.first.get_attribute("data-name") == min(FRONTIER.candidates, key=lambda c: c.loss).name
    for _ in range(12):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")


def test_a_range_filters_the_frontier(example: Opened) -> None:
    found = example
    page = found.page
    found.drawn("parallel-plot")
    page.get_by_label("layers, least").fill("10")
    page.get_by_label("layers, least").press("Tab")
    found.drawn("frontier-plot")
    found.frames()
    kept = {c.name for c in FRONTIER.candidates if c.architecture.n_layers >= 10}
    assert f"{len(kept)} of {len(FRONTIER.candidates)} designs kept" in page.locator("#parallel-count").inner_text()
    for group in ("dense", "mixture of experts"):
        t = trace(page, group)
        assert isinstance(t["opacity"], list)
        for name, opacity in zip(t["customdata"], t["opacity"], strict=True):
            assert (opacity == 1) == (name in kept)
    page.locator("#parallel-clear").click()
    assert page.locator("#parallel-count").inner_text() == f"all {len(FRONTIER.candidates)} designs"
    brushed = "Plotly.restyle('parallel-plot', {'dimensions[0].constraintrange': [[4, 6.5]]})"
    page.evaluate(brushed)  # what dragging on the first axis does
    few = sum(c.architecture.n_layers <= 6 for c in FRONTIER.candidates)
    page.wait_for_function(f"document.getElementById('parallel-count').textContent.startsWith('{few} of')")


def test_roofline_points_are_the_operators(example: Opened) -> None:
    found = example
    found.drawn("roofline-plot")
    page = found.page
    decode = trace(page, "operators, decode", "roofline-plot")
    rows = [
        r
        for r in page.evaluate("codesign.page.breakdown(codesign.page.design(codesign.page.selected), 'decode')")
        if r["flop"]
    ]
    assert sorted(decode["x"]) == pytest.approx(sorted(r["flop"] / r["bytes"] for r in rows))
    page.locator("#roofline-prefill").uncheck()
    found.frames()
    assert trace(page, "operators, prefill", "roofline-plot") is None
    assert trace(page, "device figures", "roofline-plot")["y"][-1] == pytest.approx(42.63e12)
    assert found.unfold("#roofline-details", "#roofline-table").count() >= 2 * len(rows)


def test_trust_plots_the_rows_that_the_fit_did_not_see(example: Opened) -> None:
    found = example
    found.drawn("trust-published")
    page = found.page
    here = trace(page, "this device, vllm", "trust-published")
    assert len(here["x"]) == 47
    page.locator("#trust-way").select_option("device")
    found.frames()
    assert "mean error" in page.locator("#trust-published-here").inner_text()
    text = page.locator("#trust").inner_text()
    for part in ("codesign search --device orin --latency 20ms", "seed", "LineageOS", "computed again", "give every design's times and loss again"):  # fmt: skip
        assert part in text, part


def test_measured_points_stand_beside_predicted_ones(opened: Open, tmp_path: Path) -> None:
    found = opened(write_report(HOST_EXAMPLE, tmp_path / "host.html"))
    found.drawn("frontier-plot")
    measured = trace(found.page, "measured")
    rows = [r for r in json.loads((HOST_EXAMPLE / "validation.json").read_text())["rows"] if r["metric"] == "latency_s"]
    assert measured["customdata"] == [r["design"] for r in rows]
    assert measured["x"] == pytest.approx([1e3 * r["measured"] for r in rows], rel=1e-4)
    found.drawn("trust-validation")
    assert len(trace(found.page, "time per token", "trust-validation")["x"]) == len(rows)


def test_dark_light_and_print(opened: Open, example_report: Path, tmp_path: Path) -> None:
    found = opened(example_report, color_scheme="dark")
    page = found.page
    found.drawn("frontier-plot")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    ink = "document.getElementById('frontier-plot')._fullLayout.font.color"
    dark = page.evaluate(ink)
    page.locator("#theme-toggle").click()
    found.frames()
    assert page.evaluate("document.documentElement.dataset.theme") == "light" and page.evaluate(ink) != dark
    page.locator("#theme-toggle").click()
    state = page.evaluate(  # at once, as when printing: all plots, light, tables of the details
        """() => { window.dispatchEvent(new Event("beforeprint"));
           return [document.documentElement.dataset.theme, [...document.querySelectorAll(".plot")].filter((p) => !p.data).map((p) => p.id),
                   document.querySelectorAll("#frontier-table tbody tr").length]; }"""
    )
    assert state == ["light", [], len(FRONTIER.candidates)]
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes()[:4] == b"%PDF"


def test_names_and_labels_for_screen_readers(example: Opened) -> None:
    page = example.page
    assert page.evaluate("document.documentElement.lang") == "en"
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select")].filter((e) => !e.hidden && !(e.textContent.trim() && e.tagName === "BUTTON")
           && !e.getAttribute("aria-label") && !(e.labels && e.labels.length)).map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert (
        page.evaluate(
            "[...document.querySelectorAll('.plot')].filter((p) => !p.getAttribute('aria-label')).map((p) => p.id)"
        )
        == []
    )
    sections = page.evaluate(
        "[...document.querySelectorAll('section')].every((s) => document.getElementById(s.getAttribute('aria-labelledby')))"
    )
    assert sections
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
