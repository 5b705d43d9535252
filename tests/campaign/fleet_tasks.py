"""Tasks and records that the fleet's tests share; nothing here is a real measurement."""

from __future__ import annotations

from collections.abc import Sequence

from codesign.architecture import Architecture
from codesign.measurement import Measurement
from codesign.profilers.base import Point, Task

POINTS = (Point.prefill(64), Point.decode(32))


def task(
    layers: int,
    *,
    device: str = "host",
    engine: str = "torch",
    points: Sequence[Point] = POINTS,
    power_mode: str | None = None,
) -> Task:
    arch = Architecture(n_layers=layers, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
    return Task(
        architecture=arch, precision="fp32", engine=engine, engine_options={}, points=tuple(points), device=device,
        power_mode=power_mode, campaign="test",
    )  # fmt: skip


def record(of: Task, point: Point, **changes: object) -> Measurement:
    """A made-up record: one second a layer."""
    return Measurement(
        **{
            "architecture": of.architecture, "precision": of.precision, "engine": of.engine, "phase": point.phase,
            "batch_size": point.batch_size, "tokens": point.tokens, "context_tokens": point.context_tokens,
            "device": of.device, "power_mode": of.power_mode, "campaign": of.campaign,
            "wall_s": (float(of.architecture.n_layers),), **changes,
        }  # type: ignore[arg-type]
    )  # fmt: skip


class Book:
    """Callbacks that write down what they are told."""

    def __init__(self) -> None:
        self.results: list[tuple[Task, list[Measurement], str]] = []
        self.failures: list[tuple[Task, Exception, str]] = []
        self.records: list[tuple[Task, Measurement, str]] = []

    def on_result(self, of: Task, records: list[Measurement], worker: str) -> None:
        self.results.append((of, list(records), worker))

    def on_failure(self, of: Task, error: Exception, worker: str) -> None:
        self.failures.append((of, error, worker))

    def on_record(self, of: Task, made: Measurement, worker: str) -> None:
        self.records.append((of, made, worker))

    def layers(self) -> list[int]:
        """Tasks done, by their number of layers."""
        return sorted(of.architecture.n_layers for of, _, _ in self.results)

    def passes(self) -> list[tuple[int, str]]:
        """Records by layers and phase."""
        return sorted((made.architecture.n_layers, made.phase) for _, made, _ in self.records)
