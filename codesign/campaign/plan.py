"""Which architectures to measure: first those that lie near everything, then those that make the fitted model surest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture
from codesign.errors import InfeasibleError
from codesign.operators import Phase
from codesign.profilers import Point
from codesign.profilers.measure import needed_bytes
from codesign.roofline.device_fit import PassRow, Prior
from codesign.roofline.residual import fit_hybrid
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
            a.n_layers, a.d_model, a.d_ff_mean + a.n_active_experts * a.d_ff_expert, a.d_query, a.d_kv, a.vocab_size,
            1 + a.n_experts,
        )
        for a in pool
    ]  # fmt: skip
    x = np.log(np.array(rows, dtype=np.float64))
    span = np.ptp(x, axis=0)
    return np.asarray((x - x.min(axis=0)) / np.where(span > 0, span, 1.0))


def space_filling(pool: Sequence[Architecture], n: int, taken: Sequence[int] = ()) -> list[int]:
    """Indices of `n` more architectures of the pool that lie near everything: greedy k-medians.

    Each choice lowers the mean distance of the pool to its nearest chosen member the most. Farthest-point designs take the
    corners of the space instead, where few models that matter are (results/host_cpu.md compares choices).
    """
    x = _coordinates(pool)
    squares = (x * x).sum(axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * x @ x.T, 0.0))
    nearest = distance[list(taken)].min(axis=0) if len(taken) else np.full(len(pool), distance.max())
    added: list[int] = []
    free = np.ones(len(pool), dtype=bool)
    free[list(taken)] = False
    while len(added) < n and free.any():
        spread = np.minimum(nearest[None, :], distance).mean(axis=1)
        i = int(np.argmin(np.where(free, spread, np.inf)))
        added.append(i)
        free[i] = False
        nearest = np.minimum(nearest, distance[i])
    return added


def least_sure(
    pool: Sequence[Architecture],
    rows: Mapping[Phase, Sequence[PassRow]],
    priors: Mapping[Phase, Prior],
    precision: str,
    points: Sequence[Point],
    n: int,
    skip: Sequence[int] = (),
) -> list[int]:
    """Indices of `n` architectures whose measurement would make the whole pool's predictions surest, one after another.

    V-optimal design: the variance of ln(seconds) is that of the roofline's coefficients (Laplace approximation at the fit) plus
    that of the residual's Gaussian process; measuring i lowers it over the pool by sum_j cov_ij**2 / (var_i + noise**2), summed
    over the passes. After each choice the model is conditioned on having measured it. `skip`: indices
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
        gain = np.sum([model.gain() for model in models], axis=0)
        i = int(np.argmax(np.where(free, gain, -np.inf)))
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
        seconds_per, covariance, residual = fit_hybrid(rows, prior)
        form = PRECISIONS[precision]
        prompt = point.tokens if point.phase == "prefill" else point.context_tokens
        workload = Workload(prompt_tokens=prompt, output_tokens=1, batch_size=point.batch_size)
        each = np.array([seconds_per[name] for name in TERMS])
        amounts = [pass_terms(arch, workload, form, point.phase) for arch in pool]
        parts = np.array([[float(a.get(name, 0.0)) for name in TERMS] for a in amounts]) * each
        shares = parts / parts.sum(axis=1, keepdims=True)  # d ln(t) / d phi
        joint = shares @ covariance @ shares.T
        if residual is not None:
            f = np.array([[float(v) for v in pass_features(a, workload, point.phase)] for a in pool])
            z = (np.log(f) - np.asarray(residual.center)) / np.asarray(residual.scale)
            known = np.asarray(residual.points)
            inner = residual.amplitude * _kernel(known, known) + _NOISE**2 * np.eye(len(known))
            cross = residual.amplitude * _kernel(z, known)
            joint = joint + residual.amplitude * _kernel(z, z) - cross @ np.linalg.solve(inner, cross.T)
        self._joint = joint

    def gain(self) -> Array:
        """How much measuring each would lower the pool's summed variance."""
        return np.asarray((self._joint**2).sum(axis=0) / (np.diag(self._joint) + _NOISE**2))

    def condition(self, i: int) -> None:
        column = self._joint[:, i]
        self._joint = self._joint - np.outer(column, column) / (self._joint[i, i] + _NOISE**2)


def _kernel(a: Array, b: Array) -> Array:
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-0.5 * squared))
