"""The forms of scaling law as pure functions, and the robust fit of their parameters.

Every form maps a parameter vector ``p`` and the logs of the inputs to a loss in nats per token. Inputs are in the
units of the data set's baselines, so that parameters stay of order one:

    n = ln(N / 1e8)      N active parameters without embeddings (for MoE: the effective number)
    t = ln(D / 1e10)     D training tokens
    l = ln(layers / 16)
    w = ln(d_model / 1024)

In these units ``ln(d_model / (64 layers)) = w - l``. Coefficients are stored as logs (``ln A``), so a fit cannot make
one negative. ``p`` may carry extra trailing axes (draws): ``p[i]`` broadcasts against the inputs.

Sources: Chinchilla form, Hoffmann et al. 2022 (arXiv:2203.15556); saturated expert count, Clark et al. 2022
(arXiv:2202.01169); Eq. 2, Sun et al. 2026 (arXiv:2602.10377). Aspect, additive and depth + width forms are those of the
measured baselines in ``../shared/data/loss/measured_baselines.csv``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError

__all__ = [
    "FORMS",
    "PAPER_PARAMETERS",
    "Form",
    "Logs",
    "additive",
    "aspect",
    "chinchilla",
    "depth_width",
    "fit",
    "moe",
    "moe_gain",
    "paper_eq2",
    "saturated_experts",
]

Array = npt.NDArray[np.float64]

#: Table 6 of arXiv:2602.10377v1: kappa_l, alpha_l, kappa_rho, alpha_rho, beta_1, kappa_d, beta_2, alpha_r, kappa_m,
#: alpha_m, L_inf.
PAPER_PARAMETERS = (9.96, 1.63, 0.031, 1.09, -0.33, 500.0, 0.97, 0.17, 0.20, 0.05, 2.53)


class Logs(NamedTuple):
    """Log inputs of a form, each of any mutually broadcastable shape (see the module's units).

    ``e`` is the log of the (equivalent) expert count, 0 for a dense model; only the mixture form reads it.
    """

    n: Any
    t: Any
    l: Any
    w: Any
    e: Any = 0.0


def chinchilla(p: Any, x: Logs) -> Array:
    """``E + A / N^a + B / D^b`` with ``p = (E, ln A, a, ln B, b)``.

    Example:
        >>> x = Logs(*(np.zeros(1) for _ in range(4)))
        >>> float(chinchilla((2.0, 0.0, 0.3, 0.0, 0.3), x)[0])
        4.0
    """
    return np.asarray(p[0] + np.exp(p[1] - p[2] * x.n) + np.exp(p[3] - p[4] * x.t))


def aspect(p: Any, x: Logs) -> Array:
    """``E + (A / N^a) exp(q (ln(d / (64 l)) - u0)^2) + B / D^b`` with ``p = (E, ln A, a, ln B, b, q, u0)``.

    At fixed N the loss is least at ``d / l = 64 exp(u0)``; q says how fast other shapes lose.
    """
    bend = np.exp(p[5] * (x.w - x.l - p[6]) ** 2)
    return np.asarray(p[0] + np.exp(p[1] - p[2] * x.n) * bend + np.exp(p[3] - p[4] * x.t))


def additive(p: Any, x: Logs) -> Array:
    """``E + C / l^c + G / d^g + B / D^b`` with ``p = (E, ln C, c, ln G, g, ln B, b)``."""
    return np.asarray(p[0] + np.exp(p[1] - p[2] * x.l) + np.exp(p[3] - p[4] * x.w) + np.exp(p[5] - p[6] * x.t))


def depth_width(p: Any, x: Logs) -> Array:
    """Chinchilla plus ``C / l^c + G / d^g``; ``p = (E, ln A, a, ln B, b, ln C, c, ln G, g)``."""
    return np.asarray(chinchilla(p, x) + np.exp(p[5] - p[6] * x.l) + np.exp(p[7] - p[8] * x.w))


def saturated_experts(experts: Any, start: Any, limit: Any) -> Array:
    """Clark et al.'s saturated expert count: ``1/Ehat = 1 / (E - 1 + 1/(1/Es - 1/Em)) + 1/Em``.

    Ehat is Es at E = 1 and tends to Em.

    Example:
        >>> float(saturated_experts(1.0, 2.0, 100.0))
        2.0
    """
    inner = 1.0 / (1.0 / start - 1.0 / limit)
    return np.asarray(1.0 / (1.0 / (np.asarray(experts) - 1.0 + inner) + 1.0 / limit))


def moe_gain(p: Any, n: Any, experts: Any, n_low: float, n_high: float) -> Array:
    """``ln(N_eff / N_active)`` of a mixture: ``max(0, g + h n) / a * ln(Ehat(E) / Ehat(1))``.

    ``p = (a, g, h, ln(Es - 1), ln(Em - Es))``. ``n`` is clipped to the fitted range ``[n_low, n_high]`` inside the
    exponent, so a tiny model cannot win without bound and a huge one cannot be made worse by more experts. Exactly
    zero at E = 1.
    """
    a, g, h, s, m = p
    start = 1.0 + np.exp(s)
    limit = start + np.exp(m)
    power = np.maximum(g + h * np.clip(n, n_low, n_high), 0.0) / a
    gain = np.log(saturated_experts(experts, start, limit) / start)
    return np.asarray(np.where(np.asarray(experts) > 1.0, power * gain, 0.0))


def moe(p: Any, x: Logs) -> Array:
    """``E + A / N_eff^a`` with ``p = (E, ln A, a, g, h, ln(Es - 1), ln(Em - Es))``: no token term.

    The exponent is not clipped here; `moe_gain` does that where the gain is carried to another law.
    """
    gain = moe_gain(p[2:], x.n, np.exp(x.e), -np.inf, np.inf)
    return np.asarray(p[0] + np.exp(p[1] - p[2] * (x.n + gain)))


def paper_eq2(p: Any, layers: Any, width: Any, kv_width: Any, ratio: Any, rho: Any) -> Array:
    """Eq. 2 of arXiv:2602.10377: natural units (not logs), 10B training tokens.

    ``kl/l^al + kr rho^ar / (r^alpha_r d^b1) + kd / (r^alpha_r d^b2) + km / d_m^am + L_inf``; r is the *activated* FFN
    ratio (K experts together), rho = K/E, d_m = d_head n_kv.
    """
    k_l, a_l, k_rho, a_rho, b_1, k_d, b_2, a_r, k_m, a_m, floor = p
    r_term = np.asarray(ratio, dtype=float) ** -a_r
    width = np.asarray(width, dtype=float)
    sparse = k_rho * np.asarray(rho, dtype=float) ** a_rho * width**-b_1
    return np.asarray(
        k_l * np.asarray(layers, dtype=float) ** -a_l
        + (sparse + k_d * width**-b_2) * r_term
        + k_m * np.asarray(kv_width, dtype=float) ** -a_m
        + floor
    )


@dataclass(frozen=True)
class Form:
    """A named law form: the function, its parameter names and the box that fits stay in."""

    name: str
    function: Callable[[Any, Logs], Array]
    parameters: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    uses_n: bool = True


_N = (("E", "ln A", "a", "ln B", "b"), (0.3, -4.0, 0.05, -6.0, 0.05), (3.5, 2.5, 1.2, 2.0, 1.5))

FORMS: dict[str, Form] = {
    "chinchilla": Form("chinchilla", chinchilla, *_N),
    # q >= 0: a shape may cost, never gain, away from the best aspect; |u0| < ln 8 keeps the best shape inside the data.
    "aspect": Form("aspect", aspect, (*_N[0], "q", "u0"), (*_N[1], 0.0, -2.08), (*_N[2], 0.6, 2.08)),
    "additive": Form(
        "additive",
        additive,
        ("E", "ln C", "c", "ln G", "g", "ln B", "b"),
        (0.3, -8.0, 0.05, -5.0, 0.05, -6.0, 0.05),
        (3.5, 1.0, 3.0, 2.0, 2.5, 2.0, 1.5),
        uses_n=False,
    ),
    "depth_width": Form(
        "depth_width",
        depth_width,
        (*_N[0], "ln C", "c", "ln G", "g"),
        (*_N[1], -9.0, 0.05, -9.0, 0.05),
        (*_N[2], 0.0, 3.0, 0.0, 3.0),
    ),
    # h <= 0: the gain of routing falls with size (Clark et al. 2022, sec. 4); six sizes cannot tell its sign alone.
    "moe": Form(
        "moe",
        moe,
        ("E", "ln A", "a", "g", "h", "ln(Es - 1)", "ln(Em - Es)"),
        (0.3, -1.0, 0.05, 0.0, -0.05, -6.0, 1.0),
        (2.2, 2.0, 0.6, 0.3, 0.0, 2.5, 9.0),
    ),
}


def fit(
    function: Callable[[Any], Array],
    loss: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    *,
    seed: int = 0,
    starts: int = 8,
    init: npt.ArrayLike | None = None,
    weight: npt.ArrayLike | None = None,
    f_scale: float = 0.01,
) -> Array:
    """Fit ``function(p)`` to ``loss``: soft-L1 on the log loss, several random starts inside the box.

    Args:
        function: Parameter vector -> predicted losses (nats/token), the shape of ``loss``.
        loss: Measured losses, shape (rows,).
        low: Lower bounds of the parameters.
        high: Upper bounds.
        seed: Of the random starts.
        starts: Random starts besides ``init``.
        init: A start to use as well (a previous fit).
        weight: Row weights (a bootstrap's counts), shape (rows,).
        f_scale: Relative error beyond which a row counts linearly.

    Raises:
        SpecError: Fewer rows than parameters, or a loss that is not positive and finite.
    """
    # Imported here: prediction never needs scipy.
    from scipy.optimize import least_squares  # type: ignore[import-untyped,unused-ignore]

    y = np.asarray(loss, dtype=float)
    lo, hi = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    if y.size < lo.size:
        raise SpecError(f"a law with {lo.size} parameters cannot be fitted to {y.size} rows")
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise SpecError("losses must be positive and finite (nats per token)")
    log_y, root = np.log(y), np.sqrt(np.ones_like(y) if weight is None else np.asarray(weight, dtype=float))

    def residual(p: Array) -> Array:
        return np.asarray(root * (np.log(np.maximum(function(p), 1e-3)) - log_y))

    rng = np.random.default_rng(seed)
    points = [lo + (hi - lo) * rng.uniform(0.1, 0.9, lo.size) for _ in range(starts)]
    if init is not None:
        points.insert(0, np.clip(np.asarray(init, dtype=float), lo + 1e-9, hi - 1e-9))
    if not points:
        raise SpecError("a fit needs at least one start: give init or starts >= 1")
    best: Any = None
    for point in points:
        found = least_squares(
            residual, point, bounds=(lo, hi), loss="soft_l1", f_scale=f_scale, x_scale="jac", max_nfev=300
        )
        if best is None or found.cost < best.cost:
            best = found
    return np.asarray(best.x, dtype=float)
