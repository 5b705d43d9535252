"""A made-up machine that tests measure: its time is a function of the work, plus noise. No number here was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from codesign.architecture import Architecture
from codesign.errors import MeasurementError, SpecError
from codesign.measurement import Measurement, Observation, observe
from codesign.operators import Phase
from codesign.profilers.base import Point
from codesign.profilers.timing import Clocks
from codesign.roofline.terms import CHUNKED, RECURRENT, pass_terms
from codesign.workload import PRECISIONS, Workload

TINY = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)

#: Seconds per unit of the machine: 50 GFLOP/s, 10 GB/s, 30 us a layer.
TRUTH = {
    "matmul_flop": 2e-11, "matmul_B": 1e-10, "head_flop": 1.5e-11, "head_B": 0.8e-10, "attention_flop": 6e-11, "attention_B": 2e-10,
    "activation_B": 1.5e-10, "experts_flop": 4e-11, "experts_B": 2e-10, "expert": 5e-6, "scan_flop": 5e-11, "scan_B": 2e-10,
    "latent_flop": 5e-11, "latent_B": 2e-10, **{f"{kind}_layer": 4e-5 for kind in RECURRENT}, **{f"{kind}_chunk": 2e-5 for kind in CHUNKED},
    "latent": 1e-5, "layer": 1.5e-5, "attention_layer": 1e-5, "kv_layer": 0.5e-5, "qk_norm": 0.5e-5, "step": 2e-4,
}  # fmt: skip
#: What somebody who knows only a data sheet might believe of it.
PRIOR = {term: (float(np.log(0.5 * seconds)), 1.0) for term, seconds in TRUTH.items()}
POINTS = (Point.prefill(64), Point.prefill(256), Point.decode(64), Point.decode(512))


def true_seconds(m_or_arch: Architecture, point: Point, form: str = "fp32", truth: dict[str, float] = TRUTH) -> float:
    """Time of one pass on the machine, without noise."""
    prompt = point.tokens if point.phase == "prefill" else point.context_tokens
    workload = Workload(prompt_tokens=prompt, output_tokens=1, batch_size=point.batch_size)
    work = pass_terms(m_or_arch, workload, PRECISIONS[form], point.phase)
    return float(sum(amount * truth[term] for term, amount in work.items()))


def dense(
    rng: np.random.Generator, layers: tuple[int, int] = (2, 16), heads: tuple[int, int] = (4, 24)
) -> Architecture:
    """A random dense architecture."""
    kv, n = int(rng.choice([1, 2, 4])), int(rng.integers(*heads))
    n = max(kv, n - n % kv)
    return Architecture(
        n_layers=int(rng.integers(*layers)), d_model=n * 32, n_heads=n, n_kv_heads=kv, d_head=32,
        d_ff=64 * int(rng.integers(2, 3 * n)), vocab_size=int(rng.choice([1000, 8000, 32000])),
    )  # fmt: skip


def record(arch: Architecture = TINY, point: Point = POINTS[2], seconds: float = 0.01, **changes: Any) -> Measurement:
    """A made-up record of one pass: process CPU time counts."""
    values: dict[str, Any] = {
        "architecture": arch, "precision": "fp32", "engine": "onnxruntime", "engine_version": "1", "device": "host",
        "options": {"threads": "1"}, "phase": point.phase, "batch_size": point.batch_size, "tokens": point.tokens,
        "context_tokens": point.context_tokens, "clock": "cpu", "cpu_s": (seconds,), "wall_s": (1.1 * seconds,),
        "campaign": "synthetic",
    }  # fmt: skip
    return Measurement(**{**values, **changes})


def observed(
    archs: Iterable[Architecture],
    *,
    noise: float = 0.02,
    visits: int = 2,
    seed: int = 0,
    points: Sequence[Point] = POINTS,
    factor: Callable[[Architecture, Point], float] = lambda arch, point: 1.0,
    **changes: Any,
) -> list[Observation]:
    """Visits to each pass with noise that only ever adds time, as other load on a machine does."""
    rng = np.random.default_rng(seed)
    out = []
    for arch in archs:
        for point in points:
            true = true_seconds(arch, point) * factor(arch, point)
            for _ in range(visits):
                out.append(record(arch, point, true * float(np.exp(rng.exponential(noise))), **changes))
    return observe(out)


def mape_pct(predicted_log: Any, observations: Sequence[Observation]) -> float:
    """Mean of |predicted / true - 1| in percent, against the machine without noise."""
    truth = [true_seconds(o.first.architecture, point_of(o.first)) for o in observations]
    return float(100 * np.mean(np.abs(np.exp(predicted_log) / truth - 1)))


def point_of(m: Measurement) -> Point:
    return Point(phase=m.phase, batch_size=m.batch_size, tokens=m.tokens, context_tokens=m.context_tokens)


class Machine:
    """A clock of its own, and an engine whose passes move it: wall time passes faster than CPU time by `stolen`."""

    def __init__(self, stolen: float = 0.1) -> None:
        self.now, self.cpu, self.stolen = 100.0, 50.0, stolen
        self.clocks = Clocks(wall=lambda: self.now, cpu=lambda: self.cpu)

    def work(self, cpu_s: float) -> None:
        self.cpu += cpu_s
        self.now += cpu_s * (1 + self.stolen)


class FakeEngine:
    """An `Engine` on a `Machine`; notes what is asked of it."""

    def __init__(self, machine: Machine | None = None, **changes: Any) -> None:
        self.machine = machine or Machine()
        self.name, self.version, self.clock = "fake", "7.0", "cpu"
        self.options: dict[str, str] = {"threads": "1"}
        self.precisions: tuple[str, ...] = ("fp32",)
        self.device_memory_B: float | None = None
        self.log: list[str] = []
        self.fail_in: Point | None = None
        for name, value in changes.items():
            setattr(self, name, value)

    def load(self, arch: Architecture, precision: str, *, max_tokens: int, seed: int = 0) -> FakeModel:
        if precision not in self.precisions:
            raise SpecError(f"fake does not run '{precision}'")
        self.log.append(f"load {arch.n_layers} {precision} {max_tokens}")
        return FakeModel(self, arch, precision)


class FakeModel:
    def __init__(self, engine: FakeEngine, arch: Architecture, precision: str) -> None:
        self.engine, self.arch, self.precision = engine, arch, precision

    def runner(self, point: Point) -> Callable[[], float | None]:
        seconds = true_seconds(self.arch, point, self.precision)

        def run() -> float | None:
            if point == self.engine.fail_in:
                raise MeasurementError("the fake engine failed in a pass")
            self.engine.machine.work(seconds)
            return seconds if self.engine.clock == "device" else None

        return run

    def close(self) -> None:
        self.engine.log.append("close")


class Book:
    """A store in memory that can refuse."""

    def __init__(self, records: Iterable[Measurement] = (), full_after: int | None = None) -> None:
        self.records, self.full_after = list(records), full_after

    def add(self, measurement: Measurement) -> None:
        if self.full_after is not None and len(self.records) >= self.full_after:
            raise MeasurementError("cannot write to the store: database or disk is full")
        self.records.append(measurement)

    def find(self, *, campaign: str | None = None) -> list[Measurement]:
        return [m for m in self.records if campaign in (None, m.campaign)]


def rows_of(observations: Sequence[Observation], phase: Phase) -> list[Observation]:
    return [o for o in observations if o.first.phase == phase]
