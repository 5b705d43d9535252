"""What a table of runs is asked: which shape, which recipe, which operators, or all at once.

- **architecture**: the loss of a shape at the best recipe tried: of rows equal in shape, tokens and operators the least loss.
- **technique**: learning rate, batch, schedule and tokens, with the size as their covariate.
- **function**: activation, norm, router, backbone and other variants, beside the shape, at the best recipe tried.
- **joint**: every column, every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.architecture import Architecture
from codesign.errors import SpecError, UnknownNameError
from codesign.predictors.columns import law_columns
from codesign.predictors.features import ARCHITECTURE, FUNCTION, TECHNIQUE, FeatureMap
from codesign.predictors.loss_table import LossTable, group_of

__all__ = [
    "QUESTIONS",
    "Question",
    "architecture_columns",
    "ask",
    "best_recipes",
    "complete",
    "needed_columns",
    "outside_columns",
]

Array = npt.NDArray[np.float64]
#: Recipe columns that a shape's best run is chosen over; the others (tokens, context, corpus) stay conditions.
RECIPE = ("lr", "batch_tokens", "schedule", "warmup_steps", "weight_decay", "hparams", "warmup")
_SIZES = ("params_nonembed_active", "params_active", "params_total")
_CONDITIONS = ("tokens", "seq_len", "chinchilla_multiplier")
#: Counts of which an empty cell means none; and the largest share of empty cells for which rows go rather than the column.
COUNTS = ("n_experts", "top_k", "d_ff_expert", "d_ff_shared", "n_dense_layers")
_EMPTY = 0.2


@dataclass(frozen=True)
class Question:
    """Columns that a question reads, and whether only the best recipe of each shape counts."""

    name: str
    title: str
    columns: tuple[str, ...]
    best: bool


QUESTIONS = {
    q.name: q
    for q in (
        Question("architecture", "shape -> loss at the best recipe tried", (*ARCHITECTURE, *_CONDITIONS), True),
        Question("technique", "learning rate, batch, schedule, tokens -> loss", (*TECHNIQUE, *_SIZES), False),
        Question("function", "operator variants -> loss, beside the shape", (*FUNCTION, *ARCHITECTURE, *_CONDITIONS), True),
        Question("joint", "shape, recipe and operators together -> loss", (*ARCHITECTURE, *TECHNIQUE, *FUNCTION), False),
    )
}  # fmt: skip


def ask(question: str, table: LossTable) -> tuple[LossTable, list[str]]:
    """The rows and the columns of a question: other known columns are taken out of the frame.

    Raises:
        UnknownNameError: No such question.
        SpecError: The table has no column that the question is about.
    """
    if question not in QUESTIONS:
        raise UnknownNameError.near("question", question, QUESTIONS, f"Questions: {', '.join(QUESTIONS)}.")
    asked = QUESTIONS[question]
    frame = table.frame
    about = {"technique": RECIPE, "function": FUNCTION}.get(question, asked.columns)
    if not any(name in frame.columns and _varies(frame[name]) for name in about):
        named = ", ".join(name for name in about if name in frame.columns) or "none of its columns"
        raise SpecError(f"'{table.name}' does not answer the question '{question}': {named} varies over its rows")
    if asked.best:
        table = best_recipes(table)
        frame = table.frame
    known = {*ARCHITECTURE, *TECHNIQUE, *FUNCTION}
    wanted = [name for name in asked.columns if name in frame.columns and name not in table.group_columns]
    columns = [name for name in asked.columns if name in frame.columns and frame[name].notna().any()]
    kept = [name for name in frame.columns if name not in known or name in wanted or name in table.group_columns]
    return complete(replace(table, frame=frame[kept]), columns)


def complete(table: LossTable, columns: Sequence[str]) -> tuple[LossTable, list[str]]:
    """A table without empty cells in the columns that are read: rows go where at most a fifth are empty, else the column does.

    An empty count of experts means none and stays.
    """
    gone: list[str] = []
    lacking = np.zeros(len(table.frame), dtype=bool)
    excluded = dict(table.excluded)
    for name in columns:
        empty = table.frame[name].isna().to_numpy()
        if name in COUNTS or not empty.any():
            continue
        if empty.mean() > _EMPTY:
            gone.append(name)
            continue
        fresh = int((empty & ~lacking).sum())
        if fresh:
            excluded[f"no value in '{name}'"] = fresh
        lacking |= empty
    drop = [name for name in gone if name not in table.group_columns]
    found = replace(table, frame=table.frame.drop(columns=drop), excluded=excluded)
    return (found.take(~lacking) if lacking.any() else found), [name for name in columns if name not in gone]


def best_recipes(table: LossTable) -> LossTable:
    """Of rows that differ in the recipe alone the one with the least target."""
    frame = table.frame
    same = [name for name in (*ARCHITECTURE, *FUNCTION, *_CONDITIONS, *table.group_columns) if name in frame.columns]
    cells = group_of(frame, list(dict.fromkeys(name for name in same if name not in RECIPE)))
    order = np.argsort(table.y, kind="stable")
    _, first = np.unique(cells[order], return_index=True)
    return table.take(np.sort(order[first]))


def _varies(column: Any) -> bool:
    return bool(column.nunique(dropna=False) > 1)


def architecture_columns(arch: Architecture) -> dict[str, float | str]:
    """An architecture as a row of a loss table (cells that do not apply are NaN)."""
    mixture = arch.n_experts > 0
    nan = float("nan")
    return {
        "arch": "moe" if mixture else "dense",
        "n_layers": arch.n_layers,
        "d_model": arch.d_model,
        "n_heads": arch.n_heads_mean,
        "n_kv_heads": arch.n_kv_heads_mean,
        "head_dim": arch.d_head,
        "d_ff": arch.d_ff_mean or nan,
        "n_experts": arch.n_experts or nan,
        "top_k": arch.n_active_experts or nan,
        "d_ff_expert": arch.d_ff_expert or nan,
        "d_ff_shared": arch.d_ff_shared or nan,
        "n_dense_layers": arch.n_dense_layers if mixture else nan,
        "vocab": arch.vocab_size,
        "params_total": arch.params_total,
        "params_active": arch.params_active,
        "params_nonembed_active": arch.params_active_nonembedding,
    }


def needed_columns(frame: Any, columns: Sequence[str]) -> list[str]:
    """Those of `columns` that the features are made of or that a law reads; the rest says the same again (a second parameter count,
    heads that the width fixes) or does not vary.
    """
    whole = FeatureMap(columns).fit(frame)
    features = whole.transform(frame)
    kept = list(columns)
    read = {name for name in law_columns(frame) if name in columns and _varies(frame[name])}
    for name in reversed(columns):
        if name in read:
            continue
        rest = [c for c in kept if c != name]
        if not rest:
            break
        try:
            other = FeatureMap(rest).fit(frame)
        except SpecError:  # nothing varies without it
            continue
        if other.names_ == whole.names_ and np.array_equal(other.transform(frame), features):
            kept = rest
    return kept


def outside_columns(train: Any, columns: Sequence[str], rows: Any, tolerance: float = 0.05) -> list[tuple[str, ...]]:
    """For each of `rows` the columns in which it leaves the data: a number below the least or above the greatest (by more than
    `tolerance` in ratio), a text that no row of `train` has, an empty cell where no row of `train` is empty ("... is empty").
    """
    found: list[list[str]] = [[] for _ in range(len(rows))]
    for name in columns:
        if name not in train.columns:
            continue
        known = train[name]
        given = rows[name] if name in rows.columns else None
        if given is None:
            flags, told = [bool(known.notna().all() and _varies(known))] * len(rows), f"{name} is empty"
        elif known.dtype.kind in "iufb":
            values = np.array([_number(v) for v in given])
            low, high = float(known.min()), float(known.max())
            slack = tolerance * max(abs(low), abs(high), 1e-12)
            low, high = (low / (1 + tolerance), high * (1 + tolerance)) if low > 0 else (low - slack, high + slack)
            empty = ~np.isfinite(values) & bool(known.notna().all() and _varies(known))
            for row in np.flatnonzero(empty).tolist():
                found[row].append(f"{name} is empty")
            beyond = np.isfinite(values) if known.isna().all() else (values < low) | (values > high)
            flags, told = beyond.tolist(), name
        else:
            texts = {str(v) for v in known}
            flags, told = [str(v) not in texts for v in given], name
        for row, flag in enumerate(flags):
            if flag:
                found[row].append(told)
    return [tuple(names) for names in found]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
