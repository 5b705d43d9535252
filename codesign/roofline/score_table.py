"""A table of measurements with predictions beside them: anyone can score the calibration on their own rows."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np

from codesign.errors import SpecError
from codesign.measured_table import Case, iter_cases, read_archs, read_rows
from codesign.operators import Phase
from codesign.roofline.calibration import LEVELS, Calibration
from codesign.roofline.cost import RooflineModel

__all__ = ["ADDED", "predicted_table"]

#: Columns that are added to the table's own.
ADDED = (
    "predicted_prefill_ms", "predicted_prefill_low90_ms", "predicted_prefill_high90_ms", "prefill_error_pct",
    "predicted_decode_ms", "predicted_decode_low90_ms", "predicted_decode_high90_ms", "decode_error_pct",
    "predicted_e2e_s", "e2e_error_pct", "nearest_measurement", "not_predicted_because", "prediction_note",
)  # fmt: skip

_NEEDED = ("device_id", "engine", "arch_id")


def predicted_table(path: Path, archs: Path, fits: Calibration) -> tuple[str, list[str]]:
    """The table as CSV text with the columns of `ADDED`, and a summary of the errors in lines.

    Rows that cannot be predicted stay, with the reason in not_predicted_because. Times are of the whole batch; errors
    are 100 * (predicted / measured - 1), where the row has a measurement.

    Raises:
        SpecError: a file that cannot be read, or lacks a column.
    """
    known = read_archs(archs)
    header, rows = read_rows(path)
    if missing := [name for name in _NEEDED if name not in header]:
        raise SpecError(f"{path} lacks the column(s) {', '.join(missing)}; needed: {', '.join(_NEEDED)}")
    kept = [name for name in header if name not in ADDED]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=[*kept, *ADDED], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    errors: dict[str, list[tuple[float, bool]]] = {"prefill": [], "decode": []}
    failed: dict[str, int] = {}
    for row, case in zip(rows, iter_cases(rows, known), strict=True):
        added = dict.fromkeys(ADDED, "")
        if isinstance(case, str):
            added["not_predicted_because"] = case
            failed[case] = failed.get(case, 0) + 1
        else:
            _fill(added, case, fits, errors)
        writer.writerow({**row, **added})
    return out.getvalue(), _summary(len(rows), failed, errors)


def _fill(added: dict[str, str], case: Case, fits: Calibration, errors: dict[str, list[tuple[float, bool]]]) -> None:
    rates = fits.rates(case.device, case.engine, case.precision, case.decode.batch_size)
    model = RooflineModel(device=case.device, rates=rates)
    added["nearest_measurement"] = LEVELS[rates.decode.level]
    added["prediction_note"] = case.note
    predicted: dict[str, float] = {}
    phases: tuple[Phase, ...] = ("prefill", "decode")
    for phase in phases:
        workload = case.prefill if phase == "prefill" else case.decode
        if workload is None:
            continue
        seconds = float(model.phase(case.arch, workload, case.precision, phase).seconds)
        spread = math.exp(rates.of(phase).interval_log)
        predicted[phase] = seconds
        added[f"predicted_{phase}_ms"] = f"{1e3 * seconds:.6g}"
        added[f"predicted_{phase}_low90_ms"] = f"{1e3 * seconds / spread:.6g}"
        added[f"predicted_{phase}_high90_ms"] = f"{1e3 * seconds * spread:.6g}"
        measured = case.prefill_s if phase == "prefill" else case.decode_s
        if measured > 0:
            added[f"{phase}_error_pct"] = f"{100 * (seconds / measured - 1):.2f}"
            errors[phase].append((seconds / measured, seconds / spread <= measured <= seconds * spread))
    if "prefill" in predicted:
        total = predicted["prefill"] + predicted["decode"] * case.decode.output_tokens
        added["predicted_e2e_s"] = f"{total:.6g}"
        if case.e2e_s > 0:
            added["e2e_error_pct"] = f"{100 * (total / case.e2e_s - 1):.2f}"


def _summary(n: int, failed: dict[str, int], errors: dict[str, list[tuple[float, bool]]]) -> list[str]:
    lines = [f"{n} rows, {n - sum(failed.values())} predicted, {sum(failed.values())} not"]
    lines += [f"  {count} x {reason}" for reason, count in sorted(failed.items(), key=lambda item: -item[1])]
    for phase, pairs in errors.items():
        if pairs:
            relative = 100 * np.abs(np.array([ratio for ratio, _ in pairs]) - 1)
            lines.append(
                f"{phase}: {len(pairs)} measured, MAPE {relative.mean():.1f} %, median {np.median(relative):.1f} %, p90 "
                f"{np.quantile(relative, 0.9):.1f} %, inside the 90 % interval {np.mean([hit for _, hit in pairs]):.0%}"
            )
    if any(errors.values()):
        lines.append("rows that the calibration was fitted on are not a test of it: see results/latency_validation.md")
    return lines
