"""Tiny campaigns that tests share: experiments, and an executor that makes curves up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from codesign.architecture import Architecture
from codesign.campaign.training_campaign import Experiment
from codesign.campaign.training_plan import training_flop
from codesign.campaign.training_task import OnFailure, OnRun, TrainingTask
from codesign.errors import CodesignError
from codesign.training.spec import RunSpec
from codesign.training_run import CurvePoint, Recipe, TrainingRun

DIGEST = "0123456789abcdef"


def tiny(layers: int = 2, width: int = 32) -> Architecture:
    return Architecture(
        n_layers=layers, d_model=width, n_heads=width // 16, n_kv_heads=1, d_head=16, d_ff=2 * width, vocab_size=256
    )


def write_corpus(folder: Path, documents: int = 120) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for d in range(documents):
        lines = [f"{a} plus {b} is {a + b}.\n" for a in range(d, d + 6) for b in range(5)]
        (folder / f"doc{d:03}.txt").write_text("".join(lines))
    return folder


def experiment(arch: Architecture, data: str = "made-up", **changes) -> Experiment:
    """40 steps of 256 tokens."""
    recipe = {"tokens": 40 * 256, "batch_tokens": 256, "seq_len": 32, "lr": 1e-2}
    recipe.update({k: changes.pop(k) for k in list(changes) if k in Recipe.__dataclass_fields__})
    values = {"eval_points": 20, "eval_tokens": 512, "final_eval_tokens": 1024, "device": "cpu", "tokenizer": "byte"}
    digest = changes.pop("digest", DIGEST)
    spec = RunSpec(architecture=arch, recipe=Recipe(**recipe), data=data, **{**values, **changes})
    key = TrainingRun(
        architecture=arch, recipe=spec.recipe, status="running", data_digest=digest, tokenizer=spec.tokenizer
    ).key
    return Experiment(key=key, spec=spec, flop=training_flop(arch, spec.recipe.tokens, spec.recipe.seq_len))


class Store:
    """Records in memory; `log` holds (key, status) in the order in which they came."""

    def __init__(self) -> None:
        self.runs: dict[str, TrainingRun] = {}
        self.log: list[tuple[str, str]] = []

    def add_runs(self, several: Iterable[TrainingRun]) -> None:
        for run in several:
            self.runs[run.key] = run
            self.log.append((run.key, run.status))

    def find_runs(self, *, key: Sequence[str]) -> list[TrainingRun]:
        return [self.runs[k] for k in key if k in self.runs]


class MadeUp:
    """Executes tasks at once: loss of an architecture after a share of the steps."""

    def __init__(
        self, loss: Callable[[Architecture, float], float], fail: dict[int, CodesignError] | None = None
    ) -> None:
        self.loss, self.fail = loss, fail or {}
        self.trained: list[tuple[int, float]] = []  # layers, until
        self.stop_after = math.inf

    def __call__(self, tasks: Sequence[TrainingTask], on_run: OnRun, on_failure: OnFailure) -> None:
        for task in tasks:
            if len(self.trained) >= self.stop_after:
                raise KeyboardInterrupt
            layers = task.spec.architecture.n_layers
            self.trained.append((layers, task.until))
            if layers in self.fail:
                on_failure(task, self.fail[layers])
            else:
                on_run(task, self.run(task))

    def run(self, task: TrainingTask) -> TrainingRun:
        spec, recipe = task.spec, task.spec.recipe
        last = math.ceil(task.until * recipe.steps - 1e-9)
        points = []
        for step in range(2, last + 1, 2):
            loss = self.loss(spec.architecture, step / recipe.steps)
            points.append(CurvePoint(step=step, tokens=step * recipe.batch_tokens, train_loss=loss,
                                     valid_loss=loss if math.isfinite(loss) else None, lr=0.01, seconds=step))  # fmt: skip
            if not math.isfinite(loss):
                break
        diverged = bool(points) and not math.isfinite(points[-1].train_loss)
        done = last == recipe.steps and not diverged
        return TrainingRun(
            architecture=spec.architecture, recipe=recipe, status="diverged" if diverged else "finished" if done else "running",
            curve=tuple(points), loss=points[-1].valid_loss if done else None, tokens_seen=points[-1].tokens, data=spec.data,
            data_digest=DIGEST, tokenizer=spec.tokenizer, reason="the training loss is nan" if diverged else "",
        )  # fmt: skip
