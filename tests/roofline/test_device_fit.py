"""Fitting the additive roofline to a made-up machine whose coefficients are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import POINTS, PRIOR, TINY, TRUTH, dense, mape_pct, observed, record, rows_of

from codesign.devices import load_device
from codesign.measurement import Observation, observe
from codesign.operators import Phase
from codesign.profilers.base import Point
from codesign.roofline.calibration import load_calibration
from codesign.roofline.device_fit import catalogue_prior, fit_terms, pass_rows, predict_log, probed_prior
from codesign.roofline.residual import fit_residual
from codesign.roofline.terms import TERMS
from codesign.workload import PRECISIONS

PHASES: tuple[Phase, ...] = ("prefill", "decode")


def shapes(n: int, seed: int, **ranges: tuple[int, int]) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return observed([dense(rng, **ranges) for _ in range(n)], noise=0.02, visits=2, seed=seed)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("ranges", [{}, {"layers": (20, 48), "heads": (28, 64)}], ids=["like those measured", "larger"])
def test_unseen_shapes_are_predicted_within_the_noise(phase: Phase, ranges: dict[str, tuple[int, int]]) -> None:
    """20 architectures with 2 % noise that only adds time: the error against the machine itself stays about that."""
    seconds_per, _ = fit_terms(pass_rows(shapes(20, 1), phase), PRIOR)
    held = rows_of(shapes(60, 2, **ranges), phase)
    assert mape_pct(predict_log(pass_rows(held, phase), seconds_per), held) < 2.5


@pytest.mark.parametrize("phase", PHASES)
def test_coefficients_that_the_data_determines_are_recovered(phase: Phase) -> None:
    rows = pass_rows(shapes(60, 3), phase)
    seconds_per, covariance = fit_terms(rows, PRIOR)
    assert covariance.shape == (len(TERMS),) * 2 and np.all(np.linalg.eigvalsh(covariance) > 0)
    weighty = "matmul_flop" if phase == "prefill" else "matmul_B"
    assert seconds_per[weighty] == pytest.approx(TRUTH[weighty], rel=0.1)
    for term, sd in zip(TERMS, np.sqrt(np.diag(covariance)), strict=True):
        assert 0 < sd <= PRIOR[term][1] + 1e-9  # measuring never makes less sure
        if term.startswith("expert"):  # no mixture was measured: the prior stands
            assert seconds_per[term] == pytest.approx(np.exp(PRIOR[term][0])) and sd == pytest.approx(PRIOR[term][1])
        else:
            assert abs(np.log(seconds_per[term] / TRUTH[term])) < 4 * sd


def test_no_measurement_is_the_prior_and_one_moves_it_the_right_way() -> None:
    nothing, covariance = fit_terms([], PRIOR)
    assert nothing == pytest.approx({t: np.exp(v) for t, (v, _) in PRIOR.items()})
    assert np.diag(covariance) == pytest.approx([sd**2 for _, sd in PRIOR.values()])
    for phase in PHASES:
        rows = pass_rows(shapes(1, 4), phase)[:1]
        moved, after = fit_terms(rows, PRIOR)
        before_log, after_log = (float(predict_log(rows, s)[0]) for s in (nothing, moved))
        measured = np.log(rows[0].seconds)
        assert before_log < after_log <= measured + 0.02  # the prior is twice as fast as the machine
        assert abs(after_log - measured) < 0.3 * abs(before_log - measured)
        assert np.trace(after) < np.trace(covariance)


def test_one_wild_measurement_does_not_carry_the_fit_away() -> None:
    good = pass_rows(shapes(20, 5), "decode")
    bad = [replace(good[0], seconds=20 * good[0].seconds), *good[1:]]
    held = rows_of(shapes(30, 6), "decode")
    seconds_per, _ = fit_terms(bad, PRIOR)
    assert mape_pct(predict_log(pass_rows(held, "decode"), seconds_per), held) < 2.5


def test_rows_keep_the_phase_and_leave_prefills_on_a_filled_cache_out() -> None:
    filled = record(TINY, Point(phase="prefill", tokens=8, context_tokens=8))
    observations = observe([filled, *(record(TINY, p) for p in POINTS)])
    prefill, decode = (pass_rows(observations, phase) for phase in PHASES)
    assert [r.workload.prompt_tokens for r in prefill] == [64, 256] and [r.workload.prompt_tokens for r in decode] == [
        64,
        512,
    ]
    assert {r.group for r in prefill} == {r.group for r in decode} and decode[0].params_active == TINY.params_active
    assert decode[0].features[-1] == 65  # a step attends to the cached tokens and itself
    assert pass_rows(observe([record(TINY, POINTS[2].__class__.decode(0))]), "decode")[0].seconds == 0.01


@pytest.mark.parametrize("name", ["orin", "rtx 4090", "xeon_8480plus", "raspberry_pi_5"])
def test_priors_are_possible_on_devices_of_each_kind(name: str) -> None:
    device = load_device(name)
    for form in ("fp32", "fp16", "int8-dynamic", "w4a32"):
        p = PRECISIONS[form]
        rates = load_calibration().rates(device, "onnxruntime", p)
        for prior in (
            probed_prior(device, p),
            catalogue_prior(device, p, rates.decode),
            catalogue_prior(device, p, rates.prefill),
        ):
            assert set(prior) == set(TERMS)
            assert all(np.isfinite(log) and -40 < log < 0 and 0 < sd <= 2 for log, sd in prior.values())


def slower_when_wide(arch: object, point: object) -> float:
    """What no sum of terms has: up to 30 % more time around a width of 400."""
    return 1 + 0.3 * float(np.exp(-0.5 * (np.log(arch.d_model / 400) / 0.3) ** 2))  # type: ignore[attr-defined]


def test_the_residual_learns_what_the_roofline_cannot() -> None:
    rng = np.random.default_rng(7)
    rows = pass_rows(observed([dense(rng) for _ in range(40)], noise=0.01, factor=slower_when_wide), "decode")
    held = pass_rows(observed([dense(rng) for _ in range(40)], noise=1e-9, factor=slower_when_wide), "decode")
    seconds_per, _ = fit_terms(rows, PRIOR)
    residual = fit_residual(rows, np.log([r.seconds for r in rows]) - predict_log(rows, seconds_per))
    assert residual is not None
    truth = np.log([r.seconds for r in held])
    alone = np.abs(predict_log(held, seconds_per) - truth).mean()
    hybrid = np.abs(predict_log(held, seconds_per, residual) - truth).mean()
    assert hybrid < 0.5 * alone


def test_no_residual_from_noise_or_from_few_rows() -> None:
    rows = pass_rows(shapes(20, 8), "decode")
    assert fit_residual(rows[:7], np.ones(7)) is None
    assert fit_residual(rows, np.zeros(len(rows))) is None
    noise = np.random.default_rng(0).normal(0, 0.05, len(rows))
    found = fit_residual(rows, noise)
    if found is not None:  # a little may be fitted by chance, but no more than the noise
        assert np.abs(predict_log(rows, TRUTH, found) - predict_log(rows, TRUTH)).max() < 0.1
