"""`codesign search`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from codesign.search import Frontier

__all__ = ["search"]


def search(
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Device name, alias (orin) or device file.")
    ] = None,
    latency: Annotated[str | None, typer.Option(help="Bound on the time per generated token, such as 20ms.")] = None,
    ttft: Annotated[str | None, typer.Option(help="Bound on the time to first token, such as 500ms.")] = None,
    e2e: Annotated[str | None, typer.Option(help="Bound on the whole request, such as 2s.")] = None,
    memory: Annotated[str | None, typer.Option(help="Bound on peak memory, such as 8GB.")] = None,
    energy: Annotated[str | None, typer.Option(help="Bound on energy per generated token, such as 500mJ.")] = None,
    power: Annotated[str | None, typer.Option(help="Bound on mean power, such as 15W.")] = None,
    params: Annotated[str | None, typer.Option(help="Bound on stored parameters, such as 3B.")] = None,
    prompt: Annotated[int, typer.Option(help="Prompt tokens.")] = 1024,
    generate: Annotated[int, typer.Option(help="Generated tokens.")] = 128,
    batch: Annotated[int, typer.Option(help="Requests at once.")] = 1,
    serving: Annotated[
        list[str] | None,
        typer.Option(
            help="How models are served, name=value: kv-budget-tokens=512, sparse-tokens=2048, latent=expanded, ..."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="fp16, bf16, int8, w4a16, q4_k_m, ...; several are searched over. Default: fp16, or what your own calibration has."
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="vllm, llama.cpp, mlc-llm, tinychat, transformers, tensorrt-llm, ...")
    ] = None,
    power_mode: Annotated[
        str | None, typer.Option(help="Power mode of the device, such as 30W; default: full power.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Training tokens of every design; default: 10B, or those of your own runs.")
    ] = None,
    objectives: Annotated[
        str,
        typer.Option(
            help="Two or more of loss,latency,ttft,e2e,memory,energy,params,size; size (active parameters) is maximised."
        ),
    ] = "loss,latency",
    space: Annotated[
        str, typer.Option(help="default, dense (no experts), paper, or a TOML file with an [axes] table.")
    ] = "default",
    families: Annotated[
        str | None,
        typer.Option(
            help="Families to search, such as dense,moe,hybrid: dense, moe, window, hybrid, recurrent, conv, uneven, mla, shared, looped. Default: those of the space."
        ),
    ] = None,
    loss_law: Annotated[
        str,
        typer.Option(help="gemstones, openlm-grid, llama-2k, deepmind-moe, steplaw, paper, or a file of codesign fit."),
    ] = "gemstones",
    vocab: Annotated[
        int | None,
        typer.Option(help="Size of your tokenizer; default: the baseline's, else the law's own, else 50304."),
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Known model (qwen2.5-0.5b), config.json or its folder; repeatable.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Probability with which each time and energy bound must hold.")
    ] = 0.5,
    allow_extrapolation: Annotated[
        bool, typer.Option("--allow-extrapolation", help="Keep designs outside the loss law's data.")
    ] = False,
    solver: Annotated[str, typer.Option(help="auto, exact or heuristic.")] = "auto",
    prune: Annotated[
        float | None,
        typer.Option(help="Drop up to this share of the axis values first, such as 0.3: boosted trees say which."),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            help="Evaluations of the heuristic solver, 20,000 by default; with --table: replay with this many trainings."
        ),
    ] = None,
    calibration: Annotated[str | None, typer.Option(help="Another calibration file.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
    out: Annotated[str | None, typer.Option(help="Folder of the run; default: results/<device>-<budget>-<id>.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the frontier as JSON Lines instead of the table.")
    ] = False,
    plot: Annotated[bool, typer.Option(help="Write pareto.png.")] = True,
    table: Annotated[
        str | None,
        typer.Option(
            help="CSV of candidates instead of a device: costs known, quality empty until a model is trained."
        ),
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="With --table: the column that training shows, such as accuracy:max or loss:min.")
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(help="With --table: one or two known columns to minimise (COLUMN:max: maximise)."),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="With --table: columns to predict from, * matches; default: all complete ones."),
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="With --table: columns not to predict from.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="With --table: number columns that are labels, not amounts.")
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(
            help="With --table: columns eij are a cell's edges, such as none=0,layers=2+3: count along its paths."
        ),
    ] = None,
    least: Annotated[
        list[str] | None, typer.Option("--min", help="With --table: rows below COLUMN=NUMBER do not count.")
    ] = None,
    most: Annotated[
        list[str] | None, typer.Option("--max", help="With --table: rows above COLUMN=NUMBER do not count.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="With --table: rows to train at once.")] = 10,
) -> None:
    """Find the Pareto frontier of decoder architectures for a device and a budget.

    Give at least one bound. Writes frontier.jsonl, frontier.csv, pareto.png and a config.json for each design.
    With --table: say which candidates of a CSV to train next (ask.csv), or replay that where all are trained.

    Example: codesign search --device orin --latency 20ms --baseline qwen2.5-0.5b

    Example: codesign search --table mine.csv --quality accuracy:max --cost latency_ms
    """
    if table is not None:
        from codesign.cli.search_table import TableOptions, search_table

        budgets = {
            "--device": device, "--latency": latency, "--ttft": ttft, "--e2e": e2e, "--memory": memory, "--energy": energy,
            "--power": power, "--params": params, "--prune": prune,
        }  # fmt: skip
        TableOptions.refuse([name for name, given in budgets.items() if given is not None])
        search_table(
            TableOptions(
                table,
                quality,
                cost,
                features,
                ignore,
                labels,
                cell,
                least,
                most,
                evaluations,
                batch_size,
                seed,
                out,
                as_json,
                plot,
            )
        )
        return
    if device is None:
        raise typer.BadParameter("missing; such as --device orin, or --table FILE for a table", param_hint="'--device'")
    given_evaluations, evaluations = evaluations, 20_000 if evaluations is None else evaluations
    from pathlib import Path

    from codesign import units
    from codesign.budget import Budget
    from codesign.cli.common import parse_list, workload_of
    from codesign.devices import load_device
    from codesign.engines import resolve_engine
    from codesign.errors import SpecError
    from codesign.hf_config import read_config
    from codesign.predictors import load_law
    from codesign.report import check_folder, write_run
    from codesign.roofline.calibration import load_calibration
    from codesign.search import build_problem, load_space
    from codesign.search import search as run_search
    from codesign.search.api import solves_exactly
    from codesign.search.mixers import family_axes, parse_mixer
    from codesign.workload import parse_precision

    budget = Budget(
        latency_s=units.parse_seconds(latency, "--latency") if latency else None,
        ttft_s=units.parse_seconds(ttft, "--ttft") if ttft else None,
        e2e_s=units.parse_seconds(e2e, "--e2e") if e2e else None,
        memory_B=units.parse_bytes(memory, "--memory") if memory else None,
        energy_J=units.parse_energy(energy, "--energy") if energy else None,
        power_W=units.parse_power(power, "--power") if power else None,
        params=units.parse_count(params, "--params") if params else None,
        confidence=confidence,
    )
    if not budget.bounds():
        raise SpecError("no budget given; give at least one of --latency, --ttft, --e2e, --memory, --energy, --power, --params, such as --latency 20ms")  # fmt: skip
    if vocab is not None and vocab < 2:
        raise SpecError(f"--vocab {vocab} must be at least 2: the size of your tokenizer")
    if evaluations < 1:
        raise SpecError(f"--evaluations {evaluations} must be at least 1")
    if seed < 0:
        raise SpecError(f"--seed {seed} must not be negative")
    chosen = load_device(device, power_mode)
    workload = workload_of(prompt, generate, batch, serving)
    precisions = list(
        dict.fromkeys(parse_precision(name).name for name in parse_list(precision) or [chosen.usual_precision(engine)])
    )
    models = {label: read_config(name) for label, name in _labels(parse_list(baseline)).items()}
    law = load_law(loss_law)
    known = getattr(law, "vocab_size", None) or 50304  # of a law fitted to runs: theirs
    vocab_size = vocab or next((arch.vocab_size for arch in models.values()), known)
    trained = units.parse_count(tokens, "--tokens") if tokens else getattr(law, "training_tokens", None) or 10e9
    designs = load_space(space, precisions, vocab_size)
    if families is not None:
        if designs.axes["mixer"] != ("full",):
            raise SpecError(
                f"--families and the axis mixer of {space} ({', '.join(designs.axes['mixer'])}) both say what is searched: leave one out"
            )
        experts, mixers = family_axes(parse_list([families]), designs.axes["experts"])
        designs = designs.with_axis("experts", experts).with_axis("mixer", mixers)
    kinds = {parse_mixer(text) for text in designs.axes["mixer"]}
    workload.serving.check(
        latent=any(m.kind == "mla" for m in kinds),
        attention=any(m.numbers[:1] != (0,) for m in kinds),
        whose="the space",
    )
    fits = load_calibration(Path(calibration) if calibration else None)
    first = parse_precision(str(designs.axes["precision"][0]))
    engine_name = resolve_engine(engine, chosen) if engine else fits.engine_for(chosen, first)
    problem = build_problem(
        device=chosen,
        engine=engine_name,
        space=designs,
        workload=workload,
        budget=budget,
        law=law,
        tokens=trained,
        objectives=parse_list([objectives]),
        allow_extrapolation=allow_extrapolation,
        calibration=fits,
    )
    exact = solves_exactly(problem, solver)
    if given_evaluations is not None and exact and prune is None:
        raise SpecError(
            f"--evaluations {evaluations} goes with the heuristic solver; this space of {problem.space.size:,} points is enumerated: "
            "leave it out, or give --solver heuristic"
        )
    how = "" if exact and prune is None else f" {solver} {evaluations} {prune}"
    folder = Path(out) if out else Path("results") / _run_name(problem, f"{engine_name} {seed}{how}", budget, models)
    check_folder(folder)
    pruned = None
    if prune is not None:
        from codesign.search.prune import prune_for_search

        problem, pruned = prune_for_search(problem, prune, solver, seed)
    frontier = _with_progress(
        lambda on_progress, state: run_search(
            problem, baselines=models, seed=seed, solver=solver, evaluations=evaluations, on_progress=on_progress,
            state=state, provenance=_provenance(engine_name, fits),
        ),
        folder,
        problem.space.size,
    )  # fmt: skip
    frontier = pruned.note(frontier) if pruned is not None else frontier
    kept: list[Path] = []
    write_run(frontier, folder, plot=plot, on_kept=kept.append)
    if as_json:
        print(frontier.to_jsonl(), end="")
        return
    from codesign.cli.show import print_frontier

    print_frontier(frontier, folder, kept)


def _labels(names: list[str]) -> dict[str, str]:
    """What known models are called: a bundled name, or the file's or folder's; as given where two would be called the same."""
    from pathlib import Path

    labels: dict[str, str] = {}
    for name in names:
        path = Path(name)
        if path.name == "config.json":
            path = path.absolute().parent
        short = path.stem if path.suffix == ".json" else path.name
        labels[name if not short or short in labels else short] = name
    return labels


def _run_name(problem: Any, how: str, budget: Any, models: dict[str, Any]) -> str:
    """Device, first bound, and eight digits of everything that decides the result: equal searches share a folder."""
    import hashlib

    from codesign.budget import FORMATS
    from codesign.search.enumerate import fingerprint

    device = next(iter(problem.models.values())).device
    name, bound = next(iter(budget.bounds().items()))
    shown = FORMATS[name](bound).replace(" ", "")
    everything = fingerprint(problem, f"{how} {sorted((k, repr(v)) for k, v in models.items())}")
    short = device.aliases[0] if device.aliases else device.name
    return f"{short}-{shown}-{hashlib.sha256(everything.encode()).hexdigest()[:8]}"


def _provenance(engine: str, fits: Any) -> dict[str, Any]:
    import sys
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("codesign-llm")
    except PackageNotFoundError:
        number = "unknown"
    return {
        "codesign": number,
        "command": ["codesign", *sys.argv[1:]],
        "engine": engine,
        "calibration_held_out": {"prefill": fits.prefill.held_out, "decode": fits.decode.held_out},
    }


def _with_progress(run: Any, folder: Path, size: int) -> Frontier:
    """Run with a bar on stderr where it is a terminal and the space is large, and with a state file to resume from."""
    import sys

    if size < 5_000_000:
        result: Frontier = run(None, None)
        return result
    state = folder.with_name(f".{folder.name}.state.json")
    if not sys.stderr.isatty():
        result = run(None, state)
        return result
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("searching"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("search", total=size)
        result = run(lambda p: bar.update(task, completed=p.done, total=p.total), state)
    return result
