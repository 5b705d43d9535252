"""`codesign profile`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from codesign.campaign.run import Campaign, Outcome
    from codesign.campaign.setup import Setup
    from codesign.store import Store

__all__ = ["profile"]


def profile(
    device: Annotated[
        str, typer.Option("--device", "-d", help="host, or the catalogue's name of the board this runs on.")
    ],
    engine: Annotated[str, typer.Option(help="onnxruntime, torch, tensorrt, or a plug-in's.")] = "onnxruntime",
    plan: Annotated[
        int | None, typer.Option(help="Choose this many architectures of the space that teach most.")
    ] = None,
    random: Annotated[int | None, typer.Option(help="Choose this many of the space at random: a test set.")] = None,
    models: Annotated[
        list[str] | None, typer.Option(help="Measure these: bundled names, config.json files or their folders.")
    ] = None,
    space: Annotated[
        str, typer.Option(help="Space that --plan and --random choose from: dense, default, paper or a TOML file.")
    ] = "dense",
    max_params: Annotated[
        str | None,
        typer.Option(help="Most active parameters of a chosen architecture; default: 150M on a CPU, 1.5B else."),
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16, bf16, int8-dynamic, w4a32, ...; several in turn.")
    ] = None,
    prompt: Annotated[int, typer.Option(help="Prompt tokens; a quarter of it is timed too.")] = 512,
    generate: Annotated[int, typer.Option(help="Generated tokens: decode is timed at the mean context.")] = 128,
    batch: Annotated[int, typer.Option(help="Requests at once.")] = 1,
    phase: Annotated[
        str | None, typer.Option(help="Only prefill or only decode; decode is quick, and repeats worse.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads, each on a CPU of its own; times of 1 repeat best.")] = 1,
    provider: Annotated[
        str | None, typer.Option(help="Of onnxruntime: cpu, cuda, tensorrt; of torch: cpu, cuda.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="Further option of the engine, name=value.")] = None,
    power_mode: Annotated[str | None, typer.Option(help="Power mode; default: what the board reports.")] = None,
    visits: Annotated[int, typer.Option(help="Visits to each architecture, apart in time.")] = 2,
    compose: Annotated[
        bool,
        typer.Option(
            "--compose", help="Measure depth 1 and a third of the depth, and compose models of 8 layers and more."
        ),
    ] = False,
    layers: Annotated[
        bool,
        typer.Option(
            "--layers", help="With --models: show where the time of each pass goes, instead of keeping records."
        ),
    ] = False,
    campaign: Annotated[str | None, typer.Option(help="Name of the campaign; default: from what decides it.")] = None,
    store: Annotated[str | None, typer.Option(help="SQLite file or postgresql:// URL; default: your own.")] = None,
    on: Annotated[
        list[str] | None, typer.Option(help="Run on this board over ssh: user@host[:port]; repeatable.")
    ] = None,
    hosts: Annotated[str | None, typer.Option(help="File of boards to run on.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler whose workers are boards.")] = None,
    resource: Annotated[
        str | None, typer.Option(help="Resource label of the Dask workers; default: the device.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 1,
    energy: Annotated[
        bool, typer.Option(help="Where a power meter is: take 3 s more a pass for its energy (default), or not.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Profile although the machine looks like another device.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Measure prefill and decode of models with random weights, and keep each time in the store.

    The same command continues a campaign that was interrupted. A record is on the disk the moment it is made.

    Example: codesign profile --device host --plan 20

    Example: codesign profile --device orin --engine tensorrt --models qwen2.5-0.5b --on nvidia@board1 --on nvidia@board2
    """
    from codesign.campaign.setup import build_campaigns, check_choice, open_fleet
    from codesign.cli.common import parse_list, parse_options
    from codesign.errors import SpecError
    from codesign.store import Store
    from codesign.units import parse_count

    if layers and (not models or on or hosts or scheduler):
        raise SpecError("--layers goes with --models NAME, on this machine: it looks into single models")
    chosen = parse_list(models)
    check_choice(plan, random, chosen)
    options = parse_options(option) | ({"provider": provider} if provider else {})
    remote = bool(on or hosts or scheduler)
    if visits < 1:
        raise SpecError(f"--visits {visits} must be at least 1")
    setup = build_campaigns(
        device=device, power_mode=power_mode, engine=engine, options=options, threads=threads, models=chosen, space=space,
        plan=plan, random=random, max_params=parse_count(max_params, "--max-params") if max_params else None, precisions=parse_list(precision),
        prompt=prompt, generate=generate, batch=batch, phase=phase, visits=visits, compose=compose, name=campaign, seed=seed,
        remote=remote, force=force, energy=energy,
    )  # fmt: skip
    if layers:
        _show_layers(setup, chosen)
        return
    with Store(store) as records, open_fleet(setup, on or [], hosts, scheduler, resource) as execute:
        for one in setup.campaigns:
            outcome = _with_progress(one, records, execute, setup.priors[one.precision], quiet)
            if not quiet:
                _tell(one, outcome, records, device, times=bool(chosen))


def _show_layers(setup: Setup, names: list[str]) -> None:
    from rich.table import Table

    from codesign.cli.common import console
    from codesign.errors import SpecError
    from codesign.profilers import LayerProfiler
    from codesign.profilers.layers import over_layers
    from codesign.units import format_seconds

    engine = setup.engine
    if not isinstance(engine, LayerProfiler):
        raise SpecError("this engine reports no layers; onnxruntime and tensorrt do")
    for one in setup.campaigns:
        for name, arch in zip(names, one.architectures, strict=True):
            for point in one.points:
                times = over_layers(engine.layer_profile(arch, one.precision, point))
                work = f"prefill of {point.tokens}" if point.phase == "prefill" else f"decode at {point.context_tokens}"
                table = Table(title=f"{name}, {one.precision}, {work}", title_justify="left", title_style="")
                for heading in ("part", "a pass", "share"):
                    table.add_column(heading, justify="left" if heading == "part" else "right", overflow="fold")
                for t in times:
                    table.add_row(t.name, format_seconds(t.average_s), f"{100 * t.share:.1f} %")
                console().print(table)


def _with_progress(campaign: Campaign, records: Any, execute: Any, priors: Any, quiet: bool) -> Outcome:
    """Run with a bar on stderr where it is a terminal."""
    import sys

    from codesign.campaign.run import run_campaign

    if quiet or not sys.stderr.isatty():
        return run_campaign(campaign, records, execute, priors=priors)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.completed:.0f} of {task.total:.0f} visits"), BarColumn(), TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1)  # a column formats it; the campaign tells the true one at once

        def show(p: Any) -> None:
            bar.update(task, completed=p.done, total=p.total, description=p.label)

        return run_campaign(campaign, records, execute, priors=priors, on_progress=show)


def _tell(campaign: Campaign, outcome: Outcome, records: Store, device: str, *, times: bool) -> None:
    """What was added; with `times` every pass of the campaign at this precision."""
    print(
        f"{campaign.name}: {outcome.architectures} architectures at {campaign.precision}, {outcome.records} records added to "
        f"{records.name}"
    )
    for arch, why in outcome.failed:
        print(f"  not measured: {arch.n_layers} layers x {arch.d_model}: {why}")
    if outcome.records == 0 and not outcome.failed:
        print("  nothing was missing: give another --plan, --visits or --campaign to measure more")
    if times:
        from codesign.cli.measurements import show_observations
        from codesign.measurement import observe

        found = records.find(campaign=campaign.name, precision=campaign.precision)
        show_observations(observe(found), len(found), records.name)
    else:
        print(f"times: codesign measurements --campaign {campaign.name}")
    mode = f" --power-mode {campaign.power_mode}" if campaign.power_mode else ""
    print(f"next: codesign calibrate --device {device}{mode}")
