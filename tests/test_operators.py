"""lower(): FLOPs against torch's counter, bytes and mixtures by hand, windows, batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign._hf_families import FAMILIES
from codesign.architecture import Architecture, ArchitectureBatch
from codesign.cache import attended_tokens, cache_bytes, kv_bytes_per_token
from codesign.hf_config import config_dict, read_config
from codesign.operators import Operator, lower, weight_bytes
from codesign.serving import Serving
from codesign.workload import PRECISIONS, Workload, parse_precision

FP16 = PRECISIONS["fp16"]
TINY = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)


def named(operators: list[Operator]) -> dict[str, Operator]:
    assert len({o.name for o in operators}) == len(operators)
    return {o.name: o for o in operators}


def total_flop(operators: list[Operator]) -> float:
    return float(sum(o.flop * o.count for o in operators))


# --- FLOPs against torch --------------------------------------------------------------------------------------------


def small(family: str, window_tokens: int = 0) -> Architecture:
    """Four layers of a family; every width differs, so that no two terms can be mistaken for each other."""
    kind = FAMILIES[family]
    bias = kind.bias_default
    fields: dict[str, Any] = {"d_ff": 96}
    if kind.experts:
        fields = {"d_ff": 0, "n_experts": 6, "n_active_experts": 2, "d_ff_expert": 40}
    if kind.experts == "qwen":
        fields |= {"d_ff": 96, "n_dense_layers": 1}
    if kind.shared:
        fields |= {"n_shared_experts": 1, "d_ff_shared": 56, "shared_expert_gate": True}
    if window_tokens:
        fields |= {"window_tokens": window_tokens, "n_window_layers": 4 if kind.window == "all" else 2}
    return Architecture(
        n_layers=4,
        d_model=64,
        n_heads=4,
        n_kv_heads=2,
        d_head=20,
        vocab_size=211,
        tied_embeddings=kind.tied,
        ffn_gated=kind.gated,
        norms_per_layer=kind.norms_per_layer,
        norm_bias=kind.norm_bias,
        qk_norm=kind.qk_norm,
        qkv_bias=bias,
        out_bias=bias and kind.bias_out,
        mlp_bias=bias and bool(kind.mlp_bias_key),
        family=family,
        **fields,
    )


def torch_flops(model: Any, tokens: Any, cache: Any) -> float:
    """FLOPs of one forward pass without the rotary angles, whose outer product torch counts as a matrix product."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens, past_key_values=cache, logits_to_keep=1)
    modules = counter.get_flop_counts()
    rotary = sum(sum(counts.values()) for name, counts in modules.items() if name.endswith("rotary_emb"))
    return float(counter.get_total_flops() - rotary)


CASES = [(family, window) for family in sorted(FAMILIES) for window in (0, 8)]
CASES = [(family, window) for family, window in CASES if window == 0 or FAMILIES[family].window != "none"]


@pytest.mark.parametrize(("family", "window_tokens"), CASES)
def test_flops_equal_those_that_torch_counts(family: str, window_tokens: int) -> None:
    torch = pytest.importorskip("torch", reason="torch counts the reference FLOPs")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference implementation")
    arch = small(family, window_tokens)
    config = transformers.AutoConfig.for_model(**config_dict(arch, max_position_embeddings=64, dtype="float32"))
    # The eager experts compute each expert for the tokens routed to it alone: K experts a token, whatever the routing.
    eager = {"attn_implementation": "eager"}
    if arch.n_experts and int(transformers.__version__.split(".")[0]) >= 5:
        eager["experts_implementation"] = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, **eager).eval()
    assert sum(p.numel() for p in model.parameters()) == arch.params_total
    requests, prompt = 2, 20
    cache = transformers.DynamicCache(config=config)
    # One token generated: the step's query sees prompt + 1 entries, which is the mean context.
    workload = Workload(prompt_tokens=prompt, output_tokens=1, batch_size=requests)
    assert workload.mean_context_tokens == prompt + 1

    # The prompt: torch multiplies the full square of every layer; we count the causal pairs, S (S + 1) / 2 of S**2
    # without a window. Everything else is equal.
    counted = torch_flops(model, torch.randint(0, 211, (requests, prompt)), cache)
    ours = lower(arch, workload, FP16, "prefill")
    square = arch.n_layers * 4 * arch.d_query * requests * prompt**2
    assert total_flop([o for o in ours if o.kind != "attention"]) + square == counted
    if not window_tokens:
        causal = total_flop([o for o in ours if o.kind == "attention"])
        assert causal == pytest.approx(square * (prompt + 1) / (2 * prompt), rel=1e-12)

    # The decode step: equal, windows included.
    counted = torch_flops(model, torch.randint(0, 211, (requests, 1)), cache)
    assert total_flop(lower(arch, workload, FP16, "decode")) == counted


def test_the_prefill_deviation_is_the_documented_one() -> None:
    for prompt in (1, 2, 7, 1024):
        ours = named(lower(TINY, Workload(prompt_tokens=prompt), FP16, "prefill"))["attention"].flop
        torch_square = 4 * TINY.d_query * prompt**2
        assert ours == torch_square * (prompt + 1) / (2 * prompt)


def test_qwen25_half_billion_by_hand() -> None:
    arch = read_config("qwen2.5-0.5b")
    # d 896, 14 heads and 2 KV heads of 64, FFN 4864, 24 layers, vocabulary 151936, tied.
    # A layer: Q 896*896 + 896, K and V 2*(896*128 + 128), O 896*896, FFN 3*896*4864, norms 2*896 = 14_912_384
    layer = (896 * 896 + 896) + 2 * (896 * 128 + 128) + 896 * 896 + 3 * 896 * 4864 + 2 * 896
    assert layer == 14_912_384
    assert arch.params_total == 24 * layer + 896 + 151_936 * 896 == 494_032_768
    step = named(lower(arch, Workload(prompt_tokens=1023, output_tokens=1), FP16, "decode"))
    # One token through the 151936 x 896 head, a multiply and an add each: 2 * 136_134_656 = 272_269_312.
    assert step["lm_head"].flop == 2 * 151_936 * 896 == 272_269_312
    assert step["lm_head"].weight_B == 2 * 151_936 * 896
    # 14 heads of 64 against 1024 entries, scores and values: 2 * 2 * 896 * 1024.
    assert step["attention"].flop == 4 * 896 * 1024 == 3_670_016
    assert step["attention"].count == 24
    # 2 (K and V) * 2 heads * 64 * 2 bytes = 512 bytes a token and layer: 12 kB a token for 24 layers.
    assert kv_bytes_per_token(arch, FP16) == 512


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_weight_bytes_by_hand() -> None:
    # A layer: QKV 64*(64+32+32) = 8192, O 64*64 = 4096, FFN 3*64*128 = 24576, norms 128: 36992; two: 73984;
    # final norm 64; embedding 100*64 = 6400.
    assert TINY.params_total == 73_984 + 64 + 6_400
    assert weight_bytes(TINY, FP16) == 2 * (74_048 + 6_400)
    untied = TINY.evolve(tied_embeddings=False)
    assert weight_bytes(untied, FP16) == 2 * (74_048 + 2 * 6_400)
    # w4a16: 4 bits, and 20 bits of scale and zero for each group of 128, so 4.15625; head and embedding at 16 bits.
    assert weight_bytes(untied, PRECISIONS["w4a16"]) == 74_048 * 4.15625 / 8 + 2 * 6_400 * 2
    # q8_0: 34 bytes for 32 weights everywhere; a tied table is stored once.
    assert weight_bytes(TINY, PRECISIONS["q8_0"]) == pytest.approx(80_448 * 34 / 32)


def test_operator_bytes_by_hand() -> None:
    step = named(lower(TINY, Workload(prompt_tokens=9, output_tokens=1, batch_size=3), FP16, "decode"))
    assert step["qkv_proj"].weight_B == 2 * 8192  # the weights once, for all requests
    assert step["qkv_proj"].read_B == 3 * 64 * 2
    assert step["qkv_proj"].write_B == 3 * (64 + 32 + 32) * 2
    assert step["ffn_up"].weight_B == 2 * 2 * 64 * 128
    assert step["ffn_up"].write_B == 3 * 2 * 128 * 2
    # 10 entries of 2 * 32 values, 2 bytes each, for 3 requests; the query in, and out again with the new entry.
    assert step["attention"].read_B == 3 * (10 * 2 * 32 * 2 + 64 * 2)
    assert step["attention"].write_B == 3 * (64 * 2 + 2 * 32 * 2)
    # Reading every weight once: all parameters but the norms, (2 per layer and the final one) * 64.
    weights = sum(o.weight_B * o.count for o in step.values())
    assert weights == 2 * (TINY.params_total - 5 * 64)


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.integers(1, 64))
def test_cache_bytes_are_linear_in_the_context(prompt: int, more: int, requests: int) -> None:
    def read(tokens: int) -> float:
        workload = Workload(prompt_tokens=tokens, output_tokens=1, batch_size=requests)
        return float(named(lower(TINY, workload, FP16, "decode"))["attention"].read_B)

    assert read(prompt + more) - read(prompt) == more * requests * kv_bytes_per_token(TINY, FP16)


@given(st.sampled_from(sorted(PRECISIONS)), st.sampled_from(sorted(PRECISIONS)))
def test_fewer_bits_are_never_more_bytes(one: str, other: str) -> None:
    a, b = PRECISIONS[one], PRECISIONS[other]
    if a.weight_bits_stored <= b.weight_bits_stored and a.lm_head_bits <= b.lm_head_bits \
            and a.embedding_bits <= b.embedding_bits:  # fmt: skip
        assert weight_bytes(TINY, a) <= weight_bytes(TINY, b)


# --- windows --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 80))
def test_a_window_limits_the_pairs(prompt: int, window: int) -> None:
    arch = TINY.evolve(window_tokens=window, n_window_layers=1)
    operators = named(lower(arch, Workload(prompt_tokens=prompt), FP16, "prefill"))
    pairs = sum(min(query + 1, window) for query in range(prompt))  # brute force
    assert operators["attention_window"].flop == 4 * 64 * pairs
    assert operators["attention"].flop == 4 * 64 * prompt * (prompt + 1) / 2
    assert (operators["attention_window"].count, operators["attention"].count) == (1, 1)
    step = named(lower(arch, Workload(prompt_tokens=prompt, output_tokens=1), FP16, "decode"))
    assert step["attention_window"].flop == 4 * 64 * min(window, prompt + 1)


def test_attended_tokens() -> None:
    assert attended_tokens(100.5, np.array([0, 50, 200])).tolist() == [100.5, 50, 100.5]


# --- mixtures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("experts", "active", "tokens"), [(8, 2, 1), (8, 2, 4), (60, 4, 16), (128, 8, 64)])
def test_distinct_experts_against_monte_carlo(experts: int, active: int, tokens: int) -> None:
    arch = TINY.evolve(d_ff=0, n_experts=experts, n_active_experts=active, d_ff_expert=32)
    step = named(lower(arch, Workload(batch_size=tokens), FP16, "decode"))
    formula = step["experts_down"].weight_B / (64 * 32 * 2)
    rng = np.random.default_rng(0)
    trials = 2000
    # Each token picks `active` different experts at random: the smallest ones of a random row.
    picks = np.argpartition(rng.random((trials, tokens, experts)), active - 1, axis=-1)[..., :active]
    hit = np.zeros((trials, experts), dtype=bool)
    hit[np.arange(trials)[:, None], picks.reshape(trials, -1)] = True
    counts = hit.sum(axis=1)
    assert formula == pytest.approx(counts.mean(), abs=5 * counts.std() / math.sqrt(trials) + 1e-9)
    assert step["experts_up"].weight_B == 2 * step["experts_down"].weight_B  # gate and up
    assert step["experts_down"].flop == 2 * 64 * 32 * active * tokens  # K experts a token, whatever the routing


def test_active_parameters_are_the_flops_of_a_token() -> None:
    """Two FLOP for each matrix parameter that a token uses: all active ones but the norms."""
    arch = small("qwen2_moe")
    step = lower(arch, Workload(prompt_tokens=4, output_tokens=1), FP16, "decode")
    matrices = total_flop([o for o in step if o.kind == "gemm"])
    vectors = 4 * (2 * 64 + (80 + 2 * 40)) + 64  # norms and QKV biases of four layers, final norm
    assert matrices == 2 * (arch.params_active_nonembedding - vectors + arch.params_embedding)


# --- batches --------------------------------------------------------------------------------------------------------


@st.composite
def plain(draw: st.DrawFn) -> Architecture:
    kv_heads = draw(st.integers(1, 4))
    layers = draw(st.integers(1, 40))
    n_window = draw(st.integers(0, layers))
    fields: dict[str, Any] = {"d_ff": draw(st.integers(1, 9000))}
    if draw(st.booleans()):
        experts = draw(st.integers(1, 64))
        fields |= {
            "n_experts": experts,
            "n_active_experts": draw(st.integers(1, experts)),
            "d_ff_expert": draw(st.integers(1, 900)),
            "n_dense_layers": draw(st.integers(0, layers)),
            "n_shared_experts": draw(st.integers(0, 2)),
            "d_ff_shared": 128,
            "shared_expert_gate": draw(st.booleans()),
        }
    return Architecture(
        n_layers=layers,
        d_model=draw(st.integers(1, 4096)),
        n_heads=kv_heads * draw(st.integers(1, 4)),
        n_kv_heads=kv_heads,
        d_head=draw(st.integers(1, 256)),
        vocab_size=draw(st.integers(1, 200_000)),
        tied_embeddings=draw(st.booleans()),
        ffn_gated=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        window_tokens=draw(st.integers(1, 3000)) if n_window else 0,
        n_window_layers=n_window,
        **fields,
    )


MEASURES = ("flop", "weight_B", "read_B", "write_B")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(plain(), min_size=1, max_size=5),
    st.sampled_from(["prefill", "decode"]),
    st.sampled_from(["fp16", "w4a16", "int8", "q4_k_m"]),
    st.integers(1, 4),
)
def test_a_batch_is_each_architecture_alone(archs: list[Architecture], phase: Any, bits: str, requests: int) -> None:
    workload, precision = Workload(prompt_tokens=700, output_tokens=9, batch_size=requests), PRECISIONS[bits]
    together = lower(ArchitectureBatch.of(archs), workload, precision, phase)
    for index, arch in enumerate(archs):
        alone = named(lower(arch, workload, precision, phase))
        for operator in together:
            count = float(np.broadcast_to(operator.count, (len(archs),))[index])
            if operator.name not in alone:  # another architecture of the batch has it
                assert count == 0
                continue
            assert count == alone[operator.name].count
            if not count:
                continue
            for measure in MEASURES:
                value = float(np.broadcast_to(getattr(operator, measure), (len(archs),))[index])
                assert value == pytest.approx(float(getattr(alone[operator.name], measure)), rel=1e-12), measure
    stored = np.broadcast_to(weight_bytes(ArchitectureBatch.of(archs), precision), (len(archs),))
    assert stored.tolist() == pytest.approx([float(weight_bytes(arch, precision)) for arch in archs], rel=1e-12)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_an_open_mesh_is_the_flat_batch(phase: Any) -> None:
    layers, widths, windows = np.array([2.0, 12.0]), np.array([64.0, 512.0, 640.0]), np.array([0.0, 128.0])
    shared: dict[str, Any] = {"n_heads": 8, "n_kv_heads": 2, "d_head": 64, "d_ff": 1024, "vocab_size": 1000}
    mesh = ArchitectureBatch(
        n_layers=layers[:, None, None],
        d_model=widths[None, :, None],
        window_tokens=windows[None, None, :],
        n_window_layers=(windows > 0) * 1.0 * np.ones((1, 1, 2)),
        **shared,
    )
    assert mesh.shape == (2, 3, 2)
    grid = [axis.ravel() for axis in np.meshgrid(layers, widths, windows, indexing="ij")]
    flat = ArchitectureBatch(
        n_layers=grid[0], d_model=grid[1], window_tokens=grid[2], n_window_layers=(grid[2] > 0) * 1.0, **shared
    )
    workload = Workload(prompt_tokens=300, output_tokens=10, batch_size=2)
    for one, other in zip(lower(mesh, workload, FP16, phase), lower(flat, workload, FP16, phase), strict=True):
        for measure in (*MEASURES, "count"):
            spread = np.broadcast_to(getattr(one, measure), mesh.shape).ravel()
            assert np.array_equal(spread, np.broadcast_to(getattr(other, measure), flat.shape)), (one.name, measure)
    assert np.array_equal(np.broadcast_to(mesh.params_total, mesh.shape).ravel(), flat.params_total)


def test_uneven_layers_cost_what_their_layers_do_one_by_one() -> None:
    """FLOP, bytes, cache and parameters of random lists, under eviction, sparse attention and quantised caches; and torch's count."""
    torch = pytest.importorskip("torch")
    from codesign.models.decoder import build_decoder

    rng = np.random.default_rng(4)
    for turn in range(24):
        layers, kind = int(rng.integers(2, 7)), turn % 3
        dense = int(rng.integers(1, layers + 1)) if kind == 1 else layers
        attending = int(rng.integers(1, layers)) if kind == 2 else layers
        widths = tuple(16 * int(x) for x in rng.integers(1, 9, dense))
        kv = tuple(int(2**x) for x in rng.integers(0, 3, attending))
        heads = tuple(int(k * rng.integers(1, 4)) for k in kv)
        flag = lambda: bool(rng.integers(2))  # noqa: E731
        more: dict[str, Any] = {}
        if kind == 1:
            more = {
                "n_experts": 4,
                "n_active_experts": 2,
                "d_ff_expert": 32,
                "n_dense_layers": dense,
                "n_shared_experts": 1,
                "d_ff_shared": 48,
            }
        if kind == 2:
            more = {"recurrence": "mamba2", "n_recurrent_layers": layers - attending, "n_state_heads": 8, "d_state_value": 16, "d_state_key": 8,
                    "n_state_groups": 2, "d_conv": 4}  # fmt: skip
        arch = Architecture(
            n_layers=layers, d_model=64, d_head=16, vocab_size=100, n_heads=max(heads), n_kv_heads=max(kv), d_ff=max(widths),
            qk_norm=str(rng.choice(["none", "head", "full"])), tied_embeddings=flag(), qkv_bias=flag(), out_bias=flag(), mlp_bias=flag(),
            ffn_gated=flag(), attention_gate=flag(), ffn_widths=widths, layer_heads=heads, layer_kv_heads=kv, family="codesign", **more,
        )  # fmt: skip
        with torch.device("meta"):
            assert sum(p.numel() for p in build_decoder(arch).parameters()) == arch.params_total
        same = arch.evolve(ffn_widths=(), layer_heads=(), layer_kv_heads=(), n_heads=8, n_kv_heads=4)
        by_width = [same.evolve(d_ff=width) for width in widths]
        by_heads = [same.evolve(n_heads=h, n_kv_heads=k) for h, k in zip(heads, kv, strict=True)]
        for serving in (Serving(), Serving(kv_budget_tokens=8), Serving(sparse_tokens=4, index_heads=2, d_index=8)):
            for name in ("fp16", "w4a16+kv8"):
                form, workload = (
                    parse_precision(name),
                    Workload(prompt_tokens=20, output_tokens=3, batch_size=2, serving=serving),
                )

                def total(one: Architecture, field: str, phase: Any) -> float:
                    return sum(float(op.count) * float(getattr(op, field)) for op in lower(one, workload, form, phase))  # noqa: B023

                for phase in ("prefill", "decode"):
                    for field in ("flop", "weight_B", "read_B", "write_B"):
                        mean = [np.mean([total(one, field, phase) for one in some]) for some in (by_width, by_heads)]
                        assert total(arch, field, phase) == pytest.approx(
                            sum(mean) - total(same, field, phase), rel=1e-9
                        )
                mean_cache = np.mean([float(cache_bytes(one, workload, form)) for one in by_heads])
                assert float(cache_bytes(arch, workload, form)) == pytest.approx(mean_cache, rel=1e-9)


def test_the_workspace_is_that_of_the_widest_layer() -> None:
    from codesign.roofline.cost import memory_bytes

    base: dict[str, Any] = {
        "n_layers": 2,
        "d_model": 64,
        "d_head": 16,
        "d_ff": 32,
        "vocab_size": 100,
        "family": "codesign",
    }
    plain = Workload(prompt_tokens=512, output_tokens=8)
    for heads, kv, serving in (((32, 16), (1, 16), Serving()), ((16, 16), (1, 16), Serving(kv_budget_tokens=64))):
        uneven = Architecture(**base, n_heads=max(heads), n_kv_heads=max(kv), layer_heads=heads, layer_kv_heads=kv)
        workload = Workload(prompt_tokens=plain.prompt_tokens, output_tokens=8, serving=serving)
        each = [
            float(memory_bytes(Architecture(**base, n_heads=h, n_kv_heads=k), workload, FP16)[2])
            for h, k in zip(heads, kv, strict=True)
        ]
        assert float(memory_bytes(uneven, workload, FP16)[2]) == pytest.approx(max(each))
        assert float(memory_bytes(ArchitectureBatch.of([uneven]), workload, FP16)[2][0]) == pytest.approx(max(each))
