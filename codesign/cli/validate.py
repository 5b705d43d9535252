"""`codesign validate RUN`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from codesign.campaign.validate import Validation

__all__ = ["validate"]


def validate(
    run: Annotated[str, typer.Argument(help="Folder of a run that codesign search wrote.")],
    device: Annotated[str, typer.Option("--device", "-d", help="host, or the name of the board this runs on.")],
    top: Annotated[int, typer.Option(help="How many designs, spread over the frontier.")] = 8,
    engine: Annotated[str | None, typer.Option(help="Default: the engine that the run was searched for.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: as the calibration was made with.")] = None,
    provider: Annotated[
        str | None, typer.Option(help="Of onnxruntime: cpu, cuda, tensorrt; of torch: cpu, cuda.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the engine, name=value; default: as the calibration was made with."),
    ] = None,
    power_mode: Annotated[str | None, typer.Option(help="Power mode; default: what the board reports.")] = None,
    visits: Annotated[int, typer.Option(help="Visits to each design, apart in time.")] = 3,
    store: Annotated[str | None, typer.Option(help="SQLite file or postgresql:// URL; default: your own.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although device, mode or machine differ from the run's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print validation.json instead of the table.")] = False,
) -> None:
    """Build designs of a frontier, measure them here, and show predicted against measured.

    Writes validation.json, validation.csv and validation.png into the run's folder; the measurements go into the store.

    Example: codesign validate results/host-100ms-1a2b3c4d --device host --top 8
    """
    from pathlib import Path

    from codesign.campaign.local import run_here
    from codesign.campaign.run import belongs, run_campaign
    from codesign.campaign.setup import calibrated_options, phase_priors
    from codesign.campaign.target import check_machine, target_device
    from codesign.campaign.validate import check_frontier, choose, validation_campaigns
    from codesign.campaign.validate import validate as compare
    from codesign.cli.common import parse_options
    from codesign.errors import SpecError
    from codesign.measurement import machine_name
    from codesign.profilers.base import uses_accelerator
    from codesign.profilers.engines import open_engine
    from codesign.profilers.host import detect_host
    from codesign.report.validation import write_validation
    from codesign.search import read_frontier
    from codesign.store import Store

    folder = Path(run)
    path = folder / "frontier.jsonl"
    if not path.is_file():
        raise SpecError(
            f"{folder} is not a run of codesign (it has no frontier.jsonl); give the folder that search wrote"
        )
    frontier = read_frontier(path)
    name = engine or str(frontier.provenance["engine"])
    chosen = choose(frontier, top)
    asked = (
        parse_options(option)
        | ({"provider": provider} if provider else {})
        | ({"threads": str(threads)} if threads is not None else {})
    )
    batch = int(frontier.provenance["workload"]["batch_size"])
    opened = open_engine(name, calibrated_options(device, power_mode, name, chosen[0].precision, asked, batch))
    target = target_device(
        device,
        power_mode,
        threads=int(opened.options.get("threads", "1")),
        accelerator=uses_accelerator(opened),
        force=force,
    )
    if target.name == "host":
        check_machine(target, None, accelerator=False, force=force)
    check_frontier(frontier, target, name, opened.options, chosen, force)
    here = machine_name(detect_host().summary()) if target.name == "host" else ""
    campaigns = validation_campaigns(frontier, chosen, folder.resolve().name, opened, here, visits, force)
    with Store(store) as records:
        for one in campaigns:
            priors = phase_priors(target, name, one.precision, one.points[0].batch_size)
            outcome = run_campaign(one, records, run_here(opened), priors=priors)
            for arch, why in outcome.failed:
                typer.echo(f"not measured: {arch.n_layers} layers x {arch.d_model}: {why}", err=True)
        found = [m for one in campaigns for m in records.find(campaign=one.name) if belongs(m, one)]
    result = compare(frontier, chosen, found)
    written = write_validation(result, folder)
    if as_json:
        print(written[0].read_text(encoding="utf-8"), end="")
        return
    _show(result)
    print(f"written: {', '.join(str(p) for p in written)}")


def _show(result: Validation) -> None:
    import math

    from rich.table import Table

    from codesign.cli.common import console

    table = Table(title="predicted against measured, ms and mJ", title_justify="left")
    for heading in ("design", "layers x width", "what", "predicted", "90 %", "measured", "error"):
        table.add_column(heading, justify="left" if heading in ("design", "layers x width", "what") else "right")
    shapes = {c.name: f"{c.architecture.n_layers} x {c.architecture.d_model}" for c in result.candidates}
    names = {"latency_s": "per token", "ttft_s": "first token", "energy_J": "energy a token"}
    for row in result.rows:
        low, high = (1e3 * v for v in row.interval)
        table.add_row(
            row.design, shapes[row.design], names[row.metric], f"{1e3 * row.predicted:.4g}", f"{low:.4g}-{high:.4g}",
            f"{1e3 * row.measured:.4g}", f"{100 * row.error:+.1f} %" + ("" if row.inside else " outside"),
        )  # fmt: skip
    screen = console()
    screen.print(table)
    for metric, s in result.summary().items():
        rho = "-" if math.isnan(s["spearman"]) else f"{s['spearman']:.3f}"
        again = "unknown" if math.isnan(s["repeat_pct"]) else f"{s['repeat_pct']:.1f} %"
        screen.print(
            f"{names[metric]}: mean error {s['mape_pct']:.1f} %, largest {s['max_pct']:.1f} %, rank correlation {rho}, "
            f"{s['coverage']:.0%} of {s['designs']:.0f} inside the 90 % interval; a second visit differs by {again} (median)"
        )
    screen.print(
        f"of the designs measured, {len(result.pareto)} are non-dominated in predicted loss and measured time per token: "
        f"{', '.join(result.pareto)}"
    )
