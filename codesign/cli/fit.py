"""`codesign fit`: losses of trained models become the loss law of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from codesign.predictors.loss_table import LossTable

__all__ = ["fit"]


def fit(
    campaign: Annotated[
        list[str] | None, typer.Option(help="Runs of this campaign of codesign train; repeatable; default: all runs.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Runs on this text, such as stdlib.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Runs with this tokenizer, such as byte or bpe-4096.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Path or postgresql:// URL; default: CODESIGN_STORE, else your data folder.")
    ] = None,
    from_file: Annotated[
        str | None, typer.Option("--from", help="A CSV with one training run a row instead of the store.")
    ] = None,
    target: Annotated[str, typer.Option(help="Column that is predicted; below is better.")] = "loss",
    group: Annotated[
        list[str] | None, typer.Option(help="Columns whose rows are left out together; default: those of a shape.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Rows that count: COLUMN=VALUE, such as seq_len=256; repeatable.")
    ] = None,
    best_recipes: Annotated[
        bool, typer.Option("--best-recipes", help="Of rows that differ in their recipe alone, only the best counts.")
    ] = False,
    predictors: Annotated[
        list[str] | None, typer.Option(help="Predictors that compete: 'law,law + gp'; default: all.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="File to write; default: loss-NAME.json here.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the folds and the fits.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fit loss predictors to your own training runs, and write the file that search and predict take as --loss-law.

    Every predictor is judged on shapes that it did not see. Beside the file goes a design space of what the runs span.

    Example: codesign fit --campaign stdlib-plan40

    Example: codesign fit --from runs.csv --where train_data=dolma --out mine.json
    """
    import sys

    from codesign.cli.common import parse_list, parse_predictors
    from codesign.errors import SpecError

    if seed < 0:
        raise SpecError(f"--seed {seed} must not be negative")
    stored = {"--campaign": campaign, "--data": data, "--tokenizer": tokenizer, "--store": store}
    given = [name for name, value in stored.items() if value]
    if from_file is not None and given:
        raise SpecError(
            f"{given[0]} chooses among runs of the store; with --from FILE choose with --where COLUMN=VALUE"
        )
    import codesign.predictors.fitted_model  # noqa: F401  # says which extra is missing

    names = parse_predictors(predictors)
    if from_file is not None:
        from codesign.predictors.loss_table import read_loss_table

        table = read_loss_table(from_file, target, parse_list(group) or None, where or [])
        source = _file_source(table, from_file)
    else:
        if target != "loss":
            raise SpecError("--target goes with --from: runs of the store have one loss")
        from codesign.cli.fit_store import stored_table

        table, source = stored_table(store, parse_list(campaign), data, tokenizer, where or [], parse_list(group))
    if best_recipes:
        from codesign.predictors.questions import best_recipes as best

        table = best(table)
    from codesign._files import write_text
    from codesign.predictors.fitted_file import surrogate_text
    from codesign.predictors.fitted_fit import fit_surrogate
    from codesign.predictors.fitted_space import space_of, space_text

    name, path = _names(out, source)
    found, staged = _with_status(
        f"fitting {len(table.y)} runs",
        lambda: fit_surrogate(table, name=name, dataset=_described(source), command=_command(sys.argv[1:]), source=source,
                              predictors=names, seed=seed),
    )  # fmt: skip
    write_text(path, surrogate_text(found))
    space = space_of(found)
    beside = path.removesuffix(".json") + ".space.toml"
    if space:
        write_text(beside, space_text(space, path))
    following = _following(found, path, beside if space else None)
    if as_json:
        import json

        shown = {
            key: found[key] for key in ("name", "dataset", "chosen", "chosen_beyond", "law_form", "ranges", "held_out")
        }
        print(json.dumps({"schema": "codesign.fit", "version": 1, **shown, "excluded": table.excluded, "unfit": staged.unfit_, "file": path,
                          "space": beside if space else None, "next": following}, indent=1, allow_nan=False))  # fmt: skip
        return
    _show(table, found, path, beside if space else None)
    for unfit, why in staged.unfit_.items():
        print(f"{unfit}: not fitted: {why}")
    print(f"next: {following}")


def _file_source(table: LossTable, path: str) -> dict[str, Any]:
    import hashlib
    from pathlib import Path

    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return {
        "name": Path(path).stem,
        "file": Path(path).name,
        "sha256": digest,
        "runs": int(table.y.size),
        "excluded": table.excluded,
    }


def _described(source: Mapping[str, Any]) -> str:
    """The data in words, without a path or a date."""
    if "file" in source:
        return f"{source['runs']} rows of {source['file']}"
    return f"{source['runs']} runs on {source['text']} ({source['tokenizer']})"


def _names(out: str | None, source: Mapping[str, Any]) -> tuple[str, str]:
    """Name of the law, and path of its file."""
    from pathlib import Path

    from codesign.errors import SpecError

    path = Path(out) if out else Path(f"loss-{source['name']}.json")
    if path.suffix != ".json":
        raise SpecError(f"--out '{path}' must end in .json, so that --loss-law knows it for a file")
    if not path.parent.is_dir():
        raise SpecError(f"--out: there is no folder {path.parent}; make it or give another")
    return path.stem, str(path)


def _command(arguments: Sequence[str]) -> list[str]:
    """What was typed, without where it was written: the same input gives the same file anywhere."""
    kept = list(arguments)
    for i, text in enumerate(arguments):
        if text == "--out":
            kept[i : i + 2] = ["", ""]
        elif text.startswith("--out=") or text == "--json":
            kept[i] = ""
    return ["codesign", *(text for text in kept if text)]


def _with_status(label: str, work: Any) -> Any:
    import sys

    if not sys.stderr.isatty():
        return work()
    from rich.console import Console

    with Console(stderr=True).status(label):
        return work()


def _following(found: Mapping[str, Any], path: str, space: str | None) -> str:
    """A search with this law, ready to be typed: on this machine where it is calibrated."""
    import shlex

    from codesign.devices import load_device
    from codesign.errors import CodesignError
    from codesign.roofline.calibration import load_calibration

    try:
        load_device("host")
        device = "--device host --latency 5ms"
    except CodesignError:  # not calibrated
        device = "--device orin --latency 20ms"
        sizes = found["ranges"].get("params_active")
        if sizes and sizes[1] < load_calibration().decode.span()[0]:  # than any model whose latency was measured
            device += " --allow-extrapolation"
    parts = [f"codesign search {device}", f"--loss-law {shlex.quote(path)}"]
    if space:
        parts.append(f"--space {shlex.quote(space)}")
    return " ".join(parts)


def _show(table: LossTable, found: Mapping[str, Any], path: str, space: str | None) -> None:
    from rich.table import Table

    from codesign.cli.common import console

    screen = console()
    groups = len(set(found["groups"]))
    left_out = "".join(f"; {count} left out: {reason}" for reason, count in table.excluded.items())
    screen.print(f"{found['dataset']}, {groups} shapes{left_out}")
    shown = Table(title="Predictors on shapes that they did not see", title_justify="left")
    for heading in ("predictor", "error", "tau", "80 % holds", "90 % holds", "largest out", "in use", "why not"):
        shown.add_column(heading, justify="left" if heading in ("predictor", "in use", "why not") else "right")
    for score in found["held_out"]:
        uses = [
            where
            for where, key in (("inside the data", "chosen"), ("far beyond", "chosen_beyond"))
            if found[key] == score["name"]
        ]
        shown.add_row(
            score["name"], _share(score["relative"], 2), "-" if score["tau"] is None else f"{score['tau']:.3f}", _share(score["coverage80"]),
            _share(score["coverage90"]), _share(score["largest"], 2), ", ".join(uses),
            "" if uses else score["reason"],
        )  # fmt: skip
    screen.print(shown)
    if found["law_form"] is not None:
        screen.print(
            f"law: the form '{found['law_form']}'; error: mean absolute, relative; largest out: on the largest shapes"
        )
    for joint in dict.fromkeys((found["chosen"], found["chosen_beyond"])):
        weights = found["parts"][joint]["weights"] if joint is not None else {}
        if list(weights) != [joint]:
            parts = sorted(weights.items(), key=lambda item: -item[1])
            screen.print(f"{joint}: " + ", ".join(f"{weight:.0%} {name}" for name, weight in parts))
    chosen = next(score for score in found["held_out"] if score["name"] == found["chosen"])
    if chosen["reason"]:
        screen.print(
            f"no predictor passed every test; '{found['chosen']}' is in use all the same ({chosen['reason']}): train more shapes"
        )
    alone = next((score for score in found["held_out"] if score["name"] == "parameters alone"), None)
    if alone is not None and chosen["relative"] >= alone["relative"]:
        screen.print(
            f"'{found['chosen']}' errs {_share(chosen['relative'], 2)} and the parameter count alone {_share(alone['relative'], 2)}: these runs "
            "say little about shape yet; train more, or for longer"
        )
    for name, held in found["held"].items():
        if "low" in held:
            screen.print(
                f"{name} differs over the runs ({held['low']:.3g} to {held['high']:.3g}): predictions are for what the best of a size had"
            )
        elif name in found["columns"]:
            screen.print(f"{name} differs over the runs: predictions are for {held['value']}")
    screen.print(f"written: {path}" + (f", and what the runs span as a design space: {space}" if space else ""))


def _share(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"
