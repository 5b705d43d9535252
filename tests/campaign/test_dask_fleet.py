"""Dask for real, on loopback: worker processes with resources, one of which is killed; only the engine is made up."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fleet_tasks
import pytest
from fleet_tasks import Book, task

from codesign.campaign.agent import RunTask
from codesign.campaign.dask_fleet import dask_workers
from codesign.campaign.fleet import run_fleet
from codesign.campaign.fleet_worker import WorkerLost
from codesign.errors import MeasurementError, MissingExtraError

distributed = pytest.importorskip("distributed", reason="the extra 'fleet' is not installed")
cloudpickle = pytest.importorskip("cloudpickle")
cloudpickle.register_pickle_by_value(fleet_tasks)  # the workers cannot import from the folder of the tests


def fake(folder: Path) -> RunTask:
    """A made-up engine; task 1 stops at its first run."""

    def run_task(task: fleet_tasks.Task, *, on_record: Callable[[fleet_tasks.Measurement], None]) -> None:
        layers = task.architecture.n_layers
        if layers > 50:
            raise MeasurementError("does not fit")
        on_record(fleet_tasks.record(task, task.points[0]))
        if layers == 1 and not (folder / "pid").exists():
            (folder / "pid.new").write_text(str(os.getpid()))
            (folder / "pid.new").rename(folder / "pid")
            time.sleep(60)
        time.sleep(0.02)
        on_record(fleet_tasks.record(task, task.points[1]))

    return run_task


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "resources": {"orin": 1}}
    with distributed.LocalCluster(**options, dashboard_address=":0", host="127.0.0.1", memory_limit=0) as cluster:
        with distributed.Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(2)
        yield cluster.scheduler_address


def test_a_worker_killed_in_the_middle_of_a_task(address: str, tmp_path: Path) -> None:
    def kill() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    book = Book()
    workers = dask_workers(address, "orin", run_task=fake(tmp_path))
    assert len(workers) == 4
    tasks = [task(n) for n in (*range(1, 21), 51)]
    report = run_fleet(workers, tasks, book.on_result, book.on_failure, on_record=book.on_record)
    killer.join()
    assert book.layers() == list(range(1, 21))
    assert book.passes() == [(n, phase) for n in range(1, 21) for phase in ("decode", "prefill")]
    ((failed, error, _),) = book.failures
    assert failed.architecture.n_layers == 51 and str(error) == "does not fit"
    assert (report.done, report.failed, sum(row.losses for row in report.workers.values())) == (20, 1, 0)
    assert not {worker for _, _, worker in book.results} & {"dask-1", "dask-2", "dask-3", "dask-4"}  # but Dask's names


def test_a_resource_that_no_board_offers(address: str) -> None:
    with pytest.raises(
        MeasurementError, match=r"no Dask worker at .* offers 'thor' \(offered: orin\).*--resources thor=1"
    ):
        dask_workers(address, "thor")


def test_no_scheduler() -> None:
    start = time.monotonic()
    for bad in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(MeasurementError, match="no Dask scheduler answers at .*start one with 'dask scheduler'"):
            dask_workers(bad, "orin", timeout_s=0.5)
    assert time.monotonic() - start < 5


def test_boards_that_all_leave_and_a_scheduler_that_ends(tmp_path: Path) -> None:
    quiet = {"dashboard_address": ":0", "host": "127.0.0.1", "memory_limit": 0, "resources": {"orin": 1}}
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, **quiet)
    try:
        book = Book()
        options = {"run_task": fake(tmp_path), "timeout_s": 0.5, "absent_s": 0.3}
        workers = dask_workers(cluster.scheduler_address, "orin", **options)
        (ended,) = dask_workers(cluster.scheduler_address, "orin", **options)[:1]
        cluster.scale(0)
        while cluster.scheduler.workers:
            time.sleep(0.01)
        with pytest.raises(MeasurementError, match=r"2 task\(s\) for host remain.*offers 'orin' any more"):
            run_fleet(workers, [task(2), task(3)], book.on_result, book.on_failure, reconnects=0)
        assert not book.results and not cluster.scheduler.tasks  # nothing waits there to run later
        ended.start()
    finally:
        cluster.close()
    with pytest.raises(WorkerLost, match="the Dask scheduler at .* is gone"):
        ended.run(task(2), lambda _: None)
    with pytest.raises(WorkerLost, match="no Dask scheduler answers"):
        ended.start()


def test_a_board_that_cannot_read_the_task(address: str) -> None:
    class Local:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return __import__, ("a_module_that_is_not_there",)

    worker = dask_workers(address, "orin", run_task=Local(), retries=0)[0]  # type: ignore[arg-type]
    worker.start()
    with pytest.raises(
        WorkerLost, match="Dask cannot run codesign's tasks .*a_module_that_is_not_there.*on its workers"
    ) as caught:
        worker.run(task(2), lambda _: None)
    worker.close()
    assert caught.value.permanent


def test_close_in_the_middle_of_a_task(address: str, tmp_path: Path) -> None:
    worker = dask_workers(address, "orin", run_task=fake(tmp_path))[0]
    worker.start()
    threading.Timer(0.5, worker.close).start()
    start = time.monotonic()
    with pytest.raises(WorkerLost):
        worker.run(task(1), lambda _: None)
    assert time.monotonic() - start < 5
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_another_version_there(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codesign.campaign.dask_fleet.agent_version", lambda: "0.0.1")
    worker = dask_workers(address, "orin", run_task=fake(tmp_path))[0]
    worker.start()
    with pytest.raises(WorkerLost, match="and 0.0.1 here; install the same version on both sides") as caught:
        worker.run(task(2), lambda _: None)
    worker.close()
    assert caught.value.permanent


def test_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"--scheduler needs the package 'distributed'.*\[fleet\]"):
        dask_workers("tcp://127.0.0.1:9", "orin")
