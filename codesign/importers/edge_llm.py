"""TensorRT Edge-LLM: `llm_bench --outputDir` (e2e_*.csv) and `llm_inference --profileOutputFile` (JSON).

Formats, in NVIDIA/TensorRT-Edge-LLM: `writeE2ECsv` in examples/utils/benchLogger.cpp with the timing of
examples/llm/llm_bench.cpp (CUDA events; prefill and --osl 1: mean of --iterations; --osl n: n - 1 decode steps in a row), and
`addJsonPrefillSummary`, `addJsonGenerationSummary`, `addJsonTimingStages` in examples/utils/profileFormatter.cpp. Neither
names the model, its precision or the board. The layer_*.csv files hold times under the layer profiler and are refused.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from codesign.architecture import Architecture
from codesign.errors import CodesignError, SpecError
from codesign.hf_config import read_config
from codesign.importers.base import Imported, Request, json_values, number, whole
from codesign.importers.names import Where, given_precision, place
from codesign.measurement import Measurement
from codesign.operators import Phase

__all__ = ["read_edge_llm"]


def read_edge_llm(text: str, request: Request) -> Imported:
    """Prefill and decode passes of the file; the times are means.

    Raises:
        SpecError: --device, --model or --precision is missing, or the file cannot be read.
    """
    wanted = {"--device": request.device, "--model": request.model, "--precision": request.precision}
    precision = given_precision(request.precision)
    if not (request.device and request.model and precision):
        missing = ", ".join(flag for flag, value in wanted.items() if not value)
        raise SpecError(f"{request.path}: files of Edge-LLM do not say what ran; give {missing}")
    target = _Target(read_config(request.model), precision.name, place(request.device, request.power_mode))
    out = Imported(kind="edge-llm")
    out.note(target.where.note)
    out.note("Edge-LLM writes means: one time a pass")
    if text.lstrip().startswith("{"):
        _read_profile(text, request, target, out)
    else:
        _read_csv(text, request, target, out)
    return out


class _Target:
    def __init__(self, arch: Architecture, precision: str, where: Where) -> None:
        self.arch, self.precision, self.where = arch, precision, where

    def measurement(
        self, phase: Phase, milliseconds: float, tokens: int, context: int, batch: int, memory: float | None
    ) -> Measurement:
        return Measurement(
            architecture=self.arch, precision=self.precision, engine="tensorrt-edge-llm", phase=phase, batch_size=batch,
            tokens=tokens, context_tokens=context, device=self.where.device, power_mode=self.where.power_mode, clock="device",
            device_s=(milliseconds * 1e-3,), peak_memory_B=memory, flags=("imported",), source="tensorrt-edge-llm",
        )  # fmt: skip


def _read_csv(text: str, request: Request, target: _Target, out: Imported) -> None:
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        rows = [(f"line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise SpecError(f"{request.path} is not the CSV of Edge-LLM's llm_bench ({error}); was it cut off?") from error
    if "e2e_time_ms" not in (reader.fieldnames or ()):
        raise SpecError(
            f"{request.path} is no e2e_*.csv of llm_bench (layer_*.csv is timed under a profiler); give that file"
        )
    for where, row in rows:
        try:
            out.measurements.append(_csv_row(row, target))
        except CodesignError as error:
            out.skipped.append((where, str(error)))
    if any(m.phase == "prefill" for m in out.measurements):
        out.note("llm_bench does not write --reuseKVLen: prefill on an empty cache assumed")


def _csv_row(row: dict[str, Any], target: _Target) -> Measurement:
    mode, batch = row.get("mode"), whole(row, "batch_size", low=1)
    total = _positive(row, "e2e_time_ms")
    if mode == "prefill":
        return target.measurement("prefill", total, whole(row, "input_len", low=1), 0, batch, None)
    if mode == "decode":
        # Step t of 0 .. n - 1 has past + t tokens in its cache: past + (n - 1) / 2 in the mean, rounded half up.
        past, steps = whole(row, "past_kv_len"), max(whole(row, "osl", low=1) - 1, 1)
        return target.measurement("decode", total / steps, 1, past + steps // 2, batch, None)
    raise SpecError(f"mode '{str(mode)[:40]}'; only prefill and decode are modelled")


def _read_profile(text: str, request: Request, target: _Target, out: Imported) -> None:
    (data, *_) = json_values(text, request.path, "llm_inference --profileOutputFile")
    if not isinstance(data, dict):
        raise SpecError(f"{request.path} is not the profile of llm_inference")
    if request.batch not in (None, 1):
        raise SpecError(
            f"{request.path}: the profile adds up the tokens of a batch; only batch 1 can be read. Use llm_bench"
        )
    out.note("batch 1 assumed; prompts and outputs of several requests enter as their mean length")
    memory = number(data.get("peak_unified_memory_bytes") or data.get("peak_gpu_memory_bytes")) or None
    prefill, generation = data.get("prefill"), data.get("generation")
    prompt: float | None = None
    try:
        prompt = _positive(prefill, "average_tokens_per_run")
        if whole(dict(prefill or {}), "reused_tokens", default=0):
            raise SpecError("part of the prompts came from the cache; run without reuse")
        milliseconds = _positive(prefill, "average_time_per_run_ms")
        out.measurements.append(target.measurement("prefill", milliseconds, round(prompt), 0, 1, memory))
    except CodesignError as error:
        out.skipped.append(("prefill", str(error)))
    try:
        if any(key in data for key in ("eagle_generation", "mtp_generation", "spec_decode_generation")):
            raise SpecError("speculative decoding, which is not modelled")
        if prompt is None:
            raise SpecError("the prompt's length is unknown, so the context is")
        steps, milliseconds = (
            _positive(generation, "average_tokens_per_run"),
            _positive(generation, "average_time_per_token_ms"),
        )
        context = round(prompt + (steps - 1) / 2)
        out.measurements.append(target.measurement("decode", milliseconds, 1, context, 1, memory))
    except CodesignError as error:
        out.skipped.append(("generation", str(error)))


def _positive(row: object, key: str) -> float:
    value = number(row.get(key)) if isinstance(row, dict) else None
    if value is None or not 0 < value <= 1e12:
        raise SpecError(
            f"{key} is {str(row.get(key))[:40] if isinstance(row, dict) else 'missing'}; allowed: above zero"
        )
    return value
