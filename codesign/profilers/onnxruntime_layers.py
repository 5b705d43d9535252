"""Seconds of each node of an onnxruntime graph, in passes of their own."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from codesign.errors import MeasurementError
from codesign.trtexec_files import LayerTime

__all__ = ["node_times", "profiled_options"]

_SUFFIX = "_kernel_time"


def profiled_options(options: Any, folder: Path) -> Any:
    """Session options that write onnxruntime's profile into a folder."""
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    return options


def node_times(path: Path, passes: int, skip: int) -> list[LayerTime]:
    """Read onnxruntime's profile (JSON of Chrome's tracing format) by node, in the order of execution.

    Nodes are those of the optimised graph; `name (operator)`. onnxruntime times every node on its own, so the sum is a
    little more than a pass.

    Args:
        passes: how many were run; skip: how many of them, at the beginning, do not count.

    Raises:
        MeasurementError: not such a file, or no node in it.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasurementError(f"onnxruntime's profile {path} cannot be read: {error}") from error
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith(_SUFFIX):
            operator = event.get("args", {}).get("op_name", "?")
            name = f"{str(event['name']).removesuffix(_SUFFIX)} ({operator})"
            times.setdefault(name, []).append(1e-6 * float(event["dur"]))
    kept = {name: each[skip:] for name, each in times.items() if len(each) > skip}
    total = sum(map(sum, kept.values()))
    if total <= 0:
        raise MeasurementError("onnxruntime reported no node times; its profiler is off in this build")
    return [
        LayerTime(
            name=name, time_s=sum(each), average_s=sum(each) / (passes - skip), median_s=statistics.median(each),
            share=sum(each) / total,
        )
        for name, each in kept.items()
    ]  # fmt: skip
