"""`lower()`: the operators of one forward pass, with exact FLOP and byte counts.

FLOP are multiply-adds times two of the matrix products (projections, attention, router, output head), as torch's
`FlopCounterMode` counts them, with one known deviation: attention over a prompt counts the causal pairs
S * (S + 1) / 2 (what flash kernels do), where torch counts the full square S**2. Bytes are what one pass must move at least:
weights once, activations in and out, the KV cache read and written. Norms, rotary embedding and activations carry bytes
and no FLOP. The output head runs for the last position only, as serving engines do.

All formulas broadcast, so fields of the architecture may be integers, flat arrays or open meshes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from codesign.architecture import ArchitectureLike
from codesign.workload import Precision, Workload

__all__ = ["Operator", "Phase", "attended_tokens", "kv_bytes_per_token", "lower", "weight_bytes"]

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One kernel's work, per occurrence; `count` says how often it runs in a pass (usually once per layer).

    kind is one of gemm, attention, elementwise, gather; dtype is the data type of its matrix units.
    flop, weight_B, read_B, write_B: numbers or broadcastable arrays (FLOP and bytes for the whole batch of requests).
    """

    name: str
    kind: Literal["gemm", "attention", "elementwise", "gather"]
    flop: Any
    weight_B: Any
    read_B: Any
    write_B: Any
    dtype: str
    count: Any

    @property
    def bytes_moved(self) -> Any:
        """Weights + activations and cache read + written, in bytes."""
        return self.weight_B + (self.read_B + self.write_B)


def kv_bytes_per_token(arch: ArchitectureLike, precision: Precision) -> Any:
    """Bytes that one token adds to the KV cache of one layer: 2 * n_kv_heads * d_head * kv_bits / 8."""
    return arch.d_kv * (2 * precision.kv_bits / 8)


def attended_tokens(context: float, window: Any) -> Any:
    """Cache entries that one query reads: the context, or the window where that is smaller (0: no window)."""
    return np.where(np.asarray(window) > 0, np.minimum(window, context), context)


def weight_bytes(arch: ArchitectureLike, precision: Precision) -> Any:
    """Bytes of all stored weights: blocks at their stored bits, embedding and head at theirs.

    A tied table is stored once, or twice where the head has fewer bits than the embedding (a quantised copy).
    Norm gains, biases and the router are counted at the block's bits too (they are below 0.1 % of the whole).
    """
    blocks = (arch.params_total - _table(arch) * (2 - 1 * arch.tied_embeddings)) * (precision.weight_bits_stored / 8)
    tied = 1 * arch.tied_embeddings
    head = _table(arch) * (precision.lm_head_bits / 8)
    shared = tied if precision.lm_head_bits >= precision.embedding_bits else 0
    embedding = _table(arch) * (precision.embedding_bits / 8) * (1 - shared)
    return blocks + head + embedding


def _table(arch: ArchitectureLike) -> Any:
    return arch.vocab_size * arch.d_model


def lower(arch: ArchitectureLike, workload: Workload, precision: Precision, phase: Phase) -> list[Operator]:
    """The operators of one prefill pass, or of one decode step at the mean context.

    Args:
        arch: one architecture or a batch of them (broadcast).
        workload: prefill processes batch_size * prompt_tokens tokens; decode one token for each request, whose query
            attends to S_in + (S_out + 1) / 2 cached tokens on average (attention is linear in the context, so the
            mean step is exact; with sliding windows it is exact where the window is always or never full).
        precision: stored bits and the compute type.
        phase: "prefill" or "decode".

    Returns:
        Operators with FLOP and bytes for the whole batch of requests.

    Example:
        >>> from codesign.architecture import Architecture
        >>> from codesign.workload import PRECISIONS
        >>> tiny = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
        >>> step = lower(tiny, Workload(), PRECISIONS["fp16"], "decode")
        >>> next(o for o in step if o.name == "lm_head").flop
        12800
    """
    requests = workload.batch_size
    prefill = phase == "prefill"
    tokens = requests * (workload.prompt_tokens if prefill else 1)
    d, dq, dkv = arch.d_model, arch.d_query, arch.d_kv
    act = precision.activation_bits / 8
    bits = precision.weight_bits_stored / 8
    dtype = precision.compute
    layers = arch.n_layers
    d_act = d * (tokens * act)  # one hidden state for every token
    operators: list[Operator] = []

    def add(name: str, kind: Any, flop: Any, weight: Any, read: Any, write: Any, count: Any, dt: str = dtype) -> None:
        operators.append(
            Operator(
                name=name, kind=kind, flop=flop, weight_B=weight, read_B=read, write_B=write, dtype=dt, count=count
            )
        )

    def gemm(name: str, weights: Any, read: Any, write: Any, count: Any) -> None:
        add(name, "gemm", weights * (2 * tokens), weights * bits, read, write, count)

    add("embedding", "gather", 0, 0, d * (tokens * precision.embedding_bits / 8), d_act, 1)
    add("attention_norm", "elementwise", 0, 0, d_act, d_act, layers)
    qkv = dq + 2 * dkv
    gemm("qkv_proj", d * qkv, d_act, qkv * (tokens * act), layers)
    add("rope", "elementwise", 0, 0, (dq + dkv) * (tokens * act), (dq + dkv) * (tokens * act), layers)
    _attention(arch, workload, precision, prefill, add)
    gemm("out_proj", d * dq, dq * (tokens * act), d_act, layers)
    add("ffn_norm", "elementwise", 0, 0, d_act, d_act, layers)
    if np.any(arch.n_dense_ffn_layers):
        hidden = arch.d_ff * (tokens * act)
        _ffn(arch, "ffn", d * arch.d_ff, hidden, d_act, arch.n_dense_ffn_layers, gemm, add)
    if np.any(arch.n_experts):
        _mixture(arch, tokens, act, bits, d_act, gemm, add)
    add("final_norm", "elementwise", 0, 0, d_act, d_act, 1)
    logits = requests * arch.vocab_size
    table = _table(arch)
    head_type = dtype if precision.lm_head_bits <= precision.weight_bits_stored + 4 else "fp16"
    add("lm_head", "gemm", table * (2 * requests), table * (precision.lm_head_bits / 8), d * (requests * act),
        logits * act, 1, head_type)  # fmt: skip
    return operators


def _attention(arch: ArchitectureLike, workload: Workload, precision: Precision, prefill: bool, add: Any) -> None:
    """Scores and weighted values: 4 * d_query FLOP for each (query, key) pair, the cache read once and written once."""
    requests, prompt = workload.batch_size, workload.prompt_tokens
    act = precision.activation_bits / 8
    kv = kv_bytes_per_token(arch, precision)
    new = requests * (prompt if prefill else 1)
    context = float(prompt) if prefill else workload.mean_context_tokens

    def pairs(window: Any) -> Any:
        """(query, key) pairs of one request."""
        if not prefill:
            return attended_tokens(context, window)
        width = attended_tokens(context, window)
        return width * (width + 1) / 2 + (context - width) * width

    def one(name: str, window: Any, count: Any) -> None:
        n_pairs = pairs(window) if np.any(window) else (context * (context + 1) / 2 if prefill else context)
        cached = (attended_tokens(context, window) if np.any(window) else context) * requests
        query = arch.d_query * (new * act)
        add(name, "attention", arch.d_query * (4 * requests * n_pairs), 0, query + kv * (new if prefill else cached), query + kv * new,
            count, "fp16" if precision.activation_bits < 16 else precision.compute)  # fmt: skip

    if np.any(arch.n_window_layers):
        one("attention_window", arch.window_tokens, arch.n_window_layers)
        one("attention", 0, arch.n_layers - arch.n_window_layers)
    else:
        one("attention", 0, arch.n_layers)


def _ffn(arch: ArchitectureLike, prefix: str, weights: Any, hidden: Any, d_act: Any, count: Any, gemm: Any, add: Any) -> None:  # fmt: skip
    """Up (and gate), activation, down; `weights` is d * width, `hidden` the bytes of one hidden state."""
    inner = arch.ffn_matrices - 1
    gemm(f"{prefix}_up", weights * inner, d_act, hidden * inner, count)
    add(f"{prefix}_act", "elementwise", 0, 0, hidden * inner, hidden, count)
    gemm(f"{prefix}_down", weights, hidden, d_act, count)


def _mixture(arch: ArchitectureLike, tokens: int, act: float, bits: float, d_act: Any, gemm: Any, add: Any) -> None:
    """Router, routed experts (weights of the distinct experts that are hit), shared experts.

    With uniform routing, `tokens` tokens of K experts each hit E * (1 - (1 - K/E)**tokens) distinct experts.
    """
    d, count = arch.d_model, arch.n_moe_layers
    scores = arch.n_experts + arch.shared_expert_gate  # the gate of the shared expert is one more column of the router
    gemm("router", d * scores, d_act, scores * (tokens * act), count)
    active, experts = arch.n_active_experts, np.maximum(arch.n_experts, 1)
    distinct = experts * (1 - (1 - active / experts) ** tokens)
    expert = d * arch.d_ff_expert
    inner = arch.ffn_matrices - 1
    hidden = arch.d_ff_expert * (active * (tokens * act))
    routed = d_act * active
    flop = expert * (active * (2 * tokens))
    stored = expert * (distinct * bits)
    add("experts_up", "gemm", flop * inner, stored * inner, routed, hidden * inner, count)
    add("experts_act", "elementwise", 0, 0, hidden * inner, hidden, count)
    add("experts_down", "gemm", flop, stored, hidden, routed, count)
    if np.any(arch.n_shared_experts):
        width = arch.n_shared_experts * arch.d_ff_shared
        has_shared = count * (arch.n_shared_experts > 0)
        _ffn(arch, "shared", d * width, width * (tokens * act), d_act, has_shared, gemm, add)
