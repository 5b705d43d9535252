"""CSV tables: published measurements (the columns of `codesign predict --table`) and what `codesign measurements` exports."""

from __future__ import annotations

import math
from collections.abc import Mapping

from codesign.architecture import Architecture
from codesign.engines import canonical_engine
from codesign.errors import CodesignError, SpecError
from codesign.importers.base import Imported, Request, number, whole
from codesign.importers.names import place
from codesign.measured_table import arch_of_row, case_of_row, read_archs, read_rows
from codesign.measurement import CLOCKS, Measurement
from codesign.workload import PRECISIONS, parse_precision

__all__ = ["read_table"]

_OWN = ("layers", "hidden", "ffn_hidden", "n_heads", "n_kv_heads", "head_dim", "vocab")
_EXPORTED = ("phase", "tokens", "seconds", "clock")


def read_table(request: Request) -> Imported:
    """One measurement for each time of a row; rows of other devices than --device are left out.

    Architectures are in the rows (columns of model_archs.csv), in --archs, or --model is that of every row.

    Raises:
        SpecError: the file cannot be read, or lacks a column.
    """
    header, rows = read_rows(request.path)
    if missing := [name for name in ("device_id", "engine") if name not in header]:
        raise SpecError(f"{request.path} lacks the column(s) {', '.join(missing)}; see 'codesign predict --help'")
    exported = all(name in header for name in _EXPORTED)
    own = all(name in header for name in _OWN)
    if request.archs is None and request.model is None and not own:
        raise SpecError(f"{request.path}: give --archs FILE with the architectures that arch_id names")
    archs = read_archs(request.archs) if request.archs is not None else {}
    wanted = place(request.device, request.power_mode) if request.device is not None else None
    out = Imported(kind="table")
    for number_, row in enumerate(rows, start=1):
        where = f"row {number_}" + (f" ({row['row_id'].strip()[:40]})" if row.get("row_id", "").strip() else "")
        try:
            if wanted is not None and _device_of(row) != wanted.device:
                raise SpecError(f"measured on '{row['device_id'].strip()[:60]}', not on {wanted.device}")
            arch = _architecture(row, request, archs, own)
            found = [_exported_row(row, arch)] if exported else _published_row(row, arch, out)
            if wanted is not None and request.power_mode is not None:
                found = [m for m in found if _same_mode(m, wanted.power_mode)]
            out.measurements.extend(found)
        except CodesignError as error:
            out.skipped.append((where, str(error)))
    if own and not archs and request.model is None and out.measurements:
        out.note(
            "architectures are read from the table's columns, which leave out norms and biases (below 0.1 % of the parameters)"
        )
    return out


def _device_of(row: Mapping[str, str]) -> str:
    return place(row.get("device_id", "").strip(), None).device


def _same_mode(measured: Measurement, mode: str | None) -> bool:
    if measured.power_mode != mode:
        raise SpecError(f"measured in power mode {measured.power_mode}, not in {mode}")
    return True


def _architecture(
    row: Mapping[str, str], request: Request, archs: Mapping[str, Architecture | str], own: bool
) -> Architecture:
    from codesign.hf_config import read_config

    if request.model is not None:
        return read_config(request.model)
    name = row.get("arch_id", "").strip()
    known = archs.get(name)
    if isinstance(known, Architecture):
        return known
    if known is None and own:
        return arch_of_row(row)
    raise SpecError(known or f"the architecture of '{name or row.get('model', '')}' is not in {request.archs}")


def _exported_row(row: Mapping[str, str], arch: Architecture) -> Measurement:
    cells = dict(row)
    phase, clock, seconds = row["phase"].strip(), row["clock"].strip(), number(row["seconds"])
    if phase not in ("prefill", "decode") or clock not in CLOCKS:
        raise SpecError(f"phase '{phase[:20]}' and clock '{clock[:20]}'; allowed: prefill, decode; {', '.join(CLOCKS)}")
    if seconds is None:
        raise SpecError(f"seconds is '{row['seconds'][:40]}'; allowed: above zero")
    where = place(row["device_id"].strip(), row.get("power_mode", "").strip() or None)
    options = dict(part.split("=", 1) for part in row.get("options", "").split() if "=" in part)
    flags = tuple(dict.fromkeys([*row.get("flags", "").split(), "imported"]))
    times = {f"{clock}_s": (seconds,)}
    return Measurement(
        architecture=arch,
        precision=parse_precision(row.get("weight_precision", "")).name,
        engine=canonical_engine(row["engine"]),
        engine_version=row.get("engine_version", ""),
        options=options,
        phase="prefill" if phase == "prefill" else "decode",
        batch_size=whole(cells, "batch", low=1, default=1),
        tokens=whole(cells, "tokens", low=1),
        context_tokens=whole(cells, "kv_start_tokens", default=0),
        device=where.device,
        power_mode=where.power_mode,
        clock=next(c for c in CLOCKS if c == clock),
        wall_s=times.get("wall_s", ()),
        cpu_s=times.get("cpu_s", ()),
        device_s=times.get("device_s", ()),
        peak_memory_B=number(row.get("peak_memory_B", "")),
        energy_J=number(row.get("energy_J", "")),
        power_W=number(row.get("power_w", "")),
        flags=flags,
        created_at=row.get("created_at", ""),
        source=row.get("source", "").strip() or "table",
    )


def _published_row(row: Mapping[str, str], arch: Architecture, out: Imported) -> list[Measurement]:
    name = row.get("arch_id", "").strip() or "the model"
    case = case_of_row({**row, "arch_id": name}, {name: arch})
    if case.quality == "C":
        raise SpecError("quality C: ambiguous or contradicted, for sanity checks only")
    plain = PRECISIONS[case.precision.name]
    if case.precision.kv_bits != plain.kv_bits:
        raise SpecError(f"KV cache of {case.precision.kv_bits:g} bits, where {plain.name} has {plain.kv_bits:g}")
    if not case.engine:
        raise SpecError("the engine is not stated")
    stated_mode = case.device.power_mode
    found = []
    for phase, seconds in (("prefill", case.prefill_s), ("decode", case.decode_s)):
        if math.isnan(seconds) or (phase == "prefill" and case.prefill is None):
            continue
        decode = case.decode
        found.append(
            Measurement(
                architecture=arch,
                precision=plain.name,
                engine=case.engine,
                engine_version=row.get("engine_version", ""),
                phase="prefill" if phase == "prefill" else "decode",
                batch_size=decode.batch_size,
                tokens=case.prefill.prompt_tokens if phase == "prefill" and case.prefill else 1,
                # Decode step t of 0 .. n - 1 has start + t tokens in its cache, which is the mean that Workload has, less one.
                context_tokens=0 if phase == "prefill" else decode.prompt_tokens + decode.output_tokens // 2,
                device=case.device.name,
                power_mode=stated_mode,
                wall_s=(seconds,),
                power_W=case.power_W if phase == "decode" and case.power_W > 0 else None,
                flags=("imported",),
                source=case.source or "table",
            )
        )
    if not found:
        raise SpecError("neither prefill_ms with prompt_tokens nor decode_ms_per_step")
    for part in case.note.split("; "):
        out.note(f"some rows: {part}" if part else "")
    return found
