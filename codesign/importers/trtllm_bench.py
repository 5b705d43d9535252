"""TensorRT-LLM's `trtllm-bench latency|throughput --streaming --report_json`.

Format: `ReportUtility.get_statistics_dict` in tensorrt_llm/bench/dataclasses/reporting.py of NVIDIA/TensorRT-LLM. It holds
percentiles over requests, no raw times, and both phases only when streamed. Requests that overlap share steps, so only a
concurrency of one says what a pass takes.
"""

from __future__ import annotations

from typing import Any

from codesign.errors import CodesignError, SpecError
from codesign.hf_config import read_config
from codesign.importers.base import Imported, Request, json_values, kv_objection, number
from codesign.importers.names import Where, given_precision, gpu_device, known_architecture, place
from codesign.measurement import Measurement
from codesign.operators import Phase
from codesign.workload import PRECISIONS, Precision

__all__ = ["read_trtllm_bench"]

#: QuantAlgo of tensorrt_llm/quantization/mode.py.
_FORMATS = {"FP8": "fp8", "NVFP4": "nvfp4", "W4A16": "w4a16", "W4A16_AWQ": "w4a16", "W4A16_GPTQ": "w4a16", "W8A16": "w8a16",
            "W8A16_GPTQ": "w8a16", "W8A8_SQ_PER_CHANNEL": "int8", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": "int8",
            "W8A8_SQ_PER_TENSOR_PLUGIN": "int8"}  # fmt: skip
_TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
_MAX_CONCURRENCY = 1.05


def read_trtllm_bench(text: str, request: Request) -> Imported:
    """Prefill from the time to first token, decode from the time per output token: medians over requests.

    Raises:
        SpecError: not such a report, or what it does not say is missing.
    """
    (report, *_) = json_values(text, request.path, "trtllm-bench --report_json")
    engine, world, asked = (_part(report, key) for key in ("engine", "world_info", "request_info"))
    if (number(world.get("world_size")) or 1) != 1:
        raise SpecError(f"{request.path}: ran on {world['world_size']} GPUs; only one device is modelled")
    if report.get("decoding_stats"):
        raise SpecError(f"{request.path}: speculative decoding, which is not modelled")
    concurrency = number(asked.get("avg_num_concurrent_requests")) or 0.0
    if concurrency > _MAX_CONCURRENCY:
        raise SpecError(
            f"{request.path}: {concurrency:.3g} requests ran at once and share steps; run with --concurrency 1"
        )
    if not isinstance(report.get("streaming_metrics"), dict):
        raise SpecError(f"{request.path}: not streamed, so prefill and decode are not told apart; run with --streaming")
    where, precision = _place(report, request), _precision(engine, request)
    out = Imported(kind="trtllm-bench")
    out.note(where.note)
    for phase in ("prefill", "decode"):
        try:
            out.measurements.append(_measurement(phase, report, engine, asked, where, precision, request))
        except CodesignError as error:
            out.skipped.append((phase, str(error)))
    out.note(
        "trtllm-bench writes percentiles: one time a pass; the time to first token holds the server's overhead too"
    )
    return out


def _part(report: object, key: str) -> dict[str, Any]:
    part = report.get(key) if isinstance(report, dict) else None
    if not isinstance(part, dict):
        raise SpecError(f"not a report of trtllm-bench: it has no {key}")
    return part


def _place(report: dict[str, Any], request: Request) -> Where:
    machine = report.get("machine")
    name = str(machine.get("name", "")) if isinstance(machine, dict) else ""
    found = request.device or gpu_device(name)
    if found is None:
        raise SpecError(f"{request.path}: GPU {name!r} is not one device of the catalogue; give --device")
    return place(found, request.power_mode)


def _precision(engine: dict[str, Any], request: Request) -> Precision:
    algorithm = engine.get("quantization")
    stated = _FORMATS.get(str(algorithm)) if algorithm else _TYPES.get(str(engine.get("dtype")))
    wanted = given_precision(request.precision)
    if wanted is not None:
        return wanted
    if stated is None:
        raise SpecError(
            f"{request.path}: quantisation {algorithm or engine.get('dtype')!r} is not one of codesign's; give --precision"
        )
    return PRECISIONS[stated]


def _measurement(
    phase: Phase, report: dict[str, Any], engine: dict[str, Any], asked: dict[str, Any], where: Where, precision: Precision,
    request: Request,
) -> Measurement:  # fmt: skip
    model_id = str(engine.get("model") or "")
    arch = read_config(request.model) if request.model else known_architecture(model_id)
    if arch is None:
        raise SpecError(f"model '{model_id[:80]}' is not bundled; give --model with its config.json")
    metrics = report["streaming_metrics"]
    prompt, generated = (_positive(asked, key) for key in ("avg_input_length", "avg_output_length"))
    short = "ttft" if phase == "prefill" else "tpot"
    spread = metrics.get(f"{short}_percentiles")
    median = number(spread.get("p50")) if isinstance(spread, dict) else None
    milliseconds = median if median is not None else _positive(metrics, f"avg_{short}_ms")
    if milliseconds <= 0:
        raise SpecError(f"{short} is {milliseconds} ms; were any tokens generated?")
    # The first of n tokens comes from prefill; decode step t of 0 .. n - 2 has prompt + t tokens in its cache.
    context = 0 if phase == "prefill" else max(round(prompt + (generated - 2) / 2), 0)
    kv_bits = 8.0 if str(engine.get("kv_cache_dtype")).upper() in ("FP8", "INT8") else 16.0
    if phase == "decode" and generated < 2:
        raise SpecError("one token a request: no decode step")
    if objection := kv_objection(arch, precision, phase, context, 1, kv_bits):
        raise SpecError(objection)
    return Measurement(
        architecture=arch, precision=precision.name, engine="tensorrt-llm", engine_version=str(engine.get("version") or ""),
        options={"backend": str(engine.get("backend") or ""), "kv_cache": str(engine.get("kv_cache_dtype") or "")},
        phase=phase, tokens=round(prompt) if phase == "prefill" else 1, context_tokens=context, device=where.device,
        power_mode=where.power_mode, wall_s=(milliseconds * 1e-3,), flags=("imported",), source="trtllm-bench",
    )  # fmt: skip


def _positive(row: dict[str, Any], key: str) -> float:
    value = number(row.get(key))
    if value is None or not 0 < value <= 1e9:
        raise SpecError(f"{key} is {str(row.get(key))[:40]}; allowed: above zero")
    return value
