"""Predicted against measured: which designs, which passes, and the summary by hand."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import TINY, FakeEngine, record

from codesign.campaign.validate import check_frontier, choose, validate, validation_campaigns
from codesign.devices import DeviceFit, PhaseTerms, load_device
from codesign.errors import MeasurementError, SpecError
from codesign.measurement import Measurement
from codesign.profilers.base import Point
from codesign.report.validation import write_validation
from codesign.search import Candidate, Frontier
from codesign.workload import Workload

WORKLOAD = Workload(prompt_tokens=100, output_tokens=9, batch_size=2)  # mean context 105: 104 cached and the new token
DECODE, PREFILL = Point.decode(104, 2), Point.prefill(100, 2)


def design(
    n: int, latency_s: float, ttft_s: float, loss: float, precision: str = "fp32", wide: float = 0.1
) -> Candidate:
    values = {"latency_s": latency_s, "ttft_s": ttft_s}
    return Candidate(
        name=f"design-{n}", architecture=TINY.evolve(n_layers=n), precision=precision, loss=loss, loss_std=0.01, values=values,
        intervals={k: (v * (1 - wide), v * (1 + wide)) for k, v in values.items()},
    )  # fmt: skip


DESIGNS = (
    design(1, 0.010, 0.10, 4.0), design(2, 0.020, 0.20, 3.5), design(3, 0.030, 0.30, 3.2), design(4, 0.040, 0.40, 3.0, "w4a32"),
)  # fmt: skip
PROVENANCE = {
    "device": {"name": "jetson_agx_orin_64gb", "title": "Orin", "power_mode": "30W"}, "engine": "onnxruntime",
    "workload": {"prompt_tokens": 100, "output_tokens": 9, "batch_size": 2},
}  # fmt: skip
FRONTIER = Frontier(candidates=DESIGNS, provenance=PROVENANCE)


def measured(c: Candidate, decode_s: float, prefill_s: float | None = None, **changes: Any) -> list[Measurement]:
    passes = [(DECODE, decode_s), *([(PREFILL, prefill_s)] if prefill_s else [])]
    return [record(c.architecture, p, s, precision=c.precision, **changes) for p, s in passes]


def test_the_passes_that_are_measured_are_those_that_were_predicted() -> None:
    fp32, w4 = validation_campaigns(FRONTIER, DESIGNS, "run-1", FakeEngine(), "", 3)
    for one, designs in ((fp32, DESIGNS[:3]), (w4, DESIGNS[3:])):
        assert one.architectures == [c.architecture for c in designs] and one.precision == designs[0].precision
        assert set(one.points) == {DECODE, PREFILL} and one.visits == 3
        assert (one.device, one.power_mode, one.engine_options) == ("jetson_agx_orin_64gb", "30W", {"threads": "1"})
    assert fp32.name != w4.name and "run-1" in fp32.name
    empty = Frontier(
        candidates=DESIGNS,
        provenance={**PROVENANCE, "workload": {"prompt_tokens": 0, "output_tokens": 9, "batch_size": 1}},
    )
    (one, _) = validation_campaigns(empty, DESIGNS, "run-1", FakeEngine(), "", 1)
    assert one.points == (Point.decode(4),)  # no prompt: nothing to prefill


@pytest.mark.parametrize(
    ("top", "names"), [(1, [3]), (2, [1, 4]), (3, [1, 3, 4]), (4, [1, 2, 3, 4]), (99, [1, 2, 3, 4])]
)
def test_designs_are_spread_over_the_frontier(top: int, names: list[int]) -> None:
    assert [c.name for c in choose(FRONTIER, top)] == [f"design-{n}" for n in names]


def test_bad_choices() -> None:
    with pytest.raises(SpecError, match="--top 0 must be at least 1"):
        choose(FRONTIER, 0)
    with pytest.raises(MeasurementError, match="none of the designs was measured"):
        validate(FRONTIER, DESIGNS, [])
    with pytest.raises(MeasurementError, match="none of the designs"):
        validate(FRONTIER, DESIGNS, [record(DESIGNS[0].architecture, Point.decode(7))])  # another pass


def test_a_frontier_of_another_device_mode_or_engine_is_refused() -> None:
    orin = load_device("orin", "30W")
    engine = str(PROVENANCE["engine"])
    check_frontier(FRONTIER, orin, engine, {}, DESIGNS, force=False)
    with pytest.raises(
        MeasurementError, match=r"device 'jetson_agx_orin_64gb', not 'host'.*give --device jetson_agx_orin_64gb, search"
    ):
        check_frontier(FRONTIER, replace(orin, name="host"), engine, {}, DESIGNS, force=False)
    with pytest.raises(MeasurementError, match="power mode '30W', not 'MAXN'.*give --power-mode 30W"):
        check_frontier(FRONTIER, load_device("orin"), engine, {}, DESIGNS, force=False)
    with pytest.raises(MeasurementError, match=f"engine '{engine}', not 'torch'.*give --engine {engine}"):
        check_frontier(FRONTIER, orin, "torch", {}, DESIGNS, force=False)
    check_frontier(FRONTIER, load_device("orin"), "torch", {}, DESIGNS, force=True)


def test_other_options_than_the_calibration_s_are_refused() -> None:
    terms = PhaseTerms(
        seconds_per={"step": 1.0},
        interval_log=0.1,
        interval_beyond_log=0.2,
        span_params=(1.0, 2.0),
        span_tokens=(1.0, 4096.0),
        batches=(1,),
        n_rows=1,
        n_architectures=1,
    )
    fit = DeviceFit(
        engine=str(PROVENANCE["engine"]),
        precision="fp32",
        options={"threads": "1"},
        power_mode="30W",
        source="made up",
        decode=terms,
    )
    orin = replace(load_device("orin", "30W"), fits=(fit,))
    check_frontier(FRONTIER, orin, fit.engine, {"threads": "1"}, DESIGNS, force=False)
    with pytest.raises(MeasurementError, match="fp32 was made with threads 1, and this would measure with threads 4"):
        check_frontier(FRONTIER, orin, fit.engine, {"threads": "4"}, DESIGNS, force=False)
    check_frontier(FRONTIER, orin, fit.engine, {"threads": "4"}, DESIGNS, force=True)


def test_the_summary_by_hand() -> None:
    """Decode: 10 against 8 (+25 %), 20 against 25 (-20 %), 30 against 30, 40 against 20 (+100 %) ms; prefill of two only."""
    found = [
        *measured(DESIGNS[0], 0.008, 0.1), *measured(DESIGNS[0], 0.0088), *measured(DESIGNS[1], 0.025, 0.25),
        *measured(DESIGNS[2], 0.030), *measured(DESIGNS[3], 0.020), record(TINY.evolve(n_layers=99), DECODE),
        record(DESIGNS[1].architecture, DECODE, 0.001, precision="w4a32"),  # that design at a precision it was not proposed in
    ]  # fmt: skip
    result = validate(FRONTIER, DESIGNS, found)
    decode = {row.design: row for row in result.of("latency_s")}
    assert decode["design-1"].error == pytest.approx(0.25) and decode["design-2"].error == pytest.approx(-0.2)
    assert [row.inside for row in decode.values()] == [False, False, True, False]
    s = result.summary()["latency_s"]
    assert s["mape_pct"] == pytest.approx(100 * (0.25 + 0.2 + 0 + 1) / 4) and s["max_pct"] == pytest.approx(100)
    assert s["coverage"] == 0.25 and s["designs"] == 4 and s["repeat_pct"] == pytest.approx(10.0)
    assert s["spearman"] == pytest.approx(1 - 6 * (0 + 1 + 1 + 4) / (4 * 15))  # ranks 1 2 3 4 against 1 3 4 2
    p = result.summary()["ttft_s"]
    assert (p["designs"], p["mape_pct"], p["coverage"]) == (2, pytest.approx(10.0), 0.5) and math.isnan(p["spearman"])
    # Loss falls 4.0, 3.5, 3.2, 3.0 and design-4 took 20 ms: it dominates 2 and 3.
    assert result.pareto == ("design-1", "design-4")


def test_energy_a_token_is_compared_where_it_was_metered(tmp_path: Path) -> None:
    """Two requests at once: 1.0, 1.2 and 1.1 J a step are 0.55 J a token (median); 0.5 +- 0.1 were predicted: -9.1 %, inside."""
    one = replace(
        DESIGNS[0],
        values={**DESIGNS[0].values, "energy_J": 0.5},
        intervals={**DESIGNS[0].intervals, "energy_J": (0.4, 0.6)},
    )
    records = [m for joules in (1.0, 1.2, 1.1) for m in measured(one, 0.01, 0.1, energy_J=joules, power_W=9.0)]
    bare = measured(DESIGNS[1], 0.02, 0.2)
    found = validate(FRONTIER, [one, DESIGNS[1]], [*records, *bare])
    (row,) = found.of("energy_J")
    assert (row.design, row.measured, row.inside) == ("design-1", pytest.approx(0.55), True)
    assert row.error == pytest.approx(-1 / 11) and row.again_log == pytest.approx(math.log(1.2))
    assert found.summary()["energy_J"]["mape_pct"] == pytest.approx(100 / 11)
    write_validation(found, tmp_path)
    assert json.loads((tmp_path / "validation.json").read_text())["summary"]["energy_J"]["designs"] == 1
    assert validate(FRONTIER, [DESIGNS[0]], records).of("energy_J") == []  # no energy was predicted


def test_a_validation_is_written_whole(tmp_path: Path) -> None:
    found = [m for c, s in zip(DESIGNS, (0.008, 0.025, 0.03, 0.02), strict=True) for m in measured(c, s, 10 * s)]
    result = validate(FRONTIER, DESIGNS, found)
    paths = write_validation(result, tmp_path)
    assert sorted(p.name for p in paths) == sorted(p.name for p in tmp_path.iterdir()) == [
        "validation.csv", "validation.json", "validation.png",
    ]  # fmt: skip
    data = json.loads((tmp_path / "validation.json").read_text())
    assert (data["schema"], data["version"], data["engine"]) == ("codesign.validation", 1, "onnxruntime")
    assert data["summary"]["latency_s"]["repeat_pct"] is None and len(data["rows"]) == 8  # one visit: unknown, not nan
    rows = list(csv.DictReader((tmp_path / "validation.csv").open()))
    assert len(rows) == 8 and float(rows[0]["error_pct"]) == pytest.approx(25.0)
    assert (tmp_path / "validation.png").read_bytes().startswith(b"\x89PNG")


def test_one_design_without_prefill_is_written_too(tmp_path: Path) -> None:
    write_validation(validate(FRONTIER, DESIGNS[:1], measured(DESIGNS[0], 0.01)), tmp_path)
    assert (tmp_path / "validation.png").stat().st_size > 1000


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    result = validate(FRONTIER, DESIGNS[:1], measured(DESIGNS[0], 0.01))
    with pytest.raises(SpecError, match="cannot write the validation to"):
        write_validation(result, tmp_path / "gone")
