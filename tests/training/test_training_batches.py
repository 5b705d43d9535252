"""Batches are a function of (seed, step); the first weights are scaled; routers are pushed to balance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training_specs import MIXTURE, TINY, write_corpus  # noqa: E402

from codesign.errors import SpecError  # noqa: E402
from codesign.training.batches import Batches, valid_windows  # noqa: E402
from codesign.training.defaults import default_lr  # noqa: E402
from codesign.training.model import initial_model, optimizer_of, router_balance  # noqa: E402
from codesign.training.text import load_text  # noqa: E402
from codesign.training.tokenizer import encode_text  # noqa: E402
from codesign.training_run import Recipe  # noqa: E402

RECIPE = Recipe(tokens=10_000, batch_tokens=256, seq_len=64, lr=1e-2)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    root = tmp_path_factory.mktemp("batches")
    return encode_text(load_text(write_corpus(root / "corpus")), "byte", root / "cache")


def test_a_batch_is_a_function_of_seed_and_step(tokens) -> None:
    one, other = Batches(tokens, RECIPE), Batches(tokens, RECIPE)
    steps = [7, 3, 10_000, 3, 1]
    later = {step: other.batch(step) for step in sorted(steps)}
    for step in steps:  # in any order
        assert np.array_equal(one.batch(step), later[step])
    assert one.batch(1).shape == (4, 65)
    seeded = Batches(tokens, dataclasses.replace(RECIPE, seed=1))
    assert not np.array_equal(seeded.batch(1), one.batch(1))


def test_an_epoch_reads_every_window_once(tokens) -> None:
    """Windows of one epoch overlap by a token, so their inputs are all different places of the text."""
    batches = Batches(tokens, RECIPE)
    stream = tokens.tokens("train")
    windows = batches.epoch_tokens // 64
    rows = [row for step in range(1, windows // 4 + 1) for row in batches.batch(step)]
    offset = batches._offset
    cuts = {bytes(stream[offset + 64 * i : offset + 64 * i + 65].astype(np.uint16)) for i in range(windows)}
    found = [bytes(row.astype(np.uint16)) for row in rows]
    assert set(found) <= cuts and len(found) >= windows - 3
    assert len(set(found)) >= 0.99 * len(set(cuts)) - 3


def test_validation_windows(tokens) -> None:
    some = valid_windows(tokens, 64, 512)
    assert some.shape == (8, 65) and np.array_equal(some, valid_windows(tokens, 64, 512))
    assert valid_windows(tokens, 64, 10**9).shape[0] == (len(tokens.tokens("valid")) - 1) // 64
    with pytest.raises(SpecError, match="fewer than one sequence"):
        valid_windows(tokens, 10**6, 512)


def test_too_long_a_sequence(tokens) -> None:
    recipe = Recipe(tokens=10**6, batch_tokens=10**5, seq_len=10**5, lr=1e-2)
    with pytest.raises(SpecError, match="sequences of 100000 need at least 200,000"):
        Batches(tokens, recipe)


def test_initial_weights_are_scaled_to_the_width() -> None:
    arch = TINY.evolve(d_model=128, n_heads=4, n_kv_heads=2, d_head=32, d_ff=256, n_layers=8)
    model = initial_model(arch, 0)
    named = dict(model.named_parameters())
    assert named["embed_tokens.weight"].std().item() == pytest.approx(128**-0.5, rel=0.03)
    assert named["layers.0.q_proj.weight"].std().item() == pytest.approx(0.5 * 128**-0.5, rel=0.03)
    assert named["layers.0.ffn.down_proj.weight"].std().item() == pytest.approx(0.5 * 256**-0.5 / 4, rel=0.03)
    again = dict(initial_model(arch, 0).named_parameters())
    assert all(torch.equal(named[k], again[k]) for k in named)
    assert not torch.equal(
        named["embed_tokens.weight"], dict(initial_model(arch, 1).named_parameters())["embed_tokens.weight"]
    )


def test_gains_are_not_decayed() -> None:
    matrices, vectors = optimizer_of(initial_model(TINY, 0), RECIPE).param_groups
    assert matrices["weight_decay"] == 0.1 and vectors["weight_decay"] == 0.0
    assert all(p.dim() == 1 for p in vectors["params"]) and all(p.dim() == 2 for p in matrices["params"])


def test_router_balance_by_hand() -> None:
    """Evenly spread: 1. All tokens to the same K of E experts with certainty: E * (1/K * 1/K * K) ... = E / K."""
    model = initial_model(MIXTURE, 0)
    ids = torch.arange(64)[None]
    with router_balance(model) as found, torch.no_grad():
        model(ids, last_only=False)
    assert len(found) == MIXTURE.n_layers and all(0.9 < float(one) < 2.1 for one in found)
    with torch.no_grad():
        for layer in model.layers:
            layer.router.weight.zero_()  # every probability is 1/4; ties all go to the same two experts
    with router_balance(model) as even, torch.no_grad():
        model(ids, last_only=False)
    assert [float(one) for one in even] == pytest.approx([1.0, 1.0])
    with router_balance(initial_model(TINY, 0)) as none:
        pass
    assert none == []


def test_balance_pushes_towards_even_loads() -> None:
    """Training on the balance loss alone lowers it from an uneven start."""
    model = initial_model(MIXTURE, 0)
    with torch.no_grad():
        for layer in model.layers:
            layer.router.weight[0] += 0.3 * layer.router.weight.std() * 10
    ids = torch.arange(200)[None] % 256
    optimizer = torch.optim.SGD([layer.router.weight for layer in model.layers], lr=1.0)
    values = []
    for _ in range(30):
        with router_balance(model) as found:
            model(ids, last_only=False)
        loss = torch.stack(found).mean()
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(values[-5:]) < values[0]


def test_default_learning_rate_falls_with_width() -> None:
    rates = [default_lr(TINY.evolve(d_model=d, n_heads=d // 16)) for d in (32, 64, 128, 256)]
    assert rates == sorted(rates, reverse=True) and 1e-3 < rates[-1] < rates[0] < 5e-2
