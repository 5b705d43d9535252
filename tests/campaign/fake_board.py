"""The agent as a board would run it, with a made-up engine: `python fake_board.py FOLDER [silent|old]`.

FOLDER is the board's: its pid is written there, and what is in it says how the engine behaves.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fleet_tasks import record

from codesign.campaign import agent
from codesign.errors import MeasurementError
from codesign.measurement import Measurement
from codesign.profilers.base import Task

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else ".")


def run_task(task: Task, *, on_record: Callable[[Measurement], None]) -> None:
    print("an engine prints here")
    os.write(1, b"and here, past Python\n")
    subprocess.run(["sh", "-c", "echo and its children; cat"], check=True, timeout=5)
    layers = task.architecture.n_layers
    with (FOLDER / "ran").open("a") as log:
        log.write(f"{layers} {len(task.points)}\n")
    if layers > 50:
        raise MeasurementError(f"{layers} layers do not fit {FOLDER.name}")
    if layers == 50:
        raise ValueError("engine\ncrashed")
    for point in task.points:
        on_record(record(task, point, host={"name": FOLDER.name}))
        if (FOLDER / "hang").exists():
            (FOLDER / "hanging").touch()
            time.sleep(60)
        time.sleep(0.02)


if __name__ == "__main__":
    how = sys.argv[2] if len(sys.argv) > 2 else ""
    if how == "old":
        agent.agent_version = lambda: "0.0.1"
    (FOLDER / "pid").write_text(str(os.getpid()))
    raise SystemExit(agent.run_agent(run_task, heartbeat_s=60 if how == "silent" else 0.2, silence_s=15))
