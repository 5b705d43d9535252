"""`codesign train` as people type it: it trains, resumes after kill -9, lists, exports and imports; bad input is one line."""

from __future__ import annotations

import gzip
import json
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from command_line import codesign, command, environment

from codesign.architecture import Architecture
from codesign.hf_config import config_dict

pytest.importorskip("torch")
pytest.importorskip("sqlalchemy")

QUICK = ("--tokens", "12k", "--batch-tokens", "256", "--seq-len", "32", "--workers", "1", "--device", "cpu")


def train(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A busy machine takes minutes to import torch."""
    return codesign(home, "train", *arguments, timeout=600)


def write_model(home: Path, layers: int, vocab_size: int = 256) -> str:
    arch = Architecture(n_layers=layers, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_ff=64, vocab_size=vocab_size)
    path = home / f"model-{layers}-{vocab_size}" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(config_dict(arch, max_position_embeddings=1024)))
    return str(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("train-home")
    corpus = home / "corpus"
    corpus.mkdir()
    for d in range(120):
        (corpus / f"d{d:03}.txt").write_text(
            "".join(f"{a} plus {b} is {a + b}.\n" for a in range(d, d + 6) for b in range(5))
        )
    (home / "short.txt").write_text("too little\n")
    return home


@pytest.fixture(scope="module")
def planned(home: Path) -> subprocess.CompletedProcess[str]:
    """A plan of two models of the smallest sizes, trained."""
    return train(home, "--plan", "2", "--data", "corpus", "--max-params", "32k", "--name", "first", *QUICK)


def stored(home: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(f"file:{home}/measurements.sqlite?mode=ro", uri=True, timeout=5) as connection:
        return connection.execute("SELECT key, status FROM codesign_training_runs ORDER BY id").fetchall()


def test_a_plan_is_trained_and_stored(home: Path, planned) -> None:
    assert planned.returncode == 0, planned.stderr
    out = planned.stdout
    assert out.startswith("first: 2 models of 3") and "12K tokens each" in out
    assert "text: corpus," in out and "held out (byte)" in out and "FLOP" in out
    assert out.count("finished") == 3 and out.rstrip().endswith("next: codesign fit --campaign first")
    assert planned.stderr.splitlines()[-1].startswith("[2/2] ")
    assert [status for _, status in stored(home)] == ["finished", "finished"]


def test_the_same_again_trains_nothing_and_other_options_are_refused(home: Path, planned) -> None:
    same = ("train", "--plan", "2", "--data", "corpus", "--max-params", "32k", "--name", "first")
    again = train(home, *same[1:], *QUICK)
    assert (
        again.returncode == 0 and "2 have ended; 0 are left" in again.stdout and "nothing was missing" in again.stdout
    )
    other = train(home, *same[1:], *QUICK, "--lr", "0.02")
    assert other.returncode == 2 and "campaign 'first' was begun with other options" in other.stderr


def test_a_dry_run_trains_nothing(home: Path, planned) -> None:
    before = stored(home)
    done = train(home, "--random", "3", "--data", "corpus", *QUICK, "--dry-run")
    assert done.returncode == 0 and "3 models of" in done.stdout and stored(home) == before


def test_export_list_import(home: Path, planned, tmp_path: Path) -> None:
    listed = train(home, "--list")
    assert listed.returncode == 0 and "2 runs in" in listed.stdout
    files = [str(tmp_path / name) for name in ("runs.csv", "runs.jsonl", "runs.jsonl.gz")]
    for file in files:
        done = train(home, "--export", file, "--name", "first")
        assert done.returncode == 0 and "2 runs written to" in done.stderr
    assert Path(files[0]).read_text().startswith("dataset_id,run_id,arch,n_layers")
    assert gzip.decompress(Path(files[2]).read_bytes()) == Path(files[1]).read_bytes()
    lines = Path(files[1]).read_text().splitlines()
    assert json.loads(lines[0]) == {"schema": "codesign.training_runs", "version": 1} and len(lines) == 3
    assert len(json.loads(lines[1])["curve"]) >= 20
    other = tmp_path / "other"
    other.mkdir()
    for file, added in ((files[2], 2), (files[1], 0)):
        done = train(other, "--import", file)
        assert done.returncode == 0 and f"{added} runs added to" in done.stdout
    wrong = train(other, "--import", files[0])
    assert wrong.returncode == 2 and "does not begin with a header of codesign.training_runs" in wrong.stderr


def test_bpe_a_mixture_and_halving(home: Path) -> None:
    pytest.importorskip("tokenizers")
    arch = Architecture(n_layers=2, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_ff=0, vocab_size=300, n_experts=4,
                        n_active_experts=2, d_ff_expert=32, family="mixtral")  # fmt: skip
    (home / "mixture.json").write_text(json.dumps(config_dict(arch, max_position_embeddings=1024)))
    done = train(home, "--config", "mixture.json", "--data", "corpus", "--tokenizer", "bpe-300", *QUICK,
                    "--rungs", "0.5", "--dtype", "bf16")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(bpe-300)" in done.stdout and "4x32" in done.stdout and "bf16" in done.stdout


def test_a_run_that_diverges_is_kept_and_marked(home: Path) -> None:
    done = codesign(
        home, "train", "--config", write_model(home, 2), "--data", "corpus", *QUICK, "--lr", "10", "--name", "wild"
    )
    assert done.returncode == 0 and "1 diverged" in done.stdout
    csv = train(home, "--export", str(home / "wild.csv"), "--name", "wild")
    assert csv.returncode == 0 and ",diverged," in (home / "wild.csv").read_text()


def test_kill_9_and_ctrl_c(home: Path, tmp_path: Path) -> None:
    """Killed in mid-training, then interrupted, then finished: the loss is that of a run that nothing disturbed."""
    models = [option for n in (1, 2) for option in ("--config", write_model(home, n))]
    arguments = ["train", *models, "--data", str(home / "corpus"), *QUICK[2:], "--tokens", "60k"]
    whole = train(home, *arguments[1:], "--name", "whole")
    assert whole.returncode == 0, whole.stderr
    for how, steps in ((signal.SIGKILL, 60), (signal.SIGINT, 150)):
        process = subprocess.Popen(
            command(*arguments), cwd=tmp_path, env=environment(tmp_path), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )  # fmt: skip
        try:
            end = time.monotonic() + 300
            while time.monotonic() < end and process.poll() is None:
                lines = sum(p.read_bytes().count(b"\n") for p in tmp_path.glob("training/runs/*/curve.jsonl"))
                if lines >= steps * 100 / 235:
                    break
                time.sleep(0.002)
            assert process.poll() is None, "it had ended already"
            process.send_signal(how)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert "Traceback" not in errors, errors
        assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    done = train(tmp_path, *arguments[1:])
    assert done.returncode == 0, done.stderr

    def losses(place: Path) -> set[tuple[str, float]]:
        from codesign.store import Store

        with Store(place / "measurements.sqlite", create=False) as store:
            wanted = {run.key for run in store.find_runs(campaign="whole")} if place == home else None
            return {(r.key, r.loss) for r in store.find_runs() if wanted is None or r.key in wanted}

    assert losses(tmp_path) == losses(home)


BAD = [
    (("--plan", "0"), "--plan 0 must be at least 1"),
    (("--plan", "2", "--random", "2"), "give one of --plan N, --random N and --config FILE, not --plan and --random"),
    ((), "not none: which models are to be trained?"),
    (("--plan", "2", "--data", "nowhere"), "no text at 'nowhere'; give a file, a folder, or 'stdlib'"),
    (("--plan", "2", "--data", "short.txt"), "holds 11 bytes of text in 1 file(s); training needs at least 20,000"),
    (("--plan", "2", "--lr", "0"), "recipe: lr is 0.0; allowed: above 0, up to 10"),
    (("--plan", "2", "--lr", "nan"), "recipe: lr is nan; allowed"),
    (("--plan", "2", "--lr", "fast"), "Invalid value for '--lr'"),
    (("--plan", "2", "--tokens", "many"), "--tokens 'many' is not a number"),
    (("--plan", "2", "--tokens", "100"), "recipe: tokens 100 are fewer than one batch of 256"),
    (("--plan", "2", "--seq-len", "100"), "batch_tokens 256 is no whole number of sequences of 100 tokens"),
    (("--plan", "2", "--tokenizer", "words"), "unknown tokenizer 'words'; allowed: byte, or bpe-"),
    (("--plan", "2", "--min-params", "2M"), "--min-params 2e+06 must be below --max-params 1e+06"),
    (("--plan", "2", "--space", "nope"), "no design space 'nope'"),
    (("--plan", "2", "--space", "default"), "no dense architecture of the space 'default' has 30000 to 1e+06 parameters"),
    (("--plan", "2", "--dtype", "fp16"), "--dtype 'fp16' is unknown; allowed: fp32, bf16"),
    (("--plan", "2", "--device", "tpu"), "--device 'tpu' is unknown; allowed: auto, cpu, cuda"),
    (("--plan", "2", "--workers", "0"), "--workers 0 must be at least 1"),
    (("--plan", "2", "--rungs", "0.5,0.2"), "allowed are rising shares of the steps above 0 and below 1"),
    (("--plan", "2", "--rungs", "0.5", "--no-halving"), "--rungs goes with --halving"),
    (("--plan", "2", "--list"), "--list and --plan do not go together"),
    (("--export", "runs.txt"), "the name must end in .csv, .jsonl or .jsonl.gz"),
    (("--import", "nowhere.jsonl"), "cannot read nowhere.jsonl"),
    (("--plan", "2", "--scheduler", "tcp://127.0.0.1:9", "--workers", "2"), "--workers does not go with --scheduler"),
    (("--config", "nowhere.json"), "no such file: nowhere.json"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) or "nothing" for a, _ in BAD])
def test_bad_input(home: Path, arguments: tuple[str, ...], message: str, capsys, monkeypatch) -> None:
    """In this process, which is quicker; one of them in its own below."""
    from codesign.cli.main import main

    monkeypatch.chdir(home)
    monkeypatch.setenv("CODESIGN_HOME", str(home / "bad"))
    given = dict(zip(QUICK[::2], QUICK[1::2], strict=True)) | {"--data": "corpus"}
    if any(a in ("--export", "--import", "--list") for a in arguments):
        given = {}
    for option in ("--scheduler", *arguments):
        given.pop("--workers" if option == "--scheduler" and "--scheduler" in arguments else option, None)
    code = main(["train", *arguments, *(text for pair in given.items() for text in pair)])
    errors = capsys.readouterr().err
    assert code == 2 and errors.count("\n") == 1 and errors.startswith("error: ") and message in errors, errors


def test_bad_input_in_a_process(home: Path) -> None:
    small = write_model(home, 2, vocab_size=200)
    done = train(home, "--config", small, "--data", "corpus", *QUICK)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: vocab_size 200 of the model is below the 256 of tokenizer 'byte'; set vocab_size in its config.json, or give "
        "another --tokenizer\n"
    )


def test_a_scheduler_that_does_not_answer(home: Path) -> None:
    pytest.importorskip("distributed")
    done = train(home, "--plan", "2", "--data", "corpus", *QUICK[:6], "--scheduler", "tcp://127.0.0.1:9")
    assert done.returncode == 2 and "no Dask scheduler answers at 'tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_text_named(home: Path) -> None:
    done = train(home, "--plan", "2")
    assert done.returncode == 2 and "which text? Give --data FILE or FOLDER, or --data stdlib" in done.stderr


def test_nothing_stored_yet(tmp_path: Path) -> None:
    assert "No training runs yet" in train(tmp_path, "--list").stdout
    done = train(tmp_path, "--export", "runs.csv")
    assert done.returncode == 2 and "no training runs in" in done.stderr
