"""Records as JSON Lines: how stores are merged and records kept in files. First a header, then a record a line.

Measurements and training runs are files of two kinds, told by their header.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from codesign.errors import CodesignError, SchemaError
from codesign.measurement import Measurement
from codesign.training_run import TrainingRun

__all__ = ["RUNS_SCHEMA", "SCHEMA", "read_jsonl", "read_runs_jsonl", "runs_to_jsonl", "to_jsonl"]

SCHEMA = "codesign.measurements"
RUNS_SCHEMA = "codesign.training_runs"
VERSION = 1
_WRITTEN_BY = {SCHEMA: "codesign measurements --json", RUNS_SCHEMA: "codesign train --export FILE.jsonl"}
T = TypeVar("T")


def to_jsonl(measurements: Iterable[Measurement]) -> Iterator[str]:
    """Lines, each with its line end.

    Example:
        >>> list(to_jsonl([]))
        ['{"schema": "codesign.measurements", "version": 1}\\n']
    """
    return _lines(SCHEMA, (m.to_dict() for m in measurements))


def runs_to_jsonl(runs: Iterable[TrainingRun]) -> Iterator[str]:
    """Lines, each with its line end.

    Example:
        >>> list(runs_to_jsonl([]))
        ['{"schema": "codesign.training_runs", "version": 1}\\n']
    """
    return _lines(RUNS_SCHEMA, (run.to_dict() for run in runs))


def read_jsonl(lines: Iterable[str], name: str) -> list[Measurement]:
    """Read every measurement; `name` is the file's, for messages.

    Raises:
        SchemaError: no header, a newer version, or a line that is no record (a file that was cut short, too).
    """
    return _read(lines, name, SCHEMA, Measurement.from_dict)


def read_runs_jsonl(lines: Iterable[str], name: str) -> list[TrainingRun]:
    """Read every training run; `name` is the file's, for messages.

    Raises:
        SchemaError: as `read_jsonl`.
    """
    return _read(lines, name, RUNS_SCHEMA, TrainingRun.from_dict)


def _lines(schema: str, records: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield json.dumps({"schema": schema, "version": VERSION}) + "\n"
    for record in records:
        yield json.dumps(record, allow_nan=False) + "\n"


def _read(lines: Iterable[str], name: str, schema: str, parse: Callable[[dict[str, Any]], T]) -> list[T]:
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    _, first = next(numbered, (1, ""))
    try:
        header = json.loads(first)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("schema") != schema or not isinstance(header.get("version"), int):
        raise SchemaError(f"{name} does not begin with a header of {schema}; give what '{_WRITTEN_BY[schema]}' wrote")
    if header["version"] > VERSION:
        raise SchemaError(f"{name} has version {header['version']}; allowed: up to {VERSION}; update codesign")
    found = []
    for number, line in numbered:
        try:
            found.append(parse(json.loads(line)))
        except (ValueError, TypeError, CodesignError) as error:
            raise SchemaError(f"{name}, line {number}: no whole record ({error}); nothing was imported") from error
    return found
