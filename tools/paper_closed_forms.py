"""The closed forms of arXiv 2602.10377 against brute force, with its own loss law and latency model.

Used by tools/reproduce_paper.py and by the tests. Each case minimises the published loss on a dense grid of continuous
values under the published budgets, with no use of the closed form, and compares the two optima.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.predictors.scaling import PAPER_PARAMETERS, paper_eq2
from codesign.search import closed_form as cf

Array = NDArray[np.float64]
B_W = B_KV = 2.0  # FP16


@dataclass(frozen=True)
class Setting:
    """Rates of the device (FLOP/s, bytes/s) and the request of the check."""

    peak: float
    bandwidth: float
    prompt: int = 1024
    output: int = 16

    @property
    def context(self) -> float:
        """Mean context of a decode step."""
        return self.prompt + (self.output + 1) / 2

    def kv(self, d: float) -> float:
        """KV bytes of a step over weight bytes, per layer: 2 S b_kv / (d b_w)."""
        return 2 * self.context * B_KV / (d * B_W)


@dataclass(frozen=True)
class Check:
    """One comparison: `formula` and `brute` are optima; loss_gap what following the formula costs, in nats."""

    name: str
    where: str
    formula: float
    brute: float
    loss_gap: float

    @property
    def agrees(self) -> bool:
        """Within 1 % of the brute-force optimum (the grid's step is about 0.2 %)."""
        return abs(self.formula - self.brute) <= 0.01 * abs(self.brute)


def loss(l: Array | float, d: float, r: Array | float, g: Array | float, rho: Array | float) -> Array:
    """Eq. 2 of the paper, KV width d/g."""
    return paper_eq2(PAPER_PARAMETERS, l, d, np.divide(d, g), r, rho)


def _grid(low: float, high: float, n: int = 6001) -> Array:
    return np.geomspace(low, high, n)


def _check(name: str, where: str, formula: float, grid: Array, losses: Array) -> Check:
    best = int(np.argmin(losses))
    cost = float(np.interp(np.log(formula), np.log(grid), losses) - losses[best]) if formula > 0 else float("nan")
    return Check(name, where, formula, float(grid[best]), cost)


def one_budget(s: Setting) -> Iterator[Check]:
    """Latency-bound and memory-bound forms: rho, r, g, depth, one axis at a time and (r, g) jointly."""
    for d in (1024.0, 2048.0):
        for phase, seconds in (("prefill", 0.01), ("decode", 0.03)):
            budget = seconds * s.peak / s.prompt if phase == "prefill" else seconds * s.bandwidth / s.output
            kv = s.kv(d)
            where = f"{phase} {1e3 * seconds:.0f} ms, d = {d:.0f}"

            def depth(r: Array | float, g: Array | float, phase: str = phase, budget: float = budget, d: float = d,
                      kv: float = kv) -> Array:  # fmt: skip
                """Deepest model in the budget, written out as in the paper, not taken from closed_form."""
                if phase == "prefill":
                    return np.asarray(budget / ((4 + 4 / g + 6 * r) * d**2))
                return np.asarray(budget / ((2 + 2 / g + 3 * r) * d**2 * B_W + kv * B_W * d**2 / g))

            rho, r0, g0 = 1 / 16, 1.0, 4.0
            rates = _grid(1 / 16, 1)
            yield _check("latency-bound rho*", where, 1 / 16, rates, loss(depth(r0, g0), d, r0, g0, rates))
            layers = _grid(0.5, 400, 20001)
            feasible = np.where(layers <= depth(r0, g0), loss(layers, d, r0, g0, rho), np.inf)
            full = (
                cf.prefill_depth(budget, d, r0, g0)
                if phase == "prefill"
                else cf.decode_depth(budget, d, r0, g0, kv, B_W)
            )
            yield Check("depth l*", where, full, float(layers[int(np.argmin(feasible))]), 0.0)
            ratios, groups = _grid(0.02, 60), _grid(1, 2000)
            r_star = (
                cf.prefill_ratio(budget, d, g0, rho)
                if phase == "prefill"
                else cf.decode_ratio(budget, d, g0, rho, kv, B_W)
            )
            yield _check("r* at fixed g", where, r_star, ratios, loss(depth(ratios, g0), d, ratios, g0, rho))
            g_star = cf.prefill_group(budget, d, r0) if phase == "prefill" else cf.decode_group(budget, d, r0, kv, B_W)
            yield _check("g* at fixed r", where, g_star, groups, loss(depth(r0, groups), d, r0, groups, rho))
    d, r, g, rates = 1024.0, 1.0, 4.0, _grid(1 / 16, 1)
    ffn_s = np.maximum(6 * r * s.prompt / s.peak, 3 * r / rates * B_W / s.bandwidth)
    layers = 0.01 / (d**2 * ((4 + 4 / g) * s.prompt / s.peak + ffn_s))
    where = "prefill 10 ms, d = 1024, the FFN also waits for its experts' weights"
    yield _check("latency-bound rho*", where, 1 / 16, rates, loss(layers, d, r, g, rates))
    for d in (1024.0, 2048.0):
        rates = _grid(0.02, 1)
        ratio = 8 * rates  # depth and memory fixed: r = c rho
        where = f"memory, d = {d:.0f}"
        yield _check("memory-bound rho*", where, cf.memory_bound_rho(d), rates, loss(16, d, ratio, 4, rates))


def dual(s: Setting) -> Iterator[Check]:
    """Both budgets: rho on a grid, the depth as large as both allow. Memory is set so that rho_dual is 1/12 or 1/3."""
    d, r, g, kv = 1024.0, 1.0, 4.0, s.kv(1024.0)
    rates = _grid(0.01, 1)
    for wanted in (1 / 12, 1 / 3):
        for phase, layers in (("prefill", 16.0), ("decode", 16.0), ("prefill", 64.0), ("decode", 64.0)):
            memory = layers * d**2 * B_W * (2 + 2 / g + 3 * r / wanted)
            held = memory / (d**2 * B_W * (2 + 2 / g + 3 * r / rates))
            where = f"{phase}, d = {d:.0f}, l = {layers:.0f}, memory for rho = {wanted:.3f}"
            losses = loss(np.minimum(layers, held), d, r, g, rates)
            if phase == "prefill":
                eta = layers * d**2 * cf.prefill_cost(r, g) / memory
                yield _check("dual rho*", where, cf.dual_prefill_rho(r, g, eta, B_W), rates, losses)
            else:
                eta = layers * d**2 * B_W * cf.decode_cost(r, g, kv) / memory
                yield _check("dual rho*", where, cf.dual_decode_rho(r, g, eta, kv), rates, losses)
                yield _check("dual rho* as printed", where, cf.printed_dual_decode_rho(r, g, eta, kv), rates, losses)


def joint(s: Setting) -> Iterator[Check]:
    """Prefill: r and g together, alternating the two forms, against a grid over both."""
    d, rho, budget = 1024.0, 1 / 16, 0.01 * s.peak / s.prompt
    r, g = 1.0, 4.0
    for _ in range(200):
        r, g = cf.prefill_ratio(budget, d, g, rho), cf.prefill_group(budget, d, r)
    ratios, groups = _grid(0.1, 8, 1201)[:, None], _grid(1, 64, 1201)[None, :]
    losses = loss(budget / ((4 + 4 / groups + 6 * ratios) * d**2), d, ratios, groups, rho)
    i, j = np.unravel_index(int(np.argmin(losses)), losses.shape)
    gap = float(loss(budget / (cf.prefill_cost(r, g) * d**2), d, r, g, rho) - losses[i, j])
    where = "prefill 10 ms, d = 1024"
    yield Check("r* with g* jointly", where, r, float(ratios[i, 0]), gap)
    yield Check("g* with r* jointly", where, g, float(groups[0, j]), gap)


def checks(s: Setting) -> list[Check]:
    """All comparisons, in the order of the report."""
    return [*one_budget(s), *joint(s), *dual(s)]
