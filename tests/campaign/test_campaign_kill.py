"""A real campaign is interrupted, then killed with SIGKILL, then finished by the same command: nothing recorded is lost."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from command_line import SHORT, codesign, command, environment, write_models

from codesign.measurement import Measurement

pytest.importorskip("onnxruntime")
pytest.importorskip("sqlalchemy")

MODELS = 4
PASSES = 4  # prefill of 16 and 4 tokens, decode at two contexts


def stopped(arguments: list[str], home: Path, how: signal.Signals, records: int) -> tuple[int, str]:
    """Run until the store holds so many records, then stop the process."""
    process = subprocess.Popen(
        command(*arguments), cwd=home, env=environment(home), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        end = time.monotonic() + 90
        while count(home) < records and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in errors, errors
    return process.returncode, errors


def count(home: Path) -> int:
    try:
        with sqlite3.connect(f"file:{home}/measurements.sqlite?mode=ro", uri=True, timeout=5) as connection:
            return int(connection.execute("SELECT count(*) FROM codesign_measurements").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return 0


def found(home: Path) -> list[Measurement]:
    from codesign.store import Store

    with Store(home / "measurements.sqlite", create=False) as store:
        return store.find()


def visits(records: list[Measurement]) -> Counter[int]:
    """Whole visits by the model's depth."""
    each = Counter((m.architecture.n_layers, m.phase, m.tokens, m.context_tokens) for m in records)
    depths = {key[0] for key in each}
    return Counter(
        {
            n: min(c for k, c in each.items() if k[0] == n) if sum(k[0] == n for k in each) == PASSES else 0
            for n in depths
        }
    )


def test_a_killed_campaign_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    names = write_models(tmp_path, MODELS)
    arguments = ["profile", "--device", "host", "--models", ",".join(names), "--visits", "1", *SHORT]
    code, errors = stopped(arguments, tmp_path, signal.SIGINT, 1)
    first = found(tmp_path)
    assert (code, errors) == (130, "interrupted; the same command goes on from what is done\n") and 1 <= len(
        first
    ) < MODELS * PASSES
    code, _ = stopped(arguments, tmp_path, signal.SIGKILL, len(first) + 1)
    second = found(tmp_path)
    assert code == -signal.SIGKILL and len(first) < len(second) < MODELS * PASSES
    assert second[: len(first)] == first
    done = codesign(tmp_path, *arguments)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    third = found(tmp_path)
    assert third[: len(second)] == second  # to the last bit
    assert visits(third) == dict.fromkeys(range(1, MODELS + 1), 1)  # every model once, none of the whole visits again
    cut = len(second) - PASSES * sum(visits(second).values())
    assert len(third) == MODELS * PASSES + cut and f"{len(third) - len(second)} records added" in done.stdout
    again = codesign(tmp_path, *arguments)
    assert "0 records added" in again.stdout and "nothing was missing" in again.stdout and found(tmp_path) == third
