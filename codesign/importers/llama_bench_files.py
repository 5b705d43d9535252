"""The five formats of llama-bench's output (-o json, jsonl, csv, md, sql) as rows with its field names."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from codesign.errors import SpecError
from codesign.importers.base import json_values, number

__all__ = ["Row", "rows_of"]

Row = dict[str, Any]


def rows_of(text: str, path: Path) -> list[tuple[str, Row | str]]:
    """Where each row stands, and the row, or why it cannot be read; recognised by how the text starts.

    Raises:
        SpecError: cut off, or none of the formats.
    """
    start = text.lstrip()
    if start[:1] in "[{":
        return _json_rows(start, path)
    if re.search(r"^INSERT INTO ", text, re.MULTILINE):
        return _sql_rows(text)
    if re.search(r"^\s*\|", text, re.MULTILINE):
        return _markdown_rows(text)
    return _csv_rows(text, path)


def _json_rows(text: str, path: Path) -> list[tuple[str, Row | str]]:
    records = [
        r for value in json_values(text, path, "llama-bench") for r in (value if isinstance(value, list) else [value])
    ]
    return [(f"record {i}", r if isinstance(r, dict) else "not a record") for i, r in enumerate(records, start=1)]


def _csv_rows(text: str, path: Path) -> list[tuple[str, Row | str]]:
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        rows = [(f"line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise SpecError(f"{path} is not the CSV of llama-bench ({error}); was it cut off?") from error
    # Files that were appended to each other repeat the header.
    kept = [(where, row) for where, row in rows if row.get("n_prompt") != "n_prompt"]
    return [(where, _UNEVEN if None in row or None in row.values() else dict(row)) for where, row in kept]


_UNEVEN = "not as many values as columns"
_INSERT = re.compile(r"^INSERT INTO \w+ \(([^)]*)\) VALUES \('(.*)'\);\s*$")


def _sql_rows(text: str) -> list[tuple[str, Row | str]]:
    """One INSERT a line; llama-bench does not escape quotes, so values are split at their separator."""
    rows: list[tuple[str, Row | str]] = []
    for number_, line in enumerate(text.splitlines(), start=1):
        if match := _INSERT.match(line):
            names, values = [n.strip() for n in match[1].split(",")], match[2].split("', '")
            rows.append(
                (f"line {number_}", dict(zip(names, values, strict=False)) if len(names) == len(values) else _UNEVEN)
            )
    return rows


#: Headings of `get_field_display_name` in llama-bench.cpp.
_HEADINGS = {"ngl": "n_gpu_layers", "sm": "split_mode", "threads": "n_threads", "nkvo": "no_kv_offload", "fa": "flash_attn",
             "embd": "embeddings", "dev": "devices", "ts": "tensor_split", "ot": "tensor_buft_overrides", "backend": "backends",
             "model": "model_type"}  # fmt: skip
_TEST = re.compile(r"^(?:(pp|tg) ?(\d+)|pp ?(\d+) ?\+ ?tg ?(\d+))(?: @ d(\d+))?$")
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_BYTES = {"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}


def _markdown_rows(text: str) -> list[tuple[str, Row | str]]:
    """Tables in a text; "Device 0: NAME, compute capability" lines of the CUDA log above them name the GPU."""
    gpus = list(dict.fromkeys(re.findall(r"^\s*(Device \d+: [^,\n]+), compute capability", text, re.MULTILINE)))
    shared = {"gpu_info": ", ".join(gpu.partition(": ")[2].strip() for gpu in gpus)} if gpus else {}
    if build := re.search(r"^build: (\w+) \((\d+)\)", text, re.MULTILINE):
        shared |= {"build_commit": build[1], "build_number": build[2]}
    heading: list[str] = []
    rows: list[tuple[str, Row | str]] = []
    for at, line in enumerate(text.splitlines(), start=1):
        if not line.lstrip().startswith("|"):
            heading = heading if not line.strip() else []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "t/s" in cells and "test" in cells:
            heading = cells
        elif heading and not all(re.fullmatch(r"[:\s-]*", cell) for cell in cells):
            row = dict(zip(heading, cells, strict=False))
            rows.append((f"line {at}", {**shared, **_markdown_row(row)} if len(cells) == len(heading) else _UNEVEN))
    return rows


def _markdown_row(cells: dict[str, str]) -> Row:
    row: Row = {
        _HEADINGS.get(key, key): value for key, value in cells.items() if key not in ("test", "t/s", "size", "params")
    }
    row["model_n_params"] = _scaled(cells.get("params", ""), _UNITS)
    row["model_size"] = _scaled(cells.get("size", ""), _BYTES)
    row["avg_ts"] = number(cells["t/s"].partition("±")[0].strip())
    if match := _TEST.match(cells["test"]):
        kind, n, prompt, generated, depth = match.groups()
        row["n_prompt"] = prompt or (n if kind == "pp" else 0)
        row["n_gen"] = generated or (n if kind == "tg" else 0)
        row["n_depth"] = depth or 0
    return row


def _scaled(text: str, units: dict[str, float]) -> float | None:
    value, _, unit = text.partition(" ")
    count = number(value)
    return None if count is None or unit not in units else count * units[unit]
