"""`codesign predictors` as a person types it: figures that ship, a table judged, rows predicted, a recipe, bad input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import codesign

from codesign.cli import main

pytest.importorskip("pandas")
pytest.importorskip("sklearn")
pytest.importorskip("gpytorch")
pytest.importorskip("xgboost")


def runs(shapes: int = 8, recipe: bool = False) -> list[dict[str, Any]]:
    """Runs of a known law: 1.7 + 5e2 / N^0.4 + 4e2 / D^0.3, and a bowl whose least is at lr 1e-3, batch 2^19."""
    rng, rows = np.random.default_rng(0), []
    for i in range(shapes):
        layers, width = 4 + 3 * (i % 4), 256 + 128 * i
        n = 12 * layers * width**2
        for tokens in (1e9, 2e9, 4e9, 8e9):
            for lr in (2.5e-4, 1e-3, 4e-3) if recipe else (1e-3,):
                for batch in (2**17, 2**19, 2**21) if recipe else (2**19,):
                    bowl = 0.01 * (np.log(lr / 1e-3) ** 2 + np.log(batch / 2**19) ** 2)
                    loss = 1.7 + 5e2 / n**0.4 + 4e2 / tokens**0.3 + bowl + 0.002 * rng.standard_normal()
                    rows.append({"dataset_id": "toy", "arch": "dense", "n_layers": layers, "d_model": width, "d_ff": 4 * width,
                                 "params_nonembed_active": n, "tokens": tokens, "lr": lr, "batch_tokens": batch, "loss": loss})  # fmt: skip
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("runs") / "runs.csv", runs())


def test_the_table_that_ships_names_who_is_in_use_for_each_question(tmp_path: Path) -> None:
    done = codesign(tmp_path, "predictors")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for word in ("question", "in use", "90 %", "--evaluate FILE.csv"):
        assert word in done.stdout
    found = json.loads(codesign(tmp_path, "predictors", "--json").stdout)
    assert {"question", "dataset", "split", "predictor", "mae", "coverage90", "share_chosen", "reason"} <= set(
        found["rows"][0]
    )
    everything = codesign(tmp_path, "predictors", "--all")
    assert len(everything.stdout.splitlines()) > len(done.stdout.splitlines())


def test_a_table_is_judged_on_rows_that_no_predictor_saw(tmp_path: Path, table: str) -> None:
    done = codesign(
        tmp_path, "predictors", "--evaluate", table, "--predictors", "gp,trees", "--folds", "3", "--out", "scores.csv"
    )
    assert done.returncode == 0, done.stderr
    assert "in use:" in done.stdout and "parameters alone" in done.stdout and "32 rows in 8 groups" in done.stdout
    scores = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [row["predictor"] for row in scores] == ["gp", "trees", "staged", "parameters alone"]
    assert float(scores[0]["relative"]) < 0.01
    assert all(int(row["n_test"]) == 32 for row in scores)


def test_the_largest_models_are_left_out_by_share(tmp_path: Path, table: str) -> None:
    done = codesign(
        tmp_path, "predictors", "--evaluate", table, "--predictors", "law", "--largest-out", "0.25", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    law = next(row for row in found["results"] if row["predictor"] == "law")
    assert (law["n_train"], law["n_test"]) == (24, 8)  # 2 of 8 groups of 4 rows


def test_rows_beyond_the_data_are_predicted_and_marked_and_rows_without_a_value_are_not(
    tmp_path: Path, table: str
) -> None:
    known = runs()[5]
    new = [known, {**known, "tokens": 5e11}, {**known, "d_model": ""}, {**known, "arch": "moe"}]
    unsaid = ("dataset_id", "lr", "batch_tokens", "loss")  # constant in the table, or what is asked
    path = write(tmp_path / "new.csv", [{k: v for k, v in row.items() if k not in unsaid} for row in new])
    done = codesign(
        tmp_path, "predictors", "--evaluate", table, "--predictors", "gp", "--predict", path, "--out", "out.csv"
    )
    assert done.returncode == 0, done.stderr
    assert "1 inside the data, 2 beyond it" in done.stdout and "1 not predicted" in done.stdout
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["where"] for row in rows] == ["inside", "beyond the data", "not predicted", "beyond the data"]
    assert (rows[1]["beyond"], rows[2]["beyond"], rows[3]["beyond"]) == ("tokens", "d_model is empty", "arch")
    assert rows[2]["predicted_loss"] == ""
    assert abs(float(rows[0]["predicted_loss"]) - known["loss"]) < 0.02
    assert float(rows[0]["low_90"]) < float(rows[0]["low_80"]) < float(rows[0]["high_80"]) < float(rows[0]["high_90"])


def test_a_recipe_is_recommended_with_intervals_and_what_such_advice_cost(tmp_path: Path) -> None:
    sweep = write(tmp_path / "sweep.csv", runs(4, recipe=True))
    done = codesign(
        tmp_path, "predictors", "--evaluate", sweep, "--recommend", "qwen2.5-0.5b", "--tokens", "4B", "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 5e-4 < found["lr"] < 2e-3 and 2**18 < found["batch_tokens"] < 2**20
    assert found["lr_90"][0] <= found["lr"] <= found["lr_90"][1]
    assert 0 <= found["left_out_regret"] < 0.01
    assert "n_layers" in found["beyond"] and "tokens" not in found["beyond"]  # 24 layers where 13 are the most


def test_importance_finds_what_the_law_is_made_of(tmp_path: Path, table: str) -> None:
    done = codesign(tmp_path, "predictors", "--evaluate", table, "--importance", "--json")
    assert done.returncode == 0, done.stderr
    features = [row["name"] for row in json.loads(done.stdout)["features"]]
    assert set(features[:2]) == {"ln N", "ln D"}


# ---- bad input, one line each


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        (None, (), "no file 'absent.csv'; give the path"),
        (lambda rows: rows, ("--target", "los"), "unknown column of 'runs.csv' 'los'; did you mean 'loss'?"),
        (lambda rows: rows, ("--group", "d_modle"), "did you mean 'd_model'?"),
        (lambda rows: rows, ("--columns", "tokns"), "did you mean 'tokens'?"),
        (lambda rows: rows, ("--where", "arch"), "is no condition; write COLUMN=VALUE"),
        (lambda rows: rows, ("--where", "arch=rnn"), "has arch=rnn"),
        (lambda rows: [*rows, {**rows[0], "dataset_id": "other"}], (), "absolute losses do not compare; choose one: --where dataset_id="),
        (lambda rows: rows[:7], (), "has 7 usable rows; at least 12 are needed, 5 more"),
        (lambda rows: rows[:12], ("--predictors", "law"), "has 3 groups (arch, n_layers, d_model, d_ff); at least 5 are needed to leave some out, 2 more"),
        (lambda rows: [{**row, "loss": "nan"} for row in rows[:25]] + rows[25:], (), "7 usable rows after leaving out 25; at least 12"),
        (lambda rows: rows, ("--largest-out", "1.5"), "--largest-out 1.5 must be between 0 and 1"),
        (lambda rows: rows, ("--largest-out", "0.9"), "leaves fewer than 4"),
        (lambda rows: rows, ("--largest-out", "0.2", "--rows", "20"), "do not go together"),
        (lambda rows: rows, ("--rows", "500"), "too few groups for 500 training rows"),
        (lambda rows: rows, ("--folds", "1"), "--folds 1 must be at least 2"),
        (lambda rows: rows, ("--seed", "-1"), "--seed -1 must not be negative"),
        (lambda rows: rows, ("--predictors", "treees"), "did you mean 'trees'?"),
        (lambda rows: rows, ("--question", "arcitecture"), "did you mean 'architecture'?"),
        (lambda rows: rows, ("--question", "function"), "does not answer the question 'function'"),
        (lambda rows: rows, ("--predict", "absent.csv", "--out", "x.csv"), "no file 'absent.csv'"),
        (lambda rows: rows, ("--predict", "x.csv"), "--predict needs a file to write to"),
        (lambda rows: rows, ("--recommend", "qwen2.5-0.5b"), "cannot advise a recipe: column 'lr' must hold at least 3 values"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(
    change: Callable[[Any], Any] | None, arguments: tuple[str, ...], told: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    name = "absent.csv" if change is None else write(tmp_path / "runs.csv", change(runs()))
    if name != "absent.csv":
        name = "runs.csv"
    assert main(["predictors", "--evaluate", name, *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error, error
    assert len(error.strip().splitlines()) == 1


def test_options_of_a_table_need_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predictors", "--largest-out", "0.2"]) == 2
    assert capsys.readouterr().err == "error: --largest-out needs a table of runs; give --evaluate FILE.csv\n"


def test_diverged_and_unfinished_rows_are_counted_by_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = runs()
    rows[3]["loss"], rows[9]["loss"] = "nan", -1.0
    write(tmp_path / "runs.csv", rows)
    assert main(["predictors", "--evaluate", "runs.csv", "--importance"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "30 rows; 1 left out: no number in 'loss'; 1 left out: 'loss' not above zero" in said
