"""What the list of runs says about one: read from its frontier.jsonl alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from codesign.budget import Budget
from codesign.errors import SchemaError
from codesign.search import Frontier, read_frontier
from codesign.units import format_count

__all__ = ["RunSummary", "summarise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run as people tell it from another. written_s, written: when its file was, seconds since 1970 and as text in UTC."""

    name: str
    device: str
    device_name: str
    power_mode: str
    engine: str
    budget: str
    workload: str
    precision: str
    tokens: str
    law: str
    objectives: str
    seed: int | None
    exact: bool
    certificate: str
    command: tuple[str, ...]
    designs: int
    best_loss: float
    baselines: tuple[str, ...]
    written_s: float
    written: str

    @property
    def words(self) -> str:
        """What the text filter looks into, in lower case."""
        told = (self.name, self.device, self.device_name, self.power_mode, self.engine, self.budget, self.workload,
                self.precision, self.law, *self.baselines)  # fmt: skip
        return " ".join(told).lower()


def summarise(name: str, path: Path) -> RunSummary:
    """Read a frontier.jsonl.

    Raises:
        SchemaError: it is no frontier, is corrupt, or lacks what a run has.
    """
    try:
        return _summary(name, read_frontier(path), path.stat().st_mtime)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, OSError) as error:
        raise SchemaError(f"{path} lacks a part of a run's first line ({type(error).__name__}: {error})") from error


def _summary(name: str, frontier: Frontier, written_s: float) -> RunSummary:
    told: Mapping[str, Any] = frontier.provenance
    device, work = told["device"], told["workload"]
    batch = int(work["batch_size"])
    if not frontier.candidates:
        raise ValueError("no designs")
    return RunSummary(
        name=name,
        device=str(device.get("title") or device["name"]),
        device_name=str(device["name"]),
        power_mode=str(device.get("power_mode") or ""),
        engine=str(told.get("engine", "")),
        budget=Budget(**told["budget"]).describe(),
        workload=f"{int(work['prompt_tokens']):,} in, {int(work['output_tokens']):,} out"
        + (f", batch {batch}" if batch > 1 else ""),
        precision=", ".join(str(text) for text in told["space"]["axes"]["precision"]),
        tokens=format_count(float(told["tokens"])),
        law=str(told["law"]["name"]),
        objectives=", ".join(str(text) for text in told["objectives"]),
        seed=int(told["seed"]) if told.get("seed") is not None else None,
        exact=bool(told.get("exact", False)),
        certificate=str(told.get("certificate", "")),
        command=tuple(str(text) for text in told.get("command", ())),
        designs=len(frontier.candidates),
        best_loss=min(design.loss for design in frontier.candidates),
        baselines=tuple(baseline.candidate.name for baseline in frontier.baselines),
        written_s=written_s,
        written=datetime.fromtimestamp(written_s, timezone.utc).strftime("%Y-%m-%d %H:%M"),
    )
