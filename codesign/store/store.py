"""`Store`: add and find measurements and training runs. A record that `add` returned for survives a killed process and a power cut."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sqlalchemy import Connection, Engine, Select, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from codesign.architecture import Architecture
from codesign.errors import CodesignError, MeasurementError, SchemaError, SpecError
from codesign.measurement import Measurement
from codesign.store.place import Place, find_place
from codesign.store.runs import Runs
from codesign.store.schema import BUSY_S, begin_write, prepare
from codesign.store.tables import architecture_key, measurements, normal_time, row_of

__all__ = ["CampaignSummary", "Store"]

T = TypeVar("T")
Names = str | Sequence[str] | None
#: Waits between tries to write to a server that was lost. Trying again is safe: a record is kept once.
RETRY_S = (0.5, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSummary:
    """What one campaign recorded on one device with one engine and precision; first and last are ISO 8601 or None."""

    campaign: str
    device: str
    engine: str
    precision: str
    records: int
    first: str | None
    last: str | None


class Store(Runs):
    """Measurements and training runs in SQLite or PostgreSQL. Threads may share one; each process opens its own.

    SQLite runs with a write-ahead log and synchronous=FULL: that log is then flushed to the disk at every commit (with
    NORMAL, the usual choice, a power cut loses the last commits, and a board on a bench loses power). On PostgreSQL a
    commit is as durable as the server's synchronous_commit, which is on by default.

    Args:
        url_or_path: see `find_place`.
        create: make what is missing, and check that it can be written to; without, a missing store is an empty one.

    Attributes:
        name: the place, without passwords; exists: whether there are tables.

    Raises:
        SpecError, MissingExtraError: see `find_place`.
        SchemaError: not a store, or one of a newer version; it was not touched.
        MeasurementError: it cannot be reached, read or written.

    Example:
        >>> import tempfile
        >>> arch = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
        >>> m = Measurement(architecture=arch, precision="fp32", engine="torch", phase="decode", tokens=1,
        ...                 context_tokens=256, device="host", wall_s=(0.01, 0.011))
        >>> with tempfile.TemporaryDirectory() as folder, Store(folder + "/measurements.sqlite") as store:
        ...     store.add(m), store.add(m), store.find(device="host") == [m]
        (1, 1, True)
    """

    def __init__(self, url_or_path: str | os.PathLike[str] | None = None, *, create: bool = True) -> None:
        self._place = find_place(url_or_path)
        self.name = self._place.name
        self.exists = False
        path = self._place.path
        if path is not None:
            if not path.exists() and not create:
                self._engine = create_engine("sqlite://")  # never asked
                return
            _check_file(path, create)
        self._engine = _open(self._place)
        try:
            self.exists = prepare(self._engine, create=create)
            if create:
                with begin_write(self._engine).begin():
                    pass
        except SchemaError as error:
            self.close()
            raise SchemaError(f"cannot use the store {self.name}: {error}") from error
        except (SQLAlchemyError, sqlite3.Error) as error:
            self.close()
            self._fail(error)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def add(self, measurement: Measurement) -> int:
        """Record one measurement and return its number; it is durable when this returns.

        The same record again (sent twice after a lost connection, imported twice) is kept once and its first number is
        returned. Two records are the same if every field is, times and date included.

        Raises:
            MeasurementError: it cannot be recorded; what was recorded before is safe.
        """
        row = row_of(measurement)
        return self._write(lambda connection: self._insert(connection, row)[0])

    def add_all(self, several: Iterable[Measurement]) -> int:
        """Record all or, if one cannot be recorded, none; returns how many were not there before.

        Raises:
            MeasurementError: as `add`.
        """
        rows = [row_of(m) for m in several]
        return self._write(lambda connection: sum(self._insert(connection, row)[1] for row in rows))

    def find(
        self,
        *,
        device: Names = None,
        engine: Names = None,
        precision: Names = None,
        phase: Names = None,
        campaign: Names = None,
        source: Names = None,
        key: Names = None,
        architecture: Architecture | None = None,
        since: str | None = None,
        flagged: bool | None = None,
        limit: int | None = None,
    ) -> list[Measurement]:
        """The measurements that meet every condition given, in the order they were recorded in.

        Args:
            device, engine, precision, phase, campaign, source, key: a value of the record (`key` of `Measurement.key`),
                or several of which one must match. campaign="": what belongs to none.
            architecture: this shape.
            since: ISO 8601; records without a date are left out.
            flagged: true: only those with flags; false: only those without.
            limit: the first so many.

        Raises:
            SpecError: `since` is no date, or `limit` is below 1.
            SchemaError: a record of a newer codesign.
            MeasurementError: the store cannot be read.
        """
        if limit is not None and limit < 1:
            raise SpecError(f"limit is {limit}; allowed: at least 1")
        names = {"device": device, "engine": engine, "precision": precision, "phase": phase, "campaign": campaign,
                 "source": source, "pass_key": key}  # fmt: skip
        query = select(measurements.c.id, measurements.c.record).order_by(measurements.c.id).limit(limit)
        rows = self._read(_where(query, names, architecture, since, flagged))
        found = []
        for number, record in rows:
            try:
                found.append(Measurement.from_dict(json.loads(record)))
            except (ValueError, CodesignError) as error:
                raise SchemaError(f"record {number} of the store {self.name} cannot be read: {error}") from error
        return found

    def count(self, *, device: Names = None, campaign: Names = None, key: Names = None) -> int:
        """How many records meet the conditions, as in `find`."""
        query = select(func.count()).select_from(measurements)
        names = {"device": device, "campaign": campaign, "pass_key": key}
        rows = self._read(_where(query, names, None, None, None))
        return int(rows[0][0]) if rows else 0

    def campaigns(self) -> list[CampaignSummary]:
        """One row for each campaign, device, engine and precision, in the order of first records."""
        c = measurements.c
        group = (c.campaign, c.device, c.engine, c.precision)
        query = select(*group, func.count(), func.min(c.created_at), func.max(c.created_at)).group_by(*group)
        rows = self._read(query.order_by(func.min(c.id)))
        names = ("campaign", "device", "engine", "precision", "records", "first", "last")
        return [CampaignSummary(**dict(zip(names, row, strict=True))) for row in rows]

    def _read(self, query: Select[Any]) -> Sequence[Any]:
        if not self.exists:
            return []
        try:
            with self._engine.begin() as connection:
                return connection.execute(query).all()
        except SQLAlchemyError as error:
            self._fail(error)

    def _write(self, work: Callable[[Connection], T]) -> T:
        if not self.exists:
            raise MeasurementError(f"no store of measurements at {self.name}; open it with create=True")
        for wait_s in (*RETRY_S, None):
            try:
                with begin_write(self._engine).begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                if wait_s is None or not self._lost(error):
                    self._fail(error)
            time.sleep(wait_s)
        raise AssertionError("unreachable")

    def _insert(self, connection: Connection, row: dict[str, Any]) -> tuple[int, bool]:
        """Number of the row's record, and whether it is new."""
        same = select(measurements.c.id).where(measurements.c.digest == row["digest"])
        if (number := connection.execute(same).scalar()) is not None:
            return int(number), False
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        statement = insert(measurements).values(row).on_conflict_do_nothing(index_elements=["digest"])
        connection.execute(statement.inline())  # on PostgreSQL another process may add it at the same time
        return int(connection.execute(same).scalar_one()), True

    def _lost(self, error: SQLAlchemyError) -> bool:
        """Whether a server was lost (no state, connection states 08, shutdown 57P) and may come back."""
        orig = getattr(error, "orig", None)
        state = getattr(orig, "sqlstate", None) or ""
        kinds = ("OperationalError", "InterfaceError", "AdminShutdown")
        return self._place.path is None and (
            state.startswith(("08", "57P")) or (not state and type(orig).__name__ in kinds)
        )

    def _fail(self, error: Exception) -> NoReturn:
        """Raise what a person can act on. SQLite's texts are stable; a server's are shown as they are."""
        said = self._place.hide(str(getattr(error, "orig", None) or error))
        raise _error_of(said, self.name, self._place.path is not None) from error


def _error_of(said: str, name: str, is_file: bool) -> CodesignError:
    if not is_file:
        return MeasurementError(
            f"store {name}: {said.rstrip('.')}; check that the server runs and that the URL is right"
        )
    if "not a database" in said or "malformed" in said:
        return SchemaError(f"cannot use the store {name}: {said}; give another --store, or move the file away")
    if "full" in said or "disk I/O" in said:
        return MeasurementError(f"cannot write to the store {name}: {said}; free space there: what it holds is safe")
    if "locked" in said:
        return MeasurementError(f"the store {name} is busy: another process has been writing for over {BUSY_S:g} s")
    return MeasurementError(f"cannot use the store {name}: {said}; give a writable place: --store or CODESIGN_STORE")


def _check_file(path: Path, create: bool) -> None:
    try:
        if path.exists() and not path.is_file():
            raise SchemaError(f"cannot use {path} as a store: it is not a file; give a file's path")
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MeasurementError(
            f"cannot make the store {path}: {error.strerror}; give a writable place: --store or CODESIGN_STORE"
        ) from error


def _open(place: Place) -> Engine:
    if place.path is None:
        # pre-ping: a connection that the server dropped between two records is replaced before it is used
        return create_engine(place.url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    engine = create_engine(place.url, connect_args={"timeout": BUSY_S})

    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # SQLAlchemy's recipe: BEGIN is ours
        connection.execute("PRAGMA synchronous=FULL")

    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("codesign_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begin)
    return engine


def _where(
    query: Select[Any],
    names: dict[str, Names],
    architecture: Architecture | None,
    since: str | None,
    flagged: bool | None,
) -> Select[Any]:
    for name, wanted in names.items():
        if wanted is not None:
            query = query.where(measurements.c[name].in_([wanted] if isinstance(wanted, str) else list(wanted)))
    if architecture is not None:
        query = query.where(measurements.c.architecture_key == architecture_key(architecture))
    if since is not None:
        query = query.where(measurements.c.created_at >= normal_time(since, "since"))
    if flagged is not None:
        query = query.where(measurements.c.flagged.is_(flagged))
    return query
