"""Bounds by name, confidence, and designs that must carry a mark."""

from __future__ import annotations

import math
from typing import Any

import pytest
from search_problems import problem, space

from codesign.architecture import Architecture
from codesign.errors import InfeasibleError, SpecError
from codesign.search import Candidate, default_space, search
from codesign.workload import Workload

BOUNDS = [
    {"latency_s": 0.012},
    {"ttft_s": 0.1},
    {"e2e_s": 1.5},
    {"memory_B": 2e9},
    {"energy_J": 0.3},
    {"power_W": 26.9},
    {"params": 1e9},
    {"latency_s": 0.015, "memory_B": 4e9, "energy_J": 0.5, "params": 2e9},
]


@pytest.mark.parametrize("bounds", BOUNDS, ids=lambda b: "+".join(b))
def test_every_design_meets_every_bound(bounds: dict[str, float]) -> None:
    p = problem(**bounds)
    frontier = search(p)
    for c in frontier.candidates:
        for name, bound in bounds.items():
            assert c.values[name] <= bound
        assert c.values["memory_B"] <= p.memory_B
    loose = search(problem(**{name: 1e6 * bound for name, bound in bounds.items()}))
    assert any(c.values[name] > bound for c in loose.candidates for name, bound in bounds.items()), "the bound binds"


@pytest.mark.parametrize("bounds", BOUNDS[:-1], ids=lambda b: "+".join(b))
def test_the_confidence_holds_for_each_bound(bounds: dict[str, float]) -> None:
    (name, bound), confidence = next(iter(bounds.items())), 0.9
    wide = {name: (2.6 if name == "power_W" else 1.3) * bound}  # power is known to a factor of two
    frontier = search(problem(**wide, confidence=confidence))
    assert min(c.p_budget for c in frontier.candidates) >= confidence - 1e-9
    even = search(problem(**wide))
    assert min(c.p_budget for c in even.candidates) >= 0.5 - 1e-9
    assert max(c.values[name] for c in frontier.candidates) <= max(c.values[name] for c in even.candidates)


def test_the_devices_memory_always_holds() -> None:
    """A budget above the device's memory is the device's: 8 GB boards, a 64-expert space, a bound of 1 TB."""
    p = problem(device="orin-nano", engine="llama.cpp", memory_B=1e12)
    found = search(p, solver="exact")
    assert p.memory_B < 8e9
    assert max(c.values["memory_B"] for c in found.candidates) <= p.memory_B
    with pytest.raises(InfeasibleError, match="memory"):
        search(problem(space(n_layers=(40,), d_model=(1408,), experts=((64, 2),), precision=("fp16",)),
                       device="orin-nano", engine="llama.cpp", memory_B=1e12, allow_extrapolation=True))  # fmt: skip


def test_infeasible_carries_the_nearest_design_and_the_bound() -> None:
    with pytest.raises(InfeasibleError) as caught:
        search(problem(latency_s=1e-6))
    error = caught.value
    assert isinstance(error.nearest, Architecture) and error.violated == "latency"
    assert "latency <= 1 us" in str(error) and "\n" not in str(error)
    with pytest.raises(InfeasibleError, match="range that the loss law 'gemstones'"):
        search(problem(tokens=1e9))


@pytest.mark.parametrize(
    ("objectives", "fault"),
    [(("loss",), "two or more"), (("loss", "loss"), "two or more"), (("loss", "speed"), "two or more")],
)
def test_objectives_that_make_no_problem(objectives: tuple[str, ...], fault: str) -> None:
    with pytest.raises(SpecError, match=fault):
        problem(objectives=objectives)


def test_a_space_that_varies_the_vocabulary_is_refused() -> None:
    with pytest.raises(SpecError, match="vocab"):
        problem(space(vocab_size=(32000, 50304)))


def test_workloads_at_their_edges() -> None:
    """No prompt: nothing to prefill. Batches: energy is per token of one request."""
    none = search(problem(workload=Workload(prompt_tokens=0, output_tokens=64)))
    assert all(c.values["ttft_s"] == 0 for c in none.candidates)
    assert none.to_jsonl()
    many = search(problem(workload=Workload(prompt_tokens=128, output_tokens=32, batch_size=8), latency_s=0.05))
    assert all(math.isfinite(c.loss) for c in many.candidates)


# ---- blind spots: nothing unmarked at the corner of what the law cannot tell apart

CASES = [
    ("orin", "vllm", ("fp16",), "gemstones", 10e9),
    ("orin", "llama.cpp", ("q4_k_m", "fp16"), "gemstones", 10e9),
    ("orin-nano", "llama.cpp", ("q4_k_m",), "gemstones", 50e9),
    ("rtx4090", "vllm", ("fp16", "int8"), "openlm-grid", 8e9),
    ("rtx4090", "vllm", ("w4a16",), "steplaw", 20e9),
    ("orin", "vllm", ("fp16", "w4a16"), "llama-2k", 10e9),
]


def unidentified(law: Any, c: Candidate) -> dict[str, tuple[str, bool]]:
    """By axis, the mark it needs and whether the law's data do not hold the design's value.

    Written from the laws' files alone: KV heads are identified where each query head has its own (no public grid varies
    them), head sizes and FFN ratios within what the data hold, experts where there are none.
    """
    a, priors = c.architecture, law.meta["priors"]
    low_head, high_head = priors["d_head"]["data"]
    low_ratio, high_ratio = priors["ffn_ratio"]["data"]
    ratio = (a.n_active_experts * a.d_ff_expert if a.n_experts else a.d_ff) / a.d_model
    share = priors["kv"]["width_share"]
    return {
        "n_kv_heads": ("kv", a.n_kv_heads * a.d_head != share * a.d_model),
        "d_head": ("d_head", not low_head <= a.d_head <= high_head),
        "ffn_ratio": ("ffn_ratio", not low_ratio / 1.1 <= ratio <= high_ratio * 1.1),
        "experts": ("moe", a.n_experts > 0),
    }


@pytest.mark.parametrize(("device", "engine", "precisions", "law", "tokens"), CASES)
def test_no_unmarked_design_at_the_corner_of_a_blind_spot(
    device: str, engine: str, precisions: tuple[str, ...], law: str, tokens: float
) -> None:
    designs = default_space(precisions)
    p = problem(designs, device=device, engine=engine, law=law, tokens=tokens, latency_s=0.02)
    frontier = search(p)
    assert frontier.candidates
    corners = 0
    for c in frontier.candidates:
        a = c.architecture
        for axis, (term, unseen) in unidentified(p.law, c).items():
            values = designs.axes[axis]
            own = {
                "n_kv_heads": a.n_kv_heads, "d_head": a.d_head, "experts": (a.n_experts, a.n_active_experts),
                "ffn_ratio": min(values, key=lambda r: abs(r - (a.n_active_experts * a.d_ff_expert or a.d_ff) / a.d_model)) if axis == "ffn_ratio" else 0,
            }[axis]  # fmt: skip
            corner = own in (values[0], values[-1]) or axis == "experts"
            corners += corner
            if unseen and corner:
                assert f"prior:{term}" in c.marks, f"{c.name}: {axis} {own} has no mark"
        assert not [mark for mark in c.marks if mark.startswith("outside:")]
        assert not bool(p.law.outside(a, p.tokens)["n_layers"])
        if c.precision not in ("fp16", "bf16"):
            assert "prior:quantisation" in c.marks
    assert corners > 0


def test_designs_beyond_the_data_only_on_request_and_marked() -> None:
    p = problem(tokens=1e9, allow_extrapolation=True)
    frontier = search(p)
    assert all("outside:tokens" in c.marks for c in frontier.candidates)
    narrow = problem(default_space(), law="steplaw", tokens=20e9)
    wide = problem(default_space(), law="steplaw", tokens=20e9, allow_extrapolation=True)
    inside, beyond = search(narrow), search(wide)
    assert not [m for c in inside.candidates for m in c.marks if m.startswith("outside:")]
    outside = [c for c in beyond.candidates if any(m.startswith("outside:") for m in c.marks)]
    assert outside, "without the range the search would leave the data"
    for c in beyond.candidates:
        flags = {
            f"outside:{k}" for k, v in wide.law.outside(c.architecture, wide.tokens).items() if bool(v) and k != "vocab"
        }
        assert {m for m in c.marks if m.startswith("outside:")} == flags
