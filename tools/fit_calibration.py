"""Fit the bundled calibration to published measurements and write its held-out errors.

    python tools/fit_calibration.py --data ../shared/data/latency

writes codesign/roofline/calibration.json, codesign/roofline/energy.json, results/latency_validation.md,
results/latency_validation.csv (each left-out row; what the review page shows of it in codesign/report/data) and results/energy_fit.md.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from codesign.devices import load_device
from codesign.measured_table import Case, iter_cases, read_archs, read_rows
from codesign.roofline.calibration import LEVELS, Calibration
from codesign.roofline.fit import Observation, fit_phase, observations
from codesign.roofline.validation import (
    LeftOut,
    calibrate_intervals,
    errors,
    leave_out,
    one_scalar,
    plain_roofline,
    with_intervals,
)

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "python tools/fit_calibration.py --data ../shared/data/latency"
PAGE_COLUMNS = [
    "phase", "left_out", "source", "device", "engine", "kind", "model", "measured_ms", "predicted_ms", "inside_90",
]  # fmt: skip
MIN_PROMPT = 64  # shorter prompts are launch-bound and mostly unstated server overhead


def read_cases(data: Path) -> tuple[list[Case], dict[str, int]]:
    """Cases of quality A and B, and why other rows of that quality were left out."""
    archs = read_archs(data / "model_archs.csv")
    _, rows = read_rows(data / "measured.csv")
    cases, reasons = [], defaultdict(int)
    for row, case in zip(rows, iter_cases(rows, archs), strict=True):
        if row["quality"] not in ("A", "B"):
            continue
        if isinstance(case, str):
            reasons[case] += 1
        else:
            cases.append(case)
    return cases, dict(reasons)


def subsets(obs: list[Observation]) -> dict[str, np.ndarray]:
    """Masks of the rows that the tables report on."""
    batch = np.array([o.cell.batch_size for o in obs])
    if obs[0].phase == "decode":
        stated = np.array([not np.isnan(o.case.decode_s) for o in obs])
        return {"batch 1": (batch == 1) & stated, "batch above 1": batch > 1, "from end-to-end times": ~stated}
    return {"256 tokens and more": np.array([o.case.prefill.prompt_tokens >= 256 for o in obs if o.case.prefill])}


def validate(
    obs: list[Observation], out: list[str], rows: list[dict[str, object]]
) -> tuple[tuple[float, ...], dict[str, dict[str, float]]]:
    """Leave out in three ways, append tables to `out` and rows to `rows`; widths and held-out errors."""
    phase = obs[0].phase
    measured = np.array([o.seconds for o in obs])
    parts: list[LeftOut] = [leave_out(obs, way) for way in ("model", "source", "device")]
    widths, coverage = calibrate_intervals(parts)
    held: dict[str, dict[str, float]] = {}
    out += [f"\n## {phase.capitalize()}\n", "| left out | rows | n | this calibration: MAPE % | median % | p90 % | bias % | "
            "plain roofline: MAPE % | p90 % | one scalar: MAPE % | p90 % | 90 % interval holds |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    ideal = plain_roofline(obs)
    for part in parts:
        scalar = one_scalar(part)
        inside = np.abs(part.log_error) <= np.array(widths)[part.interval_level]
        for label, mask in subsets(obs).items():
            if part.way == "model":
                mask, label = mask & (part.level == 0), label + ", device, engine and precision seen"
            e, p, s = (errors(x[mask], measured[mask]) for x in (part.predicted, ideal, scalar))
            if not e["n"]:
                continue
            if not held.get(part.way):
                held[part.way] = {**e, "coverage90": round(coverage[part.way], 3)}
            out.append(
                f"| {part.way} | {label} | {e['n']} | **{e['mape_pct']}** | {e['median_pct']} | {e['p90_pct']} | {e['bias_pct']} | "
                f"{p['mape_pct']} | {p['p90_pct']} | {s['mape_pct']} | {s['p90_pct']} | {100 * inside[mask].mean():.0f} % |"
            )
        rows += [
            {
                "phase": phase, "left_out": part.way, "group": part.group[i], "row_id": o.case.row_id, "source": o.case.source,
                "device": o.case.device.name, "power_mode": o.case.device.power_mode or "", "engine": o.cell.engine,
                "kind": o.cell.kind, "model": o.case.model, "batch": o.cell.batch_size, "level": int(part.level[i]),
                "measured_ms": round(1e3 * o.seconds, 4), "predicted_ms": round(1e3 * float(part.predicted[i]), 4),
                "error_pct": round(100 * (float(part.predicted[i]) / o.seconds - 1), 2), "inside_90": bool(inside[i]),
            }
            for i, o in enumerate(obs)
        ]  # fmt: skip
    out.append("\nCross-validated coverage of the 90 % intervals, all rows (widths from the other groups only): "
               + ", ".join(f"{way} {100 * value:.0f} %" for way, value in coverage.items()) + ".")  # fmt: skip
    out += ["\n| nearest measurement | 90 % interval: times or divided by | left-out rows |", "|---|---|---|"]
    for k, level in enumerate(LEVELS):
        n = sum(int((part.level == k).sum()) for part in parts)
        out.append(f"| {level} | {np.exp(widths[k]):.2f} | {n} |")
    _by_cell(parts, measured, out)
    return widths, held


def _by_cell(parts: list[LeftOut], measured: np.ndarray, out: list[str]) -> None:
    """MAPE of each device and engine, for each way of leaving out."""
    cells: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, o in enumerate(parts[0].obs):
        cells[o.case.device.name, o.cell.engine].append(i)
    out += ["\n| device | engine | rows | MAPE %, model out | source out | device out |", "|---|---|---|---|---|---|"]
    for (device, engine), index in sorted(cells.items()):
        values = [errors(p.predicted[index], measured[index])["mape_pct"] for p in parts]
        out.append(f"| {device} | {engine} | {len(index)} | {values[0]} | {values[1]} | {values[2]} |")


def same_setup_noise(cases: list[Case]) -> list[str]:
    """Ratios between sources that measured the same device, engine, precision, model and batch."""
    groups: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for c in cases:
        if c.decode_s > 0:
            key = (c.device.name, str(c.device.power_mode), c.precision.kind, c.model, str(c.decode.batch_size))
            groups[key][c.source].append(c.decode_s)
    lines = ["\n## What is noise\n", "Decode time of the same device, power mode, weight class and model in two sources (any engine): "
             "slowest over fastest median.\n", "| device | mode | weights | model | sources | ratio |", "|---|---|---|---|---|---|"]  # fmt: skip
    for key, sources in sorted(groups.items()):
        if len(sources) > 1:
            medians = sorted(float(np.median(v)) for v in sources.values())
            lines.append(
                f"| {key[0]} | {key[1]} | {key[2]} | {key[3]} | {', '.join(sorted(sources))} | {medians[-1] / medians[0]:.2f} |"
            )
    return lines


def fit_energy(cases: list[Case]) -> tuple[dict[str, object], list[str]]:
    """Idle power, energy per FLOP and per byte on AGX Orin by non-negative least squares, and errors by source left out.

    Passes shorter than 4 s are dropped: the board's sensors average over seconds, and short passes read near idle.
    """
    rows = []
    for phase in ("decode", "prefill"):
        for o in observations(cases, phase):
            c = o.case
            decode_s = o.seconds * c.decode.output_tokens
            long = decode_s > 4 if phase == "decode" else o.seconds > 4
            stated = phase == "decode" or c.source.startswith("S16")  # S08's power is that of decode
            if c.device.name == "jetson_agx_orin_64gb" and c.power_W > 0 and long and stated:
                flop, moved = float(o.flop @ o.count), float(o.moved @ o.count)
                rows.append(
                    (c.source, phase, c.model, c.device.power_mode, c.power_W, flop / o.seconds, moved / o.seconds)
                )
    sources = sorted({row[0] for row in rows})

    def solve(keep: list[tuple]) -> np.ndarray:
        design = np.array([[1.0, row[5] / 1e12, row[6] / 1e11] for row in keep])
        power = np.array([row[4] for row in keep])
        weight = np.array([1 / np.sqrt(sum(r[0] == row[0] for r in keep)) for row in keep]) / power
        return nnls(design * weight[:, None], power * weight)[0] * np.array([1.0, 1e-12, 1e-11])

    fit = solve(rows)

    def power(x: np.ndarray, row: tuple) -> float:
        return float(x @ np.array([1.0, row[5], row[6]]))

    out = ["# Energy model: AGX Orin\n", f"Made by `{COMMAND}`: P = P_idle + e_flop * FLOP/s + e_byte * bytes/s, non-negative "
           "least squares on relative errors, each source weighing the same; passes of 4 s and more only, since the board's "
           "sensors average over seconds. One source reports the GPU rail, the other the sum of rails: what they disagree "
           "by is the interval.\n", f"P_idle {fit[0]:.2f} W, e_flop {fit[1] * 1e12:.3f} pJ/FLOP, e_byte {fit[2] * 1e12:.1f} pJ/byte\n",
           "| source | rows | error in sample: MAPE % | bias % | error with the source left out: MAPE % | bias % |",
           "|---|---|---|---|---|---|"]  # fmt: skip
    worst = []
    for source in sources:
        mine = [row for row in rows if row[0] == source]
        measured = np.array([row[4] for row in mine])
        inside = errors(np.array([power(fit, row) for row in mine]), measured)
        left = np.array([power(solve([row for row in rows if row[0] != source]), row) for row in mine])
        outside = errors(left, measured)
        worst += list(np.abs(np.log(left / measured)))
        out.append(
            f"| {source} | {len(mine)} | {inside['mape_pct']} | {inside['bias_pct']} | {outside['mape_pct']} | {outside['bias_pct']} |"
        )
    width = float(np.quantile(worst, 0.9))
    out.append(f"\n90 % interval: times or divided by {np.exp(width):.2f} (90th percentile of the errors with a source left out). "
               f"Other devices: times or divided by {np.exp(2 * width):.2f}, twice as wide in the logarithm: an assumption, no "
               "other device's power was measured in a way that compares (wall power of whole systems only).")  # fmt: skip
    device = load_device("orin")
    data = {
        "schema": "codesign.energy", "version": 1, "source": f"fitted to power measured on AGX Orin ({', '.join(sources)}); {COMMAND}",
        "idle_W": round(float(fit[0]), 4), "flop_J": float(f"{fit[1]:.5g}"), "byte_J": float(f"{fit[2]:.5g}"),
        "interval_log": round(width, 4), "interval_log_scaled": round(2 * width, 4),
        "device": {"name": device.name, "power_mode": device.power_mode, "tdp_W": device.tdp_W,
                   "peak_flop_per_s": device.peak_flop_per_s["fp16"], "bandwidth_Bps": device.bandwidth_Bps},
    }  # fmt: skip
    return data, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "latency")
    parser.add_argument(
        "--fit-only", action="store_true", help="skip the held-out errors; keep the intervals of the last run"
    )
    args = parser.parse_args()
    cases, reasons = read_cases(args.data)
    out = ["# Latency calibration: held-out errors\n", f"Made by `{COMMAND}` from the rows of quality A and B of published "
           "measurements (`measured.csv`, sources named there). Each row is predicted by a fit that never saw its group: "
           "its model, its source, or its device.\n", f"{len(cases)} rows used; not used:\n"]  # fmt: skip
    out += [f"- {n} x {reason}" for reason, n in sorted(reasons.items())]
    rows: list[dict[str, object]] = []
    fits = {}
    for phase in ("decode", "prefill"):
        obs = observations(cases, phase)
        if phase == "prefill":
            obs = [o for o in obs if o.case.prefill and o.case.prefill.prompt_tokens >= MIN_PROMPT]
        fit = fit_phase(obs)
        if args.fit_only:
            old = json.loads((ROOT / "codesign/roofline/calibration.json").read_text())["phases"][phase]
            fits[phase] = with_intervals(fit, tuple(old["intervals"]), old["held_out"])
        else:
            widths, held = validate(obs, out, rows)
            fits[phase] = with_intervals(fit, widths, held)
    source = f"fitted to {len(cases)} published measurements (quality A and B); {COMMAND}"
    text = json.dumps(Calibration(fits["prefill"], fits["decode"], source).to_json(), indent=1, sort_keys=True)
    (ROOT / "codesign/roofline/calibration.json").write_text(text + "\n", encoding="utf-8")
    energy, energy_out = fit_energy(cases)
    (ROOT / "codesign/roofline/energy.json").write_text(json.dumps(energy, indent=1) + "\n", encoding="utf-8")
    if args.fit_only:
        return
    (ROOT / "results/energy_fit.md").write_text("\n".join(energy_out) + "\n", encoding="utf-8")
    out += same_setup_noise(cases)
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results/latency_validation.md").write_text("\n".join(out) + "\n", encoding="utf-8")
    write_rows(ROOT / "results/latency_validation.csv", rows, list(rows[0]))
    write_rows(ROOT / "codesign/report/data/latency_held_out.csv", rows, PAGE_COLUMNS)
    print(
        "\n".join(
            line
            for line in out
            if line.startswith(("| model |", "| source |", "| device |", "## ", "Cross", "\nCross"))
        )
    )


def write_rows(path: Path, rows: list[dict[str, object]], columns: list[str]) -> None:
    """A CSV of some columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
