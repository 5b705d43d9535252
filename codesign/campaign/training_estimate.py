"""What a training campaign will cost: FLOP from formulas, seconds from a few steps timed here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codesign.campaign.training_campaign import Experiment
from codesign.training.speed import step_seconds

__all__ = ["estimate_seconds"]


def estimate_seconds(experiments: Sequence[Experiment], workers: int = 1) -> float:
    """Seconds that training all of them takes on this machine, evaluations included.

    The smallest, the middle and the largest are timed for a second in all; FLOP per second is interpolated over ln(FLOP of a
    step). An evaluation costs a third of training on as many tokens: forward alone. `workers` share the work evenly, but none
    takes less than its longest run. Other programs on the machine make it longer.
    """
    by_size = sorted(experiments, key=_step_flop)
    timed = list({e.key: e for e in (by_size[0], by_size[len(by_size) // 2], by_size[-1])}.values())
    x = [np.log(_step_flop(e)) for e in timed]
    rates = [_step_flop(e) / step_seconds(e.spec, 1.0 / len(timed)) for e in timed]
    seconds = []
    for e in by_size:
        spec, tokens = e.spec, e.spec.recipe.tokens
        evaluated = spec.eval_points * spec.eval_tokens + spec.final_eval_tokens
        rate = float(np.interp(np.log(_step_flop(e)), x, rates))
        seconds.append(e.flop / rate * (1 + evaluated / tokens / 3))
    return float(max(sum(seconds) / workers, max(seconds)))


def _step_flop(experiment: Experiment) -> float:
    return experiment.flop / experiment.spec.recipe.steps
