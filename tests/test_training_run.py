"""Records of training runs: what they accept, and that they round-trip."""

from __future__ import annotations

import json
import math
import pickle
from itertools import pairwise

import pytest

from codesign.architecture import Architecture
from codesign.errors import SchemaError, SpecError
from codesign.training.spec import RunSpec
from codesign.training_run import CurvePoint, Recipe, TrainingRun

ARCH = Architecture(n_layers=2, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_ff=64, vocab_size=256)
RECIPE = Recipe(tokens=10_000, batch_tokens=512, seq_len=64, lr=3e-3)
POINTS = (
    CurvePoint(step=1, tokens=512, train_loss=5.5, valid_loss=5.4, lr=1e-3, seconds=0.1),
    CurvePoint(step=2, tokens=1024, train_loss=math.inf, valid_loss=float("nan"), lr=2e-3, seconds=0.2),
    CurvePoint(step=3, tokens=1536, train_loss=float("nan"), lr=2e-3, seconds=0.3),
)


def run(**changes) -> TrainingRun:
    values = {"architecture": ARCH, "recipe": RECIPE, "status": "finished", "loss": 1.5, "data_digest": "d"}
    return TrainingRun(**{**values, **changes})


def test_a_diverged_curve_round_trips_through_strict_json() -> None:
    one = run(status="diverged", loss=None, curve=POINTS, reason="loss is nan", host={"threads": "1"})
    text = json.dumps(one.to_dict(), allow_nan=False)
    again = TrainingRun.from_dict(json.loads(text))
    assert again == one and math.isnan(again.curve[2].train_loss) and again.curve[2].valid_loss is None
    assert again.curve[1].train_loss == math.inf


def test_the_schedule_warms_up_peaks_and_ends_where_asked() -> None:
    recipe = Recipe(tokens=64_000, batch_tokens=64, seq_len=64, lr=1e-2, warmup_fraction=0.05, min_lr_ratio=0.2)
    rates = [recipe.lr_at(step) for step in range(1, recipe.steps + 1)]
    assert rates[0] == pytest.approx(1e-2 / 50) and max(rates) == rates[49] == 1e-2
    assert rates[-1] == pytest.approx(2e-3)
    assert all(b < a for a, b in pairwise(rates[49:]))
    # half way down the cosine: mean of peak and end
    assert recipe.lr_at(525) == pytest.approx((1e-2 + 2e-3) / 2)


def test_every_step_is_warm_up_where_asked() -> None:
    assert Recipe(tokens=8, batch_tokens=2, seq_len=2, lr=1.0, warmup_fraction=1.0).lr_at(4) == 1.0


def test_key_tells_experiments_apart_and_nothing_else() -> None:
    one = run()
    assert one.key == run(seconds=9.0, campaign="x", created_at="now", torch_version="2").key
    others = [
        run(architecture=ARCH.evolve(n_layers=3)),
        run(recipe=Recipe(tokens=10_000, batch_tokens=512, seq_len=64, lr=3e-3, seed=1)),
        run(data_digest="e"),
        run(tokenizer="bpe-512"),
    ]
    assert len({one.key, *(o.key for o in others)}) == 5
    assert TrainingRun.from_dict(one.to_dict()).key == one.key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 0}, "tokens is 0"),
        ({"tokens": 100}, "fewer than one batch"),
        ({"batch_tokens": 500}, "give a multiple, such as 512"),
        ({"lr": 0.0}, "lr is 0.0; allowed: above 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"beta2": 1.0}, "beta2 is 1.0"),
        ({"warmup_fraction": 1.5}, "warmup_fraction is 1.5"),
        ({"dtype": "fp8"}, "allowed: fp32, bf16"),
        ({"seed": -1}, "seed is -1"),
        ({"tokens": True}, "tokens is True"),
    ],
)
def test_bad_recipes_are_one_clear_line(changes, message) -> None:
    with pytest.raises(SpecError, match=message):
        Recipe(**{**RECIPE.to_dict(), **changes})


def test_loss_goes_with_the_status() -> None:
    with pytest.raises(SpecError, match="finished runs alone"):
        run(status="diverged")
    with pytest.raises(SpecError, match="finished runs alone"):
        run(loss=None)
    with pytest.raises(SpecError, match="do not increase"):
        run(curve=POINTS[::-1])


def test_unknown_and_missing_fields_are_refused() -> None:
    with pytest.raises(SchemaError, match="unknown training run field"):
        TrainingRun.from_dict({**run().to_dict(), "colour": 1})
    with pytest.raises(SchemaError, match="incomplete training run"):
        TrainingRun.from_dict({k: v for k, v in run().to_dict().items() if k != "recipe"})
    with pytest.raises(SchemaError, match="unknown recipe field"):
        Recipe.from_dict({**RECIPE.to_dict(), "momentum": 1})
    with pytest.raises(SchemaError, match="incomplete curve point"):
        CurvePoint.from_dict({"step": 1})


def test_a_spec_travels_and_its_digest_is_what_is_trained() -> None:
    spec = RunSpec(architecture=ARCH, recipe=RECIPE, data="/some/where", suffixes=(".py",))
    assert pickle.loads(pickle.dumps(spec)) == spec == RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    moved = RunSpec(architecture=ARCH, recipe=RECIPE, data="/else/where", suffixes=(".py",), threads=2, campaign="c")
    assert moved.digest == spec.digest
    assert RunSpec(architecture=ARCH, recipe=RECIPE, data="/some/where").digest != spec.digest
    with pytest.raises(SpecError, match="begin with a dot"):
        RunSpec(architecture=ARCH, recipe=RECIPE, data="x", suffixes=("py",))
    with pytest.raises(SchemaError, match="unknown run field"):
        RunSpec.from_dict({**spec.to_dict(), "colour": 1})
