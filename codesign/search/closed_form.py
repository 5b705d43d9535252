"""Closed-form optima of arXiv 2602.10377 under its own loss law and latency model: a sanity check, not a solver.

Continuous relaxations for one decoder shape (depth l, width d, activated FFN ratio r, activation rate rho = K/E, group
g = query heads per KV head) with three budgets, all linear in l:

    prefill  l d^2 (4 + 4/g + 6r)                         <= F = T_prefill pi / (B S_in)   [FLOP/token]
    decode   l (d^2 b_w (2 + 2/g + 3r) + 2 S d b_kv / g)  <= D = T_decode beta / S_out     [bytes/token]
    memory   l d^2 b_w (2 + 2/g + 3r/rho)                 <= M                             [bytes]

with S the mean context, b_w and b_kv bytes a value, and the loss of `codesign.predictors.scaling.paper_eq2`. There is
no embedding, no output head, and prefill never waits for weights (it does, for sparse mixtures: use the cost model).
Every function here agrees with brute force on a dense grid where the constraint that it assumes binds;
tools/reproduce_paper.py shows that again, with the published forms that do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq  # type: ignore[import-untyped,unused-ignore]

from codesign.predictors.scaling import PAPER_PARAMETERS

__all__ = [
    "decode_cost", "decode_depth", "decode_group", "decode_ratio", "dual_decode_rho", "dual_prefill_rho",
    "memory_bound_rho", "memory_cost", "memory_depth", "memory_filled_rho", "prefill_cost", "prefill_depth", "prefill_group", "prefill_ratio",
    "printed_dual_decode_rho",
]  # fmt: skip

_KL, _AL, _KRHO, _ARHO, _B1, _KD, _B2, _AR, _KM, _AM, _ = PAPER_PARAMETERS


def prefill_cost(r: float, g: float) -> float:
    """FLOP per layer, token and d^2 of the projections: 4 + 4/g + 6r.

    Example:
        >>> prefill_cost(1.0, 4.0)
        11.0
    """
    return 4 + 4 / g + 6 * r


def decode_cost(r: float, g: float, kv: float) -> float:
    """Weight-equivalents read per layer, token and d^2: 2 + 2/g + 3r + kv/g, kv = 2 S b_kv / (d b_w).

    Example:
        >>> decode_cost(1.0, 4.0, 2.0)
        6.0
    """
    return 2 + (2 + kv) / g + 3 * r


def memory_cost(r: float, g: float, rho: float) -> float:
    """Weights stored per layer and d^2: 2 + 2/g + 3r/rho (all experts, of which the share rho is active).

    Example:
        >>> memory_cost(1.0, 4.0, 0.125)
        26.5
    """
    return 2 + 2 / g + 3 * r / rho


def memory_bound_rho(d: float) -> float:
    """Best activation rate where only memory binds: depth and width fixed, r = c * rho fills the memory.

    rho* = [a_r k_d / ((a_rho - a_r) k_rho)]^(1/a_rho) * d^((b1 - b2)/a_rho); it does not depend on the depth or on c.
    Valid while the result is at most 1 and the latency allows r = c * rho*.

    Example:
        >>> round(memory_bound_rho(1024), 3), round(memory_bound_rho(2048), 3)
        (0.395, 0.173)
    """
    return float((_AR * _KD / ((_ARHO - _AR) * _KRHO)) ** (1 / _ARHO) * d ** ((_B1 - _B2) / _ARHO))


def prefill_depth(flop: float, d: float, r: float, g: float) -> float:
    """Depth that fills the prefill budget F: l* = F / (d^2 * prefill_cost)."""
    return flop / (d * d * prefill_cost(r, g))


def decode_depth(moved_B: float, d: float, r: float, g: float, kv: float, b_w: float) -> float:
    """Depth that fills the decode budget D: l* = D / (d^2 * b_w * decode_cost)."""
    return moved_B / (d * d * b_w * decode_cost(r, g, kv))


def memory_depth(memory_B: float, d: float, r: float, g: float, rho: float, b_w: float) -> float:
    """Depth that fills the memory budget M: l* = M / (d^2 * b_w * memory_cost)."""
    return memory_B / (d * d * b_w * memory_cost(r, g, rho))


def memory_filled_rho(memory_B: float, d: float, r: float, g: float, b_w: float) -> float:
    """Best activation rate at fixed r where the depth fills the memory budget M and no time is short; not in the paper.

    A larger rho stores fewer experts, so the same memory holds more layers. Setting the derivative of the loss to zero:

        3 r a_l k_l / (rho (a rho + 3 r)) * l^-a_l = a_rho k_rho rho^(a_rho - 1) / (r^a_r d^b1),  l = memory_depth, a = 2 + 2/g

    Its left side falls and its right side grows with rho: one root, kept within (0, 1]. Where time binds too, the optimum is the
    smaller of this and the dual rate.
    """
    attention = 2 + 2 / g

    def gap(rho: float) -> float:
        layers = memory_depth(memory_B, d, r, g, rho, b_w)
        gained = 3 * r * _AL * _KL / (rho * (attention * rho + 3 * r)) * layers**-_AL
        return float(_ARHO * _KRHO * rho ** (_ARHO - 1) / (r**_AR * d**_B1) - gained)

    return _root(gap, 1e-9, 1.0)


def dual_prefill_rho(r: float, g: float, eta: float, b_w: float) -> float:
    """Activation rate at which the depth fills both the prefill and the memory budget; eta = F / M.

    rho = 3 eta b_w r / (a (2 - eta b_w) + 6 r), a = 2 + 2/g. It is the optimum where both bind. Where the
    last layers are worth less than what their memory buys otherwise (64 layers, say), the optimum lies below, at
    `memory_filled_rho`, and leaves time unused. Above 1, or where the denominator is not positive, time does not bind at any rate.
    """
    attention = 2 + 2 / g
    return 3 * eta * b_w * r / (attention * (2 - eta * b_w) + 6 * r)


def dual_decode_rho(r: float, g: float, eta: float, kv: float) -> float:
    """Activation rate at which the depth fills both the decode and the memory budget; eta = D / M.

    rho = 3r / (x - a), x = decode_cost / eta, a = 2 + 2/g. The paper prints
    x = [(a + 3r) + sqrt((a + 3r)^2 + 4 eta delta)] / (2 eta) with delta = kv/g, which leaves one budget unfilled unless
    the KV cache is negligible (kv = 0: both agree); the form here follows from the two budgets as written above.
    """
    attention = 2 + 2 / g
    return 3 * r / (decode_cost(r, g, kv) / eta - attention)


def printed_dual_decode_rho(r: float, g: float, eta: float, kv: float) -> float:
    """The decode form as arXiv 2602.10377 prints it, with its square root: for comparison with `dual_decode_rho` only."""
    attention, delta = 2 + 2 / g, kv / g
    x = ((attention + 3 * r) + math.sqrt((attention + 3 * r) ** 2 + 4 * eta * delta)) / (2 * eta)
    return 3 * r / (x - attention)


def _ffn_gain(d: float, rho: float) -> float:
    """Width-and-sparsity factor of the FFN terms of the loss, times d^b2."""
    return float(_KRHO * rho**_ARHO * d ** (_B2 - _B1) + _KD)


def _root(gap: Callable[[float], float], low: float, high: float) -> float:
    """Zero of an increasing function, or the edge that it lies beyond."""
    if gap(low) >= 0:
        return low
    if gap(high) <= 0:
        return high
    return float(brentq(gap, low, high, xtol=1e-12, rtol=1e-12))


def _ratio(budget: float, d: float, rho: float, per_r: float, cost: Callable[[float], float]) -> float:
    """r^(a_r + 1) * cost(r)^(a_l - 1) = a_r D / (per_r a_l k_l) * budget^a_l / d^(2 a_l + b2), solved for r."""
    target = _AR * _ffn_gain(d, rho) / (per_r * _AL * _KL) * budget**_AL / d ** (2 * _AL + _B2)
    return _root(lambda r: r ** (_AR + 1) * cost(r) ** (_AL - 1) - target, 1e-6, 1e3)


def _group(budget: float, d: float, per_g: float, cost: Callable[[float], float]) -> float:
    """g^(a_m + 1) / cost(g)^(a_l - 1) = per_g a_l k_l / (a_m k_m) * d^(2 a_l + a_m) / budget^a_l, for g >= 1."""
    target = per_g * _AL * _KL / (_AM * _KM) * d ** (2 * _AL + _AM) / budget**_AL
    return _root(lambda g: g ** (_AM + 1) / cost(g) ** (_AL - 1) - target, 1.0, 1e6)


def prefill_ratio(flop: float, d: float, g: float, rho: float) -> float:
    """Best activated FFN ratio under the prefill budget F alone, the depth filling it.

    The published form, which is implicit (its right side holds prefill_cost), solved for r.
    """
    return _ratio(flop, d, rho, 6.0, lambda r: prefill_cost(r, g))


def prefill_group(flop: float, d: float, r: float) -> float:
    """Best query heads per KV head under the prefill budget F alone, the depth filling it; at least 1."""
    return _group(flop, d, 4.0, lambda g: prefill_cost(r, g))


def decode_ratio(moved_B: float, d: float, g: float, rho: float, kv: float, b_w: float) -> float:
    """`prefill_ratio` for the decode budget D: 3 for 6, and decode_cost for prefill_cost."""
    return _ratio(moved_B / b_w, d, rho, 3.0, lambda r: decode_cost(r, g, kv))


def decode_group(moved_B: float, d: float, r: float, kv: float, b_w: float) -> float:
    """`prefill_group` for the decode budget D: 2 + kv for 4 (the KV cache is what a larger group saves)."""
    return _group(moved_B / b_w, d, 2.0 + kv, lambda g: decode_cost(r, g, kv))
