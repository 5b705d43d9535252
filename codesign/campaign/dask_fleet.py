"""Boards that carry Dask: its scheduler chooses the board, one job a board at a time by a resource label.

    dask scheduler                                                      (anywhere)
    dask worker tcp://HOST:8786 --nthreads 1 --resources orin=1         (on each board)

codesign must be installed on both: the scheduler reads the tasks too.

Dask itself runs a task again when its worker dies (and gives up after `distributed.scheduler.allowed-failures`, 3 by
default). A task's records come when it ends, all or none, so that none is told twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any

from codesign.campaign.agent import RunTask, agent_version
from codesign.campaign.fleet_worker import OnRecord, WorkerLost, rebuilt_error, told_error
from codesign.errors import CodesignError, MeasurementError, MissingExtraError
from codesign.measurement import Measurement
from codesign.profilers.base import Task

__all__ = ["DaskWorker", "dask_workers"]

_LOG = logging.getLogger(__name__)
_POLL_S = 2.0


class DaskWorker:
    """One of several askers of a Dask scheduler; see `Worker`. Its name becomes that of the board which ran the last task."""

    def __init__(
        self, address: str, resource: str, name: str, *, device: str | None, power_mode: str | None,
        run_task: RunTask | None, timeout_s: float, absent_s: float, retries: int,
    ) -> None:  # fmt: skip
        self.name, self.device, self.power_mode = name, device, power_mode
        self.address, self.resource = address, resource
        self._run_task, self._timeout_s, self._absent_s, self._retries = run_task, timeout_s, absent_s, retries
        self._client: Any = None
        self._closed = False

    def start(self) -> None:
        """Connect to the scheduler.

        Raises:
            WorkerLost: it does not answer.
        """
        self._drop()
        if self._closed:
            raise WorkerLost("closed", permanent=True)
        try:
            self._client = _connect(self.address, self._timeout_s)
        except MeasurementError as error:
            raise WorkerLost(str(error)) from error

    def run(self, task: Task, on_record: OnRecord) -> None:
        """Run a task on whichever board has the resource free; see `Worker.run`.

        Raises:
            WorkerLost: the scheduler is gone, or no board has the resource for a while.
            MeasurementError: every board that ran the task died.
            CodesignError: what the task raised there.
        """
        client = self._client
        key = f"codesign-{uuid.uuid4().hex}"
        try:
            if client is None:
                raise WorkerLost("the link was closed", permanent=True)
            future = client.submit(
                _on_board, task.to_dict(), agent_version(), self._run_task, key=key, pure=False,
                resources={self.resource: 1}, retries=self._retries,
            )  # fmt: skip
            answer = self._wait(client, future)
        except CodesignError:
            self._drop()
            raise
        except Exception as error:
            raise self._explained(client, error) from error
        self.name = answer["worker"]
        if answer["version"] != agent_version():
            raise WorkerLost(
                f"codesign {answer['version']} runs on this Dask worker and {agent_version()} here; install the same version on "
                "both sides",
                permanent=True,
            )
        if "error" in answer:
            raise rebuilt_error(answer["error"])
        for data in answer["measurements"]:
            on_record(Measurement.from_dict(data))

    def _explained(self, client: Any, error: Exception) -> CodesignError:
        """What went wrong outside of the task."""
        if self._closed:
            return WorkerLost("the link was closed", permanent=True)
        if type(error).__name__ == "KilledWorker":
            return MeasurementError(f"every Dask worker that ran this task died ({_line(error)}); try a smaller model")
        if client.status != "running" or isinstance(error, (CancelledError, OSError, asyncio.TimeoutError)):
            self._drop()
            return WorkerLost(f"the Dask scheduler at {self.address} is gone ({_line(error)})")
        return WorkerLost(
            f"Dask cannot run codesign's tasks ({_line(error.__cause__ or error)}); install codesign {agent_version()} on its workers "
            "and where its scheduler runs",
            permanent=True,
        )

    def _wait(self, client: Any, future: Any) -> Mapping[str, Any]:
        """The answer, looking now and then whether a board is there at all: Dask would wait for one for ever."""
        seen_s = time.monotonic()
        while True:
            try:
                answer: Mapping[str, Any] = future.result(timeout=min(_POLL_S, self._absent_s))
                return answer
            except asyncio.TimeoutError:  # distributed's own; TimeoutError itself from Python 3.11 on
                if future.done():  # the task's own
                    raise
            if self._closed:
                raise WorkerLost("the link was closed", permanent=True)
            if _boards(client, self.resource)[0]:
                seen_s = time.monotonic()
            elif time.monotonic() - seen_s > self._absent_s:
                future.cancel(force=True)
                raise WorkerLost(f"no Dask worker at {self.address} offers '{self.resource}' any more")

    def close(self) -> None:
        """Cancel what waits and leave the scheduler; what runs on a board ends there by itself."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close(timeout=5)  # its futures are released: the scheduler forgets their tasks


def dask_workers(
    scheduler_address: str,
    resource: str,
    *,
    device: str | None = None,
    power_mode: str | None = None,
    run_task: RunTask | None = None,
    timeout_s: float = 10.0,
    absent_s: float = 120.0,
    retries: int = 1,
) -> list[DaskWorker]:
    """Workers for `run_fleet`: two a board, so that a task waits at Dask when a board becomes free.

    Args:
        scheduler_address: such as tcp://10.0.0.1:8786.
        resource: label of which each job takes 1 (`dask worker --resources orin=1`).
        device, power_mode: what the boards with that label are; only tasks of these go there (None: any).
        run_task: default: `codesign.profilers.measure.run_task`, imported on the board.
        timeout_s: for the scheduler's answer. absent_s: for a board to come back when there is none.
        retries: Dask's own, for what fails outside of a task.

    Raises:
        MissingExtraError: distributed is not installed.
        MeasurementError: the scheduler does not answer, or no worker offers the resource.
    """
    client = _connect(scheduler_address, timeout_s)
    try:
        boards, offered = _boards(client, resource)
    finally:
        client.close(timeout=5)
    if not boards:
        raise MeasurementError(
            f"no Dask worker at {scheduler_address} offers '{resource}' (offered: {', '.join(offered) or 'nothing'}); start one: "
            f"dask worker {scheduler_address} --nthreads 1 --resources {resource}=1"
        )
    return [
        DaskWorker(
            scheduler_address, resource, f"dask-{number}", device=device, power_mode=power_mode, run_task=run_task,
            timeout_s=timeout_s, absent_s=absent_s, retries=retries,
        )
        for number in range(1, 2 * boards + 1)
    ]  # fmt: skip


def _connect(address: str, timeout_s: float) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError.of("distributed", "fleet", "--scheduler") from error
    noisy = logging.getLogger("distributed")
    level = noisy.level
    noisy.setLevel(logging.CRITICAL)  # each failed try prints a traceback
    try:
        return Client(address, timeout=timeout_s, set_as_default=False, name="codesign")
    except (OSError, asyncio.TimeoutError, ValueError) as error:
        raise MeasurementError(
            f"no Dask scheduler answers at '{address}' within {timeout_s:g} s ({_line(error)}); start one with 'dask scheduler', "
            "and give its address as tcp://HOST:8786"
        ) from error
    finally:
        noisy.setLevel(level)


def _boards(client: Any, resource: str) -> tuple[int, list[str]]:
    """How many workers offer a resource, and all resources that any offers."""
    workers = client.sync(client.scheduler.identity, n_workers=-1)["workers"].values()
    offered = [worker.get("resources") or {} for worker in workers]
    return sum(resources.get(resource, 0) >= 1 for resources in offered), sorted({name for r in offered for name in r})


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _on_board(task: Mapping[str, Any], version: str, run_task: RunTask | None) -> dict[str, Any]:
    """Run in the Dask worker: errors are told, not raised, because Dask would try again what cannot get better."""
    from distributed import get_worker

    worker = get_worker()
    answer: dict[str, Any] = {"worker": str(worker.name), "version": agent_version()}
    if answer["version"] != version:
        return answer
    records: list[dict[str, Any]] = []
    try:
        run = run_task or _default()
        run(Task.from_dict(task), on_record=lambda record: records.append(record.to_dict()))
    except Exception as error:
        if not isinstance(error, CodesignError):
            _LOG.exception("the task failed")
        return {**answer, "error": told_error(error)}
    return {**answer, "measurements": records}


def _default() -> Callable[..., object]:
    from codesign.profilers.measure import run_task

    return run_task
