"""Measurements as JSON Lines: how stores are merged and records kept in files. First a header, then a record a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from codesign.errors import CodesignError, SchemaError
from codesign.measurement import Measurement

__all__ = ["SCHEMA", "read_jsonl", "to_jsonl"]

SCHEMA = "codesign.measurements"
VERSION = 1


def to_jsonl(measurements: Iterable[Measurement]) -> Iterator[str]:
    """Lines, each with its line end.

    Example:
        >>> list(to_jsonl([]))
        ['{"schema": "codesign.measurements", "version": 1}\\n']
    """
    yield json.dumps({"schema": SCHEMA, "version": VERSION}) + "\n"
    for m in measurements:
        yield json.dumps(m.to_dict(), allow_nan=False) + "\n"


def read_jsonl(lines: Iterable[str], name: str) -> list[Measurement]:
    """Read every record; `name` is the file's, for messages.

    Raises:
        SchemaError: no header, a newer version, or a line that is no record (a file that was cut short, too).
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    _, first = next(numbered, (1, ""))
    try:
        header = json.loads(first)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA or not isinstance(header.get("version"), int):
        raise SchemaError(
            f"{name} does not begin with a header of {SCHEMA}; give what 'codesign measurements --json' wrote"
        )
    if header["version"] > VERSION:
        raise SchemaError(f"{name} has version {header['version']}; allowed: up to {VERSION}; update codesign")
    found = []
    for number, line in numbered:
        try:
            found.append(Measurement.from_dict(json.loads(line)))
        except (ValueError, TypeError, CodesignError) as error:
            raise SchemaError(f"{name}, line {number}: no whole record ({error}); nothing was imported") from error
    return found
