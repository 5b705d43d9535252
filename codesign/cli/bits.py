"""`codesign bits`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from codesign.campaign.bits import BitsStudy, Policy

__all__ = ["bits"]


def bits(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a finished run of codesign train, or of a model: config.json, *.safetensors, tokenizer.json."
        ),
    ],
    data: Annotated[
        str, typer.Option(help="Text to judge by: a file, a folder, or stdlib; its held-out part is used.")
    ] = "stdlib",
    suffix: Annotated[list[str] | None, typer.Option(help="Files of the folder that count; repeatable.")] = None,
    bits_: Annotated[
        str, typer.Option("--bits", help="Widths to try: 2 to 8, and 16 for leaving a part as it is.")
    ] = "2,3,4,5,6,8",
    group: Annotated[int, typer.Option(help="Weights that share a scale.")] = 128,
    tokens: Annotated[str, typer.Option(help="Held-out tokens of one measurement.")] = "32k",
    device: Annotated[str | None, typer.Option("--device", "-d", help="Cost the policies on this device.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm, llama.cpp, ...; default: the device's best known.")] = None,
    prompt: Annotated[int, typer.Option(help="Prompt tokens.")] = 1024,
    generate: Annotated[int, typer.Option(help="Generated tokens.")] = 128,
    out: Annotated[
        str | None, typer.Option(help="Folder; the same command goes on in it. Default: results/bits-NAME.")
    ] = None,
) -> None:
    """Measure what fewer bits cost each part of a trained model, and choose the bits of every part by it.

    Rounds one part at a time and measures the loss; takes the best bits at each size under the sum of these; then measures the chosen ones as a
    whole on other text, beside equal bits for all parts. Interrupt it as you like: the same command goes on.

    Example: codesign bits checkpoints/runs/1a2b3c --data stdlib --device orin
    """
    import json
    from pathlib import Path

    from codesign._paths import user_folder
    from codesign.cli.common import parse_list, writable_folder
    from codesign.errors import SpecError
    from codesign.units import parse_count

    path = Path(model).expanduser()
    if not path.is_dir():
        raise SpecError(f"no folder '{model}'; give a run's folder or a model's, with weights in it")
    from codesign.campaign.bits import BitsSettings, study_bits
    from codesign.report.bits_plot import plot_bits
    from codesign.training.trained import open_trained

    widths = []
    for text in parse_list([bits_]):
        if not (text.isascii() and text.isdigit()):
            raise SpecError(f"--bits '{bits_}': '{text}' is no whole number; write for example 2,3,4,8")
        widths.append(int(text))
    asked = int(parse_count(tokens, "--tokens"))
    settings = BitsSettings(bits=tuple(widths), group=group, tokens=asked)
    cost = _cost(device, engine, prompt, generate) if device else None
    trained = open_trained(path, data, settings.tokens, suffixes=suffix or (), cache=user_folder() / "texts")
    folder = writable_folder(out, f"bits-{path.resolve().name}")
    study = study_bits(trained, settings, folder / "measured.jsonl", on_progress=_told)
    costs = [cost(trained.arch, policy) if cost else {} for policy in study.policies]
    report = {
        "model": trained.name, "architecture": trained.arch.to_dict(), "bits": list(settings.bits), "group": group,
        "data": data, "tokens_asked": asked, "tokens": study.tokens, "tokens_other_text": study.tokens_other, "base_loss": study.base, "base_loss_other_text": study.base_other,
        "added_loss": {part.name: {str(b): v for b, v in study.loss[part.name].items()} for part in study.parts},
        "added_loss_error": {part.name: {str(b): v for b, v in study.error[part.name].items()} for part in study.parts},
        "policies": [_policy_json(policy, more) for policy, more in zip(study.policies, costs, strict=True)],
    }  # fmt: skip
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    kept = _set_aside(folder, text)
    (folder / "bits.json").write_text(text, encoding="utf-8")
    plot_bits(study, folder / "bits.png", path.resolve().name)
    _show(study, costs, folder, kept)


def _set_aside(folder: Path, text: str) -> str:
    """Keep the report and picture of another study that stand in the folder, under the first free number; which, or ""."""
    before = folder / "bits.json"
    if not before.is_file() or before.read_text(encoding="utf-8") == text:
        return ""
    number = next(k for k in itertools.count(1) if not (folder / f"bits.old-{k}.json").exists())
    for kind in ("json", "png"):
        if (folder / f"bits.{kind}").is_file():
            (folder / f"bits.{kind}").replace(folder / f"bits.old-{number}.{kind}")
    return f"bits.old-{number}.json"


def _cost(device: str, engine: str | None, prompt: int, generate: int) -> Any:
    """A function of an architecture and a policy: milliseconds per token and memory, under the mean bits of the layers and those of the head."""
    from codesign.cli.common import workload_of
    from codesign.devices import load_device
    from codesign.engines import resolve_engine
    from codesign.roofline.calibration import load_calibration
    from codesign.roofline.cost import RooflineModel
    from codesign.workload import PRECISIONS, Precision

    chosen, fits, workload = load_device(device), load_calibration(), workload_of(prompt, generate, 1)
    name = resolve_engine(engine, chosen) if engine else fits.engine_for(chosen, PRECISIONS["w4a16"])

    def cost(arch: Any, policy: Policy) -> dict[str, Any]:
        def at(layers: float) -> Any:
            form = Precision(
                name="by part",
                weight_bits=layers,
                lm_head_bits=policy.head_bits,
                weight_only=layers < 16,
                source="codesign bits",
            )
            return RooflineModel.of(chosen, fits.rates(chosen, name, form, 1, workload)).estimate(arch, workload, form)

        # what a token reads decides the time, what is stored the memory
        latency, memory = float(at(policy.layer_bits_read).decode_s), float(at(policy.layer_bits).peak_memory_B)
        return {"device": chosen.name, "engine": name, "latency_s": latency, "memory_B": memory}

    return cost


def _policy_json(policy: Policy, cost: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(policy) | cost


def _told(done: int, total: int, what: str) -> None:
    import sys

    print(f"{done} of {total}: {what}", file=sys.stderr, flush=True)


def _show(study: BitsStudy, costs: list[dict[str, Any]], folder: Path, kept: str) -> None:
    from rich.table import Table

    from codesign.cli.common import console
    from codesign.units import format_bytes

    screen = console()
    where = f"; ms per token on {costs[0]['device']}, {costs[0]['engine']}" if costs[0] else ""
    table = Table(
        title=f"Loss added to {study.base_other:.4f} nats per token, on text that the choice did not see{where}",
        title_justify="left",
    )
    for heading in (
        "bits read",
        "policy",
        "as the sum says",
        "measured, 90 %",
        "less than equal bits",
        "weights read",
        *(["ms/token"] if costs[0] else []),
    ):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for policy, cost in sorted(
        zip(study.policies, costs, strict=True), key=lambda pair: (pair[0].mean_bits, pair[0].uniform is None)
    ):
        table.add_row(
            f"{policy.mean_bits:.2f}", f"all {policy.uniform}" if policy.uniform else _spread(policy), f"{policy.added:+.4f}", _pm(policy.measured, policy.measured_error), _gained(policy),
            format_bytes(policy.read_B, 3), *([f"{1e3 * cost['latency_s']:.2f}"] if cost else []),
        )  # fmt: skip
    screen.print(table)
    screen.print(
        f"judged on {study.tokens:,} and {study.tokens_other:,} held-out tokens"
        + (
            f" ({study.settings.tokens:,} each were asked: the text has no more)"
            if study.tokens < study.settings.tokens - study.settings.tokens // 50
            else ""
        )
        + "; intervals are those of the text's windows, paired. A gain whose interval holds 0 is no gain that this text can tell: give more --tokens"
    )
    screen.print(
        "rounded to nearest in groups with fp16 scales: GPTQ, AWQ and training with rounding lose less at the same bits"
    )
    if costs[0]:
        screen.print(
            "times are those of a format with the mean bits; whether an engine runs other bits in each layer is not checked"
        )
    screen.print(
        f"written: {folder}/ (bits.json with the bits of every part, bits.png, measured.jsonl)"
        + (f"; the former study is {kept}" if kept else "")
    )


def _pm(value: float, error: float) -> str:
    """A difference with the half-width of its 90 % interval."""
    return f"{value:+.4f} ± {1.645 * error:.4f}"


def _gained(policy: Policy) -> str:
    if policy.rival is None or policy.gain is None or policy.gain_error is None:
        return ""
    unsure = abs(policy.gain) <= 1.645 * policy.gain_error
    return f"{_pm(policy.gain, policy.gain_error)} (all {policy.rival}{'; within noise' if unsure else ''})"


def _spread(policy: Policy) -> str:
    from collections import Counter

    return "by part: " + ", ".join(f"{count} x {b}" for b, count in sorted(Counter(policy.bits.values()).items()))
