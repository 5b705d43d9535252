"""`codesign predictors`: who predicts what, how well, and the same for a table of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from codesign.predictors.loss_table import LossTable

__all__ = ["predictors"]


def predictors(
    evaluate: Annotated[
        str | None, typer.Option("--evaluate", help="CSV table of runs: every predictor on rows that it did not see.")
    ] = None,
    target: Annotated[str, typer.Option(help="Column to predict.")] = "loss",
    group: Annotated[
        list[str] | None, typer.Option(help="Columns that make a group, left out whole; default: the shape's.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="Only rows with COLUMN=VALUE; repeatable.")] = None,
    question: Annotated[str, typer.Option(help="architecture, technique, function or joint.")] = "joint",
    columns: Annotated[
        list[str] | None, typer.Option(help="Columns to learn from, in place of the question's.")
    ] = None,
    chosen: Annotated[
        list[str] | None, typer.Option("--predictors", help="law, gp, trees, mlp, law + gp, ..., stack; default: all.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of whole groups.")] = 5,
    largest_out: Annotated[
        float | None, typer.Option("--largest-out", help="Leave out this share of the groups, the largest, instead.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Learn from this many rows only, the rest is the test.")] = None,
    repeats: Annotated[int, typer.Option(help="Draws of --rows.")] = 5,
    predict: Annotated[
        str | None, typer.Option("--predict", help="CSV of rows to predict from the table; see --out.")
    ] = None,
    recommend: Annotated[
        str | None, typer.Option("--recommend", help="config.json or known model: its learning rate and batch.")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Training tokens of --recommend.")] = "10B",
    importance: Annotated[
        bool, typer.Option("--importance", help="What each column is worth, by boosted trees.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    out: Annotated[str | None, typer.Option(help="Write the result as CSV.")] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Every predictor, not only who is in use and why not.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which predictor is in use for which question, with its error and coverage on left-out groups; or judge a table.

    Example: codesign predictors

    Example: codesign predictors --evaluate runs.csv --target loss --group d_model,n_layers --largest-out 0.2

    Example: codesign predictors --evaluate runs.csv --predict designs.csv --out predicted.csv

    Example: codesign predictors --evaluate sweep.csv --recommend model/config.json --tokens 20B
    """
    from codesign.cli.common import parse_list, parse_predictors
    from codesign.errors import SpecError

    modes = [name for name, on in (("--predict", predict), ("--recommend", recommend), ("--importance", importance),
                                   ("--largest-out", largest_out is not None), ("--rows", rows is not None)) if on]  # fmt: skip
    if evaluate is None:
        given = modes + [name for name, on in (("--where", where), ("--group", group), ("--out", out)) if on]
        if given:
            raise SpecError(f"{given[0]} needs a table of runs; give --evaluate FILE.csv")
        _published(show_all, as_json)
        return
    if len(modes) > 1:
        raise SpecError(f"{' and '.join(modes)} do not go together; give one")
    for name, value in (("--folds", folds), ("--repeats", repeats), ("--rows", rows if rows is not None else 1)):
        if value < (2 if name == "--folds" else 1):
            raise SpecError(f"{name} {value} must be at least {2 if name == '--folds' else 1}")
    if seed < 0:
        raise SpecError(f"--seed {seed} must not be negative")
    if predict is not None and out is None:
        raise SpecError("--predict needs a file to write to; give --out FILE.csv")

    from codesign.predictors.loss_table import read_loss_table
    from codesign.predictors.questions import ask, complete

    table = read_loss_table(evaluate, target, parse_list(group) or None, where or [])
    if columns:
        table, read = complete(table, [_known(table, name) for name in parse_list(columns)])
    else:
        table, read = ask(question, table)
    names = parse_predictors(chosen)
    if predict is not None and out is not None:
        from codesign.cli.predictors_use import predict_rows

        predict_rows(table, read, names, predict, out, seed, as_json)
    elif recommend is not None:
        from codesign.cli.predictors_use import recommend_recipe

        recommend_recipe(table, recommend, tokens, seed, as_json)
    elif importance:
        from codesign.cli.predictors_use import show_importance

        show_importance(table, read, seed, out, as_json)
    else:
        _evaluate(
            table, read, names, _splits(table, folds, largest_out, rows, repeats, seed), seed, folds, out, as_json
        )


def _known(table: LossTable, name: str) -> str:
    from codesign.errors import UnknownNameError

    if name not in table.frame.columns:
        raise UnknownNameError.near(f"column of '{table.name}'", name, list(table.frame.columns))
    return name


def _splits(
    table: LossTable, folds: int, largest_out: float | None, rows: int | None, repeats: int, seed: int
) -> tuple[str, list[Any]]:
    import math

    import numpy as np

    from codesign.errors import SpecError
    from codesign.predictors.evaluate import group_splits, largest_split, row_splits
    from codesign.predictors.staged import LEAST_GROUPS

    if largest_out is not None:
        return f"the largest {largest_out:.0%} of the groups left out", largest_split(table, largest_out)
    if rows is not None:
        return f"{rows} training rows, other groups left out, {repeats} draws", row_splits(table, rows, repeats, seed)
    count = int(np.unique(table.groups).size)
    needed = next(n for n in range(LEAST_GROUPS + 1, 99) if n - math.ceil(n / min(folds, n)) >= LEAST_GROUPS)
    if count < needed:
        raise SpecError(
            f"'{table.name}' has {count} groups ({', '.join(table.group_columns)}); at least {needed} are needed to leave some out, "
            f"{needed - count} more: give more runs or a finer --group"
        )
    return f"{folds} folds of whole groups", group_splits(table, folds, seed)


def _evaluate(
    table: LossTable, columns: Sequence[str], names: list[str] | None, splits: tuple[str, list[Any]], seed: int, folds: int,
    out: str | None, as_json: bool,
) -> None:  # fmt: skip
    import numpy as np

    from codesign.cli.common import console
    from codesign.cli.predictors_show import evaluation_rows, evaluation_table, verdict, write_csv
    from codesign.predictors.evaluate import evaluate

    told, parts = splits
    results = with_progress(
        "judging", len(parts),
        lambda tick: evaluate(table, parts, names=names, columns=columns, seed=seed, folds=folds, on_progress=tick),
    )  # fmt: skip
    found = evaluation_rows(results)
    if out:
        write_csv(out, found)
    facts = {
        "table": table.name, "target": table.target, "rows": int(table.y.size), "groups": int(np.unique(table.groups).size),
        "group": list(table.group_columns), "excluded": table.excluded, "split": told, "columns": list(columns),
        "verdict": verdict(found),
    }  # fmt: skip
    if as_json:
        print_json({"schema": "codesign.predictors", "version": 1, **facts, "results": found})
        return
    screen = console()
    screen.print(evaluation_table(found, f"{table.name}: {table.target}, {told}"))
    screen.print(
        f"{facts['rows']} rows in {facts['groups']} groups ({', '.join(table.group_columns)})" + excluded(table)
    )
    screen.print(facts["verdict"])
    if out:
        screen.print(f"written: {out}")


def excluded(table: LossTable) -> str:
    """What the table's rules left out, in words."""
    return "".join(f"; {count} left out: {reason}" for reason, count in table.excluded.items())


def print_json(value: Any) -> None:
    """As one JSON document; what is not a number is null."""
    import json
    import math

    def clean(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: clean(v) for k, v in x.items()}
        if isinstance(x, (list, tuple)):
            return [clean(v) for v in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    print(json.dumps(clean(value), indent=1, allow_nan=False))


def with_progress(label: str, total: int, run: Callable[[Callable[[int, int], None] | None], Any]) -> Any:
    """Run with a bar on stderr where it is a terminal."""
    import sys

    if not sys.stderr.isatty():
        return run(None)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(label),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        return run(lambda done, all_: bar.update(task, completed=done, total=all_))


def _published(show_all: bool, as_json: bool) -> None:
    from codesign.cli.common import console
    from codesign.cli.predictors_show import held_out, held_out_lines, held_out_table

    found = held_out()
    if as_json:
        print_json(found)
        return
    screen = console()
    screen.print(held_out_table(found["rows"], show_all))
    for line in held_out_lines(found):
        screen.print(line)
