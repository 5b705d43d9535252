"""vLLM: `vllm bench serve --save-result` and `vllm bench latency --output-json`; throughput has no phases and is refused.

Formats, in vllm-project/vllm: the result of `benchmark` and `main_async` in vllm/benchmarks/serve.py (--save-detailed keeps
ttfts, itls, input_lens, output_lens; --append-result puts several objects into one file; other servers' clients write the
same), `main` in vllm/benchmarks/latency.py, `main` in vllm/benchmarks/throughput.py. Precision and hardware are in none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from codesign.architecture import Architecture
from codesign.engines import canonical_engine
from codesign.errors import CodesignError, SpecError
from codesign.hf_config import read_config
from codesign.importers.base import MAX_TOKENS, Imported, Request, json_values, number, seconds_list
from codesign.importers.names import Where, given_precision, known_architecture, place
from codesign.measurement import Measurement
from codesign.operators import Phase
from codesign.workload import Precision

__all__ = ["read_vllm_bench"]

#: Value of --backend that only says which protocol the client spoke.
_PROTOCOLS = ("vllm", "vllm-chat", "openai", "openai-chat", "openai-comp", "")


def read_vllm_bench(text: str, request: Request) -> Imported:
    """Measurements of every result in the file.

    Raises:
        SpecError: not such a file, --device or --precision is missing, or it cannot tell the phases apart.
    """
    results = [
        r
        for value in json_values(text, request.path, "vllm bench")
        for r in (value if isinstance(value, list) else [value])
    ]
    precision = given_precision(request.precision)
    if request.device is None or precision is None:
        missing = ", ".join(f for f, v in (("--device", request.device), ("--precision", precision)) if v is None)
        raise SpecError(
            f"{request.path}: files of vllm bench do not say where and in which format the model ran; give {missing}"
        )
    where = place(request.device, request.power_mode)
    out = Imported(kind="vllm")
    out.note(where.note)
    for number_, result in enumerate(results, start=1):
        name = "the result" if len(results) == 1 else f"result {number_}"
        if not isinstance(result, dict):
            out.skipped.append((name, "not a record"))
        elif "latencies" in result and "avg_latency" in result:
            out.measurements.append(_latency(result, request, where, precision, out))
        elif "elapsed_time" in result and "num_requests" in result:
            raise SpecError(
                f"{request.path} is of 'vllm bench throughput': many requests at once, whose prefill and decode cannot be told "
                "apart; use 'vllm bench serve --max-concurrency 1 --save-result --save-detailed'"
            )
        else:
            _serve(name, result, request, where, precision, out)
    return out


def _latency(
    result: dict[str, Any], request: Request, where: Where, precision: Precision, out: Imported
) -> Measurement:
    if request.phase is None or (request.phase == "prefill" and None in (request.model, request.tokens, request.batch)):
        raise SpecError(
            f"{request.path} is of 'vllm bench latency', which times whole batches and does not say which: for a run with "
            "--output-len 1 give --phase prefill, --model, --tokens (its --input-len) and --batch (its --batch-size)"
        )
    if request.phase == "decode":
        raise SpecError(f"{request.path}: 'vllm bench latency' times whole requests, whose decode steps cannot be split off; use "
                        "'vllm bench serve --max-concurrency 1 --save-result --save-detailed'")  # fmt: skip
    out.note("right only if it ran with --output-len 1")
    arch = read_config(request.model or "")
    times = seconds_list(result["latencies"], 1.0, "latencies")
    return _measurement(arch, precision, where, "prefill", times, request.tokens or 0, 0, request.engine or "vllm",
                        batch=request.batch or 1)  # fmt: skip


def _measurement(
    arch: Architecture, precision: Precision, where: Where, phase: Phase, times: tuple[float, ...], tokens: int, context: int,
    engine: str, *, batch: int = 1, mean: bool = False, date: str = "",
) -> Measurement:  # fmt: skip
    return Measurement(
        architecture=arch, precision=precision.name, engine=engine, phase=phase, batch_size=batch, tokens=tokens,
        context_tokens=context, device=where.device, power_mode=where.power_mode, wall_s=times,
        state={"date": date} if date else {}, flags=("imported",) if mean else (), source="vllm",
    )  # fmt: skip


def _serve(
    name: str, result: dict[str, Any], request: Request, where: Where, precision: Precision, out: Imported
) -> None:
    try:
        arch = _model(result, request)
        backend = str(result.get("backend") or result.get("endpoint_type") or "")
        engine = request.engine or ("vllm" if backend in _PROTOCOLS else canonical_engine(backend))
        most = [number(result.get(key)) for key in ("max_concurrency", "max_concurrent_requests")]
        if 1.0 not in most:
            shown = next((f"{value:g}" for value in most if value is not None), "an unlimited number of")
            raise SpecError(f"{shown} requests ran at once and share steps; run with --max-concurrency 1")
        if "spec_decode_acceptance_rate" in result:
            raise SpecError("speculative decoding, which is not modelled")
        passes = list(_detailed(name, result, out) if "ttfts" in result else _summary(name, result, out))
    except CodesignError as error:
        out.skipped.append((name, str(error)))
        return
    raw, date = "ttfts" in result, str(result.get("date") or "")
    for phase, times, tokens, context in passes:
        try:
            measured = _measurement(
                arch, precision, where, phase, times, tokens, context, engine, mean=not raw, date=date
            )
            out.measurements.append(measured)
        except CodesignError as error:
            out.skipped.append((f"{name}, {phase}", str(error)))
    out.note(
        "times are a client's: they hold the server's scheduling and HTTP; the time to first token stands for prefill"
    )
    if not raw:
        out.note("the file has only medians: one time a pass (vllm bench serve --save-detailed keeps every request)")


def _model(result: dict[str, Any], request: Request) -> Architecture:
    model_id = str(result.get("model_id") or "")
    known = known_architecture(model_id)
    if request.model is None:
        if known is None:
            raise SpecError(f"model '{model_id[:80]}' is not bundled; give --model with its config.json")
        return known
    arch = read_config(request.model)
    if known is not None and known.params_total != arch.params_total:
        raise SpecError(f"the file's model is {model_id}, not --model {request.model}")
    return arch


_Pass = tuple[Phase, tuple[float, ...], int, int]


def _detailed(name: str, result: dict[str, Any], out: Imported) -> Iterator[_Pass]:
    """One pass for each prompt length and each pair of lengths, with a time from every request.

    The first of n tokens comes from prefill; step t of the n - 1 decode steps has input + t tokens in its cache.
    """
    columns = [result.get(key) for key in ("input_lens", "output_lens", "ttfts", "itls")]
    if not all(isinstance(column, list) for column in columns) or len({len(column or ()) for column in columns}) != 1:
        raise SpecError(
            "input_lens, output_lens, ttfts and itls are not lists of one length; was it saved with --save-detailed?"
        )
    first: dict[int, list[float]] = {}
    steps: dict[tuple[int, int], list[float]] = {}
    for at, (prompt, generated, ttft, itls) in enumerate(zip(*columns, strict=True), start=1):
        lengths, seconds = (number(prompt), number(generated)), number(ttft)
        gaps = [number(gap) for gap in itls] if isinstance(itls, list) else [None]
        if any(n is None or not n.is_integer() or not 1 <= n <= MAX_TOKENS for n in lengths):
            out.skipped.append(
                (f"{name}, request {at}", f"lengths {str(prompt)[:20]} and {str(generated)[:20]}; it failed")
            )
            continue
        if seconds is None or seconds <= 0 or any(gap is None or gap < 0 for gap in gaps):
            out.skipped.append((f"{name}, request {at}", "a time that is not above zero; it failed"))
            continue
        n_prompt, n_tokens = int(lengths[0] or 0), int(lengths[1] or 0)
        first.setdefault(n_prompt, []).append(seconds)
        if n_tokens > 1 and gaps:
            # A chunk of the stream may hold several tokens, so the steps are counted by tokens.
            steps.setdefault((n_prompt, n_tokens), []).append(sum(gap or 0.0 for gap in gaps) / (n_tokens - 1))
    for n_prompt, times in first.items():
        yield "prefill", tuple(times), n_prompt, 0
    for (n_prompt, n_tokens), times in steps.items():
        yield "decode", tuple(times), 1, n_prompt + (n_tokens - 1) // 2


def _summary(name: str, result: dict[str, Any], out: Imported) -> Iterator[_Pass]:
    done, total_in, total_out = (
        number(result.get(key)) for key in ("completed", "total_input_tokens", "total_output_tokens")
    )
    if not done or not total_in or not total_out or min(done, total_in, total_out) <= 0:
        raise SpecError("no completed request, or no token counts")
    prompt, generated = total_in / done, total_out / done
    out.note("requests enter with their mean lengths")
    if (ttft := _middle(result, "ttft")) is not None:
        yield "prefill", (ttft,), round(prompt), 0
    else:
        out.skipped.append((f"{name}, prefill", "no time to first token above zero"))
    tpot = _middle(result, "tpot")
    if tpot is not None and generated >= 2:
        yield "decode", (tpot,), 1, round(prompt + (generated - 2) / 2)
    else:
        out.skipped.append((f"{name}, decode", "no time per output token above zero"))


def _middle(result: dict[str, Any], metric: str) -> float | None:
    """Median, else mean, in seconds."""
    for key in (f"median_{metric}_ms", f"mean_{metric}_ms"):
        value = number(result.get(key))
        if value is not None and value > 0:
            return value * 1e-3
    return None
