"""Design rules: the statistics by hand and against scipy, what a value costs against searches, sentences, and the page."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from review_pages import EXAMPLE, Opened
from scipy.stats import spearmanr
from small_runs import problem, write_small

from codesign.errors import InfeasibleError
from codesign.report.review import Review, load_review
from codesign.report.rules import AXIS_TITLES, held_losses, power_law, rules_of, spearman
from codesign.report.rules_section import build, picture
from codesign.search import search

#: The mixer has a rule only where the space offers several.
SHOWN = {axis: title for axis, title in AXIS_TITLES.items() if axis != "mixer"}

numbers = st.lists(st.integers(1, 50), min_size=3, max_size=30)


@given(numbers, st.randoms(use_true_random=False))
def test_spearman_is_scipys(x: list[int], random: object) -> None:
    y = x[:]
    random.shuffle(y)  # type: ignore[attr-defined]
    ours = spearman(x, y)
    if len(set(x)) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(float(spearmanr(x, y).statistic), abs=1e-9)


def test_power_law_by_hand() -> None:
    """value = 3 cost^0.5 exactly, and with 5 % of noise inside its interval."""
    cost = np.geomspace(1, 100, 60)
    law = power_law(cost, 3 * cost**0.5)
    assert law is not None
    assert (law.scale, law.exponent, law.low, law.high, law.r2) == pytest.approx((3, 0.5, 0.5, 0.5, 1))
    noisy = power_law(cost, 3 * cost**0.5 * np.exp(0.05 * np.random.default_rng(1).standard_normal(60)))
    assert noisy is not None and noisy.low < 0.5 < noisy.high and noisy.high - noisy.low < 0.1
    assert power_law(cost[:7], cost[:7]) is None and power_law(cost, np.ones(60)) is None
    assert power_law(cost, np.linspace(0, 1, 60)) is None


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_units_do_not_change_an_exponent(a: float, b: float) -> None:
    cost = np.geomspace(1, 50, 30)
    value = cost**0.7 * (1 + 0.2 * np.sin(np.arange(30)))
    one, other = power_law(cost, value), power_law(a * cost, b * value)
    assert one is not None and other is not None
    assert (other.exponent, other.low, other.high, other.r2) == pytest.approx((one.exponent, one.low, one.high, one.r2))


def test_what_a_value_costs_is_what_searches_find() -> None:
    """Each axis held at each value: an exact search of the space cut there, less the search of all of it."""
    whole = problem(latency_s=0.012)
    best = min(c.loss for c in search(whole).candidates)
    held = held_losses(whole)
    for axis in SHOWN:
        for value in whole.space.axes[axis]:
            cut = replace(whole, space=whole.space.with_axis(axis, (value,)))
            try:
                wanted = min(c.loss for c in search(cut).candidates) - best
            except InfeasibleError:
                wanted = math.inf
            assert held[axis][value] == pytest.approx(wanted, abs=1e-9), (axis, value)
        assert min(held[axis].values()) == pytest.approx(0, abs=1e-12)


def test_loss_need_not_be_an_objective() -> None:
    with_loss = held_losses(problem(latency_s=0.012))
    without = held_losses(problem(latency_s=0.012, objectives=("latency", "memory")))
    for axis, values in with_loss.items():
        for value, loss in values.items():
            assert without[axis][value] == pytest.approx(loss)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Review:
    return load_review(write_small(tmp_path_factory.mktemp("runs") / "small", problem(latency_s=0.02)))


def test_sentences_say_what_the_frontier_does(small: Review) -> None:
    rules = {r.axis: r for r in rules_of(small)}
    assert set(rules) == set(SHOWN)
    assert rules["precision"].text == "Fixed by the space at fp16."
    for r in rules.values():
        values = {round(float(v), 6) if not isinstance(v, str) else v for v in r.values}
        assert r.constant == (len(values) == 1)
        if len(r.offered) > 1:
            assert "At the budget" in r.text
        if r.edge is not None:
            end, count = r.edge
            assert end in (min(v for v in r.offered if v > 0), max(r.offered)) and 2 * count >= len(r.values)
            assert f"{count} of {len(r.values)} designs have the" in r.text
        if r.law is not None and abs(r.rank) >= 0.5:
            assert f"{r.law.exponent:.2f} power" in r.text and f"{r.law.low:.2f} to {r.law.high:.2f}" in r.text
        elif not r.constant and not isinstance(r.values[0], str) and abs(r.rank) < 0.5:
            assert "No steady trend" in r.text


def test_an_axis_that_does_not_matter_is_said_so(tmp_path: Path) -> None:
    """KV heads of 7 and 8 over 56 query heads cost almost the same."""
    axes = {
        "n_kv_heads": (7, 8),
        "d_model": (7168, 3584),
        "d_head": (64,),
        "experts": ((0, 0),),
        "n_layers": (2, 3, 4, 6),
        "ffn_ratio": (4.0,),
    }
    review = load_review(write_small(tmp_path / "flat", problem(axes=axes, allow_extrapolation=True, latency_s=0.05)))
    rule = next(r for r in rules_of(review) if r.axis == "n_kv_heads")
    assert "it does not matter: every value comes within" in rule.text
    head = next(r for r in rules_of(review) if r.axis == "experts")
    assert head.text == "Fixed by the space at dense."


def test_section_and_picture(tmp_path: Path, small: Review) -> None:
    section = build(small)
    json.dumps(section.data, allow_nan=False)
    for r in rules_of(small):
        assert r.text.split(".")[0] in section.html.replace("&#39;", "'")
    picture(small).savefig(tmp_path / "rules.png", dpi=40)


# ---- in the browser ---------------------------------------------------------------------------------------------------


def test_small_plots_are_linked(example: Opened) -> None:
    page = example.page
    example.drawn("rules-plot")
    review = load_review(EXAMPLE)
    shown = page.evaluate(
        "() => document.getElementById('rules-plot').data.filter((t) => t.mode === 'markers').map((t) => t.x.length)"
    )
    moving = [r for r in rules_of(review) if not r.constant]
    assert shown == [len(review.frontier.candidates)] * len(moving)
    assert page.locator("#rules-list li").count() == len(SHOWN)
    other = review.frontier.candidates[5].name
    page.evaluate("(name) => codesign.page.select(name)", other)
    example.frames(4)
    sizes = page.evaluate("() => document.getElementById('rules-plot').data[0].marker.size")
    assert [i for i, size in enumerate(sizes) if size > 6] == [5]
    page.evaluate("(names) => codesign.page.filter(names)", [other])
    example.frames(4)
    bright = page.evaluate(
        "() => document.getElementById('rules-plot').data[0].marker.opacity.filter((o) => o > 0.5).length"
    )
    assert bright == 1
    page.evaluate("() => codesign.page.filter(null)")


def test_what_each_value_costs_is_drawn(example: Opened) -> None:
    page = example.page
    example.drawn("rules-plot")
    page.locator('input[name="rules-view"][value="held"]').check()
    example.frames(4)
    lowest = page.evaluate("() => document.getElementById('rules-plot').data.map((t) => Math.min(...t.y))")
    assert lowest and all(v == 0 for v in lowest)
    page.locator('input[name="rules-view"][value="along"]').check()
    assert example.unfold("#rules", "#rules-table").count() == len(SHOWN)
