"""Feasible regions: cells against the cost model, limits by hand, sliders in a browser; the law's maps."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_pages import EXAMPLE, HOST_EXAMPLE, Opened
from small_runs import problem, write_small

from codesign.architecture import Architecture
from codesign.report.closed_form_maps import law_maps, our_depths, setting_of
from codesign.report.packed import pack, pack_flags, unpack
from codesign.report.regions import (
    MAP_AXES,
    Slice,
    axis_values,
    chosen_designs,
    limits_of,
    pairs,
    regions,
    slice_of,
)
from codesign.report.regions_section import build, picture
from codesign.report.review import Review, load_review
from codesign.search.score import score
from codesign.workload import PRECISIONS

EXAMPLES = {"example": load_review(EXAMPLE), "host_example": load_review(HOST_EXAMPLE)}
REVIEW = EXAMPLES["example"]


def by_hand(loss: list[list[float]], latency: list[list[float]], memory: list[list[float]], **masks: Any) -> Slice:
    shape = np.shape(loss)
    whole = {
        name: np.array(masks.get(name, np.full(shape, usual)))
        for name, usual in (("possible", True), ("inside", True), ("unlike", 0))
    }
    values = {"loss": np.array(loss), "latency_s": np.array(latency), "memory_B": np.array(memory)}
    return Slice(design="d", precision="fp16", x="d_model", y="n_layers", x_values=(1, 2, 3), y_values=(1, 2), own=(0, 0),
                 values=values, **whole)  # fmt: skip


def test_regions_by_hand() -> None:
    """Limits 10 ms and 8 GB. Row 0: (5 ms, 4 GB) uses 50 % of both, latency first; (9, 4): latency at 90 %; (12, 4) breaks latency.
    Row 1: (8, 7): memory at 87.5 %; (9, 9) breaks memory; (11, 9) breaks both. Of the three that fit the lowest loss is (1, 0).
    """
    cells = by_hand(
        [[3.0, 2.9, 2.7], [2.8, 2.6, 2.5]],
        [[5e-3, 9e-3, 12e-3], [8e-3, 9e-3, 11e-3]],
        [[4e9, 4e9, 4e9], [7e9, 9e9, 9e9]],
    )
    limits = {"latency_s": (0.01, [1.0] * 3), "memory_B": (8e9, [1.0] * 3), "energy_J": (math.inf, [1.0] * 3)}
    found = regions(cells, limits)
    assert found.keys == ("latency_s", "memory_B")
    assert found.broken["latency_s"].tolist() == [[False, False, True], [False, False, True]]
    assert found.broken["memory_B"].tolist() == [[False, False, False], [False, True, True]]
    assert found.feasible.tolist() == [[True, True, False], [True, False, False]]
    assert found.tightest.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert found.best == (1, 0) and found.binding == "memory_B"
    assert float(found.used[1, 0]) == pytest.approx(0.875)


def test_only_possible_designs_inside_the_data_are_best_and_wide_intervals_tighten() -> None:
    """(1, 0) is no possible design, (0, 1) lies outside the data; a factor of 0.6 beyond the measured sizes rules (0, 0) out."""
    grids = ([[3.0, 2.9, 2.7], [2.8, 2.6, 2.5]], [[7e-3, 9e-3, 12e-3], [8e-3, 9e-3, 11e-3]], [[4e9] * 3, [4e9] * 3])
    masks = {
        "possible": [[True, True, True], [False, True, True]], "inside": [[True, False, True], [True, True, True]],
        "unlike": [[1, 0, 0], [0, 2, 0]],
    }  # fmt: skip
    cells = by_hand(*grids, **masks)
    assert regions(cells, {"latency_s": (0.01, [1.0, 0.8, 1.0])}).best == (1, 1)
    assert regions(cells, {"latency_s": (0.01, [1.0, 0.8, 0.5])}).best == (0, 0)
    assert regions(cells, {"latency_s": (8.5e-3, [1.0, 0.6, 1.0])}).best is None
    assert regions(cells, {"latency_s": (8.5e-3, [1.0, 0.9, 1.0])}).best == (0, 0)
    assert regions(cells, {"latency_s": (9.5e-3, [1.0, 0.6, 1.0])}, extrapolate=True).best == (1, 1)
    assert regions(cells, {}).best == (1, 2)


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_maps_pass_through_their_design(name: str) -> None:
    review = EXAMPLES[name]
    for design in chosen_designs(review.frontier.candidates, review.best.name, 4):
        for x, y in pairs():
            cells = slice_of(review.problem, design, x, y)
            at = cells.own
            assert float(cells.values["loss"][at]) == pytest.approx(design.loss, abs=1e-9)
            for key in ("latency_s", "ttft_s", "e2e_s", "memory_B"):
                assert float(cells.values[key][at]) == pytest.approx(design.values[key], rel=1e-9)
            found = regions(cells, limits_of(review.problem, design.precision))
            assert cells.possible[at] and found.feasible[at]
            if design is review.best:  # the frontier is exact: no cell of any map is better
                assert found.best is not None and cells.values["loss"][found.best] == pytest.approx(
                    design.loss, abs=1e-9
                )


def test_cells_are_what_the_search_scores() -> None:
    """Random possible cells of width and depth, built as architectures by hand and scored as a frontier's designs are."""
    best, rng = REVIEW.best, np.random.default_rng(1)
    a = best.architecture
    cells = slice_of(REVIEW.problem, best, "d_model", "n_layers")
    at = np.argwhere(cells.possible)
    for i, j in at[rng.choice(len(at), 25, replace=False)]:
        d, l = cells.x_values[j], cells.y_values[i]
        arch = Architecture(
            n_layers=l, d_model=d, n_heads=d // a.d_head, n_kv_heads=a.n_kv_heads, d_head=a.d_head, d_ff=0, vocab_size=a.vocab_size,
            n_experts=a.n_experts, n_active_experts=a.n_active_experts, d_ff_expert=64 * max(round(8.0 * d / 64), 1), qk_norm=a.qk_norm,
            family=a.family,
        )  # fmt: skip
        (c,) = score(REVIEW.problem, [("fp16", arch)], seed=1)
        assert cells.values["loss"][i, j] == pytest.approx(c.loss, abs=1e-9)
        for key in ("latency_s", "ttft_s", "memory_B", "energy_J"):
            assert cells.values[key][i, j] == pytest.approx(c.values[key], rel=1e-9)
        assert cells.inside[i, j] == (not any(m.startswith("outside") or m == "latency:size" for m in c.marks))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.3, 3), st.floats(0.3, 3), st.floats(1, 2))
def test_more_budget_is_never_worse(time: float, memory: float, more: float) -> None:
    cells = _CELLS
    limits = {"latency_s": (0.02 * time, [1.0] * 3), "memory_B": (60e9 * memory, [1.0] * 3)}
    before = regions(cells, limits)
    for key in limits:
        after = regions(cells, limits | {key: (limits[key][0] * more, [1.0] * 3)})
        assert not np.any(before.feasible & ~after.feasible)
        if before.best is not None:
            assert after.best is not None
            assert cells.values["loss"][after.best] <= cells.values["loss"][before.best]


_CELLS = slice_of(REVIEW.problem, REVIEW.best, "d_model", "n_layers")


def test_limits_are_those_of_the_search() -> None:
    """With 90 % confidence and a bound on the energy too, for designs like and unlike what was measured."""
    found = problem(latency_s=0.02, energy_J=0.5, confidence=0.9)
    for key, (bound, factors) in limits_of(found, "fp16").items():
        kind = key.rsplit("_", 1)[0]
        if math.isfinite(bound):
            assert [bound * f for f in factors] == pytest.approx(found.limits("fp16")[kind])
    assert {k for k, v in limits_of(found, "fp16").items() if math.isfinite(v[0])} == {
        "latency_s",
        "energy_J",
        "memory_B",
    }


def test_axis_values_keep_the_ends_and_the_design() -> None:
    space = REVIEW.problem.space
    values = axis_values(space, "n_layers", 17, 20)
    assert len(values) <= 22 and values[0] == 4 and values[-1] == 80 and 17 in values and list(values) == sorted(values)
    assert axis_values(space, "n_kv_heads", 8) == (1, 2, 4, 8, 16)


@given(st.lists(st.floats(1e-9, 1e12) | st.just(math.nan) | st.just(0.0), min_size=1, max_size=40))
def test_packed_numbers_come_back(values: list[float]) -> None:
    packed = pack(values)
    again = unpack(packed)
    span = math.log(packed["high"] / packed["low"])
    for v, w in zip(values, again, strict=True):
        if v > 0:
            assert abs(math.log(w / v)) <= span / 131068 + 1e-12
        else:
            assert math.isnan(w)
    json.dumps(packed, allow_nan=False)


def test_flags_are_bits() -> None:
    assert pack_flags([[True, False]], [[True, True]], [[False, True]]) == "AwY="  # 0b011, 0b110


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_closed_forms_lie_on_brute_force(name: str) -> None:
    """Within 1 % at every width, phase and budget where the optimum lies inside the map; the form as printed does not."""
    s = setting_of(EXAMPLES[name])
    maps = law_maps(s)
    assert {(m.key, m.phase) for m in maps} == {
        *itertools.product(("depth", "r", "g", "rho"), ("decode", "prefill")),
        ("rho-memory", "memory"),
    }
    checked = printed = 0
    for m in maps:
        for c in m.curves:
            if math.isnan(c.gap):
                continue
            if c.printed:
                printed = max(printed, c.gap)
            else:
                checked += 1
                assert c.gap < 0.01, (m.key, m.phase, m.scale, c.name)
    assert checked >= 15 and printed > 0.02


def test_our_depths_fill_the_runs_own_limits() -> None:
    """The largest whole depth below the line fits under the run's cost model, one layer more does not."""
    best = REVIEW.best
    (depth,) = our_depths(REVIEW.problem, REVIEW, [float(best.architecture.d_model)])
    model, form = REVIEW.models[best.precision], PRECISIONS[best.precision]
    for layers, fits in ((math.floor(depth), True), (math.floor(depth) + 1, False)):
        e = model.estimate(replace(best.architecture, n_layers=layers), REVIEW.problem.workload, form)
        assert (e.decode_s <= 0.02 and e.peak_memory_B <= REVIEW.problem.memory_B) == fits
    assert math.floor(depth) == best.architecture.n_layers


def test_section_is_small_and_plain_json() -> None:
    section = build(REVIEW)
    text = json.dumps(section.data, allow_nan=False)
    assert len(text) < 800_000
    assert "paper's simplified model" in section.html and "this run's own cost model" in section.html
    assert {m["key"] for m in section.data["metrics"]} == {"latency_s", "ttft_s", "e2e_s", "memory_B", "energy_J"}


def test_a_space_without_axes_has_the_law_alone(tmp_path: Path) -> None:
    """Depth alone varies: no map, no slider, and the closed forms are there."""
    axes: dict[str, Any] = {
        "experts": ((0, 0),),
        "d_head": (64,),
        "n_kv_heads": (1,),
        "d_model": (1024,),
        "ffn_ratio": (4.0,),
    }
    review = load_review(write_small(tmp_path / "line", problem(axes=axes)))
    section = build(review)
    assert section.data["maps"] == [] and "no map to draw" in section.html and section.data["law"]["maps"]
    assert picture(review) is not None


def test_pictures(tmp_path: Path) -> None:
    for name, review in EXAMPLES.items():
        picture(review).savefig(tmp_path / f"{name}.png", dpi=40)
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


# ---- in the browser ---------------------------------------------------------------------------------------------------


def page_data(found: Opened) -> Any:
    return found.page.evaluate(
        "() => JSON.parse(document.getElementById('codesign-data').textContent).sections.regions"
    )


def bound_at(data: Any, key: str, place: int) -> float:
    """What a slider's place means: logarithmic between the smallest and largest value of any map."""
    grids = [m["grids"][key] for m in data["maps"]]
    bound = next(m["bound"] for m in data["metrics"] if m["key"] == key)
    low = min(min(g["low"] for g in grids), bound or math.inf) * 0.98
    high = max(max(g["high"] for g in grids), bound or 0) * 1.02
    return float(low * (high / low) ** (place / 1000))


def expected(review: Review, **bounds: float) -> tuple[float, str | None]:
    """Lowest loss of the width-depth map through the best design under other bounds, and what binds."""
    limits = limits_of(review.problem, review.best.precision)
    limits = {key: (bounds.get(key, bound), factors) for key, (bound, factors) in limits.items()}
    cells = slice_of(review.problem, review.best, "d_model", "n_layers")
    found = regions(cells, limits)
    assert found.best is not None
    return float(cells.values["loss"][found.best]), found.binding


def shown_loss(found: Opened) -> str:
    return str(found.page.locator("#regions-answer strong").first.text_content())


def test_the_map_shows_the_runs_budget(example: Opened) -> None:
    example.drawn("regions-plot")
    assert shown_loss(example) == f"loss {REVIEW.best.loss:.3f}"
    assert REVIEW.best.name in example.page.locator("#regions-answer").inner_text()
    names = example.page.evaluate("() => document.getElementById('regions-plot').data.map((t) => t.name || '')")
    for wanted in (
        "loss, nats per token",
        "time per token 20 ms",
        "memory 60 GB",
        "designs of the frontier",
        "lowest loss within the budgets",
    ):
        assert wanted in names
    legend = example.page.locator("#regions-legend").inner_text()
    assert "breaks time per token and memory" in legend and "within every budget" in legend


def test_sliders_move_the_region_as_the_cost_model_says(example: Opened) -> None:
    """By keyboard: 60 steps left on the time, then the memory; the page's optimum is Python's under the same bounds."""
    page, data = example.page, page_data(example)
    example.drawn("regions-plot")

    def share() -> int:
        cells = "document.getElementById('regions-plot').data[0].z.flat()"
        return int(page.evaluate(f"() => {cells}.filter((v) => v < 2).length"))

    before = share()
    slider = page.locator("#regions-at-latency_s")
    slider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    example.frames(4)
    bound = bound_at(data, "latency_s", int(slider.input_value()))
    assert bound < 0.02
    loss, binding = expected(REVIEW, latency_s=bound)
    assert shown_loss(example) == f"loss {loss:.3f}" and binding == "latency_s"
    assert "time per token" in page.locator("#regions-answer").inner_text()
    assert share() < before
    assert slider.get_attribute("aria-valuetext")
    memory = page.locator("#regions-at-memory_B")
    memory.focus()
    for _ in range(27):
        page.keyboard.press("ArrowLeft")
    example.frames(4)
    held = bound_at(data, "memory_B", int(memory.input_value()))
    loss, binding = expected(REVIEW, latency_s=bound, memory_B=held)
    assert shown_loss(example) == f"loss {loss:.3f}"
    words = {"memory_B": "memory", "latency_s": "time per token"}
    assert page.locator("#regions-answer strong").nth(1).inner_text() == words[str(binding)]
    page.keyboard.press("Home")
    example.frames(4)
    assert "No possible design" in page.locator("#regions-answer").inner_text()
    page.locator("#regions-reset").click()
    example.frames(4)
    assert shown_loss(example) == f"loss {REVIEW.best.loss:.3f}"


def test_other_axes_other_designs_and_the_table(example: Opened) -> None:
    page = example.page
    example.drawn("regions-plot")
    rows = example.unfold("#regions-table-details", "#regions-table")
    assert rows.count() == 45
    page.select_option("#regions-x", "experts")
    assert rows.count() == 9
    assert page.evaluate("() => document.getElementById('regions-y').value") == "n_layers"
    page.select_option("#regions-y", "experts")  # the axes change places
    assert page.evaluate("() => document.getElementById('regions-x').value") == "n_layers"
    example.frames(4)
    title = page.evaluate("() => document.getElementById('regions-plot')._fullLayout.yaxis.title.text")
    assert title == "experts"
    page.select_option("#regions-x", "d_model")
    page.select_option("#regions-y", "n_layers")
    first = page_data(example)["designs"][0]["name"]
    page.evaluate("(name) => codesign.page.select(name)", first)
    assert page.evaluate("() => document.getElementById('regions-design').value") == first
    assert first in str(page.locator("#regions-plot").get_attribute("aria-label"))
    assert set(MAP_AXES) >= set(page_data(example)["axes"])


def test_law_maps_in_the_page(example: Opened) -> None:
    page = example.page
    example.drawn("regions-law-plot")
    names = lambda: page.evaluate("() => document.getElementById('regions-law-plot').data.map((t) => t.name || '')")  # noqa: E731
    assert "this run's own cost model, same design and budget" in names() and "l* (paper's model)" in names()
    page.select_option("#regions-law-map", "rho")
    example.frames(4)
    assert (
        any("as printed" in n for n in names())
        and "ρ* (paper's model, corrected)" in names()
        and "brute force" in names()
    )
    page.locator('input[name="regions-law-phase"][value="prefill"]').check()
    example.frames(4)
    assert not any("as printed" in n for n in names())
    page.select_option("#regions-law-map", "rho-memory")
    assert page.locator("#regions-law-scale").is_disabled()
    page.select_option("#regions-law-map", "depth")
    page.locator('input[name="regions-law-phase"][value="decode"]').check()
