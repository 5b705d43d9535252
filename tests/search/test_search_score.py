"""Intervals, probabilities, and the comparison with known models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from search_problems import problem, space

from codesign.architecture import ArchitectureBatch
from codesign.errors import SpecError
from codesign.hf_config import read_config
from codesign.predictors import load_law
from codesign.search import Frontier, search
from codesign.search.score import compare, score

LAWS = ("gemstones", "openlm-grid", "llama-2k", "deepmind-moe", "steplaw", "paper")


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    return search(problem(objectives=("loss", "latency", "energy")))


def test_intervals_hold_the_value(frontier: Frontier) -> None:
    for c in frontier.candidates:
        assert {"loss", "latency_s", "ttft_s", "e2e_s", "energy_J", "power_W"} <= set(c.intervals)
        for name, (low, high) in c.intervals.items():
            value = c.loss if name == "loss" else c.values[name]
            assert 0 < low < value < high
        assert c.intervals["loss"][1] - c.loss == pytest.approx(1.6449 * c.loss_std, rel=1e-4)
        assert "memory_B" not in c.intervals and "params" not in c.intervals, "counted, not estimated"


def test_probabilities_are_probabilities(frontier: Frontier) -> None:
    shares = np.array([c.p_front for c in frontier.candidates])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.sum() >= 1, "in each draw somebody is not dominated"
    assert shares.mean() > 0.05
    assert all(0.5 <= c.p_budget <= 1 for c in frontier.candidates)
    assert len({round(c.p_front, 4) for c in frontier.candidates}) > 3


def test_a_dominated_design_has_the_lower_chance() -> None:
    """A design beside one that is faster and better by far is on the front in almost no draw."""
    p = problem()
    designs = [(c.precision, c.architecture) for c in search(p).candidates]
    good = designs[len(designs) // 2]
    slow = (good[0], good[1].evolve(n_layers=80, d_model=512, n_heads=8, n_kv_heads=8, d_head=64, d_ff=1408,
                                    n_experts=0, n_active_experts=0, d_ff_expert=0))  # fmt: skip
    chances = [c.p_front for c in score(p, [good, slow], seed=1)]
    assert chances[0] > 0.9 and chances[1] < 0.1


def test_one_design_alone_is_on_the_front() -> None:
    p = problem()
    only = search(p).candidates[0]
    assert [c.p_front for c in score(p, [(only.precision, only.architecture)], seed=1)] == [1.0]


def test_the_seed_decides_the_probabilities_alone() -> None:
    p = problem()
    a, b, c = search(p, seed=3), search(p, seed=3), search(p, seed=4)
    assert a.to_jsonl() == b.to_jsonl()
    assert [x.architecture for x in a.candidates] == [x.architecture for x in c.candidates]
    assert max(abs(x.p_front - y.p_front) for x, y in zip(a.candidates, c.candidates, strict=True)) < 0.15


def test_the_picks_beside_a_baseline_are_right() -> None:
    """At its latency: the lowest loss of those not slower; at its loss: the fastest of those not worse. All by a loop."""
    vocabulary = read_config("qwen2.5-0.5b").vocab_size
    p = problem(space(vocab_size=(vocabulary,)))
    frontier = search(p, baselines={"qwen2.5-0.5b": read_config("qwen2.5-0.5b")})
    (baseline,) = frontier.baselines
    base = baseline.candidate
    best = fastest = None
    for c in frontier.candidates:
        if c.values["latency_s"] <= base.values["latency_s"] and (best is None or c.loss < best.loss):
            best = c
        if c.loss <= base.loss and (fastest is None or c.values["latency_s"] < fastest.values["latency_s"]):
            fastest = c
    assert best is not None and fastest is not None and best.name != fastest.name
    for gap, design in ((baseline.at_latency, best), (baseline.at_loss, fastest)):
        assert gap is not None and gap.design == design.name
        assert gap.loss_difference == pytest.approx(design.loss - base.loss, abs=1e-9)
        assert gap.loss_interval[0] < gap.loss_difference < gap.loss_interval[1]
        assert gap.perplexity_ratio == pytest.approx(np.exp(gap.loss_difference))
        assert gap.latency_ratio == pytest.approx(design.values["latency_s"] / base.values["latency_s"])
        assert gap.latency_interval[0] < gap.latency_ratio < gap.latency_interval[1]
    assert base.values["params"] == 494_032_768


def test_nothing_beside_a_model_that_beats_the_frontier() -> None:
    p = problem()
    frontier = search(p)
    best = min(frontier.candidates, key=lambda c: c.loss)
    worst = [c for c in frontier.candidates if c.loss > best.loss and c.values["latency_s"] < best.values["latency_s"]]
    slower = compare(p, "x", best.architecture, best.precision, worst)
    assert slower.at_loss is None and slower.at_latency is not None
    faster = compare(p, "x", frontier.candidates[0].architecture, frontier.candidates[0].precision, [best])
    assert faster.at_latency is None and faster.at_loss is not None


def test_a_design_against_itself_differs_by_nothing() -> None:
    p = problem()
    for c in search(p).candidates[::7]:
        gap = compare(p, "itself", c.architecture, c.precision, [c]).at_latency
        assert gap is not None
        assert gap.loss_difference == 0 and gap.loss_interval == (0, 0)
        assert gap.latency_ratio == 1 and gap.latency_interval == (1, 1)


def test_another_vocabulary_is_refused_before_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from codesign.search import api

    monkeypatch.setattr(api, "enumerate_space", lambda *a, **k: pytest.fail("searched first"))
    with pytest.raises(SpecError, match="151936 and the designs 50304"):
        search(problem(), baselines={"qwen2.5-0.5b": read_config("qwen2.5-0.5b")})


def test_the_price_of_quantised_weights_is_added_once() -> None:
    p = problem()
    unpriced = replace(p, quantisation_priced=False)
    arch = p.space.point(p.space.linear([0, 0, 0, 0, 0, 1, 2, 3, 1]))[1]
    sixteen, four, bare = (
        score(q, [(name, arch)], seed=1)[0] for q, name in ((p, "fp16"), (p, "w4a16"), (unpriced, "w4a16"))
    )
    assert sixteen.loss == bare.loss < four.loss
    assert four.loss_std > sixteen.loss_std
    assert "prior:quantisation" in four.marks and "prior:quantisation" not in sixteen.marks


# ---- joint errors of a law


@pytest.mark.parametrize("name", LAWS)
def test_error_samples_have_the_spread_of_predict_and_of_difference(name: str) -> None:
    """Sampling error of a standard deviation from n draws is 1 / sqrt(2 n): 1.6 % here; five of them are allowed."""
    law, tokens, draws = load_law(name), 20e9, 2000
    designs = [space().point(i)[1] for i in _possible(space(), 9)]
    batch = ArchitectureBatch.of(designs)
    errors = law.error_samples(batch, tokens, draws, np.random.default_rng(5))
    assert errors.shape == (draws, len(designs))
    std = np.asarray(law.predict(batch, tokens, return_std=True)[1])
    shared = name == "paper"  # Eq. 2 overstates shape effects: what that adds counts in differences alone
    assert (errors.std(axis=0) >= 0.92 * std).all()
    if not shared:
        np.testing.assert_allclose(errors.std(axis=0), std, rtol=0.08)
    assert (np.abs(errors.mean(axis=0)) < 5 * errors.std(axis=0) / np.sqrt(draws)).all()
    for i in range(len(designs)):
        for j in range(i):
            spread = float(np.asarray(law.difference(designs[i], designs[j], tokens)[1]))
            assert (errors[:, i] - errors[:, j]).std() == pytest.approx(spread, rel=0.08, abs=2e-4), (i, j)


def _possible(designs: object, count: int) -> list[int]:
    from codesign.search import DesignSpace

    assert isinstance(designs, DesignSpace)
    found = []
    for i in np.random.default_rng(2).permutation(designs.size):
        try:
            designs.point(int(i))
        except SpecError:
            continue
        found.append(int(i))
        if len(found) == count:
            break
    return found
