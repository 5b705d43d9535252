"""Training in worker processes for real: one is killed, its run goes on, and the loss is that of an undisturbed run."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("joblib")

from training_runs import Store, experiment, tiny, write_corpus  # noqa: E402

from codesign.campaign import training_local  # noqa: E402
from codesign.campaign.training_campaign import TrainingCampaign, run_training  # noqa: E402
from codesign.campaign.training_local import local_workers, run_here  # noqa: E402
from codesign.errors import MeasurementError  # noqa: E402
from codesign.training.text import load_text  # noqa: E402
from codesign.training.tokenizer import encode_text  # noqa: E402

LAYERS = (1, 2)


@pytest.fixture(scope="module")
def campaign_of(tmp_path_factory):
    root = tmp_path_factory.mktemp("local")
    tokens = encode_text(load_text(write_corpus(root / "corpus")), "byte", root / "texts")

    def make(folder: Path, layers=LAYERS, **changes) -> TrainingCampaign:
        options = {"tokens": 100 * 256, "checkpoint_s": 0.02, "digest": tokens.digest, **changes}
        experiments = tuple(experiment(tiny(n), str(tokens.folder), **options) for n in layers)
        return TrainingCampaign(name="c", experiments=experiments, folder=folder)

    return make


@pytest.fixture(scope="module")
def undisturbed(campaign_of, tmp_path_factory):
    store = Store()
    run_training(campaign_of(tmp_path_factory.mktemp("whole")), store, run_here(1))
    return {run.architecture.n_layers: run for run in store.runs.values()}


def kill_one(folder: Path, steps: int = 20) -> threading.Thread:
    """Kill, once, the process that holds the lock of a run which has come so far."""

    def watch() -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            for lock in folder.glob("*/train.lock"):
                curve = lock.parent / "curve.jsonl"
                if not curve.exists() or curve.read_bytes().count(b"\n") < steps:
                    continue
                for process in Path("/proc").glob("[0-9]*"):
                    try:
                        holds = any(os.readlink(f) == str(lock) for f in (process / "fd").iterdir())
                    except OSError:
                        continue
                    if holds and int(process.name) != os.getpid():
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.append(lock.parent.name)
                        return
            time.sleep(0.002)

    killed: list[str] = []
    thread = threading.Thread(target=watch)
    thread.killed = killed  # type: ignore[attr-defined]
    thread.start()
    return thread


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to find the worker")
def test_a_worker_is_killed(campaign_of, undisturbed, tmp_path: Path) -> None:
    store = Store()
    thread = kill_one(tmp_path)
    outcome = run_training(campaign_of(tmp_path), store, run_here(2))
    thread.join()
    assert thread.killed, "none was killed: the test proves nothing"  # type: ignore[attr-defined]
    assert outcome.count("finished") == len(LAYERS) and not outcome.failed
    for run in store.runs.values():
        whole = undisturbed[run.architecture.n_layers]
        assert run.loss == whole.loss
        assert [(p.step, p.train_loss, p.valid_loss) for p in run.curve] == [
            (p.step, p.train_loss, p.valid_loss) for p in whole.curve
        ]


def test_a_run_that_kills_its_process_is_given_up(campaign_of, tmp_path: Path, monkeypatch) -> None:
    """As one that needs more memory than there is; the others finish."""
    one = campaign_of(tmp_path, layers=(1, 2))
    deadly = one.run_folder(one.experiments[1])
    (deadly / "run.json").parent.mkdir(parents=True)

    def elsewhere(i, task, parent, _real=training_local._elsewhere):
        if Path(task.folder) == deadly:
            (deadly / "working").touch()
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        return _real(i, task, parent)

    monkeypatch.setattr(training_local, "_elsewhere", elsewhere)
    store = Store()
    outcome = run_training(one, store, run_here(2, attempts=2))
    ((failed, why),) = outcome.failed
    assert failed.spec.architecture.n_layers == 2 and "its process died 2 times" in why and "fewer --workers" in why
    assert outcome.count("finished") == 1


def test_an_error_in_a_worker_is_told(campaign_of, tmp_path: Path) -> None:
    bad = campaign_of(tmp_path, layers=(1, 2), seq_len=4096 * 64, batch_tokens=4096 * 64, tokens=4096 * 64)
    with pytest.raises(MeasurementError, match="nothing could be trained: .* sequences of 262144 need at least"):
        run_training(bad, Store(), run_here(2))


def test_how_many_workers() -> None:
    assert local_workers(1) >= 1 and local_workers(10_000) == 1
