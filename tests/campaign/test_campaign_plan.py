"""Which architectures are measured: the pool, filling the space, and what is least sure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from synthetic import POINTS, PRIOR, TINY, dense, observed

from codesign.architecture import Architecture
from codesign.campaign.plan import candidate_pool, least_sure, space_filling
from codesign.errors import InfeasibleError
from codesign.operators import Phase
from codesign.profilers.base import Point
from codesign.profilers.measure import needed_bytes
from codesign.roofline.device_fit import PassRow, pass_rows
from codesign.search.spaces import default_space, load_space
from codesign.workload import PRECISIONS

DENSE = load_space("dense", ["fp32"], 50304).with_axis("vocab_size", (32000, 50304, 100352))
PRIORS: dict[Phase, Any] = {"prefill": PRIOR, "decode": PRIOR}


def pool_of(space: Any = DENSE, seed: int = 1, **changes: Any) -> list[Architecture]:
    values = {"memory_B": 3e9, "max_params": 150e6, **changes}
    return candidate_pool(space, "fp32", POINTS, rng=np.random.default_rng(seed), **values)


def test_a_pool_is_the_same_again_and_within_its_limits() -> None:
    pool = pool_of()
    assert pool == pool_of() and pool != pool_of(seed=2)
    assert 200 < len(pool) <= 1500 and len({repr(a) for a in pool}) == len(pool)
    assert all(a.params_active <= 150e6 and needed_bytes(a, "fp32", POINTS) <= 3e9 for a in pool)
    assert max(needed_bytes(a, "fp32", POINTS) for a in pool_of(memory_B=3e8)) <= 3e8
    assert {a.vocab_size for a in pool} == {32000, 50304, 100352} and max(a.params_active for a in pool) > 100e6


def test_mixtures_are_in_the_pool_of_a_space_that_has_them() -> None:
    pool = pool_of(default_space(("fp32",)))
    assert {a.n_experts for a in pool} >= {0, 8, 64}


def test_a_small_space_is_taken_whole() -> None:
    axes = {**DENSE.axes, "vocab_size": (1000,), "n_layers": (2, 3), "d_model": (128, 256), "ffn_ratio": (3.0,), "d_head": (64,),
            "n_kv_heads": (1, 2)}  # fmt: skip
    pool = pool_of(DENSE.__class__(axes=axes, name="small"))
    assert len(pool) == 8 and {(a.n_layers, a.d_model, a.n_kv_heads) for a in pool} == {
        (l, d, k) for l in (2, 3) for d in (128, 256) for k in (1, 2)
    }


@pytest.mark.parametrize("limit", [{"max_params": 1000.0}, {"memory_B": 1e4}])
def test_a_space_in_which_nothing_fits_is_said(limit: dict[str, float]) -> None:
    with pytest.raises(
        InfeasibleError, match=r"no architecture of the space 'dense'.*raise --max-params or give another --space"
    ):
        pool_of(**limit)


def coordinates(pool: list[Architecture]) -> np.ndarray[Any, Any]:
    x = np.log([[a.n_layers, a.d_model, a.d_ff, a.d_query, a.d_kv, a.vocab_size] for a in pool])
    return np.asarray((x - x.min(axis=0)) / np.ptp(x, axis=0))


def dispersion(pool: list[Architecture], chosen: Any) -> float:
    """Root mean squared distance of the pool to what was chosen."""
    x = coordinates(pool)
    return float(np.sqrt(np.min([((x - x[i]) ** 2).sum(axis=1) for i in chosen], axis=0).mean()))


def test_space_filling_covers_the_space_better_than_chance() -> None:
    pool = pool_of()
    rng = np.random.default_rng(0)
    for n in (8, 20):
        planned = dispersion(pool, space_filling(pool, n))
        by_chance = [dispersion(pool, rng.choice(len(pool), n, replace=False)) for _ in range(40)]
        assert planned < min(by_chance) and planned < 0.95 * np.median(by_chance)


def test_space_filling_goes_on_where_it_was() -> None:
    pool = pool_of()
    whole = space_filling(pool, 12)
    assert len(set(whole)) == 12 and whole == [*whole[:5], *space_filling(pool, 7, whole[:5])]
    few = pool[:3]
    assert sorted(space_filling(few, 9)) == [0, 1, 2] and space_filling(few, 2, [0, 1, 2]) == []
    assert space_filling([TINY], 1) == [0] and len(space_filling([TINY, TINY.evolve(n_layers=9)], 2)) == 2


def rows(archs: list[Architecture]) -> dict[Phase, list[PassRow]]:
    seen = observed(archs, noise=0.01)
    return {phase: pass_rows(seen, phase) for phase in PRIORS}


def test_least_sure_picks_the_term_that_was_never_seen() -> None:
    """Only shallow and narrow models with small vocabularies were measured. Of the pool one spends its time on an output
    head and one on experts; the rest are like those measured.
    """
    rng = np.random.default_rng(0)
    known = [dense(rng, layers=(4, 12), heads=(4, 12)).evolve(vocab_size=500) for _ in range(12)]
    alike = [dense(rng, layers=(4, 12), heads=(4, 12)).evolve(vocab_size=500) for _ in range(20)]
    head = alike[0].evolve(n_layers=1, vocab_size=200_000)
    experts = alike[1].evolve(n_experts=32, n_active_experts=4, d_ff=0, d_ff_expert=512, family="mixtral")
    pool = [*alike[:10], head, *alike[10:], experts]
    chosen = least_sure(pool, rows(known), PRIORS, "fp32", POINTS, 2)
    assert set(chosen) == {10, 21}
    assert not set(least_sure(pool, rows(known), PRIORS, "fp32", POINTS, 2, skip=chosen)) & set(chosen)


def test_least_sure_does_not_choose_the_same_knowledge_twice() -> None:
    """Two models with large heads are the least certain; after the first, the second is known."""
    rng = np.random.default_rng(1)
    known = [dense(rng, layers=(4, 12), heads=(4, 12)).evolve(vocab_size=500) for _ in range(12)]
    alike = [dense(rng, layers=(4, 12), heads=(4, 12)).evolve(vocab_size=500) for _ in range(8)]
    head = alike[0].evolve(n_layers=1, vocab_size=200_000)
    experts = alike[1].evolve(n_experts=32, n_active_experts=4, d_ff=0, d_ff_expert=512, family="mixtral")
    pool = [*alike, head, head.evolve(vocab_size=201_000), experts]
    assert set(least_sure(pool, rows(known), PRIORS, "fp32", POINTS, 2)) in ({8, 10}, {9, 10})


def test_least_sure_ends_when_the_pool_does() -> None:
    rng = np.random.default_rng(2)
    archs = [dense(rng) for _ in range(12)]
    assert sorted(least_sure(archs, rows(archs[:9]), PRIORS, "fp32", POINTS, 99, skip=range(9))) == [9, 10, 11]
    only_decode = {"prefill": [], "decode": rows(archs[:9])["decode"]}
    assert len(least_sure(archs, only_decode, PRIORS, "fp32", (Point.decode(64),), 1, skip=[0])) == 1  # type: ignore[arg-type]


def test_what_is_planned_teaches_more_than_chance() -> None:
    """The mean variance of ln(seconds) of the pool's decode steps after 12 planned and 12 random architectures."""
    from codesign.roofline.device_fit import fit_terms
    from codesign.roofline.terms import TERMS, pass_terms
    from codesign.workload import Workload

    pool = pool_of()[:400]

    def left(chosen: list[int]) -> float:
        found = rows([pool[i] for i in chosen])["decode"]
        seconds_per, covariance = fit_terms(found, PRIOR)
        total = 0.0
        for arch in pool[::7]:
            amounts = pass_terms(arch, Workload(prompt_tokens=512, output_tokens=1), PRECISIONS["fp32"], "decode")
            parts = np.array([amounts.get(term, 0.0) * seconds_per[term] for term in TERMS])
            total += float((parts / parts.sum()) @ covariance @ (parts / parts.sum()))
        return total

    first = space_filling(pool, 8)
    planned = [*first, *least_sure(pool, rows([pool[i] for i in first]), PRIORS, "fp32", POINTS, 4, skip=first)]
    rng = np.random.default_rng(3)
    by_chance = [left([int(i) for i in rng.choice(len(pool), 12, replace=False)]) for _ in range(7)]
    assert left(planned) < np.median(by_chance)
