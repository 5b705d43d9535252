"""What `codesign predictors` does with a fitted table: predict rows, recommend a recipe, tell what columns are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from codesign.predictors.loss_table import LossTable

__all__ = ["predict_rows", "recommend_recipe", "show_importance"]

_EMPTY = " is empty"  # how `outside_columns` ends where a value is missing
#: Sweeps vary the recipe more than the shape: laws of few parameters.
_RECIPE_LAWS = ("chinchilla", "chinchilla*", "aspect", "moe")


def predict_rows(
    table: LossTable, columns: Sequence[str], names: list[str] | None, path: str, out: str, seed: int, as_json: bool
) -> None:
    """Fit the selection on the table, predict each row of `path`; rows beyond the data are marked, those without a value skipped."""
    import numpy as np

    from codesign.cli.common import console
    from codesign.cli.predictors import excluded, print_json
    from codesign.cli.predictors_show import write_csv
    from codesign.predictors.questions import needed_columns, outside_columns
    from codesign.predictors.staged import StagedRegressor

    given = _read(path)
    needed = needed_columns(table.frame, columns)
    columns = [
        c for c in columns if c in needed or c in given
    ]  # what is given is checked, what says nothing new need not be given
    fixed = {c: table.frame[c].iloc[0] for c in columns if c not in given and table.frame[c].nunique(dropna=False) == 1}
    frame = given.assign(**fixed)  # what never varied need not be said again
    frame = frame[
        [c for c in frame.columns if c in table.frame.columns]
    ]  # a law must not read what it was not fitted on
    beyond = [
        tuple(name for name in row if not name.endswith(_EMPTY) or name.removesuffix(_EMPTY) in needed)
        for row in outside_columns(table.frame, columns, frame)
    ]
    usable = np.array([not any(name.endswith(_EMPTY) for name in row) for row in beyond], dtype=bool)
    model = StagedRegressor(names, needed, table.size, random_state=seed).fit(table.frame, table.y, groups=table.groups)
    figures = np.full((5, len(frame)), np.nan)
    outside, far = np.zeros(len(frame), dtype=bool), np.zeros(len(frame), dtype=bool)
    if usable.any():
        part = frame[usable]
        figures[:, usable] = [model.predict(part), *model.interval(part, 0.8), *model.interval(part, 0.9)]
        outside[usable], far[usable] = model.outside(part), model.far(part)
    inside, extrapolating = model.chosen_, model.chosen_beyond_ or model.chosen_
    rows = []
    for i in range(len(frame)):
        told = beyond[i] or (("combination of columns",) if outside[i] else ())
        state = "not predicted" if not usable[i] else "beyond the data" if told else "inside"
        rows.append(
            {
                **{str(name): given[name].iloc[i] for name in given.columns}, f"predicted_{table.target}": figures[0, i],
                "low_80": figures[1, i], "high_80": figures[2, i], "low_90": figures[3, i], "high_90": figures[4, i],
                "where": state, "beyond": "; ".join(told), "predictor": "" if not usable[i] else extrapolating if far[i] else inside,
            }
        )  # fmt: skip
    write_csv(out, rows)
    count = {
        state: sum(row["where"] == state for row in rows) for state in ("inside", "beyond the data", "not predicted")
    }
    if as_json:
        print_json({"schema": "codesign.predictions", "version": 1, "table": table.name, "in_use": inside, "in_use_beyond": extrapolating,
                    "counts": count, "out": out})  # fmt: skip
        return
    screen = console()
    screen.print(f"{table.name}: {table.y.size} rows fitted" + excluded(table))
    screen.print(
        f"in use: {inside} inside the data, {extrapolating} far beyond it"
        + ("" if not model.fallback_ else "; no predictor passed the tests: the least bad")
    )
    screen.print(
        f"{len(rows)} rows: {count['inside']} inside the data, {count['beyond the data']} beyond it (column 'beyond' names where; their intervals "
        f"are wider and less sure), {count['not predicted']} not predicted because a value is missing"
    )
    missing = dict.fromkeys(name.removesuffix(_EMPTY) for row in beyond for name in row if name.endswith(_EMPTY))
    if missing:
        screen.print(f"missing in one row or more of {path}, and used by the predictors: {', '.join(missing)}")
    screen.print(f"written: {out}")


def _read(path: str) -> Any:
    import os

    import pandas as pd

    from codesign.errors import SchemaError, SpecError

    if not os.path.isfile(path):
        raise SpecError(f"no file '{path}'; give the path of a CSV with one row to predict a line")
    try:
        frame = pd.read_csv(path, low_memory=False)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise SchemaError(f"'{path}' cannot be read as a CSV table: {error}") from error
    frame.columns = [str(column).strip() for column in frame.columns]
    if frame.empty:
        raise SpecError(f"'{path}' has no rows to predict")
    return frame


def recommend_recipe(table: LossTable, name: str, tokens: str, seed: int, as_json: bool) -> None:
    """Learning rate and batch for an architecture, with intervals from left-out sweeps, beside the published formula."""
    import numpy as np

    from codesign import units
    from codesign.cli.common import console
    from codesign.cli.predictors import excluded, print_json, with_progress
    from codesign.errors import SpecError
    from codesign.hf_config import read_config
    from codesign.predictors.candidates import BestLaw, candidate, possible_laws
    from codesign.predictors.questions import architecture_columns, outside_columns
    from codesign.predictors.recipes import RecipeAdvisor, cells_of, step_law

    arch = read_config(name)
    count = units.parse_count(tokens, "--tokens")
    forms = [form for form in possible_laws(table.frame) if form in _RECIPE_LAWS]
    if not forms:
        raise SpecError(f"'{table.name}' has no varying parameter count or shape, so no law of the recipe fits it")
    form = BestLaw(forms, draws=0, random_state=seed).fit(table.frame, table.y, groups=cells_of(table)).form_
    model = candidate("law + gp", forms, form, random_state=seed).set_params(law__draws=0, law__starts=1)
    cells = np.unique(cells_of(table)).size
    advisor = with_progress(
        "leaving out sweeps", min(cells, 10), lambda tick: RecipeAdvisor(model, progress=tick).fit(table)
    )
    given = {**architecture_columns(arch), "tokens": count}
    row = table.frame.iloc[[0]].copy()
    for column in row.columns.intersection(list(given)):
        row[column] = given[column]
    varied = [c for c in given if c in table.frame.columns and not (c == "vocab" and table.frame[c].isna().all())]
    beyond = outside_columns(table.frame, varied, row)[0]
    advice = advisor.advise(row)
    regrets = advisor.left_out_regret()
    published = step_law(arch.params_nonembedding, count)  # of a mixture all of them: results/questions.md
    result = {
        "model": name, "tokens": count, "lr": advice.lr, "lr_90": advice.lr_90, "batch_tokens": advice.batch_tokens, "batch_90": advice.batch_90,
        "loss": advice.loss, "beyond": list(beyond), "left_out_regret": float(regrets.mean()), "cells": cells,
        "step_law": {"lr": float(published[0]), "batch_tokens": float(published[1])},
    }  # fmt: skip
    if as_json:
        print_json({"schema": "codesign.recipe", "version": 1, **result})
        return
    screen = console()
    batch = units.format_count(advice.batch_tokens)
    spans = (advice.lr_90, advice.batch_90)
    screen.print(
        f"{name}, {units.format_count(count)} training tokens, from {table.name} ({table.y.size} runs in {cells} sweeps)"
        + excluded(table)
    )
    if spans[0] is not None and spans[1] is not None:
        screen.print(
            f"learning rate {advice.lr:.2e} (90 %: {spans[0][0]:.2e} to {spans[0][1]:.2e}), batch {batch} tokens (90 %: {units.format_count(spans[1][0])} to {units.format_count(spans[1][1])})"
        )
    screen.print(
        f"predicted loss there {advice.loss:.4f}; in left-out sweeps such advice cost {regrets.mean():.4f} more than the sweep's best run (largest {regrets.max():.4f})"
    )
    screen.print(
        f"published formula (Step Law, arXiv 2503.04715): learning rate {published[0]:.2e}, batch {units.format_count(float(published[1]))} tokens"
    )
    if beyond:
        screen.print(f"beyond the data in {', '.join(beyond)}: an extrapolation")


def show_importance(table: LossTable, columns: Sequence[str], seed: int, out: str | None, as_json: bool) -> None:
    """Features by what boosted trees make of them."""
    from rich.table import Table

    from codesign.cli.common import console
    from codesign.cli.predictors import excluded, print_json
    from codesign.cli.predictors_show import write_csv
    from codesign.predictors.importance import importance

    found = [one.__dict__ for one in importance(table.frame, table.y, table.groups, columns, seed)]
    if out:
        write_csv(out, found)
    if as_json:
        print_json(
            {
                "schema": "codesign.importance",
                "version": 1,
                "table": table.name,
                "target": table.target,
                "features": found,
            }
        )
        return
    shown = Table(title=f"{table.name}: what boosted trees make of each feature ({table.target})", title_justify="left")
    for heading in ("feature", "share of gain", f"mean |SHAP|, {table.target}", "trend"):
        shown.add_column(heading, justify="left" if heading == "feature" else "right")
    for row in found:
        shown.add_row(row["name"], f"{row['gain']:.1%}", f"{row['contribution']:.4g}", f"{row['trend']:+.2f}")
    screen = console()
    screen.print(shown)
    screen.print(
        f"{table.y.size} rows"
        + excluded(table)
        + "; trend: -1 where more of the feature lowers the target; a feature that follows another shares its worth"
    )
