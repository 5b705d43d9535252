"""Synthetic token tasks that tell what a stack of mixers can do, learned in seconds on a CPU (MAD, arXiv 2403.17844).

Each task makes token sequences and says at which positions which token is right; a stack is trained on fresh ones and scored by the share
of right answers on others. recall: values of keys seen earlier in the sequence; fuzzy-recall: keys and values of several tokens;
noisy-recall: with noise between the pairs; selective-copy: the content among blanks, in order; memorise: values of keys that are the same in
all sequences; compress: the whole sequence out of the last position's hidden state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from codesign.architecture import Architecture
from codesign.errors import SpecError
from codesign.training.model import initial_model

__all__ = ["TASKS", "VOCAB", "MadSettings", "TaskScore", "make", "score"]

Tokens = NDArray[np.int64]
IGNORE = -100
#: Tokens of every task: 16 keys, 16 values (or contents), and blank, copy, compress, noise.
VOCAB = 40
_KEYS, _VALUES = 16, 16
_BLANK, _COPY, _COMPRESS, _NOISE = 32, 33, 34, 35


@dataclass(frozen=True, slots=True, kw_only=True)
class MadSettings:
    """Length of the sequences, of training, and its rate.

    Raises:
        SpecError: a number out of range.
    """

    tokens: int = 48
    batch: int = 32
    steps: int = 200
    lr: float = 3e-3
    test_batches: int = 8

    def __post_init__(self) -> None:
        for name, low in (("tokens", 16), ("batch", 1), ("steps", 1), ("test_batches", 1)):
            if getattr(self, name) < low:
                raise SpecError(f"{name} {getattr(self, name)} must be at least {low}")
        if not self.lr > 0:
            raise SpecError(f"lr {self.lr} must be above zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """Share of right answers on sequences that were not trained on, and what guessing gives."""

    task: str
    accuracy: float
    chance: float
    loss: float


def _recall(rng: np.random.Generator, batch: int, tokens: int, noise: float = 0.0) -> tuple[Tokens, Tokens]:
    """Pairs (key, value); a key's value is the same through a sequence and asked for from its second appearance on."""
    x = np.full((batch, tokens), _BLANK, np.int64)
    y = np.full((batch, tokens), IGNORE, np.int64)
    for b in range(batch):
        values, seen, t = rng.integers(_VALUES, size=_KEYS) + _KEYS, set[int](), 0
        keys = rng.choice(_KEYS, size=max(4, tokens // 8), replace=len(range(_KEYS)) < tokens // 8)
        while t + 1 < tokens:
            if noise and rng.random() < noise:
                x[b, t] = _NOISE + rng.integers(VOCAB - _NOISE)
                t += 1
                continue
            key = int(rng.choice(keys))
            x[b, t], x[b, t + 1] = key, values[key]
            if key in seen:
                y[b, t] = values[key]
            seen.add(key)
            t += 2
    return x, y


def _noisy(rng: np.random.Generator, batch: int, tokens: int) -> tuple[Tokens, Tokens]:
    return _recall(rng, batch, tokens, noise=0.3)


def _fuzzy(rng: np.random.Generator, batch: int, tokens: int) -> tuple[Tokens, Tokens]:
    """As recall, with keys of two tokens and values of two: the second value token is asked for, too."""
    x = np.full((batch, tokens), _BLANK, np.int64)
    y = np.full((batch, tokens), IGNORE, np.int64)
    for b in range(batch):
        count = max(3, tokens // 16)
        keys = rng.integers(_KEYS, size=(count, 2))
        values, seen = rng.integers(_VALUES, size=(count, 2)) + _KEYS, set[int]()
        for t in range(0, tokens - 3, 4):
            i = int(rng.integers(count))
            x[b, t : t + 2], x[b, t + 2 : t + 4] = keys[i], values[i]
            if i in seen:
                y[b, t + 1], y[b, t + 2] = values[i]
            seen.add(i)
    return x, y


def _copy(rng: np.random.Generator, batch: int, tokens: int) -> tuple[Tokens, Tokens]:
    """Content at random places among blanks, then as many copy tokens: at each the next content is right."""
    n = tokens // 4
    x = np.full((batch, tokens), _BLANK, np.int64)
    y = np.full((batch, tokens), IGNORE, np.int64)
    for b in range(batch):
        content = rng.integers(_VALUES, size=n) + _KEYS
        x[b, np.sort(rng.choice(tokens - n, size=n, replace=False))] = content
        x[b, tokens - n :], y[b, tokens - n :] = _COPY, content
    return x, y


def _memorise(rng: np.random.Generator, batch: int, tokens: int) -> tuple[Tokens, Tokens]:
    """Pairs of keys; the value of each pair is a fixed table, the same in all sequences."""
    table = np.random.default_rng(99).integers(_VALUES, size=(_KEYS, _KEYS)) + _KEYS
    x = rng.integers(_KEYS, size=(batch, tokens))
    y = np.full((batch, tokens), IGNORE, np.int64)
    y[:, 1::2] = table[x[:, 0::2][:, : y[:, 1::2].shape[1]], x[:, 1::2]]
    return x, y


def _compress(rng: np.random.Generator, batch: int, tokens: int) -> tuple[Tokens, Tokens]:
    """Random contents and a last token whose hidden state must tell them all: y are the contents themselves."""
    n = tokens // 4
    x = rng.integers(_VALUES, size=(batch, n)) + _KEYS
    return np.concatenate([x, np.full((batch, 1), _COMPRESS)], axis=1), x


#: Task to what makes (sequences, right tokens or -100).
TASKS: Mapping[str, Callable[[np.random.Generator, int, int], tuple[Tokens, Tokens]]] = {
    "recall": _recall, "noisy-recall": _noisy, "fuzzy-recall": _fuzzy, "selective-copy": _copy, "memorise": _memorise,
    "compress": _compress,
}  # fmt: skip


def make(task: str, rng: np.random.Generator, batch: int, tokens: int) -> tuple[Tokens, Tokens]:
    """Sequences (batch, tokens) and what is right at each position; for compress (batch, n + 1) and (batch, n).

    Raises:
        SpecError: an unknown task.
    """
    if task not in TASKS:
        raise SpecError(f"unknown task '{task}'; known: {', '.join(TASKS)}")
    return TASKS[task](rng, batch, tokens)


class _Decompressor(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Logits of each of n tokens out of one hidden state: an MLP of the state and a learned vector of the place."""

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(places, width) * 0.5)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, VOCAB)

    def forward(self, state: Tensor) -> Tensor:
        return self.down(F.silu(self.up(state[:, None] + self.place)))


def score(
    arch: Architecture, tasks: Sequence[str] = tuple(TASKS), *, settings: MadSettings | None = None, seed: int = 0
) -> list[TaskScore]:
    """Train a stack on each task from its start and score it on sequences of another random stream.

    Args:
        arch: of vocabulary `VOCAB`. seed: of weights and sequences; equal calls give equal scores on one machine.

    Raises:
        SpecError: an unknown task, another vocabulary, or an architecture without a runnable model.
    """
    chosen = settings or MadSettings()
    if arch.vocab_size != VOCAB:
        raise SpecError(f"vocab_size {arch.vocab_size}: the tasks have {VOCAB} tokens")
    return [_one(arch, task, chosen, seed) for task in tasks]


def _one(arch: Architecture, task: str, settings: MadSettings, seed: int) -> TaskScore:
    torch.manual_seed(seed)
    model = initial_model(arch, seed)
    places = settings.tokens // 4
    head = _Decompressor(arch.d_model, places) if task == "compress" else None
    parameters = [*model.parameters(), *(head.parameters() if head is not None else ())]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.1, betas=(0.9, 0.98))
    warm, total = max(1, settings.steps // 20), settings.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / warm) * (0.1 + 0.9 * 0.5 * (1 + float(np.cos(np.pi * i / total))))
    )
    train, test = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])

    def answers(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        x, y = (torch.from_numpy(v) for v in make(task, rng, settings.batch, settings.tokens))
        if head is None:
            logits, _ = model(x, last_only=False)
            right = y != IGNORE
            return logits[right], y[right]
        return head(model.hidden(x)[:, -1]).flatten(0, 1), y.flatten()

    model.train()
    for _ in range(settings.steps):
        logits, right = answers(train)
        loss = F.cross_entropy(logits.float(), right)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    hits, count, losses = 0, 0, []
    with torch.inference_mode():
        for _ in range(settings.test_batches):
            logits, right = answers(test)
            hits, count = hits + int((logits.argmax(-1) == right).sum()), count + len(right)
            losses.append(float(F.cross_entropy(logits.float(), right)))
    return TaskScore(task=task, accuracy=hits / count, chance=1 / _VALUES, loss=float(np.mean(losses)))
