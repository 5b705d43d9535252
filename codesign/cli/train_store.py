"""The store's training runs on the command line: a table, files out and in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codesign.store import Store
    from codesign.training_run import TrainingRun

__all__ = ["export_runs", "import_runs", "list_runs", "show_runs"]

_FILL = "fill it: codesign train --plan 40 --data stdlib; or codesign train --import FILE"


def show_runs(runs: Sequence[TrainingRun]) -> None:
    """A table, smallest model first; the best losses of their size and below are marked."""
    from rich.box import SIMPLE
    from rich.table import Table

    from codesign.cli.common import console
    from codesign.units import format_count

    if not runs:
        return
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("layers", "width", "heads", "FFN", "parameters", "tokens", "lr", "loss", "", "seconds", "status"):
        table.add_column(heading, justify="left" if heading in ("status", "") else "right", no_wrap=heading != "status")
    ordered = sorted(runs, key=lambda r: (r.data, r.tokenizer, r.architecture.params_active_nonembedding, r.key))
    best: dict[tuple[str, str, int], float] = {}
    for run in ordered:
        a, group = run.architecture, (run.data_digest, run.tokenizer, run.recipe.tokens)
        leads = run.loss is not None and run.loss < best.get(group, float("inf"))
        if leads and run.loss is not None:
            best[group] = run.loss
        last = run.valid_curve[-1].valid_loss if run.valid_curve else None
        loss = f"{run.loss:.4f}" if run.loss is not None else "-" if last is None else f"({last:.3f})"
        share = "" if run.status == "finished" else f" at {run.tokens_seen / run.recipe.tokens:.0%}"
        heads = f"{a.n_heads}/{a.n_kv_heads}"
        ffn = f"{a.n_experts}x{a.d_ff_expert}" if a.n_experts else str(a.d_ff)
        table.add_row(
            str(a.n_layers), str(a.d_model), heads, ffn, format_count(a.params_active_nonembedding),
            format_count(run.recipe.tokens), f"{run.recipe.lr:.2g}", loss, "*" if leads else "", f"{run.seconds:.0f}",
            run.status + share,
        )  # fmt: skip
    console().print(table)
    print("loss: nats per token of held-out text; *: no smaller model of these lost less; heads: query/KV")


def list_runs(store: str | None, campaign: str | None) -> None:
    """Print the table.

    Raises:
        SpecError: no such store.
    """
    with _opened(store) as opened:
        runs = opened.find_runs(campaign=campaign)
        if runs:
            show_runs(runs)
            print(f"{len(runs)} runs in {opened.name}")
            return
        sets = sorted({row.campaign for row in opened.run_sets()})
        if campaign is not None and sets:
            print(f"No run of campaign '{campaign}' in {opened.name}; it has: {', '.join(sets)}")
        else:
            print(f"No training runs yet in {opened.name}; {_FILL}")


def export_runs(store: str | None, file: str, campaign: str | None) -> None:
    """Write runs to a file whose name says the format; - is JSON Lines on standard output.

    Raises:
        SpecError: another name, nothing to write, or a file that cannot be written.
    """
    import sys
    from pathlib import Path

    from codesign.errors import SpecError
    from codesign.store import runs_csv, runs_to_jsonl

    if file != "-" and not file.endswith((".csv", ".jsonl", ".jsonl.gz")):
        raise SpecError(
            f"--export '{file}': the name must end in .csv, .jsonl or .jsonl.gz, or be - for standard output"
        )
    with _opened(store) as opened:
        runs = opened.find_runs(campaign=campaign)
        if not runs:
            of = f" of campaign '{campaign}'" if campaign is not None else ""
            raise SpecError(f"no training runs{of} in {opened.name}; see codesign train --list")
    text = runs_csv(runs) if file.endswith(".csv") else "".join(runs_to_jsonl(runs))
    if file == "-":
        sys.stdout.write(text)
        return
    data = text.encode("utf-8")
    if file.endswith(".gz"):
        import gzip

        data = gzip.compress(data, mtime=0)  # the same runs give the same file
    try:
        from codesign.training.whole_file import write_whole

        write_whole(Path(file), data)
    except OSError as error:
        raise SpecError(f"cannot write {file}: {error.strerror}; give a writable --export") from error
    print(f"{len(runs)} runs written to {file}", file=sys.stderr)


def import_runs(store: str | None, file: str) -> None:
    """Add what `export_runs` wrote, gzip or not.

    Raises:
        SpecError: a file that cannot be read. SchemaError: one that holds something else.
    """
    from codesign._files import read_unzipped
    from codesign.store import Store, read_runs_jsonl

    text = read_unzipped(file, "a file that 'codesign train --export' wrote")
    runs = read_runs_jsonl(text.splitlines(), file)
    with Store(store) as records:
        added = records.add_runs(runs)
        print(f"{added} runs added to {records.name}; {len(runs) - added} were there already")


def _opened(store: str | None) -> Store:
    from codesign.errors import SpecError
    from codesign.store import Store

    opened = Store(store, create=False)
    if store is not None and not opened.exists:
        raise SpecError(f"no store at {opened.name}; {_FILL}")
    return opened
