"""Synthetic tasks: what is right is right, and a stack that must be able to learn one does."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.errors import SpecError

torch = pytest.importorskip("torch")

from codesign.architecture import Architecture  # noqa: E402
from codesign.training.mad import IGNORE, TASKS, VOCAB, MadSettings, make, score  # noqa: E402

HYBRID = Architecture(
    n_layers=4, d_model=64, n_heads=4, n_kv_heads=4, d_head=16, d_ff=128, vocab_size=VOCAB, layout="RFAFRFAF", qk_norm="head",
    family="codesign", recurrence="mamba2", n_recurrent_layers=2, n_state_heads=8, d_state_value=16, d_state_key=16, n_state_groups=1,
    d_conv=4, state_norm=True,
)  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_sequences_are_tokens_and_repeat_with_their_seed(task: str) -> None:
    x, y = make(task, np.random.default_rng(1), 6, 48)
    again, _ = make(task, np.random.default_rng(1), 6, 48)
    assert (x == again).all() and x.min() >= 0 and x.max() < VOCAB
    assert (y != IGNORE).sum() >= 6 * 4 and set(np.unique(y)) <= {IGNORE, *range(VOCAB)}


def test_recalled_values_stand_earlier_in_the_sequence() -> None:
    for task in ("recall", "noisy-recall"):
        x, y = make(task, np.random.default_rng(2), 8, 48)
        for row, right in zip(x, y, strict=True):
            for t in np.flatnonzero(right != IGNORE):
                earlier = [i for i in range(t) if row[i] == row[t] and row[i] < 16]
                assert earlier and row[earlier[-1] + 1] == right[t] == row[t + 1]


def test_fuzzy_values_follow_the_same_two_keys_earlier() -> None:
    x, y = make("fuzzy-recall", np.random.default_rng(3), 8, 48)
    for row, right in zip(x, y, strict=True):
        for t in np.flatnonzero(right != IGNORE)[::2]:
            pair = tuple(row[t - 1 : t + 1])
            assert any(tuple(row[i : i + 2]) == pair and row[i + 2] == right[t] for i in range(0, t - 1, 4))


def test_copied_content_is_in_order() -> None:
    x, y = make("selective-copy", np.random.default_rng(4), 8, 48)
    for row, right in zip(x, y, strict=True):
        content = row[:36][(row[:36] >= 16) & (row[:36] < 32)]
        assert content.tolist() == right[right != IGNORE].tolist()


def test_memorised_values_are_the_same_everywhere() -> None:
    x, y = make("memorise", np.random.default_rng(5), 64, 48)
    seen: dict[tuple[int, int], int] = {}
    for row, right in zip(x, y, strict=True):
        for t in range(1, 48, 2):
            assert seen.setdefault((int(row[t - 1]), int(row[t])), int(right[t])) == right[t]


def test_a_hybrid_learns_to_recall_and_an_untrained_one_guesses() -> None:
    (trained,) = score(HYBRID, ["recall"], settings=MadSettings(steps=120), seed=1)
    (fresh,) = score(HYBRID, ["recall"], settings=MadSettings(steps=1), seed=1)
    assert trained.accuracy > 0.6 > 0.3 > fresh.accuracy
    assert trained.loss < fresh.loss


def test_equal_calls_give_equal_scores() -> None:
    one, two = (score(HYBRID, ["compress"], settings=MadSettings(steps=3, test_batches=1), seed=2) for _ in range(2))
    assert one == two


def test_bad_settings_are_refused() -> None:
    with pytest.raises(SpecError, match="unknown task 'sorting'"):
        score(HYBRID, ["sorting"], settings=MadSettings(steps=1))
    with pytest.raises(SpecError, match="vocab_size 99: the tasks have 40 tokens"):
        score(HYBRID.evolve(vocab_size=99))
    with pytest.raises(SpecError, match="tokens 8 must be at least 16"):
        MadSettings(tokens=8)
