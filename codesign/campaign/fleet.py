"""A queue of tasks and the boards that work it off: nothing is lost when a board drops out, nothing is reported twice.

This is no scheduler: a board that is free takes the next task that fits it. One thread a board talks to it; everything
else (the queue, the callbacks) happens in the thread that called `run_fleet`, so that callbacks need no locks.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from codesign.campaign.fleet_post import Job, Post
from codesign.campaign.fleet_worker import FleetReport, Worker, WorkerLost, WorkerReport, remaining_points
from codesign.errors import CodesignError, MeasurementError, MissingExtraError, SpecError
from codesign.measurement import Measurement
from codesign.profilers.base import Task

__all__ = ["Fleet", "run_fleet"]

_LOG = logging.getLogger(__name__)
_LONGEST_WAIT_S = 120.0


class Fleet:
    """Workers that stay connected over several runs (a campaign plans as it measures); a context manager.

    Args:
        workers: boards; each is connected when there is a task for it.
        retries: how many other workers may try a task that failed by its own fault.
        losses: a task is given up after it ran on this many links that broke: it takes boards down. (Dask's
            `allowed-failures` is 3 too.)
        reconnects: how often in a row a worker is tried again before it is retired.
        backoff_s: wait before the first of these; doubled each time, at most 120 s. A Jetson boots in about a minute.

    Attributes:
        report: what was done so far.

    Raises:
        SpecError: no workers.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        retries: int = 1,
        losses: int = 3,
        reconnects: int = 4,
        backoff_s: float = 5.0,
    ) -> None:
        if not workers:
            raise SpecError(
                "a fleet needs at least one board; give --on user@host, --hosts FILE or --scheduler ADDRESS"
            )
        self.retries, self.losses, self.reconnects, self.backoff_s = retries, losses, reconnects, backoff_s
        self.report = FleetReport(workers={worker.name: WorkerReport() for worker in workers})
        self._events: queue.SimpleQueue[tuple[Post, str, Any]] = queue.SimpleQueue()
        self._posts = [Post(worker, self._events) for worker in workers]
        self._source: Iterator[Task] = iter(())
        self._pending: deque[Job] = deque()
        self._threads = [
            threading.Thread(target=post.serve, name=post.worker.name, daemon=True) for post in self._posts
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect from all workers; what runs there ends at once."""
        for post in self._posts:
            post.state = "retired"
            post.orders.put("end")
        closers = [threading.Thread(target=post.worker.close, daemon=True) for post in self._posts]
        for thread in closers:
            thread.start()
        for thread in (*closers, *self._threads):
            thread.join(timeout=10)

    def execute(
        self,
        tasks: Sequence[Task],
        on_record: Callable[[Measurement], None],
        on_failure: Callable[[Task, Exception], None],
    ) -> None:
        """Run tasks as `run_campaign` asks for; errors name the board. Raises what `run` does."""

        def failed(task: Task, error: Exception, worker: str) -> None:
            on_failure(task, type(error)(f"{worker}: {error}"))

        self.run(tasks, lambda *_: None, failed, on_record=lambda _, record, __: on_record(record))

    def run(
        self,
        tasks: Iterable[Task],
        on_result: Callable[[Task, list[Measurement], str], None],
        on_failure: Callable[[Task, Exception, str], None],
        *,
        on_record: Callable[[Task, Measurement, str], None] | None = None,
    ) -> FleetReport:
        """Run tasks until all are done or have failed; see `run_fleet`. After an exception the fleet is closed."""
        self._source, self._pending = iter(tasks), deque()
        self._on_result, self._on_failure, self._on_record = on_result, on_failure, on_record
        try:
            while self._dispatch():
                due = [post.due_s for post in self._posts if post.state == "down" and self._find(post) is not None]
                wait_s = max(0.0, min(due) - time.monotonic()) if due else None
                try:
                    event = self._events.get(timeout=wait_s)
                except queue.Empty:
                    continue
                self._handle(*event)
            if self._pending:
                raise self._stuck()
        except KeyboardInterrupt:
            self.close()
            self._keep_what_came()
            raise
        except BaseException:
            self.close()
            raise
        return self.report

    def _find(self, post: Post) -> Job | None:
        """The next task that fits a worker, left in the queue; reads on in `tasks` until there is one."""
        for job in self._pending:
            if post.takes(job):
                return job
        for task in self._source:
            job = Job(task)
            self._pending.append(job)
            if post.takes(job):
                return job
        return None

    def _dispatch(self) -> bool:
        """Give work to the free and wake those that are due; False when nothing more can happen."""
        self._give_up_failed()
        hope = False
        for post in self._posts:
            if post.state == "idle" and (job := self._find(post)) is not None:
                self._pending.remove(job)
                post.state, post.job = "busy", job
                left = remaining_points(job.task, job.records)
                mode = job.task.power_mode or post.worker.power_mode
                post.orders.put(replace(job.task, points=left, power_mode=mode))
            elif post.state == "down" and self._find(post) is not None:
                hope = True
                if time.monotonic() >= post.due_s:
                    post.state = "waiting"
                    post.orders.put("start")
            hope = hope or post.state in ("busy", "waiting")
        return hope

    def _handle(self, post: Post, kind: str, value: Any) -> None:
        name, job = post.worker.name, post.job
        if kind == "ready":
            post.state = "idle"
        elif kind == "record":
            assert job is not None
            self._record(post, value)
        elif kind == "done":
            assert job is not None
            self._done(post, job)
        elif isinstance(value, WorkerLost):
            self._lost(post, value)
        elif isinstance(value, CodesignError) and job is not None:
            post.state, post.job = "idle", None
            if isinstance(value, MissingExtraError):  # the board's fault: others may take the task
                post.lacks.add(job.task.engine)
                post.trouble = str(value)
                _LOG.warning("%s takes no more tasks for %s: %s", name, job.task.engine, value)
            else:
                post.attempts = 0
                job.error = value
                job.failed_on.append(post)
            self._pending.appendleft(job)
        elif isinstance(value, CodesignError):
            self._lost(post, WorkerLost(str(value), permanent=True))
        else:
            raise value

    def _record(self, post: Post, record: Measurement) -> None:
        assert post.job is not None
        post.job.records.append(record)
        self.report.records += 1
        self.report.of(post.worker.name).records += 1
        if self._on_record is not None:
            self._on_record(post.job.task, record, post.worker.name)

    def _done(self, post: Post, job: Job) -> None:
        post.state, post.job, post.attempts = "idle", None, 0
        self.report.done += 1
        self.report.of(post.worker.name).tasks += 1
        self._on_result(job.task, job.records, post.worker.name)

    def _lost(self, post: Post, error: WorkerLost) -> None:
        job, name = post.job, post.worker.name
        row = self.report.of(name)
        post.job, post.trouble = None, str(error)
        post.attempts += 1
        row.losses += 1
        if error.permanent or post.attempts > self.reconnects:
            post.state = "retired"
            row.retired = str(error)
            _LOG.warning("%s is given up: %s", name, error)
        else:
            wait_s = min(_LONGEST_WAIT_S, self.backoff_s * 2 ** (post.attempts - 1))
            post.state, post.due_s = "down", time.monotonic() + wait_s
            _LOG.warning("%s: %s. Its work goes to others; tried again in %.3g s", name, error, wait_s)
        if job is None:
            return
        if not remaining_points(job.task, job.records):  # only the closing line was lost
            self.report.done += 1
            row.tasks += 1
            self._on_result(job.task, job.records, name)
            return
        job.losses += 1
        if job.losses >= self.losses:
            why = f"{job.losses} links broke while this task ran, the last with: {error}"
            self._fail(job, MeasurementError(f"{why}. It may take the boards down: try a smaller model"), name)
        else:
            self._pending.appendleft(job)

    def _give_up_failed(self) -> None:
        """Fail the tasks that failed by their own fault and that may go nowhere else."""
        for job in [job for job in self._pending if job.error is not None]:
            if len(job.failed_on) > self.retries or not any(post.takes(job) for post in self._posts):
                assert job.error is not None
                self._pending.remove(job)
                self._fail(job, job.error, job.failed_on[-1].worker.name)

    def _fail(self, job: Job, error: CodesignError, name: str) -> None:
        self._keep(job, name)
        self.report.failed += 1
        self._on_failure(job.task, error, name)

    def _keep(self, job: Job, name: str) -> None:
        """Hand over the records of a task that will not be finished."""
        if job.records:
            left = Counter(remaining_points(job.task, job.records))
            have = tuple((Counter(job.task.points) - left).elements())  # none, where all are of shallower models
            self._on_result(replace(job.task, points=have or job.task.points), job.records, name)

    def _keep_what_came(self) -> None:
        while not self._events.empty():
            post, kind, value = self._events.get()
            if kind == "record":
                self._record(post, value)
            elif kind == "done" and post.job is not None:
                self._done(post, post.job)
        for post in self._posts:
            if post.job is not None:
                self._pending.append(post.job)
                post.job = None
        for job in self._pending:
            self._keep(job, "-")

    def _stuck(self) -> MeasurementError:
        for job in self._pending:
            self._keep(job, "-")
        remain = len(self._pending) + sum(1 for _ in self._source)
        why = {post.worker.name: post.trouble or _binding(post.worker) for post in self._posts}
        asked = sorted({job.task.device for job in self._pending})
        return MeasurementError(
            f"{remain} task(s) for {', '.join(asked)} remain and no board can take them ({_listed(why)}). What was measured "
            "is kept: run the same command again when a board is back, and it goes on from here"
        )


def run_fleet(
    workers: Sequence[Worker],
    tasks: Iterable[Task],
    on_result: Callable[[Task, list[Measurement], str], None],
    on_failure: Callable[[Task, Exception, str], None],
    *,
    on_record: Callable[[Task, Measurement, str], None] | None = None,
    **options: Any,
) -> FleetReport:
    """Run tasks on workers until all are done or have failed, and disconnect.

    All callbacks run in the calling thread, one at a time; what they raise ends the fleet and is raised here.

    Args:
        workers: boards.
        tasks: read lazily, in the calling thread, as workers become free; the iterator must not wait for results.
        on_result: called once for each task that is done, with all its records (some may have come from a board that
            dropped out before the task was finished elsewhere) and the name of the worker that finished it.
        on_failure: called once for each task that is given up, with its last error and the worker that raised it.
            Records that it made before are handed to `on_result` first, with the task cut down to their points.
        on_record: called once for each record, at the moment it arrives: the place to make it durable.
        options: of `Fleet`.

    Raises:
        SpecError: no workers.
        MeasurementError: tasks are left and no worker can take them.
        KeyboardInterrupt: after Ctrl-C; workers are disconnected and records that had arrived are handed over.
    """
    with Fleet(workers, **options) as fleet:
        return fleet.run(tasks, on_result, on_failure, on_record=on_record)


def _binding(worker: Worker) -> str:
    mode = f" at {worker.power_mode}" if worker.power_mode else ""
    return f"takes tasks of {worker.device or 'any device'}{mode}"


def _listed(why: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {text.rstrip('.')}" for name, text in why.items())
