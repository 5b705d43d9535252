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
import time
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
    assert run.valid_curve[0].valid_loss > 2 and run.loss < 1.2 < math.log(256)
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
