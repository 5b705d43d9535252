"""What a fleet needs of a place that runs tasks, and what it reports of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from codesign import errors
from codesign.errors import CodesignError, MeasurementError
from codesign.measurement import Measurement
from codesign.profilers.base import Point, Task

__all__ = [
    "FleetReport",
    "OnRecord",
    "Worker",
    "WorkerLost",
    "WorkerReport",
    "rebuilt_error",
    "remaining_points",
    "told_error",
]

OnRecord = Callable[[Measurement], None]


class WorkerLost(MeasurementError):
    """The link to a worker broke, or could not be made; says nothing against the task that ran there.

    permanent: trying again cannot help (wrong key, no codesign there, another version).
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class Worker(Protocol):
    """A place that runs tasks, one at a time.

    name: of the board, for people (where another scheduler chooses the board: of the one that ran the last task);
    device, power_mode: it takes only tasks of these (None: of any).
    """

    name: str
    device: str | None
    power_mode: str | None

    def start(self) -> None:
        """Connect, or connect again.

        Raises:
            WorkerLost: it cannot be reached.
        """
        ...

    def run(self, task: Task, on_record: OnRecord) -> None:
        """Run a task to its end; every record goes through `on_record` as soon as it arrives.

        Raises:
            WorkerLost: the link broke.
            CodesignError: the task failed there by its own fault.
        """
        ...

    def close(self) -> None:
        """Disconnect; may be called from another thread while `start` or `run` waits, and makes them raise WorkerLost."""
        ...


@dataclass(slots=True)
class WorkerReport:
    """What one board did: tasks finished, records that came, how often its link broke, and why it was given up (or "")."""

    tasks: int = 0
    records: int = 0
    losses: int = 0
    retired: str = ""


@dataclass(slots=True)
class FleetReport:
    """What a fleet did: tasks done and failed, records, and the same by worker."""

    done: int = 0
    failed: int = 0
    records: int = 0
    workers: dict[str, WorkerReport] = field(default_factory=dict)

    def of(self, name: str) -> WorkerReport:
        """The row of a worker."""
        return self.workers.setdefault(name, WorkerReport())


def remaining_points(task: Task, records: Iterable[Measurement]) -> tuple[Point, ...]:
    """The points of a task that no record answers yet, in order. Records of shallower models (`Task.depths`) answer none."""
    whole = [m for m in records if m.architecture == task.architecture]
    have = Counter((m.phase, m.batch_size, m.tokens, m.context_tokens) for m in whole)
    left = []
    for point in task.points:
        key = (point.phase, point.batch_size, point.tokens, point.context_tokens)
        if have[key] > 0:
            have[key] -= 1
        else:
            left.append(point)
    return tuple(left)


def told_error(error: BaseException) -> dict[str, str]:
    """An error as plain values, on one line."""
    return {"type": type(error).__name__, "message": " ".join(str(error).split())}


def rebuilt_error(told: Mapping[str, str]) -> CodesignError:
    """The error of `told_error`, of its own class where it is one of codesign's, else a MeasurementError that names it.

    Example:
        >>> rebuilt_error({"type": "SpecError", "message": "no"}), rebuilt_error({"type": "KeyError", "message": "'a'"})
        (SpecError('no'), MeasurementError("KeyError: 'a'"))
    """
    kind, text = told.get("type", ""), told.get("message", "")
    found = getattr(errors, kind, None) if kind in errors.__all__ else None
    if isinstance(found, type) and issubclass(found, CodesignError):
        return found(text)
    return MeasurementError(f"{kind}: {text}" if text else kind)
