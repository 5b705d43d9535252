"""A GPU measured through the whole chain, predicted against measured: results/h100.md.

    codesign profile --device h100 --engine torch --provider cuda --option graph=true --precision fp16 --prompt 2048 \\
        --plan 10 --no-energy --campaign planned
    codesign profile --device h100 --engine torch --provider cuda --option graph=true --precision fp16 --prompt 2048 \\
        --models qwen2.5-0.5b --models llama-3.2-1b --models smollm2-360m --visits 1 --campaign known
    codesign calibrate --device h100 --engine torch --campaign planned
    codesign search --device h100 --engine torch --latency 2ms --prompt 2048 --space dense --out run
    codesign validate run --device h100 --top 3 --visits 1
    codesign measurements --json | gzip > results/h100_measurements.jsonl.gz
    python tools/gpu_validation.py results/h100_measurements.jsonl.gz

Fits what `codesign calibrate` fits to the planned architectures, and scores it on models that it did not see: known ones, and
designs that a search with that calibration found. Energy per pass is set against the catalogue's power model.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from family_validation import records_of  # noqa: E402

from codesign.campaign.setup import phase_priors  # noqa: E402
from codesign.devices import load_device  # noqa: E402
from codesign.hf_config import read_config  # noqa: E402
from codesign.measurement import Measurement, observe  # noqa: E402
from codesign.roofline import RooflineModel  # noqa: E402
from codesign.roofline.calibration import load_calibration  # noqa: E402
from codesign.roofline.device_calibration import calibrate_phase  # noqa: E402
from codesign.roofline.device_energy import calibrate_energy  # noqa: E402
from codesign.roofline.device_fit import pass_rows, pass_workload, predict_log  # noqa: E402
from codesign.workload import PRECISIONS  # noqa: E402

KNOWN = ("smollm2-360m", "qwen2.5-0.5b", "llama-3.2-1b")
FORM = "fp16"
FAMILIES = Path(__file__).parent.parent / "results" / "family_measurements_h100.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    path: Path = parser.parse_args().file
    records = records_of(path)
    names = {repr(read_config(name)): name for name in KNOWN}
    lines = [
        "# An NVIDIA H100, measured, calibrated and predicted", "",
        f"Made by `python tools/gpu_validation.py results/{path.name}`, whose first lines are the commands that measured.",
        f"torch {records[0].engine_version}, CUDA graphs, {FORM}, {records[0].host['gpu']}; prompts of 512 and 2048, decode at contexts of 512 and 2111.", "",
    ]  # fmt: skip
    lines += accuracy(records, names) + energy(records, names)
    out = path.with_name("h100.md")
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines) + f"\nwritten: {out}")


def accuracy(records: Sequence[Measurement], names: dict[str, str]) -> list[str]:
    """Errors of the calibration on ten planned architectures, and of the catalogue alone, on models that were not among them."""
    device = load_device("h100_sxm_80gb")
    catalogue = RooflineModel.of(device, load_calibration().rates(device, "torch", PRECISIONS[FORM], 1))
    priors = phase_priors(device, "torch", FORM)
    of_families = [m for m in records_of(FAMILIES) if m.options.get("graph") == "true"]
    lines = ["## Ten planned architectures measured, others predicted", "",
             "| model | pass | measured, ms | calibrated | error | inside 90 % | catalogue alone |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    errors: dict[str, list[float]] = {}
    for phase, prior in priors.items():
        groups = {
            which: pass_rows(observe([m for m in records if (m.campaign == "planned") == which]), phase) for which in (True, False)
        }  # fmt: skip
        fitted = calibrate_phase(groups[True], prior)
        predicted = predict_log(groups[False], fitted.terms.seconds_per, fitted.terms.residual)
        for row, log_s in zip(groups[False], predicted, strict=True):
            a, tokens = row.arch, row.workload.prompt_tokens
            error = float(log_s) - math.log(row.seconds)
            outside = not fitted.terms.span_params[0] <= a.params_active <= fitted.terms.span_params[1]
            half = fitted.terms.interval_beyond_log if outside else fitted.terms.interval_log
            raw = catalogue.phase(a, row.workload, PRECISIONS[FORM], phase).seconds
            known = repr(a) in names
            errors.setdefault(f"{phase}, {'known models' if known else 'designs found'}", []).append(
                abs(math.expm1(error))
            )
            errors.setdefault(f"{phase}, all, by the catalogue alone", []).append(abs(raw / row.seconds - 1))
            name = names.get(repr(a), f"design {a.n_layers} x {a.d_model}")
            lines.append(
                f"| {name} | {phase} {'of' if phase == 'prefill' else 'at'} {tokens} | {1e3 * row.seconds:.2f} | {1e3 * math.exp(log_s):.2f} | "
                f"{100 * math.expm1(error):+.1f} % | {'yes' if abs(error) <= half else 'no'}{' (size outside)' if outside else ''} | {100 * (raw / row.seconds - 1):+.0f} % |"
            )
        wide = calibrate_phase([*groups[True], *pass_rows(observe(of_families), phase)], prior).terms
        for row, log_s in zip(groups[False], predict_log(groups[False], wide.seconds_per, wide.residual), strict=True):
            who = "known models" if repr(row.arch) in names else "designs found"
            key = f"{phase}, {who}, with the families' measurements"
            errors.setdefault(key, []).append(abs(math.expm1(float(log_s) - math.log(row.seconds))))
    means = [
        f"- {what}: {100 * sum(e) / len(e):.1f} % mean absolute error over {len(e)} passes"
        for what, e in sorted(errors.items())
    ]
    return [
        *lines,
        "",
        *means,
        "",
        "The ten were all designs with norms of queries and keys, which the known models lack: what those norms cost stood at its prior. "
        f"With results/{FAMILIES.name} added, where some have them and some do not, it is measured; `codesign profile --plan` has since "
        "planned from designs of both kinds.",
        "",
        "The catalogue's rates are those of serving engines; torch's kernels and their number are its own.",
        "",
    ]


def energy(records: Sequence[Measurement], names: dict[str, str]) -> list[str]:
    """Measured joules of a pass, and what the power model gives for the measured time, FLOP and bytes."""
    device = load_device("h100_sxm_80gb")
    model = RooflineModel.of(device, load_calibration().rates(device, "torch", PRECISIONS[FORM], 1))
    assert model.power is not None
    lines = ["## Energy of a pass, by NVML's counter over 3 s", "", "| model | pass | ms | W | mJ | power model, mJ | ratio |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    ratios: dict[str, list[float]] = {}
    for m in records:
        if m.energy_J is None:
            continue
        seconds = observe([m])[0].seconds
        cost = model.phase(m.architecture, pass_workload(m), PRECISIONS[m.precision], m.phase)
        joules = float(model.power.energy_J(seconds, cost.flop, cost.bytes_moved))
        ratios.setdefault(m.phase, []).append(joules / m.energy_J)
        a = m.architecture
        name = names.get(repr(a), f"design {a.n_layers} x {a.d_model}")
        what = f"prefill of {m.tokens}" if m.phase == "prefill" else f"decode at {m.context_tokens}"
        lines.append(f"| {name} | {what} | {1e3 * seconds:.2f} | {m.power_W:.0f} | {1e3 * m.energy_J:.0f} | {1e3 * joules:.0f} | {joules / m.energy_J:.2f} |")  # fmt: skip
    spread = [f"- {phase}: power model over measured {min(r):.2f} to {max(r):.2f}, geometric mean {math.exp(sum(map(math.log, r)) / len(r)):.2f}" for phase, r in ratios.items()]  # fmt: skip
    own = calibrate_energy(records, device)
    assert own is not None
    return [
        *lines, "", *spread, "",
        "The power model of the catalogue's device is scaled from a Jetson by the power limit (results/energy_fit.md); seconds, FLOP and bytes "
        "are the measured pass's. `codesign calibrate` fits constants of this device's own to these passes: "
        f"**{own.held_out_mape_pct:.1f} %** mean absolute error with architectures left out, 90 % interval times or divided by {math.exp(own.interval_log):.2f} "
        f"({own.n_rows} passes, {own.n_architectures} architectures: {own.idle_W:.0f} W, {1e12 * own.flop_J:.2f} pJ/FLOP, {1e12 * own.byte_J:.0f} pJ/byte).",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
