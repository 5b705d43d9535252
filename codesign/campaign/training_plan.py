"""Which models to train: first those near everything, then those that teach the loss law most for a training FLOP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture
from codesign.campaign.plan import space_filling
from codesign.errors import InfeasibleError, SpecError
from codesign.predictors.law_terms import Law, build_law
from codesign.search.space import DesignSpace

__all__ = ["Known", "Planned", "plan_training", "tiny_space", "training_flop", "training_pool"]

Array = NDArray[np.float64]
_TRIES = 200_000
_POOL = 600
_ASPECT = (4.0, 128.0)  # d_model / n_layers; Gemstones, from which the default law is, has 3.2 to 320
#: Laws whose parameters the plan makes sure: they differ in what depth and width do at equal parameters.
_LAWS = ("aspect", "depth_width")
#: In ln(loss): what the laws leave over between shapes, and what a repeated run moves. results/loss_validation.md has 0.3 to
#: 1 % on left-out shapes of five data sets. Of runs as short as those of results/training_runs.jsonl.gz another seed moves more, about 1 %.
_RESIDUAL, _NOISE = 0.006, 0.003
_LENGTH = 0.35  # of that residual, in units of the pool's range
_BINS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A model to train on so many tokens, and what that costs in FLOP."""

    architecture: Architecture
    tokens: int
    flop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A finished run on the same text: its loss in nats per token."""

    architecture: Architecture
    tokens: int
    loss: float


def tiny_space(min_params: float, max_params: float, vocab_size: int) -> DesignSpace:
    """Dense decoders with about so many parameters without embeddings: depth 2 to 32, width from 32, FFN ratio 2 to 5.5.

    A layer has about 12 d^2 parameters; widths go up to where two layers have `max_params`.

    Example:
        >>> space = tiny_space(30_000, 1_000_000, 256)
        >>> space.axes["d_model"][0], space.axes["d_model"][-1]
        (32, 224)
    """
    if not 0 < min_params < max_params:
        raise SpecError(f"--min-params {min_params:g} must be above zero and below --max-params {max_params:g}")
    widest = math.sqrt(max_params / (2 * 10))  # ratio 2 with one KV head: about 10 d^2 a layer
    if widest < 32:
        raise SpecError(f"--max-params {max_params:g} is too small for two layers of width 32; give at least 30k")
    step = 16 if widest <= 512 else 64
    return DesignSpace(
        axes={
            "precision": ("fp32",),
            "vocab_size": (vocab_size,),
            "experts": ((0, 0),),
            "d_head": (16, 32, 64),
            "n_kv_heads": (1, 2, 4, 0),
            "n_layers": (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32),
            "d_model": tuple(range(32, math.ceil(widest / step) * step + 1, step)),
            "ffn_ratio": (2.0, 2.75, 4.0, 5.5),
        },
        ff_multiple=16,
        name="tiny",
    )


def training_flop(arch: Architecture, tokens: int, seq_len: int) -> float:
    """FLOP of training: forward, and twice that backward.

    ``3 tokens (2 N + 2 d V + 2 s l d_q)``: N active parameters without embeddings, the head, and causal attention to half of
    the s positions on average (Hoffmann et al. 2022, arXiv 2203.15556, appendix F, with attention halved).

    Example:
        >>> a = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
        >>> training_flop(a, 1000, 64) == 3000 * (2 * a.params_active_nonembedding + 2 * 64 * 100 + 2 * 64 * 2 * 64)
        True
    """
    head = arch.d_model * arch.vocab_size
    attention = seq_len * arch.n_layers * arch.d_query
    return float(6 * tokens * (arch.params_active_nonembedding + head + attention))


def training_pool(
    space: DesignSpace, min_params: float, max_params: float, rng: np.random.Generator
) -> list[Architecture]:
    """Dense architectures of a space with so many parameters (without embeddings), spread evenly over ln(parameters).

    Returns:
        Up to 600 different ones, smallest first, none deeper than a quarter of its width or wider than 128 times its depth.

    Raises:
        InfeasibleError: none of the points tried fits.
    """
    size = space.size
    indices = rng.permutation(size) if size <= _TRIES else rng.integers(0, size, _TRIES)
    found: dict[str, Architecture] = {}
    for start in range(0, len(indices), 4096):
        chosen = np.stack(np.unravel_index(indices[start : start + 4096], space.lengths), axis=1)
        for _, _, arch, valid in space.flat(chosen):
            count, aspect = arch.params_active_nonembedding, arch.d_model / arch.n_layers
            fits = valid & (count >= min_params) & (count <= max_params) & (np.asarray(arch.n_experts) == 0)
            fits = fits & (aspect >= _ASPECT[0]) & (aspect <= _ASPECT[1])
            for i in np.flatnonzero(np.broadcast_to(fits, arch.shape)):
                one = arch.pick((int(i),))
                found.setdefault(repr(one), one)
    if not found:
        raise InfeasibleError(
            f"no dense architecture of the space '{space.name}' has {min_params:g} to {max_params:g} parameters without "
            f"embeddings and {_ASPECT[0]:g} to {_ASPECT[1]:g} times its depth as width; widen --min-params and --max-params or give "
            "another --space"
        )
    every = sorted(found.values(), key=lambda a: (a.params_active_nonembedding, repr(a)))
    bins = _bins([a.params_active_nonembedding for a in every], 24)
    chosen_by_bin = [rng.permutation(np.flatnonzero(bins == b))[: _POOL // 24] for b in range(24)]
    return [every[int(i)] for i in np.sort(np.concatenate(chosen_by_bin))]


def plan_training(
    pool: Sequence[Architecture], tokens: Sequence[int], n: int, *, seq_len: int, known: Sequence[Known] = ()
) -> list[Planned]:
    """`n` models of the pool, each with one of the token counts, in the order of choice.

    A fifth (at least 4, fewer with what is known) lie near everything. Each other one is V-optimal for its cost: it lowers the
    variance of ln(loss), summed over the pool, by the most for a training FLOP. That variance comes from the parameters of two
    laws (priors of `codesign.predictors.law_terms`, conditioned on what is known and chosen) and a smooth residual. So that a
    law can be tried on sizes that it was not fitted on, each fifth of the range of ln(parameters) gets a tenth of the plan.

    Raises:
        SpecError: `n` below 1, or no tokens.
    """
    if n < 1 or not tokens:
        raise SpecError(f"a plan of {n} models on {len(tokens)} token counts is empty; give at least one of each")
    items = [(arch, count) for arch in pool for count in tokens]
    n = min(n, len(items))
    flop = np.array([training_flop(arch, count, seq_len) for arch, count in items])
    bins = _bins([arch.params_active_nonembedding for arch, _ in items], _BINS)
    models = [_Sure(name, items, known) for name in _LAWS]
    free = np.ones(len(items), dtype=bool)
    chosen: list[int] = []

    def take(i: int) -> None:
        chosen.append(i)
        free[i] = False
        for model in models:
            model.condition(i)

    first = min(n, max(0, max(4, n // 5) - len(known)))
    for turn, i in enumerate(space_filling(pool, first)):
        take(i * len(tokens) + turn % len(tokens))
    least = n // (2 * _BINS)
    while len(chosen) < n:
        missing = np.maximum(least - np.bincount(bins[chosen], minlength=_BINS), 0)
        missing = np.minimum(missing, np.bincount(bins[free], minlength=_BINS))
        allowed = free & (missing[bins] > 0) if missing.sum() >= n - len(chosen) else free
        gain = np.sum([model.gain() for model in models], axis=0) / flop
        take(int(np.argmax(np.where(allowed, gain, -np.inf))))
    return [Planned(architecture=items[i][0], tokens=items[i][1], flop=float(flop[i])) for i in chosen]


def _bins(counts: Sequence[int], n: int) -> NDArray[np.int64]:
    """Number of the n-th part of the range of ln(count) that each lies in."""
    x = np.log(np.array(counts, dtype=np.float64))
    return np.asarray(np.minimum(n * (x - x.min()) / max(float(np.ptp(x)), 1e-9), n - 1), dtype=np.int64)


class _Sure:
    """Covariance of ln(loss) over the candidates, under one law."""

    def __init__(self, name: str, items: Sequence[tuple[Architecture, int]], known: Sequence[Known]) -> None:
        rows = [*items, *((k.architecture, k.tokens) for k in known)]
        x = {
            "n": np.log([a.params_active_nonembedding for a, _ in rows]),
            "t": np.log([count for _, count in rows]),
            "l": np.log([a.n_layers for a, _ in rows]),
            "w": np.log([a.d_model for a, _ in rows]),
        }
        x = {key: values - values[: len(items)].mean() for key, values in x.items()}
        law = build_law(name, tokens=bool(np.ptp(x["t"]) > 1e-9))
        m = len(items)
        losses = np.array([k.loss for k in known])
        p = _most_likely(law, {key: values[m:] for key, values in x.items()}, losses)
        slopes = _jacobian(law, p, x)
        spread = np.array([parameter.std for parameter in law.parameters])
        ranged = [values / max(float(np.ptp(values)), 1e-9) for values in x.values() if np.ptp(values) > 1e-9]
        z = np.stack(ranged, axis=1)
        square = ((z[:, None, :] - z[None, :, :]) ** 2).sum(axis=2)
        joint = (slopes * spread**2) @ slopes.T + _RESIDUAL**2 * np.exp(-0.5 * square / _LENGTH**2)
        if len(known):
            inner = joint[m:, m:] + _NOISE**2 * np.eye(len(known))
            joint = joint[:m, :m] - joint[:m, m:] @ np.linalg.solve(inner, joint[m:, :m])
        self._joint = joint

    def gain(self) -> Array:
        """How much training each would lower the pool's summed variance."""
        return np.asarray((self._joint**2).sum(axis=0) / (np.diag(self._joint) + _NOISE**2))

    def condition(self, i: int) -> None:
        column = self._joint[:, i]
        self._joint = self._joint - np.outer(column, column) / (self._joint[i, i] + _NOISE**2)


def _most_likely(law: Law, x: dict[str, Array], loss: Array) -> Array:
    """Parameters given the known losses and the priors; the priors' means without any."""
    parameters = law.parameters
    mean, std = (np.array([getattr(parameter, name) for parameter in parameters]) for name in ("mean", "std"))
    if not len(loss):
        return mean
    from scipy.optimize import least_squares  # type: ignore[import-untyped,unused-ignore]

    mean[0], std[0] = 0.6 * loss.min(), 0.3 * loss.min()  # the irreducible loss is the text's and the tokenizer's own
    low, high = (np.array([getattr(parameter, name) for parameter in parameters]) for name in ("low", "high"))
    scale = math.hypot(_RESIDUAL, _NOISE)

    def residual(p: Array) -> Array:
        return np.concatenate([(np.log(np.maximum(law(p, x), 1e-3)) - np.log(loss)) / scale, (p - mean) / std])

    start = np.clip(mean, low + 1e-6, high - 1e-6)
    return np.asarray(least_squares(residual, start, bounds=(low, high), x_scale=std, max_nfev=200).x)


def _jacobian(law: Law, p: Array, x: dict[str, Array]) -> Array:
    """d ln(loss) / d p at every row, (rows, parameters), by central differences."""
    columns = []
    for i, step in enumerate(1e-4 * np.array([parameter.std for parameter in law.parameters])):
        up, down = p.copy(), p.copy()
        up[i] += step
        down[i] -= step
        columns.append((np.log(law(up, x)) - np.log(law(down, x))) / (2 * step))
    return np.stack(columns, axis=1)
