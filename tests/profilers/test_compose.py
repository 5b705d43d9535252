"""Whole models from two shallow depths."""

from __future__ import annotations

import pytest
from synthetic import POINTS, TINY, record, true_seconds

from codesign.errors import MeasurementError
from codesign.hf_config import read_config
from codesign.measurement import Measurement
from codesign.profilers.base import Point
from codesign.profilers.compose import can_compose, compose

WHOLE = TINY.evolve(n_layers=24)


def pair(point: Point = POINTS[2], low: float = 0.010, high: float = 0.018, **changes: object) -> list[Measurement]:
    return [record(TINY.evolve(n_layers=n), point, t, **changes) for n, t in ((1, low), (3, high))]


def test_additive_layers_are_composed_exactly() -> None:
    records = [record(a, p, true_seconds(a, p)) for n in (1, 3) for a in [TINY.evolve(n_layers=n)] for p in POINTS]
    for m, point in zip(compose(records, WHOLE), POINTS, strict=True):
        assert m.seconds == pytest.approx(true_seconds(WHOLE, point)) and m.architecture == WHOLE
        assert (m.phase, m.tokens, m.context_tokens) == (point.phase, point.tokens, point.context_tokens)


def test_medians_of_each_clock_memory_and_energy_are_composed() -> None:
    low, high = pair(energy_J=2.0, peak_memory_B=1e9)
    high = record(high.architecture, cpu_s=(0.018, 0.5, 0.016, 0.02), energy_J=4.0, peak_memory_B=3e9, flags=("drift",))
    (m,) = compose([low, high], WHOLE)  # 1 + 11.5 * (3 - 1)
    assert m.cpu_s == (pytest.approx(0.010 + 11.5 * 0.009),)  # the median of an even number lies between the middle two
    assert m.energy_J == pytest.approx(25.0) and m.peak_memory_B == pytest.approx(24e9) and m.device_s == ()
    assert m.flags == ("composed", "drift")
    (m,) = compose([low, record(high.architecture, seconds=0.02)], WHOLE)
    assert m.energy_J is None and m.peak_memory_B is None


def test_a_clock_that_does_not_count_may_be_too_noisy_to_compose() -> None:
    """The wall clock ran shorter at depth 3, by luck: the composed wall time would be negative."""
    low, high = pair()
    (m,) = compose([record(low.architecture, seconds=0.01, wall_s=(0.05,)), high], WHOLE)
    assert m.seconds == pytest.approx(0.010 + 11.5 * 0.008) and m.wall_s == ()


@pytest.mark.parametrize("high", [0.010, 0.009])
def test_a_deeper_model_that_was_not_slower_is_refused(high: float) -> None:
    with pytest.raises(MeasurementError, match="took no longer than with 1 layer.*measure whole models"):
        compose(pair(high=high), WHOLE)


@pytest.mark.parametrize("keep", [slice(0, 1), slice(None, None, -1), slice(0, 4)])
def test_anything_but_two_rising_depths_is_refused(keep: slice) -> None:
    with pytest.raises(MeasurementError, match="two rising depths of each pass"):
        compose((pair() * 2)[keep] if keep.stop == 4 else pair()[keep], WHOLE)


def test_which_models_have_equal_layers() -> None:
    assert can_compose(WHOLE) and can_compose(WHOLE.evolve(window_tokens=8, n_window_layers=24, family="mistral"))
    assert not can_compose(read_config("gemma-3-1b"))  # five of six layers have a window
    mixture = WHOLE.evolve(n_experts=4, n_active_experts=2, d_ff_expert=64, family="mixtral")
    assert can_compose(mixture)
    assert not can_compose(mixture.evolve(n_dense_layers=1, family="deepseek_v3"))
