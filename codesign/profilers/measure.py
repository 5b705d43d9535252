"""One visit: load a model, time its passes, and hand over a record of each the moment it is made."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from codesign.architecture import Architecture
from codesign.cache import cache_bytes
from codesign.errors import CodesignError, MeasurementError
from codesign.measurement import Measurement
from codesign.operators import weight_bytes
from codesign.profilers.base import Engine, LoadedModel, Point, Task, first_line, uses_accelerator
from codesign.profilers.board import check_board, mode_options
from codesign.profilers.compose import compose
from codesign.profilers.engines import open_engine
from codesign.profilers.host import HostFacts, detect_host
from codesign.profilers.memory import PeakMemory
from codesign.profilers.meters import PowerMeter, find_meter
from codesign.profilers.state import read_state, throttled
from codesign.profilers.timing import Clocks, time_points, warm_up
from codesign.units import format_bytes
from codesign.workload import PRECISIONS, Workload

__all__ = ["check_memory", "needed_bytes", "run_task"]

_LOG = logging.getLogger(__name__)
_ENERGY_WINDOW_S = 3.0  # meters update about every 0.1 s; NVML's counter needs seconds (arXiv 2312.02741)
_COPIES = 2.5  # engines keep the weights beside a copy packed for their kernels while they load
#: TensorRT holds about five at once while it builds, on one memory where CPU and GPU share it: the graph's arrays, the
#: parser's copy, the builder's weights, the plan, and the engine read back from it.
_COPIES_OF = {"tensorrt": 5.0}


def needed_bytes(arch: Architecture, precision: str, points: Sequence[Point], copies: float = _COPIES) -> float:
    """Bytes that a visit needs: `copies` times the weights (engines pack a copy), the cache of every pass twice (in and out;
    the passes are timed in turns, so all are held), activations of the largest.
    """
    form = PRECISIONS[precision]
    held = sum(point.batch_size * (point.context_tokens + point.tokens) for point in points)
    new = max(point.batch_size * point.tokens for point in points)
    act = form.activation_bits / 8
    kept = Workload(prompt_tokens=max(held - 1, 0), output_tokens=1)
    cache = 2 * float(cache_bytes(arch, kept, form))
    hidden = max(arch.d_ff, arch.n_active_experts * arch.d_ff_expert)
    scores = arch.n_heads * max(p.batch_size * p.tokens * (p.tokens + p.context_tokens) for p in points)
    return copies * float(weight_bytes(arch, form)) + cache + act * (4 * new * (arch.d_model + hidden) + 2 * scores)


def check_memory(
    arch: Architecture, precision: str, points: Sequence[Point], available_B: float | None, copies: float = _COPIES
) -> None:
    """Refuse a model that would not fit, before it is built.

    Raises:
        MeasurementError: more is needed than is available.
    """
    needed = needed_bytes(arch, precision, points, copies)
    if available_B is not None and needed > available_B:
        raise MeasurementError(
            f"{arch.n_layers} layers x {arch.d_model} at {precision} needs about {format_bytes(needed)} to load and "
            f"run ({copies:g} times the weights, cache, activations) and {format_bytes(available_B)} is free; take a smaller "
            "model or fewer bits"
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
        MeasurementError: this machine is not the task's device or not in its power mode, the model does not fit, or the
            engine (whatever it raises) or a clock failed.
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
    facts, accelerator = detect_host(root), uses_accelerator(engine)
    if not task.force:  # at each visit: a board's mode may be changed in the middle of a campaign
        check_board(facts, task.device, task.power_mode, accelerator=accelerator)
    free, copies = _free_B(engine, facts), _COPIES_OF.get(engine.name, _COPIES)
    check_memory(arch, task.precision, task.points, free, copies)
    meter = find_meter(root, accelerator=accelerator) if task.energy else None
    with _pinned(engine), PeakMemory() as memory, _loaded(engine, task, arch) as model:
        with _told(engine):
            runs = {point: model.runner(point) for point in task.points}
            warm_up(runs[task.points[0]], task.settings, clocks or Clocks())  # an idle clock says nothing of throttling
        before = dict(read_state(root))
        with _told(engine):
            timed = time_points(runs, task.settings, engine.clock, clocks)
        after = dict(read_state(root))
        slower, why = throttled(before, after, accelerator=accelerator)
        for point, times in timed.items():
            state = {"before": before, "after": after} | ({"throttled": why} if slower else {})
            energy = _energy(engine, runs[point], meter, times.wall_s, state)
            keep(
                Measurement(
                    architecture=arch, precision=task.precision, engine=task.engine, engine_version=engine.version,
                    options={**engine.options, **mode_options(facts, task.power_mode)}, phase=point.phase,
                    batch_size=point.batch_size, tokens=point.tokens, context_tokens=point.context_tokens,
                    device=task.device, power_mode=task.power_mode, clock=engine.clock, wall_s=times.wall_s,
                    cpu_s=times.cpu_s if engine.clock == "cpu" or min(times.cpu_s) > 0 else (), device_s=times.device_s,
                    epochs=times.epochs, peak_memory_B=None if accelerator else memory.peak_B(), state=state,
                    host=facts.summary(), flags=(*times.flags, *(("throttled",) if slower else ())),
                    campaign=task.campaign, created_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                    **energy,
                )
            )  # fmt: skip


def _free_B(engine: Engine, facts: HostFacts) -> float | None:
    """Memory for the model: the accelerator's where it has its own, else the host's."""
    if engine.device_memory_B is not None:
        return engine.device_memory_B
    own = facts.gpu_memory_B if uses_accelerator(engine) and facts.jetson is None else None
    return own if own is not None else facts.memory_available_B


@contextmanager
def _loaded(engine: Engine, task: Task, arch: Architecture) -> Iterator[LoadedModel]:
    """The task's model in the engine, closed at the end; what ends the visit is raised and no later failure to close."""
    longest = max(point.context_tokens + point.tokens for point in task.points)
    with _told(engine):
        model = engine.load(arch, task.precision, max_tokens=longest)
    try:
        yield model
    except BaseException:
        try:
            model.close()
        except Exception as error:
            _LOG.warning("%s failed to close the model, too: %s", engine.name, first_line(error))
        raise
    with _told(engine):
        model.close()


@contextmanager
def _told(engine: Engine) -> Iterator[None]:
    """Whatever an engine raises (CUDA out of memory, onnxruntime's own exceptions) fails this model, not the campaign."""
    try:
        yield
    except CodesignError:
        raise
    except Exception as error:
        raise MeasurementError(
            f"engine {engine.name} {engine.version} failed ({type(error).__name__}): {first_line(error)}"
        ) from error


def _energy(
    engine: Engine,
    run: Callable[[], float | None],
    meter: PowerMeter | None,
    wall_s: Sequence[float],
    state: dict[str, Any],
) -> Mapping[str, Any]:
    """Energy of one pass and mean power, over a window of seconds of its own; empty where nothing measures it.

    What was metered, or why nothing was, goes into the state.
    """
    if meter is None:
        return {}
    each = sorted(wall_s)[len(wall_s) // 2]
    passes = math.ceil(max(_ENERGY_WINDOW_S, meter.min_seconds) / each)
    meter.start()
    with _told(engine):
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
    if not hasattr(os, "sched_setaffinity") or not threads.isdigit() or uses_accelerator(engine):
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
