"""A run's problem built again from its file: the same figures, and what is said where they differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from review_pages import EXAMPLE, HOST_EXAMPLE

from codesign.errors import SchemaError, SpecError
from codesign.predictors import LossLaw, dump_law, load_law
from codesign.report.answer import answer, cautions, safe_design
from codesign.report.design_data import designs_data
from codesign.report.packed import unpack
from codesign.report.review import Review, load_review
from codesign.report.section import strict_json


@pytest.fixture(scope="module")
def review() -> Review:
    return load_review(EXAMPLE)


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], None], source: Path = EXAMPLE) -> Path:
    """A copy of a run whose header was changed."""
    run = tmp_path / "run"
    run.mkdir()
    head, *lines = (source / "frontier.jsonl").read_text().splitlines()
    data = json.loads(head)
    change(data)
    (run / "frontier.jsonl").write_text("\n".join([json.dumps(data), *lines]) + "\n")
    return run


def test_the_catalogue_gives_the_runs_figures_again(review: Review) -> None:
    assert review.rebuilt.from_catalogue and review.rebuilt.notes == ()
    assert max(review.rebuilt.deviation.values()) < 1e-9
    assert (review.device.name, review.engine, review.cost_key) == ("jetson_agx_orin_64gb", "vllm", "latency_s")
    assert review.problem.space.size == 4_054_050


def test_a_device_that_is_not_here_is_rebuilt_from_the_run() -> None:
    """The host example's own calibration lives on the machine that made it; its seconds per unit stand in the run."""
    found = load_review(HOST_EXAMPLE)
    assert not found.rebuilt.from_catalogue
    assert max(found.rebuilt.deviation.values()) < 1e-9
    assert any("'host'" in note for note in found.rebuilt.notes)
    assert found.validation is not None and len(found.validation["rows"]) == 16


#: As a device's own calibration stands in a run.
_OWN = {
    "seconds_per": {"layer": 2e-5, "weight_B": 8e-12}, "interval_beyond_log": 0.4, "mixtures": False, "architectures": 9, "held_out": {},
}  # fmt: skip


def test_changed_rates_are_told_and_the_runs_own_are_used(tmp_path: Path) -> None:
    """Bandwidth and efficiency in the run are not the catalogue's: neither gives the designs again, both are named."""

    def older(data: dict[str, Any]) -> None:
        data["device"]["bandwidth_Bps"] = 150e9
        data["rates"]["fp16"]["decode"]["bandwidth_efficiency"] = 0.5
        data["rates"]["fp16"]["decode"]["layer_s"] *= 1.01
        data["rates"]["fp16"]["prefill"] = {**data["rates"]["fp16"]["prefill"], **_OWN}

    found = load_review(changed(tmp_path, older))
    notes = " | ".join(found.rebuilt.notes)
    assert "bandwidth, B/s: 1.5e+11 in the run, 2.048e+11 here" in notes
    assert "decode bandwidth_efficiency (fp16): 0.5 in the run, 0.7535 here (the most of 2 that differ)" in notes
    assert "prefill (fp16): the device's own calibration in the run, the rates of published measurements here" in notes
    assert found.rebuilt.from_catalogue  # its figures are nearer
    assert any("search again" in text for text in cautions(found))


def test_known_models_are_scored_with_the_runs_vocabulary(review: Review) -> None:
    by_name = {known.candidate.name: known for known in review.known}
    assert next(iter(by_name)) == "qwen2.5-0.5b"  # the run's own baseline first
    for name in ("qwen2.5-1.5b", "llama-3.2-1b", "smollm2-360m", "gemma-3-1b"):
        assert by_name[name].candidate.architecture.vocab_size == 151936
    assert by_name["qwen2.5-1.5b"].note == ""
    assert "151,936 in place of its own 128,256" in by_name["llama-3.2-1b"].note
    own = by_name["llama-3.2-1b"].own_latency_s
    assert own is not None and own < by_name["llama-3.2-1b"].candidate.values["latency_s"]
    assert all(known.candidate.values["memory_B"] <= review.problem.memory_B for known in review.known)


def test_the_answer(review: Review) -> None:
    found = answer(review)
    assert found["best"].loss == min(c.loss for c in review.frontier.candidates)
    safe = safe_design(review)
    assert safe is not None and safe.p_budget >= 0.9
    assert all(c.loss >= safe.loss for c in review.frontier.candidates if c.p_budget >= 0.9)
    assert found["gaps"][0][0].candidate.name == "qwen2.5-0.5b"
    assert found["budget"] == "latency ≤ 20 ms" and len(found["cautions"]) == 3
    assert found["cautions"][0].startswith("The best design meets the budget with 67%")


def test_packed_designs_come_back(review: Review) -> None:
    """Operators: 16 bits on a logarithmic scale are within a thousandth."""
    data = designs_data(review)
    assert data["n_designs"] == len(review.frontier.candidates)
    decode = data["operators"]["decode"]
    seconds = unpack(decode["seconds"][decode["names"].index("lm_head")])
    c = review.frontier.candidates[0]
    from codesign.workload import PRECISIONS

    rows = review.models["fp16"].breakdown(c.architecture, review.problem.workload, PRECISIONS["fp16"], "decode")
    assert seconds[0] == pytest.approx(next(r.seconds for r in rows if r.name == "lm_head"), rel=1e-3)
    json.loads(strict_json(data))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda d: d.pop("workload"), SchemaError, "provenance cannot be used"),
        (lambda d: d["budget"].update(latency_s=-1), SchemaError, "latency_s"),
        (lambda d: d["law"].update(name="nosuch"), SpecError, "the run's loss law 'nosuch' is a file of your own"),
        (lambda d: d["space"]["axes"].update(experts=["8by2"]), SchemaError, "provenance cannot be used"),
        (lambda d: d["rates"].clear(), SchemaError, "provenance cannot be used"),
        (lambda d: d.update(rates={"q4_0": d["rates"]["fp16"]}), SchemaError, "precision 'fp16'"),
        (lambda d: d.update(objectives="loss"), SchemaError, "objectives"),
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_used(tmp_path: Path, change: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        load_review(changed(tmp_path, change))


def test_a_run_without_designs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "frontier.jsonl").write_text((EXAMPLE / "frontier.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(SchemaError, match="no designs"):
        load_review(run)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "other", "version": 1}', '{"schema": "codesign.validation", "version": 1, "rows": [{}], "summary": {}}',
                                  '{"schema": "codesign.validation", "version": 2, "rows": [], "summary": {}}',
                                  '{"schema": "codesign.validation", "version": 1, "rows": [{"design": "design-1", "metric": "latency_s", "predicted": 0, "measured": 1, "interval_90": [1, 2], "inside": true, "error": 0}], "summary": {}}'])  # fmt: skip
def test_a_validation_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(EXAMPLE / "frontier.jsonl", run)
    (run / "validation.json").write_text(text)
    with pytest.raises(SchemaError, match=r"validation\.json"):
        load_review(run)


def test_a_law_of_the_users_own_is_read_from_where_the_command_had_it(tmp_path: Path) -> None:
    shipped = load_law("gemstones")
    mine = tmp_path / "mine.json"
    mine.write_text(dump_law(LossLaw("mine", {**shipped.meta, "name": "mine"}, shipped.core)), encoding="utf-8")
    (tmp_path / "again").mkdir()

    def searched_with(path: Path) -> Callable[[Any], None]:
        return lambda d: d.update(law={**d["law"], "name": "mine"}, command=[*d["command"], "--loss-law", str(path)])

    assert load_review(changed(tmp_path, searched_with(mine))).problem.law.name == "mine"
    with pytest.raises(SpecError, match="which is not there from this folder; name it: --loss-law FILE"):
        load_review(changed(tmp_path / "again", searched_with(tmp_path / "gone.json")))
