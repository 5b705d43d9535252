"""Small stacks of primitives composed, aggregated and extrapolated to large models.

A stack is a text of letters: A attention, R recurrence, F FFN, in any order. Small ones are searched by a cheap score
(`codesign.campaign.composing`), the best are reduced to one, and that one grows under a parameter target, as AIRA-Compose does
(arXiv 2605.15871; its agents are replaced by an evolutionary search here, and where its text does not say how an aggregator works, the
definition below is ours).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture
from codesign.errors import InfeasibleError, MissingExtraError, SpecError
from codesign.search.mixers import parse_mixer, with_mixer

__all__ = [
    "AGGREGATORS",
    "EXTENSIONS",
    "aggregate",
    "crossover",
    "extend",
    "mutate",
    "random_stack",
    "scaled",
    "stack_architecture",
]

AGGREGATORS = ("best", "rank", "cluster", "layerwise")
EXTENSIONS = ("stack", "stretch")
_HEAD = 64


def random_stack(rng: np.random.Generator, primitives: str, length: int) -> str:
    """Letters drawn alike, with at least one mixer."""
    while True:
        stack = "".join(rng.choice(list(primitives), size=length))
        if set(stack) - {"F"}:
            return stack


def mutate(rng: np.random.Generator, stack: str, primitives: str) -> str:
    """One or two letters changed, or two places swapped; at least one mixer stays."""
    while True:
        letters = list(stack)
        if rng.random() < 0.4:
            i, j = rng.integers(len(letters), size=2)
            letters[i], letters[j] = letters[j], letters[i]
        else:
            for i in rng.integers(len(letters), size=int(rng.integers(1, 3))):
                letters[i] = str(rng.choice(list(primitives)))
        if set(letters) - {"F"}:
            return "".join(letters)


def crossover(rng: np.random.Generator, a: str, b: str) -> str:
    """The beginning of one and the end of the other."""
    cut = int(rng.integers(1, len(a)))
    child = a[:cut] + b[cut:]
    return child if set(child) - {"F"} else a


def aggregate(stacks: Sequence[str], scores: Sequence[float], method: str, seed: int = 0) -> str:
    """One stack out of many good ones of equal length.

    best: that of the highest score. rank: at each place the letter with the largest sum of 1 / rank. cluster: k-means (k = 3, or fewer
    stacks) on one-hot places; of the cluster with the highest mean score, the most common letter at each place, weighted by score.
    layerwise: k-means on the places (their weighted shares of letters, k = number of letters); each place takes the commonest letter of
    its cluster of places: places that the stacks treat alike become alike.

    Raises:
        SpecError: an unknown method, no stack, or lengths that differ.
        MissingExtraError: scikit-learn is not installed (cluster, layerwise).

    Example:
        >>> aggregate(["ARF", "ARF", "AFF"], [0.9, 0.8, 0.1], "rank")
        'ARF'
    """
    if method not in AGGREGATORS:
        raise SpecError(f"unknown aggregator '{method}'; known: {', '.join(AGGREGATORS)}")
    if not stacks or len({len(s) for s in stacks}) != 1 or len(stacks) != len(scores):
        raise SpecError("aggregating needs one or more stacks of one length, each with a score")
    order = sorted(range(len(stacks)), key=lambda i: -scores[i])
    if method == "best":
        return stacks[order[0]]
    letters = sorted({c for s in stacks for c in s})
    hot = np.array([[[c == letter for letter in letters] for c in s] for s in stacks], dtype=float)
    if method == "rank":
        weights = np.zeros(len(stacks))
        for rank, i in enumerate(order, start=1):
            weights[i] = 1 / rank
        return _commonest(hot, weights, letters)
    floor = min(scores) - 1e-9
    weights = np.asarray(scores, dtype=float) - floor
    if method == "cluster":
        labels = _kmeans(hot.reshape(len(stacks), -1), min(3, len(set(stacks))), seed)
        chosen = max(sorted(set(labels.tolist())), key=lambda k: float(np.mean(np.asarray(scores)[labels == k])))
        return _commonest(hot[labels == chosen], weights[labels == chosen], letters)
    shares = np.einsum("n,npl->pl", weights, hot) / weights.sum()
    labels = _kmeans(shares, min(len(letters), len(np.unique(shares, axis=0))), seed)
    out = []
    for label in labels:
        out.append(letters[int(np.argmax(shares[labels == label].sum(axis=0)))])
    return "".join(out)


def _commonest(hot: NDArray[Any], weights: NDArray[Any], letters: Sequence[str]) -> str:
    share = np.einsum("n,npl->pl", weights, hot)
    return "".join(letters[int(i)] for i in share.argmax(axis=1))


def _kmeans(rows: NDArray[Any], k: int, seed: int) -> NDArray[np.int64]:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise MissingExtraError.of("scikit-learn", "predictors", "this aggregator") from error
    return np.asarray(KMeans(n_clusters=k, n_init=10, random_state=seed).fit_predict(rows), dtype=np.int64)


def extend(stack: str, times: int, how: str) -> str:
    """A stack `times` as deep: "stack" repeats the whole, "stretch" repeats each sublayer in place.

    Raises:
        SpecError: another word.

    Example:
        >>> extend("ARF", 2, "stack"), extend("ARF", 2, "stretch")
        ('ARFARF', 'AARRFF')
    """
    if how == "stack":
        return stack * times
    if how == "stretch":
        return "".join(letter * times for letter in stack)
    raise SpecError(f"unknown extension '{how}'; known: {', '.join(EXTENSIONS)}")


def stack_architecture(
    stack: str, d_model: int, *, recurrence: str = "mamba2", vocab_size: int = 50304, ffn_ratio: float = 4.0, kv_heads: int = 8,
    tied_embeddings: bool = True,
) -> Architecture:  # fmt: skip
    """An architecture of a stack at a width: heads of 64, FFN of ffn_ratio, recurrences as on the axis `mixer`.

    Raises:
        SpecError: letters other than A, R and F, no mixer, or a width that does not divide into heads.
    """
    if set(stack) - set("ARF") or not set(stack) - {"F"}:
        raise SpecError(f"stack '{stack}' must be a text of A, R and F with at least one mixer (A or R)")
    if d_model % 128:
        raise SpecError(f"d_model {d_model} must be a multiple of 128: heads of {_HEAD}, and recurrences of 128")
    mixers = [c for c in stack if c in "AR"]
    recurrent = mixers.count("R")
    heads = d_model // _HEAD
    fields: dict[str, Any] = {
        "n_layers": len(mixers), "d_model": d_model, "n_heads": heads, "n_kv_heads": math.gcd(heads, kv_heads), "d_head": _HEAD,
        "d_ff": round(ffn_ratio * d_model / 64) * 64 if "F" in stack else 0, "vocab_size": vocab_size, "tied_embeddings": tied_embeddings,
        "ffn_gated": True, "qk_norm": "head", "n_experts": 0, "n_active_experts": 0, "d_ff_expert": 0,
    }  # fmt: skip
    if recurrent:
        first = {"n_kv_heads": np.True_, "d_head": np.True_}
        changed, _ = with_mixer(fields, parse_mixer(f"{recurrence}:{0 if recurrent == len(mixers) else 2}"), first)
        changed["n_recurrent_layers"] = recurrent
        fields = {k: int(v) if isinstance(v, (float, np.integer, np.floating)) else v for k, v in changed.items()}
    fields |= {"family": "codesign", "layout": stack, "extra_ffn_layers": stack.count("F") - len(mixers)}
    return Architecture(**fields)


def scaled(
    stack: str, params: float, how: str, *, recurrence: str = "mamba2", vocab_size: int = 50304, ffn_ratio: float = 4.0,
    aspect: float = 64.0, tolerance: float = 0.08,
) -> Architecture:  # fmt: skip
    """The stack grown to a number of parameters: repeats and width so that width per mixer or FFN pair is nearest to `aspect`.

    Raises:
        InfeasibleError: no repeat and width come within `tolerance` of the target.

    Example:
        >>> arch = scaled("AFRFRFRF", 1e9, "stack")
        >>> abs(arch.params_total / 1e9 - 1) < 0.08, arch.layout[:8]
        (True, 'AFRFRFRF')
    """
    best: tuple[float, Architecture] | None = None
    nearest = math.inf
    for times in range(1, 17):
        deep = extend(stack, times, how)
        for width in range(128, 8193, 128):
            arch = stack_architecture(deep, width, recurrence=recurrence, vocab_size=vocab_size, ffn_ratio=ffn_ratio)
            off = abs(math.log(arch.params_total / params))
            nearest = min(nearest, off)
            if off <= math.log1p(tolerance):
                shape = abs(math.log(width / (len(deep) / 2) / aspect)) + off
                if best is None or shape < best[0]:
                    best = (shape, arch)
            if arch.params_total > 1.5 * params:
                break
    if best is None:
        raise InfeasibleError(
            f"no width and number of repeats of the stack {stack} ({sum(Counter(stack).values())} sublayers) come within {tolerance:.0%} of "
            f"{params / 1e6:.0f}M parameters (nearest: {math.expm1(nearest):.0%} off); give another target",
        )
    return best[1]
