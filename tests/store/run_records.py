"""Made-up training runs for tests of the store."""

from __future__ import annotations

from typing import Any

from store_records import TINY

from codesign.training_run import CurvePoint, Recipe, TrainingRun

RECIPE = Recipe(tokens=4096, batch_tokens=512, seq_len=64, lr=3e-3)


def run(steps: int = 8, *, width: int = 64, **changes: Any) -> TrainingRun:
    """A run of a tiny model; finished after 8 steps, running before, unless said otherwise."""
    points = tuple(
        CurvePoint(step=step, tokens=512 * step, train_loss=5.0 / step, valid_loss=5.1 / step if step % 2 == 0 else None,
                   lr=RECIPE.lr_at(step), seconds=0.1 * step) for step in range(1, steps + 1)
    )  # fmt: skip
    done = steps == RECIPE.steps
    values: dict[str, Any] = {
        "architecture": TINY.evolve(d_model=width), "recipe": RECIPE, "status": "finished" if done else "running", "curve": points,
        "loss": 0.1 + 0.2 if done else None, "tokens_seen": 512 * steps, "seconds": 0.1 * steps, "bytes_per_token": 3.4,
        "data": "stdlib", "data_digest": "d1", "tokenizer": "bpe-4096", "torch_version": "2.13.0", "host": {"machine": "é"},
        "campaign": "first", "created_at": "2026-11-22T10:00:00+00:00",
    }  # fmt: skip
    return TrainingRun(**{**values, **changes})
