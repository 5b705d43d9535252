"""Read a table of training runs for the predictors: which rows count, which do not and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import MissingExtraError, SchemaError, SpecError, UnknownNameError

try:
    import pandas as pd
except ImportError as error:
    raise MissingExtraError.of("pandas", "predictors", "reading a table of training runs") from error

__all__ = ["LossTable", "read_loss_table"]

Array = npt.NDArray[np.float64]

#: Rows of different values in any of these have losses that do not compare.
_IDENTITY = ("dataset_id", "train_data", "loss_kind", "tokenizer", "data_digest")
_SHAPE = ("arch", "n_layers", "d_model", "d_ff", "n_experts", "d_ff_expert")
_SIZES = ("params_nonembed_active", "params_active", "params_total")
_LEAST_ROWS = 12
#: A run above this many times the median of the same model and tokens has diverged (needs four such runs).
_DIVERGED = 1.25


@dataclass(frozen=True)
class LossTable:
    """Usable rows of a table.

    Attributes:
        name: Of the file. frame: The rows, all columns (a pandas DataFrame).
        target: Name of the target column. group_columns: What makes a group.
        excluded: Reason -> how many rows it took out. size: Column by which "largest" is meant, or None.
    """

    name: str
    frame: Any
    target: str
    group_columns: tuple[str, ...]
    excluded: dict[str, int]
    size: str | None

    @property
    def y(self) -> Array:
        """The target, (rows,)."""
        return np.asarray(self.frame[self.target], dtype=float)

    @property
    def groups(self) -> Any:
        """A number a row, equal within a group, (rows,)."""
        return group_of(self.frame, self.group_columns)

    def take(self, rows: Any) -> LossTable:
        """The rows of a mask or of indices."""
        frame = self.frame[rows] if np.asarray(rows).dtype == bool else self.frame.iloc[rows]
        return LossTable(
            self.name, frame.reset_index(drop=True), self.target, self.group_columns, self.excluded, self.size
        )


def group_of(frame: Any, columns: Sequence[str]) -> Any:
    """A number a row, equal where all columns are; an empty cell is a value like another."""
    return frame.groupby(list(columns), dropna=False, sort=True).ngroup().to_numpy()


def read_loss_table(
    path: str | os.PathLike[str],
    target: str = "loss",
    group: Sequence[str] | None = None,
    where: Sequence[str] = (),
    least_rows: int = _LEAST_ROWS,
) -> LossTable:
    """Read a CSV with the columns of a loss table.

    Args:
        path: The file.
        target: Column to predict; positive numbers.
        group: Columns that make a group (all of one shape); None: architecture, depth, width, FFN and experts, as far as they are there.
        where: Conditions ``column=value`` that rows must meet.
        least_rows: Fewest usable rows.

    Raises:
        SpecError: A condition that is none, too few rows, or rows of several data sets.
        UnknownNameError: A column that is not there.
        SchemaError: Not a CSV table.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise SpecError(f"no file '{name}'; give the path of a CSV with one training run a row")
    try:
        frame = pd.read_csv(name, low_memory=False)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise SchemaError(f"'{name}' cannot be read as a CSV table: {error}") from error
    frame.columns = [str(column).strip() for column in frame.columns]
    for condition in where:
        column, sign, value = condition.partition("=")
        if not sign:
            raise SpecError(f"--where '{condition}' is no condition; write COLUMN=VALUE, such as train_data=refinedweb")
        frame = frame[
            _column(frame, column.strip(), name).astype(str) == _as_written(frame[column.strip()], value.strip())
        ]
        if frame.empty:
            raise SpecError(f"no row of '{name}' has {condition}")
    values = pd.to_numeric(_column(frame, target, name), errors="coerce").to_numpy(dtype=float)
    columns = tuple(group) if group else tuple(c for c in _SHAPE if c in frame.columns)
    for column in columns:
        _column(frame, column, name)
    if not columns:
        raise SpecError(
            f"'{name}' has none of the columns that make a shape ({', '.join(_SHAPE)}); name the group: --group COLUMN"
        )
    excluded: dict[str, int] = {}
    keep = np.ones(len(frame), dtype=bool)

    def exclude(mask: Any, reason: str) -> None:
        nonlocal keep
        count = int((keep & mask).sum())
        if count:
            excluded[reason] = count
        keep = keep & ~mask

    if "status" in frame.columns:
        status = frame["status"].astype(str).to_numpy()
        for kind in ("diverged", "stopped", "running"):
            exclude(status == kind, f"marked {kind}")
    exclude(~np.isfinite(values), f"no number in '{target}'")
    exclude(~(values > 0), f"'{target}' not above zero")
    exclude(
        _diverged(frame, values, keep), f"diverged (over {_DIVERGED:g} times the median of the same model and tokens)"
    )
    frame, values = frame[keep].copy(), values[keep]
    frame[target] = values
    for column in _IDENTITY:
        if column in frame.columns and column not in columns:
            found = sorted(str(v) for v in frame[column].dropna().unique())
            if len(found) > 1:
                shown = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
                raise SpecError(
                    f"'{name}' mixes {len(found)} values of '{column}' ({shown}): absolute losses do not compare; choose one: --where {column}={found[0]}"
                )
    if len(frame) < least_rows:
        told = f" after leaving out {sum(excluded.values())}" if excluded else ""
        raise SpecError(
            f"'{name}' has {len(frame)} usable rows{told}; at least {least_rows} are needed, {least_rows - len(frame)} more"
        )
    size = next(
        (c for c in _SIZES if c in frame.columns and np.isfinite(pd.to_numeric(frame[c], errors="coerce")).all()), None
    )
    return LossTable(os.path.basename(name), frame.reset_index(drop=True), target, columns, excluded, size)


def _column(frame: Any, column: str, name: str) -> Any:
    if column not in frame.columns:
        raise UnknownNameError.near(f"column of '{os.path.basename(name)}'", column, list(frame.columns), "")
    return frame[column]


def _as_written(column: Any, value: str) -> str:
    """The text that pandas shows for a value of a column: 64 in a column of floats is 64.0."""
    if column.dtype.kind == "f":
        try:
            return str(float(value))
        except ValueError:
            return value
    return value


def _diverged(frame: Any, values: Array, keep: Any) -> Any:
    sizes = [c for c in (*_SIZES[:1], "n_layers", "d_model", "tokens") if c in frame.columns]
    out = np.zeros(len(frame), dtype=bool)
    if "tokens" not in sizes:
        return out
    cells = group_of(frame, sizes)
    for cell in np.unique(cells[keep]):
        rows = keep & (cells == cell)
        if rows.sum() >= 4:
            out |= rows & (values > _DIVERGED * np.median(values[rows]))
    return out
