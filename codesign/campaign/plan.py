"""Which architectures to measure: first those that fill the space, then those the fitted model is least sure of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture
from codesign.errors import InfeasibleError
from codesign.operators import Phase
from codesign.profilers import Point
from codesign.profilers.measure import needed_bytes
from codesign.roofline.device_fit import PassRow, Prior, fit_terms, predict_log
from codesign.roofline.residual import fit_residual
from codesign.roofline.terms import TERMS, pass_features, pass_terms
from codesign.search.space import DesignSpace
from codesign.workload import PRECISIONS, Workload

__all__ = ["candidate_pool", "least_sure", "space_filling"]

Array = NDArray[np.float64]
_POOL = 1500
_TRIES = 200_000
_NOISE = 0.03  # of an observation that is still to be made, in ln(seconds)


def candidate_pool(
    space: DesignSpace,
    precision: str,
    points: Sequence[Point],
    *,
    memory_B: float,
    max_params: float,
    rng: np.random.Generator,
) -> list[Architecture]:
    """Random possible architectures of a space that fit memory and have at most `max_params` active parameters.

    Returns:
        Up to 1,500 different ones.

    Raises:
        InfeasibleError: none of the points tried fits.
    """
    found: dict[str, Architecture] = {}
    size = space.size
    indices = rng.permutation(size) if size <= _TRIES else rng.integers(0, size, _TRIES)
    for start in range(0, len(indices), 4096):
        chosen = np.stack(np.unravel_index(indices[start : start + 4096], space.lengths), axis=1)
        for _, _, arch, valid in space.flat(chosen):
            shape = arch.shape
            small = np.broadcast_to(valid & (arch.params_active <= max_params), shape)
            for i in np.flatnonzero(small):
                one = arch.pick((int(i),))
                if needed_bytes(one, precision, points) <= memory_B:
                    found.setdefault(repr(one), one)
        if len(found) >= _POOL:
            break
    if not found:
        raise InfeasibleError(
            f"no architecture of the space '{space.name}' has at most {max_params / 1e6:.0f}M active parameters and fits "
            f"{memory_B / 1e9:.1f} GB with its cache; raise --max-params or give another --space"
        )
    return list(found.values())[:_POOL]


def _coordinates(pool: Sequence[Architecture]) -> Array:
    """ln of what decides the cost, scaled to unit range over the pool: (n, 7)."""
    rows = [
        (
            a.n_layers, a.d_model, a.d_ff + a.n_active_experts * a.d_ff_expert, a.d_query, a.d_kv, a.vocab_size,
            1 + a.n_experts,
        )
        for a in pool
    ]  # fmt: skip
    x = np.log(np.array(rows, dtype=np.float64))
    span = np.ptp(x, axis=0)
    return np.asarray((x - x.min(axis=0)) / np.where(span > 0, span, 1.0))


def space_filling(pool: Sequence[Architecture], n: int, taken: Sequence[int] = ()) -> list[int]:
    """Indices of `n` more architectures of the pool by greedy maximin distance (Kennard and Stone, 1969).

    The first is the one nearest to the centre; each next is the farthest from all that are taken.
    """
    x = _coordinates(pool)
    chosen = list(taken)
    if not chosen:
        chosen = [int(np.argmin(((x - x.mean(axis=0)) ** 2).sum(axis=1)))]
    added = chosen[len(taken) :]
    distance = np.min([((x - x[i]) ** 2).sum(axis=1) for i in chosen], axis=0)
    while len(added) < min(n, len(pool) - len(taken)):
        i = int(np.argmax(distance))
        added.append(i)
        distance = np.minimum(distance, ((x - x[i]) ** 2).sum(axis=1))
    return added[:n]


def least_sure(
    pool: Sequence[Architecture],
    rows: Mapping[Phase, Sequence[PassRow]],
    priors: Mapping[Phase, Prior],
    precision: str,
    points: Sequence[Point],
    n: int,
    skip: Sequence[int] = (),
) -> list[int]:
    """Indices of `n` architectures whose predicted ln(seconds) is least certain, one after another.

    The variance is that of the roofline's coefficients (Laplace approximation at the fit) plus that of the residual's
    Gaussian process, summed over the passes; after each choice both are conditioned on having measured it. `skip`: indices
    that are not to be chosen.
    """
    models = []
    for phase, own in rows.items():
        phase_points = [p for p in points if p.phase == phase]
        if own and phase_points:
            models += [_Sure(pool, own, priors[phase], precision, point) for point in phase_points]
    free = np.ones(len(pool), dtype=bool)
    free[list(skip)] = False
    chosen: list[int] = []
    for _ in range(min(n, int(free.sum()))):
        variance = np.sum([model.variance() for model in models], axis=0)
        i = int(np.argmax(np.where(free, variance, -np.inf)))
        chosen.append(i)
        free[i] = False
        for model in models:
            model.condition(i)
    return chosen


class _Sure:
    """Predictive variance of one pass over the pool, conditioned as choices are made."""

    def __init__(
        self, pool: Sequence[Architecture], rows: Sequence[PassRow], prior: Prior, precision: str, point: Point
    ) -> None:
        seconds_per, covariance = fit_terms(rows, prior)
        form = PRECISIONS[precision]
        prompt = point.tokens if point.phase == "prefill" else point.context_tokens
        workload = Workload(prompt_tokens=prompt, output_tokens=1, batch_size=point.batch_size)
        each = np.array([seconds_per[name] for name in TERMS])
        amounts = [pass_terms(arch, workload, form, point.phase) for arch in pool]
        parts = np.array([[float(a.get(name, 0.0)) for name in TERMS] for a in amounts]) * each
        shares = parts / parts.sum(axis=1, keepdims=True)  # d ln(t) / d phi
        joint = shares @ covariance @ shares.T
        residual = fit_residual(rows, np.log([r.seconds for r in rows]) - predict_log(rows, seconds_per))
        if residual is not None:
            f = np.array([[float(v) for v in pass_features(a, workload, point.phase)] for a in pool])
            z = (np.log(f) - np.asarray(residual.center)) / np.asarray(residual.scale)
            known = np.asarray(residual.points)
            inner = residual.amplitude * _kernel(known, known) + _NOISE**2 * np.eye(len(known))
            cross = residual.amplitude * _kernel(z, known)
            joint = joint + residual.amplitude * _kernel(z, z) - cross @ np.linalg.solve(inner, cross.T)
        self._joint = joint

    def variance(self) -> Array:
        return np.diag(self._joint)

    def condition(self, i: int) -> None:
        column = self._joint[:, i]
        self._joint = self._joint - np.outer(column, column) / (self._joint[i, i] + _NOISE**2)


def _kernel(a: Array, b: Array) -> Array:
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-0.5 * squared))
