"""`codesign calibrate`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from codesign.campaign.calibrate import Calibrated
    from codesign.devices import DeviceFit
    from codesign.importers import Imported
    from codesign.store import Store

__all__ = ["calibrate"]


def calibrate(
    device: Annotated[str, typer.Option("--device", "-d", help="host, or a device of the catalogue.")],
    power_mode: Annotated[
        str | None, typer.Option(help="Power mode whose measurements are used; default: full.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Only measurements of this engine; with --from: what ran.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Only this precision; with --from: of files that do not say.")
    ] = None,
    campaign: Annotated[list[str] | None, typer.Option(help="Only measurements of this campaign; repeatable.")] = None,
    store: Annotated[str | None, typer.Option(help="SQLite file or postgresql:// URL; default: your own.")] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--from", help="File of llama-bench, trtexec, vLLM, ..., or CSV; its rows go into the store."),
    ] = None,
    kind: Annotated[str, typer.Option(help="Format of --from; auto: from its content.")] = "auto",
    model: Annotated[
        str | None, typer.Option(help="With --from: the model that ran, where the file does not say.")
    ] = None,
    archs: Annotated[str | None, typer.Option(help="With --from CSV: table of the architectures by arch_id.")] = None,
    phase: Annotated[str | None, typer.Option(help="With --from trtexec: prefill or decode.")] = None,
    tokens: Annotated[int | None, typer.Option(help="With --from: prompt tokens, where the file does not say.")] = None,
    context: Annotated[
        int | None, typer.Option(help="With --from: cached tokens, where the file does not say.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="With --from: requests at once, where the file does not say.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of host: threads that its peaks are measured with.")] = 1,
    out: Annotated[
        str | None, typer.Option(help="Device file to write; default: your own, which --device then finds.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take measurements of another machine or power mode.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit a device's rates and overheads to its measurements and write its device file.

    Prints the error with architectures left out, and says when the measurements are too few or too noisy.

    Example: codesign calibrate --device host

    Example: codesign calibrate --device orin --from llama-bench.json --power-mode 30W
    """
    from pathlib import Path

    from codesign.campaign.calibrate import calibrate_measurements, device_to_calibrate
    from codesign.devices import user_devices, write_device
    from codesign.engines import canonical_engine
    from codesign.errors import SpecError
    from codesign.store import Store
    from codesign.workload import parse_precision

    given = {"--kind": kind != "auto", "--model": model, "--archs": archs, "--phase": phase, "--tokens": tokens,
             "--context": context, "--batch": batch}  # fmt: skip
    if not files and (alone := [name for name, value in given.items() if value]):
        raise SpecError(f"{', '.join(alone)} go with --from FILE only")
    if phase not in (None, "prefill", "decode"):
        raise SpecError(f"--phase '{phase}' is neither prefill nor decode")
    target = device_to_calibrate(device, power_mode, threads)
    with Store(store, create=bool(files)) as records:
        source = (
            records.name if "://" in records.name else Path(records.name).name
        )  # device files travel: no one's folders
        for name in files or []:
            from codesign.importers import read_measurements

            read = read_measurements(
                Path(name), kind=kind, device=device, power_mode=power_mode, model=model,
                precision=precision, engine=engine, archs=Path(archs) if archs else None,
                phase=phase, tokens=tokens, context=context, batch=batch,  # type: ignore[arg-type]
            )  # fmt: skip
            _tell_import(name, read, records, as_json)
        found = records.find(
            device=target.name,
            engine=canonical_engine(engine) if engine else None,
            precision=parse_precision(precision).name if precision else None,
            campaign=campaign or None,
        )
        if not found and (
            asked := {
                k: v for k, v in (("--engine", engine), ("--precision", precision), ("--campaign", campaign)) if v
            }
        ):
            others = records.find(device=target.name)
            if others:
                what = " ".join(f"{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in asked.items())
                had = sorted({f"{m.engine} {m.precision} (campaign {m.campaign or '-'})" for m in others})
                raise SpecError(
                    f"no measurements of '{target.name}' in {source} with {what}; it has {', '.join(had[:8])}: name one of these, or run codesign profile"
                )
    calibrated, fits = calibrate_measurements(target, found, source=source, force=force)
    path = Path(out) if out else user_devices() / f"{target.name}.toml"
    write_device(calibrated, path, "Written by codesign calibrate. Peaks are dense.")
    if as_json:
        import json

        facts = [
            {**c.fit.to_dict(), "records": c.records, "warnings": {p: list(r.warnings) for p, r in c.phases.items()}}
            for c in fits
        ]
        print(json.dumps({"device": target.name, "file": str(path), "fits": facts}, indent=1))
        return
    _show(fits)
    print(f"written: {path}")
    how = f"--device {path}" if out else f"--device {device if '/' not in device else target.name}"
    mode = f" --power-mode {target.power_mode}" if power_mode else ""
    print(f"next: codesign search {how}{mode} --latency ...; it uses this calibration")


def _tell_import(name: str, read: Imported, records: Store, quiet: bool) -> None:
    added = records.add_all(read.measurements)
    if quiet:
        return
    print(f"{name}: {len(read.measurements)} measurements read as {read.kind}, {added} of them new to the store")
    for note in read.notes:
        print(f"  note: {note}")
    reasons: dict[str, int] = {}
    for _, reason in read.skipped:
        short = "measured on another device" if reason.startswith("measured on '") else reason
        reasons[short] = reasons.get(short, 0) + 1
    for reason, count in reasons.items():
        print(f"  left out, {count} x: {reason}")


def _show(fits: Sequence[Calibrated]) -> None:
    import math

    from rich.table import Table

    from codesign.cli.common import console
    from codesign.roofline.device_energy import FEW_METERED

    several = {key for key, n in Counter((c.fit.engine, c.fit.precision) for c in fits).items() if n > 1}
    table = Table(title="error with architectures left out, %", title_justify="left")
    for heading in (
        "engine",
        "precision",
        "phase",
        "models",
        "passes",
        "roofline",
        "hybrid",
        "larger out",
        "used",
        "90 %",
    ):
        table.add_column(heading, justify="left" if heading in ("engine", "precision", "phase", "used") else "right")
    warnings = []
    for one in fits:
        for phase, report in one.phases.items():
            t = report.terms
            kind = "hybrid" if t.residual else "roofline"
            table.add_row(
                one.fit.engine + (_options(one.fit) if (one.fit.engine, one.fit.precision) in several else ""), one.fit.precision, phase, str(t.n_architectures), str(t.n_rows),
                *(_percent(t.held_out, name) for name in ("roofline_mape_pct", "hybrid_mape_pct", f"{kind}_largest_out_mape_pct")),
                kind, f"x/÷ {math.exp(t.interval_log):.2f}",
            )  # fmt: skip
            warnings += [f"{one.fit.engine}, {one.fit.precision}, {phase}: {text}" for text in report.warnings]
    screen = console()
    screen.print(table)
    screen.print(
        "roofline, hybrid: mean |error| in 10-fold cross-validation by architecture, of the additive roofline alone and with a "
        "Gaussian process on its residual; larger out: of what is used, on the largest third, fitted on the smaller ones; 90 %: "
        "interval that cross-validation gives"
    )
    for one in fits:
        if one.fit.energy is None and one.metered:
            screen.print(
                f"energy ({one.fit.engine}, {one.fit.precision}): not fitted: {one.metered} architectures have metered passes, {FEW_METERED} of "
                "different shapes are needed"
            )
        if (energy := one.fit.energy) is not None:
            screen.print(
                f"energy ({one.fit.engine}, {one.fit.precision}): {energy.held_out_mape_pct:.1f} % off with architectures left out, at a known "
                f"time; {energy.n_rows} metered visits of {energy.n_architectures} architectures, {energy.meter}; 90 %: x/÷ "
                f"{math.exp(energy.interval_log):.2f}"
            )
    for engine, precision in sorted(several):
        screen.print(
            f"several calibrations of {engine}, {precision}, with different options: the one with the smallest 90 % interval of decode is in "
            "force; --campaign makes only those you name"
        )
    for text in warnings:
        screen.print(f"warning: {text}")


def _options(fit: DeviceFit) -> str:
    shown = [f"{k}={v}" for k, v in sorted(fit.options.items()) if v != "false"]
    return f" ({', '.join(shown)})" if shown else ""


def _percent(held: object, name: str) -> str:
    value = dict(held).get(name)  # type: ignore[call-overload]
    return "-" if value is None else f"{value:.1f}"
