"""Feasible regions: two axes of the space around one design, what each cell costs, and which budget rules it out.

A `Slice` holds the metrics of every cell, computed by the run's own cost model and loss law; `regions` compares them with
limits. The page does the same comparison in `static/regions.js`, so that a slider needs no model in the browser.

A cell takes all other fields from the design. Widths that the design's heads do not divide are computed with fractional heads:
they show where the border runs, but are no possible architectures, and never the optimum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.architecture import Architecture
from codesign.budget import metric_of_bound
from codesign.search import Candidate, Problem
from codesign.search.experts import experts_of
from codesign.search.mixers import mixer_of
from codesign.search.problem import metric
from codesign.search.space import AXES, DesignSpace
from codesign.workload import PRECISIONS

__all__ = ["MAP_AXES", "METRICS", "Regions", "Slice", "axis_values", "chosen_designs", "limits_of", "own_values", "pairs",
           "regions", "share_of", "slice_of", "within"]  # fmt: skip

Array = NDArray[np.float64]
#: Metric key to its bound and the factors that tighten it, see `limits_of`.
Limits = dict[str, tuple[float, list[float]]]

#: Axes that a map may have, the usual pair first.
MAP_AXES = ("d_model", "n_layers", "ffn_ratio", "n_kv_heads", "experts")
#: What a budget may limit, in the order of the page: name, key of the page's metrics.
METRICS = {
    "latency": "latency_s", "ttft": "ttft_s", "e2e": "e2e_s", "memory": "memory_B", "energy": "energy_J", "power": "power_W",
    "params": "params",
}  # fmt: skip
MAX_VALUES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Cells over axis x (columns) and y (rows) around one design.

    values: metric key (and "loss") to (ny, nx); possible: heads divide; inside: in the range of the law's and the latencies'
    data; unlike: how unlike the models are that the device's own calibration measured (`Problem.unlike`: 1 another size, 2 another kind;
    wider intervals); own: the design's (row, column).
    """

    design: str
    precision: str
    x: str
    y: str
    x_values: tuple[Any, ...]
    y_values: tuple[Any, ...]
    own: tuple[int, int]
    values: Mapping[str, Array] = field(hash=False)
    possible: NDArray[np.bool_] = field(hash=False)
    inside: NDArray[np.bool_] = field(hash=False)
    unlike: NDArray[np.int8] = field(hash=False)


def own_values(space: DesignSpace, precision: str, arch: Architecture) -> dict[str, Any]:
    """The axis values that a design came from; for an FFN width that no ratio of the space gives, the exact ratio."""
    active = arch.d_ff_active // arch.d_ff_expert if arch.n_experts else 1
    width = arch.d_ff_expert if arch.n_experts else round(float(arch.d_ff_mean))
    exact = active * width / arch.d_model
    unit = active * space.ff_multiple
    fitting = [
        r for r in space.axes["ffn_ratio"] if max(round(r * arch.d_model / unit), 1) * space.ff_multiple == width
    ]
    ratio = min(fitting, key=lambda r: abs(r - exact)) if fitting else exact
    mixer = mixer_of(arch, space.axes["mixer"])
    kv, head = arch.n_kv_heads, arch.d_value or arch.d_head
    if arch.kv_rank or not arch.n_attention_layers:  # their mixers do not read these axes
        kv = space.axes["n_kv_heads"][0]
        head = head if arch.kv_rank else space.axes["d_head"][0]
    if kv not in space.axes["n_kv_heads"] and kv == arch.n_heads and 0 in space.axes["n_kv_heads"]:
        kv = 0
    return {
        "precision": precision, "vocab_size": arch.vocab_size, "experts": experts_of(arch, space.axes["experts"]),
        "mixer": mixer, "d_head": head, "n_kv_heads": kv, "n_layers": arch.n_layers, "d_model": arch.d_model, "ffn_ratio": ratio,
    }  # fmt: skip


def axis_values(space: DesignSpace, axis: str, own: Any, limit: int = MAX_VALUES) -> tuple[Any, ...]:
    """Values of an axis for a map: those of the space in order, every k-th where there are more than `limit`, the ends and the
    design's own always among them.
    """
    values = list(space.axes[axis])
    if axis == "n_kv_heads":
        values.sort(key=lambda v: math.inf if v == 0 else v)
    else:
        values.sort()
    step = -(-len(values) // limit)
    kept = dict.fromkeys([*values[::step], values[-1]])
    if own not in kept:
        kept[own] = None
    order = {"n_kv_heads": lambda v: math.inf if v == 0 else v}.get(axis, lambda v: v)
    return tuple(sorted(kept, key=order))


def slice_of(
    problem: Problem,
    candidate: Candidate,
    x: str,
    y: str,
    keys: Sequence[str] = tuple(METRICS.values()),
    limit: int = MAX_VALUES,
) -> Slice:
    """Metrics of the cells over axes `x` and `y` (of `MAP_AXES`), the rest as in the candidate.

    Args:
        problem: of the run. keys: metrics to keep. limit: most values of an axis.
    """
    own = own_values(problem.space, candidate.precision, candidate.architecture)
    columns = {axis: axis_values(problem.space, axis, own[axis], limit) for axis in (x, y)}
    axes = {axis: columns.get(axis, (value,)) for axis, value in own.items()}
    space = replace(problem.space, axes=axes)
    layers = [_block(problem, block, keys) for block in space.blocks()]
    lengths = space.lengths
    names = list(layers[0])
    joined = {name: np.concatenate([layer[name].reshape(-1) for layer in layers]).reshape(lengths) for name in names}
    order = list(AXES)
    grids = {name: _plane(grid, order.index(y), order.index(x)) for name, grid in joined.items()}
    masks = {name: grids.pop(name) > 0.5 for name in ("possible", "inside")}
    unlike = grids.pop("unlike").astype(np.int8)
    return Slice(
        design=candidate.name, precision=candidate.precision, x=x, y=y, x_values=columns[x], y_values=columns[y],
        own=(columns[y].index(own[y]), columns[x].index(own[x])), values=grids, unlike=unlike, **masks,
    )  # fmt: skip


def _plane(grid: Array, row: int, column: int) -> Array:
    """(ny, nx) of an array whose other axes have length 1."""
    plane = np.moveaxis(grid, (row, column), (0, 1))
    return np.ascontiguousarray(plane.reshape(plane.shape[:2]))


def _block(problem: Problem, block: Any, keys: Sequence[str]) -> dict[str, Array]:
    form = PRECISIONS[block.precision]
    estimate = problem.models[block.precision].estimate(block.arch, problem.workload, form)
    found: dict[str, Any] = {key: metric(kind, block.arch, estimate) for kind, key in METRICS.items() if key in keys}
    found["loss"] = problem.loss(block.arch, form)
    found["possible"] = block.valid
    found["inside"] = problem.in_range(block.arch, block.precision)
    found["unlike"] = problem.unlike(block.arch, block.precision)
    return {key: np.array(np.broadcast_to(np.asarray(value, dtype=float), block.shape)) for key, value in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """What limits do to a slice.

    broken: metric key to mask of cells beyond its limit; feasible: possible or not, no limit is broken and (unless extrapolation
    is allowed) inside the data; tightest: index into `keys` of the limit that is used most; used: its share of the limit; best:
    (row, column) of the lowest loss among possible feasible cells, or None.
    """

    keys: tuple[str, ...]
    broken: Mapping[str, NDArray[np.bool_]] = field(hash=False)
    feasible: NDArray[np.bool_] = field(hash=False)
    tightest: NDArray[np.int64] = field(hash=False)
    used: Array = field(hash=False)
    best: tuple[int, int] | None

    @property
    def binding(self) -> str | None:
        """The metric whose limit the best cell uses most."""
        return self.keys[int(self.tightest[self.best])] if self.best is not None else None


def limits_of(problem: Problem, precision: str) -> Limits:
    """Metric key to the bound and a factor for each of `Slice.unlike`: a cell meets it if its value is at most bound * factor.

    The bound is infinite where the budget has none; memory has the device's free memory. Factors tighten a bound so that it
    holds with the budget's confidence.
    """
    bounds = {metric_of_bound(name): bound for name, bound in problem.budget.bounds().items()}
    found: Limits = {}
    for kind, key in METRICS.items():
        bound = bounds.get(kind, math.inf)
        found[key] = (min(bound, problem.memory_B) if kind == "memory" else bound, problem.factors(kind, precision))
    return found


def share_of(cells: Slice, limits: Limits, key: str) -> Array:
    """How much of a limit each cell uses: above 1 it is broken."""
    bound, factors = limits[key]
    return np.asarray(cells.values[key] / (bound * np.asarray(factors)[cells.unlike]))


def regions(cells: Slice, limits: Limits, *, extrapolate: bool = False) -> Regions:
    """Compare a slice with limits (see `limits_of`); those that are infinite or that the slice lacks are left aside."""
    keys = tuple(key for key, (bound, *_) in limits.items() if math.isfinite(bound) and key in cells.values)
    shares = [share_of(cells, limits, key) for key in keys]
    stacked = np.stack(shares) if shares else np.zeros((1, *cells.possible.shape))
    feasible = np.all(stacked <= 1, axis=0)
    if not extrapolate:
        feasible &= cells.inside
    loss = np.where(feasible & cells.possible, cells.values["loss"], np.inf)
    at = int(np.argmin(loss))
    found = bool(np.isfinite(loss.reshape(-1)[at]))
    row, column = np.unravel_index(at, loss.shape)
    return Regions(
        keys=keys, broken={key: share > 1 for key, share in zip(keys, shares, strict=True)}, feasible=feasible,
        tightest=np.argmax(stacked, axis=0), used=np.max(stacked, axis=0),
        best=(int(row), int(column)) if found else None,
    )  # fmt: skip


def chosen_designs(candidates: Sequence[Candidate], best: str, count: int = 8) -> list[Candidate]:
    """Designs to cut through: the best, and others spread over the frontier, each pair of settings (experts, KV heads, FFN ratio,
    head size, precision) once.
    """
    lead = next(c for c in candidates if c.name == best)
    found = {_setting(lead): lead}
    for spread in range(2, 4 * count):
        for i in np.linspace(0, len(candidates) - 1, spread).round().astype(int):
            if len(found) == count:
                break
            found.setdefault(_setting(candidates[i]), candidates[i])
    order = {c.name: i for i, c in enumerate(candidates)}
    return sorted(found.values(), key=lambda c: order[c.name])


def _setting(c: Candidate) -> tuple[Any, ...]:
    a = c.architecture
    return (c.precision, a.n_experts, a.n_active_experts, a.d_ff_shared > 0, a.d_head, a.n_kv_heads)


def pairs() -> list[tuple[str, str]]:
    """Every pair of `MAP_AXES`, as (x, y)."""
    return list(itertools.combinations(MAP_AXES, 2))


def within(problem: Problem, candidate: Candidate, d: Array, l: Array, limits: Limits) -> Any:
    """Whether models of widths d and depths l (fractional ones too), else as the candidate, meet every limit: (n,)."""
    own = own_values(problem.space, candidate.precision, candidate.architecture)
    space = replace(problem.space, axes={axis: (value,) for axis, value in own.items()})
    arch = candidate.architecture
    if own["mixer"] == "full" and not arch.n_shared_experts:
        block = next(space.blocks())
        width = own["ffn_ratio"] * d / max(arch.n_active_experts, 1)
        batch = replace(
            block.arch, n_layers=l, d_model=d, n_heads=d / arch.d_head, n_kv_heads=own["n_kv_heads"] or d / arch.d_head,
            **{"d_ff_expert" if arch.n_experts else "d_ff": width},
        )  # fmt: skip
    else:  # sizes of the mixer and of shared experts follow the width
        batch, _ = space.build(own, l, d, np.asarray(own["ffn_ratio"]))
    estimate = problem.models[candidate.precision].estimate(batch, problem.workload, PRECISIONS[candidate.precision])
    how = problem.unlike(batch, candidate.precision)
    fits: Any = True
    for kind, key in METRICS.items():
        bound, factors = limits[key]
        if math.isfinite(bound):
            fits = fits & (np.asarray(metric(kind, batch, estimate)) <= bound * np.asarray(factors)[how])
    return np.broadcast_to(fits, np.shape(d))
