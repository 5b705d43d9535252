"""Held-out error of the calibration: each model, source and device left out in turn; and the intervals that follow.

A row is predicted by a fit that never saw its group. Interval half-widths are conformal: for each level of fallback,
the 90 % quantile of |ln(predicted / measured)| over left-out rows of that level. The coverage that is reported uses, for
each group, the quantiles of all *other* groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.roofline.calibration import LEVELS, PhaseFit
from codesign.roofline.fit import Observation, fit_phase, predict_seconds

__all__ = [
    "WAYS",
    "LeftOut",
    "calibrate_intervals",
    "errors",
    "leave_out",
    "one_scalar",
    "plain_roofline",
    "with_intervals",
]

Array = NDArray[np.float64]

#: Ways of leaving out: what one group is.
WAYS: dict[str, Callable[[Observation], str]] = {
    "model": lambda o: o.case.model,
    "source": lambda o: o.case.source,
    "device": lambda o: o.case.device.name,
}
COVERAGE = 0.90


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Left-out predictions of one way: seconds predicted (n,), fallback level (n,) and the level of the interval (n,),
    group of each row, and the rows.
    """

    way: str
    obs: tuple[Observation, ...]
    predicted: Array
    level: NDArray[np.int64]
    interval_level: NDArray[np.int64]
    group: tuple[str, ...]

    @property
    def log_error(self) -> Array:
        """ln(predicted / measured)."""
        return np.log(self.predicted) - np.log([o.seconds for o in self.obs])


def leave_out(obs: Sequence[Observation], way: str) -> LeftOut:
    """Predict every row by a fit without its group."""
    key = WAYS[way]
    groups = [key(o) for o in obs]
    predicted = np.zeros(len(obs))
    level, wide = np.zeros(len(obs), dtype=np.int64), np.zeros(len(obs), dtype=np.int64)
    for group in sorted(set(groups)):
        test = [i for i, g in enumerate(groups) if g == group]
        fit = fit_phase([o for o, g in zip(obs, groups, strict=True) if g != group])
        predicted[test] = predict_seconds(fit, [obs[i] for i in test])
        level[test] = [fit.level(obs[i].cell) for i in test]
        wide[test] = [fit.interval_level(obs[i].phase, obs[i].cell) for i in test]
    return LeftOut(way, tuple(obs), predicted, level, wide, tuple(groups))


def _widths(errors: Array, level: NDArray[np.int64], weight: Array) -> tuple[float, ...]:
    """Half-width for each level, not decreasing with the level; a level with few rows borrows from its neighbours."""
    widths: list[float] = []
    for k in range(len(LEVELS)):
        near = level == k
        reach = 1
        while near.sum() < 20 and reach < len(LEVELS):
            near = np.abs(level - k) <= reach
            reach += 1
        widths.append(_weighted_quantile(errors[near], weight[near]))
    return tuple(float(v) for v in np.maximum.accumulate(widths))


def _weighted_quantile(values: Array, weight: Array) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weight[order]) / weight.sum()
    position = int(np.searchsorted(cumulative, min(COVERAGE * (1 + 1 / len(values)), 1.0)))
    return float(values[order][min(position, len(values) - 1)])


def _pool(parts: Sequence[LeftOut]) -> tuple[Array, NDArray[np.int64], Array]:
    """Absolute errors, levels and weights of all ways together."""
    absolute = np.concatenate([np.abs(p.log_error) for p in parts])
    level = np.concatenate([p.interval_level for p in parts])
    weight = np.ones(len(level))
    return absolute, level, weight


def calibrate_intervals(parts: Sequence[LeftOut]) -> tuple[tuple[float, ...], dict[str, float]]:
    """Half-widths of ln(seconds) by level from all left-out rows, and the cross-validated coverage of each way.

    Returns:
        Widths by level; coverage by way, each row judged by widths from rows of other groups of its way (and all rows of
        the other ways that are not of its group's source, model or device).
    """
    widths = _widths(*_pool(parts))
    coverage = {}
    for part in parts:
        held = np.zeros(len(part.obs), dtype=bool)
        key = WAYS[part.way]
        absolute = np.abs(part.log_error)
        for group in sorted(set(part.group)):
            mine = np.array([g == group for g in part.group])
            others = [_without(p, key, group) for p in parts]
            cross = _widths(*_pool(others))
            held[mine] = absolute[mine] <= np.array(cross)[part.interval_level[mine]]
        coverage[part.way] = float(held.mean())
    return widths, coverage


def _without(part: LeftOut, key: Callable[[Observation], str], group: str) -> LeftOut:
    keep = [i for i, o in enumerate(part.obs) if key(o) != group]
    return LeftOut(
        part.way,
        tuple(part.obs[i] for i in keep),
        part.predicted[keep],
        part.level[keep],
        part.interval_level[keep],
        tuple(part.group[i] for i in keep),
    )


def errors(predicted: Array, measured: Array) -> dict[str, float]:
    """n, MAPE, median and 90th percentile of the absolute percentage error, and the median signed error, in percent."""
    if not len(measured):
        return {"n": 0}
    relative = 100 * (predicted / measured - 1)
    absolute = np.abs(relative)
    return {
        "n": len(absolute),
        "mape_pct": round(float(absolute.mean()), 2),
        "median_pct": round(float(np.median(absolute)), 2),
        "p90_pct": round(float(np.quantile(absolute, 0.9)), 2),
        "bias_pct": round(float(np.median(relative)), 2),
    }


def plain_roofline(obs: Sequence[Observation]) -> Array:
    """The ideal roofline of each row: efficiency 1, no overhead, in seconds."""
    seconds = []
    for o in obs:
        memory = o.moved / o.cell.bandwidth_Bps
        seconds.append(float((np.maximum(memory, o.flop / o.peak) * o.count).sum()))
    return np.array(seconds)


def one_scalar(part: LeftOut) -> Array:
    """The simplest calibration: the ideal roofline over one efficiency an engine and precision (the median of others).

    Where the engine and precision were never seen: the median of the precision, else of all.
    """
    ideal = plain_roofline(part.obs)
    efficiency = ideal / np.array([o.seconds for o in part.obs])
    out = np.zeros(len(ideal))
    for i, o in enumerate(part.obs):
        rest = [j for j, g in enumerate(part.group) if g != part.group[i]]
        same = [j for j in rest if (part.obs[j].cell.engine, part.obs[j].cell.kind) == (o.cell.engine, o.cell.kind)]
        kind = [j for j in rest if part.obs[j].cell.kind == o.cell.kind]
        out[i] = ideal[i] / np.median(efficiency[same or kind or rest])
    return out


def with_intervals(fit: PhaseFit, widths: tuple[float, ...], held_out: dict[str, dict[str, float]]) -> PhaseFit:
    """The fit with its interval widths and held-out errors."""
    return replace(fit, intervals=widths, held_out=held_out)
