"""Exact search: every point of the space, in blocks, with a running non-dominated set.

Memory stays that of a few blocks whatever the size. Large spaces use all cores; a state file after every few seconds of
work lets a killed search go on with the identical result.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from codesign.architecture import Architecture
from codesign.errors import SchemaError
from codesign.search.front import Front
from codesign.search.problem import Problem
from codesign.search.space import Block

__all__ = ["Progress", "SearchResult", "enumerate_space"]

PARALLEL_ABOVE = 20_000_000
_CHUNK = 8  # blocks a worker takes at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a search is: points done of all, and the size of the front so far."""

    done: int
    total: int
    front: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Linear indices and objectives of the frontier, and the certificate that says how it was found."""

    front: Front
    n_evaluated: int
    n_feasible: int
    exact: bool
    certificate: str


def fingerprint(problem: Problem, extra: str = "") -> str:
    """Identity of a search for its state file: all that decides the result, the law by what it predicts for a probe."""
    probe = Architecture(n_layers=12, d_model=768, n_heads=6, n_kv_heads=2, d_head=128, d_ff=2816, vocab_size=50304)
    law = [float(problem.law.predict(probe, problem.tokens * k)).hex() for k in (1, 3)]
    parts = (
        json.dumps(problem.space.to_dict(), sort_keys=True),
        repr((problem.budget, problem.workload, problem.tokens, problem.objectives, problem.memory_B)),
        repr((problem.allow_extrapolation, problem.quantisation_priced, problem.law.name, law)),
        repr(getattr(problem.law, "meta", "")),
        repr(sorted((name, repr((m.device, m.rates, m.power))) for name, m in problem.models.items())),
        repr(sorted((name, sorted(spans.items())) for name, spans in problem.latency_spans.items())),
        extra,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _run(problem: Problem, blocks: Iterable[Block]) -> tuple[Front, int, int]:
    front, evaluated, feasible = Front(len(problem.objectives)), 0, 0
    for block in blocks:
        found = problem.evaluate(block.precision, block.arch, block.valid, block.shape, block.start)
        front.add(found.objectives, found.index)
        evaluated += found.n_valid
        feasible += found.n_feasible
    return front, evaluated, feasible


_worker_problem: Problem | None = None


def _start_worker(problem: Problem) -> None:
    global _worker_problem
    _worker_problem = problem
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone answers it
    threading.Thread(target=_leave_with_parent, daemon=True).start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while processes start: they inherit the blocked signal, and the parent gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_with_parent() -> None:
    """A parent that was killed cannot stop its workers: they would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(first: int) -> tuple[Front, int, int]:
    assert _worker_problem is not None
    return _run(_worker_problem, _worker_problem.space.blocks(first, first + _CHUNK))


def save_state(path: Path, data: dict[str, Any]) -> None:
    """Write a search's state so that a reader never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps({"schema": "codesign.search-state", "version": 1, **data}), encoding="utf-8")
    os.replace(temporary, path)


class _State:
    """Work done so far, and its file."""

    def __init__(self, problem: Problem, path: Path | None) -> None:
        self.path, self.identity = path, fingerprint(problem) if path else ""
        self.front, self.evaluated, self.feasible, self.blocks = Front(len(problem.objectives)), 0, 0, 0
        if path is not None and path.exists():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["identity"] != self.identity:
                return
            points = np.array([[float.fromhex(v) for v in row] for row in data["points"]])
            self.front.points = points.reshape(len(data["index"]), self.front.points.shape[1])
            self.front.index = np.array(data["index"], dtype=np.int64)
            self.evaluated, self.feasible, self.blocks = data["evaluated"], data["feasible"], data["blocks"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SchemaError(f"the search state {path} is corrupt ({error}); delete it to start again") from error

    def add(self, part: tuple[Front, int, int], blocks: int) -> None:
        front, evaluated, feasible = part
        self.front.add(front.points, front.index)
        self.evaluated += evaluated
        self.feasible += feasible
        self.blocks += blocks

    def save(self) -> None:
        if self.path is None:
            return
        data = {
            "identity": self.identity, "blocks": self.blocks,
            "evaluated": self.evaluated, "feasible": self.feasible, "index": self.front.index.tolist(),
            "points": [[float(v).hex() for v in row] for row in self.front.points],
        }  # fmt: skip
        save_state(self.path, data)


def enumerate_space(
    problem: Problem,
    *,
    workers: int | None = None,
    state: Path | None = None,
    on_progress: Callable[[Progress], Any] | None = None,
    save_every_s: float = 5.0,
) -> SearchResult:
    """Evaluate every point of the space and return the exact non-dominated set.

    Args:
        problem: what to search.
        workers: processes; by default one for small spaces, all cores above 20 million points.
        state: file for resuming; a search of another problem in it is ignored, a corrupt one refused.
        on_progress: called after each part of the work.
        save_every_s: seconds between saves of the state.

    Returns:
        The frontier with the certificate ``exact: n evaluated, m feasible, k on the frontier``.

    Raises:
        SchemaError: the state file is corrupt.
    """
    total = problem.space.size
    if workers is None:
        workers = (os.cpu_count() or 1) if total > PARALLEL_ABOVE else 1
    work = _State(problem, state)
    saved = -math.inf  # the first part is saved at once

    def after(part: tuple[Front, int, int], blocks: int) -> None:
        nonlocal saved
        work.add(part, blocks)
        if time.monotonic() - saved > save_every_s:
            work.save()
            saved = time.monotonic()
        if on_progress is not None:
            on_progress(
                Progress(done=min(work.blocks * _points_per_block(problem), total), total=total, front=len(work.front))
            )

    if workers <= 1:
        for block in problem.space.blocks(work.blocks):
            after(_run(problem, [block]), 1)
    else:
        n_blocks = problem.space.n_blocks
        firsts = range(work.blocks, n_blocks, _CHUNK)
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (problem,)) as pool:
            with _interrupts_held():  # workers start at the first submission
                parts = pool.map(_work, firsts)
            for first, part in zip(firsts, parts, strict=True):
                after(part, min(_CHUNK, n_blocks - first))
    if work.path is not None and work.path.exists():
        work.path.unlink()
    certificate = (
        f"exact: {work.evaluated:,} evaluated, {work.feasible:,} feasible, {len(work.front):,} on the frontier"
    )
    return SearchResult(front=work.front, n_evaluated=work.evaluated, n_feasible=work.feasible, exact=True,
                        certificate=certificate)  # fmt: skip


def _points_per_block(problem: Problem) -> int:
    return max(1, -(-problem.space.size // max(problem.space.n_blocks, 1)))
