"""`codesign predict MODEL` and `codesign predict --table FILE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from codesign.operators import Phase
    from codesign.roofline.cost import RooflineModel

__all__ = ["predict"]


def predict(
    model: Annotated[
        str | None, typer.Argument(help="Bundled model (qwen2.5-0.5b), config.json, or its folder.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Device name, alias (orin) or device file.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp16, bf16, int8, w8a16, w4a16, q4_k_m, ...; default: fp16, or your own calibration's."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="vllm, llama.cpp, mlc-llm, tinychat, transformers, ...")] = None,
    power_mode: Annotated[str | None, typer.Option(help="Power mode of the device; default: full power.")] = None,
    prompt: Annotated[int, typer.Option(help="Prompt tokens.")] = 1024,
    generate: Annotated[int, typer.Option(help="Generated tokens.")] = 128,
    batch: Annotated[int, typer.Option(help="Requests at once.")] = 1,
    serving: Annotated[
        list[str] | None,
        typer.Option(
            help="How it is served, name=value: kv-budget-tokens=512, sparse-tokens=2048, latent=expanded, ..."
        ),
    ] = None,
    draft: Annotated[
        str | None, typer.Option(help="Speculative decoding with this model of the same vocabulary as the draft.")
    ] = None,
    draft_tokens: Annotated[int, typer.Option(help="With --draft: tokens drafted in a step.")] = 4,
    acceptance: Annotated[
        float | None,
        typer.Option(
            help="With --draft: probability that a drafted token is kept; it depends on both models and the text."
        ),
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(
            help="Memory for experts beyond the device's own, such as flash=2GB/s or host=16GB/s:32GB; repeatable."
        ),
    ] = None,
    skew: Annotated[
        float, typer.Option(help="With --tier: Zipf exponent of the experts' popularity; 0: uniform routing.")
    ] = 0.0,
    memory: Annotated[
        str | None, typer.Option(help="With --tier: device memory that may be used; default: all that is free.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(help="Training tokens that the loss is predicted at; default: 10B, or those of your own runs."),
    ] = None,
    loss_law: Annotated[
        str, typer.Option(help="gemstones, openlm-grid, llama-2k, deepmind-moe, steplaw, paper, or a file.")
    ] = "gemstones",
    breakdown: Annotated[bool, typer.Option("--breakdown", help="Show each operator with its bound.")] = False,
    table: Annotated[
        str | None, typer.Option(help="CSV with the columns of published measurements: predict every row.")
    ] = None,
    archs: Annotated[
        str | None, typer.Option(help="CSV with the architectures that the table's arch_id names.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Write the table here; default: standard output.")] = None,
    calibration: Annotated[str | None, typer.Option(help="Another calibration file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict latency, memory, energy and loss of one model; or latencies of a table of measurements, with the errors.

    Example: codesign predict qwen2.5-0.5b --device orin --breakdown

    Example: codesign predict --table measured.csv --archs model_archs.csv --out predicted.csv
    """
    from pathlib import Path

    from codesign.errors import SpecError
    from codesign.roofline.calibration import load_calibration

    fits = load_calibration(Path(calibration) if calibration else None)
    if table is not None:
        if model is not None or device is not None or archs is None:
            raise SpecError(
                "--table takes --archs FILE (architectures by arch_id) and neither MODEL nor --device: the rows name their devices"
            )
        if breakdown or as_json or engine or power_mode:
            raise SpecError(
                "--table goes with --archs, --out and --calibration only: engine and power mode are columns, the output is CSV"
            )
        _predict_table(Path(table), Path(archs), Path(out) if out else None, fits)
        return
    if model is None or device is None:
        raise SpecError(
            "give a model and --device, such as: codesign predict qwen2.5-0.5b --device orin; or --table FILE --archs FILE"
        )
    if archs is not None or out is not None:
        raise SpecError("--archs and --out go with --table")
    from codesign.cli.common import workload_of
    from codesign.devices import load_device
    from codesign.engines import resolve_engine
    from codesign.hf_config import read_config
    from codesign.predictors import load_law
    from codesign.roofline.cost import RooflineModel
    from codesign.search.api import measured_spans
    from codesign.units import parse_count
    from codesign.workload import parse_precision

    chosen = load_device(device, power_mode)
    form = parse_precision(precision or chosen.usual_precision(engine))
    engine_name = resolve_engine(engine, chosen) if engine else fits.engine_for(chosen, form)
    workload = workload_of(prompt, generate, batch, serving)
    arch = read_config(model)
    workload.serving.check(latent=bool(arch.kv_rank), attention=bool(arch.n_attention_layers), whose="this model")
    cost = RooflineModel.of(chosen, fits.rates(chosen, engine_name, form, batch, workload))
    law = load_law(loss_law)
    trained = parse_count(tokens, "--tokens") if tokens else getattr(law, "training_tokens", None) or 10e9
    if trained < 1:
        raise SpecError(f"--tokens '{tokens}' is less than one token; write for example 10B")
    spans = measured_spans(fits, chosen, engine_name, form.name, batch)
    result = _one(arch, cost, workload, form, law, trained, spans)
    result |= {"model": model, "device": chosen.name, "power_mode": chosen.power_mode, "engine": engine_name, "precision": form.name,
               "tokens": trained, "law": law.name}  # fmt: skip
    if draft is not None:
        from dataclasses import asdict

        from codesign.roofline.speculative import speculate

        if acceptance is None:
            raise SpecError("--draft needs --acceptance, such as 0.7: measure it on your text, no formula gives it")
        small = read_config(draft)
        result["speculation"] = asdict(
            speculate(cost, arch, small, workload, form, drafted=draft_tokens, acceptance=acceptance)
        ) | {"draft": draft}
    elif acceptance is not None:
        raise SpecError("--acceptance goes with --draft MODEL")
    if tier:
        from dataclasses import asdict

        from codesign.roofline.tiers import estimate_tiered
        from codesign.units import parse_bytes

        places = sorted((_tier(text) for text in tier), key=lambda t: -t.bandwidth_Bps)
        limit = parse_bytes(memory, "--memory") if memory else None
        result["tiers"] = asdict(estimate_tiered(cost, arch, workload, form, places, skew=skew, memory_B=limit))
        result["tiers"]["skew"] = skew
    elif memory is not None or skew:
        raise SpecError("--memory and --skew go with --tier, such as --tier flash=2GB/s")
    phases: tuple[Phase, ...] = (("prefill", "decode") if prompt else ("decode",)) if breakdown else ()
    rows = {phase: cost.breakdown(arch, workload, form, phase) for phase in phases}
    if as_json:
        import dataclasses
        import json

        if breakdown:
            result["breakdown"] = {phase: [dataclasses.asdict(row) for row in ops] for phase, ops in rows.items()}
        print(json.dumps(result, indent=1, allow_nan=False))
        return
    _print_one(result, cost, law)
    if "speculation" in result:
        _print_speculation(result["speculation"])
    if "tiers" in result:
        _print_tiers(result["tiers"], arch.n_experts)
    for phase, operators in rows.items():
        _print_breakdown(phase, operators)


def _one(
    arch: Any, cost: RooflineModel, workload: Any, form: Any, law: Any, tokens: float, spans: Any
) -> dict[str, Any]:  # fmt: skip
    """Every figure of one model, with 90 % intervals; what is unknown is None."""
    import math

    import numpy as np

    from codesign.architecture import ArchitectureBatch
    from codesign.predictors.priors import UNPRICED_SHAPES
    from codesign.predictors.quantisation import quantisation_penalty
    from codesign.report.words import mark_text
    from codesign.search.marks import design_marks, latency_flags, unlike
    from codesign.search.problem import metric, metric_log_sd

    estimate = cost.estimate(arch, workload, form)
    energy_log = cost.power.interval_log if cost.power else 0.0
    marks = design_marks(
        ArchitectureBatch.of([arch]), (1,), law=law, tokens=tokens, precision=form, serving=workload.serving, priced=law.name != "paper",
        latency=latency_flags(arch, spans, cost.rates),
    )[0]  # fmt: skip
    result: dict[str, Any] = {
        "recurrent": bool(arch.n_recurrent_layers),
        "params": int(arch.params_total),
        "params_active": int(arch.params_active),
    }
    for key, name in (("ttft_s", "ttft"), ("latency_s", "latency"), ("e2e_s", "e2e"), ("memory_B", "memory"),
                      ("energy_J", "energy"), ("power_W", "power")):  # fmt: skip
        value = float(metric(name, arch, estimate))
        known = math.isfinite(value)
        spread = math.exp(1.645 * metric_log_sd(name, cost.rates, energy_log, unlike(marks)))
        result[key] = value if known else None
        if spread > 1:
            result[f"{key}_90"] = [value / spread, value * spread] if known else None
    result |= {"weights_B": float(estimate.weights_B), "kv_B": float(estimate.kv_B), "workspace_B": float(estimate.workspace_B),
               "fits_memory": bool(estimate.peak_memory_B <= cost.device.memory_usable_B)}  # fmt: skip
    mean, std = (float(np.asarray(v)) for v in law.predict(arch, tokens, return_std=True))
    if law.name != "paper":
        shift, spread_q = quantisation_penalty(arch.params_active_nonembedding, tokens, form)
        mean, std = mean + float(shift), math.hypot(std, float(spread_q))
    known = not any(f"unpriced:{name}" in marks for name in UNPRICED_SHAPES)
    result |= {
        "loss": mean if known else None,
        "loss_90": [mean - 1.645 * std, mean + 1.645 * std] if known else None,
    }
    result["marks"] = {mark: mark_text(mark)[1] for mark in marks}
    return result


def _print_one(result: dict[str, Any], cost: RooflineModel, law: Any) -> None:
    import math

    from codesign.cli.common import console
    from codesign.report.words import mark_text
    from codesign.roofline.calibration import LEVELS
    from codesign.search.marks import unlike
    from codesign.units import format_bytes, format_count, format_energy, format_power, format_seconds

    screen = console()
    active = f" ({format_count(result['params_active'])} active)" if result["params_active"] < result["params"] else ""
    mode = f" at {result['power_mode']}" if result["power_mode"] else ""
    screen.print(
        f"{result['model']}: {format_count(result['params'])} parameters{active} on {cost.device.title}{mode}, {result['engine']}, {result['precision']}"
    )

    def line(label: str, key: str, show: Any) -> None:
        value, span = result[key], result.get(f"{key}_90")
        if value is None:
            screen.print(f"  {label:<22} unknown: no power model for this device")
            return
        interval = f"   90 %: {show(span[0])} to {show(span[1])}" if span else ""
        screen.print(f"  {label:<22} {show(value)}{interval}")

    line("time to first token", "ttft_s", format_seconds)
    line("time per token", "latency_s", format_seconds)
    line("whole request", "e2e_s", format_seconds)
    line("peak memory", "memory_B", format_bytes)
    screen.print(f"  {'':<22} weights {format_bytes(result['weights_B'])}, KV cache{' and state' if result['recurrent'] else ''} {format_bytes(result['kv_B'])}, workspace {format_bytes(result['workspace_B'])}; "
                 f"the device has {format_bytes(cost.device.memory_usable_B)} free" + ("" if result["fits_memory"] else ": DOES NOT FIT"))  # fmt: skip
    line("energy per token", "energy_J", lambda v: format_energy(v, 2))
    line("mean power", "power_W", lambda v: format_power(v, 2))
    if result["loss"] is not None:
        low, high = result["loss_90"]
        screen.print(
            f"  {'loss':<22} {result['loss']:.3f} nats per token after {format_count(result['tokens'])} tokens   90 %: {low:.3f} to {high:.3f}"
        )
        screen.print(f"  law: {law.summary()}")
    else:
        screen.print(f"  {'loss':<22} not predicted (see the marks)")
    how = unlike(result["marks"])
    for phase in ("decode", "prefill"):
        rates = cost.rates.of(phase)
        others = ", of other models: see the marks" if how and rates.n_rows else ""
        rows = (
            f"{rates.n_rows} rows{others}"
            if rates.n_rows or rates.terms is None
            else "none of about this length and batch: a wider interval"
        )
        screen.print(
            f"  {phase}: {LEVELS[rates.level]} ({rows}); 90 % interval: times or divided by {math.exp(rates.half_width_log(how)):.2f}"
        )
    if cost.power is not None:
        screen.print(f"  energy: {cost.power.source.split(';')[0]}")
    for mark in result["marks"]:
        screen.print(f"  mark {mark_text(mark)[0]}: {mark_text(mark)[1]}")


def _print_speculation(s: dict[str, Any]) -> None:
    from codesign.cli.common import console
    from codesign.units import format_bytes, format_seconds

    console().print(
        f"  with the draft {s['draft']}, {s['drafted']} tokens a step, each kept with probability {s['acceptance']:g}: "
        f"{s['tokens']:.2f} tokens a step of {format_seconds(s['step_s'])} (drafting {format_seconds(s['draft_s'])}, verifying "
        f"{format_seconds(s['verify_s'])}): {format_seconds(s['decode_s'])} per token, {s['speedup']:.2f} times as fast; time to first token "
        f"{format_seconds(s['prefill_s'])}, memory {format_bytes(s['memory_B'])}"
    )


def _tier(text: str) -> Any:
    """A tier of the form name=RATE or name=RATE:SIZE."""
    import math

    from codesign.errors import SpecError
    from codesign.roofline.tiers import Tier
    from codesign.units import parse_bytes

    name, sign, rest = text.partition("=")
    rate, _, size = rest.partition(":")
    if not (sign and name and rate.strip().lower().endswith("/s")):
        raise SpecError(
            f"--tier '{text}' is not of the form name=RATE or name=RATE:SIZE, such as flash=2GB/s or host=16GB/s:32GB"
        )
    bandwidth = parse_bytes(rate.strip()[:-2], f"rate of tier {name}")
    return Tier(
        name=name, bandwidth_Bps=bandwidth, memory_B=parse_bytes(size, f"size of tier {name}") if size else math.inf
    )


def _print_tiers(t: dict[str, Any], n_experts: int) -> None:
    from codesign.cli.common import console
    from codesign.units import format_bytes, format_seconds

    placed = ", ".join(
        f"{count:.1f} in {'memory' if name == 'device' else name}" for name, count in t["placed"].items()
    )
    routing = "uniform routing" if not t["skew"] else f"popularity rank^-{t['skew']:g}"
    console().print(
        f"  with experts in tiers: of {n_experts} a layer {placed}; {100 * t['hit_rate']:.0f} % of a step's visits find theirs in memory ({routing}), "
        f"{format_bytes(t['fetched_B'])} fetched a step: {format_seconds(t['decode_s'])} per token (all in memory "
        f"{format_seconds(t['all_resident_decode_s'])}), time to first token {format_seconds(t['prefill_s'])}, memory "
        f"{format_bytes(t['memory_B'])}; an upper bound without prefetching"
    )


def _print_breakdown(phase: str, operators: list[Any]) -> None:
    from rich.table import Table

    from codesign.cli.common import console
    from codesign.units import format_bytes, format_count, format_seconds

    total = sum(op.seconds for op in operators)
    table = Table(title=f"{phase}: {format_seconds(total)}", title_justify="left")
    for heading in ("operator", "times", "FLOP", "bytes", "time", "share", "bound by"):
        table.add_column(heading, justify="left" if heading in ("operator", "bound by") else "right")
    for op in operators:
        table.add_row(op.name, f"{op.count:g}", format_count(op.flop) if op.flop else "-", format_bytes(op.bytes_moved) if op.bytes_moved else "-",
                      format_seconds(op.seconds), f"{100 * op.seconds / total:.1f} %", op.bound)  # fmt: skip
    console().print(table)


def _predict_table(path: Any, archs: Any, out: Any, fits: Any) -> None:
    import sys

    from codesign._files import write_text
    from codesign.roofline.score_table import predicted_table

    text, summary = predicted_table(path, archs, fits)
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)
    for line in summary:
        print(line, file=sys.stderr)
