"""llama.cpp's `llama-bench`: the rows of any of its output formats as measurements.

Fields and formats: `test::get_fields` and the printers in tools/llama-bench/llama-bench.cpp of ggml-org/llama.cpp, and
tools/llama-bench/README.md. A row is one test repeated `-r` times: prompt processing (n_prompt), generation (n_gen), or both
one after the other, on a cache of n_depth tokens. Times leave out tokenising and sampling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from codesign.errors import CodesignError, SpecError
from codesign.importers.base import Imported, Request, kv_objection, number, seconds_list, whole
from codesign.importers.llama_bench_files import Row, rows_of
from codesign.importers.names import Where, cpu_device, gguf_format, gguf_model, given_precision, gpu_device, place
from codesign.measurement import Measurement
from codesign.operators import Phase
from codesign.workload import PRECISIONS, Precision

__all__ = ["read_llama_bench"]

_CPU_BACKENDS = {"cpu", "blas", "zendnn", "accelerate", "openblas"}
_OPTIONS = ("n_batch", "n_ubatch", "flash_attn", "type_k", "type_v")
_KV_BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "q8_0": 8.5,
    "q5_1": 6.0,
    "q5_0": 5.5,
    "q4_1": 5.0,
    "q4_0": 4.5,
    "iq4_nl": 4.5,
}


def read_llama_bench(text: str, request: Request) -> Imported:
    """Read llama-bench's JSON, JSON Lines, CSV, Markdown or SQL.

    Raises:
        SpecError: no such file, or no device can be found for any row.
    """
    out = Imported(kind="llama-bench")
    rows = rows_of(text, request.path)
    if not rows:
        raise SpecError(f"{request.path} holds no result of llama-bench; was it stopped before its first test ended?")
    wanted = given_precision(request.precision)
    _check_places([row for _, row in rows if not isinstance(row, str)], request)
    for where, row in rows:
        try:
            if isinstance(row, str):
                raise SpecError(row)
            out.measurements.append(_measurement(row, request, wanted, out))
        except CodesignError as error:
            out.skipped.append((where, str(error)))
    return out


def _check_places(rows: list[Row], request: Request) -> None:
    if request.device is not None:
        place(request.device, request.power_mode)
        return
    stated = {_hardware(row) for row in rows}
    if not any(_found(text, cpu) for text, cpu in stated):
        names = ", ".join(sorted(repr(text) for text, _ in stated if text))
        said = f"says only {names}" if names else "does not say which device it ran on"
        raise SpecError(f"{request.path} {said}; give --device NAME (see 'codesign devices')")


def _backends(row: Row) -> set[str]:
    return {part.strip().lower() for part in str(row.get("backends") or "").split(",") if part.strip()}


def _hardware(row: Row) -> tuple[str, bool]:
    """What a row says about the device it ran on, and whether that is the CPU."""
    backends = _backends(row)
    cpu = (bool(backends) and backends <= _CPU_BACKENDS) or str(row.get("devices", "")) == "none"
    return str(row.get("cpu_info" if cpu else "gpu_info") or "").strip(), cpu


def _found(text: str, cpu: bool) -> str | None:
    return (cpu_device(text) if cpu else gpu_device(text)) if text else None


def _place(row: Row, request: Request) -> Where:
    text, cpu = _hardware(row)
    found = _found(text, cpu)
    if request.device is None:
        if found is None:
            raise SpecError(f"{'CPU' if cpu else 'GPU'} {text!r} is not one device of the catalogue; give --device")
        where = place(found, request.power_mode)
    else:
        where = place(request.device, request.power_mode)
        if cpu != (where.kind == "cpu"):
            ran = (
                "CPU"
                if cpu
                else f"GPU {text!r}"
                if text
                else f"back end {', '.join(sorted(_backends(row))) or 'unknown'}"
            )
            raise SpecError(f"ran on the {ran}, and {where.device} is a {where.kind.upper()}")
        if found is not None and not request.device.endswith(".toml") and where.device not in (found, "host"):
            raise SpecError(f"ran on {text!r} ({found}), not on --device {where.device}")
    if not cpu:
        _check_one_gpu(row, text)
    return where


def _check_one_gpu(row: Row, text: str) -> None:
    if "rpc" in _backends(row):
        raise SpecError("ran over RPC on another machine too")
    several = len([part for part in text.split(", ") if part.strip()]) > 1
    if several and str(row.get("split_mode", "layer")) != "none" and "/" not in str(row.get("devices", "")):
        raise SpecError(f"ran on several GPUs ({text}); only one device is modelled. Run with -sm none")
    if "/" in str(row.get("devices", "")):
        raise SpecError(f"ran on several devices ({row['devices']}); only one is modelled")


def _check_offload(row: Row, n_layers: int) -> None:
    """The whole model must be on the GPU: n_gpu_layers counts the output head as one more layer; -1 means all."""
    layers = whole(row, "n_gpu_layers", low=-10, default=-1)
    if 0 <= layers <= n_layers:
        raise SpecError(
            f"{layers} of {n_layers} layers and the head were on the GPU; only whole models are modelled (-ngl 99)"
        )
    if whole(row, "n_cpu_moe", default=0) or _yes(row.get("no_kv_offload")):
        raise SpecError("experts or the KV cache stayed on the CPU; only whole models are modelled")
    if str(row.get("tensor_buft_overrides") or "none") != "none":
        raise SpecError("tensors were placed by hand (-ot); only whole models are modelled")


def _yes(value: object) -> bool:
    return value is True or str(value).lower() in ("1", "true")


@dataclass(frozen=True, slots=True)
class _Pass:
    phase: Phase
    tokens: int
    context: int
    steps: int


def _pass_of(row: Row) -> _Pass:
    prompt, generated = (whole(row, name, default=0) for name in ("n_prompt", "n_gen"))
    depth = whole(row, "n_depth", default=0)
    if prompt and generated:
        raise SpecError(
            f"prompt and generation timed together (pp{prompt}+tg{generated}) cannot be split; use -p and -n"
        )
    if _yes(row.get("embeddings")):
        raise SpecError("computed embeddings, which leaves out the output head")
    if prompt:
        return _Pass("prefill", prompt, depth, 1)
    if generated:
        # Step t of 0 .. n - 1 has depth + t tokens in its cache: depth + (n - 1) / 2 in the mean, rounded half up.
        return _Pass("decode", 1, depth + generated // 2, generated)
    raise SpecError("neither n_prompt nor n_gen is above zero")


def _times(row: Row, steps: int, tokens: int) -> tuple[tuple[float, ...], bool]:
    """Seconds of one pass, raw or (False) one mean."""
    if row.get("samples_ns") is not None:
        return seconds_list(row["samples_ns"], 1e-9 / steps, "samples_ns"), True
    mean_ns, rate = number(row.get("avg_ns")), number(row.get("avg_ts"))
    if mean_ns is not None and mean_ns > 0:
        return (mean_ns * 1e-9 / steps,), False
    if mean_ns is None and rate is not None and rate > 0:
        return (tokens / rate,), False
    raise SpecError(f"avg_ns is {row.get('avg_ns')!r} and avg_ts {row.get('avg_ts')!r}; allowed: above zero")


def _precision(model_type: str, wanted: Precision | None) -> Precision:
    stated = gguf_format(model_type)
    if stated is None and wanted is None:
        raise SpecError(
            f"the weight format of '{model_type}' is not one of codesign's; give the nearest with --precision"
        )
    if stated is not None and wanted is not None and stated != wanted.name:
        raise SpecError(f"its weights are {stated}, not --precision {wanted.name}")
    return PRECISIONS[stated] if stated is not None else wanted  # type: ignore[return-value]


def _measurement(row: Row, request: Request, wanted: Precision | None, out: Imported) -> Measurement:
    what = _pass_of(row)
    where = _place(row, request)
    model_type, n_params = str(row.get("model_type") or ""), number(row.get("model_n_params"))
    name, arch = gguf_model(model_type, str(row.get("model_filename") or ""), n_params, request.model)
    precision = _precision(model_type, wanted)
    if where.kind != "cpu":
        _check_offload(row, arch.n_layers)
    kv_bits = _kv_bits(row)
    if objection := kv_objection(arch, precision, what.phase, what.context, 1, kv_bits):
        raise SpecError(objection)
    times, raw = _times(row, what.steps, what.tokens)
    options = {key: _plain(row[key]) for key in _OPTIONS if row.get(key) not in (None, "")}
    options |= {"backend": str(row["backends"])} if row.get("backends") else {}
    if where.kind == "cpu" and row.get("n_threads") not in (None, ""):
        options["threads"] = _plain(row["n_threads"])
    measured = Measurement(
        architecture=arch,
        precision=precision.name,
        engine="llama.cpp",
        engine_version=_version(row),
        options=options,
        phase=what.phase,
        tokens=what.tokens,
        context_tokens=what.context,
        device=where.device,
        power_mode=where.power_mode,
        wall_s=times,
        state={"model_file_B": size} if (size := number(row.get("model_size"))) else {},
        host={key: str(row[field]) for key, field in (("cpu", "cpu_info"), ("gpu", "gpu_info")) if row.get(field)},
        flags=() if raw else ("imported",),
        created_at=_time(row),
        source="llama-bench",
    )
    out.note(f"'{model_type}' is taken as {name}")
    out.note(where.note)
    if not raw:
        out.note("the file has only the mean of the repetitions: one time a row (llama-bench -o json keeps them all)")
    return measured


def _kv_bits(row: Row) -> float:
    kinds = [str(row.get(key) or "f16").lower() for key in ("type_k", "type_v")]
    if unknown := [kind for kind in kinds if kind not in _KV_BITS]:
        raise SpecError(f"KV cache type '{unknown[0][:40]}' is unknown")
    return sum(_KV_BITS[kind] for kind in kinds) / 2


def _plain(value: Any) -> str:
    """One spelling for what JSON, CSV and SQL write differently."""
    return {"true": "1", "false": "0"}.get(str(value).lower(), str(value))


def _version(row: Row) -> str:
    build, commit = str(row.get("build_number") or ""), str(row.get("build_commit") or "")
    return " ".join(part for part in (f"b{build}" if build else "", commit) if part)


def _time(row: Row) -> str:
    text = str(row.get("test_time") or "")
    return text if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text) else ""
