"""`codesign train`: train small language models whose losses teach the law."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from codesign.campaign.training_campaign import TrainingOutcome
    from codesign.campaign.training_setup import TrainingSetup

__all__ = ["train"]


def train(
    plan: Annotated[int | None, typer.Option(help="Choose this many architectures that teach the law most.")] = None,
    random: Annotated[int | None, typer.Option(help="Choose this many at random: a test set.")] = None,
    config: Annotated[
        list[str] | None, typer.Option(help="Train this: a config.json, its folder or a bundled name; repeatable.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Text: a file, a folder, or stdlib (Python's own source, which is always there).")
    ] = None,
    suffix: Annotated[
        list[str] | None, typer.Option(help="Files of the folder that count, such as .py; repeatable; default: all.")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(help="byte, or bpe-N with a vocabulary of N learnt from the text.")
    ] = "byte",
    tokens: Annotated[
        list[str] | None,
        typer.Option(help="Training tokens of a run: 2M (the default), or several for --plan to choose from: 1M,4M."),
    ] = None,
    min_params: Annotated[str, typer.Option(help="Fewest parameters of a chosen model, embeddings left out.")] = "30k",
    max_params: Annotated[str, typer.Option(help="Most parameters of a chosen model, embeddings left out.")] = "1M",
    space: Annotated[
        str | None,
        typer.Option(help="Space that --plan and --random choose from; default: depth 2 to 32, width from 32."),
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one optimizer step.")] = 2048,
    seq_len: Annotated[int, typer.Option(help="Tokens of one sequence.")] = 128,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; default: by width.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="fp32 or bf16; default: bf16 on a GPU, fp32 on a CPU, where it is faster.")
    ] = None,
    halving: Annotated[
        bool,
        typer.Option(
            "--halving/--no-halving",
            help="Stop runs early that cannot be on the frontier of loss and size; a law learns more from all: --no-halving.",
        ),
    ] = True,
    rungs: Annotated[
        str | None, typer.Option(help="Shares of the steps at which runs are judged; default: 0.2,0.4,0.6,0.8.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time; default: as many as there are cores, 1 on a GPU.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of each run.")] = 1,
    device: Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu or cuda.")] = "auto",
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler whose workers train: tcp://HOST:8786.")
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(help="Folder of checkpoints and encoded text, seen by all workers; default: in your data folder."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the campaign; default: from what decides it.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice, the weights and the order of the text.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost, and train nothing.")] = False,
    show: Annotated[
        bool, typer.Option("--list", help="List the runs in the store; with --name: of one campaign.")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(help="Write the runs in the store to FILE.csv, or with curves to FILE.jsonl or .jsonl.gz."),
    ] = None,
    import_file: Annotated[
        str | None, typer.Option("--import", help="Add the runs of a file that --export FILE.jsonl wrote.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Path or postgresql:// URL; default: CODESIGN_STORE, else your data folder.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Train small language models on real text and keep their loss curves in the store, for codesign fit.

    The same command continues what was interrupted, from the checkpoints, with the same result. Finished runs on the same text
    count as known: more of them is another --seed.

    Example: codesign train --plan 40 --data stdlib --tokens 2M

    Example: codesign train --config mine/config.json --data corpus.txt --tokenizer bpe-4096 --tokens 20M

    Example: codesign train --export runs.csv
    """
    from codesign.cli.common import parse_list
    from codesign.errors import SpecError

    chosen = {"--plan": plan is not None, "--random": random is not None, "--config": bool(config)}
    looks = [
        o for o, on in (("--list", show), ("--export", export is not None), ("--import", import_file is not None)) if on
    ]
    if looks:
        if len(looks) > 1 or any(chosen.values()):
            others = [option for option, on in chosen.items() if on]
            raise SpecError(f"{' and '.join([*looks, *others])} do not go together; give one")
        from codesign.cli.train_store import export_runs, import_runs, list_runs

        if import_file is not None:
            import_runs(store, import_file)
        elif export is not None:
            export_runs(store, export, name)
        else:
            list_runs(store, name)
        return

    from codesign.campaign.training_campaign import run_training
    from codesign.campaign.training_setup import Choice, build_training
    from codesign.store import Store
    from codesign.units import parse_count

    choice = Choice(
        plan=plan, random=random, configs=tuple(config or ()), space=space, seed=seed,
        min_params=parse_count(min_params, "--min-params"), max_params=parse_count(max_params, "--max-params"),
    )  # fmt: skip
    if data is None:
        raise SpecError("which text? Give --data FILE or FOLDER, or --data stdlib for Python's own source")
    counts = [round(parse_count(text, "--tokens")) for text in parse_list(tokens) or ["2M"]]
    form, used = _dtype(dtype, device, scheduler), _rungs(rungs, halving)
    running = _workers(workers, threads, device, scheduler)
    with Store(store) as records:
        setup = build_training(
            choice, records, data=data, suffixes=parse_list(suffix), tokenizer=tokenizer, tokens=counts,
            batch_tokens=batch_tokens, seq_len=seq_len, lr=lr, dtype=form, device=device, threads=threads, name=name,
            folder=_folder(checkpoints), rungs=used, judge=_judge() if used else None,
        )  # fmt: skip
        left = _left(setup, records)
        with _executor(scheduler, setup, running) as execute:
            if not quiet:
                _show_plan(setup, left, running, here=scheduler is None)
            if dry_run:
                return
            from codesign.cli.train_progress import progress

            with progress(setup.campaign, quiet) as on_progress:
                outcome = run_training(setup.campaign, records, execute, on_progress=on_progress)
        if not quiet:
            _tell(setup, outcome, records.name, store)


def _dtype(asked: str | None, device: str, scheduler: str | None) -> Any:
    from codesign.errors import SpecError
    from codesign.training.defaults import default_dtype
    from codesign.training.spec import DEVICES
    from codesign.training_run import DTYPES

    if device not in DEVICES:
        raise SpecError(f"--device '{device}' is unknown; allowed: {', '.join(DEVICES)}")
    if asked is None:
        return default_dtype(gpu=device == "cuda" or (device == "auto" and scheduler is None and _has_gpu()))
    if asked not in DTYPES:
        raise SpecError(f"--dtype '{asked}' is unknown; allowed: {', '.join(DTYPES)}")
    return asked


def _has_gpu() -> bool:
    from codesign.errors import MissingExtraError

    try:
        import torch
    except ImportError as error:
        raise MissingExtraError.of("torch", "train", "training") from error
    return bool(torch.cuda.is_available())


def _rungs(text: str | None, halving: bool) -> tuple[float, ...]:
    from codesign.errors import SpecError

    if not halving:
        if text is not None:
            raise SpecError("--rungs goes with --halving")
        return ()
    from codesign.campaign.training_halving import RUNGS

    try:
        found = RUNGS if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (0.0,)
    if not all(0 < share < 1 for share in found) or list(found) != sorted(set(found)):
        raise SpecError(
            f"--rungs '{text}': allowed are rising shares of the steps above 0 and below 1, such as 0.2,0.5"
        )
    return found


def _judge() -> Any:
    from codesign.campaign.training_halving import can_still_win

    return can_still_win


def _workers(asked: int | None, threads: int, device: str, scheduler: str | None) -> int:
    from codesign.campaign.training_local import local_workers
    from codesign.errors import SpecError

    for option, value in (("--workers", asked), ("--threads", threads)):
        if value is not None and value < 1:
            raise SpecError(f"{option} {value} must be at least 1")
    if scheduler is not None:
        if asked is not None:
            raise SpecError("--workers does not go with --scheduler: as many runs are trained as Dask has workers")
        return 0
    if asked is not None:
        return asked
    return 1 if device != "cpu" and _has_gpu() else local_workers(threads)


def _folder(checkpoints: str | None) -> Any:
    from pathlib import Path

    return None if checkpoints is None else Path(checkpoints)


def _executor(scheduler: str | None, setup: TrainingSetup, workers: int) -> Any:
    from contextlib import nullcontext

    if scheduler is None:
        from codesign.campaign.training_local import run_here

        return nullcontext(run_here(workers))
    from codesign.campaign.training_dask import run_on_dask

    return run_on_dask(scheduler, setup.campaign.folder)


def _left(setup: TrainingSetup, records: Any) -> list[Any]:
    """Experiments that have not ended; what halving stopped goes on where nothing is to be stopped."""
    every = {e.key: e for e in setup.campaign.experiments}
    final = ("finished", "diverged", "stopped") if setup.campaign.rungs else ("finished", "diverged")
    ended = {run.key for run in records.find_runs(key=list(every)) if run.status in final}
    return [e for key, e in every.items() if key not in ended]


def _show_plan(setup: TrainingSetup, left: list[Any], workers: int, *, here: bool) -> None:
    from codesign.units import format_count

    experiments = setup.campaign.experiments
    sizes = [e.spec.architecture.params_active_nonembedding for e in experiments]
    counts = sorted({e.spec.recipe.tokens for e in experiments})
    rates = sorted({e.spec.recipe.lr for e in experiments})
    text, first = setup.tokens, experiments[0].spec
    print(
        f"{setup.campaign.name}: {len(experiments)} models of {format_count(min(sizes))} to {format_count(max(sizes))} parameters "
        f"without embeddings, {' or '.join(map(format_count, counts))} tokens each"
    )
    print(
        f"  text: {text.data}, {format_count(text.train_tokens)} tokens to train on and {format_count(text.valid_tokens)} held out "
        f"({text.tokenizer})"
    )
    if max(counts) > text.train_tokens:
        print(
            f"  {format_count(max(counts))} tokens read it {max(counts) / text.train_tokens:.1f} times: more text would be worth more"
        )
    if setup.known:
        print(f"  {setup.known} finished runs on it were known to the plan")
    shown = f"{rates[0]:.2g}" if len(rates) == 1 else f"{rates[0]:.2g} to {rates[-1]:.2g}"
    print(
        f"  recipe: AdamW, {first.recipe.batch_tokens:,} tokens a step in sequences of {first.recipe.seq_len}, peak learning rate "
        f"{shown}, {first.recipe.dtype}"
    )
    flop = sum(e.flop for e in left)
    if len(left) < len(experiments):
        print(f"  {len(experiments) - len(left)} have ended; {len(left)} are left")
    if not left:
        return
    cost = f"  cost: {flop:.2e} FLOP"
    if here and flop > 1e12:  # below that, timing takes longer than it saves
        from codesign.campaign.training_estimate import estimate_seconds

        seconds = estimate_seconds(left, workers)
        minutes = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
        at_once = f", {workers} at a time" if workers > 1 else ""
        cost += f", about {minutes} here{at_once} by a few timed steps"
    if setup.campaign.rungs:
        cost += ", less what stops early"
    print(cost, flush=True)


def _tell(setup: TrainingSetup, outcome: TrainingOutcome, store: str, given: str | None) -> None:
    from codesign.cli.train_store import show_runs

    runs = [outcome.runs[e.key] for e in setup.campaign.experiments if e.key in outcome.runs]
    show_runs(runs)
    counts = {status: outcome.count(status) for status in ("finished", "stopped", "diverged")}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    print(f"{setup.campaign.name}: {said or 'nothing ended'}; in {store}")
    for experiment, why in outcome.failed:
        a = experiment.spec.architecture
        print(f"  not trained: {a.n_layers} layers x {a.d_model}: {why}")
    kept = [e.key for e in setup.campaign.experiments if (setup.campaign.folder / e.key / "weights.pt").is_file()]
    if kept:
        shown = kept[0] if len(kept) == 1 else "ID"
        more = "" if len(kept) == 1 else f", {len(kept)} of them"
        print(f"  trained models: {setup.campaign.folder}/{shown}{more}; codesign bits takes one")
    if outcome.before == len(setup.campaign.experiments):
        print("  nothing was missing: give another --seed, --tokens or --plan to train more")
    print(f"next: codesign fit --campaign {setup.campaign.name}{f' --store {given}' if given else ''}")
