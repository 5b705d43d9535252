"""The whole loop on this machine's CPU as a person types it: profile, calibrate, search, validate, export. No latency is asserted."""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import SHORT, SPACE, codesign

from codesign.campaign import target
from codesign.cli import main
from codesign.devices import write_device
from codesign.devices.schema import read_device

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("sqlalchemy")
pytest.importorskip("sklearn")

Done = dict[str, subprocess.CompletedProcess[str]]
SEARCH = ("--vocab", "512", *SHORT, "--allow-extrapolation", "--no-plot")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    (folder / "tiny.toml").write_text(SPACE)
    return folder


@pytest.fixture(scope="module")
def loop(home: Path) -> Done:
    """Every command of the loop, each of which must succeed with nothing on stderr."""
    steps = {
        "profile": ("profile", "--device", "host", "--space", "tiny.toml", "--plan", "8", "--visits", "1", *SHORT),
        "calibrate": ("calibrate", "--device", "host"),
        "search": ("search", "--device", "host", "--latency", "1s", "--space", "tiny.toml", "--out", "run", *SEARCH),
        "validate": ("validate", "run", "--device", "host", "--top", "3", "--visits", "1"),
        "export": ("export", "run/design-1", "--onnx", "--out", "design-1.onnx"),
    }
    done: Done = {}
    for name, arguments in steps.items():
        done[name] = codesign(home, *arguments)
        assert done[name].returncode == 0 and done[name].stderr == "", (name, done[name].stdout, done[name].stderr)
    return done


def test_the_frontier_of_a_calibrated_device_keeps_the_schema(home: Path, loop: Done) -> None:
    from jsonschema import Draft202012Validator

    from codesign.search.frontier import frontier_schema

    validator = Draft202012Validator(frontier_schema())
    lines = (home / "run/frontier.jsonl").read_text().splitlines()
    for line in lines:
        validator.validate(json.loads(line))
    assert "seconds_per" in json.loads(lines[0])["rates"]["fp32"]["decode"]


def test_eight_architectures_were_measured_and_calibrated(home: Path, loop: Done) -> None:
    assert "8 architectures at fp32, 32 records added" in loop["profile"].stdout
    assert "next: codesign calibrate --device host" in loop["profile"].stdout
    assert "times: codesign measurements --campaign host-onnxruntime-" in loop["profile"].stdout
    device = read_device(home / "devices/host.toml")
    (fit,) = device.fits
    assert (fit.engine, fit.precision, fit.options) == ("onnxruntime", "fp32", {"threads": "1", "provider": "cpu"})
    for terms in (fit.prefill, fit.decode):
        assert (
            terms is not None
            and terms.n_architectures == 8
            and terms.n_rows == 16
            and terms.held_out["roofline_mape_pct"] > 0
        )
    assert "8" in loop["calibrate"].stdout and "each pass was visited once" in loop["calibrate"].stdout


def test_the_search_rests_on_the_calibration(home: Path, loop: Done) -> None:
    head, *lines = [json.loads(line) for line in (home / "run/frontier.jsonl").read_text().splitlines()]
    assert head["device"]["name"] == "host" and head["engine"] == "onnxruntime" and list(head["rates"]) == ["fp32"]
    assert (
        head["rates"]["fp32"]["decode"]["seconds_per"]
        == read_device(home / "devices/host.toml").fits[0].decode.seconds_per
    )  # type: ignore[union-attr]
    assert lines and all(line["precision"] == "fp32" and line["values"]["latency_s"] > 0 for line in lines)
    assert "calibration (fp32) is this device's own" in " ".join(loop["search"].stdout.split())


def test_predicted_and_measured_stand_beside_each_other(home: Path, loop: Done) -> None:
    data = json.loads((home / "run/validation.json").read_text())
    assert (data["schema"], data["device"]["name"], data["engine"]) == ("codesign.validation", "host", "onnxruntime")
    assert len(data["rows"]) == 6 and {row["metric"] for row in data["rows"]} == {"latency_s", "ttft_s"}
    values = {
        line["name"]: line["values"]
        for line in map(json.loads, (home / "run/frontier.jsonl").read_text().splitlines()[1:])
    }
    for row in data["rows"]:
        assert row["predicted"] == values[row["design"]][row["metric"]] and row["measured"] > 0
        assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1)
        assert row["inside"] == (row["interval_90"][0] <= row["measured"] <= row["interval_90"][1])
    assert set(data["pareto_measured"]) <= set(values) and data["summary"]["latency_s"]["designs"] == 3
    assert len(list(csv.DictReader((home / "run/validation.csv").open()))) == 6
    assert (home / "run/validation.png").read_bytes().startswith(b"\x89PNG")
    out = " ".join(loop["validate"].stdout.split())
    for text in (
        "predicted against measured, ms",
        "rank correlation",
        "inside the 90 % interval",
        "non-dominated",
        "validation.json",
    ):
        assert text in out


def test_the_winner_is_exported(home: Path, loop: Done) -> None:
    import onnx

    graph = onnx.load(home / "design-1.onnx").graph
    assert {"input_ids", "position_ids"} <= {i.name for i in graph.input} and "logits" in {o.name for o in graph.output}


def validate(home: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """In this process, with peaks that need no measuring."""
    peaks = {"gemm_fp32_flop_per_s": 5e10, "read_Bps": 9e9, "gemv_fp32_Bps": 1e10}
    monkeypatch.setattr(target, "measure_peaks", lambda threads, seconds: peaks)
    monkeypatch.setattr(tempfile, "tempdir", str(home / "tmp"))
    monkeypatch.setenv("CODESIGN_HOME", str(home))
    monkeypatch.chdir(home)
    return main(["validate", *arguments])


@pytest.mark.usefixtures("loop")
def test_validating_again_measures_nothing_anew_and_prints_json(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    before = (home / "run/validation.json").read_text()
    assert validate(home, monkeypatch, "run", "--device", "host", "--top", "3", "--visits", "1", "--json") == 0
    assert (
        json.loads(capsys.readouterr().out)
        == json.loads(before)
        == json.loads((home / "run/validation.json").read_text())
    )


@pytest.mark.usefixtures("loop")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gone", "--device", "host"), "gone is not a run of codesign (it has no frontier.jsonl)"),
        (("run", "--device", "host", "--top", "0"), "--top 0 must be at least 1"),
        (("run", "--device", "orin"), "this machine is not a 'jetson_agx_orin_64gb'"),
        (("run", "--device", "orin", "--force", "--engine", "tensorflow"), "unknown engine 'tensorflow'"),
        (("run", "--device", "host", "--power-mode", "15W"), "'host' has no power modes"),
        (("run", "--device", "host", "--threads", "0"), "threads is '0'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)  # fmt: skip
def test_what_validate_refuses(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: tuple[str, ...], said: str
) -> None:
    assert validate(home, monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err


@pytest.mark.usefixtures("loop")
def test_a_run_that_was_searched_for_another_device_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    searched = codesign(
        home, "search", "--device", "orin", "--latency", "1s", "--space", "tiny.toml", "--out", "orin-run", *SEARCH
    )
    assert searched.returncode == 0, searched.stderr
    assert validate(home, monkeypatch, "orin-run", "--device", "host", "--engine", "onnxruntime") == 2
    assert "searched for device 'jetson_agx_orin_64gb', not 'host'" in capsys.readouterr().err


@pytest.mark.usefixtures("loop")
def test_a_calibration_of_another_machine_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    path = home / "devices/host.toml"
    text, device = path.read_bytes(), read_device(path)
    arguments = ("run", "--device", "host", "--top", "3", "--visits", "1")
    try:
        write_device(
            replace(device, fits=tuple(replace(f, machine="Another CPU, 64 CPUs, 512 GB") for f in device.fits)), path
        )
        assert validate(home, monkeypatch, *arguments) == 2
        assert "of another machine (Another CPU, 64 CPUs, 512 GB; this is" in capsys.readouterr().err
        assert validate(home, monkeypatch, *arguments, "--force") == 0
    finally:
        path.write_bytes(text)
