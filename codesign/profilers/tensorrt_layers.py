"""Seconds of each layer of a TensorRT engine, in passes of their own."""

from __future__ import annotations

import statistics
from typing import Any

from codesign.errors import MeasurementError
from codesign.profilers.base import Point
from codesign.profilers.tensorrt_engine import TensorRTModel
from codesign.trtexec_files import LayerTime

__all__ = ["layer_profile"]


def layer_profile(model: TensorRTModel, point: Point, passes: int = 10) -> list[LayerTime]:
    """Profile the layers of one pass, in the order of execution, over `passes` passes that are not timed otherwise.

    TensorRT's profiler waits after every layer, so the sum is more than an unprofiled pass: use the shares. Layers are
    TensorRT's, most of them fusions of several operators. They come as `read_trtexec_profile` gives them.

    Raises:
        MeasurementError: the engine reports no layer (it was built without layer names).
    """
    run = model.prepare(point, cuda_graph=False)  # a graph would hide the layers
    run()  # what TensorRT does once
    times: dict[str, list[float]] = {}
    profiler = _profiler(model.trt, times)
    run.context.profiler = profiler
    for _ in range(passes):
        run()
    total_s = sum(map(sum, times.values()))
    if total_s <= 0:
        raise MeasurementError("TensorRT reported no layer times; profile an engine that it built with layer names")
    return [
        LayerTime(
            name=name, time_s=sum(each), average_s=sum(each) / passes, median_s=statistics.median(each),
            share=sum(each) / total_s,
        )
        for name, each in times.items()
    ]  # fmt: skip


def _profiler(trt: Any, times: dict[str, list[float]]) -> Any:
    """A profiler that notes TensorRT's milliseconds as seconds."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms * 1e-3)

    return Profiler()
