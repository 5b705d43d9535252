"""The fitted effects as a small file, and the rates of any device, engine and precision that follow from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from codesign.devices import Device, PhaseTerms
from codesign.engines import default_engine, runs_format
from codesign.errors import SchemaError
from codesign.operators import Phase
from codesign.roofline.effects import LATENTS, Cell, link
from codesign.roofline.rates import UNSEEN_PASS_LOG, PhaseRates, Rates
from codesign.roofline.terms import FEATURES, TERMS
from codesign.workload import Precision, Workload

__all__ = ["Calibration", "load_calibration"]

SCHEMA = "codesign.calibration"
VERSION = 1
_FILE = Path(__file__).with_name("calibration.json")
_HINT = "make it again with tools/fit_calibration.py or give another --calibration"
_MAX_EFFECT = 20.0  # on a logarithmic or logistic scale; the largest that was ever fitted is below 4
LEVELS = (
    "this device, engine and precision were measured",
    "this device was measured with this engine at another precision",
    "this engine was measured on the same generation",
    "this engine was measured on another generation, or this device with another engine",
    "neither this engine nor this device was measured",
)


@dataclass(frozen=True, slots=True)
class PhaseFit:
    """Effects of one phase by "latent:effect=key", rows by cell ("device/engine/kind/generation"), interval half-widths
    of ln(seconds) by level, what each cell's rows span (smallest and largest active parameters, and 1 if a mixture of
    experts is among them), and held-out errors by way of leaving out.
    """

    effects: Mapping[str, float]
    cells: Mapping[str, int]
    intervals: tuple[float, ...]
    spans: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    held_out: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def latent(self, name: str, phase: Phase, cell: Cell) -> float:
        """One rate of a cell: link(mean + sum of the effects that were fitted for its keys)."""
        latent = LATENTS[phase][name]
        total = latent.mean
        for effect in latent.effects:
            value = self.effects.get(f"{name}:{effect.name}={effect.key(cell)}")
            if value is not None:
                total += value * effect.regressor(cell)
        return link(latent.scale, total)

    def level(self, cell: Cell) -> int:
        """How far the nearest measurement is: an index into LEVELS."""
        level = 4
        for key in self.cells:
            device, engine, kind, generation = key.split("/")
            same_engine = engine == cell.engine
            if device == cell.device and same_engine:
                level = min(level, 0 if kind == cell.kind else 1)
            elif same_engine and generation == cell.generation:
                level = min(level, 2)
            elif same_engine or device == cell.device or engine == cell.engine_root:
                level = min(level, 3)
        return level

    def interval_level(self, phase: Phase, cell: Cell) -> int:
        """The level whose interval a cell gets: its own, but at least 2 for decode in batches, measured in few places."""
        return max(self.level(cell), 2 if phase == "decode" and cell.batch_size > 1 else 0)

    def span(self, cell: Cell | None = None) -> tuple[float, float, bool]:
        """Smallest and largest active parameters, and whether there are mixtures, of a cell's rows (None: of all rows)."""
        rows = [
            span
            for key, span in self.spans.items()
            if cell is None or key.split("/")[:3] == [cell.device, cell.engine, cell.kind]
        ]
        if not rows:
            return math.inf, 0.0, False
        return min(r[0] for r in rows), max(r[1] for r in rows), any(r[2] > 0 for r in rows)

    def rates(self, phase: Phase, cell: Cell) -> PhaseRates:
        """All rates of a cell."""
        value = {name: self.latent(name, phase, cell) for name in LATENTS[phase]}
        unpack = value["unpack"] * cell.sm_clock_Hz if cell.unpack_roof and "unpack" in value else math.inf
        level = self.level(cell)
        return PhaseRates(
            bandwidth_efficiency=value["bandwidth"],
            expert_bandwidth_efficiency=value["expert"] * value["bandwidth"],
            compute_efficiency=value["compute"],
            attention_efficiency=value["compute"] * value.get("attention", 1.0),
            expert_compute_efficiency=value["compute"] * value.get("expert_compute", 1.0),
            unpack_Bps=unpack,
            layer_s=value["layer"],
            step_s=value["step"],
            interval_log=self.intervals[self.interval_level(phase, cell)],
            level=level,
            n_rows=self.cells.get(f"{cell.device}/{cell.engine}/{cell.kind}/{cell.generation}", 0),
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rates for everything: measured where it was, else what engine, generation and device family suggest."""

    prefill: PhaseFit
    decode: PhaseFit
    source: str

    def of(self, phase: Phase) -> PhaseFit:
        """The fit of one phase."""
        return self.prefill if phase == "prefill" else self.decode

    def rates(
        self,
        device: Device,
        engine: str,
        precision: Precision,
        batch_size: int = 1,
        workload: Workload | None = None,
    ) -> Rates:
        """Efficiencies, overheads and intervals of anything (see `LEVELS`).

        A phase that the device's own file has fitted for this engine and precision comes from there; at a batch or length
        of the workload that was not measured, without its learned residual and with the interval of unmeasured sizes.

        Raises:
            SchemaError: that fit is of another version of codesign.
        """
        cell = Cell.of(device, engine, precision, batch_size)
        own = device.fit_for(engine, precision.name)
        if own is None:
            return Rates(
                prefill=self.prefill.rates("prefill", cell),
                decode=self.decode.rates("decode", cell),
                source=self.source,
            )
        return Rates(
            prefill=_own(own.prefill, "prefill", batch_size, workload)
            if own.prefill
            else self.prefill.rates("prefill", cell),
            decode=_own(own.decode, "decode", batch_size, workload)
            if own.decode
            else self.decode.rates("decode", cell),
            source=own.source,
            energy=own.energy,
        )

    def engine_for(self, device: Device, precision: Precision) -> str:
        """The engine of the device's own calibration at this precision; else `default_engine` where it was measured on this device with this class of weights, or nothing was; else the engine
        measured most there.
        """
        own = device.fit_for(None, precision.name)
        if own is not None:
            return own.engine
        counts: dict[str, int] = {}
        for fit in (self.prefill, self.decode):
            for key, n in fit.cells.items():
                name, engine, kind, _ = key.split("/")
                if name == device.name and kind == precision.kind and runs_format(engine, precision):
                    counts[engine] = counts.get(engine, 0) + n
        usual = default_engine(device, precision)
        return usual if usual in counts or not counts else max(sorted(counts), key=lambda engine: counts[engine])

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        phases = {
            name: {
                "effects": {key: round(value, 6) for key, value in sorted(fit.effects.items())},
                "cells": dict(sorted(fit.cells.items())),
                "intervals": [round(value, 4) for value in fit.intervals],
                "spans": {key: list(span) for key, span in sorted(fit.spans.items())},
                "held_out": fit.held_out,
            }
            for name, fit in (("prefill", self.prefill), ("decode", self.decode))
        }
        return {"schema": SCHEMA, "version": VERSION, "source": self.source, "phases": phases}


def _own(terms: PhaseTerms, phase: Phase, batch_size: int, workload: Workload | None) -> PhaseRates:
    """Rates of a phase that was fitted to this very device.

    Raises:
        SchemaError: terms that this version does not compute.
    """
    unknown = sorted(set(terms.seconds_per) - set(TERMS))
    features = terms.residual.features if terms.residual is not None else FEATURES
    if unknown or features != FEATURES:
        what = ", ".join(unknown) or f"a residual over {', '.join(features)}"
        raise SchemaError(
            f"the device's own calibration is of another version of codesign (it holds {what}); calibrate again, or update codesign"
        )
    tokens = terms.span_tokens[0]
    if workload is not None:
        tokens = workload.prompt_tokens if phase == "prefill" else workload.mean_context_tokens
    if not terms.covers(tokens, batch_size):
        wide = max(terms.interval_beyond_log, UNSEEN_PASS_LOG[phase])
        terms = replace(terms, residual=None, interval_log=wide, interval_beyond_log=wide)
        return PhaseRates(interval_log=wide, interval_beyond_log=wide, level=0, n_rows=0, terms=terms)
    return PhaseRates(
        interval_log=terms.interval_log, interval_beyond_log=terms.interval_beyond_log, level=0, n_rows=terms.n_rows,
        terms=terms,
    )  # fmt: skip


def load_calibration(path: Path | None = None) -> Calibration:
    """Read a calibration file; the bundled one by default.

    Raises:
        SchemaError: unreadable, corrupt, of another kind, or of a newer version.
    """
    path = path or _FILE
    try:
        stat = path.stat()
    except (OSError, ValueError) as error:
        raise SchemaError(f"cannot read the calibration {path}: {error}; {_HINT}") from error
    return _read(path, str(Path.cwd()) if not path.is_absolute() else "", stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=8)
def _read(path: Path, folder: str, mtime_ns: int, size: int, inode: int) -> Calibration:
    """The other arguments are part of the cache's key: a file that changed is read again."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SchemaError(f"cannot read the calibration {path}: {error}; {_HINT}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise SchemaError(f"{path} is not a {SCHEMA} file; {_HINT}")
    if data.get("version") != VERSION:
        raise SchemaError(f"{path} has version {data.get('version')!r}, this codesign reads {VERSION}; update codesign")
    try:
        fits = [_phase(data["phases"][name]) for name in ("prefill", "decode")]
        return Calibration(fits[0], fits[1], str(data["source"]))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SchemaError(f"the calibration {path} is corrupt ({type(error).__name__}: {error}); {_HINT}") from error


def _phase(data: Mapping[str, Any]) -> PhaseFit:
    intervals = tuple(float(value) for value in data["intervals"])
    effects = {str(key): float(value) for key, value in data["effects"].items()}
    if len(intervals) != len(LEVELS) or not all(0 <= v <= _MAX_EFFECT for v in intervals):
        raise ValueError(f"intervals are not {len(LEVELS)} numbers from 0 to {_MAX_EFFECT:g}")
    if not all(abs(v) <= _MAX_EFFECT for v in effects.values()):
        raise ValueError(f"an effect is not a number from -{_MAX_EFFECT:g} to {_MAX_EFFECT:g}")
    cells = {str(key): int(value) for key, value in data["cells"].items()}
    if any(key.count("/") != 3 or n < 0 for key, n in cells.items()):
        raise ValueError("a cell is not device/engine/kind/generation with a number of rows")
    spans = {str(key): (float(v[0]), float(v[1]), float(v[2])) for key, v in data["spans"].items()}
    if not all(math.isfinite(v) for span in spans.values() for v in span):
        raise ValueError("a span is not three finite numbers")
    return PhaseFit(effects, cells, intervals, spans, dict(data["held_out"]))
