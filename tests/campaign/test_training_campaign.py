"""Campaigns with made-up curves: what is stored when, what is trained again, who is stopped."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from training_runs import MadeUp, Store, experiment, tiny

from codesign.campaign.training_campaign import TrainingCampaign, TrainingProgress, run_training
from codesign.campaign.training_halving import can_still_win
from codesign.errors import MeasurementError


def campaign(folder: Path, layers=(2, 3, 4), **changes) -> TrainingCampaign:
    experiments = tuple(experiment(tiny(n)) for n in layers)
    return TrainingCampaign(**{"name": "c", "experiments": experiments, "folder": folder / "runs", **changes})


def larger_is_better(arch, share):
    return 4.0 / arch.n_layers**0.2 * share**-0.1


def hopeless_odd(arch, share):
    """Models of odd depth are worse than the smaller of even depth."""
    return (4.0 / arch.n_layers**0.2 + 0.5 * (arch.n_layers % 2)) * share**-0.1


def test_all_are_trained_largest_first_and_stored_as_they_end(tmp_path: Path) -> None:
    store, work, told = Store(), MadeUp(larger_is_better), []
    outcome = run_training(campaign(tmp_path), store, work, on_progress=told.append)
    assert work.trained == [(4, 1.0), (3, 1.0), (2, 1.0)]
    assert [status for _, status in store.log] == ["finished"] * 3
    assert {run.campaign for run in store.runs.values()} == {"c"}
    assert (outcome.before, outcome.count("finished"), outcome.failed) == (0, 3, [])
    assert told[-1].done == told[-1].total == 3 and isinstance(told[0], TrainingProgress)


def test_interrupted_and_run_again(tmp_path: Path) -> None:
    store, work = Store(), MadeUp(larger_is_better)
    work.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run_training(campaign(tmp_path), store, work)
    assert len(store.runs) == 2
    again = MadeUp(larger_is_better)
    outcome = run_training(campaign(tmp_path), store, again)
    assert again.trained == [(2, 1.0)] and outcome.before == 2
    last = MadeUp(larger_is_better)
    assert run_training(campaign(tmp_path), store, last).before == 3 and last.trained == []


def test_halving_stops_the_hopeless(tmp_path: Path) -> None:
    halved = {"layers": (2, 3, 4, 5, 6, 7), "rungs": (0.2, 0.5), "judge": can_still_win}
    store, work = Store(), MadeUp(hopeless_odd)
    outcome = run_training(campaign(tmp_path, **halved), store, work)
    assert sorted(layers for layers, until in work.trained if until == 1.0) == [2, 4, 6]
    stopped = [run for run in outcome.runs.values() if run.status == "stopped"]
    assert sorted(run.architecture.n_layers for run in stopped) == [3, 5, 7]
    for run in stopped:
        assert run.loss is None and run.tokens_seen == 8 * 256 and "at 20% of its steps" in run.reason
    # the same command again: the same decisions, nothing to train
    again = MadeUp(hopeless_odd)
    assert run_training(campaign(tmp_path, **halved), store, again).count("stopped") == 3 and again.trained == []
    # without halving, the stopped ones go on to the end
    rest = MadeUp(hopeless_odd)
    whole = run_training(campaign(tmp_path, layers=halved["layers"]), store, rest)
    assert sorted(rest.trained) == [(3, 1.0), (5, 1.0), (7, 1.0)] and whole.count("finished") == 6


def test_other_token_counts_are_other_experiments(tmp_path: Path) -> None:
    """A model is not stopped because one that was trained on more lost less."""
    short = [experiment(tiny(n)) for n in (2, 3, 4)]
    long = [experiment(tiny(n), tokens=80 * 256) for n in (2, 3, 4)]

    def loss(arch, share):
        return larger_is_better(arch, share)

    one = campaign(tmp_path, experiments=(*short, *long), rungs=(0.5,), judge=can_still_win)
    assert run_training(one, Store(), MadeUp(loss)).count("finished") == 6


def test_a_diverged_run_is_kept_and_leaves_the_race(tmp_path: Path) -> None:
    def loss(arch, share):
        return math.nan if arch.n_layers == 3 and share > 0.3 else larger_is_better(arch, share)

    store, work = Store(), MadeUp(loss)
    outcome = run_training(campaign(tmp_path, rungs=(0.5,), judge=can_still_win), store, work)
    assert outcome.count("diverged") == 1 and outcome.count("finished") == 2
    assert (3, 1.0) not in work.trained
    again = MadeUp(loss)
    run_training(campaign(tmp_path, rungs=(0.5,), judge=can_still_win), store, again)
    assert again.trained == []


def test_one_failure_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    work = MadeUp(larger_is_better, fail={3: MeasurementError("out of memory")})
    outcome = run_training(campaign(tmp_path, rungs=(0.5,), judge=can_still_win), Store(), work)
    ((failed, why),) = outcome.failed
    assert failed.spec.architecture.n_layers == 3 and why == "out of memory" and outcome.count("finished") == 2


def test_all_failed(tmp_path: Path) -> None:
    work = MadeUp(larger_is_better, fail={n: MeasurementError("no torch") for n in (2, 3, 4)})
    with pytest.raises(MeasurementError, match="nothing could be trained: no torch"):
        run_training(campaign(tmp_path), Store(), work)


def test_a_run_of_another_text_is_refused(tmp_path: Path) -> None:
    """As would come from a worker whose text of the same name is another."""
    other = tuple(experiment(tiny(n), digest="f" * 16) for n in (2, 3))
    mine = (*other, experiment(tiny(4)))
    store = Store()
    outcome = run_training(campaign(tmp_path, experiments=mine), store, MadeUp(larger_is_better))
    assert len(outcome.failed) == 2 and "its text or tokenizer there is another" in outcome.failed[0][1]
    assert len(store.runs) == 1
