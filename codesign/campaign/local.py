"""Running a campaign's tasks in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codesign.campaign.agent import board_lock
from codesign.errors import CodesignError, EngineLostError
from codesign.measurement import Measurement
from codesign.profilers import Engine, Task
from codesign.profilers.measure import run_task

__all__ = ["run_here"]


class _RecordLost(Exception):
    """Keeping a record failed: that ends the campaign, unlike a model that fails."""


def run_here(
    engine: Engine,
) -> Callable[[Sequence[Task], Callable[[Measurement], None], Callable[[Task, Exception], None]], None]:
    """An executor for `run_campaign` that runs each task with this engine, one at a time, alone on the machine.

    A task that fails by an error of codesign is reported and the next one runs; an error in keeping a record ends all, and so does
    an engine that can run nothing more.
    """

    def execute(
        tasks: Sequence[Task],
        on_record: Callable[[Measurement], None],
        on_failure: Callable[[Task, Exception], None],
    ) -> None:
        def keep(record: Measurement) -> None:
            try:
                on_record(record)
            except Exception as error:
                raise _RecordLost from error

        for task in tasks:
            try:
                with board_lock(wait_s=600.0):
                    run_task(task, on_record=keep, engine=engine)
            except _RecordLost as lost:
                cause = lost.__cause__
                assert cause is not None
                raise cause from None
            except EngineLostError:
                raise
            except CodesignError as error:
                on_failure(task, error)

    return execute
