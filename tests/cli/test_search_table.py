"""`codesign search --table` as people type it: ask, fill in, ask again, done; a replay; and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command_line import codesign

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
from table_files import COST, QUALITY, accuracy_of, load, save, write_table

pytest.importorskip("gpytorch")
pytest.importorskip("xgboost")

ASK = (
    "search",
    "--table",
    "mine.csv",
    "--quality",
    f"{QUALITY}:max",
    "--cost",
    COST,
    "--batch-size",
    "12",
    "--out",
    "run",
)


def test_ask_fill_ask_again_until_done(tmp_path: Path) -> None:
    """A first batch that covers the table, then one that gains; answers in ask.csv or in the table; nothing is asked twice."""
    rows = write_table(tmp_path / "mine.csv")
    done = codesign(tmp_path, *ASK, "--no-plot")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "0 trained row(s) that count are too few to predict from, 8 are needed: run/ask.csv has 12" in done.stdout
    asked = load(tmp_path / "run" / "ask.csv")
    assert len(asked) == 12 and "predicted" not in asked[0]
    first = {row["name"] for row in asked}
    for row in asked:
        row[QUALITY] = f"{accuracy_of(row):.3f}"
    asked[0][QUALITY] = "nan"  # this one came to nothing
    save(tmp_path / "run" / "ask.csv", asked)

    done = codesign(tmp_path, *ASK)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for text in (
        "expected to raise the hypervolume found by",
        "predicted by: ",
        "CRPS",
        "frontier.csv",
        f"{QUALITY} (max)",
        "that do not count",
    ):
        assert text in done.stdout, text
    again = load(tmp_path / "run" / "ask.csv")
    assert len(again) == 12 and not first & {row["name"] for row in again}
    assert all(float(row["low90"]) < float(row["predicted"]) < float(row["high90"]) for row in again)
    assert len(load(tmp_path / "run" / "asked.csv")) == 12 and len(load(tmp_path / "run" / "predictions.csv")) == 48
    assert (tmp_path / "run" / "pareto.png").stat().st_size > 10_000
    head, *found = [json.loads(line) for line in (tmp_path / "run" / "frontier.jsonl").read_text().splitlines()]
    assert head["schema"] == "codesign.table_frontier" and head["mode"] == "ask" and head["trained"] == 12
    assert found and all(one["cells"]["name"] in first for one in found)
    assert [one["costs"][COST] for one in found] == sorted(one["costs"][COST] for one in found)

    same = codesign(tmp_path, *ASK, "--no-plot")  # nothing new: the same question
    assert same.returncode == 0
    assert [row["name"] for row in load(tmp_path / "run" / "ask.csv")] == [row["name"] for row in again]

    failed = asked[0]["name"]
    for row in rows:  # the rest is filled into the table itself
        row[QUALITY] = "nan" if row["name"] == failed else f"{accuracy_of(row):.3f}"
    save(tmp_path / "mine.csv", rows)
    done = codesign(tmp_path, *ASK, "--no-plot")
    assert done.returncode == 0 and f"done: every usable row of 'mine.csv' has its {QUALITY}" in done.stdout
    assert not (tmp_path / "run" / "ask.csv").exists()


def test_a_replay_says_how_good_the_search_is(tmp_path: Path) -> None:
    rows = write_table(tmp_path / "mine.csv", 80, answered=None)
    for row in rows:
        row["validation"] = f"{float(row[QUALITY]) + 0.1:.3f}"
    rows[3][COST] = "nan"
    save(tmp_path / "mine.csv", rows)
    command = ("search", "--table", "mine.csv", "--quality", f"{QUALITY}:max", "--cost", COST, "--evaluations", "30", "--min",
               f"{COST}=1.5", "--no-plot")  # fmt: skip
    done = codesign(tmp_path, *command, "--features", "depth,width,op")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for text in ("after    30 trainings", "at random", "rows of the true front that were asked", "1 rows (no number in latency_ms)",
                 "latency_ms below 1.5", "features: depth, width, op"):  # fmt: skip
        assert text in done.stdout, text
    (folder,) = (tmp_path / "results").iterdir()
    head = json.loads((folder / "frontier.jsonl").read_text().splitlines()[0])
    assert head["mode"] == "replay" and head["regret"]["30"] < head["regret_random_mean_of_20"]["30"]
    assert len(load(folder / "asked.csv")) == 30 and not (folder / "ask.csv").exists()

    leaked = codesign(tmp_path, *command[:-3], "--no-plot", "--evaluations", "8")
    assert leaked.returncode == 0 and "warning: validation rank the rows nearly as accuracy does" in leaked.stderr


REFUSED = {
    "no such file": (("--table", "none.csv", "--quality", "a:max", "--cost", "b"), "no file 'none.csv'"),
    "no quality": (("--table", "mine.csv", "--cost", COST), "--table needs --quality"),
    "no cost": (("--table", "mine.csv", "--quality", "accuracy:max"), "one or two --cost columns, 0 given"),
    "misspelt": (("--table", "mine.csv", "--quality", "acuracy:max", "--cost", COST), "did you mean 'accuracy'?"),
    "direction": (("--table", "mine.csv", "--quality", "accuracy:more", "--cost", COST), "needs a direction"),
    "too many": ((*ASK[1:7], "--evaluations", "20"), "accuracy is empty in 60 of 60 usable rows"),
    "no evaluations": ((*ASK[1:7], "--evaluations", "0"), "--evaluations 0 must be at least 1"),
    "no batch": ((*ASK[1:7], "--batch-size", "0"), "--batch-size 0 must be at least 1"),
    "a device's options": ((*ASK[1:7], "--latency", "20ms"), "--latency and --table do not go together"),
    "a feature": ((*ASK[1:7], "--features", "dept"), "did you mean 'depth'?"),
    "no folder": ((*ASK[1:7], "--out", "other"), "other exists and is not a run on a table"),
    "neither": (("--latency", "20ms"), "--table FILE"),
}


@pytest.mark.parametrize(("arguments", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    write_table(tmp_path / "mine.csv")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    done = codesign(tmp_path, "search", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert told in done.stderr, done.stderr
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_answers_that_cannot_be(tmp_path: Path) -> None:
    """A word, another value than the table's, a row that is gone, and a file that lost its columns: told, and nothing is lost."""
    rows = write_table(tmp_path / "mine.csv", 20)
    assert codesign(tmp_path, *ASK, "--no-plot").returncode == 0
    file = tmp_path / "run" / "ask.csv"
    asked = load(file)
    for row, (text, told) in zip(
        asked, {"good": "accuracy is 'good'; allowed: a number", "50": "correct one of them"}.items(), strict=False
    ):
        save(file, [{**row, QUALITY: text}])
        for one in rows:
            one[QUALITY] = "60" if one["name"] == row["name"] and text == "50" else ""
        save(tmp_path / "mine.csv", rows)
        done = codesign(tmp_path, *ASK, "--no-plot")
        assert done.returncode == 2 and told in done.stderr, done.stderr
        assert load(file)[0][QUALITY] == text
    save(file, [{**asked[0], QUALITY: "70"}])
    save(tmp_path / "mine.csv", [{**row, QUALITY: ""} for row in rows if row["name"] != asked[0]["name"]])
    assert "no usable row of 'mine.csv' has these cells any more" in codesign(tmp_path, *ASK, "--no-plot").stderr
    file.write_text("a,b\n1,2\n")
    assert "lost its column 'row_key'" in codesign(tmp_path, *ASK, "--no-plot").stderr


def test_a_refused_command_leaves_no_folder(tmp_path: Path) -> None:
    write_table(tmp_path / "mine.csv")
    refused = codesign(tmp_path, *ASK, "--evaluations", "20")
    assert refused.returncode == 2 and not (tmp_path / "run").exists()
