"""`codesign search` as people type it, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ORIN = ("--device", "orin", "--latency", "20ms")
SMALL = """
[axes]
n_layers = [4, 8, 12, 18, 26, 40]
d_model = { from = 512, to = 1536, step = 128 }
experts = ["dense", "8x2"]
"""
#: 32 million points at two precisions: some seconds on two cores, and above what a state file is kept for.
LARGE = """
[axes]
d_model = { from = 256, to = 3072, step = 16 }
"""


def environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    return kept | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"} | extra


def run(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder that has the small space as small.toml."""
    (folder / "small.toml").write_text(SMALL)
    return subprocess.run(
        [sys.executable, "-m", "codesign", "search", *arguments],
        cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def small(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    done = run(folder, *ORIN, "--space", "small.toml", "--no-plot", *arguments, **extra)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done


def test_solvers_have_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[axes]\nn_layers = [8, 16]\nd_model = [1024]\nexperts = ['dense']\n")
    places = set()
    for more in (
        (),
        ("--solver", "exact"),
        ("--solver", "heuristic", "--evaluations", "50"),
        ("--solver", "heuristic"),
    ):
        done = run(tmp_path, *ORIN, "--space", "s.toml", "--allow-extrapolation", "--no-plot", *more)
        assert done.returncode == 0, done.stderr
        places.add(next(line for line in done.stdout.splitlines() if line.startswith("written: ")))
        assert "is kept as" not in done.stdout
    assert len(places) == 3


def test_the_main_command(tmp_path: Path) -> None:
    """Table, assumptions, the baseline's comparison, and the folder with everything in it."""
    done = run(tmp_path, *ORIN, "--baseline", "qwen2.5-0.5b")
    assert done.returncode == 0 and done.stderr == ""
    out = done.stdout
    for text in ("Jetson AGX Orin 64 GB", "1024 in, 128 out, batch 1", "ms/tok", "exact: ", "90 % interval", "law gemstones",
                 "qwen2.5-0.5b (494M parameters)", "at its latency: design-", "at its loss: design-", "marks: ", "written: "):  # fmt: skip
        assert text in out, text
    assert "\x1b" not in out and "Traceback" not in out
    (folder,) = (tmp_path / "results").iterdir()
    assert folder.name.startswith("orin-20ms-")
    assert {"frontier.jsonl", "frontier.csv", "pareto.png", "design-1"} <= {p.name for p in folder.iterdir()}
    assert (folder / "design-1" / "config.json").is_file()


def test_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        small(tmp_path, "--seed", "7", "--out", "run")
        texts.append([(tmp_path / "run" / name).read_bytes() for name in ("frontier.jsonl", "frontier.csv")])
    assert texts[0] == texts[1]
    head = json.loads(texts[0][0].splitlines()[0])
    assert head["seed"] == 7 and head["command"][:2] == ["codesign", "search"]


def test_json_is_the_file_and_nothing_else(tmp_path: Path) -> None:
    done = small(tmp_path, "--json", "--out", "run")
    assert done.stdout == (tmp_path / "run" / "frontier.jsonl").read_text()
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["schema"] == "codesign.frontier" and lines[0]["budget"]["latency_s"] == 0.02
    assert all(line["values"]["latency_s"] <= 0.02 for line in lines[1:])


def test_other_searches_have_other_folders(tmp_path: Path) -> None:
    for more in (
        (),
        ("--seed", "2"),
        ("--power-mode", "30W"),
        ("--confidence", "0.9"),
        ("--tokens", "20B"),
        ("--engine", "llama.cpp"),
    ):
        small(tmp_path, *more)
    assert len(list((tmp_path / "results").iterdir())) == 6
    small(tmp_path)
    assert len(list((tmp_path / "results").iterdir())) == 6


def test_three_objectives_precisions_and_confidence(tmp_path: Path) -> None:
    done = small(tmp_path, "--objectives", "loss,latency,memory", "--precision", "fp16,q4_k_m", "--precision", "int8",
                 "--confidence", "0.9", "--memory", "4GB", "--out", "run", "--json")  # fmt: skip
    head, *designs = (json.loads(line) for line in done.stdout.splitlines())
    assert head["objectives"] == ["loss", "latency", "memory"] and set(head["rates"]) == {"fp16", "q4_k_m", "int8"}
    assert all(d["values"]["memory_B"] <= 4e9 and d["p_budget"] >= 0.9 - 1e-9 for d in designs)
    table = small(tmp_path, "--precision", "fp16,q4_k_m", "--out", "run")
    assert "bits" in table.stdout


def test_extrapolation_is_asked_for_and_marked(tmp_path: Path) -> None:
    refused = run(tmp_path, *ORIN, "--space", "small.toml", "--tokens", "1B")
    assert refused.returncode == 2 and "--allow-extrapolation" in refused.stderr
    done = small(tmp_path, "--tokens", "1B", "--allow-extrapolation")
    assert "!tokens" in done.stdout and "…" not in done.stdout
    assert "outside the range of the law's data (" in " ".join(done.stdout.split())


@pytest.mark.parametrize("width", [80, 100, 140])
def test_narrow_terminals(tmp_path: Path, width: int) -> None:
    done = small(tmp_path, "--baseline", "qwen2.5-0.5b", "--precision", "fp16,q4_k_m", "--objectives", "loss,latency,memory",
                 COLUMNS=str(width))  # fmt: skip
    assert max(len(line) for line in done.stdout.splitlines()) <= width
    assert "…" not in done.stdout


def test_no_color(tmp_path: Path) -> None:
    assert "\x1b" not in small(tmp_path, NO_COLOR="1").stdout
    assert "\x1b" not in small(tmp_path).stdout, "a pipe gets no escapes"


def test_baselines_of_one_file_name_stay_apart(tmp_path: Path) -> None:
    """A run's own designs as known models: each under its folder's name, and no different from itself."""
    small(tmp_path, "--out", "run")
    done = small(tmp_path, "--baseline", "run/design-1/config.json,run/design-2", "--out", "again", "--json")
    head = json.loads(done.stdout.splitlines()[0])
    assert [b["candidate"]["name"] for b in head["baselines"]] == ["design-1", "design-2"]
    gap = head["baselines"][0]["at_latency"]
    assert gap["design"] == "design-1" and gap["loss_interval"] == [0, 0] and gap["latency_interval"] == [1, 1]


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    command = f"{sys.executable} -m codesign search {' '.join(ORIN)} --space small.toml --no-plot --json | head -n 1 > /dev/null"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=tmp_path, env=environment(),
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert done.stderr == "" and done.returncode == 0


# ---- errors: one line, exit code 2, nothing written


def config(**changes: object) -> str:
    base = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
            "intermediate_size": 128, "vocab_size": 50304}  # fmt: skip
    return json.dumps(base | changes)


ERRORS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "unknown device": ("--device orion --latency 20ms", {}, ("did you mean 'orin'",)),
    "no device": ("--latency 20ms", {}, ("--device", "--help")),
    "no budget": ("--device orin", {}, ("give at least one of --latency",)),
    "no unit": ("--device orin --latency 20", {}, ("--latency '20' has no unit", "20ms")),
    "negative": ("--device orin --latency=-20ms", {}, ("--latency",)),
    "impossible": ("--device orin --latency 1us", {}, ("latency <= 1 us", "nearest", "layers x", "1 us is allowed")),
    "impossible memory": ("--device orin --memory 100MB", {}, ("memory <= 100 MB", "100 MB is allowed")),
    "impossible with confidence": ("--device orin --latency 3ms --confidence 0.99", {}, ("99% confidence",)),
    "below a file": ("--device orin --latency 20ms --out file/run", {"file": "x"}, ("cannot write the run", "--out")),
    "not a run": ("--device orin --latency 20ms --out mine", {"mine/notes.txt": "x"}, ("is not a run",)),
    "the current folder": ("--device orin --latency 20ms --out .", {}, ("--out",)),
    "heads and KV heads": ("--device orin --latency 20ms --baseline c.json", {"c.json": config(num_key_value_heads=3)}, ("c.json", "3", "8")),
    "unknown family": ("--device orin --latency 20ms --baseline c.json", {"c.json": config(model_type="rwkv")}, ("'rwkv' is not supported",)),
    "config no JSON": ("--device orin --latency 20ms --baseline c.json", {"c.json": "{"}, ("c.json",)),
    "unknown baseline": ("--device orin --latency 20ms --baseline qwen2.5-0.6b", {}, ("did you mean",)),
    "other vocabulary": ("--device orin --latency 20ms --baseline qwen2.5-0.5b,smollm2-135m", {}, ("49152", "151936")),
    "calibration no JSON": ("--device orin --latency 20ms --calibration c.json", {"c.json": "{"}, ("c.json", "--calibration")),
    "calibration empty": ("--device orin --latency 20ms --calibration c.json", {"c.json": "{}"}, ("c.json",)),
    "calibration newer": ("--device orin --latency 20ms --calibration c.json",
                          {"c.json": '{"schema": "codesign.calibration", "version": 99}'}, ("version 99", "update")),
    "calibration corrupt": ("--device orin --latency 20ms --calibration c.json",
                            {"c.json": '{"schema": "codesign.calibration", "version": 1, "source": "x", "phases": 3}'}, ("corrupt",)),
    "no calibration": ("--device orin --latency 20ms --calibration none.json", {}, ("none.json",)),
    "unknown precision": ("--device orin --latency 20ms --precision fp17", {}, ("did you mean 'fp16'",)),
    "unknown engine": ("--device orin --latency 20ms --engine vlm", {}, ("vllm",)),
    "unknown law": ("--device orin --latency 20ms --loss-law gemstone", {}, ("gemstones",)),
    "unknown power mode": ("--device orin --latency 20ms --power-mode 99W", {}, ("its modes", "30W")),
    "unknown space": ("--device orin --latency 20ms --space huge", {}, ("no design space 'huge'",)),
    "bad space": ("--device orin --latency 20ms --space s.toml", {"s.toml": "[axes]\nn_layer = [1]"}, ("did you mean 'n_layers'",)),
    "one objective": ("--device orin --latency 20ms --objectives loss", {}, ("two or more",)),
    "objectives by number": ("--device orin --latency 20ms --objectives 3", {}, ("two or more", "loss, latency")),
    "no energy model": ("--device h100 --energy 1J --power 5kJ", {}, ("--power",)),
    "confidence": ("--device orin --latency 20ms --confidence 1.5", {}, ("0.5 and 1",)),
    "confidence nan": ("--device orin --latency 20ms --confidence nan", {}, ("0.5 and 1",)),
    "tokens": ("--device orin --latency 20ms --tokens none", {}, ("--tokens",)),
    "batch": ("--device orin --latency 20ms --batch 0", {}, ("batch_size",)),
    "prompt": ("--device orin --latency 20ms --prompt=-1", {}, ("prompt_tokens",)),
    "seed": ("--device orin --latency 20ms --seed=-1", {}, ("--seed",)),
    "vocabulary": ("--device orin --latency 20ms --vocab 1", {}, ("--vocab",)),
    "solver": ("--device orin --latency 20ms --solver best", {}, ("auto, exact, heuristic",)),
    "evaluations": ("--device orin --latency 20ms --solver heuristic --evaluations 0", {}, ("--evaluations",)),
    "evaluations of an exact search": ("--device orin --latency 20ms --evaluations 100", {}, ("goes with the heuristic solver",)),
    "unknown option": ("--device orin --latencies 20ms", {}, ("--latenc", "--help")),
    "no number": ("--device orin --latency 20ms --batch two", {}, ("--batch", "--help")),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, case: str) -> None:
    arguments, files, expected = ERRORS[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    done = run(tmp_path, *arguments.split())
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for text in expected:
        assert text in done.stderr
    after = {str(p) for p in tmp_path.rglob("*")} - {str(tmp_path / "small.toml"), str(tmp_path / "results")}
    assert sorted(after) == before


# ---- a search that is stopped


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    """A large search in a group of its own (what a terminal's Ctrl-C reaches), once its state file is there."""
    (folder / "large.toml").write_text(LARGE)
    process = subprocess.Popen(
        [sys.executable, "-m", "codesign", "search", *ORIN, "--space", "large.toml", "--precision", "fp16,w4a16", "--no-plot",
         "--out", "run", *more],
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    for _ in range(400):
        if (folder / ".run.state.json").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    return process


def group(leader: int) -> list[int]:
    """Processes of a group that are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, NotADirectoryError):
            continue
        if entry.name.isdigit() and int(fields[2]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def ends(leader: int) -> bool:
    """Whether all processes of a group end within ten seconds."""
    for _ in range(200):
        if not group(leader):
            return True
        time.sleep(0.05)
    return False


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@linux
def test_ctrl_c_ends_in_one_line_and_leaves_only_the_state(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert {p.name for p in tmp_path.iterdir()} <= {"large.toml", ".run.state.json"}
    assert ends(process.pid)


@linux
def test_a_killed_search_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert ends(process.pid), "workers end with their parent"
    assert (tmp_path / ".run.state.json").exists() and not (tmp_path / "run").exists()
    resumed = start(tmp_path)
    assert resumed.communicate(timeout=120)[1] == ""
    first = (tmp_path / "run" / "frontier.jsonl").read_bytes()
    assert not (tmp_path / ".run.state.json").exists()
    again = start(tmp_path)
    again.communicate(timeout=120)
    assert again.returncode == resumed.returncode == 0
    assert (tmp_path / "run" / "frontier.jsonl").read_bytes() == first
