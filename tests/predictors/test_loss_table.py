from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pandas")

from run_tables import law_table

from codesign.errors import SchemaError, SpecError, UnknownNameError
from codesign.predictors.loss_table import read_loss_table


def written(path: Path, frame: pd.DataFrame) -> Path:
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def frame() -> pd.DataFrame:
    rows, loss = law_table(shapes=8, tokens=4)
    return rows.assign(loss=loss, dataset_id="mine", train_data="c4")


def test_groups_are_shapes(tmp_path: Path, frame: pd.DataFrame) -> None:
    table = read_loss_table(written(tmp_path / "runs.csv", frame))
    assert table.group_columns == ("n_layers", "d_model")
    shapes = frame.drop_duplicates(["n_layers", "d_model"])
    assert np.unique(table.groups).size == len(shapes)
    assert table.size == "params_nonembed_active"
    assert table.take(table.y < np.median(table.y)).y.size == 16
    assert table.take(np.array([3, 1])).y.tolist() == [table.y[3], table.y[1]]


def test_what_does_not_count_and_why(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame = frame.assign(status="done")
    frame.loc[0, "loss"] = np.nan
    frame.loc[1, "loss"] = -1.0
    frame.loc[2, "status"] = "diverged"
    frame.loc[3, "status"] = "stopped"
    table = read_loss_table(written(tmp_path / "runs.csv", frame))
    assert table.excluded == {
        "marked diverged": 1,
        "marked stopped": 1,
        "no number in 'loss'": 1,
        "'loss' not above zero": 1,
    }
    assert len(table.frame) == len(frame) - 4


def test_diverged_runs_of_a_sweep_are_found(tmp_path: Path) -> None:
    sweep = pd.DataFrame({"n_layers": 4, "d_model": 64, "tokens": 1e9, "lr": np.geomspace(1e-4, 1e-1, 14), "loss": 3.0})
    sweep.loc[13, "loss"] = 3.0 * 1.26
    sweep.loc[12, "loss"] = 3.0 * 1.24
    table = read_loss_table(written(tmp_path / "sweep.csv", sweep), group=["lr"])
    assert list(table.excluded.values()) == [1]
    assert "diverged (over 1.25 times the median" in next(iter(table.excluded))


def test_conditions_compare_as_written(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame["batch"] = np.where(np.arange(len(frame)) % 2, 64.0, 128.0)
    path = written(tmp_path / "runs.csv", frame)
    assert len(read_loss_table(path, where=["batch=64"]).frame) == 16
    assert len(read_loss_table(path, where=["train_data = c4", "batch=128"]).frame) == 16


def test_bad_input(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = written(tmp_path / "runs.csv", frame)
    mixed = frame.assign(train_data=np.where(np.arange(len(frame)) % 2, "c4", "pile"))
    cases = [
        ({"path": tmp_path / "none.csv"}, SpecError, "no file"),
        ({"path": path, "target": "los"}, UnknownNameError, r"unknown column of 'runs.csv' 'los'; did you mean 'loss'\?"),
        ({"path": path, "group": ["width"]}, UnknownNameError, "unknown column of 'runs.csv' 'width'"),
        ({"path": path, "where": ["train_data"]}, SpecError, "is no condition; write COLUMN=VALUE"),
        ({"path": path, "where": ["train_data=pile"]}, SpecError, "no row of .* has train_data=pile"),
        ({"path": path, "least_rows": 40}, SpecError, "has 32 usable rows; at least 40 are needed, 8 more"),
        ({"path": written(tmp_path / "mixed.csv", mixed)}, SpecError, "mixes 2 values of 'train_data' .*do not compare"),
        ({"path": written(tmp_path / "bare.csv", frame[["loss", "tokens"]])}, SpecError, "none of the columns that make a shape"),
    ]  # fmt: skip
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            read_loss_table(**arguments)  # type: ignore[arg-type]
    (tmp_path / "binary.csv").write_bytes(bytes([0xFF, 0xFE, 0x00, 0x80]) * 50)
    with pytest.raises((SchemaError, UnknownNameError)):
        read_loss_table(tmp_path / "binary.csv")


def test_several_corpora_are_one_table_when_they_are_the_group(tmp_path: Path, frame: pd.DataFrame) -> None:
    mixed = frame.assign(train_data=np.where(np.arange(len(frame)) % 2, "c4", "pile"))
    table = read_loss_table(written(tmp_path / "mixed.csv", mixed), group=["train_data", "n_layers", "d_model"])
    assert np.unique(table.groups).size >= 14
