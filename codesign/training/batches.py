"""Which tokens a step reads: a function of (seed, step) alone, so that a run goes on anywhere without any state.

The training tokens are cut into windows of seq_len + 1 (inputs and targets overlap by seq_len); each epoch has its own offset of
the cuts and its own order. Two models with the same recipe read the same batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError
from codesign.training.tokenizer import TokenFile
from codesign.training_run import Recipe

__all__ = ["Batches", "spread_windows", "valid_windows"]

Tokens = npt.NDArray[np.int64]


class Batches:
    """Batches of the training split.

    Raises:
        SpecError: the text is shorter than one sequence and its offset.
    """

    def __init__(self, tokens: TokenFile, recipe: Recipe) -> None:
        self._tokens: npt.NDArray[np.unsignedinteger[Any]] = tokens.tokens("train")
        self._recipe = recipe
        self._windows = len(self._tokens) // recipe.seq_len - 1  # one less: room for the offset
        if self._windows < 1:
            raise SpecError(
                f"{tokens.data}: {len(self._tokens):,} training tokens; sequences of {recipe.seq_len} need at least "
                f"{2 * recipe.seq_len:,}: give more text or a smaller seq_len"
            )
        self._epoch, self._offset, self._order = -1, 0, np.zeros(0, dtype=np.int64)

    @property
    def epoch_tokens(self) -> int:
        """Tokens after which the text repeats."""
        return self._windows * self._recipe.seq_len

    def batch(self, step: int) -> Tokens:
        """Windows of step 1, 2, ...: (sequences, seq_len + 1)."""
        length, rows = self._recipe.seq_len, self._recipe.batch_tokens // self._recipe.seq_len
        out = np.empty((rows, length + 1), dtype=np.int64)
        for row in range(rows):
            epoch, place = divmod((step - 1) * rows + row, self._windows)
            self._shuffle(epoch)
            start = self._offset + int(self._order[place]) * length
            out[row] = self._tokens[start : start + length + 1]
        return out

    def _shuffle(self, epoch: int) -> None:
        if epoch != self._epoch:
            rng = np.random.Generator(np.random.PCG64([self._recipe.seed, epoch]))
            self._offset = int(rng.integers(self._recipe.seq_len))
            self._order = rng.permutation(self._windows)
            self._epoch = epoch


def valid_windows(tokens: TokenFile, seq_len: int, most_tokens: int) -> Tokens:
    """Windows of the validation split, evenly spaced over all of it, (n, seq_len + 1): the same for every model.

    Raises:
        SpecError: the validation split is shorter than one window.
    """
    return spread_windows(tokens.tokens("valid"), tokens.data, seq_len, most_tokens)


def spread_windows(ids: npt.NDArray[np.unsignedinteger[Any]], name: str, seq_len: int, most_tokens: int) -> Tokens:
    """Windows of (n, seq_len + 1) tokens, evenly spaced over all of a text's; `name` is what the error calls it.

    Raises:
        SpecError: it is shorter than one window.
    """
    fit = (len(ids) - 1) // seq_len
    if fit < 1:
        raise SpecError(
            f"{name}: {len(ids):,} validation tokens are fewer than one sequence of {seq_len}; "
            "give more text or a smaller seq_len"
        )
    n = min(fit, max(1, most_tokens // seq_len))
    starts = ((np.arange(n) + 0.5) * fit / n).astype(np.int64) * seq_len
    return np.asarray(ids[starts[:, None] + np.arange(seq_len + 1)], dtype=np.int64)
