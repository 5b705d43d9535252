"""The store's training runs: one record an experiment, replaced as its run goes on."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.dialects import postgresql, sqlite

from codesign.architecture import Architecture
from codesign.errors import CodesignError, SchemaError
from codesign.store.tables import architecture_key, normal_time, row_of_run, training_runs
from codesign.training_run import TrainingRun

__all__ = ["RunSet", "Runs"]

T = TypeVar("T")
Names = str | Sequence[str] | None
_RANK = {"finished": 3, "diverged": 2, "stopped": 1, "running": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSet:
    """How many runs of one status a campaign has on one text with one tokenizer."""

    campaign: str
    data: str
    data_digest: str
    tokenizer: str
    status: str
    runs: int


class Runs:
    """The part of `Store` that keeps training runs.

    Two records are of the same experiment if their `TrainingRun.key` is equal. One is kept: the one that trained on more
    tokens; of two that saw equally many, the one whose status says more (finished, diverged, stopped, running), and then the
    later one. So a record that arrives late, from a worker that was lost or from another store, never undoes progress. The
    experiment keeps the number of its first record.
    """

    name: str

    @abstractmethod
    def _read(self, query: Select[Any]) -> Sequence[Any]: ...

    @abstractmethod
    def _write(self, work: Callable[[Connection], T]) -> T: ...

    def add_run(self, run: TrainingRun) -> int:
        """Record a run, or what has become of it, and return its number; it is durable when this returns.

        Raises:
            MeasurementError: it cannot be recorded; what was recorded before is safe.
        """
        row = row_of_run(run)
        return self._write(lambda connection: _keep(connection, row)[0])

    def add_runs(self, several: Iterable[TrainingRun]) -> int:
        """Record all or, if one cannot be recorded, none; returns how many were new or replaced an earlier record.

        Raises:
            MeasurementError: as `add_run`.
        """
        rows = [row_of_run(run) for run in several]
        return self._write(lambda connection: sum(_keep(connection, row)[1] for row in rows))

    def find_runs(
        self,
        *,
        campaign: Names = None,
        status: Names = None,
        data: Names = None,
        data_digest: Names = None,
        tokenizer: Names = None,
        key: Names = None,
        architecture: Architecture | None = None,
        since: str | None = None,
    ) -> list[TrainingRun]:
        """The runs that meet every condition given, in the order in which they were first recorded.

        Args:
            campaign, status, data, data_digest, tokenizer, key: a value of the record, or several of which one must match.
            architecture: this shape, whatever its family.
            since: ISO 8601; records without a date are left out.

        Raises:
            SpecError: `since` is no date.
            SchemaError: a record of a newer codesign.
            MeasurementError: the store cannot be read.
        """
        c = training_runs.c
        query = select(c.id, c.record).order_by(c.id)
        wanted = {"campaign": campaign, "status": status, "data": data, "data_digest": data_digest,
                  "tokenizer": tokenizer, "key": key}  # fmt: skip
        for name, value in wanted.items():
            if value is not None:
                query = query.where(c[name].in_([value] if isinstance(value, str) else list(value)))
        if architecture is not None:
            query = query.where(c.architecture_key == architecture_key(architecture))
        if since is not None:
            query = query.where(c.created_at >= normal_time(since, "since"))
        return [self._run(number, record) for number, record in self._read(query)]

    def run_sets(self) -> list[RunSet]:
        """How many runs there are by campaign, text, tokenizer and status, in the order of first records."""
        c = training_runs.c
        group = (c.campaign, c.data, c.data_digest, c.tokenizer, c.status)
        rows = self._read(select(*group, func.count()).group_by(*group).order_by(func.min(c.id)))
        names = ("campaign", "data", "data_digest", "tokenizer", "status", "runs")
        return [RunSet(**dict(zip(names, row, strict=True))) for row in rows]

    def _run(self, number: int, record: str) -> TrainingRun:
        try:
            return TrainingRun.from_dict(json.loads(record))
        except (ValueError, CodesignError) as error:
            raise SchemaError(f"training run {number} of the store {self.name} cannot be read: {error}") from error


def _keep(connection: Connection, row: dict[str, Any]) -> tuple[int, bool]:
    """Number of the experiment, and whether its record is this one now."""
    c = training_runs.c
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    same = select(c.id, c.tokens_seen, c.status, c.created_at).where(c.key == row["key"])
    # SQLite's transaction holds the write lock already; on PostgreSQL the row is locked, so that two processes compare in turn.
    found = connection.execute(same.with_for_update()).first()
    if found is None:
        statement = insert(training_runs).values(row).on_conflict_do_nothing(index_elements=["key"])
        added = connection.execute(statement.inline()).rowcount
        found = connection.execute(same.with_for_update()).one()
        if added:
            return int(found.id), True
    if _rank(row["tokens_seen"], row["status"], row["created_at"]) <= _rank(*found[1:]):
        return int(found.id), False
    connection.execute(training_runs.update().where(c.id == found.id).values(row))
    return int(found.id), True


def _rank(tokens_seen: int, status: str, created_at: str | None) -> tuple[int, int, str]:
    return tokens_seen, _RANK[status], created_at or ""
