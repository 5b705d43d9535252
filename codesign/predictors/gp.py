"""A small exact Gaussian process over shape and tokens, for what a scaling law leaves over.

Kernel between rows i and j (z: shape features, t = ln tokens, s: the shape's identity):

    k = [ v_shape * RBF(z_i, z_j) + v_group * (s_i == s_j) ] * (1 - c + c RBF(t_i, t_j)) + v_noise * (i == j)

The group term is what one trained shape has of its own (seed, learning-rate luck) and shares over its token counts:
without it a GP takes ten checkpoints of one model for ten independent witnesses and is over-sure of the next shape.
Only the shape term carries to a new architecture; the group term is part of its uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["GP", "Hyper", "fit_gp"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hyper:
    """Hyper-parameters: standard deviations in nats, length scales in units of the features."""

    shape_std: float
    group_std: float
    noise_std: float
    scales: tuple[float, ...]
    token_scale: float
    token_share: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "shape_std": self.shape_std,
            "group_std": self.group_std,
            "noise_std": self.noise_std,
            "scales": list(self.scales),
            "token_scale": self.token_scale,
            "token_share": self.token_share,
        }


def _token_kernel(h: Hyper, a: Any, b: Any) -> Array:
    return np.asarray(1.0 - h.token_share + h.token_share * np.exp(-0.5 * ((a - b) / h.token_scale) ** 2))


def _shape_kernel(h: Hyper, a: list[Any], b: list[Any]) -> Array:
    """``RBF`` over the features; each of ``a`` and ``b`` is a list (one entry a feature) of broadcastable arrays."""
    square: Any = 0.0
    for x, y, scale in zip(a, b, h.scales, strict=True):
        square = square + ((x - y) * (1.0 / scale)) ** 2
    return np.asarray(np.exp(-0.5 * square))


@dataclass
class GP:
    """An exact GP conditioned on residuals.

    Attributes:
        hyper: Kernel hyper-parameters.
        shapes: Features of the unique training shapes, (S, F).
        group: Row -> shape index, (rows,).
        tokens: ln(D / 1e10) of the rows, (rows,).
        residual: Residuals (nats), (rows,).
    """

    hyper: Hyper
    shapes: Array
    group: npt.NDArray[np.int64]
    tokens: Array
    residual: Array
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def covariance(self) -> Array:
        """Prior covariance of the training rows, noise included, (rows, rows)."""
        h, f = self.hyper, self.shapes.T
        unique = h.shape_std**2 * _shape_kernel(h, [c[:, None] for c in f], [c[None, :] for c in f])
        unique = unique + h.group_std**2 * np.eye(len(self.shapes))
        t = self.tokens
        full = unique[np.ix_(self.group, self.group)] * _token_kernel(h, t[:, None], t[None, :])
        return np.asarray(full + (h.noise_std**2 + 1e-12) * np.eye(t.size))

    def _solve(self) -> tuple[Array, Array]:
        """(inverse covariance, weights alpha); computed once."""
        if "solve" not in self._cache:
            inverse = np.linalg.inv(self.covariance())
            self._cache["solve"] = (inverse, inverse @ self.residual)
        inverse, alpha = self._cache["solve"]
        return inverse, alpha

    def inverse(self) -> Array:
        """Inverse of `covariance`, (rows, rows)."""
        return self._solve()[0]

    def shape_weights(self, tokens: float) -> Array:
        """Weights w_s(D), so that the mean at one token count is ``sum_s RBF(z, z_s) w_s``; shape (S,)."""
        key = ("weights", float(tokens))
        if key not in self._cache:
            _, alpha = self._solve()
            weighted = self.hyper.shape_std**2 * alpha * _token_kernel(self.hyper, tokens, self.tokens)
            self._cache[key] = np.bincount(self.group, weighted, len(self.shapes))
        return np.asarray(self._cache[key])

    def mean(self, features: list[Any], tokens: Any) -> Array:
        """Posterior mean; features and tokens broadcast. A scalar ``tokens`` is the fast path."""
        times = np.asarray(tokens, dtype=float)
        total: Any = 0.0
        if times.size == 1:
            for z, w in zip(self.shapes, self.shape_weights(float(times.reshape(-1)[0])), strict=True):
                total = total + w * _shape_kernel(self.hyper, features, list(z))
            return np.asarray(total)
        _, alpha = self._solve()
        for s, z in enumerate(self.shapes):
            rows = np.flatnonzero(self.group == s)
            weight: Any = 0.0
            for i in rows:
                weight = weight + alpha[i] * _token_kernel(self.hyper, times, self.tokens[i])
            total = total + self.hyper.shape_std**2 * weight * _shape_kernel(self.hyper, features, list(z))
        return np.asarray(total)

    def cross(self, features: Array, tokens: Array) -> Array:
        """Prior covariance of new points with the training rows, (points, rows); ``features`` is (points, F)."""
        h = self.hyper
        k = _shape_kernel(h, [c[:, None] for c in features.T], [c[None, :] for c in self.shapes.T])
        return np.asarray(h.shape_std**2 * k[:, self.group] * _token_kernel(h, tokens[:, None], self.tokens[None, :]))

    def variance(self, features: Array, tokens: Array) -> Array:
        """Posterior variance of a newly trained model (group and noise included), (points,)."""
        h, k = self.hyper, self.cross(features, tokens)
        explained = np.einsum("pr,pr->p", k @ self.inverse(), k)
        return np.asarray(np.maximum(h.shape_std**2 - explained, 0.0) + h.group_std**2 + h.noise_std**2)

    def posterior(self, features: Array, tokens: Array) -> Array:
        """Posterior covariance of the function (without group and noise) at one token count, (points, points)."""
        h, k = self.hyper, self.cross(features, tokens)
        prior = _shape_kernel(h, [c[:, None] for c in features.T], [c[None, :] for c in features.T])
        covariance = h.shape_std**2 * prior - k @ self.inverse() @ k.T
        return np.asarray((covariance + covariance.T) / 2)

    def difference_variance(self, a: Array, b: Array, tokens: Array, same: npt.NDArray[np.bool_]) -> Array:
        """Posterior variance of f(a) - f(b) at the same tokens, (points,); zero where ``same``."""
        h = self.hyper
        prior = 2 * h.shape_std**2 * (1 - _shape_kernel(h, list(a.T), list(b.T)))
        k = self.cross(a, tokens) - self.cross(b, tokens)
        explained = np.einsum("pr,pr->p", k @ self.inverse(), k)
        own = 2 * (h.group_std**2 + h.noise_std**2)
        return np.asarray(np.where(same, 0.0, np.maximum(prior - explained, 0.0) + own))


def fit_gp(
    shapes: Array,
    group: npt.NDArray[np.int64],
    tokens: Array,
    residual: Array,
    *,
    max_std: float = 0.03,
    scale_bounds: tuple[float, float] = (0.7, 4.0),
    mean: bool = True,
) -> GP:
    """Maximise the marginal likelihood, with bounds that keep the GP a gentle correction.

    Args:
        shapes: Features of the unique shapes, (S, F).
        group: Row -> shape index, (rows,).
        tokens: ln(D / 1e10), (rows,); all equal where the set has no token axis.
        residual: Log-law residuals in nats, (rows,).
        max_std: Upper bound of shape_std and group_std (nats).
        scale_bounds: Bounds of the shape length scales. A lower bound below the spacing of the training shapes lets
            a search run into bumps between them.
        mean: Whether the shape term is fitted at all; without it the GP adds uncertainty only.
    """
    # Imported here: prediction never needs scipy.
    from scipy.optimize import minimize  # type: ignore[import-untyped,unused-ignore]

    features = shapes.shape[1]
    has_tokens = float(np.ptp(tokens)) > 0
    f = shapes.T
    squares = [(c[:, None] - c[None, :]) ** 2 for c in f]
    dt2 = (tokens[:, None] - tokens[None, :]) ** 2
    pick = np.ix_(group, group)
    eye_s, eye_n = np.eye(len(shapes)), np.eye(tokens.size)

    def unpack(v: Array) -> Hyper:
        e = np.exp(v)
        share = 1.0 / (1.0 + np.exp(-v[-1])) if has_tokens else 0.0
        return Hyper(
            float(e[0]) if mean else 0.0,
            float(e[1]),
            float(e[2]),
            tuple(map(float, e[3 : 3 + features])),
            float(e[3 + features]),
            float(share),
        )

    def negative(v: Array) -> float:
        h = unpack(v)
        square = sum(s / scale**2 for s, scale in zip(squares, h.scales, strict=True))
        unique = h.shape_std**2 * np.exp(-0.5 * np.asarray(square)) + h.group_std**2 * eye_s
        kt = 1 - h.token_share + h.token_share * np.exp(-0.5 * dt2 / h.token_scale**2)
        chol = np.linalg.cholesky(unique[pick] * kt + (h.noise_std**2 + 1e-12) * eye_n)
        half = np.linalg.solve(chol, residual)
        return float(0.5 * half @ half + np.log(np.diag(chol)).sum())

    low_std = 1e-4
    bounds = [(low_std, max_std), (low_std, max_std), (5e-4, 0.05)]
    bounds += [scale_bounds] * features + [(0.5, 5.0)]
    logs = [(float(np.log(a)), float(np.log(b))) for a, b in bounds] + [(-4.0, 4.0)]
    best: Any = None
    spread = float(np.std(residual)) + 1e-4
    for fraction in (0.7, 0.2):
        start = [fraction * spread, (1 - fraction) * spread, 0.2 * spread]
        start += [float(np.sqrt(scale_bounds[0] * scale_bounds[1]))] * features + [1.5]
        x0 = np.array([*np.log(start), 0.0])
        x0 = np.array([min(max(x, a), b) for x, (a, b) in zip(x0, logs, strict=True)])
        found = minimize(negative, x0, bounds=logs, method="L-BFGS-B", options={"maxiter": 60})
        if best is None or found.fun < best.fun:
            best = found
    return GP(unpack(np.asarray(best.x)), shapes, group, tokens, residual)
