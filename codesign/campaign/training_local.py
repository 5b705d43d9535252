"""Training a campaign's runs on this machine: in this process, or in several that joblib (loky) starts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codesign.campaign.training_task import Execute, OnFailure, OnRun, TrainingTask, run_task
from codesign.errors import CodesignError, MeasurementError, MissingExtraError
from codesign.training_run import TrainingRun

__all__ = ["local_workers", "run_here"]

#: A run whose process died so often is given up: it is killed for what it is (its memory), not by chance.
ATTEMPTS = 3
_WATCH = "codesign-end-with-parent"


def local_workers(threads: int) -> int:
    """How many runs this machine can train at a time: its physical cores that this process may use, over `threads` each."""
    try:
        import joblib
    except ImportError as error:
        raise MissingExtraError.of("joblib", "train", "training several models at a time") from error
    cores = min(joblib.cpu_count(only_physical_cores=True), joblib.cpu_count())
    return max(1, int(cores) // threads)


def run_here(workers: int, *, attempts: int = ATTEMPTS) -> Execute:
    """An executor that trains in this process (`workers` 1) or in that many others.

    A process that dies (killed, out of memory) takes the pool with it: what was not done is started again, from its checkpoints,
    in a new pool. Which of the runs under way it died of cannot be told, so one that was there at all but the last allowed death
    is tried alone; if that process dies too, the run fails.
    """

    def execute(tasks: Sequence[TrainingTask], on_run: OnRun, on_failure: OnFailure) -> None:
        if workers == 1:
            for task in tasks:
                try:
                    run = run_task(task)
                except CodesignError as error:
                    on_failure(task, error)
                else:
                    on_run(task, run)
            return
        _in_processes(list(tasks), workers, attempts, on_run, on_failure)

    return execute


def _in_processes(tasks: list[TrainingTask], workers: int, attempts: int, on_run: OnRun, on_failure: OnFailure) -> None:
    try:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError
    except ImportError as error:
        raise MissingExtraError.of("joblib", "train", "training several models at a time") from error

    waiting = dict(enumerate(tasks))
    deaths = dict.fromkeys(waiting, 0)
    threads = max((task.spec.threads for task in tasks), default=1)
    while waiting:
        together = [i for i in waiting if deaths[i] < attempts - 1] or [next(iter(waiting))]
        for i in together:
            _mark(tasks[i]).unlink(missing_ok=True)
        parallel = Parallel(
            n_jobs=max(2, min(workers, len(together))),  # joblib runs 1 in this process, which must not die of a run
            backend="loky", batch_size=1, return_as="generator_unordered", inner_max_num_threads=threads,
        )  # fmt: skip
        try:
            for i, answer in parallel(delayed(_elsewhere)(i, tasks[i], os.getpid()) for i in together):
                task = tasks[i]
                del waiting[i]
                if isinstance(answer, TrainingRun):
                    on_run(task, answer)
                else:
                    on_failure(task, answer)
        except TerminatedWorkerError as error:
            for i in [i for i in together if i in waiting and _mark(tasks[i]).exists()]:
                deaths[i] += 1
                if deaths[i] >= attempts:
                    del waiting[i]
                    on_failure(tasks[i], _died(tasks[i], attempts, error))


def _elsewhere(i: int, task: TrainingTask, parent: int) -> tuple[int, TrainingRun | CodesignError]:
    """In a worker: errors of codesign are told, not raised, because a raised one ends the others."""

    if not any(thread.name == _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_end_with, args=(parent,), name=_WATCH, daemon=True).start()
    _mark(task).parent.mkdir(parents=True, exist_ok=True)
    _mark(task).touch()
    try:
        answer: TrainingRun | CodesignError = run_task(task)
    except CodesignError as error:
        answer = error
    _mark(task).unlink(missing_ok=True)
    return i, answer


def _end_with(parent: int) -> None:
    """Where the command was killed, what it leaves behind must not train on. Checkpoints are whole at any time."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _mark(task: TrainingTask) -> Path:
    """There while a process works on the task: so the death of a pool is laid to those that ran."""
    return Path(task.folder) / "working"


def _died(task: TrainingTask, attempts: int, error: Any) -> MeasurementError:
    a = task.spec.architecture
    return MeasurementError(
        f"its process died {attempts} times ({' '.join(str(error).split())[:200]}); {a.params_total:,} parameters with batches of "
        f"{task.spec.recipe.batch_tokens:,} tokens may need more memory than there is: give fewer --workers"
    )
