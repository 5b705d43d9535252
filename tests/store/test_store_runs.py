"""Training runs in the store, on SQLite and PostgreSQL."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from run_records import RECIPE, run
from store_records import TINY, record

from codesign.errors import MeasurementError, SchemaError, SpecError
from codesign.store import RUN_COLUMNS, RunSet, Store, read_runs_jsonl, run_rows, runs_csv, runs_to_jsonl, schema
from codesign.training_run import CurvePoint, TrainingRun

STOPPED = run(2, status="stopped", reason="worse than half of the others")
DIVERGED = run(
    3,
    width=96,
    status="diverged",
    reason="loss is nan",
    curve=(CurvePoint(step=3, tokens=1536, train_loss=math.nan, lr=1e-3, seconds=0.3),),
)


def test_a_run_comes_back_as_it_was(place: str) -> None:
    with Store(place) as store:
        numbers = [store.add_run(each) for each in (run(), DIVERGED)]
        store.add(record())
    with Store(place, create=False) as store:
        assert store.find_runs() == [run(), DIVERGED] and len(set(numbers)) == 2
        assert store.find_runs()[0].loss == 0.1 + 0.2  # to the last bit
        assert math.isnan(store.find_runs()[1].curve[0].train_loss) and store.find() == [record()]


def test_of_one_experiment_the_record_that_got_furthest_is_kept(place: str) -> None:
    later = replace(run(2), created_at="2026-11-22T11:00:00+00:00")
    history = [
        (run(2), run(2)),  # first
        (run(2), run(2)),  # the same again
        (later, later),  # as far, but later
        (run(2), later),
        (STOPPED, STOPPED),  # as far, but no longer running
        (later, STOPPED),
        (run(1), STOPPED),  # a late record of a worker that was lost
        (run(4), run(4)),  # it went on after all
        (run(8), run(8)),
        (run(4), run(8)),
        (STOPPED, run(8)),
    ]
    with Store(place) as store:
        number = store.add_run(run(8, width=128))
        numbers = set()
        for given, kept in history:
            numbers.add(store.add_run(given))
            assert store.find_runs(architecture=TINY) == [kept]
        assert len(numbers) == 1 and number not in numbers
        assert store.find_runs() == [run(8, width=128), run(8)]
        assert store.find_runs(status="finished", key=run().key) == [run(8)] and not store.find_runs(status="stopped")


def test_add_runs_counts_what_was_new_and_adds_all_or_none(place: str) -> None:
    with Store(place) as store:
        store.add_run(run(4))
        assert store.add_runs([run(8), run(8), run(4), run(2, width=96)]) == 2
        with pytest.raises(MeasurementError, match="cannot be recorded"):
            store.add_runs([run(8, width=32), run(8, width=160, campaign="a\0b")])
        with pytest.raises(MeasurementError, match="noon"):
            store.add_run(run(created_at="noon"))
        assert store.find_runs() == [run(8), run(2, width=96)]


def test_every_filter_of_runs(place: str) -> None:
    kinds = [
        run(),
        run(campaign="second", recipe=replace(RECIPE, seed=1)),
        run(data="corpus", data_digest="d2"),
        run(tokenizer="byte", bytes_per_token=1.0),
        DIVERGED,
        run(1, recipe=replace(RECIPE, lr=1e-3), created_at=""),
    ]
    with Store(place) as store:
        assert store.find_runs() == [] and store.run_sets() == []
        store.add_runs(kinds)

        def found(**conditions: object) -> list[int]:
            return [kinds.index(each) for each in store.find_runs(**conditions)]  # type: ignore[arg-type]

        assert found() == [0, 1, 2, 3, 4, 5] and found(campaign="second") == [1]
        assert found(data="corpus") == found(data_digest="d2") == [2] and found(tokenizer=["byte", "none"]) == [3]
        assert found(status=("diverged", "running")) == [4, 5] and found(key=kinds[3].key) == [3]
        assert found(architecture=TINY.evolve(family="qwen3")) == [0, 1, 2, 3, 5]
        assert found(since="2026-11-22T09:00:00Z") == [0, 1, 2, 3, 4] and found(since="2026-11-23") == []
        assert found(campaign="first", status="finished", tokenizer="bpe-4096") == [0, 2]
        with pytest.raises(SpecError, match="yesterday"):
            store.find_runs(since="yesterday")
        shared = {"data": "stdlib", "data_digest": "d1", "tokenizer": "bpe-4096"}
        assert store.run_sets()[:2] == [
            RunSet(campaign="first", status="finished", runs=1, **shared),
            RunSet(campaign="second", status="finished", runs=1, **shared),
        ]
        assert sum(each.runs for each in store.run_sets()) == 6 and store.campaigns() == []


WRITER = """
import sys
sys.path.insert(0, {here!r})
from run_records import run
from codesign.store import Store
with Store({place!r}) as store:
    for steps in range(1, 9):
        for width in (32, 64, 96):
            store.add_run(run(steps if sys.argv[1] == "up" else 9 - steps, width=width))
"""


def test_several_processes_tell_of_the_same_runs(place: str) -> None:
    script = WRITER.format(here=str(Path(__file__).parent), place=place)
    orders = ("up", "down", "up", "down")
    processes = [
        subprocess.Popen([sys.executable, "-c", script, order], text=True, stderr=subprocess.PIPE) for order in orders
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    with Store(place, create=False) as store:
        assert sorted(each.architecture.d_model for each in store.find_runs()) == [32, 64, 96]
        assert {each.status for each in store.find_runs()} == {"finished"}


def make_version_1(place: str) -> None:
    """A store as the first release left it: no table of runs."""
    with Store(place) as store:
        store.add_all(record(n) for n in (3, 1, 2))
        with store._engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE codesign_training_runs")
            connection.exec_driver_sql("UPDATE codesign_schema SET version = 1")


def test_a_store_of_version_1_is_migrated(place: str) -> None:
    make_version_1(place)
    with Store(place, create=False) as store:  # opened to read, too
        assert store.find() == [record(3), record(1), record(2)] and store.find_runs() == []
        store.add_run(run())
        with store._engine.begin() as connection:
            assert schema.read_version(connection) == schema.VERSION == 2
            names = {index["name"] for index in sqlalchemy.inspect(connection).get_indexes("codesign_training_runs")}
    assert any("data_digest" in str(name) for name in names)
    with Store(place, create=False) as store:
        assert store.find_runs() == [run()] and store.count() == 3


def test_a_migration_that_fails_leaves_version_1(place: str) -> None:
    make_version_1(place)
    engine = sqlalchemy.create_engine(place if "://" in place else f"sqlite:///{place}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE codesign_training_runs (id INTEGER)")  # in its way
    with pytest.raises((SchemaError, MeasurementError), match="codesign_training_runs"):
        Store(place)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT version FROM codesign_schema").scalar() == 1
        assert connection.exec_driver_sql("SELECT count(*) FROM codesign_measurements").scalar() == 3
    engine.dispose()


def test_a_record_that_cannot_be_read_is_named(place: str) -> None:
    with Store(place) as store:
        store.add_run(run())
        with store._engine.begin() as connection:
            broken = json.dumps({**run().to_dict(), "mood": "good"})
            connection.execute(sqlalchemy.text("UPDATE codesign_training_runs SET record = :r"), {"r": broken})
        with pytest.raises(SchemaError, match=r"training run 1 of the store .* unknown training run field\(s\) mood"):
            store.find_runs()


def test_jsonl_of_runs() -> None:
    lines = list(runs_to_jsonl([run(), DIVERGED]))
    assert lines[0] == '{"schema": "codesign.training_runs", "version": 1}\n'
    assert read_runs_jsonl(lines, "runs.jsonl") == [run(), DIVERGED]
    for bad, said in (
        (
            lines[1:],
            "does not begin with a header of codesign.training_runs; give what 'codesign train --export FILE.jsonl' wrote",
        ),
        (['{"schema": "codesign.measurements", "version": 1}'], "does not begin with a header"),
        ([lines[0].replace("1", "2")], "has version 2; allowed: up to 1"),
        ([*lines[:2], lines[2][:80]], "line 3: no whole record"),
    ):
        with pytest.raises(SchemaError, match=said):
            read_runs_jsonl(bad, "runs.jsonl")


def test_csv_of_runs_has_the_columns_of_published_losses() -> None:
    mixture = TINY.evolve(n_experts=8, n_active_experts=2, d_ff_expert=64, d_ff=0)
    runs = [run(), STOPPED, DIVERGED, run(architecture=mixture)]
    rows = list(csv.DictReader(io.StringIO(runs_csv(runs))))
    assert rows == run_rows(runs) and tuple(rows[0]) == RUN_COLUMNS
    first, stopped, diverged, moe = rows
    assert float(first["loss"]) == 0.1 + 0.2 and first["dataset_id"] == "stdlib-bpe-4096" and first["vocab"] == "100"
    assert int(first["params_nonembed_active"]) == TINY.params_active_nonembedding and first["n_experts"] == ""
    assert (stopped["loss"], stopped["status"], float(stopped["last_valid_loss"])) == ("", "stopped", 2.55)
    assert math.isnan(float(diverged["loss"])) and diverged["last_valid_loss"] == ""
    assert (moe["arch"], moe["n_experts"], moe["top_k"], moe["d_ff"]) == ("moe", "8", "2", "")


def test_published_losses_have_these_columns() -> None:
    path = Path(__file__).parents[2] / "../shared/data/loss/gemstones.csv"
    if not path.is_file():
        pytest.skip(f"no published losses at {path}")
    with path.open(encoding="utf-8") as file:
        published = next(csv.reader(file))
    assert [name for name in published if name in RUN_COLUMNS] == list(RUN_COLUMNS[:30])


def test_the_key_tells_experiments_apart() -> None:
    """What the store folds by: the same model, recipe, text and tokenizer, wherever and whenever it ran."""
    same = run(3, campaign="other", host={}, torch_version="", created_at="", data="renamed")
    assert same.key == run().key
    others = [run(width=32), run(recipe=replace(RECIPE, seed=7)), run(data_digest="d2"), run(tokenizer="byte")]
    assert len({run().key, *(other.key for other in others)}) == 5
    assert TrainingRun.from_dict(run().to_dict()) == run()
