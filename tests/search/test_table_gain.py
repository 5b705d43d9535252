"""The closed form of the expected hypervolume gain: worked by hand, against sampling, and its properties."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import SpecError
from codesign.search.front import hypervolume
from codesign.search.table_gain import cells_of, expected_gain, expected_improvement


def test_two_strips_by_hand() -> None:
    """Front (cost, quality) = (1, 3), (2, 1), reference (4, 5); a row of cost 0.5 and quality N(2, 1).

    Strips right of 0.5: [0.5, 1) with f = 5, [1, 2) with f = 3, [2, 4) with f = 1. Phi and phi from a table:
    EI(5) = 3 Phi(3) + phi(3) = 3 * 0.998650 + 0.004432 = 3.000382
    EI(3) = 1 Phi(1) + phi(1) = 0.841345 + 0.241971 = 1.083316
    EI(1) = -1 Phi(-1) + phi(-1) = -0.158655 + 0.241971 = 0.083316
    gain = 0.5 * 3.000382 + 1 * 1.083316 + 2 * 0.083316 = 2.750139
    """
    cells = cells_of(np.array([[1.0], [2.0]]), np.array([3.0, 1.0]), np.array([4.0, 5.0]))
    found = expected_gain(cells, np.array([[0.5]]), np.array([2.0]), np.array([1.0]))
    assert found[0] == pytest.approx(2.750139, abs=2e-6)


def test_a_certain_row_gains_exactly_its_area() -> None:
    """(1.5, 0) beside (1, 3), (2, 1): 0.5 * 3 + 2 * 1 = 3.5."""
    cells = cells_of(np.array([[1.0], [2.0]]), np.array([3.0, 1.0]), np.array([4.0, 5.0]))
    assert expected_gain(cells, np.array([[1.5]]), np.zeros(1), np.zeros(1)).tolist() == [3.5]


def test_two_costs_by_hand() -> None:
    """One found row at costs (1, 1), quality 2; reference (3, 3, 4). A certain row at (0, 2), quality 1.

    It gains 3 (from 4) over [0, 1) x [2, 3], and 1 (from 2) over [1, 3] x [2, 3]: 3 + 2 = 5.
    """
    cells = cells_of(np.array([[1.0, 1.0]]), np.array([2.0]), np.array([3.0, 3.0, 4.0]))
    assert expected_gain(cells, np.array([[0.0, 2.0]]), np.array([1.0]), np.zeros(1)).tolist() == [5.0]


@pytest.mark.parametrize("costs", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_against_sampling(costs: int, seed: int) -> None:
    """The mean of sampled gains, each by moocore's hypervolume, within five standard errors."""
    rng = np.random.default_rng(seed)
    points = 0.3 + 0.7 * rng.random((12, costs + 1))
    reference = np.full(costs + 1, 0.9)  # some points lie outside
    cost, mean, std = 0.8 * rng.random((3, costs)), 0.5 * rng.random(3), 0.05 + 0.3 * rng.random(3)
    found = expected_gain(cells_of(points[:, :-1], points[:, -1], reference), cost, mean, std)
    before = hypervolume(points, reference)
    for i in range(3):
        draws = mean[i] + std[i] * rng.standard_normal(3000)
        gains = [hypervolume(np.vstack([points, [*cost[i], y]]), reference) - before for y in draws]
        assert abs(found[i] - np.mean(gains)) < 5 * np.std(gains) / len(gains) ** 0.5 + 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 2))
def test_gains_shrink_as_rows_are_found(seed: int, costs: int) -> None:
    """What the greedy choice of a batch rests on: an old gain bounds the new one. And nothing gains less than nothing."""
    rng = np.random.default_rng(seed)
    points, reference = rng.random((9, costs + 1)), np.ones(costs + 1)
    cost, mean, std = rng.random((20, costs)), rng.random(20), rng.random(20)
    fewer = expected_gain(cells_of(points[:6, :-1], points[:6, -1], reference), cost, mean, std)
    more = expected_gain(cells_of(points[:, :-1], points[:, -1], reference), cost, mean, std)
    assert (more <= fewer + 1e-9).all() and (more >= 0).all()


def test_dominated_rows_do_not_matter() -> None:
    points = np.random.default_rng(3).random((30, 2))
    reference, keep = np.ones(2), moocore.is_nondominated(points)
    row = (np.array([[0.2]]), np.array([0.3]), np.array([0.1]))
    every = expected_gain(cells_of(points[:, :1], points[:, 1], reference), *row)
    front = expected_gain(cells_of(points[keep][:, :1], points[keep][:, 1], reference), *row)
    assert every[0] == pytest.approx(front[0], rel=1e-12)


def test_far_away_stays_finite() -> None:
    found = expected_improvement(np.array([1e3, -1e3]), np.zeros(2), np.full(2, 1e-3))
    assert found.tolist() == [pytest.approx(1e3), 0.0]


def test_three_costs_are_refused() -> None:
    with pytest.raises(SpecError, match="3 costs; allowed: one or two"):
        cells_of(np.zeros((1, 3)), np.zeros(1), np.ones(4))
