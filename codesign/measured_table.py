"""Tables of published measurements: rows as people write them, read into cases that the cost model can run."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from codesign.architecture import Architecture
from codesign.devices import Device, load_device
from codesign.engines import canonical_engine
from codesign.errors import CodesignError, SpecError, UnknownNameError
from codesign.operators import weight_bytes
from codesign.workload import Precision, Workload, parse_precision

__all__ = ["Case", "arch_of_row", "case_of_row", "iter_cases", "read_archs", "read_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row that can be predicted: what ran where; measured times in seconds, nan where the row has none.

    `prefill` and `decode` are workloads, prefill None where the row has no prompt length; `note` says what was assumed.
    """

    row_id: str
    source: str
    quality: str
    model: str
    device: Device
    engine: str
    precision: Precision
    arch: Architecture
    prefill: Workload | None
    decode: Workload
    prefill_s: float = math.nan
    decode_s: float = math.nan
    e2e_s: float = math.nan
    power_W: float = math.nan
    note: str = ""


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a CSV file.

    Raises:
        SpecError: unreadable, not UTF-8, empty, a column twice, or a row with more cells than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            header = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"cannot read the table {path}: {error}; give a UTF-8 CSV file with a header") from error
    if not header:
        raise SpecError(f"the table {path} is empty; give a UTF-8 CSV file with a header")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise SpecError(
            f"{path}: the header has the column(s) {', '.join(map(repr, twice))} twice; give each its own name"
        )
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise SpecError(f"{path}, row {number} below the header: more cells than the header has columns")
    return header, [{key: value or "" for key, value in row.items()} for row in rows]


def _number(row: Mapping[str, str], column: str) -> float:
    text = row.get(column, "").strip()
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise SpecError(f"column {column}: '{text}' is not a number") from None
    if not math.isfinite(value) or value < 0:
        raise SpecError(f"column {column}: '{text}' must be finite and not negative")
    return value


def _flag(row: Mapping[str, str], column: str, no: float, yes: float) -> bool:
    """Whether a cell is `yes` (also where it is empty or the column is missing) or `no`."""
    text = row.get(column, "").strip().lower()
    words = {"": yes, "true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
    value = words[text] if text in words else _number(row, column)
    if value not in (no, yes):
        raise SpecError(f"column {column}: '{text}' is neither {no:g} nor {yes:g}")
    return value == yes


def _count(row: Mapping[str, str], column: str) -> int | None:
    value = _number(row, column)
    if value > _MAX_COUNT:
        raise SpecError(f"column {column}: '{row[column].strip()}' is above {_MAX_COUNT}")
    return None if math.isnan(value) else round(value)


_MAX_COUNT = 10**9
_NEEDED = ("arch_id", "layers", "hidden", "ffn_hidden", "n_heads", "n_kv_heads", "head_dim", "vocab")


def read_archs(path: Path) -> dict[str, Architecture | str]:
    """Architectures by arch_id from a table with the columns of model_archs.csv.

    Columns: arch_id, layers, hidden, ffn_hidden, n_heads, n_kv_heads, head_dim, vocab, tied_embeddings (0/1),
    ffn_matrices (2/3), qk_norm (none, head, full; none where there is no such column), kind (dense, moe<E>x<K>, or another
    word). A row that cannot be read maps to the reason.

    Raises:
        SpecError: unreadable file or a missing column.
    """
    header, rows = read_rows(path)
    if missing := [name for name in _NEEDED if name not in header]:
        raise SpecError(f"{path} lacks the column(s) {', '.join(missing)}; needed: {', '.join(_NEEDED)}")
    archs: dict[str, Architecture | str] = {}
    for row in rows:
        try:
            archs[row["arch_id"].strip()] = arch_of_row(row)
        except CodesignError as error:
            archs[row["arch_id"].strip()] = str(error)
    return archs


def arch_of_row(row: Mapping[str, str]) -> Architecture:
    """The architecture that a row's own columns describe (see `read_archs`).

    Raises:
        SpecError: a column is missing or its cell is not allowed.
    """
    kind = row.get("kind", "").strip().lower() or "dense"
    experts = active = 0
    if kind.startswith("moe"):
        try:
            experts, active = (int(part) for part in kind[3:].split("x"))
        except ValueError:
            experts = 0
        if not 1 <= experts <= _MAX_COUNT:
            raise SpecError(f"kind '{kind[:40]}' is not moe<experts>x<active>, such as moe128x8")
    elif kind != "dense":
        raise SpecError(f"architecture '{row.get('arch_id', '')}' is of kind '{kind}'; only dense and moe are modelled")
    numbers = {name: _count(row, name) for name in _NEEDED[1:]}
    if absent := [name for name, value in numbers.items() if value is None]:
        raise SpecError(f"architecture '{row.get('arch_id', '')}' has no {', '.join(absent)}")
    n = {name: value or 0 for name, value in numbers.items()}
    return Architecture(
        n_layers=n["layers"],
        d_model=n["hidden"],
        n_heads=n["n_heads"],
        n_kv_heads=n["n_kv_heads"],
        d_head=n["head_dim"],
        d_ff=0 if experts else n["ffn_hidden"],
        vocab_size=n["vocab"],
        tied_embeddings=_flag(row, "tied_embeddings", 0, 1),
        ffn_gated=_flag(row, "ffn_matrices", 2, 3),
        qk_norm=row.get("qk_norm", "").strip() or "none",
        n_experts=experts,
        n_active_experts=active,
        d_ff_expert=n["ffn_hidden"] if experts else 0,
    )


def _precision(row: Mapping[str, str], engine: str, arch: Architecture) -> Precision:
    precision = parse_precision(row.get("weight_precision", "").strip() or "fp16")
    if engine == "mlc-llm" and precision.kind == "w4":
        precision = parse_precision("q4f16")
        if arch.tied_embeddings:  # MLC unpacks a tied table to 16 bits for the output head
            precision = replace(precision, lm_head_bits=16.0)
    kv = row.get("kv_precision", "").strip().lower().removeprefix("fp").removeprefix("bf").removeprefix("int")
    if kv in ("4", "8", "16", "32"):
        precision = replace(precision, kv_bits=int(kv))
    return precision


def _with_file_size(precision: Precision, arch: Architecture, size_B: float) -> Precision:
    """Scale stored bits so that the model weighs what the row's file does (GGUF mixes differ with the shape).

    A file that is 40 % smaller or 70 % larger than the format's own size holds something else and is not believed.
    """
    ratio = size_B / float(weight_bytes(arch, precision))
    if not precision.weight_only or not 0.6 < ratio < 1.7:
        return precision
    return replace(
        precision,
        weight_bits=precision.weight_bits * ratio,
        scale_bits=precision.scale_bits * ratio,
        lm_head_bits=precision.lm_head_bits * ratio,
        embedding_bits=precision.embedding_bits * ratio,
    )


def case_of_row(row: Mapping[str, str], archs: Mapping[str, Architecture | str]) -> Case:
    """Read one row with the columns of measured.csv.

    Lengths that are missing: decode starts after the prompt (or from an empty cache) and generates 128 tokens; a row
    without prompt_tokens has no prefill.

    Raises:
        CodesignError: the row cannot be predicted; the message says why.
    """
    name = row.get("arch_id", "").strip()
    arch = archs.get(name) if name else None
    if arch is None:
        named = name or row.get("model", "")
        raise SpecError(f"the architecture of '{named}' is not in the table of architectures")
    if isinstance(arch, str):
        raise SpecError(arch)
    engine_text = row.get("engine", "")
    device, mode_note = _device(row.get("device_id", ""), row.get("power_mode", ""))
    if "(cpu)" in engine_text.lower() and device.kind != "cpu":
        raise SpecError(
            f"ran on the CPU of '{device.name}', whose peak and share of bandwidth are not in the catalogue"
        )
    engine = canonical_engine(engine_text)
    notes = [
        mode_note,
        "" if engine else "engine not stated: the mean over engines",
        "" if row.get("weight_precision", "").strip() else "weight precision not stated: fp16 assumed",
    ]
    precision = _precision(row, engine, arch)
    size = _number(row, "weight_file_gb") * 1e9
    if size > 0:
        precision = _with_file_size(precision, arch, size)
    batch = _count(row, "batch")
    prompt, start, generated = (_count(row, name) for name in ("prompt_tokens", "kv_start_tokens", "gen_tokens"))
    decode = Workload(
        prompt_tokens=start if start is not None else (prompt or 0),
        output_tokens=generated or 128,
        batch_size=1 if batch is None else batch,
    )
    prefill = Workload(prompt_tokens=prompt, output_tokens=1, batch_size=decode.batch_size) if prompt else None
    return Case(
        row_id=row.get("row_id", ""),
        source=row.get("source_id", ""),
        quality=row.get("quality", ""),
        model=name,
        device=device,
        engine=engine,
        precision=precision,
        arch=arch,
        prefill=prefill,
        decode=decode,
        prefill_s=(_number(row, "prefill_ms") / 1e3) or math.nan,
        decode_s=(_number(row, "decode_ms_per_step") / 1e3) or math.nan,
        e2e_s=_number(row, "e2e_s") or math.nan,
        power_W=_number(row, "power_w") or math.nan,
        note="; ".join(note for note in notes if note),
    )


def _device(name: str, mode: str) -> tuple[Device, str]:
    """The row's device at its power mode; at full power, with a note, where the mode is missing or unknown."""
    device = load_device(name)
    if not any(letter.isalnum() for letter in mode):
        return device, "power mode not stated: full power assumed" if device.power_modes else ""
    try:
        return device.with_power_mode(mode), ""
    except UnknownNameError:
        return device, f"power mode '{mode}' unknown: full power assumed"


def iter_cases(rows: list[dict[str, str]], archs: Mapping[str, Architecture | str]) -> Iterator[Case | str]:
    """Each row's case, or the reason why it has none."""
    for row in rows:
        try:
            yield case_of_row(row, archs)
        except CodesignError as error:
            yield str(error)
