"""Training one model: it learns, resumes bit for bit after kill -9, stops and goes on, and says why it cannot."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from training_specs import MIXTURE, TINY, tiny_spec, write_corpus  # noqa: E402

from codesign.errors import MeasurementError, SpecError  # noqa: E402
from codesign.models.decoder import Decoder  # noqa: E402
from codesign.training import loop  # noqa: E402
from codesign.training.loop import read_run, train  # noqa: E402
from codesign.training.spec import RunSpec  # noqa: E402


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("training")
    return write_corpus(root / "corpus"), root / "cache"


@pytest.fixture(scope="module")
def whole(places, tmp_path_factory):
    """A run that nothing interrupts, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return train(tiny_spec(*places), folder), folder


def losses(run):
    """All of the curve but the seconds."""
    return [(p.step, p.tokens, p.train_loss, p.valid_loss, p.lr) for p in run.curve]


def weights(folder: Path):
    return torch.load(folder / "weights.pt", weights_only=True)


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_and_says_how(whole) -> None:
    run, folder = whole
    assert (
        run.status == "finished" and run.tokens_seen == 120 * 256 and run.bytes_per_token == pytest.approx(1, abs=0.01)
    )
    assert run.loss < 0.75 * run.valid_curve[0].valid_loss and run.loss < 1.2 < math.log(256)
    assert [p.step for p in run.valid_curve] == [10 * i for i in range(1, 13)]
    assert run.curve[-1].valid_loss == pytest.approx(run.loss, abs=0.1)
    lines = (folder / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [p.to_dict() for p in run.curve]
    assert read_run(folder) == run
    model = Decoder(TINY)
    model.load_state_dict(weights(folder))
    assert not list(folder.glob("*checkpoint*"))


def test_a_finished_run_is_not_trained_again(whole, places) -> None:
    run, folder = whole
    assert train(tiny_spec(*places), folder, on_progress=lambda _: pytest.fail("it trained")) == run


_CHILD = """
import json, sys
from codesign.training.loop import train
from codesign.training.spec import RunSpec
spec = RunSpec.from_dict(json.loads(sys.argv[1]))
train(spec, sys.argv[2], on_progress=lambda point: print(point.step, flush=True))
"""


def test_kill_9_changes_nothing(whole, places, tmp_path) -> None:
    """Killed twice in mid-training: same curve, same loss, same weights, bit for bit."""
    spec = tiny_spec(*places, checkpoint_s=0.001)
    for steps in (30, 70):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(spec.to_dict()), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for line in child.stdout:
            if int(line) >= steps:
                break
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        assert read_run(tmp_path) is None
    begun: list[int] = []
    run = train(spec, tmp_path, on_progress=lambda p: begun.append(p.step))
    assert begun[0] > 60, "it began again instead of going on"
    assert losses(run) == losses(whole[0]) and run.loss == whole[0].loss
    assert same_weights(tmp_path, whole[1])
    lines = (tmp_path / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [p.step for p in run.curve]


def test_stopped_in_the_middle_it_goes_on_with_the_same_result(whole, places, tmp_path) -> None:
    spec = tiny_spec(*places)
    half = train(spec, tmp_path, until=0.5)
    assert half.status == "running" and half.loss is None and half.tokens_seen == 60 * 256
    assert half.valid_curve[-1].step == 60
    again = train(spec, tmp_path, until=0.5, on_progress=lambda _: pytest.fail("it trained"))
    assert losses(again) == losses(half)
    run = train(spec, tmp_path)
    assert losses(run) == losses(whole[0]) and run.loss == whole[0].loss and same_weights(tmp_path, whole[1])


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-9] + b"x" + data[-8:]])
def test_a_corrupt_checkpoint(whole, places, tmp_path, damage, caplog) -> None:
    """The one before it is used; without any, it begins again: the result is the same."""
    spec = tiny_spec(*places)
    train(spec, tmp_path, until=0.25)
    train(spec, tmp_path, until=0.5)
    current, previous = tmp_path / "checkpoint.pt", tmp_path / "checkpoint.previous.pt"
    current.write_bytes(damage(current.read_bytes()))
    begun: list[int] = []
    train(spec, tmp_path, until=0.75, on_progress=lambda p: begun.append(p.step))
    assert 30 < begun[0] <= 33, "it went on from the checkpoint at step 30"
    assert "checkpoint.pt is corrupt" in caplog.text
    for path in (current, previous):
        if path.exists():
            path.write_bytes(damage(path.read_bytes()))
    run = train(spec, tmp_path)
    assert losses(run) == losses(whole[0]) and run.loss == whole[0].loss


def test_a_diverged_run_is_kept_and_marked(places, tmp_path) -> None:
    run = train(tiny_spec(*places, lr=9.0, clip=0.0, warmup_fraction=0.0), tmp_path)
    assert run.status == "diverged" and run.loss is None and run.curve and "loss" in run.reason
    assert read_run(tmp_path) == run
    assert train(tiny_spec(*places, lr=9.0, clip=0.0, warmup_fraction=0.0), tmp_path) == run


def test_small_batches_accumulate_to_the_same_loss(whole, places, tmp_path) -> None:
    """Gradients of parts, weighted, are the gradient of the whole: up to rounding."""
    run = train(tiny_spec(*places, micro_tokens=64), tmp_path, until=0.25)
    for one, other in zip(run.curve, whole[0].curve, strict=False):
        assert one.train_loss == pytest.approx(other.train_loss, rel=2e-3)


def test_a_mixture_trains(places, tmp_path) -> None:
    run = train(tiny_spec(*places, architecture=MIXTURE), tmp_path)
    assert run.status == "finished" and run.loss < 1.5


def test_bf16_on_the_cpu(whole, places, tmp_path) -> None:
    run = train(tiny_spec(*places, dtype="bf16"), tmp_path)
    assert run.loss == pytest.approx(whole[0].loss, rel=0.05) and run.loss != whole[0].loss


def test_another_run_in_the_folder(whole, places) -> None:
    with pytest.raises(SpecError, match="holds another run"):
        train(tiny_spec(*places, lr=5e-3), whole[1])


def test_a_folder_in_use(places, tmp_path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / "train.lock"), pytest.raises(SpecError, match="another process trains in"):
        train(tiny_spec(*places), tmp_path)


def test_vocabulary_too_small(places, tmp_path) -> None:
    with pytest.raises(SpecError, match="vocab_size 200 of the architecture is below the 256 of tokenizer 'byte'"):
        train(tiny_spec(*places, architecture=TINY.evolve(vocab_size=200)), tmp_path)


def test_out_of_memory_is_told(places, tmp_path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(loop._Training, "_one_step", fail)
    with pytest.raises(MeasurementError, match="out of memory training .* give fewer micro_tokens"):
        train(tiny_spec(*places), tmp_path)


@pytest.mark.parametrize("until", [0.0, -1.0, 1.5, math.nan])
def test_until_out_of_range(places, tmp_path, until) -> None:
    with pytest.raises(SpecError, match="until is"):
        train(tiny_spec(*places), tmp_path, until=until)


def test_text_read_more_than_once_is_said(places, tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO):
        train(tiny_spec(*places, tokens=2_000_000), tmp_path, until=1e-4)
    assert "training tokens are read" in caplog.text


def test_a_run_file_that_is_cut_short(places, tmp_path) -> None:
    from codesign.errors import SchemaError

    train(tiny_spec(*places), tmp_path, until=0.1)
    path = tmp_path / "run.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(SchemaError, match="run.json cannot be read"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suffixes": ("py",)}, "does not begin with a dot"),
        ({"eval_points": 0}, "eval_points is 0"),
        ({"valid_share": 0.7}, "valid_share is 0.7"),
        ({"device": "tpu"}, "device is 'tpu'; allowed: auto, cpu, cuda"),
        ({"checkpoint_s": 0.0}, "checkpoint_s is 0.0"),
    ],
)
def test_a_bad_spec(places, changes, message) -> None:
    with pytest.raises(SpecError, match=message):
        tiny_spec(*places, **changes)


def test_a_spec_travels(places) -> None:
    spec = tiny_spec(*places)
    back = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back == spec and back.digest == spec.digest
    assert dataclasses.replace(spec, threads=2, campaign="x", checkpoint_s=1.0).digest == spec.digest
    assert dataclasses.replace(spec, eval_points=3).digest != spec.digest
