"""One visit: load a model, time its passes, and hand over a record of each the moment it is made."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from codesign.architecture import Architecture
from codesign.errors import MeasurementError
from codesign.measurement import Measurement
from codesign.operators import kv_bytes_per_token, weight_bytes
from codesign.profilers.base import Engine, Point, Task
from codesign.profilers.compose import compose
from codesign.profilers.engines import open_engine
from codesign.profilers.host import detect_host
from codesign.profilers.memory import PeakMemory
from codesign.profilers.meters import PowerMeter, find_meter
from codesign.profilers.state import read_state, throttled
from codesign.profilers.timing import Clocks, time_points, warm_up
from codesign.units import format_bytes
from codesign.workload import PRECISIONS

__all__ = ["check_memory", "needed_bytes", "run_task"]

_ENERGY_WINDOW_S = 3.0  # meters update about every 0.1 s; NVML's counter needs seconds (arXiv 2312.02741)
_COPIES = 2.5  # engines keep the weights beside a copy packed for their kernels while they load


def needed_bytes(arch: Architecture, precision: str, points: Sequence[Point]) -> float:
    """Bytes that a visit needs: 2.5 times the weights (engines pack a copy), the cache of every pass twice (in and out; the
    passes are timed in turns, so all are held), activations of the largest.
    """
    form = PRECISIONS[precision]
    held = sum(point.batch_size * (point.context_tokens + point.tokens) for point in points)
    new = max(point.batch_size * point.tokens for point in points)
    act = form.activation_bits / 8
    cache = 2 * float(kv_bytes_per_token(arch, form)) * arch.n_layers * held
    hidden = max(arch.d_ff, arch.n_active_experts * arch.d_ff_expert)
    scores = arch.n_heads * max(p.batch_size * p.tokens * (p.tokens + p.context_tokens) for p in points)
    return _COPIES * float(weight_bytes(arch, form)) + cache + act * (4 * new * (arch.d_model + hidden) + 2 * scores)


def check_memory(arch: Architecture, precision: str, points: Sequence[Point], available_B: float | None) -> None:
    """Refuse a model that would not fit, before it is built.

    Raises:
        MeasurementError: more is needed than is available.
    """
    needed = needed_bytes(arch, precision, points)
    if available_B is not None and needed > available_B:
        raise MeasurementError(
            f"{arch.n_layers} layers x {arch.d_model} at {precision} needs about {format_bytes(needed)} to run (weights, a "
            f"packed copy, cache, activations) and {format_bytes(available_B)} is free; take a smaller model or fewer bits"
        )


def run_task(
    task: Task,
    *,
    on_record: Callable[[Measurement], None] | None = None,
    engine: Engine | None = None,
    clocks: Clocks | None = None,
    root: str = "/",
) -> list[Measurement]:
    """Run one visit on this machine.

    Args:
        task: what to run.
        on_record: called with each record as soon as it is made.
        engine: an open engine (default: the task's, opened here). clocks, root: for tests.

    Raises:
        MeasurementError: the model does not fit, or the engine or a clock failed.
        SpecError, MissingExtraError: see `open_engine` and `Engine.load`.
    """
    engine = engine or open_engine(task.engine, task.engine_options)
    records: list[Measurement] = []

    def keep(record: Measurement) -> None:
        records.append(record)
        if on_record is not None:
            on_record(record)

    if task.depths is None:
        _visit(task, task.architecture, keep, engine, clocks, root)
        return records
    for depth in task.depths:
        _visit(task, task.architecture.evolve(n_layers=depth), keep, engine, clocks, root)
    for record in compose(records, task.architecture):
        keep(record)
    return records


def _visit(
    task: Task,
    arch: Architecture,
    keep: Callable[[Measurement], None],
    engine: Engine,
    clocks: Clocks | None,
    root: str,
) -> None:
    """Load one model and time its passes."""
    facts = detect_host(root)
    free = engine.device_memory_B if engine.device_memory_B is not None else facts.memory_available_B
    check_memory(arch, task.precision, task.points, free)
    meter = find_meter(root, accelerator=engine.clock == "device")
    longest = max(point.context_tokens + point.tokens for point in task.points)
    with _pinned(engine), PeakMemory() as memory:
        model = engine.load(arch, task.precision, max_tokens=longest)
        try:
            runs = {point: model.runner(point) for point in task.points}
            warm_up(runs[task.points[0]], task.settings, clocks or Clocks())  # an idle clock says nothing of throttling
            before = dict(read_state(root))
            timed = time_points(runs, task.settings, engine.clock, clocks)
            after = dict(read_state(root))
            slower, why = throttled(before, after)
            for point, times in timed.items():
                state = {"before": before, "after": after} | ({"throttled": why} if slower else {})
                energy = _energy(runs[point], meter, times.wall_s, state)
                keep(
                    Measurement(
                        architecture=arch, precision=task.precision, engine=task.engine, engine_version=engine.version,
                        options=dict(engine.options), phase=point.phase, batch_size=point.batch_size, tokens=point.tokens,
                        context_tokens=point.context_tokens, device=task.device, power_mode=task.power_mode,
                        clock=engine.clock, wall_s=times.wall_s, cpu_s=times.cpu_s if engine.clock == "cpu" or min(times.cpu_s) > 0 else (), device_s=times.device_s,
                        epochs=times.epochs, peak_memory_B=memory.peak_B(), state=state, host=facts.summary(),
                        flags=(*times.flags, *(("throttled",) if slower else ())), campaign=task.campaign,
                        created_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"), **energy,
                    )
                )  # fmt: skip
        finally:
            model.close()


def _energy(
    run: Callable[[], float | None], meter: PowerMeter | None, wall_s: Sequence[float], state: dict[str, Any]
) -> Mapping[str, Any]:
    """Energy of one pass and mean power, over a window of seconds of its own; empty where nothing measures it.

    What was metered, or why nothing was, goes into the state.
    """
    if meter is None:
        return {}
    each = sorted(wall_s)[len(wall_s) // 2]
    passes = math.ceil(max(_ENERGY_WINDOW_S, meter.min_seconds) / each)
    meter.start()
    for _ in range(passes):
        run()
    reading = meter.stop()
    if reading is None:
        state["energy"] = f"{meter.name}: {meter.reason}"
        return {}
    state["energy"] = f"{reading.source} over {reading.seconds:.1f} s; {reading.note}".rstrip("; ")
    return {"energy_J": reading.energy_J / passes, "power_W": reading.mean_power_W}


@contextmanager
def _pinned(engine: Engine) -> Iterator[None]:
    """Keep a CPU engine's threads on CPUs of their own: the last ones that this process may use."""
    threads = engine.options.get("threads", "")
    if not hasattr(os, "sched_setaffinity") or not threads.isdigit() or engine.clock == "device":
        yield
        return
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, set(sorted(allowed)[-int(threads) :]))
    except OSError as error:
        raise MeasurementError(f"cannot pin to {threads} CPU(s): {error}; give fewer --threads") from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
