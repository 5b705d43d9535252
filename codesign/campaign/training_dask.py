"""Training a campaign's runs on the workers of a Dask cluster.

    dask scheduler                                          (anywhere)
    dask worker tcp://HOST:8786 --nthreads 1 --nworkers 4   (on each machine: so many runs at a time)

codesign must be installed on both, and the folder of the runs must be on storage that all workers see: a run whose worker died
goes on elsewhere from its checkpoint. Dask itself gives it to another worker, and gives it up after
`distributed.scheduler.allowed-failures` (3 by default) deaths.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codesign.campaign.agent import agent_version
from codesign.campaign.dask_fleet import _connect, _line
from codesign.campaign.fleet_worker import rebuilt_error, told_error
from codesign.campaign.training_task import Execute, OnFailure, OnRun, TrainingTask, run_task
from codesign.errors import CodesignError, MeasurementError
from codesign.training_run import TrainingRun

__all__ = ["run_on_dask"]

_LOG = logging.getLogger(__name__)
_POLL_S = 1.0


@contextmanager
def run_on_dask(
    address: str, folder: Path, *, timeout_s: float = 10.0, absent_s: float = 120.0, wait_s: float = 600.0
) -> Iterator[Execute]:
    """An executor whose tasks run on the workers of a scheduler; its connection closes at the end.

    Args:
        address: such as tcp://10.0.0.1:8786. folder: of the runs, to be seen by all workers; it is made.
        timeout_s: for the scheduler's answer. absent_s: for a worker to come back when there is none.
        wait_s: for a run's folder to become free: a worker that lost the scheduler may still train in it.

    Raises:
        MissingExtraError: distributed is not installed.
        MeasurementError: the scheduler does not answer, has no workers, or one of them cannot be used (`check_workers`).
    """
    client = _connect(address, timeout_s)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_workers(client, address, folder.resolve())

        def execute(tasks: Sequence[TrainingTask], on_run: OnRun, on_failure: OnFailure) -> None:
            _Batch(client, address, absent_s, wait_s).execute(tasks, on_run, on_failure)

        yield execute
    finally:
        client.close(timeout=5)  # its futures are released: the scheduler forgets their tasks


class _Batch:
    """Tasks under way together."""

    def __init__(self, client: Any, address: str, absent_s: float, wait_s: float) -> None:
        self.client, self.address, self.absent_s, self.wait_s = client, address, absent_s, wait_s

    def execute(self, tasks: Sequence[TrainingTask], on_run: OnRun, on_failure: OnFailure) -> None:
        waiting: dict[Any, TrainingTask] = {}
        for rank, task in enumerate(tasks):
            data = {**task.to_dict(), "wait_s": self.wait_s}
            key = f"codesign-train-{Path(task.folder).name}-{uuid.uuid4().hex[:8]}"
            waiting[self.client.submit(_on_worker, data, agent_version(), key=key, pure=False, priority=-rank)] = task
        try:
            seen_s = time.monotonic()
            while waiting:
                done = self._done(list(waiting))
                for future in done:
                    self._settle(future, waiting.pop(future), on_run, on_failure)
                if done or _workers(self.client):
                    seen_s = time.monotonic()
                elif time.monotonic() - seen_s > self.absent_s:
                    raise MeasurementError(
                        f"no Dask worker at {self.address} for {self.absent_s:g} s; start some and give the same command "
                        "again: it goes on from the checkpoints"
                    )
        finally:
            for future in waiting:
                future.cancel(force=True)

    def _done(self, futures: list[Any]) -> list[Any]:
        from distributed import wait

        try:
            with self.client.as_current():  # it is nobody's default
                return list(wait(futures, timeout=_POLL_S, return_when="FIRST_COMPLETED").done)
        except asyncio.TimeoutError:  # TimeoutError itself from Python 3.11 on
            return []

    def _settle(self, future: Any, task: TrainingTask, on_run: OnRun, on_failure: OnFailure) -> None:
        try:
            answer = future.result()
        except Exception as error:
            on_failure(task, self._explained(error))
            return
        if "error" in answer:
            on_failure(task, rebuilt_error(answer["error"]))
        else:
            on_run(task, TrainingRun.from_dict(answer["run"]))

    def _explained(self, error: Exception) -> CodesignError:
        """What went wrong outside of the run.

        Raises:
            MeasurementError: the scheduler is gone: that ends the campaign.
        """
        if type(error).__name__ == "KilledWorker":
            return MeasurementError(
                f"every Dask worker that trained this died ({_line(error)}); it may need more memory than they have"
            )
        if self.client.status != "running" or type(error).__name__ in ("CancelledError", "FutureCancelledError"):
            raise MeasurementError(
                f"the Dask scheduler at {self.address} is gone ({_line(error)}); start it and its workers and give the same "
                "command again: it goes on from the checkpoints"
            ) from error
        return MeasurementError(
            f"Dask cannot run codesign's tasks ({_line(error.__cause__ or error)}); install codesign {agent_version()} on its "
            "workers and where its scheduler runs"
        )


def _workers(client: Any) -> dict[str, Any]:
    """The scheduler's workers by address."""
    found: dict[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    return found


def _check_workers(client: Any, address: str, folder: Path) -> None:
    """Every worker must have this codesign, run one task at a time, and read a file that was written into the folder just now.

    Raises:
        MeasurementError: there is none, or one of them cannot be used.
    """
    workers = _workers(client)
    if not workers:
        raise MeasurementError(
            f"the Dask scheduler at {address} has no workers; start some: dask worker {address} --nthreads 1 --nworkers 2"
        )
    if several := sorted(where for where, facts in workers.items() if facts["nthreads"] != 1):
        raise MeasurementError(
            f"the Dask worker {several[0]} runs {workers[several[0]]['nthreads']} tasks at a time in one process, where training "
            f"would not repeat; start it with --nthreads 1 and as many --nworkers (workers like it: {len(several)})"
        )
    token = folder / f".token-{uuid.uuid4().hex}"
    try:
        token.write_text(token.name, encoding="utf-8")
        try:
            answers = client.run(_look, str(token))
        except Exception as error:
            raise MeasurementError(
                f"Dask cannot run codesign's tasks ({_line(error)}); install codesign {agent_version()} on its workers and where its "
                "scheduler runs"
            ) from error
    finally:
        token.unlink(missing_ok=True)
    for where, answer in sorted(answers.items()):
        if answer["version"] != agent_version():
            raise MeasurementError(
                f"codesign {answer['version']} runs on the Dask worker {where} and {agent_version()} here; install the same version "
                "on both sides"
            )
        if answer["read"] != token.name:
            raise MeasurementError(
                f"the Dask worker {where} does not see {folder}, where the checkpoints go ({answer['read']}); give --checkpoints a "
                "folder on storage that all workers see"
            )


def _look(token: str) -> dict[str, str]:
    """Run in each worker."""
    try:
        read = Path(token).read_text(encoding="utf-8")
    except OSError as error:
        read = error.strerror or str(error)
    return {"version": agent_version(), "read": read}


def _on_worker(data: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Run in a Dask worker: errors are told, not raised, so that they read the same here as there."""
    if agent_version() != version:
        return {
            "error": told_error(
                MeasurementError(
                    f"codesign {agent_version()} runs on a Dask worker and {version} asks; install the same"
                )
            )
        }
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def check() -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":  # the command was killed, or another worker has it
            raise MeasurementError("nobody waits for this run any more")

    try:
        return {"run": run_task(TrainingTask.from_dict(data), check).to_dict()}
    except Exception as error:
        if not isinstance(error, CodesignError):
            _LOG.exception("the task failed")
        return {"error": told_error(error)}
