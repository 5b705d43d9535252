"""`codesign measurements`: list, filter, export and merge what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from codesign.measurement import Measurement, Observation
    from codesign.store import Store

__all__ = ["measurements", "show_observations"]

#: Characters that a column keeps where the terminal is narrow: enough to break between words.
_LEAST = {"model": 7, "pass": 7, "flags": 5, "first": 10, "last": 10}
_FILL = "fill it: codesign profile --device host; or codesign measurements --import FILE"


def measurements(
    device: Annotated[
        list[str] | None, typer.Option("--device", "-d", help="Device name or alias; repeatable.")
    ] = None,
    engine: Annotated[list[str] | None, typer.Option(help="onnxruntime, torch, tensorrt, ...; repeatable.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, int8-dynamic, w4a32, ...; repeatable.")] = None,
    phase: Annotated[list[str] | None, typer.Option(help="prefill or decode.")] = None,
    campaign: Annotated[list[str] | None, typer.Option(help="What one campaign recorded; repeatable.")] = None,
    since: Annotated[str | None, typer.Option(help="Recorded since: 2026-11-22 or 2026-11-22T14:30:00Z.")] = None,
    flagged: Annotated[
        bool | None, typer.Option("--flagged/--unflagged", help="Only what has flags (or has none).")
    ] = None,
    campaigns: Annotated[bool, typer.Option("--campaigns", help="List the campaigns.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the full records as JSON Lines.")] = False,
    csv: Annotated[str | None, typer.Option("--csv", help="Write a table to this file; - for standard output.")] = None,
    import_file: Annotated[
        str | None,
        typer.Option(
            "--import", help="Add the records of a file that --json wrote, gzip or not; - for standard input."
        ),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Path or postgresql:// URL; default: CODESIGN_STORE, else your data folder.")
    ] = None,
) -> None:
    """List measurements: one row a pass, with the smallest of its visits' medians.

    Example: codesign measurements --device host --phase decode --csv decode.csv

    Example: ssh board codesign measurements --json | codesign measurements --import -
    """
    from codesign.cli.common import parse_list
    from codesign.errors import SpecError

    names = {"device": device, "engine": engine, "precision": precision, "phase": phase, "campaign": campaign}
    wanted = {name: parse_list(values) for name, values in names.items() if values}
    if unknown := [text for text in wanted.get("phase", []) if text not in ("prefill", "decode")]:
        raise SpecError(f"--phase '{unknown[0]}' is unknown; allowed: prefill, decode")
    filtered = bool(wanted) or since is not None or flagged is not None
    asked = [name for name, on in (("--campaigns", campaigns), ("--json", as_json), ("--csv", csv is not None),
                                   ("--import", import_file is not None)) if on]  # fmt: skip
    if len(asked) > 1:
        raise SpecError(f"{' and '.join(asked)} do not go together; give one")
    if filtered and (campaigns or import_file is not None):
        raise SpecError(f"{asked[0]} takes no filters; leave out --device, --engine, --phase and the like")

    from codesign.store import Store

    with Store(store, create=import_file is not None) as opened:
        if store is not None and not opened.exists:
            raise SpecError(f"no store of measurements at {opened.name}; {_FILL}")
        if import_file is not None:
            _import(opened, import_file)
        elif campaigns:
            _show_campaigns(opened)
        else:
            if "device" in wanted:
                wanted["device"] = [_device_name(text) for text in wanted["device"]]
            found = opened.find(
                device=wanted.get("device"),
                engine=wanted.get("engine"),
                precision=wanted.get("precision"),
                phase=wanted.get("phase"),
                campaign=wanted.get("campaign"),
                since=since,
                flagged=flagged,
            )
            _give(opened, found, as_json=as_json, csv=csv, filtered=filtered)


def _device_name(text: str) -> str:
    """The catalogue's name of an alias; a device that no catalogue holds (host) keeps its name."""
    from codesign.devices import load_device
    from codesign.errors import UnknownNameError

    try:
        return load_device(text).name
    except UnknownNameError:
        return text


def _give(store: Store, found: list[Measurement], *, as_json: bool, csv: str | None, filtered: bool) -> None:
    import sys

    from codesign.measurement import observe

    if as_json:
        from codesign.store import to_jsonl

        sys.stdout.writelines(to_jsonl(found))
    elif csv is not None:
        from codesign.store import measurements_csv

        text = measurements_csv(observe(found))
        if csv == "-":
            sys.stdout.write(text)
        else:
            from codesign._files import write_text

            write_text(csv, text, "--csv")
            print(f"{len(text.splitlines()) - 1} rows written to {csv}", file=sys.stderr)
    elif found:
        show_observations(observe(found), len(found), store.name)
    elif filtered and (summaries := store.campaigns()):
        devices = ", ".join(sorted({row.device for row in summaries}))
        print(
            f"No measurement in {store.name} meets these filters; it has {sum(row.records for row in summaries)} records of: {devices}"
        )
    else:
        print(f"No measurements yet in {store.name}; {_FILL}")


def _import(store: Store, name: str) -> None:
    import sys

    from codesign._files import read_unzipped
    from codesign.store import read_jsonl

    if name == "-":
        records = read_jsonl(sys.stdin, "standard input")
    else:
        records = read_jsonl(read_unzipped(name, "a file that 'codesign measurements --json' wrote").splitlines(), name)
    added = store.add_all(records)
    print(f"{added} records added to {store.name}; {len(records) - added} were there already")


def _show_campaigns(store: Store) -> None:
    summaries = store.campaigns()
    if not summaries:
        print(f"No measurements yet in {store.name}; {_FILL}")
        return
    rows = []
    for summary in summaries:
        first, last = ((time or "-")[:16].replace("T", " ") for time in (summary.first, summary.last))
        rows.append({"campaign": summary.campaign or "-", "device": summary.device, "engine": summary.engine,
                     "precision": summary.precision, "records": str(summary.records), "first": first, "last": last})  # fmt: skip
    _print_table(f"{sum(row.records for row in summaries)} records in {store.name}", rows, list(rows[0]))


def show_observations(observations: list[Observation], records: int, name: str) -> None:
    """What is the same in every row is said once, below the table, so that the rest fits a narrow terminal."""
    rows = [_cells(o) for o in observations]
    fixed = ("device", "mode", "engine", "precision", "flags")
    same = {key: rows[0][key] for key in fixed if len(rows) > 1 and len({row[key] for row in rows}) == 1}
    _print_table(f"{len(rows)} passes, {records} visits, in {name}", rows, [key for key in rows[0] if key not in same])
    if said := ", ".join(f"{key} {value}" for key, value in same.items() if value != "-"):
        print(f"all: {said}")
    print("time: smallest of the visits' medians; again: how far it may move if repeated")


def _print_table(title: str, rows: list[dict[str, str]], shown: list[str]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    from codesign.cli.common import console

    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for key in shown:
        whole = key in ("time", "visits", "again", "records")
        right = key in ("time", "visits", "again", "records")
        table.add_column(
            key, overflow="fold", no_wrap=whole, min_width=_LEAST.get(key), justify="right" if right else "left"
        )
    for row in rows:
        table.add_row(*(Text(row[key]) for key in shown))
    screen = console()
    screen.print(Text(title, overflow="fold"))
    screen.print(table)


def _cells(o: Observation) -> dict[str, str]:
    import math

    from codesign.units import format_count, format_seconds

    m, a = o.first, o.first.architecture
    work = f"prefill {m.tokens}" if m.phase == "prefill" else f"decode @{m.context_tokens}"
    if m.phase == "prefill" and m.context_tokens:
        work += f" @{m.context_tokens}"
    return {
        "device": m.device,
        "mode": m.power_mode or "-",
        "engine": m.engine,
        "precision": m.precision,
        "model": f"{a.n_layers} x {a.d_model}, {format_count(a.params_total)}",
        "pass": work + (f" x{m.batch_size}" if m.batch_size > 1 else ""),
        "time": format_seconds(o.seconds),
        "visits": str(o.visits),
        "again": "-" if math.isnan(o.again_log) else f"{100 * math.expm1(o.again_log):.1f} %",
        "flags": " ".join(o.flags) or "-",
    }
