"""`codesign predict` as a user types it, errors included."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codesign.devices import load_device
from codesign.hf_config import read_config
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.roofline.score_table import ADDED
from codesign.workload import PRECISIONS, Workload

MODEL = "qwen2.5-0.5b"
TABLE = (
    "row_id,device_id,power_mode,engine,arch_id,weight_precision,batch,prompt_tokens,gen_tokens,decode_ms_per_step\n"
    "a,orin,MAXN,vLLM,tiny,fp16,1,64,16,5\n"
    "b,nowhere,,vLLM,tiny,fp16,1,64,16,5\n"
)
ARCHS = "arch_id,layers,hidden,ffn_hidden,n_heads,n_kv_heads,head_dim,vocab\ntiny,2,64,128,4,2,16,100\n"


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codesign", *arguments], capture_output=True, text=True, encoding="utf-8", cwd=cwd,
        env={**os.environ, **environment}, timeout=60, check=False,
    )  # fmt: skip


def refused(got: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error."""
    assert got.returncode == 2, got.stderr
    assert got.stdout == ""
    assert got.stderr.startswith("error: ") and got.stderr.count("\n") == 1 and got.stderr.endswith("\n")
    assert "Traceback" not in got.stderr and len(got.stderr) < 900
    return got.stderr


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "a.csv").write_text(ARCHS, encoding="utf-8")
    return tmp_path


def test_json_is_what_the_library_computes() -> None:
    got = run(
        "predict",
        MODEL,
        "-d",
        "orin",
        "--engine",
        "vllm",
        "--prompt",
        "512",
        "--generate",
        "64",
        "--batch",
        "2",
        "--json",
    )
    assert got.returncode == 0 and got.stderr == ""
    shown = json.loads(got.stdout)
    device, form = load_device("orin"), PRECISIONS["fp16"]
    rates = load_calibration().rates(device, "vllm", form, 2)
    workload = Workload(prompt_tokens=512, output_tokens=64, batch_size=2)
    estimate = RooflineModel.of(device, rates).estimate(read_config(MODEL), workload, form)
    expected = {"ttft_s": estimate.prefill_s, "latency_s": estimate.decode_s, "e2e_s": estimate.total_s,
                "memory_B": estimate.peak_memory_B, "energy_J": estimate.energy_J, "power_W": estimate.power_W}  # fmt: skip
    for name, value in expected.items():
        assert shown[name] == pytest.approx(float(value)), name
    for name in ("ttft_s", "latency_s", "e2e_s", "energy_J"):
        low, high = shown[f"{name}_90"]
        assert low < shown[name] < high
    assert shown["params"] == 494032768 and shown["fits_memory"] is True
    assert (shown["device"], shown["power_mode"], shown["engine"]) == ("jetson_agx_orin_64gb", "MAXN", "vllm")


def test_text_and_breakdown_sum_to_the_pass() -> None:
    got = run("predict", MODEL, "-d", "orin", "--breakdown")
    assert got.returncode == 0 and got.stderr == ""
    for expected in (
        "494M parameters",
        "time to first token",
        "time per token",
        "peak memory",
        "loss",
        "lm_head",
        "layer overhead",
        "bound by",
    ):
        assert expected in got.stdout
    detail = json.loads(run("predict", MODEL, "-d", "orin", "--breakdown", "--json").stdout)
    for phase, name in (("prefill", "ttft_s"), ("decode", "latency_s")):
        assert sum(row["seconds"] for row in detail["breakdown"][phase]) == pytest.approx(detail[name])


def test_without_a_prompt_there_is_no_prefill() -> None:
    shown = json.loads(run("predict", MODEL, "-d", "orin", "--prompt", "0", "--breakdown", "--json").stdout)
    assert shown["ttft_s"] == 0 and set(shown["breakdown"]) == {"decode"}


def test_a_device_without_a_power_model_and_a_model_that_does_not_fit(tmp_path: Path) -> None:
    source = (Path(load_device.__code__.co_filename).parent / "catalogue" / "rtx_4090.toml").read_text(encoding="utf-8")
    mine = "\n".join(line for line in source.splitlines() if not line.startswith("tdp_W")).replace(
        '"rtx_4090"', '"mine"'
    )
    (tmp_path / "mine.toml").write_text(mine, encoding="utf-8")
    got = run("predict", "llama-3.1-8b", "-d", str(tmp_path / "mine.toml"), "--precision", "fp32")
    assert got.returncode == 0, got.stderr
    assert "unknown: no power model" in got.stdout and "DOES NOT FIT" in got.stdout
    shown = json.loads(run("predict", MODEL, "-d", str(tmp_path / "mine.toml"), "--json").stdout)
    assert shown["energy_J"] is None and shown["energy_J_90"] is None and shown["fits_memory"] is True


def test_without_arguments_the_help_is_shown() -> None:
    got = run()
    assert got.returncode == 0 and got.stdout.startswith("Usage: codesign") and got.stderr == ""
    assert "predict" in got.stdout and got.stdout == run("--help").stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("command", [f"predict {MODEL} -d orin", "devices", "devices --json"])
def test_a_full_disk_is_one_line(command: str) -> None:
    shell = f"{sys.executable} -m codesign {command} > /dev/full"
    got = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert got.returncode == 2 and got.stderr.startswith("error: ") and got.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_closed_standard_output() -> None:
    shell = f"{sys.executable} -m codesign predict {MODEL} -d orin >&-"
    got = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert got.returncode == 0 and got.stderr == ""


def test_plain_ascii_terminals() -> None:
    got = run("predict", MODEL, "-d", "orin", "--breakdown", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert got.returncode == 0 and got.stdout.isascii()


def test_a_table_to_standard_output_and_to_a_file(files: Path) -> None:
    got = run("predict", "--table", "t.csv", "--archs", "a.csv", cwd=files)
    assert got.returncode == 0
    rows = list(csv.DictReader(io.StringIO(got.stdout)))
    assert [row["row_id"] for row in rows] == ["a", "b"] and set(ADDED) <= set(rows[0])
    assert float(rows[0]["predicted_decode_ms"]) > 0 and "unknown device 'nowhere'" in rows[1]["not_predicted_because"]
    assert got.stderr.startswith("2 rows, 1 predicted, 1 not")
    to_file = run("predict", "--table", "t.csv", "--archs", "a.csv", "--out", "out.csv", cwd=files)
    assert to_file.returncode == 0 and to_file.stdout == ""
    assert (files / "out.csv").read_text(encoding="utf-8") == got.stdout
    over_itself = run("predict", "--table", "out.csv", "--archs", "a.csv", "--out", "out.csv", cwd=files)
    assert over_itself.returncode == 0 and (files / "out.csv").read_text(encoding="utf-8") == got.stdout
    assert sorted(path.name for path in files.iterdir()) == ["a.csv", "out.csv", "t.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MODEL, "-d", "orion"), "unknown device 'orion'; did you mean 'orin'? See 'codesign devices'"),
        ((MODEL, "-d", "orin", "--power-mode", "99W"), "its modes: MAXN, 50W, 30W, 15W"),
        ((MODEL, "-d", "orin", "--engine", "vlm"), "unknown engine 'vlm'; did you mean 'vllm'"),
        ((MODEL, "-d", "orin", "--precision", "fp61"), "unknown precision 'fp61'"),
        (("qwen2.5-0.6b", "-d", "orin"), "unknown model 'qwen2.5-0.6b'; did you mean"),
        (("./absent.json", "-d", "orin"), "no such file"),
        ((MODEL, "-d", "orin", "--batch", "0"), "batch_size must be a whole number of at least 1, not 0"),
        ((MODEL, "-d", "orin", "--batch", "two"), "Invalid value for '--batch'"),
        ((MODEL, "-d", "orin", "--prompt", "-1"), "prompt_tokens must be a whole number of at least 0"),
        ((MODEL, "-d", "orin", "--prompt", "1" + 400 * "0"), "prompt_tokens must be a whole number of at most"),
        ((MODEL, "-d", "orin", "--generate", "0"), "output_tokens must be a whole number of at least 1"),
        ((MODEL, "-d", "orin", "--tokens", "many"), "--tokens 'many' is not a number"),
        ((MODEL, "-d", "orin", "--tokens", "1e-300", "--json"), "--tokens '1e-300' is less than one token"),
        ((MODEL, "-d", "orin", "--loss-law", "gemstone"), "gemstone"),
        ((MODEL, "-d", "orin", "--calibration", "absent.json"), "cannot read the calibration absent.json"),
        ((MODEL, "-d", "orin", "--no-such-option"), "No such option"),
        ((MODEL,), "give a model and --device"),
        (("-d", "orin"), "give a model and --device"),
        ((MODEL, "-d", "orin", "--out", "x.csv"), "--archs and --out go with --table"),
        (("--table", "t.csv"), "--table takes --archs FILE"),
        (("--table", "t.csv", "--archs", "a.csv", "-d", "orin"), "neither MODEL nor --device"),
        (("--table", "absent.csv", "--archs", "a.csv"), "cannot read the table absent.csv"),
        (("--table", "a.csv", "--archs", "a.csv"), "a.csv lacks the column(s) device_id"),
        (("--table", "t.csv", "--archs", "t.csv"), "t.csv lacks the column(s) layers"),
        (("--table", "t.csv", "--archs", "a.csv", "--out", "absent/x.csv"), "cannot write absent/x.csv"),
        (("--table", "t.csv", "--archs", "a.csv", "--out", "t.csv/x.csv"), "cannot write t.csv/x.csv"),
        (("--table", "t.csv", "--archs", "a.csv", "--out", "."), "cannot write ."),
        (("--table", "t.csv", "--archs", "a.csv", "--out", ".."), "cannot write .."),
    ],
)
def test_errors_are_one_line(files: Path, arguments: tuple[str, ...], message: str) -> None:
    before = sorted(files.iterdir()), sorted(path.name for path in files.parent.iterdir())
    assert message in refused(run("predict", *arguments, cwd=files))
    assert (sorted(files.iterdir()), sorted(path.name for path in files.parent.iterdir())) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("family.json", '{"model_type": "rwkv", "hidden_size": 64}', "model_type 'rwkv' is not supported"),
        ("missing.json", '{"model_type": "llama", "hidden_size": 64}', "missing field"),
        ("broken.json", '{"model_type": ', "is not JSON"),
    ],
)
def test_bad_configs(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    line = refused(run("predict", name, "-d", "orin", cwd=tmp_path))
    assert message in line and name in line


@pytest.mark.parametrize("content", ["{", '{"schema": "codesign.calibration", "version": 1, "source": "x", "phases": {}}',
                                     '{"schema": "codesign.calibration", "version": 7}'])  # fmt: skip
def test_a_corrupt_calibration(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.json").write_text(content, encoding="utf-8")
    assert "c.json" in refused(run("predict", MODEL, "-d", "orin", "--calibration", "c.json", cwd=tmp_path))


def test_another_calibration_acts(tmp_path: Path) -> None:
    data = load_calibration().to_json()
    for phase in data["phases"].values():
        phase.update(effects={}, cells={}, spans={}, intervals=[0.7] * 5)
    (tmp_path / "c.json").write_text(json.dumps(data), encoding="utf-8")
    got = run("predict", MODEL, "-d", "orin", "--calibration", "c.json", cwd=tmp_path)
    assert got.returncode == 0 and "neither this engine nor this device was measured (0 rows)" in got.stdout
    assert "divided by 2.01" in got.stdout  # e^0.7


@pytest.mark.parametrize(
    "arguments", [("--debug", "predict", MODEL, "-d", "orion"), ("predict", MODEL, "-d", "orion", "--debug")]
)
def test_debug_shows_the_traceback_wherever_it_stands(arguments: tuple[str, ...]) -> None:
    got = run(*arguments)
    assert got.returncode != 0 and got.stdout == ""
    assert "Traceback" in got.stderr and "UnknownNameError: unknown device 'orion'" in got.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a shell with pipes")
@pytest.mark.parametrize(
    "command", ["predict qwen2.5-0.5b -d orin --breakdown", "devices", "predict --table big.csv --archs a.csv"]
)
def test_a_reader_that_leaves_early(files: Path, command: str) -> None:
    header, row, _ = TABLE.splitlines()
    (files / "big.csv").write_text("\n".join([header, *[row] * 2000]) + "\n", encoding="utf-8")
    piped = f"{sys.executable} -m codesign {command} | head -1"
    got = subprocess.run(piped, shell=True, capture_output=True, text=True, cwd=files, timeout=60, check=False)
    assert got.stdout.count("\n") == 1
    assert "Traceback" not in got.stderr and "BrokenPipe" not in got.stderr and "Exception ignored" not in got.stderr
