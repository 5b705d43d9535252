"""`codesign search --table`: which candidates of a table to train, by expected hypervolume gain; or a replay of that on a complete table."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from codesign.search.table import CandidateTable
    from codesign.search.table_search import Ask, TableSearch

__all__ = ["TableOptions", "search_table"]

_SHOWN = 25
_LEAK = 0.95


@dataclass(frozen=True)
class TableOptions:
    """What the command line says; lists as typed, commas not yet split."""

    table: str
    quality: str | None
    cost: list[str] | None
    features: list[str] | None
    ignore: list[str] | None
    labels: list[str] | None
    cell: str | None
    least: list[str] | None
    most: list[str] | None
    evaluations: int | None
    batch_size: int
    seed: int
    out: str | None
    as_json: bool
    plot: bool

    @staticmethod
    def refuse(others: list[str]) -> None:
        """Refuse options that act on devices only.

        Raises:
            SpecError: one was given.
        """
        from codesign.errors import SpecError

        if others:
            raise SpecError(
                f"{', '.join(others)} and --table do not go together: bound a table's columns with --max COLUMN=NUMBER"
            )


def search_table(options: TableOptions) -> None:
    """Replay with ``--evaluations``, the next batch without; writes the folder and prints what was found."""
    from pathlib import Path

    from codesign.cli.common import parse_list
    from codesign.errors import SpecError
    from codesign.search.table import parse_bound, parse_goal, read_candidates
    from codesign.search.table_features import features_of, parse_cell

    if options.quality is None:
        raise SpecError("--table needs --quality COLUMN:max or COLUMN:min: what is not known until a model is trained")
    costs = parse_list(options.cost)
    if not 1 <= len(costs) <= 2:
        raise SpecError(f"--table needs one or two --cost columns, {len(costs)} given; such as --cost latency_ms")
    if options.batch_size < 1:
        raise SpecError(f"--batch-size {options.batch_size} must be at least 1")
    quality = parse_goal(options.quality, "--quality")
    goals = [parse_goal(text, "--cost", "min") for text in costs]
    bounds = [parse_bound(text, least=True) for text in parse_list(options.least)]
    bounds += [parse_bound(text, least=False) for text in parse_list(options.most)]
    table = read_candidates(options.table, quality, goals, bounds)
    features = features_of(
        table, parse_list(options.features), parse_list(options.ignore), parse_list(options.labels),
        parse_cell(options.cell) if options.cell else None,
    )  # fmt: skip
    folder = Path(options.out) if options.out else Path("results") / _run_name(options)
    facts = _provenance(options, table, features)
    with _made(folder):
        _run(options, table, features, folder, facts)


def _run(options: TableOptions, table: CandidateTable, features: Any, folder: Path, facts: dict[str, Any]) -> None:
    from dataclasses import replace

    from codesign.report.table_run import read_answers
    from codesign.search.table_search import TableSearch

    if options.evaluations is not None:
        _warn_of_results(table, options)
        _replay(options, table, features, folder, facts)
        return
    value, order = read_answers(folder, table)
    asked = table.asked.copy()
    asked[order] = True
    search = TableSearch(replace(table, value=value, asked=asked), features, options.seed, options.batch_size, order)
    _next_batch(options, search, folder, facts)


def _replay(options: TableOptions, table: CandidateTable, features: Any, folder: Path, facts: dict[str, Any]) -> None:
    import numpy as np

    from codesign.errors import SpecError
    from codesign.report.table_run import write_table_run
    from codesign.search.table_score import TrueFront
    from codesign.search.table_search import replay

    evaluations = options.evaluations
    assert evaluations is not None
    if evaluations < 1:
        raise SpecError(f"--evaluations {evaluations} must be at least 1")
    search = _with_progress(
        lambda tell: replay(
            table, features, evaluations, batch_size=options.batch_size, seed=options.seed, on_progress=tell
        )
    )
    truth = TrueFront(table, table.value)
    order = np.array(search.order)
    marks = sorted({n for n in (20, 50, 100, 200, 500, 1000, 2000) if n < evaluations} | {evaluations})
    rng = np.random.default_rng(options.seed)
    chance = [rng.permutation(len(table))[:evaluations] for _ in range(20)]
    regret = {n: (truth.regret(order[:n]), float(np.mean([truth.regret(rows[:n]) for rows in chance]))) for n in marks}
    facts |= {
        "mode": "replay", "evaluations": evaluations, "true_front_rows": len(truth.rows),
        "true_front_found": len(np.intersect1d(truth.rows, order)),
        "regret": {str(n): round(own, 6) for n, (own, _) in regret.items()},
        "regret_random_mean_of_20": {str(n): round(other, 6) for n, (_, other) in regret.items()},
    }  # fmt: skip
    view = search.predict()
    facts |= _model_facts(view)
    write_table_run(folder, table, search.value, search.order, search.front(), view, facts, plot=options.plot)
    if _printed_as_json(options, folder):
        return
    screen = _print_frontier(search, view)
    screen.print("hypervolume missed (0 %: the true front), acting as if the column were hidden:")
    for n, (own, other) in regret.items():
        screen.print(f"  after {n:>5} trainings {100 * own:6.2f} %     at random {100 * other:6.2f} %")
    screen.print(f"rows of the true front that were asked: {facts['true_front_found']} of {facts['true_front_rows']}")
    _closing(screen, search, view, folder)


def _next_batch(options: TableOptions, search: TableSearch, folder: Path, facts: dict[str, Any]) -> None:
    from codesign.report.table_run import write_table_run
    from codesign.search.table_model import MIN_ROWS

    table = search.table
    known, left = len(search.order), int((~table.asked).sum())
    ask = search.ask(options.batch_size) if left else None
    view = ask if ask is not None else search.predict()
    facts |= {"mode": "ask", "trained": known, "left": left, **_model_facts(view)}
    if ask is not None and ask.gain is not None:
        facts["expected_gain"] = float(ask.gain.sum())
    write_table_run(folder, table, search.value, search.order, search.front(), view, facts, ask=ask, plot=options.plot)
    if _printed_as_json(options, folder):
        return
    screen = _print_frontier(search, view)
    if ask is None:
        screen.print(
            f"done: every usable row of '{table.name}' has its {table.quality.column}; nothing is left to ask."
        )
        screen.print("To see how few trainings would have been enough, replay the search: --evaluations 100")
    elif ask.gain is None:
        screen.print(
            f"{known} trained row(s) that count are too few to predict from, {MIN_ROWS} are needed: {folder}/ask.csv has {len(ask.rows)} drawn at "
            "random."
        )
    else:
        screen.print(
            f"{folder}/ask.csv has the next {len(ask.rows)} to train; together they are expected to raise the hypervolume found by "
            f"{100 * ask.gain.sum():.2g} % (reference: {_reference(search, ask)})."
        )
    if ask is not None:
        screen.print(
            f"Fill {table.quality.column} in, there or in the table (nan: came to nothing), and run the same command again."
        )
    _closing(screen, search, view, folder)


def _print_frontier(search: TableSearch, view: Ask) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from codesign.cli.common import console

    table, front = search.table, search.front()
    screen = console()
    title = f"{table.name}: {table.quality.column} ({table.quality.direction}) against " + " and ".join(
        f"{goal.column} ({goal.direction})" for goal in table.costs
    )
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name for name in _row_columns(search) if name not in {g.column for g in table.costs}]
    for heading in ("row", "asked as", *names):
        shown.add_column(heading, justify="right", overflow="fold")
    for goal in (*table.costs, table.quality):
        shown.add_column(goal.column, justify="right", no_wrap=True)
    place = {row: number for number, row in enumerate(search.order, start=1)}
    step = max(1.0, (len(front) - 1) / (_SHOWN - 1)) if len(front) else 1.0
    for k in range(min(len(front), _SHOWN)):
        i = int(front[round(k * step)])
        cells = [table.cells[i][table.header.index(name)] for name in names]
        numbers = [f"{g.shown(float(c)):g}" for g, c in zip(table.costs, table.cost[i], strict=True)]
        quality = f"{table.quality.shown(float(search.value[i])):g}"
        shown.add_row(str(table.line[i]), str(place[i]), *cells, *numbers, quality)
    if len(front):
        screen.print(shown)
        if len(front) > _SHOWN:
            screen.print(f"{_SHOWN} of {len(front)} rows shown, evenly along the frontier; all are in frontier.csv")
    return screen


def _row_columns(search: TableSearch) -> list[str]:
    """A few columns that say which row it is: the first text or number-of-row column, then features of the file."""
    names = [name for name in search.features.left_out if "of rows" in search.features.left_out[name]]
    own = [n for n in (*search.features.label_names, *search.features.number_names) if n in search.table.header]
    return [*names[:1], *own][:7]


def _closing(screen: Any, search: TableSearch, view: Ask, folder: Path) -> None:
    table, features = search.table, search.features
    goals = {table.quality.column, *(goal.column for goal in table.costs)}
    used = [n for n in (*features.number_names, *features.label_names) if not n.startswith("cell:")]
    counts = len(features.number_names) + len(features.label_names) - len(used)
    told = ", ".join(used[:12]) + (", ..." if len(used) > 12 else "")
    screen.print(
        f"features: {told or 'none of the file'}" + (f"; {counts} counts along the cell's paths" if counts else "")
    )
    skipped = {n: why for n, why in features.left_out.items() if n not in goals and why != "constant"}
    if skipped:
        screen.print("left out as features: " + ", ".join(f"{n} ({why})" for n, why in list(skipped.items())[:6]))
    if view.predictors:
        others = ", ".join(f"{name} {score:.3g}" for name, score in view.scores.items())
        judged = f" (CRPS on left-out rows: {others})" if others else ""
        screen.print(f"predicted by: {' + '.join(view.predictors)}{judged}")
    if table.dropped:
        screen.print("dropped: " + ", ".join(f"{count:,} rows ({reason})" for reason, count in table.dropped.items()))
    trained = search.value[search.order]
    outside = int((~table.allowed(trained)).sum())
    if outside:
        screen.print(
            f"trained rows that do not count (failed, or outside the bounds on {table.quality.column}): {outside}"
        )
    screen.print(
        f"\nwritten: {folder}/ ({', '.join(sorted(f.name for f in folder.iterdir() if not f.name.startswith('.')))})"
    )


def _reference(search: TableSearch, ask: Ask) -> str:
    assert ask.reference is not None
    goals = [*search.table.costs, search.table.quality]
    return ", ".join(f"{g.column} {g.shown(float(r)):.4g}" for g, r in zip(goals, ask.reference, strict=True))


def _model_facts(view: Ask) -> dict[str, Any]:
    scores = {name: round(score, 6) for name, score in view.scores.items()}
    return {"predictors": list(view.predictors), "left_out_crps": scores}


def _warn_of_results(table: CandidateTable, options: TableOptions) -> None:
    """In a replay a second result of the same training (validation beside test accuracy) would give the answer away."""
    import sys

    import numpy as np
    from scipy.stats import spearmanr

    from codesign.cli.common import parse_list
    from codesign.search.table_features import features_of

    known = np.isfinite(table.value)
    if options.features or known.sum() < 20 or np.ptp(table.value[known]) == 0:
        return
    features = features_of(table, (), parse_list(options.ignore), parse_list(options.labels))
    near = [
        name
        for k, name in enumerate(features.number_names)
        if np.ptp(features.numbers[known, k]) > 0
        and abs(float(spearmanr(features.numbers[known, k], table.value[known])[0])) >= _LEAK
    ]
    if near:
        print(
            f"warning: {', '.join(near)} rank the rows nearly as {table.quality.column} does; if they are known only after "
            f"training, the replay is worthless: --ignore {','.join(near)}",
            file=sys.stderr,
        )


def _provenance(options: TableOptions, table: CandidateTable, features: Any) -> dict[str, Any]:
    import sys
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("codesign-llm")
    except PackageNotFoundError:
        number = "unknown"
    return {
        "codesign": number, "command": ["codesign", *sys.argv[1:]], "seed": options.seed, "table": table.name,
        "usable_rows": len(table), "dropped": dict(table.dropped), "bounds": [str(bound) for bound in table.bounds],
        "quality": [table.quality.column, table.quality.direction],
        "costs": [[goal.column, goal.direction] for goal in table.costs],
        "features": [*features.number_names, *features.label_names], "batch_size": options.batch_size,
    }  # fmt: skip


def _run_name(options: TableOptions) -> str:
    """The same question has the same folder, whatever was answered in between."""
    import hashlib
    from pathlib import Path

    asked = [options.quality, options.cost, options.features, options.ignore, options.labels, options.cell, options.least,
             options.most, options.seed, options.evaluations]  # fmt: skip
    digest = hashlib.sha256(f"{Path(options.table).absolute()} {asked}".encode()).hexdigest()[:8]
    column = str(options.quality).partition(":")[0]
    return f"{Path(options.table).stem}-{column}-{digest}"


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The run's folder, made; a command that is refused or stopped leaves no empty one."""
    from codesign.errors import SpecError

    try:
        new = not folder.exists()
        if folder.exists() and (
            not folder.is_dir() or (any(folder.iterdir()) and not (folder / "asked.csv").is_file())
        ):
            raise SpecError(f"{folder} exists and is not a run on a table; give another --out")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot write the run to {folder}: {error}; give a writable --out") from error
    try:
        yield
    finally:
        if new and not any(folder.iterdir()):
            folder.rmdir()


def _printed_as_json(options: TableOptions, folder: Path) -> bool:
    if options.as_json:
        print((folder / "frontier.jsonl").read_text(encoding="utf-8"), end="")
    return options.as_json


def _with_progress(run: Any) -> Any:
    import sys

    if not sys.stderr.isatty():
        return run(None)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("searching"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("search", total=None)
        return run(lambda done, total: bar.update(task, completed=done, total=total))
