"""Calibration of a made-up machine: honest errors, honest intervals, a residual only where it helps, and warnings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from synthetic import PRIOR, TRUTH, dense, observed, record

from codesign.errors import SpecError
from codesign.measurement import observe
from codesign.operators import Phase
from codesign.profilers.base import Point
from codesign.roofline.device_calibration import (
    calibrate_device,
    calibrate_phase,
    conformal_log,
    cross_validate,
    largest_out,
)
from codesign.roofline.device_fit import PassRow, pass_rows, predict_log

PRIORS: dict[Phase, Any] = {"prefill": PRIOR, "decode": PRIOR}
ONE = (Point.decode(200),)


def rows(n: int, seed: int = 0, phase: Phase = "decode", **changes: Any) -> list[PassRow]:
    rng = np.random.default_rng(seed)
    return pass_rows(observed([dense(rng) for _ in range(n)], seed=seed, **changes), phase)


def bump(arch: Any, point: Any) -> float:
    """What no sum of terms has: up to 30 % more time around a width of 400."""
    return 1 + 0.3 * math.exp(-0.5 * (math.log(arch.d_model / 400) / 0.3) ** 2)


def test_conformal_log_is_the_ceiled_rank() -> None:
    errors = np.array([-0.05, 0.01, 0.02, -0.03, 0.04, 0.06, -0.07, 0.08, 0.09, -0.10, 0.11])
    assert conformal_log(errors) == 0.11  # ceil(12 x 0.9) = 11th of 11
    assert conformal_log(errors, 0.5) == 0.06  # 6th
    assert conformal_log(errors[:3]) == 0.05  # too few for the level: the largest
    assert conformal_log(np.repeat(errors, 10)) == 0.10  # ceil(111 x 0.9) = 100th of 110


def test_intervals_hold_nine_of_ten_unseen_passes() -> None:
    """40 architectures with noise, interval from cross-validation; 200 unseen passes of the same machine; 12 times."""
    inside = []
    for seed in range(12):
        train = rows(40, seed, noise=0.05, points=ONE)
        report = calibrate_phase(train, PRIOR)
        held = rows(200, 1000 + seed, noise=0.05, points=ONE)
        error = predict_log(held, report.terms.seconds_per, report.terms.residual) - np.log([r.seconds for r in held])
        inside.append(np.mean(np.abs(error) <= report.terms.interval_log))
    assert 0.86 < np.mean(inside) < 0.97, inside  # 90 % by each; 0.05 is two standard errors of a single one
    assert min(inside) > 0.7


def test_the_cross_validated_error_is_the_error_on_unseen_architectures() -> None:
    report = calibrate_phase(rows(40, 1, noise=0.03), PRIOR)
    held = rows(100, 2, noise=0.03)
    error = predict_log(held, report.terms.seconds_per, report.terms.residual) - np.log([r.seconds for r in held])
    kind = "hybrid" if report.terms.residual else "roofline"
    assert report.terms.held_out[f"{kind}_mape_pct"] == pytest.approx(100 * np.mean(np.abs(np.expm1(error))), rel=0.3)


def test_no_architecture_is_in_its_own_training_set() -> None:
    """Passes of one architecture stay together: a model that knows every row it was trained on by heart is caught."""
    train = rows(25, 3)

    def by_heart(some: Any) -> Any:
        known = {row.group for row in some}
        return lambda others: np.array([np.log(r.seconds) if r.group in known else 99.0 for r in others])

    assert len(train) == 50 and np.all(cross_validate(train, by_heart) > 90)
    left = largest_out(train, by_heart)
    assert len(left) == 2 * round(25 / 3) and np.all(left > 90)


def test_largest_out_leaves_the_largest_out() -> None:
    train, seen = rows(12, 4), []

    def spy(some: Any) -> Any:
        seen.append(max(row.params_active for row in some))
        return lambda others: np.array([row.params_active for row in others])

    assert len(largest_out(train, spy)) == 8  # 4 of 12 architectures, 2 passes each
    assert seen == [sorted({row.params_active for row in train})[7]]


def test_the_hybrid_is_used_where_it_helps_and_only_there() -> None:
    plain = calibrate_phase(rows(30, 5), PRIOR)
    held = plain.terms.held_out
    if plain.terms.residual is not None:  # by chance, a little
        assert held["hybrid_mape_pct"] < held["roofline_mape_pct"]
    bent = calibrate_phase(rows(60, 6, factor=bump, noise=0.01), PRIOR)
    held = bent.terms.held_out
    assert bent.terms.residual is not None
    assert held["hybrid_mape_pct"] < 0.7 * held["roofline_mape_pct"]
    assert held["hybrid_largest_out_mape_pct"] <= 1.02 * held["roofline_largest_out_mape_pct"]


def test_a_hybrid_that_does_worse_on_the_largest_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual that is right about the sizes it knows and doubles the time of all larger ones."""
    from codesign.roofline import device_calibration
    from codesign.roofline import residual as residual_module

    train = rows(30, 7, noise=0.3)
    true = device_calibration.predict_log

    def predict(others: Any, seconds_per: Any, residual: Any = None) -> Any:
        base = true(others, seconds_per)
        if residual is None:
            return base
        truth = np.log([r.seconds for r in others])
        return np.where([r.params_active <= residual for r in others], truth, base + math.log(2))

    monkeypatch.setattr(device_calibration, "predict_log", predict)
    monkeypatch.setattr(residual_module, "fit_residual", lambda some, errors: max(r.params_active for r in some))
    report = calibrate_phase(train, PRIOR)
    assert report.terms.held_out["hybrid_mape_pct"] < report.terms.held_out["roofline_mape_pct"]
    assert report.terms.residual is None


def test_intervals_are_never_narrower_beyond_the_measured_sizes() -> None:
    for seed in range(4):
        terms = calibrate_phase(rows(15, seed), PRIOR).terms
        assert terms.interval_beyond_log >= terms.interval_log > 0
        assert terms.span_params[0] < terms.span_params[1] and terms.n_architectures == 15 and terms.n_rows == 30


def test_too_few_noisy_and_single_visits_are_said() -> None:
    few = calibrate_phase(rows(5, 8), PRIOR, guess_log=0.4)
    assert any("little: 5 architectures" in w and "profile more" in w for w in few.warnings)
    assert (few.terms.interval_log, few.terms.interval_beyond_log) == (0.4, 0.8) and not few.terms.held_out
    noisy = calibrate_phase(rows(12, 9, noise=0.3), PRIOR)
    assert any("noisy: a second visit differs by" in w and "--visits" in w for w in noisy.warnings)
    once = calibrate_phase(rows(12, 10, visits=1), PRIOR)
    assert any("visited once" in w for w in once.warnings)
    assert calibrate_phase(rows(12, 11), PRIOR).warnings == ()
    with pytest.raises(SpecError, match="no measurements of this phase"):
        calibrate_phase([], PRIOR)


def test_a_device_calibration_has_both_phases_and_says_what_it_rests_on() -> None:
    rng = np.random.default_rng(12)
    archs = [dense(rng) for _ in range(10)]
    moe = archs[0].evolve(n_experts=4, n_active_experts=2, d_ff=0, d_ff_expert=256, family="mixtral")
    fit, reports = calibrate_device(observed([*archs, moe], power_mode="30W"), PRIORS, source="here", machine="M")
    assert set(reports) == {"prefill", "decode"} and fit.prefill and fit.decode
    assert (fit.engine, fit.engine_version, fit.precision, fit.power_mode) == ("onnxruntime", "1", "fp32", "30W")
    assert (fit.options, fit.machine, fit.source) == ({"threads": "1"}, "M", "here") and fit.fitted_at.endswith(
        "+00:00"
    )
    assert fit.decode.mixtures and set(fit.decode.seconds_per) == set(TRUTH)
    dense_only, _ = calibrate_device(observed(archs, points=ONE), PRIORS, source="here")
    assert dense_only.prefill is None and dense_only.decode and not dense_only.decode.mixtures
    for term in ("experts_flop", "experts_B", "expert"):  # not measured: the prior, so that experts are not free
        assert dense_only.decode.seconds_per[term] == pytest.approx(np.exp(PRIORS["decode"][term][0]))


@pytest.mark.parametrize(
    "change",
    [{"precision": "w4a32"}, {"engine": "torch"}, {"options": {"threads": "2"}}, {"power_mode": "15W"}, {"device": "orin"},
     {"clock": "wall"}],
    ids=lambda c: next(iter(c)),
)  # fmt: skip
def test_combinations_are_not_mixed(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="mix 2 combinations"):
        calibrate_device(observe([record(), record(**change)]), PRIORS, source="here")


def test_nothing_to_fit_is_said() -> None:
    with pytest.raises(SpecError, match=r"no measurements.*codesign profile first"):
        calibrate_device([], PRIORS, source="here")
    filled = observe([record(point=Point(phase="prefill", tokens=8, context_tokens=8))])
    with pytest.raises(SpecError, match="prefills on a filled cache"):
        calibrate_device(filled, PRIORS, source="here")


def test_versions_of_an_engine_are_fitted_together_and_named() -> None:
    both = [record(engine_version=v, seconds=t) for v, t in (("1.30", 0.01), ("1.31", 0.011))]
    fit, _ = calibrate_device(observe(both), PRIORS, source="here")
    assert fit.engine_version == "1.30, 1.31" and fit.decode is not None and fit.decode.n_rows == 2


def test_the_order_of_records_does_not_matter() -> None:
    train = rows(20, 13)
    one, other = calibrate_phase(train, PRIOR).terms, calibrate_phase(train[::-1], PRIOR).terms
    for term, seconds in one.seconds_per.items():
        assert other.seconds_per[term] == pytest.approx(seconds, rel=1e-4)
    assert replace(one, seconds_per={}, residual=None, held_out={}, interval_log=0, interval_beyond_log=1) == replace(
        other, seconds_per={}, residual=None, held_out={}, interval_log=0, interval_beyond_log=1
    )
    assert other.interval_log == pytest.approx(one.interval_log, rel=1e-3)
