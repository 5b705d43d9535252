"""The tables, and the row of a measurement or of a training run.

The whole record is JSON text in `record` and is the truth. Every other column is derived from it, to be queried: whoever
changes `Measurement.key`, `TrainingRun.key`, the fields of `Architecture` or a column adds a migration that derives them
again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, MetaData, String, Table, Text

from codesign.architecture import Architecture
from codesign.errors import MeasurementError, SpecError
from codesign.measurement import Measurement
from codesign.training_run import TrainingRun

__all__ = [
    "METADATA", "architecture_key", "measurements", "normal_time", "row_of", "row_of_run", "training_runs", "versions",
]  # fmt: skip

METADATA = MetaData()
#: Names that a record has and `find` asks for.
NAMES = ("device", "engine", "precision", "phase", "campaign", "source")
#: The same of a training run.
RUN_NAMES = ("campaign", "status", "data", "data_digest", "tokenizer")

#: One row: the version of the schema.
versions = Table("codesign_schema", METADATA, Column("version", Integer, nullable=False))

measurements = Table(
    "codesign_measurements",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    # Indexed is what can pick few of many records; the others have a handful of values, and every index is one more page
    # to write and flush for each record, on a board's SD card.
    *(Column(name, Text, nullable=False, index=name in ("device", "campaign")) for name in NAMES),
    Column("pass_key", String(16), nullable=False, index=True),
    Column("architecture_key", String(16), nullable=False, index=True),
    Column("created_at", String(27), index=True),  # UTC, fixed width: sorts as time does; null where not known
    Column("flagged", Boolean, nullable=False),
    Column("record", Text, nullable=False),
)

#: One row an experiment (`TrainingRun.key`): a run that went on replaces what it was before.
training_runs = Table(
    "codesign_training_runs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("key", String(16), nullable=False, unique=True),
    *(Column(name, Text, nullable=False, index=name in ("campaign", "data_digest")) for name in RUN_NAMES),
    Column("architecture_key", String(16), nullable=False, index=True),
    Column("tokens_seen", BigInteger, nullable=False),
    Column("loss", Float(53)),  # null unless finished
    Column("created_at", String(27), index=True),
    Column("record", Text, nullable=False),
)


def normal_time(text: str, what: str) -> str:
    """ISO 8601 text as UTC of fixed width; text without a zone is taken as UTC.

    Raises:
        SpecError: not a date.

    Example:
        >>> normal_time("2026-11-22T03:00:00+02:00", "--since"), normal_time("2026-11-22", "--since")
        ('2026-11-22T01:00:00.000000Z', '2026-11-22T00:00:00.000000Z')
    """
    try:
        time = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))  # Python 3.10 does not read Z
        time = time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise SpecError(f"{what} '{text}' is not a date; write it as 2026-11-22 or 2026-11-22T14:30:00Z") from None
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def architecture_key(arch: Architecture) -> str:
    """Identity of a shape (16 hex digits); the family, a name for the same numbers, does not count."""
    return _hash({k: v for k, v in _given(arch, arch.to_dict()).items() if k != "family"})[:16]


def row_of(measurement: Measurement) -> dict[str, Any]:
    """The row that holds a measurement.

    The digest is over every value that differs from its field's default, so that a record keeps its digest when a later
    version adds a field.

    Raises:
        MeasurementError: a value that cannot be kept: no JSON, not finite, no text, or a date that is none.
    """
    data = measurement.to_dict()
    m = measurement
    try:
        record = _json(data)
        plain = json.loads(record)  # as it will be read again: lists for tuples, text keys
        architecture = _given(m.architecture, plain.pop("architecture"))
        row = _texts(m, NAMES)
        created = normal_time(m.created_at, "created_at") if m.created_at else None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise MeasurementError(f"{m.label()!r} cannot be recorded: {error}") from error
    return {
        **row,
        "digest": _hash({**_given(m, plain), "architecture": architecture}),
        "pass_key": m.key,
        "architecture_key": architecture_key(m.architecture),
        "created_at": created,
        "flagged": bool(m.flags),
        "record": record,
    }


def row_of_run(run: TrainingRun) -> dict[str, Any]:
    """The row that holds a training run.

    Raises:
        MeasurementError: a value that cannot be kept: no JSON, not finite, no text, or a date that is none.
    """
    try:
        return {
            **_texts(run, RUN_NAMES),
            "key": run.key,
            "architecture_key": architecture_key(run.architecture),
            "tokens_seen": run.tokens_seen,
            "loss": run.loss,
            "created_at": normal_time(run.created_at, "created_at") if run.created_at else None,
            "record": _json(run.to_dict()),
        }
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise MeasurementError(f"the run of {run.label()!r} cannot be recorded: {error}") from error


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, allow_nan=False, separators=(",", ":"))


def _texts(record: Any, names: Sequence[str]) -> dict[str, str]:
    """Fields by name; what no database keeps as text (half a surrogate pair, a zero byte) is refused."""
    row = {name: getattr(record, name) for name in names}
    for value in row.values():
        if b"\0" in value.encode("utf-8"):
            raise ValueError(f"{value!r} holds a zero byte")
    return row


def _given(instance: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """The items of `data` that differ from the defaults of the dataclass `instance`."""
    empty: dict[str, Any] = {}
    for f in fields(instance):
        if f.default is not MISSING:
            empty[f.name] = list(f.default) if isinstance(f.default, tuple) else f.default
        elif f.default_factory is not MISSING:
            empty[f.name] = f.default_factory()
    return {name: value for name, value in data.items() if name not in empty or empty[name] != value}


def _hash(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
