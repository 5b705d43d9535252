"""Measurements as rows: the visits of one pass folded, with the spread of what was measured."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from codesign.dashboard.tables import Column
from codesign.measurement import Measurement, epoch_medians, observe
from codesign.store import Store
from codesign.units import format_count, format_seconds

__all__ = ["COLUMNS", "MeasuredRow", "RowCache", "measured_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One pass. seconds: see `Observation`; low_s, high_s: smallest and largest median of an epoch over all visits."""

    device: str
    power_mode: str
    engine: str
    precision: str
    model: str
    params: int
    work: str
    phase: str
    seconds: float
    low_s: float
    high_s: float
    visits: int
    times: int
    flags: tuple[str, ...]
    campaign: str
    created_at: str

    @property
    def series(self) -> str:
        """What the figure draws in one colour."""
        return f"{self.phase}, {self.engine}, {self.precision}, {self.device}"


def measured_rows(measurements: Iterable[Measurement]) -> list[MeasuredRow]:
    """One row a pass, in the order of first records."""
    visits: dict[str, list[Measurement]] = {}
    for m in measurements:
        visits.setdefault(m.key, []).append(m)
    return [_row(group) for group in visits.values()]


class RowCache:
    """The rows of a store, folded again when it has more records: a record is never changed, and a click should not take a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[int, list[MeasuredRow]]] = {}

    def rows(self, store: Store, campaign: str) -> list[MeasuredRow]:
        """The passes of one campaign; of all, if it is empty."""
        count = store.count()
        with self._lock:
            if campaign not in self._kept or self._kept[campaign][0] != count:
                self._kept = {name: kept for name, kept in self._kept.items() if kept[0] == count}
                self._kept[campaign] = (count, measured_rows(store.find(campaign=campaign or None)))
            return self._kept[campaign][1]


def _row(group: list[Measurement]) -> MeasuredRow:
    (seen,) = observe(group)
    m, a = seen.first, seen.first.architecture
    medians = [median for visit in group for median in epoch_medians(visit.times, visit.epochs)]
    work = f"prefill of {m.tokens:,}" if m.phase == "prefill" else f"decode at {m.context_tokens:,}"
    if m.phase == "prefill" and m.context_tokens:
        work += f" after {m.context_tokens:,}"
    return MeasuredRow(
        device=m.device,
        power_mode=m.power_mode or "",
        engine=m.engine,
        precision=m.precision,
        model=f"{a.n_layers} × {a.d_model}, {format_count(a.params_total)}",
        params=a.params_total,
        work=work + (f", batch {m.batch_size}" if m.batch_size > 1 else ""),
        phase=m.phase,
        seconds=seen.seconds,
        low_s=min(medians),
        high_s=max(medians),
        visits=len(group),
        times=sum(len(visit.times) for visit in group),
        flags=seen.flags,
        campaign=m.campaign,
        created_at=max(visit.created_at for visit in group),
    )


def _spread(row: MeasuredRow) -> str:
    if row.high_s == row.low_s:
        return "–"
    return f"{format_seconds(row.low_s)} to {format_seconds(row.high_s)}"


COLUMNS: tuple[Column[MeasuredRow], ...] = (
    Column(key="device", title="Device", text=lambda r: r.device, more=lambda r: r.power_mode,
           order=lambda r: (r.device, r.power_mode)),
    Column(key="engine", title="Engine", text=lambda r: r.engine, order=lambda r: r.engine),
    Column(key="precision", title="Precision", text=lambda r: r.precision, order=lambda r: r.precision),
    Column(key="model", title="Model", text=lambda r: r.model, order=lambda r: r.params),
    Column(key="pass", title="Pass", text=lambda r: r.work, order=lambda r: r.work),
    Column(key="time", title="Time", text=lambda r: format_seconds(r.seconds), order=lambda r: r.seconds, number=True),
    Column(key="spread", title="Spread", text=_spread, order=lambda r: math.log(r.high_s / r.low_s), number=True),
    Column(key="visits", title="Visits", text=lambda r: f"{r.visits:,}", more=lambda r: f"{r.times:,} times",
           order=lambda r: r.visits, number=True),
    Column(key="flags", title="Flags", text=lambda r: " ".join(r.flags) or "–", order=lambda r: " ".join(r.flags) or None),
    Column(key="date", title="Last", text=lambda r: r.created_at[:16].replace("T", " ") or "–",
           order=lambda r: r.created_at or None),
)  # fmt: skip
