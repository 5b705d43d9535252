"""The learned part of the hybrid: a Gaussian process on ln(measured / roofline)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from codesign.devices import ResidualFit
from codesign.errors import MissingExtraError
from codesign.roofline.device_fit import Array, PassRow, Prior, fit_terms, predict_log
from codesign.roofline.terms import FEATURES

__all__ = ["fit_hybrid", "fit_residual"]

_MAX_POINTS = 600  # exact Gaussian processes are cubic; the store of one device rarely has more passes


def fit_residual(rows: Sequence[PassRow], errors_log: Array) -> ResidualFit | None:
    """Fit a zero-mean Gaussian process with a squared-exponential kernel and one length scale for each feature.

    Hyper-parameters maximise the marginal likelihood (scikit-learn). The mean is 0 away from the data, so the hybrid falls
    back to the roofline there.

    Args:
        rows: the passes; errors_log: ln(measured / roofline) of each, (n,).

    Returns:
        The fit, or None where there are fewer than 8 rows or nothing but noise was found.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    except ImportError as error:
        raise MissingExtraError.of("scikit-learn", "profile", "calibration") from error
    if len(rows) < 8:
        return None
    if len(rows) > _MAX_POINTS:
        keep = np.linspace(0, len(rows) - 1, _MAX_POINTS).round().astype(int)
        rows, errors_log = [rows[i] for i in keep], errors_log[keep]
    x = np.log(np.array([row.features for row in rows]))
    center, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    z = (x - center) / scale
    variance = max(float(np.mean(errors_log**2)), 1e-6)
    kernel = ConstantKernel(variance / 2, (1e-6, 0.25)) * RBF(np.full(z.shape[1], 2.0), (0.7, 30.0)) + WhiteKernel(
        variance / 2, (1e-5, 0.25)
    )
    model = GaussianProcessRegressor(kernel, normalize_y=False, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: the feature does not matter
        model.fit(z, errors_log)
    signal = model.kernel_.k1
    amplitude, lengths = float(signal.k1.constant_value), np.asarray(signal.k2.length_scale)
    if amplitude < 1e-5:
        return None
    alpha = np.asarray(model.alpha_).reshape(-1)
    points = z / lengths
    return ResidualFit(
        features=FEATURES,
        center=tuple(float(v) for v in center),
        scale=tuple(float(v) for v in scale * lengths),
        points=tuple(tuple(float(round(v, 6)) for v in point) for point in points),
        alpha=tuple(float(v) for v in alpha),
        amplitude=amplitude,
    )


def fit_hybrid(rows: Sequence[PassRow], prior: Prior) -> tuple[dict[str, float], Array, ResidualFit | None]:
    """The additive roofline with the process on what it leaves: coefficients and covariance of `fit_terms`, the residual.

    Raises:
        MissingExtraError: see `fit_residual`.
    """
    seconds_per, covariance = fit_terms(rows, prior)
    errors_log = np.log([row.seconds for row in rows]) - predict_log(rows, seconds_per)
    return seconds_per, covariance, fit_residual(rows, errors_log)
