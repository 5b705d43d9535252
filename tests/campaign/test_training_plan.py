"""Which models a plan takes: within bounds, spread, cheap where cheap teaches as much, the same again."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.architecture import Architecture
from codesign.campaign.training_plan import Known, plan_training, tiny_space, training_flop, training_pool
from codesign.errors import InfeasibleError, SpecError

LOW, HIGH = 30e3, 1e6


@pytest.fixture(scope="module")
def pool() -> list[Architecture]:
    return training_pool(tiny_space(LOW, HIGH, 256), LOW, HIGH, np.random.default_rng(1))


def count(arch: Architecture) -> int:
    return arch.params_active_nonembedding


def test_the_pool_is_within_bounds_and_spread(pool) -> None:
    sizes = np.array([count(a) for a in pool])
    assert LOW <= sizes.min() < 1.2 * LOW and 0.8 * HIGH < sizes.max() <= HIGH
    assert len({repr(a) for a in pool}) == len(pool) <= 600
    assert all(4 <= a.d_model / a.n_layers <= 128 for a in pool)


def test_a_plan(pool) -> None:
    plan = plan_training(pool, [1_000_000], 40, seq_len=128)
    assert len({repr(p.architecture) for p in plan}) == 40
    assert plan == plan_training(pool, [1_000_000], 40, seq_len=128)
    bins = np.histogram(np.log([count(p.architecture) for p in plan]), bins=5, range=(np.log(LOW), np.log(HIGH)))[0]
    assert bins.min() >= 3, "each fifth of the range gets a tenth, up to the pool's own edges"
    depth, width = (np.log([getattr(p.architecture, n) for p in plan]) for n in ("n_layers", "d_model"))
    assert abs(np.corrcoef(depth, width)[0, 1]) < 0.6, "depth and width are told apart"
    flop = sum(p.flop for p in plan)
    rng = np.random.default_rng(0)
    random = np.mean(
        [sum(training_flop(pool[i], 1_000_000, 128) for i in rng.permutation(len(pool))[:40]) for _ in range(20)]
    )
    assert flop < random


def test_what_is_known_is_not_asked_again(pool) -> None:
    first = plan_training(pool, [1_000_000], 10, seq_len=128)
    known = [
        Known(architecture=p.architecture, tokens=p.tokens, loss=3.0 * count(p.architecture) ** -0.05) for p in first
    ]
    more = plan_training(pool, [1_000_000], 10, seq_len=128, known=known)
    assert not {repr(p.architecture) for p in more} & {repr(p.architecture) for p in first}


def test_several_token_counts(pool) -> None:
    plan = plan_training(pool, [500_000, 2_000_000], 20, seq_len=128)
    assert {p.tokens for p in plan} == {500_000, 2_000_000}


def test_more_than_there_are(pool) -> None:
    assert len(plan_training(pool[:5], [1000], 40, seq_len=128)) == 5


def test_bad_values(pool) -> None:
    with pytest.raises(SpecError, match="a plan of 0 models"):
        plan_training(pool, [1000], 0, seq_len=128)
    with pytest.raises(SpecError, match="too small for two layers of width 32"):
        tiny_space(1e3, 2e3, 256)
    with pytest.raises(SpecError, match="below --max-params"):
        tiny_space(1e6, 1e5, 256)
    with pytest.raises(InfeasibleError, match="widen --min-params"):
        training_pool(tiny_space(30e3, 1e6, 256), 30_000, 30_001, np.random.default_rng(0))


def test_flop_of_training_against_the_product_count() -> None:
    """6 N D and the head and attention, by hand for one model: N = 2 layers of q 64*64, k and v 64*32, o 64*64, FFN 3*64*128,
    and gains 64 each, with a last gain of 64.
    """
    a = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=256)
    n = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert count(a) == n
    assert training_flop(a, 1000, 64) == 6 * 1000 * (n + 64 * 256 + 64 * 2 * 64)
