"""Serving options: what they change in cache bytes and operators, worked by hand on a small model."""

from __future__ import annotations

from typing import Any

import pytest

from codesign.architecture import Architecture
from codesign.cache import cache_bytes
from codesign.errors import SpecError
from codesign.operators import lower
from codesign.roofline.cost import memory_bytes
from codesign.serving import Serving
from codesign.workload import PRECISIONS, Workload

ARCH = Architecture(n_layers=4, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
FORM = PRECISIONS["fp16"]
KV = 2 * 2 * 16 * 2  # bytes a token and layer: keys and values, 2 heads of 16, 2 bytes


def workload(prompt: int = 1000, generate: int = 1, **options: Any) -> Workload:
    return Workload(prompt_tokens=prompt, output_tokens=generate, serving=Serving(**options))


def operator(work: Workload, phase: Any, name: str, arch: Architecture = ARCH) -> Any:
    return next((op for op in lower(arch, work, FORM, phase) if op.name == name), None)


def test_a_kept_budget_bounds_the_cache_and_what_a_step_reads() -> None:
    """100 of 1,000 prompt tokens stay, and the generated one: 101 in each layer; the step reads 101. One layer holds the other 900
    while its prompt is read. 32 queries score 1,000 keys: 2 * 64 * 32 * 1000 FLOP.
    """
    kept, whole = workload(kv_budget_tokens=100), workload()
    assert float(cache_bytes(ARCH, kept, FORM)) == 4 * KV * 101
    assert float(cache_bytes(ARCH, whole, FORM)) == 4 * KV * 1001
    assert float(memory_bytes(ARCH, kept, FORM)[2] - memory_bytes(ARCH, whole, FORM)[2]) == KV * 900
    step = operator(kept, "decode", "attention")
    assert float(step.flop) == 4 * 64 * 101
    assert float(step.read_B) == 64 * 2 + KV * 101
    assert float(operator(kept, "prefill", "kv_scoring").flop) == 2 * 64 * 32 * 1000
    assert operator(workload(prompt=100, kv_budget_tokens=100), "prefill", "kv_scoring") is None
    assert operator(kept, "prefill", "attention").flop == operator(whole, "prefill", "attention").flop


def test_sparse_attention_reads_the_chosen_tokens_and_scores_all_of_them_cheaply() -> None:
    """64 of 1,001 tokens attended: 4 * 64 * 64 FLOP. The index of 2 heads of 8 scores all: 2 * 2 * 8 * 1001; its keys of 8 bits are
    cached, 8 bytes a token; shared by pairs of layers, both count half as often.
    """
    one = {"sparse_tokens": 64, "index_heads": 2, "d_index": 8}
    work = workload(**one)
    assert float(operator(work, "decode", "attention").flop) == 4 * 64 * 64
    scores = operator(work, "decode", "index_scores")
    assert (float(scores.flop), float(scores.count)) == (2 * 16 * 1001, 4)
    assert float(operator(work, "decode", "index_proj").weight_B) == 64 * (16 + 8 + 2) * 2
    assert float(cache_bytes(ARCH, work, FORM)) == 4 * (KV + 8) * 1001
    shared = workload(**one, index_share=2)
    assert float(operator(shared, "decode", "index_scores").count) == 2
    assert float(cache_bytes(ARCH, shared, FORM)) == 4 * KV * 1001 + 2 * 8 * 1001
    full = operator(workload(), "prefill", "attention").flop
    assert operator(work, "prefill", "attention").flop == pytest.approx(
        full * (64 * 65 / 2 + 936 * 64) / (1000 * 1001 / 2)
    )


def test_a_step_of_several_tokens_reads_the_cache_and_the_weights_once() -> None:
    """Five tokens verified: five times the FLOP of one, the same weights, the cache once; logits for each."""
    one, five = workload(), workload(step_tokens=5)
    for name in ("qkv_proj", "ffn_up", "lm_head"):
        a, b = operator(one, "decode", name), operator(five, "decode", name)
        assert float(b.flop) == 5 * float(a.flop) and float(b.weight_B) == float(a.weight_B)
    a, b = operator(one, "decode", "attention"), operator(five, "decode", "attention")
    assert float(b.flop) == 5 * float(a.flop)
    assert float(b.read_B) - float(a.read_B) == 4 * 64 * 2  # four more queries


def test_latent_attention_in_both_forms() -> None:
    """Latents of 8 and rotated keys of 4 cached: 12 numbers; expanded 4 heads of 16 + 16. Absorbed scores run over 12, values over 8."""
    arch = ARCH.evolve(kv_rank=8, d_rope=4, n_kv_heads=4)
    absorbed, expanded = workload(), workload(latent="expanded")
    assert float(cache_bytes(arch, absorbed, FORM)) == 4 * 12 * 2 * 1001
    assert float(cache_bytes(arch, expanded, FORM)) == 4 * 4 * 32 * 2 * 1001
    assert float(operator(absorbed, "decode", "latent_attention", arch).flop) == 2 * 4 * (12 + 8) * 1001
    assert float(operator(expanded, "decode", "latent_attention", arch).flop) == 2 * 4 * (16 + 16) * 1001
    assert float(operator(absorbed, "decode", "q_absorb", arch).weight_B) == 8 * 4 * 12 * 2
    assert operator(absorbed, "prefill", "kv_up", arch).flop == operator(expanded, "prefill", "kv_up", arch).flop


def test_options_round_trip_and_bad_ones_are_refused() -> None:
    work = workload(sparse_tokens=64, latent="expanded")
    assert Workload.from_dict(work.to_dict()) == work
    assert "serving" not in workload().to_dict()
    with pytest.raises(SpecError, match="latent 'naive' is not one of absorbed, expanded"):
        Serving(latent="naive")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="index_share must be a whole number from 1"):
        Serving(index_share=0)
    with pytest.raises(SpecError, match="kv_budget_tokens must be a whole number from 0"):
        Serving(kv_budget_tokens=-1)
