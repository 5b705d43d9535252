"""Successive halving for two objectives: which runs can still be on the frontier of final loss and cost.

Optuna's pruners cannot do this: a trial with several objectives cannot report intermediate values, so no pruner is asked
(`Trial.report` raises NotImplementedError). Halving on the loss alone keeps the largest models and loses the small end of the
frontier. Here a run is dropped where a model of at most its cost is confidently ahead of it at the end of training.

How sure that is comes from the curves themselves. Each is extrapolated in ln(loss) over ln(tokens), and the same rule, asked
from half of the rung, is checked against what the curves show at the rung.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codesign.training_run import CurvePoint

__all__ = ["CONFIDENCE", "RUNGS", "can_still_win"]

Array = NDArray[np.float64]
#: Standard deviations of the difference of two runs.
CONFIDENCE = 2.0
#: Shares of the steps at which runs are judged.
RUNGS = (0.2, 0.5)


def can_still_win(
    curves: Sequence[Sequence[CurvePoint]], costs: Sequence[float], *, share: float, confidence: float = CONFIDENCE
) -> list[bool]:
    """One truth value a run.

    ``y_i = ln L_i(t) + s_i ln(1 / share)`` with s_i the slope of ln L over ln t between share / 2 and share. Run i is dropped
    where some j costs at most as much and ``y_j < y_i - confidence * sigma * sqrt(2)``. sigma is how far the same rule, asked
    at share / 2 about share, was off (less what all runs share, which changes no order), times ln(1 / share) / ln 2.

    Args:
        curves: validation curves up to the rung, evaluated at the same steps.
        costs: of the models, the objective beside the loss.
        share: of the steps at which the rung lies.
        confidence: larger keeps more.

    Returns:
        False for a run with a loss that is not finite. All others True where fewer than three runs or four points tell nothing about the error.
    """
    sound = [all(map(_is_number, curve)) for curve in curves]
    if not all(sound):
        judged = can_still_win(
            [curve for curve, ok in zip(curves, sound, strict=True) if ok],
            [cost for cost, ok in zip(costs, sound, strict=True) if ok],
            share=share,
            confidence=confidence,
        )
        rest = iter(judged)
        return [ok and next(rest) for ok in sound]
    n = len(curves)
    known = min((len(curve) for curve in curves), default=0)
    if n < 3 or known < 4:
        return [True] * n
    t = np.log([point.tokens for point in curves[0]][:known])
    y = np.log([[float(point.valid_loss or 0.0) for point in curve[:known]] for curve in curves])
    half = int(np.searchsorted(t, t[-1] - math.log(2) + 1e-9, side="right"))  # points up to half of the rung
    half = max(half, 2)
    ahead = y[:, -1] + _slope(t, y) * math.log(1 / share)
    tried = y[:, half - 1] + _slope(t[:half], y[:, :half]) * (t[-1] - t[half - 1]) - y[:, -1]
    sigma = float(np.std(tried, ddof=1)) * math.log(1 / share) / (t[-1] - t[half - 1])
    cost = np.asarray(costs, dtype=np.float64)
    cheaper = cost[None, :] <= cost[:, None]
    beaten = cheaper & (ahead[None, :] < ahead[:, None] - confidence * math.sqrt(2) * sigma)
    return [not lost for lost in beaten.any(axis=1).tolist()]


def _slope(t: Array, y: Array) -> Array:
    """d y / d t by least squares over the last half of the tokens, of two points at least: (runs,)."""
    first = min(int(np.searchsorted(t, t[-1] - math.log(2) - 1e-9)), len(t) - 2)
    x = t[first:] - t[first:].mean()
    return np.asarray((y[:, first:] @ x) / (x @ x))


def _is_number(point: CurvePoint) -> bool:
    return point.valid_loss is not None and math.isfinite(point.valid_loss) and point.valid_loss > 0
