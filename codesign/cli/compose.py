"""`codesign compose`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from codesign.architecture import Architecture
    from codesign.campaign.composing import Composed

__all__ = ["compose"]

_NAMES = {"attention": "A", "mlp": "F", "mamba2": "R", "gdn": "R", "mlstm": "R", "conv": "R"}


def compose(
    device: Annotated[str, typer.Option("--device", "-d", help="Device to cost the grown models on.")],
    primitives: Annotated[
        str, typer.Option(help="attention, mlp, and one of mamba2, gdn, mlstm, conv; separated by commas.")
    ] = "attention,mlp,mamba2",
    layers: Annotated[int, typer.Option(help="Sublayers of a small stack.")] = 16,
    evaluations: Annotated[int, typer.Option(help="Small stacks to train.")] = 24,
    tasks: Annotated[
        str | None,
        typer.Option(help="recall,noisy-recall,fuzzy-recall,selective-copy,memorise,compress; default: all."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps a task.")] = 200,
    width: Annotated[int, typer.Option(help="Width of the small models.")] = 64,
    keep: Annotated[int, typer.Option(help="How many of the best are aggregated.")] = 8,
    targets: Annotated[str, typer.Option(help="Parameters of the grown models.")] = "350M,1B,3B",
    precision: Annotated[str, typer.Option(help="Of the grown models.")] = "fp16",
    engine: Annotated[str | None, typer.Option(help="vllm, llama.cpp, ...; default: the device's best known.")] = None,
    prompt: Annotated[int, typer.Option(help="Prompt tokens.")] = 1024,
    generate: Annotated[int, typer.Option(help="Generated tokens.")] = 128,
    vocab: Annotated[int, typer.Option(help="Vocabulary of the grown models.")] = 50304,
    out: Annotated[
        str | None, typer.Option(help="Folder; the same command goes on in it. Default: results/compose-....")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 1,
) -> None:
    """Search small stacks of attention, FFN and recurrence on synthetic tasks, reduce the best to one, and grow it.

    Trains each stack for real (on the CPU, about a minute or two each). Interrupt it as you like: the same command goes on.

    Example: codesign compose --device orin --primitives attention,mlp,mamba2 --evaluations 24
    """
    import json

    from codesign.campaign.composing import ComposeSettings
    from codesign.campaign.composing import compose as run
    from codesign.cli.common import parse_list, workload_of, writable_folder
    from codesign.devices import load_device
    from codesign.engines import resolve_engine
    from codesign.errors import MissingExtraError, SpecError
    from codesign.roofline.calibration import load_calibration
    from codesign.roofline.cost import RooflineModel
    from codesign.units import parse_count
    from codesign.workload import parse_precision

    names = parse_list([primitives])
    if unknown := [name for name in names if name not in _NAMES]:
        raise SpecError(f"unknown primitive '{unknown[0]}'; known: {', '.join(_NAMES)}")
    recurrences = [name for name in names if _NAMES[name] == "R"]
    if len(recurrences) > 1:
        raise SpecError(
            f"primitives name {len(recurrences)} recurrences ({', '.join(recurrences)}); a stack has one kind at most"
        )
    sizes = [parse_count(text, "--targets") for text in parse_list([targets])]
    chosen, form = load_device(device), parse_precision(precision)
    fits = load_calibration()
    name = resolve_engine(engine, chosen) if engine else fits.engine_for(chosen, form)
    workload = workload_of(prompt, generate, 1)
    more: dict[str, Any] = {"tasks": tuple(parse_list([tasks]))} if tasks else {}
    settings = ComposeSettings(
        primitives="".join(dict.fromkeys(_NAMES[n] for n in names)), recurrence=(recurrences or ["mamba2"])[0], length=layers,
        evaluations=evaluations, steps=steps, width=width, keep=keep, seed=seed, **more,
    )  # fmt: skip
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError.of("torch", "train", "codesign compose") from error
    from codesign.training.mad import TASKS

    if missing := [task for task in settings.tasks if task not in TASKS]:
        raise SpecError(f"unknown task '{missing[0]}'; known: {', '.join(TASKS)}")
    torch.set_num_threads(1)
    _check_sizes(settings, sizes, vocab)
    folder = writable_folder(out, f"compose-{settings.primitives}{layers}-{settings.recurrence}-{seed}")
    found = run(settings, folder / "evaluations.jsonl", on_progress=_told)
    cost = RooflineModel.of(chosen, fits.rates(chosen, name, form, 1, workload))
    rows = _grown(found, sizes, vocab, cost, workload, form, folder)
    report = {
        "settings": json.loads(json.dumps(_plain(settings))), "best": found.best.stack,
        "aggregates": {m: {"stack": e.stack, "score": e.score} for m, e in found.aggregates.items()},
        "device": chosen.name, "engine": name, "precision": form.name, "grown": rows,
    }  # fmt: skip
    (folder / "compose.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _show(found, rows, f"{chosen.title}, {name}, {form.name}, {prompt} in, {generate} out", folder)


def _check_sizes(settings: Any, sizes: list[float], vocab: int) -> None:
    """Refuse what the stacks could not be grown to, before any is trained.

    Raises:
        SpecError: a vocabulary below 2, or a target that the plain stack does not reach.
    """
    from codesign.errors import InfeasibleError, SpecError
    from codesign.search.stacks import EXTENSIONS, scaled

    if vocab < 2:
        raise SpecError(f"--vocab {vocab} must be at least 2: the size of your tokenizer")
    for size in sizes:
        for how in EXTENSIONS:
            with suppress(InfeasibleError):
                scaled(_alternating(settings), size, how, recurrence=settings.recurrence, vocab_size=vocab)
                break
        else:
            raise SpecError(
                f"--targets: {size:.3g} parameters are out of reach of stacks of {settings.length} sublayers 128 to 8,192 wide with a "
                f"vocabulary of {vocab:,} (its embedding alone takes {vocab * 128:.3g} at the least width): give other --targets, --vocab or "
                "--layers"
            )


def _alternating(settings: Any) -> str:
    """Attention (or the recurrence) and FFN in turn, as far as they are primitives."""
    turn = ("A" if "A" in settings.primitives else "R") + ("F" if "F" in settings.primitives else "")
    return str((turn * settings.length)[: settings.length])


def _plain(settings: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(settings)


def _told(done: int, total: int, e: Any) -> None:
    import sys

    print(f"{done} of at most {total}: {e.stack} {e.score:.3f} ({e.seconds:.0f} s)", file=sys.stderr, flush=True)


def _grown(
    found: Composed, sizes: list[float], vocab: int, cost: Any, workload: Any, form: Any, folder: Any
) -> list[dict[str, Any]]:
    """Every aggregate, the best stack and the plain alternation, at every size and by both extensions, with a config.json each."""
    import json

    from codesign.errors import InfeasibleError
    from codesign.hf_config import config_dict
    from codesign.search.stacks import EXTENSIONS, scaled

    s = found.settings
    stacks = {
        "plain": _alternating(s),
        "best": found.evaluations[0].stack,
        **{m: e.stack for m, e in found.aggregates.items()},
    }
    named: dict[str, str] = {}
    for source, stack in stacks.items():  # aggregators often agree
        named[stack] = f"{named[stack]}+{source}" if stack in named else source
    rows: list[dict[str, Any]] = []
    for stack, source in named.items():
        for size in sizes:
            for how in EXTENSIONS:
                row: dict[str, Any] = {"from": source, "stack": stack, "target": size, "how": how}
                try:
                    arch: Architecture = scaled(stack, size, how, recurrence=s.recurrence, vocab_size=vocab)
                except InfeasibleError as error:
                    rows.append({**row, "problem": str(error)})
                    continue
                estimate = cost.estimate(arch, workload, form)
                name = f"{source}-{size / 1e6:.0f}M-{how}"
                path = folder / "grown" / name / "config.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(
                    json.dumps(config_dict(arch, max_position_embeddings=8192), indent=2) + "\n", encoding="utf-8"
                )
                rows.append({
                    **row, "name": name, "layout": arch.layout, "d_model": arch.d_model, "params": arch.params_total,
                    "latency_s": float(estimate.decode_s), "ttft_s": float(estimate.prefill_s), "memory_B": float(estimate.peak_memory_B),
                })  # fmt: skip
    return rows


def _show(found: Composed, rows: list[dict[str, Any]], where: str, folder: Any) -> None:
    from rich.table import Table

    from codesign.cli.common import console
    from codesign.units import format_bytes, format_count, format_seconds

    screen, tasks = console(), found.settings.tasks
    table = Table(
        title=f"{len(found.evaluations)} stacks trained; share of right answers (chance 0.06)", title_justify="left"
    )
    for heading in ("", "stack", "score", *tasks):
        table.add_column(heading, justify="left" if heading in ("", "stack") else "right", no_wrap=heading == "stack")
    shown = [(f"{i}", e) for i, e in enumerate(found.evaluations[:5], start=1)]
    plain = [e for e in found.evaluations if len(set(e.stack[::2])) == 1 and len(set(e.stack[1::2])) == 1]
    shown += [("plain", e) for e in plain if e not in found.evaluations[:5]]
    for label, e in [*shown, *found.aggregates.items()]:
        table.add_row(label, e.stack, f"{e.score:.3f}", *(f"{e.accuracy[t]:.2f}" for t in tasks))
    screen.print(table)
    grown = Table(title=f"Grown, on {where}", title_justify="left")
    for heading in ("from", "how", "params", "sublayers", "width", "ms/token", "TTFT", "memory"):
        grown.add_column(heading, justify="left" if heading in ("from", "how") else "right")
    for r in rows:
        if "problem" in r:
            grown.add_row(r["from"], r["how"], format_count(r["target"]), "-", "-", "-", "-", "no width fits")
            continue
        grown.add_row(r["from"], r["how"], format_count(r["params"]), str(len(r["layout"])), str(r["d_model"]), f"{1e3 * r['latency_s']:.1f}",
                      format_seconds(r["ttft_s"], 2), format_bytes(r["memory_B"], 2))  # fmt: skip
    screen.print(grown)
    screen.print(
        "scores are of small models on synthetic tasks: what they say of the grown models' loss was not measured"
    )
    screen.print(f"written: {folder}/ (evaluations.jsonl, compose.json, grown/NAME/config.json)")
