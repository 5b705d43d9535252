"""What a fleet keeps of each task and each worker."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from typing import Any, Literal

from codesign.campaign.fleet_worker import Worker
from codesign.errors import CodesignError
from codesign.measurement import Measurement
from codesign.profilers.base import Task

__all__ = ["Job", "Post"]


@dataclass(slots=True, eq=False)
class Job:
    """A task in the queue, the records that came, and on whom it failed."""

    task: Task
    records: list[Measurement] = field(default_factory=list)
    error: CodesignError | None = None
    failed_on: list[Post] = field(default_factory=list)
    losses: int = 0


@dataclass(slots=True, eq=False)
class Post:
    """A worker, its thread's orders, and what it does now."""

    worker: Worker
    events: queue.SimpleQueue[tuple[Post, str, Any]]
    orders: queue.SimpleQueue[Task | Literal["start", "end"]] = field(default_factory=queue.SimpleQueue)
    state: Literal["down", "waiting", "idle", "busy", "retired"] = "down"
    job: Job | None = None
    attempts: int = 0
    due_s: float = 0.0
    lacks: set[str] = field(default_factory=set)
    trouble: str = ""

    def serve(self) -> None:
        """The thread of this worker."""
        while (order := self.orders.get()) != "end":
            try:
                if order == "start":
                    self.worker.start()
                    self.events.put((self, "ready", None))
                elif isinstance(order, Task):
                    self.worker.run(order, lambda record: self.events.put((self, "record", record)))
                    self.events.put((self, "done", None))
            except BaseException as error:  # told to the caller's thread, which raises what it does not know
                self.events.put((self, "error", error))

    def takes(self, job: Job) -> bool:
        """Whether a task may go here."""
        w, t = self.worker, job.task
        return (
            self.state != "retired"
            and w.device in (None, t.device)
            and (w.power_mode is None or t.power_mode in (None, w.power_mode))
            and t.engine not in self.lacks
            and self not in job.failed_on
        )
