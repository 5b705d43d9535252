"""Design rules of one frontier: how each axis moves along it, and what each of its values costs at the budget.

Along the frontier: Spearman's rank correlation with the cost, and the exponent of ``value = a * cost^p`` by least squares on
logarithms, with a 90 % interval from a bootstrap of blocks of neighbouring designs (they are not independent). The interval
says how well a power law describes these designs; what the predictions themselves may be off by is not in it.

At the budget: the lowest loss with the axis held at each value, everything else free, over the whole space. An axis whose
values all come within `FLAT` nats of the best does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped,unused-ignore]

from codesign.report.review import Review
from codesign.report.words import METRICS, show_metric
from codesign.search import Candidate, Problem
from codesign.search.experts import expert_counts, experts_of
from codesign.search.mixers import mixer_of
from codesign.search.space import AXES

__all__ = [
    "AXIS_TITLES",
    "FLAT",
    "MOVES",
    "SWEEP",
    "PowerLaw",
    "Rule",
    "held_losses",
    "power_law",
    "rules_of",
    "spearman",
]

Array = NDArray[np.float64]

#: Axes of the space in the order of the page.
AXIS_TITLES = {
    "n_layers": "depth (layers)", "d_model": "width (d_model)", "ffn_ratio": "activated FFN ratio", "n_kv_heads": "KV heads",
    "d_head": "head size", "experts": "experts", "precision": "precision", "mixer": "token mixer",
}  # fmt: skip
_CHOICES = ("experts", "precision", "mixer")
FLAT = 0.005  # nats: half a per cent of perplexity
MOVES = 0.5  # |Spearman| from which an axis is said to move
SWEEP = 5_000_000
_DRAWS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """value = scale * cost^exponent, the 90 % interval of the exponent, and the share of the variance that it explains."""

    scale: float
    exponent: float
    low: float
    high: float
    r2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One axis.

    values: of each design in the order of the frontier (numbers, or names for experts and precision); offered: by the space, in
    order; rank: Spearman's correlation with the cost (nan: constant or names); law: None where nothing moves or too few designs;
    edge: (end of the space, designs there) for the end that holds at least half of them; held: offered value to the nats that holding it
    costs at the budget (inf: nothing fits); text: plain sentences.
    """

    axis: str
    values: tuple[Any, ...]
    offered: tuple[Any, ...]
    rank: float
    law: PowerLaw | None
    edge: tuple[Any, int] | None
    held: Mapping[Any, float] = field(hash=False)
    text: str = ""

    @property
    def title(self) -> str:
        """The axis in words."""
        return AXIS_TITLES[self.axis]

    @property
    def constant(self) -> bool:
        """Whether all designs have one value."""
        return len(set(self.values)) == 1


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, ties sharing their mean rank; nan where either is constant.

    Example:
        >>> spearman([1, 2, 3], [10, 40, 90]), spearman([1, 2, 3], [9, 4, 1])
        (1.0, -1.0)
    """
    a, b = rankdata(x), rankdata(y)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return round(float(np.corrcoef(a, b)[0, 1]), 12)


def power_law(cost: Sequence[float], value: Sequence[float], seed: int = 1) -> PowerLaw | None:
    """Fit on logarithms; None with fewer than 8 designs, values that do not vary, or that are not above zero.

    Example:
        >>> law = power_law([1, 2, 4, 8, 16, 32, 64, 128], [3, 6, 12, 24, 48, 96, 192, 384])
        >>> round(law.exponent, 6), round(law.scale, 6), round(law.low, 6)
        (1.0, 3.0, 1.0)
    """
    x, y = np.asarray(cost, dtype=float), np.asarray(value, dtype=float)
    if len(x) < 8 or np.any(y <= 0) or np.any(x <= 0) or np.ptp(y) == 0 or np.ptp(x) == 0:
        return None
    order = np.argsort(x, kind="stable")
    x, y = np.log(x[order]), np.log(y[order])
    slope, intercept = _line(x, y)
    residual = y - intercept - slope * x
    n = len(x)
    block = max(2, round(n ** (1 / 2)))
    starts = np.random.default_rng([seed, 11]).integers(0, n - block + 1, size=(_DRAWS, -(-n // block)))
    rows = (starts[:, :, None] + np.arange(block)).reshape(_DRAWS, -1)[:, :n]
    slopes = [_line(x[r], y[r])[0] for r in rows if np.ptp(x[r]) > 0]
    low, high = np.quantile(slopes, [0.05, 0.95])
    return PowerLaw(
        scale=math.exp(intercept), exponent=slope, low=float(min(low, slope)), high=float(max(high, slope)),
        r2=float(1 - residual.var() / y.var()),
    )  # fmt: skip


def _line(x: Array, y: Array) -> tuple[float, float]:
    dx = x - x.mean()
    slope = float((dx * (y - y.mean())).sum() / (dx**2).sum())
    return slope, float(y.mean() - slope * x.mean())


def held_losses(problem: Problem, size: int = SWEEP) -> dict[str, dict[Any, float]]:
    """By axis and value, the lowest loss within the budget with the axis held there, less the lowest of all (inf: nothing fits).

    Spaces of more than `size` points are thinned first.
    """
    swept = problem if "loss" in problem.objectives else replace(problem, objectives=("loss", "latency"))
    space = problem.space.coarser(size)
    column = swept.objectives.index("loss")
    lowest = {axis: np.full(len(space.axes[axis]), np.inf) for axis in AXIS_TITLES}
    for block in space.blocks():
        found = swept.evaluate(block.precision, block.arch, block.valid, block.shape, block.start)
        if len(found.index):
            loss = found.objectives[:, column]
            at = np.unravel_index(found.index, space.lengths)
            for axis, values in lowest.items():
                np.minimum.at(values, at[AXES.index(axis)], loss)
    best = min(float(values.min()) for values in lowest.values())
    return {
        axis: {space.axes[axis][i]: float(v - best) for i, v in enumerate(values)} for axis, values in lowest.items()
    }


def rules_of(review: Review, *, sweep: int = SWEEP) -> list[Rule]:
    """A rule for each axis of the run's space."""
    candidates = list(review.frontier.candidates)
    cost = [c.values[review.cost_key] for c in candidates]
    held = held_losses(review.problem, sweep) if review.loss_known else {}
    seed = int(review.frontier.provenance["seed"])
    shown = [axis for axis in AXIS_TITLES if axis != "mixer" or len(review.problem.space.axes["mixer"]) > 1]
    return [_rule(axis, candidates, cost, review, held.get(axis, {}), seed) for axis in shown]


def _rule(
    axis: str, candidates: Sequence[Candidate], cost: Sequence[float], review: Review, held: Mapping[Any, float], seed: int
) -> Rule:  # fmt: skip
    values = tuple(_value(axis, c, review.problem.space.axes[axis]) for c in candidates)
    offered = tuple(_shown(axis, v) for v in review.problem.space.axes[axis])
    named = axis in _CHOICES
    rank = math.nan if named else spearman(cost, values)
    law = None if named else power_law(cost, values, seed)
    rule = Rule(
        axis=axis, values=values, offered=offered, rank=rank, law=law, edge=None if named else _edge(values, offered),
        held={_shown(axis, v): loss for v, loss in held.items()},
    )  # fmt: skip
    return replace(rule, text=_text(rule, cost, review.cost_key))


def _value(axis: str, c: Candidate, offered: Sequence[Any]) -> Any:
    a = c.architecture
    if axis == "mixer":
        return mixer_of(a, offered)
    if axis == "ffn_ratio":
        return a.d_ff_active / a.d_model
    if axis == "experts":
        return _shown(axis, experts_of(a, offered))
    return c.precision if axis == "precision" else getattr(a, axis)


def _shown(axis: str, value: Any) -> Any:
    if axis == "experts":
        experts, active, shared = expert_counts(value)
        return f"{active} of {experts}" + (f" and {shared} shared" if shared else "") if experts else "dense"
    return value


def _edge(values: Sequence[float], offered: Sequence[float]) -> tuple[float, int] | None:
    """The end of the axis at which at least half of the designs sit."""
    if len(offered) < 2:
        return None
    numbers = [v for v in offered if v > 0]  # 0 KV heads: as many as query heads, no end of a scale
    for end in (max(numbers), min(numbers)):
        count = sum(abs(v - end) <= 0.02 * end for v in values)
        if 2 * count >= len(values):
            return end, count
    return None


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < 0.005 else f"{value:.2f}".rstrip("0").rstrip(".")


def _text(rule: Rule, cost: Sequence[float], key: str) -> str:
    """Plain sentences: how it moves, where it ends, what it is worth."""
    sentences = [_moves(rule, cost, key)]
    if len(rule.offered) > 1:
        if rule.edge is not None:
            end, count = rule.edge
            side = "largest" if end == max(rule.offered) else "smallest"
            hope = "a wider space may hold better ones" if end > 1 else "there is no smaller one"
            sentences.append(
                f"{count} of {len(rule.values)} designs have the {side} value of the space ({_number(end)}): {hope}."
            )
        if rule.axis == "experts":
            sentences.append(_most_experts(rule))
        sentences.append(_worth(rule))
    return " ".join(s for s in sentences if s)


def _moves(rule: Rule, cost: Sequence[float], key: str) -> str:
    n = len(rule.values)
    words = METRICS[key][0]
    if rule.constant:
        shown = rule.values[0] if isinstance(rule.values[0], str) else _number(rule.values[0])
        if len(rule.offered) == 1:
            return f"Fixed by the space at {shown}."
        return f"Constant: all {n} designs have {shown}, of {len(rule.offered)} values offered."
    ordered = sorted(zip(cost, rule.values, strict=True), key=lambda pair: pair[0])
    if isinstance(rule.values[0], str):
        counts = {v: sum(x == v for x in rule.values) for v in dict.fromkeys(v for _, v in ordered)}
        parts = []
        for value, count in sorted(counts.items(), key=lambda item: -item[1])[:4]:
            there = [t for t, v in ordered if v == value]
            span = (
                show_metric(key, there[0])
                if len(there) == 1
                else f"{show_metric(key, there[0])} to {show_metric(key, there[-1])}"
            )
            parts.append(f"{value} in {count} of {n} designs ({span})")
        rest = len(counts) - len(parts)
        return f"{'; '.join(parts)}{f'; {rest} more' if rest > 0 else ''}."
    first, last = ordered[0], ordered[-1]
    ends = (
        f"from {_number(first[1])} at {show_metric(key, first[0])} to {_number(last[1])} at {show_metric(key, last[0])}"
    )
    law = rule.law
    if abs(rule.rank) < MOVES:
        spread = f"between {_number(min(rule.values))} and {_number(max(rule.values))}"
        return f"No steady trend ({spread}; rank correlation with the {words} {rule.rank:+.2f})."
    verb = "Grows" if rule.rank > 0 else "Falls"
    if law is None:
        return f"{verb} {ends} (rank correlation {rule.rank:+.2f}; too few designs for an exponent)."
    steady = "" if law.r2 >= 0.5 else f", a fit that explains {100 * max(law.r2, 0):.0f} % of how it varies"
    return (
        f"{verb} {ends}, about as the {law.exponent:.2f} power of the {words} ({law.low:.2f} to {law.high:.2f}{steady}; rank correlation "
        f"{rule.rank:+.2f})."
    )


def _most_experts(rule: Rule) -> str:
    """Where at least half of the designs have as many experts as the space offers."""
    most = max(_experts(v) for v in rule.offered)
    count = sum(_experts(v) == most for v in rule.values)
    if not most or 2 * count < len(rule.values):
        return ""
    return f"{count} of {len(rule.values)} designs have the most experts of the space ({most}): a wider space may hold better ones."


def _experts(name: str) -> int:
    return 0 if name == "dense" else int(name.split()[2])


def _worth(rule: Rule) -> str:
    """What holding the axis costs at the budget."""
    fitting = {v: loss for v, loss in rule.held.items() if math.isfinite(loss)}
    if not fitting:
        return ""
    best = min(fitting, key=lambda v: fitting[v])
    worst = max(fitting, key=lambda v: fitting[v])
    missing = len(rule.held) - len(fitting)
    none = f" ({missing} of {len(rule.held)} values leave nothing within the budget)" if missing else ""
    if fitting[worst] <= FLAT and not missing:
        return f"At the budget it does not matter: every value comes within {fitting[worst]:.3f} nats of the best."
    near = [v for v in rule.held if rule.held[v] <= FLAT]
    others = [_name(v) for v in near if v != best]
    if len(near) > 2 and _run(rule, near):
        close = f", {_name(near[0])} to {_name(near[-1])} within {FLAT:g} nats"
    elif others:
        close = f", {', '.join(others[:6])} within {FLAT:g} nats"
    else:
        close = ""
    return f"At the budget {_name(best)} is best{close}; {_name(worst)} costs {fitting[worst]:.3f} nats{none}."


def _name(value: Any) -> str:
    return value if isinstance(value, str) else _number(value)


def _run(rule: Rule, near: Sequence[Any]) -> bool:
    """Whether values follow one another in the space."""
    order = list(rule.held)
    at = [order.index(v) for v in near]
    return at == list(range(at[0], at[0] + len(at)))
