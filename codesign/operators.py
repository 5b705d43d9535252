"""`lower()`: the operators of one forward pass, with exact FLOP and byte counts.

FLOP are multiply-adds times two of the matrix products (projections, attention, router, output head), as torch's
`FlopCounterMode` counts them, with one known deviation: attention over a prompt counts the causal pairs
S * (S + 1) / 2 (what flash kernels do), where torch counts the full square S**2. Bytes are what one pass must move at least:
weights once, activations in and out, the KV cache and recurrent states read and written. Norms, rotary embedding, short
convolutions and activations carry bytes and no FLOP. The output head runs for the last position only, as serving engines do.
Looped layers and shared blocks move their weights at each use. Where widths or heads differ from layer to layer, an operator is that
of the mean layer: FLOP and bytes are linear in both, so that sums are exact. `codesign._mixer_operators` has attention and recurrences.

All formulas broadcast, so fields of the architecture may be integers, flat arrays or open meshes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from codesign._mixer_operators import attention, recurrence, shared_blocks
from codesign.architecture import ArchitectureLike
from codesign.workload import Precision, Workload

__all__ = ["Operator", "Phase", "lower", "weight_bytes"]

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One kernel's work, per occurrence; `count` says how often it runs in a pass (usually once per layer).

    kind is one of gemm, attention, scan, elementwise, gather; dtype is the data type of its matrix units.
    flop, weight_B, read_B, write_B: numbers or broadcastable arrays (FLOP and bytes for the whole batch of requests).
    """

    name: str
    kind: Literal["gemm", "attention", "scan", "elementwise", "gather"]
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
    requests, prefill = workload.batch_size, phase == "prefill"
    step = 1 if prefill else workload.serving.step_tokens
    tokens = requests * (workload.prompt_tokens if prefill else step)
    d = arch.d_model
    act = precision.activation_bits / 8
    bits = precision.weight_bits_stored / 8
    dtype = precision.compute
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

    layers, loops = arch.n_layers, arch.loop_factor
    ffns, dense = layers, arch.n_dense_ffn_layers
    if np.any(arch.n_looped_layers):
        layers, dense = layers * loops, dense * loops
        ffns = layers
    if np.any(arch.extra_ffn_layers):
        ffns = arch.n_ffn_layers * loops
    recurrent = np.any(arch.n_recurrent_layers)
    attending = arch.n_attention_layers * loops if recurrent else layers
    add("embedding", "gather", 0, 0, d * (tokens * precision.embedding_bits / 8), d_act, 1)
    add("attention_norm", "elementwise", 0, 0, d_act, d_act, layers)
    if np.any(attending):
        attention(arch, workload, precision, prefill, attending, gemm, add)
    if recurrent:
        recurrence(arch, workload, precision, prefill, arch.n_recurrent_layers * loops, gemm, add)
    if np.any(arch.n_shared_blocks):
        shared_blocks(arch, tokens, act, attending, gemm)
    if np.any(ffns):
        add("ffn_norm", "elementwise", 0, 0, d_act, d_act, ffns)
    if np.any(dense):
        hidden = arch.d_ff_mean * (tokens * act)
        _ffn(arch, "ffn", d * arch.d_ff_mean, hidden, d_act, dense, gemm, add)
    if np.any(arch.n_experts):
        _mixture(arch, tokens, act, bits, d_act, arch.n_moe_layers * loops, gemm, add)
    add("final_norm", "elementwise", 0, 0, d_act, d_act, 1)
    positions = requests * step
    table = _table(arch)
    head_type = dtype if precision.lm_head_bits <= precision.weight_bits_stored + 4 else "fp16"
    add("lm_head", "gemm", table * (2 * positions), table * (precision.lm_head_bits / 8), d * (positions * act),
        positions * arch.vocab_size * act, 1, head_type)  # fmt: skip
    return operators


def _ffn(arch: ArchitectureLike, prefix: str, weights: Any, hidden: Any, d_act: Any, count: Any, gemm: Any, add: Any) -> None:  # fmt: skip
    """Up (and gate), activation, down; `weights` is d * width, `hidden` the bytes of one hidden state."""
    inner = arch.ffn_matrices - 1
    gemm(f"{prefix}_up", weights * inner, d_act, hidden * inner, count)
    add(f"{prefix}_act", "elementwise", 0, 0, hidden * inner, hidden, count)
    gemm(f"{prefix}_down", weights, hidden, d_act, count)


def _mixture(
    arch: ArchitectureLike, tokens: int, act: float, bits: float, d_act: Any, count: Any, gemm: Any, add: Any
) -> None:
    """Router, routed experts (weights of the distinct experts that are hit), shared experts.

    With uniform routing, `tokens` tokens of K experts each hit E * (1 - (1 - K/E)**tokens) distinct experts.
    """
    d = arch.d_model
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
