"""trtexec: its files, its command line by version, and a whole visit with a fake program. Data: data_tensorrt/README.md."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codesign.architecture import Architecture
from codesign.errors import MeasurementError, SchemaError, SpecError
from codesign.profilers.base import Point
from codesign.profilers.tensorrt_trtexec import Trtexec, find_trtexec, trtexec_command
from codesign.trtexec_files import LayerTime, TrtTimes, read_trtexec_profile, read_trtexec_times

DATA = Path(__file__).parent / "data_tensorrt"
TINY = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
HELP = {"10.5": (DATA / "trtexec_help_10.5.txt").read_text(), "11": (DATA / "trtexec_help_11_made_up.txt").read_text()}


def test_times_are_seconds():
    first, second = read_trtexec_times(DATA / "times_made_up.json")
    assert first == TrtTimes(compute_s=5e-3, latency_s=5e-3, h2d_s=0.0, d2h_s=0.0)
    assert second == TrtTimes(compute_s=6e-3, latency_s=6.75e-3, h2d_s=0.25e-3, d2h_s=0.5e-3)


def test_times_of_an_old_version_add_up_the_latency():
    (only,) = read_trtexec_times(DATA / "times_8.0_made_up.json")
    assert only.latency_s == pytest.approx(4.5e-3)


def test_profile_is_in_order_with_shares_and_without_layers_that_never_ran():
    (conv,) = read_trtexec_profile(DATA / "profile_transcribed.json")
    assert conv == LayerTime("/conv1/Conv + /act1/Relu", 1160.78 * 1e-3, 0.0280382 * 1e-3, 0.027872 * 1e-3, 1.0)
    fused, head = read_trtexec_profile(DATA / "profile_made_up.json")
    assert (fused.name[:14], fused.share, fused.median_s) == ("{ForeignNode[l", 0.75, pytest.approx(7.25e-3))
    assert (head.name, head.share, head.median_s) == ("lm_head", 0.25, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"not the JSON of trtexec --exportTimes .*interrupted"),
        ('[{"computeMs": 1, "h2dMs": 0, "d2hMs"', "not the JSON of trtexec"),
        ('{"schema": "other"}', "which is a list of records"),
        ("[]", "holds no pass; run trtexec again with more"),
        ('[{"h2dMs": 0, "d2hMs": 0}]', "record 1 has no computeMs"),
        ('[{"computeMs": 0, "h2dMs": 0, "d2hMs": 0}]', "record 1 has computeMs 0; a pass takes longer"),
        ('[{"computeMs": -nan, "h2dMs": 0, "d2hMs": 0}]', "record 1 has computeMs None; allowed: milliseconds"),
        ('[{"computeMs": true, "h2dMs": 0, "d2hMs": 0}]', "record 1 has computeMs True"),
        ('[{"count": 3}, {"name": "a", "timeMs": 1}]', "record 1 has no computeMs"),
    ],
)
def test_bad_times_are_one_clear_line(tmp_path, text, message):
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(SchemaError, match=message) as caught:
        read_trtexec_times(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"count": 3}]', "holds no layer; run trtexec with --dumpProfile"),
        ('[{"computeMs": 3}]', "record 1 has no layer name"),
        ('[{"name": "a", "timeMs": 1}]', "layer 'a' has no averageMs"),
        ('[{"name": "a", "timeMs": 0, "averageMs": 0}]', "all layers take 0 ms"),
    ],
)
def test_bad_profiles_are_one_clear_line(tmp_path, text, message):
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(SchemaError, match=message):
        read_trtexec_profile(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"cannot read .*none.json: No such file"):
        read_trtexec_times(tmp_path / "none.json")


def command(version, **changes):
    values = {
        "onnx": Path("m.onnx"),
        "shapes": {"input_ids": (1, 8), "past_key_values.0.key": (1, 2, 0, 16)},
        "inputs": {"input_ids": Path("ids.bin")},
        "times": Path("t.json"),
    }
    return trtexec_command(Path("trtexec"), HELP[version], **(values | changes))


def test_command_of_tensorrt_10_asks_for_what_it_leaves_off():
    line = command("10.5", cuda_graph=True, workspace_MiB=2048)
    assert line[:4] == [
        "trtexec",
        "--onnx=m.onnx",
        "--shapes=input_ids:1x8,past_key_values.0.key:1x2x0x16",
        "--loadInputs=input_ids:ids.bin",
    ]
    assert {"--stronglyTyped", "--noTF32", "--noDataTransfers", "--useSpinWait", "--useCudaGraph"} <= set(line)
    assert "--memPoolSize=workspace:2048" in line and "--exportTimes=t.json" in line
    assert not [
        flag for flag in line if flag in ("--fp16", "--int8", "--dumpProfile")
    ]  # the graph's types are what runs
    assert "--useCudaGraph" not in command("10.5")


def test_command_of_tensorrt_11_turns_off_what_it_has_on():
    known = set(re.findall(r"--\w+", HELP["11"]))
    plain, graph = command("11"), command("11", cuda_graph=True)
    assert "--noCudaGraph" in plain and "--noCudaGraph" not in graph
    for line in (plain, graph):
        assert {flag.split("=")[0] for flag in line[1:]} <= known
    assert command("11", profile=Path("p.json"))[-3:] == [
        "--separateProfileRun",
        "--dumpProfile",
        "--exportProfile=p.json",
    ]


def test_another_program_is_refused():
    with pytest.raises(MeasurementError, match=r"has no --onnx, --shapes, --loadInputs, --exportTimes in its help"):
        trtexec_command(Path("cat"), "usage: cat", onnx=Path("m"), shapes={}, inputs={}, times=Path("t"))


class Model:
    """What `OnnxModel` gives trtexec: a file and the names of the inputs."""

    def __init__(self):
        names = ["input_ids", "position_ids", *(f"past_key_values.{i}.{p}" for i in (0, 1) for p in ("key", "value"))]
        inputs = [type("Input", (), {"name": name}) for name in names]
        self.proto = type("Proto", (), {"graph": type("Graph", (), {"input": inputs})})

    def save(self, path):
        path.write_bytes(b"onnx")


def fake_trtexec(tmp_path, body=""):
    """A program that prints a help, notes its arguments, and writes the files that it is asked for."""
    program = tmp_path / "trtexec"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, shutil, sys\n"
        f"here, data = pathlib.Path({str(tmp_path)!r}), pathlib.Path({str(DATA)!r})\n"
        "if '--help' in sys.argv:\n"
        "    print((data / 'trtexec_help_10.5.txt').read_text()); sys.exit(0)\n"
        "given = dict(a[2:].split('=', 1) for a in sys.argv[1:] if '=' in a)\n"
        "inputs = dict(pair.split(':') for pair in given['loadInputs'].split(','))\n"
        "shapes = dict(pair.split(':') for pair in given['shapes'].split(','))\n"
        "seen = {'shapes': shapes, 'onnx': pathlib.Path(given['onnx']).read_text(),\n"
        "        'inputs': {n: list(pathlib.Path(f).read_bytes()) for n, f in inputs.items()}}\n"
        "(here / 'seen.json').write_text(json.dumps(seen))\n"
        f"{body}\n"
        "shutil.copy(data / 'times_made_up.json', given['exportTimes'])\n"
        "if 'exportProfile' in given:\n"
        "    shutil.copy(data / 'profile_made_up.json', given['exportProfile'])\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_a_visit_runs_the_program_and_reads_what_it_wrote(tmp_path):
    trtexec = Trtexec(fake_trtexec(tmp_path))
    assert trtexec.version == (10, 5, 0) and trtexec.flavour == "decomposed"
    done = trtexec.measure(Model(), TINY, Point.decode(32), layers=True)
    assert [t.compute_s for t in done.times] == [5e-3, 6e-3]
    assert len(done.layers) == 2 and done.version == "10.5.0"
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["onnx"] == "onnx" and seen["shapes"]["past_key_values.1.value"] == "1x2x32x16"
    values = {name: np.frombuffer(bytes(data), np.int64) for name, data in seen["inputs"].items()}
    assert values["position_ids"].tolist() == [32] and 0 <= values["input_ids"][0] < 100


def test_a_failed_visit_gives_the_first_error_line(tmp_path):
    body = "print('[I] fine'); print('[E] [TRT] Error Code 4: out of memory'); print('[E] Engine set up failed'); sys.exit(1)"
    with pytest.raises(
        MeasurementError, match=r"^trtexec failed \(exit code 1\): \[E\] \[TRT\] Error Code 4: out of memory$"
    ):
        Trtexec(fake_trtexec(tmp_path, body)).measure(Model(), TINY, Point.prefill(8))


def test_a_visit_without_times_is_an_error(tmp_path):
    with pytest.raises(SpecError, match=r"cannot read .*times.json"):
        Trtexec(fake_trtexec(tmp_path, "sys.exit(0)")).measure(Model(), TINY, Point.prefill(8))


def test_a_visit_that_hangs_is_ended():
    def hangs(line, limit_s):
        if "--help" in line:
            return subprocess.CompletedProcess(line, 0, HELP["11"], "")
        raise subprocess.TimeoutExpired(line, limit_s)

    trtexec = Trtexec(run=hangs)
    assert trtexec.version == (11, 1, 0, 106) and trtexec.flavour == "standard"
    with pytest.raises(MeasurementError, match="trtexec did not end within 5 s; raise the limit"):
        trtexec.measure(Model(), TINY, Point.prefill(8), limit_s=5)


@pytest.mark.parametrize(
    ("banner", "message"), [("usage: x", "names no version"), ("TensorRT v8501", "is of TensorRT 8.5.1")]
)
def test_other_programs_and_old_versions_are_refused(banner, message):
    with pytest.raises(MeasurementError, match=message):
        Trtexec(run=lambda line, limit_s: subprocess.CompletedProcess(line, 0, banner, ""))


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    with pytest.raises(MeasurementError, match="'no-such-trtexec' is no program"):
        find_trtexec("no-such-trtexec")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("codesign.profilers.tensorrt_trtexec._JETPACK", tmp_path / "none")
    with pytest.raises(MeasurementError, match="neither on the PATH nor at"):
        find_trtexec()
