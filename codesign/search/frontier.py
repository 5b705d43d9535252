"""Candidates and frontiers: designs with intervals, probabilities and marks; as JSON Lines and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from codesign.architecture import Architecture
from codesign.errors import SchemaError, SpecError
from codesign.predictors.priors import UNPRICED_SHAPES

__all__ = ["Baseline", "Candidate", "Frontier", "Gap", "frontier_schema", "read_frontier"]

SCHEMA = "codesign.frontier"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One design with what is predicted for it.

    loss: nats per token at `tokens` of the frontier; loss_std, and latency and ttft as (low, high) 90 % intervals;
    values: every metric by name (latency_s, ttft_s, e2e_s, memory_B, weights_B, kv_B, energy_J, power_W, params, ...);
    p_budget: probability that all bounds hold; p_front: probability that no other candidate dominates it;
    marks: where to be careful: "outside:<dimension>" beyond the range of the law's data, "prior:<term>" where a labelled
    prior acts instead of fitted data.
    """

    name: str
    architecture: Architecture
    precision: str
    loss: float
    loss_std: float
    values: Mapping[str, float] = field(hash=False)
    intervals: Mapping[str, tuple[float, float]] = field(hash=False)
    p_budget: float = 1.0
    p_front: float = 1.0
    marks: tuple[str, ...] = ()

    @property
    def loss_known(self) -> bool:
        """Whether any data at hand tells the loss of this shape; where not, `loss` is that of full attention of the same size."""
        return not any(f"unpriced:{name}" in self.marks for name in UNPRICED_SHAPES)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name, "precision": self.precision, "loss": self.loss, "loss_std": self.loss_std,
            "values": dict(self.values), "intervals": {k: list(v) for k, v in self.intervals.items()},
            "p_budget": self.p_budget, "p_front": self.p_front, "marks": list(self.marks),
            "architecture": self.architecture.to_dict(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Build from `to_json`'s output."""
        return cls(
            name=str(data["name"]),
            architecture=Architecture.from_dict(dict(data["architecture"])),
            precision=str(data["precision"]),
            loss=float(data["loss"]),
            loss_std=float(data["loss_std"]),
            values={str(k): float(v) for k, v in data["values"].items()},
            intervals={str(k): (float(v[0]), float(v[1])) for k, v in data["intervals"].items()},
            p_budget=float(data["p_budget"]),
            p_front=float(data["p_front"]),
            marks=tuple(str(mark) for mark in data["marks"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What a design of the frontier offers against a baseline: differences with 90 % intervals.

    loss_difference: design less baseline, nats per token, with (low, high); perplexity_ratio: its exponential;
    latency_ratio: design over baseline in the frontier's first time objective, with (low, high), the calibration's
    common error cancelled.
    """

    design: str
    loss_difference: float
    loss_interval: tuple[float, float]
    perplexity_ratio: float
    latency_ratio: float
    latency_interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "design": self.design, "loss_difference": self.loss_difference, "loss_interval": list(self.loss_interval),
            "perplexity_ratio": self.perplexity_ratio, "latency_ratio": self.latency_ratio,
            "latency_interval": list(self.latency_interval),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Gap:
        """Build from `to_json`'s output."""
        return cls(
            design=str(data["design"]), loss_difference=float(data["loss_difference"]),
            loss_interval=(float(data["loss_interval"][0]), float(data["loss_interval"][1])),
            perplexity_ratio=float(data["perplexity_ratio"]), latency_ratio=float(data["latency_ratio"]),
            latency_interval=(float(data["latency_interval"][0]), float(data["latency_interval"][1])),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A known model scored as the designs are, and what the frontier offers at its latency and at its loss."""

    candidate: Candidate
    at_latency: Gap | None = None
    at_loss: Gap | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "candidate": self.candidate.to_json(),
            "at_latency": self.at_latency.to_json() if self.at_latency else None,
            "at_loss": self.at_loss.to_json() if self.at_loss else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Baseline:
        """Build from `to_json`'s output."""
        gaps = [Gap.from_json(data[key]) if data.get(key) else None for key in ("at_latency", "at_loss")]
        return cls(candidate=Candidate.from_json(data["candidate"]), at_latency=gaps[0], at_loss=gaps[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The answer: candidates in order of latency, and everything that it rests on.

    provenance: version, command, seed, device, engine, power mode, workload, budget, space, tokens, calibration and law
    with their measured errors, certificate of the search.
    """

    candidates: tuple[Candidate, ...]
    provenance: Mapping[str, Any] = field(hash=False)
    baselines: tuple[Baseline, ...] = ()

    def to_jsonl(self) -> str:
        """JSON Lines: a header with schema, version, provenance and baselines, then one candidate a line."""
        head = {
            "schema": SCHEMA, "version": VERSION, **self.provenance,
            "baselines": [baseline.to_json() for baseline in self.baselines],
        }  # fmt: skip
        lines = [json.dumps(head, allow_nan=False)]
        lines += [json.dumps(candidate.to_json(), allow_nan=False) for candidate in self.candidates]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_jsonl(cls, text: str, where: str = "the frontier") -> Frontier:
        """Read `to_jsonl`'s output.

        Raises:
            SchemaError: not JSON Lines, another schema, a newer version, or fields that are missing or of another type.
        """
        lines = text.splitlines()
        try:
            head = json.loads(lines[0]) if lines else None
        except ValueError as error:
            raise SchemaError(
                f"{where} is not a frontier: line 1 is not JSON ({error}); run the search again"
            ) from error
        if not isinstance(head, dict) or head.get("schema") != SCHEMA:
            kind = head.get("schema") if isinstance(head, dict) else None
            hint = f" (it is a {kind})" if isinstance(kind, str) and kind.startswith("codesign.") else ""
            raise SchemaError(f"{where} is not a {SCHEMA} file{hint}; give the frontier.jsonl of a search on a device")
        if head.get("version") != VERSION:
            raise SchemaError(
                f"{where} has version {head.get('version')!r}, this codesign reads {VERSION}; update codesign"
            )
        number = 1
        try:
            baselines = tuple(Baseline.from_json(item) for item in head.get("baselines", []))
            candidates = []
            for number, line in enumerate(lines[1:], start=2):  # noqa: B007 (named in the error)
                candidates.append(Candidate.from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, SpecError) as error:
            raise SchemaError(
                f"{where} is corrupt in line {number} ({type(error).__name__}: {error}); run the search again"
            ) from error
        provenance = {key: value for key, value in head.items() if key not in ("schema", "version", "baselines")}
        return cls(candidates=tuple(candidates), provenance=provenance, baselines=baselines)


def frontier_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of each line of a frontier.jsonl; ``$defs`` has the header and the candidate.

    Example:
        >>> frontier_schema()["title"]
        'codesign.frontier, version 1'
    """
    text = files("codesign.search").joinpath("frontier.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def read_frontier(path: Path) -> Frontier:
    """Read a run's frontier.jsonl, or the run's folder.

    Raises:
        SchemaError: no such file, or its content is not a frontier.
    """
    file = path / "frontier.jsonl" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(
            f"cannot read the frontier {file}: {getattr(error, 'strerror', None) or error}; give the folder of a run"
        ) from error
    return Frontier.from_jsonl(text, str(file))
