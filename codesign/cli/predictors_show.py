"""Tables of `codesign predictors`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from codesign.predictors.evaluate import Result

__all__ = [
    "evaluation_rows",
    "evaluation_table",
    "held_out",
    "held_out_lines",
    "held_out_table",
    "verdict",
    "write_csv",
]

_BASELINE = "parameters alone"


def evaluation_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One dictionary a predictor."""
    return [
        {
            "predictor": r.score.name, "n_train": r.n_train, "n_test": r.n_test, "mae": r.score.mae, "relative": r.score.relative,
            "tau": r.score.tau, "spearman": r.score.spearman, "coverage80": r.score.coverage80, "coverage90": r.score.coverage90,
            "share_chosen": r.chosen, "share_beyond": r.beyond, "weight": r.weight, "reason": r.score.reason, "seconds": round(r.seconds, 2),
        }
        for r in results
    ]  # fmt: skip


def evaluation_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Predictors side by side; ``weight`` is each one's mean share in what predicts rows like the data, ``staged`` is what is in use."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    headings = ("predictor", "error", "relative", "tau", "Spearman", "80 % holds", "90 % holds", "weight", "why not")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("predictor", "why not") else "right")
    for row in rows:
        used = f"{row['weight']:.0%}" if row["weight"] else ""
        table.add_row(row["predictor"], *_figures(row), used, row["reason"])
    return table


def _figures(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['mae']:.4g}", _percent(row["relative"], 2), _number(row["tau"]), _number(row["spearman"]), _percent(row["coverage80"]),
        _percent(row["coverage90"]),
    )  # fmt: skip


def _number(value: Any) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _percent(value: Any, digits: int = 0) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """One line: what the selection used on these splits, how it did, and against the free baseline."""
    staged = next(row for row in rows if row["predictor"] == "staged")
    told = "; ".join(_in_use(rows, weights=True))
    text = f"in use: {told}. This selection (staged) errs {_percent(staged['relative'], 2)} on rows it did not see, its 90 % interval holds {_percent(staged['coverage90'])}"
    baseline = next((row for row in rows if row["predictor"] == _BASELINE), None)
    if baseline is None:
        return text + "; the table has no parameter count to compare with"
    return (
        text + f"; Spearman {_number(staged['spearman'])}, of the parameter count alone {_number(baseline['spearman'])}"
    )


def _in_use(rows: Sequence[dict[str, Any]], weights: bool = False) -> list[str]:
    """What predicts rows like the data, the most often chosen first, and what predicts rows beyond it."""
    used = sorted((row for row in rows if row["share_chosen"] > 0), key=lambda row: -row["share_chosen"])
    names = [
        row["predictor"]
        + (f" ({row['share_chosen']:.0%} of the splits)" if weights and row["share_chosen"] < 1 else "")
        for row in used
    ]
    beyond = max((row for row in rows if row["share_beyond"] > 0), key=lambda row: row["share_beyond"], default=None)
    if weights and any(row["predictor"] == "stack" for row in used):
        parts = sorted((row for row in rows if row["weight"] >= 0.05), key=lambda row: -row["weight"])
        names[-1] += ", in all " + " + ".join(f"{row['weight']:.0%} ({row['predictor']})" for row in parts)
    if beyond is not None and [row["predictor"] for row in used] != [beyond["predictor"]]:
        names.append(f"beyond the data {beyond['predictor']}" if weights else f"beyond {beyond['predictor']}")
    return names


def write_csv(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of equal keys; an empty cell where there is no number."""
    import csv
    import io
    from pathlib import Path

    from codesign._files import write_text

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())


def held_out() -> dict[str, Any]:
    """The figures that ship: header and rows.

    Raises:
        SchemaError: The file is not there or cannot be read.
    """
    import json
    from importlib import resources

    from codesign.errors import SchemaError

    try:
        found = json.loads((resources.files("codesign.predictors") / "held_out.json").read_text(encoding="utf-8"))
        return {**found, "rows": list(found["rows"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchemaError(
            f"the predictors' held-out figures (codesign/predictors/held_out.json) cannot be read: {error}"
        ) from error


def held_out_table(rows: Sequence[dict[str, Any]], show_all: bool) -> Table:
    """By question, data set and split: who is in use and who is not and why; with `show_all` every predictor in a row of its own."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title="Predictors in use, judged on rows they did not see",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    words = ("question", "data", "left out", "predictor", "in use", "not used")
    headings = ("predictor", "error", "relative", "tau", "Spearman", "80 %", "90 %", "not used") if show_all else (
        "in use", "error", "Spearman", "80 %", "90 %", "not used")  # fmt: skip
    for heading in ("question", "data", "left out", "rows", *headings):
        narrow = heading in ("question", "data", "left out")
        table.add_column(heading, justify="left" if heading in words else "right", overflow="fold", no_wrap=narrow)
    cases: dict[tuple[str, str, str, Any], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["question"], row["dataset"])):  # sorted is stable
        cases.setdefault((row["question"], row["dataset"], row["split"], row["n_train"]), []).append(row)
    before = ("", "")
    for (question, dataset, split, n_train), own in cases.items():
        same = (question == before[0], (question, dataset) == before)
        head = (
            "" if same[0] else question,
            "" if same[1] else dataset,
            split.removesuffix(f", {n_train:.0f} rows"),
            f"{n_train:.0f}",
        )
        before = (question, dataset)
        members = [row for row in own if row["predictor"] not in ("staged", _BASELINE)]
        staged = next((row for row in own if row["predictor"] == "staged"), None)
        if show_all:
            for number, row in enumerate(own):
                why = row["reason"] or (
                    f"(used {row['share_chosen']:.0%})"
                    if row["share_chosen"]
                    else f"(weight {row['weight']:.0%})"
                    if row["weight"]
                    else ""
                )
                table.add_row(*(head if number == 0 else ("",) * 4), row["predictor"], *_figures(row), why)
            continue
        shown = staged or max(members, key=lambda row: row["share_chosen"])
        figures = _figures(shown)
        why = ", ".join(
            _short(r["predictor"], r["reason"])
            for r in members
            if r["reason"] and not (r["share_chosen"] or r["share_beyond"] or r["weight"])
        )
        used = ", ".join(_in_use(own)) or shown["predictor"]
        table.add_row(*head, used, f"{figures[0]} ({figures[1]})", *figures[3:], why)
    return table


def _short(predictor: str, reason: str) -> str:
    """Predictor and why it is not used, in little room; `held_out_lines` explains.

    Example:
        >>> _short("gp", "90 % interval holds 98%"), _short("trees", "ranks no better than the parameter count (0.5, 0.9)")
        ('gp 98%', 'trees rank')
    """
    if reason.startswith("90 % interval holds "):
        return f"{predictor} {reason.removeprefix('90 % interval holds ')}"
    return f"{predictor} rank" if reason.startswith("ranks no better") else f"{predictor}: {reason}"


def held_out_lines(found: dict[str, Any]) -> list[str]:
    """Where the figures are from, and what the columns mean."""
    return [
        "error: mean absolute, in units of the target, and relative; 80 %, 90 %: share of rows inside these intervals. Who is in use was chosen on "
        "training rows alone, never by these figures; the stack weighs the predictors by the same",
        "not used: rank: it ranks no better than the parameter count alone; 98%: what its 90 % interval held of training rows left out, "
        "which must be 85 to 95 %, give or take the standard error of so many rows. --all shows every predictor and the reasons in full",
        f"made by: {found.get('command', '-')}; {found.get('source', found.get('data', ''))}".rstrip("; "),
        "judge a table of your own: codesign predictors --evaluate FILE.csv --target loss --group COLUMN",
    ]
