"""Published measurements: the committed calibration is their fit, and the committed errors are those of its rows."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from codesign.operators import Phase
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.roofline.fit import Observation, fit_phase, observations, predict_seconds
from codesign.roofline.score_table import ADDED, predicted_table
from codesign.roofline.validation import errors

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "latency"
REPORT, ROWS = ROOT / "results" / "latency_validation.md", ROOT / "results" / "latency_validation.csv"
FITS = load_calibration()
PHASES: tuple[Phase, ...] = ("prefill", "decode")
published = pytest.mark.skipif(
    not (DATA / "measured.csv").is_file(), reason="published measurements (../shared/data/latency) are absent"
)
committed = pytest.mark.skipif(not REPORT.is_file(), reason="results/latency_validation.md is not in this copy")


@cache
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_calibration", ROOT / "tools" / "fit_calibration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def measured(phase: Phase) -> tuple[Observation, ...]:
    """The observations that the committed calibration was fitted to."""
    cases, _ = tool().read_cases(DATA)
    obs = observations(cases, phase)
    if phase == "prefill":
        obs = [o for o in obs if o.case.prefill and o.case.prefill.prompt_tokens >= tool().MIN_PROMPT]
    return tuple(obs)


@published
@pytest.mark.parametrize("phase", PHASES)
def test_fitting_again_gives_the_committed_calibration(phase: Phase) -> None:
    obs, fit = measured(phase), FITS.of(phase)
    again = fit_phase(obs)
    assert dict(again.cells) == dict(fit.cells)
    assert set(again.effects) == set(fit.effects)
    # Effects that the data hardly hold move a little with the numerical library; predictions must not.
    assert max(abs(again.effects[key] - fit.effects[key]) for key in fit.effects) < 0.02
    ratio = predict_seconds(again, obs) / predict_seconds(fit, obs)
    assert np.max(np.abs(ratio - 1)) < 0.01


@published
def test_errors_in_sample() -> None:
    """Not a test of what was never seen, but a fit that got worse shows here; held-out errors are in results/."""
    obs = measured("decode")
    predicted, seconds = predict_seconds(FITS.decode, obs), np.array([o.seconds for o in obs])
    single = np.array([o.cell.batch_size == 1 for o in obs])
    assert errors(predicted[single], seconds[single])["mape_pct"] < 7.0  # 5.3 when written
    assert abs(errors(predicted, seconds)["bias_pct"]) < 2.0
    obs = measured("prefill")
    predicted, seconds = predict_seconds(FITS.prefill, obs), np.array([o.seconds for o in obs])
    assert errors(predicted, seconds)["mape_pct"] < 10.0  # 7.8 when written


@published
@pytest.mark.parametrize("phase", PHASES)
def test_the_fits_formula_is_the_cost_models_on_every_published_row(phase: Phase) -> None:
    obs = measured(phase)
    for o, seconds in zip(obs, predict_seconds(FITS.of(phase), obs), strict=True):
        c, workload = o.case, o.case.prefill if phase == "prefill" else o.case.decode
        assert workload is not None
        rates = FITS.rates(c.device, c.engine, c.precision, workload.batch_size)
        cost = RooflineModel(device=c.device, rates=rates).phase(c.arch, workload, c.precision, phase, totals=False)
        assert float(cost.seconds) == pytest.approx(seconds, rel=1e-9)


@published
def test_the_whole_table_is_predicted_or_says_why() -> None:
    text, summary = predicted_table(DATA / "measured.csv", DATA / "model_archs.csv", FITS)
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    with (DATA / "measured.csv").open(newline="", encoding="utf-8") as file:
        original = list(csv.DictReader(file))
    assert [{k: v for k, v in row.items() if k not in ADDED} for row in rows] == original
    for row in rows:
        assert bool(row["not_predicted_because"]) != bool(row["predicted_decode_ms"])
    reasons = [row["not_predicted_because"] for row in rows if row["not_predicted_because"]]
    assert len(reasons) < 0.15 * len(rows)
    assert all("architecture" in reason or "ran on the CPU" in reason for reason in reasons)
    assert summary[0] == f"{len(rows)} rows, {len(rows) - len(reasons)} predicted, {len(reasons)} not"


# --- the committed report ------------------------------------------------------------------------------------------------


@cache
def section(phase: Phase) -> str:
    text = REPORT.read_text(encoding="utf-8")
    return text.split(f"## {phase.capitalize()}")[1].split("\n## ")[0]


@cache
def left_out(phase: Phase, way: str) -> list[dict[str, str]]:
    with ROWS.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if (row["phase"], row["left_out"]) == (phase, way)]


def mape(rows: list[dict[str, str]]) -> float:
    return float(np.mean([abs(100 * (float(r["predicted_ms"]) / float(r["measured_ms"]) - 1)) for r in rows]))


@committed
@pytest.mark.parametrize("phase", PHASES)
def test_intervals_cover_what_they_claim(phase: Phase) -> None:
    line = next(line for line in section(phase).splitlines() if line.startswith("Cross-validated coverage"))
    stated = {way: float(value) for way, value in re.findall(r"(model|source|device) (\d+) %", line)}
    assert set(stated) == {"model", "source", "device"}
    assert all(85 <= value <= 95 for value in stated.values())
    for way, value in stated.items():
        assert 100 * FITS.of(phase).held_out[way]["coverage90"] == pytest.approx(value, abs=0.51)


@committed
@pytest.mark.parametrize("phase", PHASES)
def test_the_rows_are_consistent(phase: Phase) -> None:
    ids = []
    for way in ("model", "source", "device"):
        rows = left_out(phase, way)
        ids.append([row["row_id"] for row in rows])
        for row in rows:
            error = 100 * (float(row["predicted_ms"]) / float(row["measured_ms"]) - 1)
            assert error == pytest.approx(
                float(row["error_pct"]), abs=0.06 + 1e-4 * abs(error) + 5e-3 / float(row["measured_ms"])
            )
            assert row["group"] == row[way] and row["level"] in "01234"
            if way == "device":
                assert int(row["level"]) >= 2  # nothing of this device was seen
    assert ids[0] == ids[1] == ids[2] and len(set(ids[0])) == len(ids[0])
    n = int(re.search(r"(\d+) rows used", REPORT.read_text(encoding="utf-8")).group(1))  # type: ignore[union-attr]
    assert str(n) in FITS.source and len(ids[0]) <= n


@committed
@pytest.mark.parametrize("way", ["model", "source", "device"])
def test_the_reports_decode_errors_are_those_of_its_rows(way: str) -> None:
    pooled: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in section("decode").splitlines():
        if re.match(rf"\| {way} \| (batch|from) ", line):
            _, _, label, n, value, *_ = (part.strip(" *") for part in line.split("|"))
            pooled["above 1" if "above 1" in label else "1"].append((int(n), float(value)))
    rows = [r for r in left_out("decode", way) if way != "model" or r["level"] == "0"]
    for label, parts in pooled.items():
        mine = [r for r in rows if (int(r["batch"]) > 1) == (label == "above 1")]
        assert len(mine) == sum(n for n, _ in parts)
        assert mape(mine) == pytest.approx(sum(n * value for n, value in parts) / len(mine), abs=0.02)


@committed
@pytest.mark.parametrize("phase", PHASES)
def test_the_reports_errors_by_device_are_those_of_its_rows(phase: Phase) -> None:
    lines = [line for line in section(phase).splitlines() if re.match(r"\| \w+ \| [\w.-]+ \| \d+ \|", line)]
    seen = 0
    for line in lines:
        device, engine, n, *values = (part.strip() for part in line.strip("|").split("|"))
        for way, value in zip(("model", "source", "device"), values, strict=True):
            rows = [r for r in left_out(phase, way) if (r["device"], r["engine"]) == (device, engine)]
            assert len(rows) == int(n)
            assert mape(rows) == pytest.approx(float(value), abs=0.02), (device, engine, way)
        seen += int(n)
    assert seen == len(left_out(phase, "model")) > 200


@committed
@pytest.mark.parametrize("phase", PHASES)
def test_the_report_is_that_of_the_bundled_calibration(phase: Phase) -> None:
    fit = FITS.of(phase)
    widths = [float(w) for w in re.findall(r"measured[^|]* \| (\d+\.\d+) \| \d+ \|", section(phase))]
    assert widths == pytest.approx([float(np.exp(v)) for v in fit.intervals], abs=0.0051)
    for way, held in fit.held_out.items():
        first = next(line for line in section(phase).splitlines() if line.startswith(f"| {way} |"))
        assert f"| {held['n']:g} | **{held['mape_pct']:g}** | {held['median_pct']:g} | {held['p90_pct']:g} |" in first


@committed
@pytest.mark.parametrize("phase", PHASES)
def test_the_calibration_beats_the_plain_roofline_held_out(phase: Phase) -> None:
    for line in section(phase).splitlines():
        if re.match(r"\| (model|source|device) \| (batch 1|256)", line):
            ours, plain = (float(line.split("|")[i].strip(" *")) for i in (4, 8))
            assert ours < 0.6 * plain
