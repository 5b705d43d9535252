"""The version of a store's tables: made, migrated or refused when it is opened."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, Text, inspect, select

from codesign.errors import CodesignError, SchemaError
from codesign.measurement import Measurement
from codesign.store.tables import METADATA, measurements, row_of, training_runs, versions

__all__ = ["MIGRATIONS", "VERSION", "begin_write", "prepare", "read_version"]

LOCK = 0x636F6465  # "code": of PostgreSQL's advisory locks, so that one process at a time makes or changes the tables
BUSY_S = 60.0


def _from_0(connection: Connection) -> None:
    """Version 0, before the first release, kept only the record: derive every column. Doubles fold into one."""
    old = Table(measurements.name, MetaData(), Column("id", Integer, primary_key=True), Column("record", Text))
    rows: dict[str, dict[str, Any]] = {}
    for number, record in connection.execute(select(old.c.id, old.c.record).order_by(old.c.id)):
        try:
            row = row_of(Measurement.from_dict(json.loads(record)))
        except (ValueError, CodesignError) as error:
            raise SchemaError(f"record {number} cannot be read, so the store was left as it was: {error}") from error
        rows.setdefault(row["digest"], row)
    old.drop(connection)
    measurements.create(connection)
    if rows:
        connection.execute(measurements.insert(), list(rows.values()))


def _from_1(connection: Connection) -> None:
    """Version 1 had measurements only: add the table of training runs."""
    training_runs.create(connection)


#: Step i takes version i to i + 1. Steps are never changed once released: one that uses a table gets a copy of it as it
#: was.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_from_0, _from_1)
VERSION = len(MIGRATIONS)


def begin_write(engine: Engine) -> Engine:
    """The same engine; its transactions take the write lock at once.

    On SQLite a transaction that reads first and writes later can fail where another has written in between; one that
    begins with the lock waits for its turn.
    """
    return engine.execution_options(codesign_write=True)


def read_version(connection: Connection) -> int | None:
    """The version of the tables; None where there are none.

    Raises:
        SchemaError: a database of something else, or a version that makes no sense.
    """
    names = inspect(connection).get_table_names()
    if versions.name not in names:
        if names and connection.dialect.name == "sqlite":  # a server's database may hold a team's other tables
            raise SchemaError(f"it is a database of something else (tables: {', '.join(names[:5])})")
        return None
    found = connection.execute(select(versions.c.version)).scalars().all()
    if len(found) != 1 or not isinstance(found[0], int) or found[0] < 0:
        raise SchemaError(f"its version is {found}; allowed: one whole number up to {VERSION}")
    if found[0] > VERSION:
        raise SchemaError(f"its schema has version {found[0]}; this codesign knows versions up to {VERSION}: update it")
    return found[0]


def prepare(engine: Engine, *, create: bool) -> bool:
    """Bring the tables to `VERSION` in one transaction; False where there are none and `create` is false.

    Raises:
        SchemaError: see `read_version`; nothing was touched.
    """
    with engine.begin() as connection:
        version = read_version(connection)
    if version == VERSION or (version is None and not create):
        return version is not None
    if engine.dialect.name == "sqlite":
        _use_wal(engine)
    with begin_write(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        version = read_version(connection)  # another process may have been first
        if version is None:
            METADATA.create_all(connection)
            connection.execute(versions.insert().values(version=VERSION))
            return True
        for step in MIGRATIONS[version:]:
            step(connection)
        connection.execute(versions.update().values(version=VERSION))
    return True


def _use_wal(engine: Engine) -> None:
    """Write-ahead log: readers and the one writer do not wait for each other. The mode is kept in the file.

    SQLite does not wait by itself for the lock that this needs. Where a file system cannot do it, the older journal stays,
    which is as durable.
    """
    end = time.monotonic() + BUSY_S
    raw = engine.raw_connection()
    try:
        while True:
            try:
                raw.cursor().execute("PRAGMA journal_mode=WAL").fetchone()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
            time.sleep(0.02)
    finally:
        raw.close()
