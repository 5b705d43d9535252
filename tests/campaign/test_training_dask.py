"""Training on Dask for real, on loopback: a worker is killed in mid-training, another goes on from the checkpoint."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
distributed = pytest.importorskip("distributed", reason="the extra 'fleet' is not installed")

from training_runs import Store, experiment, tiny, write_corpus  # noqa: E402

from codesign.campaign import training_dask  # noqa: E402
from codesign.campaign.training_campaign import TrainingCampaign, run_training  # noqa: E402
from codesign.campaign.training_dask import run_on_dask  # noqa: E402
from codesign.campaign.training_local import run_here  # noqa: E402
from codesign.campaign.training_task import last_step  # noqa: E402
from codesign.errors import MeasurementError  # noqa: E402
from codesign.training.text import load_text  # noqa: E402
from codesign.training.tokenizer import encode_text  # noqa: E402

QUIET = {"dashboard_address": ":0", "host": "127.0.0.1", "memory_limit": 0, "processes": True}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **QUIET) as cluster:
        with distributed.Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(2)
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def campaign_of(tmp_path_factory):
    root = tmp_path_factory.mktemp("dask")
    tokens = encode_text(load_text(write_corpus(root / "corpus")), "byte", root / "texts")

    def make(folder: Path, layers=(1, 2), **changes) -> TrainingCampaign:
        options = {"tokens": 120 * 256, "checkpoint_s": 0.02, "digest": tokens.digest, **changes}
        experiments = tuple(experiment(tiny(n), str(tokens.folder), **options) for n in layers)
        return TrainingCampaign(name="c", experiments=experiments, folder=folder)

    return make


def workers(address: str) -> dict[str, int]:
    """Process of each worker."""
    with distributed.Client(address, set_as_default=False) as client:
        return client.run(os.getpid)


def test_a_worker_killed_in_mid_training(address, campaign_of, tmp_path: Path) -> None:
    one = campaign_of(tmp_path / "runs")
    largest = one.run_folder(one.experiments[-1])
    before = workers(address)
    killed: list[tuple[int, int]] = []

    def kill() -> None:
        end = time.monotonic() + 300
        while last_step(largest) < 40 and time.monotonic() < end:
            time.sleep(0.002)
        for pid in before.values():
            with contextlib.suppress(OSError):
                if any(os.readlink(f) == str(largest / "train.lock") for f in Path(f"/proc/{pid}/fd").iterdir()):
                    killed.append((pid, last_step(largest)))
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    store = Store()
    with run_on_dask(address, one.folder) as execute:
        outcome = run_training(one, store, execute)
    killer.join()
    assert killed and 40 <= killed[0][1] < 120, "killed in mid-training"
    assert outcome.count("finished") == 2 and not outcome.failed
    alone = Store()
    run_training(campaign_of(tmp_path / "alone"), alone, run_here(1))
    for key, run in store.runs.items():
        whole = alone.runs[key]
        assert run.loss == whole.loss
        assert [(p.step, p.train_loss, p.valid_loss) for p in run.curve] == [
            (p.step, p.train_loss, p.valid_loss) for p in whole.curve
        ]


def test_it_went_on_from_the_checkpoint(address, campaign_of, tmp_path: Path) -> None:
    """A run that was begun here is only finished there: its seconds so far are kept, its first points too."""
    one = campaign_of(tmp_path / "runs", layers=(2,))
    task = one.task(one.experiments[0], 0.5)
    from codesign.campaign.training_task import run_task

    one.folder.mkdir()
    begun = run_task(task)
    store = Store()
    with run_on_dask(address, one.folder) as execute:
        run_training(one, store, execute)
    (run,) = store.runs.values()
    assert run.curve[: len(begun.curve)] == begun.curve and run.status == "finished"


def test_an_error_there_is_told_here(address, campaign_of, tmp_path: Path) -> None:
    bad = campaign_of(tmp_path, layers=(1,), seq_len=4096 * 64, batch_tokens=4096 * 64, tokens=4096 * 64)
    with run_on_dask(address, bad.folder) as execute, pytest.raises(MeasurementError, match="need at least 524,288"):
        run_training(bad, Store(), execute)


def test_a_worker_that_runs_two_at_a_time(address, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        training_dask, "_workers", lambda _: {"tcp://one": {"nthreads": 1}, "tcp://two": {"nthreads": 2}}
    )
    with (
        pytest.raises(MeasurementError, match="tcp://two runs 2 tasks at a time .*--nthreads 1"),
        run_on_dask(address, tmp_path),
    ):
        pass


def test_no_scheduler_and_no_workers(tmp_path: Path) -> None:
    with (
        pytest.raises(MeasurementError, match="no Dask scheduler answers at"),
        run_on_dask("tcp://127.0.0.1:9", tmp_path, timeout_s=0.5),
    ):
        pass
    with (
        distributed.LocalCluster(n_workers=0, **QUIET) as cluster,
        pytest.raises(MeasurementError, match="has no workers; start some: dask worker"),
        run_on_dask(cluster.scheduler_address, tmp_path),
    ):
        pass


def test_a_folder_that_workers_do_not_see(address, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        training_dask, "_look", lambda _: {"version": training_dask.agent_version(), "read": "No such file"}
    )
    with (
        pytest.raises(MeasurementError, match="does not see .*give --checkpoints a folder on storage"),
        run_on_dask(address, tmp_path),
    ):
        pass
