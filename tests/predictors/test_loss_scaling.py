from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.errors import SpecError
from codesign.predictors.scaling import (
    FORMS,
    PAPER_PARAMETERS,
    Logs,
    aspect,
    chinchilla,
    fit,
    moe,
    moe_gain,
    paper_eq2,
    saturated_experts,
)

SMALL = st.floats(-3, 3)


def at(n: float, t: float = 0.0, l: float = 0.0, w: float = 0.0, e: float = 0.0) -> Logs:
    return Logs(*(np.array([v]) for v in (n, t, l, w, e)))


def test_paper_law_by_hand() -> None:
    # l = 16, d = 2048, d_m = 128 * 4 = 512, r = 4, dense (rho = 1); powers of two:
    #   depth     9.96 / 16^1.63          = 9.96 / 2^6.52                    = 9.96 / 91.773         = 0.10853
    #   sparsity  0.031 * 2048^0.33/4^.17 = 0.031 * 2^3.63 / 2^0.34          = 0.031 * 12.3808/1.26576 = 0.30322
    #   capacity  500 / (4^.17 2048^.97)  = 500 / (2^0.34 * 2^10.67)         = 500 / 2^11.01         = 0.24245
    #   KV        0.20 / 512^0.05         = 0.20 / 2^0.45                    = 0.20 / 1.36604        = 0.14641
    #   floor     2.53                                                                       sum    = 3.33061
    got = float(paper_eq2(PAPER_PARAMETERS, 16, 2048, 512, 4.0, 1.0))
    assert got == pytest.approx(0.10853 + 0.30322 + 0.24245 + 0.14641 + 2.53, abs=3e-5)


def test_aspect_by_hand() -> None:
    # N = 1e8, D = 1e10, l = 16, d = 1024: all logs zero, ln(d / (64 l)) = 0; u0 = -1 and q = 0.01:
    # 1.8 + 1 * exp(0.01 * 1^2) + 0.5 = 1.8 + 1.010050 + 0.5 = 3.310050
    got = aspect((1.8, 0.0, 0.2, math.log(0.5), 0.5, 0.01, -1.0), at(0.0))
    assert float(got[0]) == pytest.approx(3.310050, abs=1e-6)


def test_saturation_by_hand() -> None:
    # Es = 2, Em = 4: inner = 1/(1/2 - 1/4) = 4; E = 5: 1/(5 - 1 + 4) + 1/4 = 3/8 -> 8/3; E -> inf: 4
    assert float(saturated_experts(5.0, 2.0, 4.0)) == pytest.approx(8 / 3)
    assert float(saturated_experts(1e12, 2.0, 4.0)) == pytest.approx(4.0)


@given(a=st.floats(0.05, 1), g=st.floats(0, 0.3), h=st.floats(-0.05, 0), n=SMALL)
def test_mixture_gain_dense_limit_is_exact_and_saturates(a: float, g: float, h: float, n: float) -> None:
    p = (a, g, h, 0.4, 5.0)
    assert float(moe_gain(p, n, 1.0, -2, 2)) == 0.0
    gains = moe_gain(p, n, np.array([1.0, 2, 8, 64, 512, 1e9]), -2, 2)
    assert (np.diff(gains) >= 0).all()
    assert gains[-1] <= max(0.0, g + h * np.clip(n, -2, 2)) / a * math.log((1 + math.exp(0.4) + math.exp(5)) / 1) + 1e-9


def test_mixture_form_equals_clark_form() -> None:
    # E + A / (Na^a Ehat^(g + h ln Na)) up to the dense normalisation Ehat(1) = Es, in the fitted units.
    p = np.array([1.5, 0.1, 0.2, 0.1, -0.01, 0.3, 5.0])
    start = 1 + math.exp(0.3)
    ehat = float(saturated_experts(64.0, start, start + math.exp(5.0))) / start
    want = 1.5 + math.exp(0.1) / (math.exp(0.2 * 0.7) * ehat ** (0.1 - 0.01 * 0.7))
    assert float(moe(p, at(0.7, e=math.log(64.0)))[0]) == pytest.approx(want)


@given(n=SMALL, more=st.floats(0, 4), t=SMALL, u=st.floats(-3, 2))
def test_more_parameters_at_fixed_aspect_never_hurt(n: float, more: float, t: float, u: float) -> None:
    for form in FORMS.values():
        if form.name == "moe":
            continue
        p = (np.array(form.low) + np.array(form.high)) / 2
        # at fixed aspect N ~ l^3: depth and width grow together
        losses = [float(form.function(p, at(m, t, m / 3, m / 3 + u))[0]) for m in (n, n + more)]
        assert losses[1] <= losses[0] + 1e-12


def test_fit_recovers_a_known_law_and_is_deterministic() -> None:
    rng = np.random.default_rng(1)
    x = Logs(rng.uniform(-2, 3, 60), rng.uniform(-1, 2.5, 60), np.zeros(60), np.zeros(60))
    truth = np.array([1.8, 0.1, 0.25, -0.8, 0.5])
    form, y = FORMS["chinchilla"], chinchilla(truth, x)
    found = [fit(lambda p: chinchilla(p, x), y, form.low, form.high, seed=3) for _ in range(2)]
    assert np.array_equal(found[0], found[1])
    assert np.abs(chinchilla(found[0], x) - y).max() < 1e-4


@pytest.mark.parametrize(("loss", "text"), [([1.0, 2.0], "5 parameters"), ([1.0, -1, 1, 1, 1], "positive")])
def test_fit_refuses_what_it_cannot_fit(loss: list[float], text: str) -> None:
    form = FORMS["chinchilla"]
    with pytest.raises(SpecError, match=text):
        fit(lambda p: np.ones(len(loss)) * p[0], loss, form.low, form.high)


def test_draws_broadcast() -> None:
    x = Logs(*(np.zeros((1, 7)) for _ in range(4)))
    p = np.tile(np.array([[1.8], [0.1], [0.25], [-0.8], [0.5]]), (1, 3))[:, :, None]
    assert chinchilla(p, x).shape == (3, 7)
