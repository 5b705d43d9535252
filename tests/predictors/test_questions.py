"""Questions of a table: which rows and columns each reads, rows beyond the data, and recipes advised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("sklearn")

import pandas as pd

from codesign.architecture import Architecture
from codesign.errors import SpecError, UnknownNameError
from codesign.predictors.law_regressor import LawRegressor
from codesign.predictors.loss_table import LossTable
from codesign.predictors.questions import (
    QUESTIONS,
    architecture_columns,
    ask,
    best_recipes,
    complete,
    needed_columns,
    outside_columns,
)
from codesign.predictors.recipes import RecipeAdvisor, cells_of, regret, step_law


def sweep(shapes: int = 3) -> LossTable:
    """A known optimum: lr* = 1.79 N^-0.713 D^0.307, batch* = 0.58 D^0.571, loss 2 + 0.01 (distance in logs)^2."""
    rows = []
    for i in range(shapes):
        n = 1e8 * 2.0**i
        for tokens in (2e9, 8e9):
            lr0, batch0 = step_law(n, tokens)
            for lr in lr0 * 2.0 ** np.arange(-3, 4):
                for batch in batch0 * 2.0 ** np.arange(-2, 3):
                    loss = 2.0 + 1e8 / n + 1e9 / tokens + 0.01 * (np.log(lr / lr0) ** 2 + np.log(batch / batch0) ** 2)
                    rows.append({"arch": "dense", "n_layers": 8 + i, "d_model": 512, "params_nonembed_active": n, "tokens": tokens,
                                 "lr": lr, "batch_tokens": batch, "activation": "silu", "loss": loss})  # fmt: skip
    return LossTable(
        "sweep.csv", pd.DataFrame(rows), "loss", ("arch", "n_layers", "d_model"), {}, "params_nonembed_active"
    )


def test_architecture_keeps_the_best_recipe_of_each_shape_and_drops_the_recipe() -> None:
    table, columns = ask("architecture", sweep())
    assert table.y.size == 6  # 3 shapes x 2 token counts
    assert table.y.tolist() == pytest.approx([2.0 + 1e8 / n + 1e9 / d for n in (1e8, 2e8, 4e8) for d in (2e9, 8e9)])
    assert "lr" not in columns and "lr" not in table.frame and "tokens" in columns


def test_technique_keeps_every_row_and_joint_every_column() -> None:
    table, columns = ask("technique", sweep())
    assert table.y.size == sweep().y.size
    assert {"lr", "batch_tokens", "tokens", "params_nonembed_active"} <= set(columns) and "activation" not in columns
    assert {"n_layers", "lr", "arch", "activation"} <= set(ask("joint", sweep())[1])


def test_a_question_that_the_table_does_not_vary_is_refused() -> None:
    with pytest.raises(SpecError, match="does not answer the question 'function'"):
        ask("function", sweep())
    with pytest.raises(UnknownNameError, match="did you mean 'technique'"):
        ask("tecnique", sweep())
    assert set(QUESTIONS) == {"architecture", "technique", "function", "joint"}


def test_best_recipes_keep_operators_apart() -> None:
    table = sweep()
    frame = table.frame.assign(activation=np.where(np.arange(len(table.frame)) % 2, "gelu", "silu"))
    found = best_recipes(LossTable(table.name, frame, "loss", table.group_columns, {}, None))
    assert found.y.size == 12


def test_empty_cells_cost_the_row_or_the_column() -> None:
    """2 of 20 tokens empty: two rows go and are counted; 12 of 20 warm-ups: the column goes; an empty count of experts means none."""
    frame = pd.DataFrame({"n_layers": range(20), "tokens": [np.nan, np.nan, *[1e9] * 18], "warmup_steps": [np.nan] * 12 + [5.0] * 8,
                          "n_experts": [np.nan] * 10 + [8.0] * 10, "loss": 2.0})  # fmt: skip
    table = LossTable("x.csv", frame, "loss", ("n_layers",), {"marked diverged": 1}, None)
    found, columns = complete(table, ["n_layers", "tokens", "warmup_steps", "n_experts"])
    assert found.y.size == 18 and columns == ["n_layers", "tokens", "n_experts"]
    assert found.excluded == {"marked diverged": 1, "no value in 'tokens'": 2}
    assert "warmup_steps" not in found.frame


def test_rows_beyond_the_data_are_named_by_column() -> None:
    train = pd.DataFrame(
        {
            "n_layers": [4, 8],
            "tokens": [1e9, 1e10],
            "arch": ["dense", "moe"],
            "n_experts": [np.nan, 8.0],
            "lr": [1e-3, 1e-3],
        }
    )
    rows = pd.DataFrame(
        {
            "n_layers": [8, 9, 4, 4],
            "tokens": [1e9, 1.02e10, np.nan, 5e8],
            "arch": ["dense", "rnn", "moe", "moe"],
            "n_experts": [np.nan, 8.0, 8.0, 64.0],
        }
    )
    found = outside_columns(train, ["n_layers", "tokens", "arch", "n_experts", "lr"], rows)
    assert found == [(), ("n_layers", "arch"), ("tokens is empty",), ("tokens", "n_experts")]


def test_what_says_the_same_again_is_not_asked_for() -> None:
    """Two parameter counts of one model, a head size that never varies, tokens and shape."""
    rng = np.random.default_rng(0)
    train = pd.DataFrame(
        {
            "n_layers": rng.integers(2, 20, 12),
            "d_model": 64 * rng.integers(2, 20, 12),
            "tokens": 10.0 ** rng.uniform(8, 11, 12),
        }
    )
    size = 12.0 * train["n_layers"] * train["d_model"] ** 2 * rng.uniform(0.9, 1.1, 12)
    train = train.assign(params_nonembed_active=size, params_total=1.2 * size, head_dim=64)
    columns = ["n_layers", "d_model", "params_total", "params_nonembed_active", "head_dim", "tokens"]
    assert needed_columns(train, columns) == ["n_layers", "d_model", "params_nonembed_active", "tokens"]


def test_an_architecture_as_a_row_of_the_table() -> None:
    arch = Architecture(n_layers=2, d_model=64, n_heads=2, n_kv_heads=1, d_head=32, d_ff=128, vocab_size=512)
    row = architecture_columns(arch)
    assert (row["arch"], row["n_layers"], row["head_dim"], row["d_ff"]) == ("dense", 2, 32, 128)
    assert np.isnan(row["n_experts"]) and row["params_total"] == arch.params_total  # type: ignore[arg-type]


# ---- recipes


def test_step_law_by_hand() -> None:
    """N = 1e9: 1e9^-0.713 = 10^-6.417 = 3.828e-7; D = 1e10: 10^3.07 = 1174.9; 1.79 x both = 8.05e-4. Batch 0.58 x 10^5.71 = 297,460."""
    lr, batch = step_law(1e9, 1e10)
    assert lr == pytest.approx(8.05e-4, rel=2e-3) and batch == pytest.approx(297_460, rel=2e-3)


class Truth(LawRegressor):
    """The sweep's own formula, as a model."""

    def fit(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> Truth:
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        lr0, batch0 = step_law(X["params_nonembed_active"], X["tokens"])
        return np.asarray(2.0 + 0.01 * (np.log(X["lr"] / lr0) ** 2 + np.log(X["batch_tokens"] / batch0) ** 2))


def test_the_right_model_costs_nothing_and_its_interval_is_a_grid_step() -> None:
    table = sweep()
    advisor = RecipeAdvisor(Truth(), folds=6).fit(table)
    assert advisor.left_out_regret().tolist() == pytest.approx([0.0] * 6, abs=1e-9)
    advice = advisor.advise(table.frame.iloc[[0]])
    lr0, batch0 = step_law(1e8, 2e9)
    assert advice.lr_90 is not None and advice.batch_90 is not None
    assert advice.lr_90[0] <= advice.lr <= advice.lr_90[1] and advice.lr_90[1] / advice.lr_90[0] < 1.6
    assert advice.lr == pytest.approx(lr0, rel=0.15) and advice.batch_tokens == pytest.approx(batch0, rel=0.2)


def test_regret_is_that_of_the_nearest_run_in_steps_of_the_sweep() -> None:
    table = sweep(1)
    cell = table.take(cells_of(table) == 0)
    lr0, batch0 = step_law(1e8, 2e9)
    assert regret(cell, lr0 * 1.2, batch0 / 1.2) == 0.0
    assert regret(cell, lr0 * 2.0, batch0) == pytest.approx(0.01 * np.log(2.0) ** 2)


def test_advice_needs_a_sweep() -> None:
    table = sweep()
    with pytest.raises(SpecError, match="column 'lr' must hold at least 3 values"):
        RecipeAdvisor(Truth()).fit(
            LossTable("x.csv", table.frame.assign(lr=1e-3), "loss", table.group_columns, {}, None)
        )
    with pytest.raises(SpecError, match="has 2 cells"):
        RecipeAdvisor(Truth()).fit(sweep(1))
