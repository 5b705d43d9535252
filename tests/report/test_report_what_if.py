"""The same budget on other devices: against searches there, by hand, and in a browser."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from review_pages import EXAMPLE, HOST_EXAMPLE, Opened
from small_runs import problem, write_small

from codesign.devices import load_catalogue, load_device
from codesign.errors import InfeasibleError
from codesign.report.review import Review, load_review
from codesign.report.what_if import Alternative, Choice, Stair, alternatives, design_at, pool_of, time_key
from codesign.report.what_if_section import FAMILIES, build, scored
from codesign.roofline.rates import UNSEEN_KIND_LOG
from codesign.search import search
from codesign.workload import PRECISIONS

EXAMPLE_REVIEW = load_review(EXAMPLE)
TITLES = {name: device.title for name, device in load_catalogue().items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Review:
    return load_review(write_small(tmp_path_factory.mktemp("runs") / "small", problem(latency_s=0.02)))


def of(found: list[Alternative], name: str, mode: str | None = None) -> Alternative:
    return next(a for a in found if a.device.name == load_device(name).name and mode in (None, a.device.power_mode))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("thor", None),
        ("orin", "15W"),
        ("orin-nano-super", None),
        ("rtx 4090", None),
        ("pi5", None),
        ("m2 ultra", None),
        ("tx2", None),
    ],
)
def test_a_search_on_the_device_finds_no_better(small: Review, name: str, mode: str | None) -> None:
    """The pool holds what can be best anywhere: an exact search of the same space there agrees."""
    device = load_device(name, mode)
    found = of(alternatives(small, pool_of(small), {device.name: device}), name, mode)
    there = problem(device=name, power_mode=mode, engine=found.engine, latency_s=0.02)
    choice = found.best(0.02)
    try:
        frontier = search(there)
    except InfeasibleError:
        assert choice is None
        return
    assert choice is not None
    best = min(frontier.candidates, key=lambda c: c.loss)
    assert choice.loss == pytest.approx(best.loss, abs=1e-3) and choice.loss >= best.loss - 1e-9
    assert choice.time_s <= 0.02
    low, high = found.interval(0.02)
    assert low is not None and low <= choice.loss and (high is None or choice.loss <= high)


def test_the_runs_own_device_is_the_run(small: Review) -> None:
    found = alternatives(small, pool_of(small), {})
    assert [a.here for a in found].count(True) == 1
    here = next(a for a in found if a.here)
    choice = here.best(0.02)
    assert choice is not None and choice.loss == pytest.approx(small.best.loss, abs=1e-9)
    assert choice.time_s == pytest.approx(small.best.values["latency_s"])
    assert here.engine == small.engine
    assert here.designs.within(0.02).loss == pytest.approx(small.best.loss, abs=1e-9)


def test_every_device_and_mode_is_there(small: Review) -> None:
    found = alternatives(small, pool_of(small))
    wanted = sum(max(len(d.power_modes), 1) for d in load_catalogue().values())
    assert len(found) == wanted >= 80
    assert {FAMILIES.get(a.device.family, "other") for a in found} <= {*FAMILIES.values(), "other"}
    for a in found:
        for level in range(3):
            same = [c for c in a.searched.choices if c.unlike == level]
            times, losses = [c.time_s for c in same], [c.loss for c in same]
            assert times == sorted(times) and losses == sorted(losses, reverse=True)
        choice, own = a.best(0.02), a.designs.within(0.02, a.factors)
        if own is not None:  # the run's designs are among those searched
            assert choice is not None and choice.loss <= own.loss + 1e-12
        if choice is not None:  # it fits the device's memory
            precision, arch = design_at(pool_of(small), choice.at)
            model = small.problem.models[precision]
            estimate = model.estimate(arch, small.problem.workload, PRECISIONS[precision])
            assert float(estimate.peak_memory_B) <= a.device.memory_usable_B


def test_confidence_and_other_bounds_count(tmp_path: Path) -> None:
    """With 90 % confidence the bound is tightened by the device's own interval; devices without a power model cannot meet an energy bound."""
    review = load_review(write_small(tmp_path / "sure", problem(latency_s=0.02, energy_J=9.0, confidence=0.9)))
    devices = {name: load_device(name) for name in ("jetson_agx_thor_t5000", "apple_m1_7c")}
    found = alternatives(review, pool_of(review), devices)
    apple, thor = of(found, "apple_m1_7c"), of(found, "jetson_agx_thor_t5000")
    assert apple.best(0.02) is None and "no power model" in apple.problem
    assert thor.factors == pytest.approx([math.exp(-1.2815516 / 1.6448536 * w) for w in thor.width_log])
    assert thor.width_log[0] <= thor.width_log[1] <= thor.width_log[2] and thor.width_log[2] >= UNSEEN_KIND_LOG
    choice = thor.best(0.02)
    assert choice is not None and choice.time_s <= 0.02 * thor.factors[choice.unlike]


def test_which_time_the_slider_moves() -> None:
    assert time_key(problem(latency_s=0.02)) == "latency_s"
    assert time_key(problem(e2e_s=2.0, objectives=("loss", "latency"))) == "e2e_s"
    assert time_key(problem(memory_B=8e9, objectives=("loss", "ttft"))) == "ttft_s"
    assert time_key(problem(memory_B=8e9, objectives=("loss", "memory"))) == "latency_s"


def test_stairs_by_hand() -> None:
    def choice(t: float, loss: float, unlike: int = 0) -> Choice:
        return Choice(time_s=t, loss=loss, power_W=1.0, at=(0, 0), own=-1, unlike=unlike)

    stair = Stair(choices=(choice(1, 3.0), choice(2, 2.5), choice(4, 2.0)))
    assert [c and c.loss for c in map(stair.within, (0.5, 1, 3.9, 4, 9))] == [None, 3.0, 2.5, 2.0, 2.0]
    stair = Stair(choices=(choice(1, 3.0), choice(2, 2.0, unlike=2), choice(3, 2.5)))
    assert [c and c.loss for c in (stair.within(3, (1, 1, f)) for f in (1.0, 0.5))] == [2.0, 2.5]


def test_designs_of_a_kind_not_measured_must_be_surer(tmp_path: Path) -> None:
    """A recurrent design on a board where none was measured fits a bound only with its wider interval's factor."""
    axes: dict[str, tuple[Any, ...]] = {"mixer": ("full", "mlstm:4"), "experts": ((0, 0),)}
    review = load_review(write_small(tmp_path / "two", problem(latency_s=0.02, confidence=0.9, axes=axes)))
    (orin,) = (a for a in alternatives(review, pool_of(review), {}) if a.here)
    kinds = {(c.unlike == 2, "mixer" in c.unmeasured) for c in orin.searched.choices}
    assert (True, True) in kinds and (False, True) not in kinds
    for bound in (0.005, 0.02, 0.05):
        choice = orin.best(bound)
        assert choice is None or choice.time_s <= bound * orin.factors[choice.unlike]
    assert orin.best(0.02).loss == pytest.approx(review.best.loss, abs=1e-9)  # type: ignore[union-attr]


def test_section_counts_and_is_small() -> None:
    section = build(EXAMPLE_REVIEW)
    assert len(json.dumps(section.data, allow_nan=False)) < 200_000
    _, found = scored(EXAMPLE_REVIEW)
    fits = sum(a.best(0.02) is not None for a in found)
    assert f"{fits} of {len(found)}" in section.html


def test_a_device_of_ones_own_is_among_them() -> None:
    """results/host_example was searched on a calibrated host, which is in no catalogue here."""
    _, found = scored(load_review(HOST_EXAMPLE))
    here = next(a for a in found if a.here)
    assert here.device.name == "host" and here.level == 0 and here.best(0.04) is not None


# ---- in the browser ---------------------------------------------------------------------------------------------------


def rows(found: Opened) -> list[list[str]]:
    text: Any = found.page.evaluate(
        "() => [...document.querySelectorAll('#what-if-table tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    return [[str(cell) for cell in row] for row in text]


def test_the_table_is_what_was_scored(example: Opened) -> None:
    _, found = scored(EXAMPLE_REVIEW)
    shown = {(r[0].removesuffix(" (this run)"), r[1]): r for r in rows(example)}
    assert len(shown) == len(found)
    for a in found:
        row, choice = shown[(a.device.title, a.device.power_mode or "–")], a.best(0.02)
        assert (row[2] == "does not fit") == (choice is None)
        if choice:
            low, high = a.interval(0.02)
            assert float(row[2]) == pytest.approx(choice.loss, abs=6e-4)
            assert low is not None and float(row[3].split(" to ")[0]) == pytest.approx(low, abs=6e-4)
            end = row[3].split(" to ")[1]
            assert end == "nothing" if high is None else float(end) == pytest.approx(high, abs=6e-4)
        assert row[10][0] == "●◐◐○○"[a.level]


def test_the_slider_and_the_plot(example: Opened) -> None:
    page = example.page
    example.drawn("what-if-plot")
    slider = page.locator("#what-if-bound")
    before = sum(r[2] == "does not fit" for r in rows(example))
    slider.focus()
    page.keyboard.press("Home")
    example.frames(4)
    assert "2.5 ms" in str(slider.get_attribute("aria-valuetext"))
    tight = rows(example)
    assert sum(r[2] == "does not fit" for r in tight) > before
    assert any(r[5].startswith("at least") for r in tight)
    page.locator("#what-if-reset").click()
    example.frames(4)
    assert sum(r[2] == "does not fit" for r in rows(example)) == before
    _, found = scored(EXAMPLE_REVIEW)
    for key, has in (("price", lambda a: a.device.price_usd), ("cap_W", lambda a: a.cap_W)):
        page.select_option("#what-if-x", key)
        example.frames(4)
        points = page.evaluate(
            "() => document.getElementById('what-if-plot').data.filter((t) => t.mode === 'markers').reduce((n, t) => n + t.x.length, 0)"
        )
        assert points == sum(1 for a in found if a.best(0.02) and has(a))
    page.locator("#what-if-measured").check()
    example.frames(4)
    assert len(rows(example)) == sum(a.level == 0 for a in found)
    page.locator("#what-if-measured").uncheck()


def test_columns_sort(example: Opened) -> None:
    page = example.page
    page.locator("#what-if-table th button", has_text="price").click()
    prices = [int(r[8].replace(",", "")) for r in rows(example) if r[8] != "–"]
    assert prices == sorted(prices) and len(prices) >= 20
    assert page.locator("#what-if-table th", has_text="price").get_attribute("aria-sort") == "ascending"
