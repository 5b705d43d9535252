"""Tables: columns that know how to show and how to sort, and the choices of a filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["MOST_ROWS", "Column", "Filter", "Table", "filter_of", "make_table"]

Row = TypeVar("Row")
#: Rows that a page shows; a browser lays out no more without a pause.
MOST_ROWS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[Row]):
    """text: what a cell shows; more: a second, quieter line; order: what it sorts by, None sorts last in both directions."""

    key: str
    title: str
    text: Callable[[Row], str]
    order: Callable[[Row], Any] | None = None
    more: Callable[[Row], str] | None = None
    number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[Row]):
    """Rows in order, at most MOST_ROWS of `total`; `sort` and `falling` say by what."""

    columns: tuple[Column[Row], ...]
    rows: tuple[Row, ...]
    total: int
    sort: str
    falling: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A choice above a table: name of the parameter, what it is called, the values there are, and the one that is chosen."""

    name: str
    title: str
    values: tuple[str, ...]
    chosen: str


def make_table(
    columns: Sequence[Column[Row]],
    rows: Iterable[Row],
    asked: Mapping[str, str],
    *,
    first: str = "",
    falling: bool = False,
) -> Table[Row]:
    """Sort as the address asks: ``sort`` names a column, ``dir=down`` turns it round; what it does not have is ignored.

    Args:
        first, falling: the order where none is asked for; an empty name keeps the rows' own.
    """
    known = {column.key: column for column in columns if column.order is not None}
    sort = asked.get("sort", "")
    if sort in known:
        falling = asked.get("dir") == "down"
    else:
        sort = first
    ordered = list(rows)
    if sort in known:
        order = known[sort].order
        assert order is not None
        ordered = _in_order(ordered, order, falling)
    return Table(
        columns=tuple(columns), rows=tuple(ordered[:MOST_ROWS]), total=len(ordered), sort=sort, falling=falling
    )


def _in_order(rows: Sequence[Row], order: Callable[[Row], Any], falling: bool) -> list[Row]:
    valued = [(order(row), row) for row in rows]
    known = [pair for pair in valued if not _unknown(pair[0])]
    known.sort(key=lambda pair: pair[0], reverse=falling)
    return [row for _, row in known] + [row for value, row in valued if _unknown(value)]


def _unknown(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def filter_of(name: str, title: str, values: Iterable[str], asked: Mapping[str, str]) -> Filter:
    """The choice among the values that occur; one that was asked for and does not occur stays to be seen."""
    chosen = asked.get(name, "")
    return Filter(
        name=name, title=title, chosen=chosen, values=tuple(sorted({*values, *((chosen,) if chosen else ())} - {""}))
    )
