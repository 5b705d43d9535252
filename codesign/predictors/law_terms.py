"""Scaling laws assembled from terms, over named log inputs: the mean functions of the surrogates.

    L = E + size + data [+ recipe]                                  [nats per token]

Inputs (each an array of one length, centred on the fitted rows by `codesign.predictors.law_regressor`):

    n   ln N, active parameters without embeddings        t   ln D, training tokens
    l   ln layers                                         w   ln d_model
    e   ln experts (0 for a dense model)                  r   ln(d_ff / d_model)
    p   ln parameters, all experts counted                a   ln(active experts / experts), 0 for a dense model
    lr  ln peak learning rate                             bs  ln batch (tokens)

Every parameter has a prior (mean, standard deviation) and a box. The priors are wide (an exponent of 0.3 +- 0.3) and keep a
fit to a few rows sane: with no data at all the law is Chinchilla's with usual exponents.

Sources: Chinchilla form, Hoffmann et al. 2022 (arXiv 2203.15556); effective expert count, Clark et al. 2022 (arXiv
2202.01169); parameters and share of active experts, Abnar et al. 2025 (arXiv 2501.12370); recipe optimum as powers of N and D,
Li et al. 2025 (Step Law, arXiv 2503.04715). The *coupled* data term ``B D^-b N^h`` (a larger model gains more, or less, from a
token) is the interaction that Kaplan et al. 2020 (arXiv 2001.08361, Eq. 1.5) have inside a power; here it is one more exponent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LAW_NAMES", "MIXTURES", "Law", "MedianLaw", "Parameter", "Term", "build_law", "median_forms"]

Array = npt.NDArray[np.float64]
Inputs = Mapping[str, Array]


@dataclass(frozen=True)
class Parameter:
    """A law parameter: prior mean and standard deviation, and the box that fits stay in."""

    name: str
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Term:
    """Part of a law.

    Attributes:
        parameters: Its own.
        function: (p, x) -> nats, p one value a parameter (trailing axes broadcast against x).
        reads: Names of the inputs it needs.
    """

    parameters: tuple[Parameter, ...]
    function: Callable[[Any, Inputs], Array]
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Law:
    """A sum of terms above the irreducible loss E; see the module."""

    name: str
    terms: tuple[Term, ...]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """E first, then each term's."""
        return (Parameter("E", 1.7, 0.5, 0.0, 10.0), *(p for term in self.terms for p in term.parameters))

    @property
    def reads(self) -> tuple[str, ...]:
        """Inputs that must be there, in a fixed order."""
        return tuple(dict.fromkeys(name for term in self.terms for name in term.reads))

    def __call__(self, p: Any, x: Inputs) -> Array:
        """Predicted loss, nats per token; p[i] broadcasts against the inputs."""
        total, start = p[0], 1
        for term in self.terms:
            stop = start + len(term.parameters)
            total = total + term.function(p[start:stop], x)
            start = stop
        return np.asarray(total, dtype=float)


@dataclass(frozen=True)
class MedianLaw:
    """``ln L = median of ln L_i`` over laws of several forms.

    No form is right, and data seldom tell which errs least beyond them; of several that fit about equally the median is hurt by
    none that goes astray.
    """

    laws: tuple[Law, ...]

    @property
    def name(self) -> str:
        """As `median_forms` reads it."""
        return "median(" + ", ".join(law.name for law in self.laws) + ")"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Of the laws, one after the other."""
        return tuple(parameter for law in self.laws for parameter in law.parameters)

    @property
    def reads(self) -> tuple[str, ...]:
        """Inputs that must be there, in a fixed order."""
        return tuple(dict.fromkeys(name for law in self.laws for name in law.reads))

    def __call__(self, p: Any, x: Inputs) -> Array:
        """Predicted loss, nats per token; p[i] broadcasts against the inputs."""
        logs, start = [], 0
        for law in self.laws:
            stop = start + len(law.parameters)
            logs.append(np.log(np.maximum(law(p[start:stop], x), 1e-3)))
            start = stop
        return np.asarray(np.exp(np.median(np.stack(np.broadcast_arrays(*logs)), axis=0)))


def median_forms(name: str) -> list[str]:
    """Forms in a name such as ``median(aspect*, additive*, chinchilla*)``; empty for a single form.

    Example:
        >>> median_forms("median(aspect*, additive*)"), median_forms("aspect")
        (['aspect*', 'additive*'], [])
    """
    if not (name.startswith("median(") and name.endswith(")")):
        return []
    return [part.strip() for part in name[len("median(") : -1].split(",")]


def _log(name: str, mean: float = -0.5, std: float = 1.5) -> Parameter:
    """ln of a coefficient: the term's size (nats) at the centre of the data."""
    return Parameter(name, mean, std, -12.0, 4.0)


def _exponent(name: str, mean: float = 0.3, std: float = 0.3) -> Parameter:
    return Parameter(name, mean, std, 0.0, 3.0)


def _slope(name: str, std: float = 0.3, bound: float = 2.0) -> Parameter:
    return Parameter(name, 0.0, std, -bound, bound)


_CHINCHILLA = Term((_log("ln A"), _exponent("a")), lambda p, x: np.exp(p[0] - p[1] * x["n"]), ("n",))
_ASPECT = Term(
    (_log("ln A"), _exponent("a"), Parameter("q", 0.02, 0.05, 0.0, 0.6), Parameter("u0", 0.0, 1.0, -2.1, 2.1)),
    lambda p, x: np.exp(p[0] - p[1] * x["n"] + p[2] * (x["w"] - x["l"] - p[3]) ** 2),
    ("n", "l", "w"),
)
_ADDITIVE = Term(
    (_log("ln C", -1.5), _exponent("c", 0.8, 0.6), _log("ln G"), _exponent("g", 0.6, 0.5)),
    lambda p, x: np.exp(p[0] - p[1] * x["l"]) + np.exp(p[2] - p[3] * x["w"]),
    ("l", "w"),
)
_DEPTH_WIDTH = Term(
    (
        *_CHINCHILLA.parameters,
        _log("ln C", -4.0),
        _exponent("c", 1.0, 0.6),
        _log("ln G", -4.0),
        _exponent("g", 1.0, 0.6),
    ),
    lambda p, x: np.exp(p[0] - p[1] * x["n"]) + np.exp(p[2] - p[3] * x["l"]) + np.exp(p[4] - p[5] * x["w"]),
    ("n", "l", "w"),
)
_QUADRATIC = Term(
    (_log("ln A"), _exponent("a", 0.3, 0.3), _exponent("g", 0.5, 0.4), *(_slope(f"q{i}", 0.05) for i in range(3))),
    lambda p, x: np.exp(
        p[0] - p[1] * x["l"] - p[2] * x["w"] + p[3] * x["l"] ** 2 + p[4] * x["l"] * x["w"] + p[5] * x["w"] ** 2
    ),
    ("l", "w"),
)  # fmt: skip


def _moe(p: Any, x: Inputs) -> Array:
    """``A / N_eff^a``, ``ln N_eff = n + (g + h n) ln(Ehat / Ehat_1)``; saturated count between 1 + e^s and e^m more."""
    a, g, h, s, m = p[1:]
    start = 1.0 + np.exp(s)
    limit = start + np.exp(m)
    inner = 1.0 / (1.0 / start - 1.0 / limit)
    count = 1.0 / (1.0 / (np.exp(x["e"]) - 1.0 + inner) + 1.0 / limit)
    return np.asarray(np.exp(p[0] - a * (x["n"] + np.maximum(g + h * x["n"], 0.0) / a * np.log(count / start))))


_MOE = Term(
    (
        _log("ln A"), Parameter("a", 0.25, 0.2, 0.02, 1.0), Parameter("g", 0.05, 0.05, 0.0, 0.5),
        Parameter("h", -0.01, 0.01, -0.05, 0.0), Parameter("ln(Es - 1)", 0.0, 2.0, -6.0, 2.5),
        Parameter("ln(Em - Es)", 5.0, 2.0, 1.0, 9.0),
    ),
    _moe,
    ("n", "e"),
)  # fmt: skip

#: ``A / P^a + C / s^lambda + G / (s^delta P^g)``, P all parameters, s the share of active experts. lambda may have either sign: of two models of one size the one
#: with fewer active experts uses less, of two that use as much it stores more.
_SPARSE = Term(
    (
        _log("ln A"), _exponent("a"), _log("ln C", -2.0), _slope("lambda"), _log("ln G"), _exponent("delta", 0.2), _exponent("g"),
    ),
    lambda p, x: (
        np.exp(p[0] - p[1] * x["p"]) + np.exp(p[2] - p[3] * x["a"]) + np.exp(p[4] - p[5] * x["a"] - p[6] * x["p"])
    ),
    ("p", "a"),
)  # fmt: skip

_DATA = Term((_log("ln B"), _exponent("b", 0.4, 0.3)), lambda p, x: np.exp(p[0] - p[1] * x["t"]), ("t",))
_COUPLED = Term((*_DATA.parameters, _slope("h")), lambda p, x: np.exp(p[0] - p[1] * x["t"] + p[2] * x["n"]), ("t", "n"))
_COUPLED_SHAPE = Term(
    (*_DATA.parameters, _slope("hl"), _slope("hw")),
    lambda p, x: np.exp(p[0] - p[1] * x["t"] + p[2] * x["l"] + p[3] * x["w"]),
    ("t", "l", "w"),
)
_RATIO = Term((_slope("rho", 0.1),), lambda p, x: p[0] * x["r"], ("r",))


def _bowl(p: Any, x: Inputs) -> Array:
    """Loss above the best recipe: ``exp(k) (q(u, v))``, skewed: too high a learning rate costs more than too low.

    u and v are ln lr and ln batch minus their optimum, each linear in n and t (the batch in t alone). u is stretched on its high side, so
    that the excess grows faster than its square there: ``u + s softplus(u)``-like by ``u exp(s u)`` with s kept small.
    """
    k, u0, un, ut, v0, vt, curve, cross, skew, kn, kt = p
    u = x["lr"] - (u0 + un * x["n"] + ut * x["t"])
    v = x["bs"] - (v0 + vt * x["t"])
    u = u * np.exp(np.clip(skew * u, -2.0, 2.0))
    quadratic = u**2 + np.exp(curve) * v**2 - 2.0 * np.tanh(cross) * np.exp(curve / 2.0) * u * v
    return np.asarray(np.exp(k + kn * x["n"] + kt * x["t"]) * quadratic)


#: Means: exponents of arXiv 2503.04715 (lr ~ N^-0.71 D^0.31, batch ~ D^0.57).
_RECIPE = Term(
    (
        Parameter("k", -4.0, 1.5, -12.0, 2.0), Parameter("u0", 0.0, 1.5, -5.0, 5.0), Parameter("un", -0.71, 0.4, -2.0, 1.0),
        Parameter("ut", 0.31, 0.3, -1.0, 2.0), Parameter("v0", 0.0, 1.5, -5.0, 5.0), Parameter("vt", 0.57, 0.3, -0.5, 2.0),
        Parameter("curve", -0.7, 1.0, -5.0, 3.0), Parameter("cross", 0.5, 0.7, -3.0, 3.0), Parameter("skew", 0.1, 0.15, -0.5, 0.8),
        _slope("kn", 0.3), _slope("kt", 0.3),
    ),
    _bowl,
    ("n", "t", "lr", "bs"),
)  # fmt: skip

_SIZES = {
    "chinchilla": _CHINCHILLA,
    "aspect": _ASPECT,
    "additive": _ADDITIVE,
    "depth_width": _DEPTH_WIDTH,
    "quadratic": _QUADRATIC,
    "moe": _MOE,
    "sparse": _SPARSE,
}
#: Size terms of tables in which the number of experts varies, and of no others.
MIXTURES = ("moe", "sparse")
_TOKENS = {"": _DATA, "*": _COUPLED, "**": _COUPLED_SHAPE}

#: Size terms; with ``*`` the data term is coupled to N, with ``**`` to depth and width.
LAW_NAMES = tuple(size + mark for size in _SIZES for mark in _TOKENS)


def build_law(name: str, *, tokens: bool = True, recipe: bool = False, ratio: bool = False) -> Law:
    """The law of a name such as ``aspect*``.

    Args:
        name: One of `LAW_NAMES`.
        tokens: Whether the rows differ in training tokens; without, there is no data term.
        recipe: Add the bowl over learning rate and batch.
        ratio: Add a slope in the FFN ratio.

    Raises:
        KeyError: No such law.

    Example:
        >>> build_law("aspect*").reads
        ('n', 'l', 'w', 't')
    """
    size = name.rstrip("*")
    terms = [_SIZES[size]]
    mark = name[len(size) :]
    data = _TOKENS[mark]
    if tokens:
        terms.append(data)
    if ratio:
        terms.append(_RATIO)
    if recipe:
        terms.append(_RECIPE)
    return Law(name + (" + bowl" if recipe else ""), tuple(terms))
