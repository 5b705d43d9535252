"""One door for all formats: what kind of file it is, by its content, and its reader."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from codesign.errors import SpecError, UnknownNameError
from codesign.importers.base import Imported, Request, read_text
from codesign.importers.edge_llm import read_edge_llm
from codesign.importers.llama_bench import read_llama_bench
from codesign.importers.table import read_table
from codesign.importers.trtexec import read_trtexec
from codesign.importers.trtllm_bench import read_trtllm_bench
from codesign.importers.vllm_bench import read_vllm_bench
from codesign.operators import Phase

__all__ = ["KINDS", "read_measurements"]

_HEAD = 20_000
_READERS: dict[str, tuple[str, Callable[[str, Request], Imported]]] = {
    "llama-bench": ("llama.cpp: llama-bench -o json, jsonl, csv, md or sql", read_llama_bench),
    "trtexec": ("TensorRT: trtexec --exportTimes", lambda text, request: read_trtexec(request)),
    "edge-llm": ("TensorRT Edge-LLM: e2e_*.csv of llm_bench, profile of llm_inference", read_edge_llm),
    "trtllm-bench": ("TensorRT-LLM: trtllm-bench --streaming --report_json", read_trtllm_bench),
    "vllm": ("vLLM: vllm bench serve --save-result, vllm bench latency --output-json", read_vllm_bench),
    "table": ("CSV with the columns of 'codesign predict --table' or of 'codesign measurements'", lambda text, request: read_table(request)),
}  # fmt: skip
#: What can be read: kind, and what writes it.
KINDS: dict[str, str] = {kind: what for kind, (what, _) in _READERS.items()}

#: Keys of which a JSON file of a kind has all of at least one set.
_JSON_KEYS: dict[str, tuple[set[str], ...]] = {
    "llama-bench": (
        {"n_prompt", "n_gen", "avg_ns"},
        {"n_prompt", "n_gen", "avg_ts"},
        {"n_prompt", "n_gen", "samples_ns"},
    ),
    "trtexec": ({"computeMs", "startComputeMs"}, {"computeMs", "latencyMs"}),
    "trtexec-profile": ({"timeMs", "averageMs", "percentage"},),
    "edge-llm": ({"prefill", "average_time_per_run_ms"}, {"generation", "average_time_per_token_ms"}),
    "trtllm-bench": ({"engine", "world_info", "request_info"},),
    "vllm": (
        {"avg_latency", "latencies"},
        {"completed", "total_input_tokens"},
        {"elapsed_time", "num_requests", "tokens_per_second"},
    ),
}
_COLUMNS: dict[str, tuple[set[str], ...]] = {
    "llama-bench": ({"n_prompt", "n_gen", "avg_ns"}, {"n_prompt", "n_gen", "avg_ts"}),
    "edge-llm": ({"mode", "batch_size", "e2e_time_ms"},),
    "edge-llm-layers": ({"layer_name", "time_ms_mean"},),
    "table": (
        {"device_id", "engine", "decode_ms_per_step"},
        {"device_id", "engine", "prefill_ms"},
        {"device_id", "arch_id"},
    ),
}
_REFUSED = {
    "trtexec-profile": "holds layer times of trtexec --exportProfile, taken under the profiler's overhead; give the file of --exportTimes",
    "edge-llm-layers": "holds layer times of llm_bench --profile, taken under the profiler's overhead; give its e2e_*.csv",
}


def read_measurements(
    path: Path | str,
    *,
    kind: str = "auto",
    device: str | None = None,
    power_mode: str | None = None,
    model: str | None = None,
    precision: str | None = None,
    engine: str | None = None,
    archs: Path | None = None,
    phase: Phase | None = None,
    tokens: int | None = None,
    context: int | None = None,
    batch: int | None = None,
) -> Imported:
    """Read measurements from a file that another tool wrote.

    What a row or record cannot give is skipped with the reason; nothing is guessed that changes a number.

    Args:
        path: the file.
        kind: a key of `KINDS`, or auto: by the file's content.
        device, power_mode: where it ran; needed where the file does not say. A row of another device is skipped.
        model: bundled name, config.json or folder, of every row; else matched to bundled models by name and size.
        precision: of every row, where the file does not say; a row that says another is skipped.
        engine: where the file does not say.
        archs: architectures that a table's arch_id names.
        phase, tokens, context, batch: the pass, for files that hold times only (trtexec, vllm bench latency).

    Raises:
        SpecError: unreadable, of no or several known kinds (names --kind), or what it does not say was not given.
        UnknownNameError: no such kind, device, power mode, model or precision.
        SchemaError: a time in a trtexec file that cannot be.
    """
    given = Path(os.path.expanduser(path))
    if kind != "auto" and kind not in KINDS:
        raise UnknownNameError.near("kind of file", kind, [*KINDS, "auto"], "See 'codesign calibrate --help'.")
    for name, value, low in (("tokens", tokens, 1), ("context", context, 0), ("batch", batch, 1)):
        if value is not None and value < low:
            raise SpecError(f"--{name} is {value}; allowed: a whole number of at least {low}")
    if phase not in (None, "prefill", "decode"):
        raise SpecError(f"--phase is '{phase}'; allowed: prefill, decode")
    text = read_text(given)
    found = _kinds_of(text)
    if kind == "auto":
        for name in found:
            if name in _REFUSED:
                raise SpecError(f"{given} {_REFUSED[name]}")
        if len(found) != 1:
            looks = f"could be {' or '.join(found)}" if found else "is of no kind that is known by its content"
            raise SpecError(f"{given} {looks}; name it with --kind: {', '.join(KINDS)}")
        kind = found[0]
    request = Request(
        path=given, device=device, power_mode=power_mode, model=model, precision=precision, engine=engine, archs=archs,
        phase=phase, tokens=tokens, context=context, batch=batch,
    )  # fmt: skip
    return _READERS[kind][1](text, request)


def _kinds_of(text: str) -> list[str]:
    """Every kind whose marks the head of a text has.

    Example:
        >>> _kinds_of('[{"n_prompt": 512, "n_gen": 0, "avg_ns": 1}]'), _kinds_of("a,b\\n1,2\\n")
        (['llama-bench'], [])
    """
    head = text.lstrip()[:_HEAD]
    if head[:1] in ("[", "{"):
        keys = set(re.findall(r'"([\w .]{1,60})"\s*:', head))
        return [kind for kind, marks in _JSON_KEYS.items() if any(mark <= keys for mark in marks)]
    if re.search(r"^INSERT INTO (?:llama_bench|test) \(", text, re.MULTILINE):
        return ["llama-bench"]
    if re.search(r"^\s*\|.*\|\s*test\s*\|\s*t/s\s*\|", text, re.MULTILINE):
        return ["llama-bench"]
    columns = {name.strip().strip('"') for name in head.splitlines()[0].split(",")} if head else set()
    return [kind for kind, marks in _COLUMNS.items() if any(mark <= columns for mark in marks)]
