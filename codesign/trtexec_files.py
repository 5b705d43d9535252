"""The two JSON files that `trtexec` writes: times of every pass (--exportTimes) and times by layer (--exportProfile).

Format: `exportJSONTrace` and `exportJSONProfile` in samples/common/sampleReporting.cpp of NVIDIA/TensorRT. Both write
milliseconds. TensorRT 8.2 and older leave out the median and add `endToEndMs`; a layer that never ran gets `nan`, which
is no JSON; layer names are written without escapes.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.errors import SchemaError, SpecError

__all__ = ["LayerTime", "TrtTimes", "read_trtexec_profile", "read_trtexec_times"]

_BARE = re.compile(r"(:\s*)[-+]?(?:nan|inf)(?=\s*[,}])")


@dataclass(frozen=True, slots=True)
class TrtTimes:
    """One pass, in seconds: kernels (`computeMs`), copies to and from the device, and the sum of the three."""

    compute_s: float
    latency_s: float
    h2d_s: float
    d2h_s: float


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer over all profiled passes, in seconds: total, mean and median of a pass, share of the total (0 to 1)."""

    name: str
    time_s: float
    average_s: float
    median_s: float | None
    share: float


def read_trtexec_times(path: Path) -> list[TrtTimes]:
    """Read a file of `trtexec --exportTimes`: one record a pass, in order.

    Times of copies are 0 where `--noDataTransfers` left them out.

    Raises:
        SpecError: the file cannot be read.
        SchemaError: not such a file, no pass in it, or a compute time that is not above zero.
    """
    out = []
    for number, row in enumerate(_records(path, "--exportTimes"), start=1):
        compute_s, h2d_s, d2h_s = (
            _seconds(row, key, path, f"record {number}") for key in ("computeMs", "h2dMs", "d2hMs")
        )
        if compute_s <= 0:
            raise SchemaError(
                f"{path}: record {number} has computeMs {row['computeMs']}; a pass takes longer than that"
            )
        both = "latencyMs" in row
        latency_s = _seconds(row, "latencyMs", path, f"record {number}") if both else h2d_s + compute_s + d2h_s
        out.append(TrtTimes(compute_s=compute_s, latency_s=latency_s, h2d_s=h2d_s, d2h_s=d2h_s))
    if not out:
        raise SchemaError(f"{path}: holds no pass; run trtexec again with more --iterations or --duration")
    return out


def read_trtexec_profile(path: Path) -> list[LayerTime]:
    """Read a file of `trtexec --exportProfile`: one record a layer, in the order of execution.

    Layers that never ran are left out. Profiling slows the passes: use the shares, not the sum.

    Raises:
        SpecError: the file cannot be read.
        SchemaError: not such a file, or no layer in it.
    """
    out = []
    for number, row in enumerate(_records(path, "--exportProfile"), start=1):
        if "name" not in row and "count" in row:
            continue
        name = row.get("name")
        if not isinstance(name, str):
            raise SchemaError(f"{path}: record {number} has no layer name; is it a file of trtexec --exportProfile?")
        time_s = _seconds(row, "timeMs", path, f"layer '{name}'")
        if time_s == 0 and row.get("averageMs") is None:
            continue  # never ran
        out.append(
            LayerTime(
                name=name,
                time_s=time_s,
                average_s=_seconds(row, "averageMs", path, f"layer '{name}'"),
                median_s=None if row.get("medianMs") is None else _seconds(row, "medianMs", path, f"layer '{name}'"),
                share=math.nan,
            )
        )
    if not out:
        raise SchemaError(f"{path}: holds no layer; run trtexec with --dumpProfile --separateProfileRun")
    total = sum(layer.time_s for layer in out)
    if total <= 0:
        raise SchemaError(f"{path}: all layers take 0 ms; profile again")
    return [LayerTime(x.name, x.time_s, x.average_s, x.median_s, x.time_s / total) for x in out]


def _records(path: Path, flag: str) -> list[dict[str, Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        data = json.loads(_BARE.sub(r"\1null", text))
    except ValueError:
        try:  # backslashes in layer names are not escaped by trtexec
            data = json.loads(_BARE.sub(r"\1null", text).replace("\\", "\\\\"))
        except ValueError as error:
            raise SchemaError(f"{path}: not the JSON of trtexec {flag} ({error}); was trtexec interrupted?") from error
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise SchemaError(f"{path}: not the output of trtexec {flag}, which is a list of records")
    return data


def _seconds(row: dict[str, Any], key: str, path: Path, where: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        given = f"{key} {value!r}" if key in row else f"no {key}"
        raise SchemaError(f"{path}: {where} has {given}; allowed: milliseconds of at least 0")
    return float(value) * 1e-3
