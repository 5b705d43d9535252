"""One run of a campaign as a task that any process can do, and what its folder tells while it is under way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codesign.errors import MeasurementError
from codesign.training.spec import RunSpec
from codesign.training_run import CurvePoint, TrainingRun

__all__ = ["Execute", "OnFailure", "OnRun", "TrainingTask", "last_step", "run_task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask:
    """Train `spec` in `folder` up to the share `until` of its steps, going on from the checkpoint there.

    root: the folder of all runs, which must be there already: where it is missing, this machine does not see the storage.
    wait_s: for another process that trains in the folder.
    """

    spec: RunSpec
    folder: str
    root: str
    until: float = 1.0
    wait_s: float = 60.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {"spec": self.spec.to_dict(), "folder": self.folder, "root": self.root, "until": self.until, "wait_s": self.wait_s}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingTask:
        """Build from `to_dict`'s output."""
        return cls(**{**data, "spec": RunSpec.from_dict(data["spec"])})


OnRun = Callable[[TrainingTask, TrainingRun], None]
OnFailure = Callable[[TrainingTask, Exception], None]
#: Runs tasks, here or elsewhere; calls back with the run of each as it ends, or with what went wrong.
Execute = Callable[[Sequence[TrainingTask], OnRun, OnFailure], None]


def run_task(task: TrainingTask, check: Callable[[], None] | None = None) -> TrainingRun:
    """Do it in this process. `check` is called now and then; it raises, or ends the process, where nobody waits for the run.

    Raises:
        MeasurementError: this machine does not see the folder of the runs, or memory ran out.
        CodesignError: as `codesign.training.loop.train`.
    """
    from codesign.training.loop import train

    if not Path(task.root).is_dir():
        raise MeasurementError(
            f"there is no folder {task.root} on this machine; --checkpoints must be on storage that all workers see"
        )

    def progressed(_: CurvePoint) -> None:
        if check is not None:
            check()

    return train(task.spec, task.folder, until=task.until, on_progress=progressed, wait_s=task.wait_s)


def last_step(folder: str | Path) -> int:
    """The last step in a run's curve so far; 0 where there is none. Any process that sees the folder may ask."""
    try:
        with (Path(folder) / "curve.jsonl").open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - 2048, 0))
            lines = file.read().split(b"\n")[:-1]  # what follows the last line end is still being written
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
