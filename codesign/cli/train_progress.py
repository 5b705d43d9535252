"""How far a training campaign is: a bar on a terminal, else a line a run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codesign.campaign.training_campaign import TrainingCampaign, TrainingProgress

__all__ = ["progress"]


@contextmanager
def progress(campaign: TrainingCampaign, quiet: bool) -> Iterator[Callable[[TrainingProgress], None] | None]:
    """Shows what happens, on stderr; the bar counts the FLOP of runs under way too, read from their folders."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(campaign) as show:
            yield show
    else:
        yield _line


def _line(p: TrainingProgress) -> None:
    if p.label != "starting":
        print(f"[{p.done}/{p.total}] {p.label}", file=sys.stderr, flush=True)


@contextmanager
def _bar(campaign: TrainingCampaign) -> Iterator[Callable[[TrainingProgress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from codesign.campaign.training_task import last_step

    columns = (
        TextColumn("{task.fields[done]} of {task.fields[total_runs]} runs"), BarColumn(), TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    experiments, ended = campaign.experiments, threading.Event()

    def flop_done() -> float:
        return sum(e.flop * last_step(campaign.run_folder(e)) / e.spec.recipe.steps for e in experiments)

    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task("starting", total=sum(e.flop for e in experiments), done=0, total_runs=len(experiments))

        def watch() -> None:
            while not ended.wait(2.0):
                bar.update(task, completed=flop_done())

        def show(p: TrainingProgress) -> None:
            bar.update(task, completed=flop_done(), description=p.label, done=p.done, total_runs=p.total)
            if p.label != "starting":
                bar.console.print(f"[{p.done}/{p.total}] {p.label}", markup=False, highlight=False)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield show
        finally:
            ended.set()
            watcher.join()
