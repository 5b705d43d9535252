"""Pruning of a space: what goes is far from the frontier, the frontier stays, and the command says what it did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("xgboost")
pytest.importorskip("sklearn")

from search_problems import problem

from codesign.cli import main
from codesign.errors import SpecError
from codesign.search import default_space
from codesign.search.enumerate import enumerate_space
from codesign.search.prune import gaps, prune_space
from codesign.search.space import AXES


def space():  # type: ignore[no-untyped-def]
    axes = dict(default_space(("fp16", "w4a16")).axes)
    axes["n_layers"], axes["d_model"], axes["ffn_ratio"] = (
        tuple(range(4, 81, 6)),
        tuple(range(256, 3073, 256)),
        (2.75, 4.0, 6.0, 8.0),
    )
    axes["experts"] = ((0, 0), (8, 1), (64, 2))
    return replace(default_space(), axes=axes)


def test_gap_by_hand() -> None:
    """Frontier (1, 8), (2, 2): spans ln 2 and ln 4. (2, 8) is worse than (1, 8) by (1, 0) spans, the lesser 0; than (2, 2) by (0, 1): 0.
    (2, 16): (1, 0.5) -> 0.5 and (0, 1.5) -> 0: the greater is 0.5. (0.5, 100) is dominated by none: 0.
    """
    front = np.array([[1.0, 8.0], [2.0, 2.0]])
    rows = np.array([[2.0, 8.0], [2.0, 16.0], [0.5, 100.0], [np.inf, np.inf]])
    assert gaps(rows, front).tolist() == pytest.approx([0.0, 0.5, 0.0, 1.0])


def test_most_of_the_frontier_survives_and_most_of_the_space_does_not() -> None:
    task = problem(space())
    exact = enumerate_space(task, workers=1).front
    pruned = prune_space(task, 0.4, sample=1000)
    assert pruned.space.size < 0.5 * task.space.size
    assert all(set(pruned.space.axes[a]) | set(pruned.dropped.get(a, ())) == set(task.space.axes[a]) for a in AXES)
    places = [task.space.indices(int(i)) for i in exact.index]
    kept = [all(task.space.axes[a][k] in pruned.space.axes[a] for a, k in zip(AXES, p, strict=True)) for p in places]
    assert np.mean(kept) > 0.7
    assert f"to {pruned.space.size:.3g} points" in pruned.describe()


def test_the_same_seed_prunes_the_same() -> None:
    task = problem(space())
    assert prune_space(task, 0.4, sample=400, steps=1) == prune_space(task, 0.4, sample=400, steps=1)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.95, float("nan")])
def test_a_share_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(SpecError, match=r"must be above 0 and at most 0\.9"):
        prune_space(problem(space()), fraction)


def test_too_tight_a_budget_is_refused() -> None:
    tight = problem(space())
    tight = replace(tight, budget=replace(tight.budget, latency_s=1e-4))
    with pytest.raises(SpecError, match="too few to prune the space by"):
        prune_space(tight, 0.3)


def test_the_command_says_what_was_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(
        "[axes]\nn_layers = {from = 4, to = 80, step = 6}\nd_model = {from = 256, to = 3072, step = 256}\nffn_ratio = [2.75, 4.0, 6.0, 8.0]\n"
        'experts = ["dense", "8x1", "64x2"]\n'
    )
    common = ["search", "--device", "orin", "--latency", "20ms", "--space", "space.toml", "--no-plot", "--out", "run"]
    assert main([*common, "--solver", "heuristic", "--evaluations", "400", "--prune", "0.4"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "pruned from" in said and "dropped:" in said
    header = json.loads((tmp_path / "run" / "frontier.jsonl").read_text().splitlines()[0])
    assert "pruned" in header and "of the pruned space" in header["certificate"]
    assert main([*common, "--prune", "0.4"]) == 2
    assert "is searched exactly; leave out --prune" in capsys.readouterr().err
