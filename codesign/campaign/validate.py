"""Predicted against measured: the designs of a frontier, built and run on the device that they were searched for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import moocore
import numpy as np
from scipy.stats import spearmanr

from codesign.campaign.run import Campaign
from codesign.devices import Device
from codesign.errors import MeasurementError, SpecError
from codesign.measurement import Measurement, observe
from codesign.profilers import Engine, Point
from codesign.search import Candidate, Frontier
from codesign.workload import Workload

__all__ = ["Compared", "Validation", "check_frontier", "choose", "validate", "validation_campaigns"]

#: Metrics of a candidate that are measured; energy is of a decode step, a token of it, where a meter is.
METRICS = ("latency_s", "ttft_s", "energy_J")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One design's metric: predicted with its 90 % interval, measured, and how well the measurement repeats."""

    design: str
    metric: str
    predicted: float
    interval: tuple[float, float]
    measured: float
    again_log: float

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1

    @property
    def inside(self) -> bool:
        """Whether the measurement lies in the interval."""
        return self.interval[0] <= self.measured <= self.interval[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Everything that was compared.

    rows: by design and metric. summary: by metric, mape_pct, max_pct, spearman (nan with fewer than three designs),
    coverage (share inside the 90 % interval), designs, repeat_pct. pareto: designs that no other measured design dominates
    in predicted loss and measured latency; candidates: the designs.
    """

    rows: tuple[Compared, ...]
    candidates: tuple[Candidate, ...]
    pareto: tuple[str, ...]
    provenance: Mapping[str, object] = field(hash=False)

    def of(self, metric: str) -> list[Compared]:
        """The rows of one metric."""
        return [row for row in self.rows if row.metric == metric]

    def summary(self) -> dict[str, dict[str, float]]:
        """See the class."""
        out = {}
        for metric in METRICS:
            rows = self.of(metric)
            if not rows:
                continue
            errors = np.abs([row.error for row in rows])
            ranked = len(rows) >= 3 and len({row.predicted for row in rows}) > 1
            rho = spearmanr([r.predicted for r in rows], [r.measured for r in rows]).statistic if ranked else math.nan
            again = [row.again_log for row in rows if math.isfinite(row.again_log)]
            out[metric] = {
                "designs": len(rows),
                "mape_pct": float(100 * errors.mean()),
                "max_pct": float(100 * errors.max()),
                "spearman": float(rho),
                "coverage": float(np.mean([row.inside for row in rows])),
                "repeat_pct": float(100 * np.expm1(np.median(again))) if again else math.nan,
            }
        return out


def check_frontier(
    frontier: Frontier,
    device: Device,
    engine: str,
    options: Mapping[str, str],
    chosen: Sequence[Candidate],
    force: bool,
) -> None:
    """Refuse to compare a frontier with measurements of another device, mode, engine, or engine options than it is of.

    Raises:
        MeasurementError: one of them differs.
    """
    searched = frontier.provenance["device"]
    for what, given, wanted in (
        ("device", device.name, searched["name"]),
        ("power mode", device.power_mode, searched["power_mode"]),
        ("engine", engine, frontier.provenance["engine"]),
    ):
        if given != wanted and not force:
            raise MeasurementError(
                f"the run was searched for {what} '{wanted}', not '{given}': its predictions are not of what would be measured; "
                f"give --{what.replace(' ', '-')} {wanted}, search again for '{given}', or --force"
            )
    for precision in dict.fromkeys(c.precision for c in chosen):
        fit = device.fit_for(engine, precision)
        if fit is not None and {k: v for k, v in fit.options.items() if k != "nvpmodel"} != dict(options) and not force:
            had = ", ".join(f"{k} {v}" for k, v in sorted(fit.options.items()))
            now = ", ".join(f"{k} {v}" for k, v in sorted(options.items()))
            raise MeasurementError(
                f"the calibration at {precision} was made with {had}, and this would measure with {now}; give the same options, "
                "calibrate again, or --force"
            )


def choose(frontier: Frontier, top: int) -> list[Candidate]:
    """`top` designs spread evenly over the frontier by rank of latency, both ends among them.

    Raises:
        SpecError: `top` is below 1.
    """
    if top < 1:
        raise SpecError(f"--top {top} must be at least 1")
    n = len(frontier.candidates)
    if top == 1:
        return [frontier.candidates[n // 2]]
    picked = dict.fromkeys(round(i) for i in np.linspace(0, n - 1, min(top, n)))
    return [frontier.candidates[i] for i in picked]


def _points(workload: Workload) -> dict[str, Point]:
    """The pass that measures each metric: decode at the workload's mean context, prefill of its prompt."""
    context = max(round(workload.mean_context_tokens) - 1, 1)
    points = {"latency_s": Point.decode(context, workload.batch_size)}
    if workload.prompt_tokens:
        points["ttft_s"] = Point.prefill(workload.prompt_tokens, workload.batch_size)
    return points


def validation_campaigns(
    frontier: Frontier,
    chosen: Sequence[Candidate],
    run: str,
    engine: Engine,
    machine: str,
    visits: int,
    force: bool = False,
) -> list[Campaign]:
    """One campaign a precision: the chosen designs at the frontier's workload.

    Args:
        run: name of the run; engine: open. machine: who measures, for the device host, else empty.
    """
    device = frontier.provenance["device"]
    points = tuple(_points(Workload.from_dict(frontier.provenance["workload"])).values())
    forms = list(dict.fromkeys(c.precision for c in chosen))
    return [
        Campaign(
            name=f"validate-{run}-{form}", architectures=[c.architecture for c in chosen if c.precision == form],
            precision=form, engine=engine.name, engine_options=engine.options, engine_version=engine.version,
            device=device["name"], machine=machine, power_mode=device["power_mode"], points=points, visits=visits,
            force=force,
        )
        for form in forms
    ]  # fmt: skip


def _energy(c: Candidate, point: Point, records: Sequence[Measurement]) -> list[Compared]:
    """Energy a token: the median of the metered visits; nothing where none was metered or predicted."""
    joules = [
        m.energy_J / m.batch_size
        for m in records
        if m.energy_J is not None and m.architecture == c.architecture and m.precision == c.precision
        and (m.phase, m.batch_size, m.context_tokens) == (point.phase, point.batch_size, point.context_tokens)
    ]  # fmt: skip
    value = c.values.get("energy_J")
    if not joules or value is None:
        return []
    again = math.log(max(joules) / min(joules)) if len(joules) > 1 else math.nan
    return [
        Compared(
            design=c.name, metric="energy_J", predicted=value, interval=c.intervals.get("energy_J", (value, value)),
            measured=float(np.median(joules)), again_log=again,
        )
    ]  # fmt: skip


def validate(frontier: Frontier, chosen: Sequence[Candidate], measurements: Iterable[Measurement]) -> Validation:
    """Compare what was predicted with what was measured.

    Args:
        measurements: of the designs, any number of visits; others are left aside.

    Raises:
        MeasurementError: no design was measured.
    """
    points = _points(Workload.from_dict(frontier.provenance["workload"]))
    records = list(measurements)
    seen = {}
    for o in observe(records):
        m = o.first
        point = Point(phase=m.phase, batch_size=m.batch_size, tokens=m.tokens, context_tokens=m.context_tokens)
        seen[repr(m.architecture), m.precision, point] = o
    rows = []
    for c in chosen:
        for metric, point in points.items():
            found = seen.get((repr(c.architecture), c.precision, point))
            if found is not None:
                value = c.values[metric]
                rows.append(
                    Compared(
                        design=c.name, metric=metric, predicted=value, interval=c.intervals.get(metric, (value, value)),
                        measured=found.seconds, again_log=found.again_log,
                    )
                )  # fmt: skip
        rows += _energy(c, points["latency_s"], records)
    if not rows:
        raise MeasurementError("none of the designs was measured; see the reasons above")
    losses = {c.name: c.loss for c in chosen}
    decode = [row for row in rows if row.metric == "latency_s"]
    alive = moocore.is_nondominated(np.array([(losses[row.design], row.measured) for row in decode]).reshape(-1, 2))
    return Validation(
        rows=tuple(rows),
        candidates=tuple(chosen),
        pareto=tuple(row.design for row, good in zip(decode, alive, strict=True) if good),
        provenance=dict(frontier.provenance),
    )
