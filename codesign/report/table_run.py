"""The folder of a table search: what was asked, the frontier found, what is predicted for the rest, and the next batch to train.

    frontier.jsonl, frontier.csv   rows found on the frontier, every column of the table; the first line of the former is the provenance
    asked.csv                      every trained row in the order in which it was asked
    predictions.csv                every other usable row: predicted quality with its 90 % interval
    ask.csv                        rows to train next; fill their quality in and run the command again
    answers.csv                    what was filled into ask.csv so far
    pareto.png                     the picture

Every file is written beside its place and moved there; nothing that somebody typed is lost.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import SchemaError, SpecError
from codesign.search.table import FAILED, CandidateTable, number
from codesign.search.table_search import Ask

__all__ = ["read_answers", "write_table_run"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

SCHEMA = "codesign.table_frontier"
VERSION = 1
Z90 = 1.645
_ROW, _KEY = "row", "row_key"


def write_table_run(
    folder: Path,
    table: CandidateTable,
    value: Array,
    order: Sequence[int],
    front: Index,
    view: Ask,
    provenance: Mapping[str, Any],
    *,
    ask: Ask | None = None,
    plot: bool = True,
) -> None:
    """Write the folder.

    Args:
        folder: Made where absent. table: The rows. value: Quality, minimised, nan where unknown, (rows,).
        order: Asked rows. front: Those on the frontier. view: Predictions of all rows. provenance: Goes into the header.
        ask: The next batch; None: no ask.csv (an old one is removed). plot: Draw pareto.png.

    Raises:
        SpecError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        places = np.asarray(order, dtype=np.int64)
        head = {"schema": SCHEMA, "version": VERSION, **provenance}
        lines = [json.dumps(head, allow_nan=False)]
        lines += [json.dumps(_record(table, value, int(row), places), allow_nan=False) for row in front]
        columns = [_ROW, *table.header]
        _put(folder / "frontier.csv", _csv(columns, ([_line(table, i), *_cells(table, value, i)] for i in front)))
        _put(folder / "asked.csv", _csv(columns, ([_line(table, i), *_cells(table, value, i)] for i in order)))
        rest = np.setdiff1d(np.arange(len(table)), places)
        if view.mean is not None:
            extra = ["predicted", "low90", "high90"]
            rows = ([_line(table, i), *_cells(table, value, i), *_span(table, view, i)] for i in rest)
            _put(folder / "predictions.csv", _csv([*columns, *extra], rows))
        else:
            (folder / "predictions.csv").unlink(missing_ok=True)
        if ask is not None:
            _put(folder / "ask.csv", _ask_csv(table, value, ask))
        else:
            (folder / "ask.csv").unlink(missing_ok=True)
        if plot:
            from codesign.report.table_plot import plot_table

            plot_table(folder / "pareto.png", table, value, places, front, view, ask)
        else:
            (folder / "pareto.png").unlink(missing_ok=True)
        _put(folder / "frontier.jsonl", "\n".join(lines) + "\n")
    except OSError as error:
        raise SpecError(f"cannot write the run to {folder}: {error}; give a writable --out") from error


def read_answers(folder: Path, table: CandidateTable) -> tuple[Array, list[int]]:
    """Quality (minimised), (rows,), with what was filled into ask.csv, and the trained rows in their order; keeps it in answers.csv.

    A row is known by the text of its other cells, so the table may be sorted or grow in between.

    Raises:
        SpecError: A filled cell that is no number, a value that contradicts the table's, or a row that the table no longer has.
        SchemaError: A file that lost its columns.
    """
    value, order = table.value.copy(), np.flatnonzero(table.asked).tolist()
    given: dict[str, tuple[str, str]] = {}
    for name in ("answers.csv", "ask.csv"):
        file = folder / name
        if not file.is_file():
            continue
        for number_, record in enumerate(_records(file, (_KEY, table.quality.column)), start=1):
            text = record[table.quality.column].strip()
            if text:
                given[record[_KEY]] = (text, f"{file} row {number_}")
    if not given:
        return value, order
    place = {_key(table, i): i for i in range(len(table))}
    for key, (text, where) in given.items():
        if key not in place:
            raise SpecError(
                f"{where}: no usable row of '{table.name}' has these cells any more; give another --out, or the table as it was"
            )
        found = np.nan if text.lower() in FAILED else number(text)
        if found is None:
            raise SpecError(
                f"{where}: {table.quality.column} is '{text[:40]}'; allowed: a number, or {', '.join(FAILED[:3])} (came to nothing)"
            )
        i = place[key]
        if table.asked[i] and not np.isclose(
            table.value[i], table.quality.sign * found, rtol=1e-9, atol=0, equal_nan=True
        ):
            raise SpecError(
                f"{where} says {table.quality.column} {text}, '{table.name}' row {table.line[i]} says "
                f"{table.quality.shown(table.value[i]):g}; correct one of them"
            )
        if not table.asked[i]:
            value[i] = table.quality.sign * found
        order = [row for row in order if row != i] + [i]
    _put(folder / "answers.csv", _csv([_KEY, table.quality.column], ([k, t] for k, (t, _) in given.items())))
    return value, order


def _records(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in needed if name not in (reader.fieldnames or [])]
            if missing:
                raise SchemaError(
                    f"{file} lost its column '{missing[0]}'; put it back, or remove the file to be asked again"
                )
            return [{k: v or "" for k, v in record.items() if isinstance(k, str)} for record in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SchemaError(f"{file} cannot be read as a CSV table: {error}; remove it to be asked again") from error


def _key(table: CandidateTable, row: int) -> str:
    place = table.header.index(table.quality.column)
    cells = [cell for i, cell in enumerate(table.cells[row]) if i != place]
    return hashlib.sha256("\x1f".join(cells).encode()).hexdigest()[:16]


def _line(table: CandidateTable, row: int) -> int:
    return int(table.line[row])


def _shown(table: CandidateTable, value: float) -> str:
    return f"{table.quality.shown(value):.6g}"


def _cells(table: CandidateTable, value: Array, row: int) -> list[str]:
    """The row's text, the quality as it is known now."""
    cells = list(table.cells[row])
    place = table.header.index(table.quality.column)
    if not np.isnan(value[row]) and not cells[place]:
        cells[place] = _shown(table, float(value[row]))
    elif np.isnan(value[row]) and not table.asked[row]:
        cells[place] = ""
    return cells


def _span(table: CandidateTable, view: Ask, row: int) -> list[str]:
    assert view.mean is not None and view.std is not None
    ends = sorted(table.quality.shown(float(view.mean[row] + side * Z90 * view.std[row])) for side in (-1, 1))
    return [_shown(table, float(view.mean[row])), f"{ends[0]:.6g}", f"{ends[1]:.6g}"]


def _record(table: CandidateTable, value: Array, row: int, order: Index) -> dict[str, Any]:
    costs = {g.column: g.shown(float(c)) for g, c in zip(table.costs, table.cost[row], strict=True)}
    return {
        _ROW: _line(table, row), "asked_as": int(np.flatnonzero(order == row)[0]) + 1,
        "quality": table.quality.shown(float(value[row])), "costs": costs,
        "cells": dict(zip(table.header, _cells(table, value, row), strict=True)),
    }  # fmt: skip


def _ask_csv(table: CandidateTable, value: Array, ask: Ask) -> str:
    columns = [_ROW, *table.header]
    extra = ["predicted", "low90", "high90", "expected_gain"] if ask.mean is not None else []
    rows = []
    for number_, i in enumerate(ask.rows):
        row: list[object] = [_line(table, i), *_cells(table, value, i)]
        if ask.mean is not None and ask.gain is not None:
            row += [*_span(table, ask, i), f"{ask.gain[number_]:.4g}"]
        rows.append([*row, _key(table, i)])
    return _csv([*columns, *extra, _KEY], rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def _put(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, file)
