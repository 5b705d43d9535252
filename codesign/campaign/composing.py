"""Composing: a search over small stacks of primitives by what they learn on synthetic tasks, kept on the disk as it goes.

Every evaluation is a line of a JSON Lines file; the next stack follows from the seed and the lines alone, so that a search that was cut
goes on as if it had not been.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codesign.architecture import Architecture
from codesign.errors import SchemaError, SpecError
from codesign.search.stacks import AGGREGATORS, aggregate, crossover, mutate, random_stack

__all__ = ["ComposeSettings", "Composed", "Evaluation", "compose", "small_architecture"]

_SCHEMA, _VERSION = "codesign.compose", 1
_PARENTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeSettings:
    """What is searched and how each stack is judged.

    Args:
        primitives: letters of A, R and F. recurrence: what R is. length: sublayers of a stack. evaluations: stacks to train.
        tasks: of `codesign.training.mad.TASKS`. tokens, batch, steps, lr: see `MadSettings`. width: of the small models. keep: how many
            of the best are aggregated. seed: of everything random.

    Raises:
        SpecError: a value out of range.
    """

    primitives: str = "ARF"
    recurrence: str = "mamba2"
    length: int = 16
    evaluations: int = 24
    tasks: tuple[str, ...] = ("recall", "noisy-recall", "fuzzy-recall", "selective-copy", "memorise", "compress")
    tokens: int = 48
    batch: int = 32
    steps: int = 200
    lr: float = 3e-3
    width: int = 64
    keep: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.primitives or set(self.primitives) - set("ARF") or not set(self.primitives) - {"F"}:
            raise SpecError(f"primitives '{self.primitives}' must be of the letters A, R and F, with A or R among them")
        if len(set(self.primitives)) != len(self.primitives):
            raise SpecError(f"primitives '{self.primitives}' name a letter twice")
        if self.recurrence not in ("mamba2", "gdn", "mlstm", "conv"):
            raise SpecError(f"recurrence '{self.recurrence}' is not one of mamba2, gdn, mlstm, conv")
        for name, low in (
            ("length", 2),
            ("evaluations", 1),
            ("keep", 1),
            ("steps", 1),
            ("tokens", 16),
            ("batch", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < low:
                raise SpecError(f"{name} {getattr(self, name)} must be at least {low}")
        if self.width < 32 or self.width % 32:
            raise SpecError(f"width {self.width} must be a multiple of 32")
        stacks = len(self.primitives) ** self.length - ("F" in self.primitives)
        if self.evaluations > stacks:
            raise SpecError(
                f"evaluations {self.evaluations} are more than the {stacks} stack{'s' * (stacks != 1)} of {self.length} sublayers that "
                f"primitives '{self.primitives}' make; take fewer, or more primitives"
            )
        if not self.tasks:
            raise SpecError("give at least one task")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A stack, the share of right answers by task, and the mean of (accuracy - chance) / (1 - chance) over the tasks."""

    stack: str
    accuracy: Mapping[str, float] = field(hash=False)
    score: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """Every stack that was tried, the best first, and what the aggregators made of the best, each with its own evaluation."""

    settings: ComposeSettings
    evaluations: tuple[Evaluation, ...]
    aggregates: Mapping[str, Evaluation] = field(hash=False)

    @property
    def best(self) -> Evaluation:
        """The highest score, aggregates among them."""
        return max([*self.evaluations, *self.aggregates.values()], key=lambda e: e.score)


def small_architecture(stack: str, settings: ComposeSettings) -> Architecture:
    """The small model of a stack: heads of 16, FFN twice the width, recurrences with states of 16 by 16."""
    from codesign.training.mad import VOCAB

    width, mixers = settings.width, [c for c in stack if c in "AR"]
    recurrent, attends = mixers.count("R"), "A" in mixers
    heads = width // 16
    more: dict[str, Any] = {}
    if recurrent:
        more = {"recurrence": settings.recurrence, "n_recurrent_layers": recurrent, "n_state_heads": 2 * heads, "d_state_value": 16, "d_state_key": 16}  # fmt: skip
        more |= {
            "mamba2": {"n_state_groups": 1, "d_conv": 4, "state_norm": True}, "gdn": {"n_state_groups": heads, "d_conv": 4},
            "mlstm": {}, "conv": {"n_state_heads": width, "d_state_value": 1, "d_state_key": 0, "d_conv": 3},
        }[settings.recurrence]  # fmt: skip
    return Architecture(
        n_layers=len(mixers), d_model=width, n_heads=heads if attends else 1, n_kv_heads=heads if attends else 1, d_head=16 if attends else 1,
        d_ff=2 * width if "F" in stack else 0, vocab_size=VOCAB, qk_norm="head" if attends else "none", layout=stack,
        extra_ffn_layers=stack.count("F") - len(mixers), family="codesign", **more,
    )  # fmt: skip


def compose(
    settings: ComposeSettings, file: Path, *, evaluate: Callable[[str], Mapping[str, float]] | None = None,
    on_progress: Callable[[int, int, Evaluation], Any] | None = None,
) -> Composed:  # fmt: skip
    """Search, aggregate, and judge the aggregates.

    Args:
        settings: what to search. file: where evaluations are kept; an earlier search of the same settings goes on.
        evaluate: accuracy by task of a stack; default: trains it (needs torch). on_progress: called after each evaluation.

    Raises:
        SchemaError: the file is of other settings, or not ours.
        SpecError: an unknown task.
    """
    judge = evaluate or (lambda stack: _train(stack, settings))
    done = _load(file, settings)
    total = settings.evaluations + len(AGGREGATORS) - 1

    def one(stack: str) -> Evaluation:
        if stack in done:
            return done[stack]
        started = time.monotonic()
        accuracy = dict(judge(stack))
        mean = float(np.mean([(a - 1 / 16) / (1 - 1 / 16) for a in accuracy.values()]))
        found = Evaluation(stack=stack, accuracy=accuracy, score=mean, seconds=time.monotonic() - started)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(found)) + "\n")
        done[stack] = found
        if on_progress is not None:
            on_progress(len(done), total, found)
        return found

    tried: list[Evaluation] = []
    while len(tried) < settings.evaluations:
        tried.append(one(_next(settings, tried)))
    tried.sort(key=lambda e: -e.score)
    kept = tried[: settings.keep]
    aggregates = {}
    for method in AGGREGATORS[1:]:
        stack = aggregate([e.stack for e in kept], [e.score for e in kept], method, settings.seed)
        if set(stack) - {"F"}:
            aggregates[method] = one(stack)
    return Composed(settings=settings, evaluations=tuple(tried), aggregates=aggregates)


def _next(settings: ComposeSettings, tried: Sequence[Evaluation]) -> str:
    """The next stack: plain alternations first, then random ones, then children of the best."""
    letters, length = settings.primitives, settings.length
    known = {e.stack for e in tried}
    plain = [(mixer + "F") * length if "F" in letters else mixer * length for mixer in letters if mixer != "F"]
    for stack in (text[:length] for text in plain):
        if stack not in known:
            return stack
    rng = np.random.default_rng([settings.seed, len(tried)])
    fresh = max(4, settings.evaluations // 4)
    for _ in range(1000):
        if len(tried) < fresh:
            child = random_stack(rng, letters, length)
        else:
            best = sorted(tried, key=lambda e: -e.score)[:_PARENTS]
            a, b = (best[min(int(rng.integers(len(best))), int(rng.integers(len(best))))].stack for _ in range(2))
            child = mutate(rng, crossover(rng, a, b) if rng.random() < 0.5 else a, letters)
        if child not in known:
            return child
    every = ("".join(some) for some in itertools.product(letters, repeat=length))  # few are left
    return next(stack for stack in every if stack not in known and set(stack) - {"F"})


def _train(stack: str, settings: ComposeSettings) -> dict[str, float]:
    from codesign.training.mad import MadSettings, score

    mad = MadSettings(tokens=settings.tokens, batch=settings.batch, steps=settings.steps, lr=settings.lr)
    found = score(small_architecture(stack, settings), settings.tasks, settings=mad, seed=settings.seed)
    return {s.task: s.accuracy for s in found}


def _load(file: Path, settings: ComposeSettings) -> dict[str, Evaluation]:
    """Evaluations of an earlier run; the file is begun where there is none. `evaluations` may grow."""
    own = json.loads(json.dumps({k: v for k, v in asdict(settings).items() if k not in ("evaluations", "keep")}))
    head = {"schema": _SCHEMA, "version": _VERSION, "settings": own}
    if not file.exists() or not file.stat().st_size:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return {}
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        first = json.loads(lines[0])
        if first.get("schema") != _SCHEMA or first.get("version") != _VERSION:
            raise SchemaError(f"{file} holds no evaluations of codesign compose; give another --out")
        if first["settings"] != own:
            other = sorted(k for k in own if first["settings"].get(k) != own[k])
            raise SchemaError(
                f"{file} is of a search with another {', '.join(other)}; give another --out, or the same settings"
            )
        whole = [line for line in lines[1:] if line.endswith("\n")]  # a line cut by a crash does not count
        found = [Evaluation(**json.loads(line)) for line in whole]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{file} is damaged ({error}); delete it or give another --out") from error
    if len(whole) + 1 < len(lines):
        file.write_text("".join([lines[0], *whole]), encoding="utf-8")
    return {e.stack: e for e in found}
