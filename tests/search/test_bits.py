"""Bits of each part: the curve against every combination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InfeasibleError, SpecError
from codesign.search import bits
from codesign.search.bits import allocate, monotone


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6), st.booleans())
def test_the_curve_is_that_of_every_combination(parts: int, choices: int, seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    sizes, loss = rng.uniform(1, 9, (parts, choices)), rng.uniform(0, 1, (parts, choices))
    if whole:  # ties
        sizes, loss = np.round(sizes), np.round(4 * loss) / 4
    rows = range(parts)
    every = [
        (
            sum(sizes[r, c] for r, c in zip(rows, pick, strict=True)),
            sum(loss[r, c] for r, c in zip(rows, pick, strict=True)),
        )
        for pick in itertools.product(range(choices), repeat=parts)
    ]
    curve = allocate(sizes, loss)
    assert np.all(np.diff(curve.bytes) > 0) and np.all(np.diff(curve.loss) < 0)
    for point, (size, lost) in enumerate(zip(curve.bytes, curve.loss, strict=True)):
        picked = curve.choices[point]
        assert size == pytest.approx(sizes[rows, picked].sum()) and lost == pytest.approx(loss[rows, picked].sum())
    for size, lost in every:
        place = curve.within(size + 1e-9)
        assert curve.loss[place] <= lost + 1e-9


def test_a_budget_below_the_least_is_refused() -> None:
    curve = allocate(np.array([[2.0, 4.0]]), np.array([[1.0, 0.0]]))
    assert curve.within(4.0) == 1 and curve.within(3.9) == 0
    with pytest.raises(InfeasibleError, match="takes 1.5 bytes; the least is 2"):
        curve.within(1.5)


@pytest.mark.parametrize(
    ("sizes", "loss"), [([[1.0]], [[1.0, 2.0]]), ([], []), ([1.0], [1.0]), ([[float("nan")]], [[0.0]])]
)
def test_bad_tables_are_refused(sizes: list[float], loss: list[float]) -> None:
    with pytest.raises(SpecError):
        allocate(np.array(sizes), np.array(loss))


def test_a_long_curve_is_thinned_and_stays_close(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    sizes = np.cumsum(rng.uniform(1, 2, (14, 4)), axis=1)
    loss = rng.uniform(1, 2, (14, 1)) * np.exp(-sizes)
    exact = allocate(sizes, loss)
    monkeypatch.setattr(bits, "_MOST", 60)
    thin = allocate(sizes, loss)
    assert len(thin.bytes) <= 61 < len(exact.bytes)
    assert thin.bytes[0] == exact.bytes[0] and thin.loss[-1] == exact.loss[-1]
    for budget in np.linspace(exact.bytes[0] + 1, exact.bytes[-1], 30):
        # 14 thinnings, each of at most a step of the bytes' range
        step = (exact.bytes[-1] - exact.bytes[0]) / 60
        assert (
            thin.loss[thin.within(budget)] <= exact.loss[exact.within(max(budget - 14 * step, exact.bytes[0]))] + 1e-12
        )


def test_noise_is_taken_out() -> None:
    assert monotone(np.array([[0.2, 0.3, -0.1, 0.05], [1.0, 0.5, 0.0, 0.0]])).tolist() == [
        [0.3, 0.3, 0.05, 0.05],
        [1.0, 0.5, 0.0, 0.0],
    ]
