"""`codesign bits` on a run of `codesign train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import codesign

pytest.importorskip("torch")
pytest.importorskip("filelock")


def test_a_trained_model_gets_its_bits(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "intermediate_size": 64, "vocab_size": 256, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "text.txt").write_text("".join(f"The square of {i} is {i * i}.\n" for i in range(9000)))
    done = codesign(
        tmp_path,
        "train",
        "--config",
        "config.json",
        "--data",
        "text.txt",
        "--tokens",
        "40k",
        "--checkpoints",
        "ck",
        "--seq-len",
        "64",
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "ck" / "runs").iterdir()
    assert f"trained models: {tmp_path}/ck/runs/{run.name}; codesign bits takes one" in done.stdout
    unwritable = codesign(
        tmp_path, "train", "--config", "config.json", "--data", "text.txt", "--checkpoints", "text.txt/x"
    )
    assert (
        unwritable.returncode == 2
        and "cannot write checkpoints to" in unwritable.stderr
        and "Errno" not in unwritable.stderr
    )
    given = (
        "bits",
        str(run),
        "--data",
        "text.txt",
        "--bits",
        "2,4,8,16",
        "--group",
        "16",
        "--tokens",
        "2k",
        "--device",
        "orin",
        "--out",
        "b",
    )
    done = codesign(tmp_path, *given)
    assert done.returncode == 0, done.stderr
    assert (
        "by part: " in done.stdout
        and "all 4" in done.stdout
        and "ms/token" in done.stdout
        and "written: b/" in done.stdout
    )
    report = json.loads((tmp_path / "b" / "bits.json").read_text())
    assert set(report["added_loss"]) == {"layers.0.mixer", "layers.0.ffn", "layers.1.mixer", "layers.1.ffn", "head"}
    whole = next(p for p in report["policies"] if p["uniform"] == 16)
    four = next(p for p in report["policies"] if p["uniform"] == 4)
    assert whole["measured"] == 0 and 0 < four["latency_s"] < whole["latency_s"]
    assert (tmp_path / "b" / "bits.png").read_bytes().startswith(b"\x89PNG")
    again = codesign(tmp_path, *given)
    assert again.stdout == done.stdout
    assert "judged on " in done.stdout and "less than equal bits" in done.stdout and " ± " in done.stdout
    many = codesign(tmp_path, *given[:-1], "many", "--tokens", "1M")
    assert many.returncode == 0 and "(1,000,000 each were asked: the text has no more)" in " ".join(many.stdout.split())
    fewer = codesign(tmp_path, *given[:4], "--bits", "4,8", *given[6:])
    assert fewer.returncode == 0 and "the former study is bits.old-1.json" in " ".join(fewer.stdout.split())
    assert (
        json.loads((tmp_path / "b" / "bits.old-1.json").read_text()) == report
        and (tmp_path / "b" / "bits.old-1.png").exists()
    )
    listed = codesign(tmp_path, "bits", "ck/runs", "--data", "text.txt")
    assert listed.returncode == 2 and f"holds runs, not one: give ck/runs/ID, ID one of {run.name}" in listed.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "no folder 'nowhere'; give a run's folder"),
        ((".", "--bits", "4,x"), "'x' is no whole number"),
        ((".", "--bits", "4"), "give two or more"),
        (("." ,), "holds neither run.json"),
        ((".", "--device", "orinn"), "did you mean"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = codesign(tmp_path, "bits", *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = codesign(
        tmp_path,
        "compose",
        "--device",
        "orin",
        "--layers",
        "4",
        "--evaluations",
        "1",
        "--steps",
        "1",
        "--out",
        "file/x",
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot write to file/x: Not a directory; give a writable --out" in done.stderr


def test_a_width_that_is_no_plain_digit_is_one_line(tmp_path: Path) -> None:
    done = codesign(tmp_path, "bits", ".", "--bits", "2,²")
    assert done.returncode == 2 and "'²' is no whole number" in done.stderr and done.stderr.count("\n") == 1
