"""What a surrogate sees of a table's rows: number columns, label columns, and what the paths of a cell say.

A cell is a small graph given by columns named ``eij``, the operation on the edge from node i to node j (i < j), as in NAS-Bench-201.
The edges alone say little: an operation counts only where a path leads through it. `cell_features` counts along the paths from the
first node to the last over edges that exist.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError, UnknownNameError
from codesign.search.table import CandidateTable, number

__all__ = ["Cell", "Features", "cell_features", "features_of", "parse_cell"]

Array = npt.NDArray[np.float64]
_EDGE = re.compile(r"^e(\d)(\d)$")
_LEAST_COPIES = 0.95  # a text column with a larger share of different values is a name


@dataclass(frozen=True)
class Cell:
    """What the operations of a cell's edges mean: `none`: no edge; `layers`: those with trained weights."""

    none: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Features:
    """numbers: (rows, number columns); labels: codes, (rows, label columns); the columns' names; left out -> why."""

    numbers: Array
    labels: Array
    number_names: tuple[str, ...]
    label_names: tuple[str, ...]
    left_out: dict[str, str]


def parse_cell(text: str) -> Cell:
    """none=OP,layers=OP+OP.

    Example:
        >>> parse_cell("none=0,layers=2+3")
        Cell(none='0', layers=('2', '3'))

    Raises:
        SpecError: not of this form.
    """
    parts = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
    if set(parts) != {"none", "layers"} or not all(parts.values()):
        raise SpecError(
            f"--cell '{text}' is not none=OPERATION,layers=OPERATION+OPERATION; NAS-Bench-201 as 0 to 4 is none=0,layers=2+3"
        )
    return Cell(parts["none"], tuple(parts["layers"].split("+")))


def features_of(
    table: CandidateTable,
    names: Sequence[str] = (),
    ignore: Sequence[str] = (),
    labels: Sequence[str] = (),
    cell: Cell | None = None,
) -> Features:
    """Numbers and labels of a table's rows.

    Args:
        table: The rows.
        names: Columns to use (``*`` and ``?`` match); none: all complete ones but the quality, constants and names of rows.
        ignore: Columns not to use. labels: Number columns that are labels all the same; text columns always are.
        cell: Adds the path counts of the columns eij, and makes these labels.

    Raises:
        UnknownNameError: a pattern that no column matches.
        SpecError: no feature is left, a column of `names` has empty cells, or no edges for `cell`.
    """
    chosen = _matching(names, table) if names else list(table.header)
    skip = set(_matching(ignore, table))
    label_set = set(_matching(labels, table))
    edges = [name for name in table.header if _EDGE.match(name)] if cell else []
    left_out: dict[str, str] = {}
    numbers: dict[str, Array] = {}
    codes: dict[str, Array] = {}
    for name in chosen:
        if name == table.quality.column or name in skip:
            continue
        texts = table.column(name)
        why = _unusable(texts, given=bool(names))
        if why:
            if names and why != "constant":
                raise SpecError(
                    f"'{table.name}': column '{name}' cannot be a feature: {why}; leave it out of --features"
                )
            left_out[name] = why
            continue
        parsed = [number(text) for text in texts]
        if name in label_set or name in edges or any(v is None or not np.isfinite(v) for v in parsed):
            codes[name] = np.unique(texts, return_inverse=True)[1].astype(float)
        else:
            numbers[name] = np.array(parsed, dtype=float)
    if cell is not None:
        if not edges:
            raise SpecError(f"--cell: '{table.name}' has no columns named eij (e01, e02, ...), the edges of a cell")
        numbers |= cell_features({name: table.column(name) for name in edges}, cell)
    if not numbers and not codes:
        raise SpecError(f"'{table.name}' has no column that could be a feature; name some with --features")
    rows = len(table)
    return Features(
        np.stack(list(numbers.values()), axis=1) if numbers else np.empty((rows, 0)),
        np.stack(list(codes.values()), axis=1) if codes else np.empty((rows, 0)),
        tuple(numbers), tuple(codes), left_out,
    )  # fmt: skip


def cell_features(edges: dict[str, list[str]], cell: Cell) -> dict[str, Array]:
    """Counts along a cell's living paths, the paths from node 0 to the last node without a ``none``.

    Args:
        edges: Column eij -> the operation of each row, as text. cell: What operations mean.

    Returns:
        ``cell:NAME`` -> (rows,), without constants: how many paths live (``paths``), the longest, with k layers in all (``paths_k_layers``); of each
        operation o: edges on living paths (``o_edges``), its count summed over paths and the most on one path (``o_sum``, ``o_most``),
        paths that have it (``o_paths``), and the same for layers together; whether a path has no layer, and whether it has skips
        or whatever the other operations are alone (``o_only``).

    Raises:
        SpecError: a node that no path reaches in any row because columns are missing.

    Example:
        >>> two = {"e01": ["conv", "none"], "e02": ["skip", "skip"], "e12": ["conv", "conv"]}
        >>> found = cell_features(two, Cell("none", ("conv",)))
        >>> found["cell:paths"].tolist(), found["cell:layers_most"].tolist(), found["cell:paths_2_layers"].tolist()
        ([2.0, 1.0], [2.0, 0.0], [1.0, 0.0])
    """
    ends = {(int(name[1]), int(name[2])): np.array(texts) for name, texts in edges.items()}
    last = max(j for _, j in ends)
    paths = _paths(ends, last)
    if not paths:
        raise SpecError(
            f"--cell: no path of edges leads from node 0 to node {last}; the columns are {', '.join(edges)}"
        )
    operations = sorted({str(op) for column in ends.values() for op in np.unique(column)} - {cell.none})
    unknown = [op for op in cell.layers if op not in operations]
    if unknown:
        raise SpecError(
            f"--cell: no edge has the operation '{unknown[0]}'; there are: {cell.none}, {', '.join(operations)}"
        )
    alive = np.stack([np.all([ends[edge] != cell.none for edge in path], axis=0) for path in paths], axis=1)
    length = np.where(alive, [len(path) for path in paths], 0)
    on_path = {
        edge: np.any([alive[:, k] for k, path in enumerate(paths) if edge in path], axis=0) & (column != cell.none)
        for edge, column in ends.items()
    }

    def along(group: Sequence[str]) -> Array:
        hits = [sum(np.isin(ends[edge], group).astype(int) for edge in path) for path in paths]
        return np.where(alive, np.stack(hits, axis=1), 0)

    layers = along(cell.layers)
    found = {"paths": alive.sum(axis=1), "longest": length.max(axis=1), "length_sum": length.sum(axis=1)}
    for k in range(max(len(path) for path in paths) + 1):
        found[f"paths_{k}_layers"] = (alive & (layers == k)).sum(axis=1)
    found["layers_most"], found["layers_sum"] = layers.max(axis=1), layers.sum(axis=1)
    for op in operations:
        count = along([op])
        found[f"{op}_edges"] = np.sum([on_path[edge] & (ends[edge] == op) for edge in ends], axis=0)
        found[f"{op}_sum"], found[f"{op}_most"] = count.sum(axis=1), count.max(axis=1)
        found[f"{op}_paths"] = (count > 0).sum(axis=1)
        found[f"{op}_only"] = (alive & (count == length)).any(axis=1)
    return {f"cell:{name}": np.asarray(v, dtype=float) for name, v in found.items() if np.ptp(v.astype(float)) > 0}


def _paths(ends: dict[tuple[int, int], npt.NDArray[np.str_]], last: int) -> list[list[tuple[int, int]]]:
    found: list[list[tuple[int, int]]] = []
    open_: list[list[tuple[int, int]]] = [[edge] for edge in ends if edge[0] == 0]
    while open_:
        path = open_.pop()
        if path[-1][1] == last:
            found.append(path)
        else:
            open_ += [[*path, edge] for edge in ends if edge[0] == path[-1][1]]
    return found


def _matching(patterns: Sequence[str], table: CandidateTable) -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        hits = fnmatch.filter(table.header, pattern)
        if not hits:
            raise UnknownNameError.near(f"column of '{os.path.basename(table.name)}'", pattern, table.header, "")
        found += [name for name in hits if name not in found]
    return found


def _unusable(texts: list[str], *, given: bool) -> str | None:
    """Why a column is no feature, or None."""
    empty = sum(not text for text in texts)
    if empty:
        return f"{empty} empty cells"
    different = len(set(texts))
    if different == 1:
        return "constant"
    if given:
        return None
    parsed = [number(text) for text in texts]
    if any(v is None for v in parsed):
        return "a name of rows" if different > _LEAST_COPIES * len(texts) else None
    whole = np.array(parsed, dtype=float)
    if different == len(texts) and np.array_equal(np.sort(whole), whole.min() + np.arange(len(whole))):
        return "a number of rows"
    return None
