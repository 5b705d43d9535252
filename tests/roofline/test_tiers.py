"""Experts in slower memory, worked by hand and against a simulation of the routing."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.architecture import Architecture
from codesign.devices import load_device
from codesign.errors import InfeasibleError, SpecError
from codesign.roofline.cost import RooflineModel
from codesign.roofline.tiers import Tier, choice_probabilities, estimate_tiered
from codesign.workload import PRECISIONS, Workload

ARCH = Architecture(n_layers=10, d_model=1000, n_heads=10, n_kv_heads=10, d_head=100, d_ff=0, vocab_size=1000, n_experts=10,
                    n_active_experts=2, d_ff_expert=1000, family="qwen3_moe", qk_norm="head")  # fmt: skip
FORM, COST = PRECISIONS["fp16"], RooflineModel(device=load_device("orin"))
EACH = 3 * 1000 * 1000 * 2  # bytes of an expert
WORK = Workload(prompt_tokens=100, output_tokens=10)


def fixed() -> float:
    return float(COST.estimate(ARCH, WORK, FORM).peak_memory_B) - 100 * EACH


def test_half_of_the_experts_in_flash_by_hand() -> None:
    """Room for 5 of 10 experts a layer: a token's two experts hit half the time; 10 layers * 1 expert of 6 MB at 1 GB/s: 60 ms."""
    found = estimate_tiered(
        COST, ARCH, WORK, FORM, [Tier(name="flash", bandwidth_Bps=1e9)], memory_B=fixed() + 50 * EACH
    )
    assert found.resident == pytest.approx(5)
    assert found.hit_rate == pytest.approx(0.5)
    assert found.fetched_B == pytest.approx(10 * EACH)
    assert found.decode_s - found.all_resident_decode_s == pytest.approx(0.06)
    assert found.memory_B == pytest.approx(fixed() + 50 * EACH)
    plain = COST.estimate(ARCH, WORK, FORM)
    assert found.prefill_s - float(plain.prefill_s) == pytest.approx(
        50 * EACH / 1e9, rel=1e-6
    )  # 100 tokens visit every expert


def test_three_tiers_fill_in_order() -> None:
    """4 experts a layer on the device, 3 in host memory, the other 3 in flash: 0.6 of an expert each a layer."""
    tiers = [Tier(name="host", bandwidth_Bps=1e10, memory_B=30 * EACH), Tier(name="flash", bandwidth_Bps=1e9)]
    found = estimate_tiered(COST, ARCH, WORK, FORM, tiers, memory_B=fixed() + 40 * EACH)
    assert found.placed == pytest.approx({"device": 4, "host": 3, "flash": 3})
    assert found.decode_s - found.all_resident_decode_s == pytest.approx(10 * 0.6 * EACH * (1 / 1e10 + 1 / 1e9))


def test_everything_that_fits_costs_nothing_more() -> None:
    found = estimate_tiered(COST, ARCH, WORK, FORM, [Tier(name="flash", bandwidth_Bps=1e9)])
    assert found.decode_s == found.all_resident_decode_s and found.hit_rate == 1.0 and found.resident == 10


@pytest.mark.parametrize(("skew", "batch"), [(0.0, 1), (0.0, 7), (1.0, 1), (1.2, 5)])
def test_visits_are_those_of_a_simulation(skew: float, batch: int) -> None:
    """Tokens that choose each expert on its own with these probabilities: mean number of distinct experts not resident."""
    rng = np.random.default_rng(1)
    p = choice_probabilities(10, 2, skew)
    assert p.sum() == pytest.approx(2) and (np.diff(p) <= 1e-12).all() and p.max() <= 1
    visited = (rng.random((20_000, batch, 10)) < p).any(axis=1)
    missed = visited[:, 4:].sum(axis=1).mean()
    work = Workload(prompt_tokens=0, output_tokens=10, batch_size=batch)
    own = float(COST.estimate(ARCH, work, FORM).peak_memory_B) - 100 * EACH
    found = estimate_tiered(
        COST, ARCH, work, FORM, [Tier(name="flash", bandwidth_Bps=1e9)], skew=skew, memory_B=own + 40 * EACH
    )
    assert found.fetched_B == pytest.approx(10 * EACH * missed, rel=0.03)


def test_popular_experts_are_worth_caching() -> None:
    tier = [Tier(name="flash", bandwidth_Bps=1e9)]
    even, skewed = (
        estimate_tiered(COST, ARCH, WORK, FORM, tier, skew=s, memory_B=fixed() + 30 * EACH) for s in (0.0, 1.0)
    )
    assert skewed.hit_rate > 1.5 * even.hit_rate and skewed.decode_s < even.decode_s


def test_what_cannot_be_is_refused() -> None:
    flash = [Tier(name="flash", bandwidth_Bps=1e9)]
    with pytest.raises(InfeasibleError, match="without its routed experts the model needs"):
        estimate_tiered(COST, ARCH, WORK, FORM, flash, memory_B=1e6)
    small = [Tier(name="host", bandwidth_Bps=1e9, memory_B=10 * EACH)]
    with pytest.raises(InfeasibleError, match="9.0 of 10 a layer find no place"):
        estimate_tiered(COST, ARCH, WORK, FORM, small, memory_B=fixed())
    with pytest.raises(SpecError, match="this model has none"):
        estimate_tiered(COST, ARCH.evolve(n_experts=0, n_active_experts=0, d_ff_expert=0, d_ff=100), WORK, FORM, flash)
    with pytest.raises(SpecError, match="must have names of their own"):
        estimate_tiered(COST, ARCH, WORK, FORM, flash * 2)
    with pytest.raises(SpecError, match="skew -1 must be"):
        choice_probabilities(4, 1, -1)
    with pytest.raises(SpecError, match="tier 'x': bandwidth_Bps 0 must be above zero"):
        Tier(name="x", bandwidth_Bps=0)
