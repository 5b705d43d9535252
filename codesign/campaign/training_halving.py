"""Successive halving for two objectives: which runs can still be on the frontier of final loss and cost.

Optuna's pruners cannot do this: a trial of a study with several objectives cannot report intermediate values, so no pruner is
asked (`Trial.report` raises NotImplementedError). Halving on the loss alone keeps the largest models and loses the small end of
the frontier. Here a run is dropped where a model of at most its cost is ahead of it by more than such a gap is likely to change
until the end of training.

How much gaps change is read from the curves themselves: by how much they did since half of the rung. Losses are compared as they
are at the rung. Extrapolating each curve in ln(loss) over ln(tokens) was tried and kept fewer members of the frontier at the same
saving, on the pilot of results/halving.md: the cosine's last part does not follow the slope of the middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from codesign.training_run import CurvePoint

__all__ = ["CONFIDENCE", "RUNGS", "can_still_win"]

#: Standard deviations of a gap's change. Chosen, with the rungs, on the pilot and on Gemstones; results/halving.md has others.
CONFIDENCE = 1.0
#: Shares of the steps at which runs are judged.
RUNGS = (0.2, 0.4, 0.6, 0.8)


def can_still_win(
    curves: Sequence[Sequence[CurvePoint]], costs: Sequence[float], *, share: float, confidence: float = CONFIDENCE
) -> list[bool]:
    """One truth value a run.

    With y_i = ln L_i at the rung, run i is dropped where some j costs at most as much and
    ``y_j < y_i - confidence * sqrt(2) * sigma * ln(1 / share) / ln(t / t')``. t' is the last evaluation up to half of the rung's
    tokens t, and sigma the standard deviation over the runs of ln L(t) - ln L(t'): what all runs gain alike is not in it, what
    changes their gaps is. Gaps are taken to change as fast per doubling of the tokens from the rung to the end.

    Args:
        curves: validation curves up to the rung, evaluated at the same steps.
        costs: of the models, the objective beside the loss.
        share: of the steps at which the rung lies.
        confidence: larger keeps more.

    Returns:
        False for a run with a loss that is not finite. All others True where fewer than three runs or four points tell too
        little about the change.
    """
    sound = [bool(curve) and all(map(_is_number, curve)) for curve in curves]
    rows = [i for i, ok in enumerate(sound) if ok]
    known = min((len(curves[i]) for i in rows), default=0)
    if len(rows) < 3 or known < 4:
        return sound
    t = np.log([point.tokens for point in curves[rows[0]][:known]])
    y = np.log([[float(point.valid_loss or 0.0) for point in curves[i][:known]] for i in rows])
    before = max(int(np.searchsorted(t, t[-1] - math.log(2) + 1e-9, side="right")) - 1, 0)
    sigma = float(np.std(y[:, -1] - y[:, before], ddof=1)) * math.log(1 / share) / (t[-1] - t[before])
    cost = np.asarray(costs, dtype=np.float64)[rows]
    rivals = cost[None, :] <= cost[:, None]
    beaten = (rivals & (y[None, :, -1] < y[:, None, -1] - confidence * math.sqrt(2) * sigma)).any(axis=1)
    for i, lost in zip(rows, beaten.tolist(), strict=True):
        sound[i] = not lost
    return sound


def _is_number(point: CurvePoint) -> bool:
    return point.valid_loss is not None and math.isfinite(point.valid_loss) and point.valid_loss > 0
