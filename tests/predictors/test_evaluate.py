from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from run_tables import law_table

from codesign.errors import SpecError
from codesign.predictors.conformal import largest_group_masks
from codesign.predictors.evaluate import evaluate, group_splits, largest_split, row_splits
from codesign.predictors.loss_table import LossTable

SIZE = "params_nonembed_active"


def table(shapes: int = 12, tokens: int = 4, noise: float = 0.005) -> LossTable:
    frame, loss = law_table(shapes=shapes, tokens=tokens, noise=noise)
    return LossTable("made", frame.assign(loss=loss), "loss", ("shape",), {}, SIZE)


def test_group_splits_leave_out_every_row_once() -> None:
    t = table()
    splits = group_splits(t, 4)
    assert (np.sum([s.test for s in splits], axis=0) == 1).all()
    for split in splits:
        assert not set(t.groups[split.train]) & set(t.groups[split.test])


def test_the_largest_are_the_largest() -> None:
    t = table()
    (split,) = largest_split(t, 0.25)
    sizes = t.frame[SIZE].to_numpy()
    assert sizes[split.test].min() > sizes[split.train].max()
    assert np.unique(t.groups[split.test]).size >= 3


def test_shapes_of_one_size_are_left_out_together() -> None:
    t = table()
    twins = LossTable("made", t.frame.assign(**{SIZE: np.where(t.frame[SIZE] >= t.frame[SIZE].median(), 1e9, t.frame[SIZE])}),
                      "loss", ("shape",), {}, SIZE)  # fmt: skip
    (split,) = largest_split(twins, 0.1)
    assert (twins.frame[SIZE].to_numpy()[split.test] == 1e9).all()
    assert (twins.frame[SIZE].to_numpy()[split.train] < 1e9).all()


def test_shapes_of_one_size_alone_still_have_a_largest() -> None:
    masks = largest_group_masks(np.ones(24), np.repeat(np.arange(12), 2))
    assert [int(mask.sum()) for mask in masks] == [4, 8]


def test_row_splits_have_as_many_rows_and_no_group_in_both() -> None:
    t = table(shapes=20)
    splits = row_splits(t, 30, 3)
    assert len({tuple(s.train) for s in splits}) == 3
    for split in splits:
        assert len(split.train) == 30
        assert not set(t.groups[split.train]) & set(t.groups[split.test])
    assert all((a.train == b.train).all() for a, b in zip(splits, row_splits(t, 30, 3), strict=True))


def test_side_by_side_on_rows_that_no_one_saw() -> None:
    t = table(tokens=2)
    seen: list[tuple[int, int]] = []
    results = evaluate(
        t, group_splits(t, 2), names=["law", "gp", "stack"], folds=3, on_progress=lambda *a: seen.append(a)
    )
    found = {r.score.name: r for r in results}
    assert set(found) == {"law", "gp", "stack", "staged", "parameters alone"}
    assert seen == [(1, 2), (2, 2)]
    assert found["law"].n_test == len(t.y)
    assert found["law"].score.relative < 0.02 < found["parameters alone"].score.relative
    assert found["staged"].score.relative <= 1.5 * min(found[n].score.relative for n in ("law", "gp", "stack"))
    assert sum(r.chosen for r in results) == pytest.approx(1.0)
    assert np.isnan(found["parameters alone"].score.coverage90)
    assert 0.6 <= found["staged"].score.coverage90 <= 1.0


def test_bad_splits() -> None:
    t = table(shapes=6)
    with pytest.raises(
        SpecError, match="leaving out 80% of the groups, .* leaves fewer than 4; give a smaller --largest-out"
    ):
        largest_split(t, 0.8)
    with pytest.raises(SpecError, match="must be between 0 and 1"):
        largest_split(t, 1.5)
    with pytest.raises(SpecError, match="too few groups for 400 training rows"):
        row_splits(t, 400, 1)
    nothing = LossTable("made", t.frame, "loss", ("shape",), {}, None)
    with pytest.raises(SpecError, match="no row is the largest"):
        largest_split(nothing, 0.2)
