"""Composing: the search finds what a known score rewards, goes on where it was cut, and refuses another search's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from codesign.campaign.composing import ComposeSettings, compose, small_architecture
from codesign.errors import SchemaError, SpecError

SETTINGS = ComposeSettings(length=8, evaluations=60, keep=6, tasks=("recall",))


def reward(stack: str) -> Mapping[str, float]:
    """Best: RFAFRFAF, a point lost for each other letter."""
    return {"recall": 1 - sum(a != b for a, b in zip(stack, "RFAFRFAF", strict=True)) / 10}


def test_the_search_climbs(tmp_path: Path) -> None:
    found = compose(SETTINGS, tmp_path / "e.jsonl", evaluate=reward)
    scores = [e.score for e in found.evaluations]
    assert scores == sorted(scores, reverse=True) and len(scores) == 60 == len({e.stack for e in found.evaluations})
    assert found.evaluations[0].accuracy["recall"] >= 0.9
    assert set(found.aggregates) == {"rank", "cluster", "layerwise"}
    assert found.aggregates["rank"].accuracy["recall"] >= 0.8
    assert found.best.score == max(*scores, *(e.score for e in found.aggregates.values()))


def test_a_search_that_was_cut_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = compose(SETTINGS, tmp_path / "whole.jsonl", evaluate=reward)
    calls = 0

    def cut(stack: str) -> Mapping[str, float]:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise KeyboardInterrupt
        return reward(stack)

    file = tmp_path / "cut.jsonl"
    with pytest.raises(KeyboardInterrupt):
        compose(SETTINGS, file, evaluate=cut)
    with file.open("a") as out:
        out.write('{"stack": "RFRF')  # the crash came in the middle of a line
    counted: list[str] = []

    def count(stack: str) -> Mapping[str, float]:
        counted.append(stack)
        return reward(stack)

    again = compose(SETTINGS, file, evaluate=count)
    assert [e.stack for e in again.evaluations] == [e.stack for e in whole.evaluations]
    assert len(counted) <= 40 + 3


def test_another_search_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    compose(SETTINGS, file, evaluate=reward)
    other = ComposeSettings(length=8, evaluations=60, keep=6, tasks=("recall",), steps=10)
    with pytest.raises(SchemaError, match="is of a search with another steps"):
        compose(other, file, evaluate=reward)
    file.write_text("hello\n")
    with pytest.raises(SchemaError, match="is damaged"):
        compose(SETTINGS, file, evaluate=reward)


@pytest.mark.parametrize("recurrence", ["mamba2", "gdn", "mlstm", "conv"])
def test_small_models_run(recurrence: str) -> None:
    torch = pytest.importorskip("torch")
    from codesign.models.decoder import build_decoder

    for stack in ("RFAFRRFA", "RRRR", "AAFF"):
        arch = small_architecture(stack, ComposeSettings(recurrence=recurrence, length=len(stack)))
        logits, _ = build_decoder(arch).initialise(1)(torch.zeros(2, 20, dtype=torch.long), last_only=False)
        assert logits.shape == (2, 20, 40)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    for change, message in (
        ({"primitives": "F"}, "with A or R among them"), ({"primitives": "AAF"}, "name a letter twice"),
        ({"recurrence": "rwkv"}, "is not one of"), ({"width": 50}, "multiple of 32"), ({"tasks": ()}, "at least one task"),
        ({"evaluations": 0}, "evaluations 0 must be at least 1"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=message):
            ComposeSettings(**change)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="more than the 8 stacks of 2 sublayers"):
        compose(
            ComposeSettings(length=2, evaluations=99, tasks=("recall",)),
            tmp_path / "e.jsonl",
            evaluate=lambda s: {"recall": 0.5},
        )


def test_every_stack_there_is_can_be_tried(tmp_path: Path) -> None:
    found = compose(
        ComposeSettings(length=2, evaluations=8, tasks=("recall",)),
        tmp_path / "e.jsonl",
        evaluate=lambda s: {"recall": 0.5},
    )
    assert len({e.stack for e in found.evaluations}) == 8
