"""`trtexec --exportTimes`: the times of one engine, of which the user says which pass it ran.

The files' format: see `codesign.trtexec_files`.
"""

from __future__ import annotations

from codesign.errors import SchemaError, SpecError
from codesign.hf_config import read_config
from codesign.importers.base import Imported, Request
from codesign.importers.names import given_precision, place
from codesign.measurement import Measurement
from codesign.trtexec_files import read_trtexec_times

__all__ = ["read_trtexec"]

_NEED = "trtexec's file holds times only; give {} too"


def read_trtexec(request: Request) -> Imported:
    """One measurement with the kernels' time (computeMs) of every pass; the host's latency stays in wall_s.

    Raises:
        SpecError: --device, --model, --precision, --phase or its length is missing, or does not fit the pass.
        SchemaError: not such a file, or a time that cannot be.
    """
    try:
        times = read_trtexec_times(request.path)
    except (OverflowError, RecursionError) as error:  # numbers and nesting that no trtexec writes
        raise SchemaError(f"{request.path}: not the JSON of trtexec --exportTimes ({type(error).__name__})") from error
    wanted = {
        "--device": request.device,
        "--model": request.model,
        "--precision": request.precision,
        "--phase": request.phase,
    }
    missing = [flag for flag, value in wanted.items() if not value]
    if request.phase == "prefill" and not request.tokens:
        missing.append("--tokens")
    if request.phase == "decode" and request.context is None:
        missing.append("--context")
    precision = given_precision(request.precision)
    if missing or not (request.device and request.model and request.phase and precision):
        raise SpecError(f"{request.path}: {_NEED.format(', '.join(missing))}")
    if request.phase == "decode" and request.tokens not in (None, 1):
        raise SpecError(f"--tokens is {request.tokens}: a decode step processes one token; leave it out")
    where = place(request.device, request.power_mode)
    measured = Measurement(
        architecture=read_config(request.model),
        precision=precision.name,
        engine=request.engine or "tensorrt",
        phase=request.phase,
        batch_size=request.batch or 1,
        tokens=request.tokens or 1,
        context_tokens=request.context or 0,
        device=where.device,
        power_mode=where.power_mode,
        clock="device",
        device_s=tuple(t.compute_s for t in times),
        wall_s=tuple(t.latency_s for t in times),
        source="trtexec",
    )
    out = Imported(kind="trtexec", measurements=[measured])
    out.note(where.note)
    out.note("batch not stated: 1" if request.batch is None else "")
    return out
