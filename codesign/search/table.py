"""A table of candidates: costs known in every row, quality known only where somebody trained the model.

Costs and quality are kept as numbers to minimise (a column with direction ``max`` is negated); `Goal.shown` gives back what the file
says. What makes a row unusable is counted, never silent.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codesign.errors import SchemaError, SpecError, UnknownNameError

__all__ = ["Bound", "CandidateTable", "Goal", "number", "parse_bound", "parse_goal", "read_candidates"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: What a cell may say instead of a number where a model was trained and came to nothing.
FAILED = ("nan", "failed", "diverged", "inf", "-inf")


class Goal(NamedTuple):
    """A column and its direction; `sign` times the cell is minimised."""

    column: str
    sign: float

    @property
    def direction(self) -> str:
        """min or max."""
        return "min" if self.sign > 0 else "max"

    def shown(self, value: float) -> float:
        """The number as the file has it."""
        return self.sign * value


class Bound(NamedTuple):
    """Least or greatest value of a column, as the file has it."""

    column: str
    value: float
    least: bool

    def broken(self, value: float) -> bool:
        """Whether a number lies on the wrong side."""
        return value < self.value if self.least else value > self.value

    def __str__(self) -> str:
        return f"{self.column} {'below' if self.least else 'above'} {self.value:g}"


def parse_goal(text: str, option: str, default: str | None = None) -> Goal:
    """COLUMN:min or COLUMN:max.

    Example:
        >>> parse_goal("accuracy:max", "--quality").sign, parse_goal("latency_ms", "--cost", "min").direction
        (-1.0, 'min')

    Raises:
        SpecError: no direction where none is the default, or an unknown one.
    """
    column, sign, direction = text.rpartition(":")
    if not sign:
        column, direction = text, default or ""
    if direction not in ("min", "max") or not column.strip():
        raise SpecError(
            f"{option} '{text}' needs a direction: write COLUMN:max (more is better) or COLUMN:min, such as accuracy:max"
        )
    return Goal(column.strip(), 1.0 if direction == "min" else -1.0)


def parse_bound(text: str, *, least: bool) -> Bound:
    """COLUMN=VALUE.

    Raises:
        SpecError: not of this form.
    """
    option = "--min" if least else "--max"
    column, _, value = text.rpartition("=")
    parsed = number(value)
    if not column.strip() or parsed is None or not math.isfinite(parsed):
        raise SpecError(f"{option} '{text}' is not COLUMN=NUMBER; write for example {option} latency_ms=0.5")
    return Bound(column.strip(), parsed, least)


def number(text: str) -> float | None:
    """The number in a cell, or None."""
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class CandidateTable:
    """Usable rows of the file, in its order.

    Attributes:
        name: Of the file. header: Its columns. cells: Their text, (rows, columns) as lists.
        line: Number of each row in the file, 1 the first after the header, (rows,).
        quality: Goal; costs: goals. cost: (rows, costs), minimised. value: Quality, (rows,), minimised; nan where unknown.
        asked: Rows whose model was trained, failed ones included, (rows,). counts: Rows whose quality may enter the frontier, (rows,).
        dropped: Reason -> rows that it took out. uncounted: Reason -> trained rows that are no part of the frontier.
    """

    name: str
    header: list[str]
    cells: list[list[str]]
    line: npt.NDArray[np.int64]
    quality: Goal
    costs: tuple[Goal, ...]
    cost: Array
    value: Array
    asked: Mask
    bounds: tuple[Bound, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cells)

    def column(self, name: str) -> list[str]:
        """The text of a column."""
        place = self.header.index(name)
        return [row[place] for row in self.cells]

    def allowed(self, value: Array) -> Mask:
        """Which qualities (minimised) may enter a frontier: finite, and inside the bounds on the quality column."""
        shown = self.quality.sign * value
        keep = np.isfinite(value)
        for bound in self.bounds:
            if bound.column == self.quality.column:
                keep &= ~(shown < bound.value if bound.least else shown > bound.value)
        return keep


def read_candidates(
    path: str | os.PathLike[str], quality: Goal, costs: Sequence[Goal], bounds: Sequence[Bound] = ()
) -> CandidateTable:
    """Read a CSV file.

    Rows without a finite number in a cost column, and rows outside a bound on any other column than the quality, are dropped and counted.
    An empty quality cell means "not trained yet"; ``nan``, ``failed`` or ``diverged`` means "trained, came to nothing".

    Raises:
        SpecError: no such file, no rows, the same column twice, a quality that is no number, or no usable row.
        UnknownNameError: a column that is not there.
        SchemaError: not a CSV table.
    """
    name = os.fspath(path)
    header, rows = _rows(name)
    wanted = [quality.column, *(goal.column for goal in costs), *(bound.column for bound in bounds)]
    for column in wanted:
        if column not in header:
            raise UnknownNameError.near(f"column of '{os.path.basename(name)}'", column, header, "")
    goals = [quality.column, *(goal.column for goal in costs)]
    if len(set(goals)) < len(goals):
        raise SpecError(f"a column is both quality and cost, or given twice: {', '.join(goals)}; give each once")
    place = {column: header.index(column) for column in wanted}
    dropped: dict[str, int] = {}
    kept, cost = [], []
    for line, row in enumerate(rows, start=1):
        values = [number(row[place[goal.column]]) for goal in costs]
        lacking = next(
            (g.column for g, v in zip(costs, values, strict=True) if v is None or not math.isfinite(v)), None
        )
        reason = f"no number in {lacking}" if lacking else _outside(row, place, bounds, quality.column, name, line)
        if reason:
            dropped[reason] = dropped.get(reason, 0) + 1
            continue
        kept.append(line)
        cost.append([goal.sign * float(v or 0.0) for goal, v in zip(costs, values, strict=True)])
    if not kept:
        why = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise SpecError(f"'{name}' has no usable row ({why}); check the bounds and the cost columns")
    cells = [rows[line - 1] for line in kept]
    value, asked = _qualities([row[place[quality.column]] for row in cells], kept, quality, name)
    return CandidateTable(
        os.path.basename(name), header, cells, np.array(kept), quality, tuple(costs), np.array(cost), value, asked,
        tuple(bounds), dropped,
    )  # fmt: skip


def _rows(name: str) -> tuple[list[str], list[list[str]]]:
    if not os.path.isfile(name):
        raise SpecError(f"no file '{name}'; give the path of a CSV with one candidate a row")
    try:
        with open(name, newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SchemaError(f"'{name}' cannot be read as a CSV table: {error}") from error
    if len(lines) < 2:
        raise SpecError(f"'{name}' has no rows; it needs a header and one candidate a row")
    header, rows = lines[0], lines[1:]
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise SchemaError(f"'{name}' has the column '{twice[0]}' twice; rename one")
    for line, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise SchemaError(f"'{name}' row {line} has {len(row)} cells, the header {len(header)}; repair the file")
    return header, rows


def _outside(
    row: list[str], place: dict[str, int], bounds: Sequence[Bound], quality: str, name: str, line: int
) -> str | None:
    for bound in bounds:
        if bound.column == quality:  # not known before the model is trained
            continue
        value = number(row[place[bound.column]])
        if value is None or not math.isfinite(value):
            return f"no number in {bound.column}"
        if bound.broken(value):
            return str(bound)
    return None


def _qualities(texts: list[str], lines: list[int], quality: Goal, name: str) -> tuple[Array, Mask]:
    value = np.full(len(texts), np.nan)
    asked = np.zeros(len(texts), dtype=bool)
    for i, text in enumerate(texts):
        if not text:
            continue
        asked[i] = True
        if text.lower() in FAILED:
            continue
        found = number(text)
        if found is None:
            raise SpecError(
                f"'{name}' row {lines[i]}: {quality.column} is '{text[:40]}'; allowed: a number, an empty cell (not trained "
                f"yet), or {', '.join(FAILED[:3])} (trained, came to nothing)"
            )
        value[i] = quality.sign * found
    return value, asked
