"""Which runs can still be on the frontier: by hand, and what must hold whatever the curves are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.campaign.training_halving import can_still_win
from codesign.training_run import CurvePoint

STEPS = (25, 50, 75, 100, 125, 150, 175, 200)


def curve(loss: Sequence[float]) -> list[CurvePoint]:
    return [
        CurvePoint(step=s, tokens=1000 * s, train_loss=x, valid_loss=x, lr=0.0, seconds=0.0)
        for s, x in zip(STEPS, loss, strict=True)
    ]


def power(scale: float, exponent: float) -> list[CurvePoint]:
    """L = scale * t**-exponent."""
    return curve([scale * (s / 200) ** -exponent for s in STEPS])


def test_by_hand() -> None:
    """At a half, four runs; from half of the rung (step 100) to the rung ln L falls by 0.1, 0.1, 0.1 and 0.3.

    sigma = std(0.1, 0.1, 0.1, 0.3) = 0.1; to the end is one doubling, as from step 100 to 200: margin = sqrt(2) * 0.1 = 0.1414.
    Ahead of run 1 by ln(2.4 / 2.0) = 0.182 is run 0, smaller: dropped. Run 2 is behind by ln(2.2 / 2.0) = 0.095: kept. Run 3 is
    the smallest: kept, whatever its loss.
    """
    fall = {
        0.1: (1.2, 1.2, 1.2, math.exp(0.1), 1.05, 1.04, 1.02, 1.0),
        0.3: (2, 2, 2, math.exp(0.3), 1.2, 1.1, 1.05, 1.0),
    }
    runs = [curve([end * x for x in fall[by]]) for end, by in ((2.0, 0.1), (2.4, 0.1), (2.2, 0.1), (3.0, 0.3))]
    assert can_still_win(runs, [2.0, 3.0, 4.0, 1.0], share=0.5) == [True, False, True, True]
    assert can_still_win(runs, [3.0, 2.0, 4.0, 1.0], share=0.5) == [True, True, True, True]  # none ahead is smaller
    assert can_still_win(runs, [1.0, 1.0, 1.0, 1.0], share=0.5) == [True, False, True, False]  # of equal cost, the best
    # from a quarter, two doublings are left: margin 0.283
    assert can_still_win(runs, [2.0, 3.0, 4.0, 1.0], share=0.25) == [True, True, True, True]
    assert can_still_win(runs, [2.0, 3.0, 4.0, 1.0], share=0.25, confidence=0.5) == [True, False, True, True]


def test_unsure_curves_keep_more() -> None:
    rng = np.random.default_rng(0)
    sure = [[x * 0.1 + 2 for x in (8, 7, 6, 5, 4, 3, 2, 1)], [x * 0.1 + 2.05 for x in (8, 7, 6, 5, 4, 3, 2, 1)]] * 3
    costs = [1.0, 2.0] * 3
    kept = can_still_win([curve(c) for c in sure], costs, share=0.5)
    noisy = [curve([x + rng.normal(0, 0.1) for x in c]) for c in sure]
    assert kept == [True, False] * 3
    assert sum(can_still_win(noisy, costs, share=0.5, confidence=4)) == 6


def test_too_little_to_tell() -> None:
    runs = [power(2.0, 0.1), power(3.0, 0.1)]
    assert can_still_win(runs, [1.0, 2.0], share=0.5) == [True, True]
    short = [c[:3] for c in (*runs, power(4.0, 0.1))]
    assert can_still_win(short, [1.0, 2.0, 3.0], share=0.5) == [True, True, True]
    assert can_still_win([], [], share=0.5) == []


def test_a_loss_that_is_no_number_does_not_spread() -> None:
    runs = [power(2.0, 0.1), power(2.2, 0.1), power(1.9, 0.1), curve([2.0] * 7 + [math.nan])]
    assert can_still_win(runs, [1.0, 2.0, 3.0, 0.5], share=0.5) == [True, False, True, False]


losses = st.lists(st.floats(1.0, 6.0), min_size=8, max_size=8)


@given(st.lists(st.tuples(losses, st.floats(1.0, 100.0)), min_size=3, max_size=8), st.floats(0.1, 0.9))
def test_what_must_hold(runs: list[tuple[list[float], float]], share: float) -> None:
    curves, costs = [curve(c) for c, _ in runs], [c for _, c in runs]
    kept = can_still_win(curves, costs, share=share)
    assert any(kept)
    smallest = min(costs)
    assert any(k for k, c in zip(kept, costs, strict=True) if c == smallest), (
        "the smallest model has no rival but its equals"
    )
    more = can_still_win(curves, costs, share=share, confidence=5.0)
    assert all(m for k, m in zip(kept, more, strict=True) if k), "more confidence keeps more"
    order = list(range(len(runs)))[::-1]
    again = can_still_win([curves[i] for i in order], [costs[i] for i in order], share=share)
    assert [again[i] for i in order] == kept
    doubled = can_still_win(curves, [2 * c for c in costs], share=share)
    assert doubled == kept


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_shift_of_all_changes_nothing(share: float) -> None:
    """ln L + constant for all runs: the text is harder, the order the same."""
    runs = [power(2.0, 0.1), power(2.001, 0.12), power(2.1, 0.1), power(1.99, 0.08)]
    harder = [curve([1.7 * (p.valid_loss or 0) for p in run]) for run in runs]
    costs = [1.0, 2.0, 3.0, 4.0]
    assert can_still_win(runs, costs, share=share) == can_still_win(harder, costs, share=share)
