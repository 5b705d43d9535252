"""All predictors side by side on rows they did not see: by group, by size, and against the number of training rows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError
from codesign.predictors.candidates import ParameterCount
from codesign.predictors.conformal import group_folds, largest_group_masks
from codesign.predictors.loss_table import LossTable
from codesign.predictors.staged import LEAST_GROUPS, Score, StagedRegressor, score

__all__ = ["Result", "Split", "evaluate", "group_splits", "largest_split", "row_splits"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Rows to fit on and rows to predict, as masks or indices."""

    train: Any
    test: Any


@dataclass(frozen=True)
class Result:
    """One predictor on the pooled test rows of several splits.

    Attributes:
        score: Its errors and coverages; ``reason`` says why the first split's selection does not use it, empty where it is eligible.
        chosen: In what share of the splits the staged selection predicted rows like the data with it, beyond: rows beyond the data.
        weight: Its mean share in what the selection predicted rows like the data with: of the stack, or 1 where it was chosen
            itself. n_train, n_test: Mean rows a split. seconds: Of fitting all
            predictors, a split.
    """

    score: Score
    chosen: float
    beyond: float
    weight: float
    n_train: float
    n_test: int
    seconds: float


def group_splits(table: LossTable, folds: int = 5, seed: int = 0) -> list[Split]:
    """Each fold of whole groups left out once."""
    return [Split(~mask, mask) for mask in group_folds(table.groups, folds, seed)]


def largest_split(table: LossTable, share: float) -> list[Split]:
    """The groups with the largest mean size left out: `share` of the groups.

    Raises:
        SpecError: The table has no parameter count, or the share leaves too few groups.
    """
    if table.size is None:
        raise SpecError(f"'{table.name}' has no parameter count in every row, so no row is the largest")
    if not 0 < share < 1:
        raise SpecError(f"--largest-out {share:g} must be between 0 and 1: the share of groups that is left out")
    masks = largest_group_masks(np.asarray(table.frame[table.size], dtype=float), table.groups, (share,))
    if not masks or np.unique(table.groups[~masks[0]]).size < LEAST_GROUPS:
        raise SpecError(
            f"leaving out {share:.0%} of the groups, and all of the same size with them, leaves fewer than {LEAST_GROUPS}; give a smaller "
            "--largest-out, or more sizes"
        )
    return [Split(~masks[0], masks[0])]


def row_splits(table: LossTable, rows: int, repeats: int, seed: int = 0) -> list[Split]:
    """Random whole groups until about `rows` training rows; of a group that would pass the number only as many rows as are
    missing, and the rest of it is in neither part. The other groups are the test rows.

    Raises:
        SpecError: Fewer than four groups are reached, or no group is left to test on.
    """
    groups = table.groups
    names = np.unique(groups)
    splits = []
    for repeat in range(repeats):
        rng = np.random.default_rng((seed, repeat))
        train: list[int] = []
        used = []
        share = max(1, int(np.ceil(rows / max(LEAST_GROUPS * 2, 1))))
        for name in rng.permutation(names):
            own = rng.permutation(np.flatnonzero(groups == name))
            used.append(name)
            train += own[: min(share, rows - len(train))].tolist()
            if len(train) >= rows:
                break
        test = ~np.isin(groups, used)
        if len(train) < rows or len(used) < LEAST_GROUPS or not test.any():
            raise SpecError(f"'{table.name}' has too few groups for {rows} training rows beside a test set")
        splits.append(Split(np.sort(train), np.flatnonzero(test)))
    return splits


def evaluate(
    table: LossTable,
    splits: Sequence[Split],
    *,
    names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    seed: int = 0,
    folds: int = 5,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Result]:
    """Fit all predictors on each split's training rows, pool their predictions of its test rows.

    The selection (``staged``) sees training rows only; so do the intervals' corrections.

    Args:
        table: The rows. splits: See `group_splits`, `largest_split`, `row_splits`.
        names: Predictors; None: all. columns: Of the features; None: the known ones. seed: Of everything.
        folds: Inner folds. on_progress: Called with (done, all) splits.

    Returns:
        One result a predictor, in a fixed order, then ``staged`` and ``parameters alone``.
    """
    pooled: dict[str, list[tuple[Array, ...]]] = {}
    chosen, beyond, weight = (defaultdict[str, float](float) for _ in range(3))
    reasons: dict[str, str] = {}
    start = time.perf_counter()
    for number, split in enumerate(splits):
        train, test = table.take(split.train), table.take(split.test)
        staged = StagedRegressor(names, columns, table.size, folds, seed).fit(train.frame, train.y, groups=train.groups)
        for s in staged.scores_:
            reasons.setdefault(s.name, s.reason)
        chosen[staged.chosen_] += 1 / len(splits)
        beyond[staged.chosen_beyond_ or staged.chosen_] += 1 / len(splits)
        for name, share in staged.shares_.items():
            weight[name] += share / len(splits)
        for name, member in [*staged.members_.items(), ("staged", staged)]:
            mean = member.predict(test.frame)
            ends = [member.interval(test.frame, level) for level in (0.8, 0.9)]
            held = [(test.y >= low) & (test.y <= high) for low, high in ends]
            pooled.setdefault(name, []).append((test.y, mean, *held))
        if table.size is not None:
            alone = ParameterCount().fit(train.frame, train.y)
            nothing = np.full(len(test.y), np.nan)
            pooled.setdefault("parameters alone", []).append((test.y, alone.predict(test.frame), nothing, nothing))
        if on_progress is not None:
            on_progress(number + 1, len(splits))
    seconds = (time.perf_counter() - start) / len(splits)
    n_train = float(np.mean([table.take(s.train).y.size for s in splits]))
    results = []
    for name, parts in pooled.items():
        if len(parts) < len(splits):
            continue  # a split's rows did not allow it, so its pooled rows are not those of the others
        y, mean, in80, in90 = (np.concatenate(column) for column in zip(*parts, strict=True))
        found = replace(score(name, y, mean, in80, in90), reason=reasons.get(name, ""))
        if name == "parameters alone":
            size = np.concatenate([ParameterCount.size(table.take(s.test).frame) for s in splits])
            ranked = score(name, y, -size, in80, in90)
            found = replace(found, spearman=ranked.spearman, tau=ranked.tau, reason="the free baseline")
        results.append(Result(found, chosen[name], beyond[name], weight[name], n_train, int(y.size), seconds))
    return results
