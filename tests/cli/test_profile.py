"""`codesign profile`: what is refused before anything is measured, in one line; a real visit; a full disk."""

from __future__ import annotations

import io
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SHORT, SPACE, codesign, command, environment, write_models
from synthetic import PRIOR, Book, dense, record, true_seconds

from codesign.architecture import Architecture
from codesign.cli import main
from codesign.hf_config import config_dict

pytest.importorskip("onnxruntime")
pytest.importorskip("sqlalchemy")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own, in which the command also runs."""
    monkeypatch.setenv("CODESIGN_HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SPACE)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What it says; it ends with code 2, one line on stderr and nothing on stdout."""
    code = main(["profile", *arguments])
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, (code, out, err)
    return err


HOST = ("--device", "host")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*HOST, "--plan", "4", "--models", "qwen2.5-0.5b"), "give one of --plan N, --random N and --models NAME, not --plan and --models"),
        (HOST, "not none: which architectures"), ((*HOST, "--plan", "4", "--random", "3"), "not --plan and --random"),
        ((*HOST, "--plan", "0"), "--plan 0 must be at least 1"), ((*HOST, "--random", "-2"), "--random -2 must be at least 1"),
        ((*HOST, "--plan", "4", "--visits", "0"), "--visits 0 must be at least 1"),
        ((*HOST, "--plan", "4", "--option", "spin"), "--option 'spin' is not name=value"),
        ((*HOST, "--plan", "4", "--option", "spin=1"), "unknown option(s) spin of engine onnxruntime"),
        ((*HOST, "--plan", "4", "--engine", "onnx"), "unknown engine 'onnx'; did you mean 'onnxruntime'?"),
        ((*HOST, "--plan", "4", "--threads", "9999"), "threads is '9999'; allowed: 1 to "),
        ((*HOST, "--plan", "4", "--precision", "fp16"), "engine onnxruntime does not run fp16 here; allowed: fp32, int8-dynamic, w4a32"),
        ((*HOST, "--plan", "4", "--precision", "fp3"), "unknown precision 'fp3'"),
        ((*HOST, "--plan", "4", "--power-mode", "15W"), "'host' has no power modes"),
        ((*HOST, "--plan", "4", "--max-params", "few"), "--max-params"),
        ((*HOST, "--plan", "4", "--max-params", "1"), "no architecture of the space 'dense' has at most"),
        ((*HOST, "--plan", "4", "--space", "gone.toml"), "no design space 'gone.toml'"),
        ((*HOST, "--plan", "4", "--prompt", "-1"), "prompt_tokens must be"), ((*HOST, "--plan", "4", "--batch", "0"), "batch_size must be"),
        ((*HOST, "--models", "quen2.5-0.5b"), "unknown model 'quen2.5-0.5b'; did you mean 'qwen2.5-0.5b'?"),
        ((*HOST, "--models", "none/config.json"), "no such file"),
        (("--device", "orion", "--plan", "4"), "unknown device 'orion'; did you mean 'orin'?"),
        (("--device", "rtx 4090", "--plan", "4"), "this machine is not a 'rtx_4090' but"),
        ((*HOST, "--plan", "4", "--on", "nobody@nowhere"), "--device host is this machine"),
        (("--device", "orin", "--plan", "4", "--on", "a@b", "--scheduler", "tcp://c:1"), "--scheduler does not go with --on"),
        ((*HOST, "--plan", "4", "--store", "mysql://a@b/c"), "store"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)  # fmt: skip
def test_what_is_refused_before_anything_is_measured(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    from codesign.campaign import target

    peaks = {"gemm_fp32_flop_per_s": 5e10, "read_Bps": 9e9, "gemv_fp32_Bps": 1e10}
    monkeypatch.setattr(target, "measure_peaks", lambda threads, seconds: peaks)
    assert said in refused(capsys, *arguments)


def test_a_store_of_a_newer_codesign_is_left_as_it_is(home: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "newer.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE codesign_schema (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO codesign_schema VALUES (999)")
    connection.close()
    before = path.read_bytes()
    models = write_models(home, 1)
    told = refused(capsys, *HOST, "--models", models[0], *SHORT, "--store", str(path))
    assert "newer.sqlite" in told and "version 999" in told and "update it" in told and path.read_bytes() == before


#: Put on PYTHONPATH as sitecustomize.py: these packages are as good as not installed.
BLOCK = """
import sys
for name in {names!r}:
    sys.modules[name] = None
"""


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("onnxruntime", "--engine onnxruntime needs the package 'onnxruntime', which is not installed; pip install 'codesign-llm[profile]'"),
        ("sqlalchemy", "needs the package 'sqlalchemy', which is not installed; pip install 'codesign-llm[profile]'"),
        ("onnx", "needs the package 'onnx', which is not installed; pip install 'codesign-llm[profile]'"),
    ],
    ids=["onnxruntime", "sqlalchemy", "onnx"],
)  # fmt: skip
def test_a_package_that_is_not_installed_is_named_with_its_extra(home: Path, missing: str, said: str) -> None:
    (home / "sitecustomize.py").write_text(BLOCK.format(names=[missing]))
    done = codesign(home, "profile", *HOST, "--models", *write_models(home, 1), *SHORT, PYTHONPATH=str(home))
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr


def test_a_model_that_does_not_fit_is_refused_before_it_is_built(home: Path) -> None:
    """One of 10^12 parameters: nothing of it is built, the model that fits is measured."""
    arch = Architecture(n_layers=400, d_model=16384, n_heads=128, n_kv_heads=8, d_head=128, d_ff=49152, vocab_size=512)
    giant, tiny = home / "giant.json", write_models(home, 1)[0]
    giant.write_text(json.dumps(config_dict(arch, max_position_embeddings=1024)))
    done = codesign(home, "profile", *HOST, "--models", f"{giant},{tiny}", "--visits", "1", *SHORT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "1 architectures at fp32, 4 records added" in done.stdout
    assert "4 passes, 4 visits, in " in done.stdout and done.stdout.count("decode @") == 2  # their times
    assert (
        "not measured: 400 layers x 16384: 400 layers x 16384 at fp32 needs about" in done.stdout
        and "is free; take" in done.stdout
    )
    only = codesign(home, "profile", *HOST, "--models", str(giant), "--visits", "1", *SHORT, timeout=60)
    assert only.returncode == 2 and "nothing could be measured: 400 layers x 16384" in only.stderr


def test_a_full_disk_ends_the_campaign_and_keeps_what_was_recorded(home: Path) -> None:
    """Files of the process may grow to 120 kB: the store's log reaches that after some records."""
    models = ",".join(write_models(home, 3))
    arguments = ("profile", *HOST, "--models", models, "--visits", "1", *SHORT)
    code = "from codesign.store import Store; Store().close()"
    subprocess.run([sys.executable, "-c", code], cwd=home, env=environment(home), check=True)
    process = subprocess.run(
        command(*arguments), cwd=home, env=environment(home, PYTHONDONTWRITEBYTECODE="1"), capture_output=True, text=True,
        timeout=120, check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000)),
    )  # fmt: skip
    assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr
    assert "cannot write to the store" in process.stderr and "what it holds is safe" in process.stderr
    kept = (
        sqlite3.connect(home / "measurements.sqlite")
        .execute("SELECT count(*) FROM codesign_measurements")
        .fetchone()[0]
    )
    assert 0 < kept < 12
    done = codesign(home, *arguments)
    assert done.returncode == 0 and "3 architectures" in done.stdout


def test_records_say_what_ran_and_where(home: Path) -> None:
    from codesign.campaign.target import machine_name
    from codesign.profilers.host import detect_host
    from codesign.store import Store

    names = write_models(home, 1)
    arguments = ("--precision", "fp32,w4a32", "--campaign", "mine", "--visits", "1", "--quiet")
    done = codesign(home, "profile", *HOST, "--models", names[0], *SHORT, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with Store(home / "measurements.sqlite", create=False) as store:
        found = store.find()
    assert {(m.campaign, m.precision) for m in found} == {("mine-fp32", "fp32"), ("mine-w4a32", "w4a32")} and len(
        found
    ) == 8
    passes = {(m.phase, m.tokens, m.context_tokens) for m in found}
    assert passes == {
        ("prefill", 16, 0),
        ("prefill", 4, 0),
        ("decode", 1, 17),
        ("decode", 1, 4),
    }  # mean context 18.5, a quarter
    for m in found:
        assert (m.device, m.engine, m.clock, m.options) == (
            "host",
            "onnxruntime",
            "cpu",
            {"threads": "1", "provider": "cpu"},
        )
        assert m.machine == machine_name(detect_host()) and m.peak_memory_B and m.created_at and m.seconds > 0
        assert m.energy_J is None or m.energy_J > 0


def test_progress_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from codesign.campaign.run import Campaign
    from codesign.cli.profile import _with_progress
    from codesign.profilers.base import Point

    rng = np.random.default_rng(0)
    one = Campaign(
        name="c", architectures=[dense(rng) for _ in range(3)], precision="fp32", engine="onnxruntime", device="host",
        points=(Point.decode(8),), again_log=99.0,
    )  # fmt: skip

    def execute(tasks: Any, on_record: Any, on_failure: Any) -> None:
        for task in tasks:
            on_record(
                record(task.architecture, task.points[0], true_seconds(task.architecture, task.points[0]), campaign="c")
            )

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    priors: Any = {"prefill": PRIOR, "decode": PRIOR}
    monkeypatch.setenv("COLUMNS", "200")
    for terminal, quiet, drawn in ((Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)):
        monkeypatch.setattr(sys, "stderr", terminal)
        assert _with_progress(one, Book(), execute, priors, quiet).records == 6
        assert ("of 6 visits" in terminal.getvalue()) == drawn
        assert drawn or terminal.getvalue() == ""


def test_help_names_the_ways_to_choose() -> None:
    done = subprocess.run(command("profile", "--help"), capture_output=True, text=True, timeout=60, check=True)
    for text in (
        "--plan",
        "--random",
        "--models",
        "--on",
        "--engine",
        "Example: codesign profile --device host --plan 20",
    ):
        assert text in done.stdout
