from __future__ import annotations

import numpy as np
import pytest

from codesign.predictors.gp import GP, Hyper, fit_gp


def small() -> GP:
    shapes = np.array([[0.0, 0.0], [1.0, 0.5], [2.0, -0.5]])
    group = np.repeat(np.arange(3), 4)
    tokens = np.tile([0.0, 0.7, 1.4, 2.1], 3)
    residual = np.repeat([0.01, -0.02, 0.015], 4) + 0.002 * tokens
    return GP(Hyper(0.02, 0.005, 0.001, (1.5, 2.0), 1.0, 0.4), shapes, group, tokens, residual)


def test_one_row_by_hand() -> None:
    # One row, residual 0.3; v_shape = 0.04, v_group = 0.01, noise 0.05^2 = 0.0025: K = 0.0525.
    # At the same point the mean is 0.04/0.0525 * 0.3 = 0.228571; at distance one length scale times exp(-1/2).
    gp = GP(
        Hyper(0.2, 0.1, 0.05, (1.0,), 1.0, 0.0),
        np.zeros((1, 1)),
        np.zeros(1, dtype=np.int64),
        np.zeros(1),
        np.array([0.3]),
    )
    got = gp.mean([np.array([0.0, 1.0])], 0.0)
    assert got == pytest.approx([0.228571, 0.228571 * np.exp(-0.5)], abs=1e-6)
    # variance at that point: 0.04 - 0.04^2/0.0525 + 0.01 + 0.0025 = 0.022024
    assert float(gp.variance(np.zeros((1, 1)), np.zeros(1))[0]) == pytest.approx(0.0220238, abs=1e-6)


def test_collapsed_mean_equals_the_full_sum() -> None:
    gp = small()
    z, t = np.array([[0.3, 0.1], [1.7, -0.2]]), np.array([0.9, 0.9])
    full = gp.cross(z, t) @ np.linalg.solve(gp.covariance(), gp.residual)
    assert gp.mean(list(z.T), 0.9) == pytest.approx(full, abs=1e-12)
    assert gp.mean(list(z.T), t) == pytest.approx(full, abs=1e-12)


def test_difference_variance_is_that_of_the_joint() -> None:
    gp = small()
    a, b, t = np.array([[0.3, 0.1]]), np.array([[0.5, 0.0]]), np.array([0.9])
    h = gp.hyper
    k = np.vstack([gp.cross(a, t), gp.cross(b, t)])
    square = ((a - b) ** 2 / np.array(h.scales) ** 2).sum()
    prior = h.shape_std**2 * np.array([[1, np.exp(-square / 2)], [np.exp(-square / 2), 1]])
    post = prior - k @ np.linalg.solve(gp.covariance(), k.T)
    want = post[0, 0] + post[1, 1] - 2 * post[0, 1] + 2 * (h.group_std**2 + h.noise_std**2)
    assert float(gp.difference_variance(a, b, t, np.array([False]))[0]) == pytest.approx(want, rel=1e-6)
    assert float(gp.difference_variance(a, a, t, np.array([True]))[0]) == 0.0


def test_fit_keeps_its_bounds() -> None:
    gp = small()
    fitted = fit_gp(gp.shapes, gp.group, gp.tokens, 10 * gp.residual, max_std=0.02, scale_bounds=(1.5, 4.0))
    assert fitted.hyper.shape_std <= 0.02 * 1.0001
    assert all(1.4999 <= s <= 4.0001 for s in fitted.hyper.scales)
    assert fit_gp(gp.shapes, gp.group, gp.tokens, gp.residual, mean=False).hyper.shape_std == 0.0
