"""Operators of the token mixers: attention in its forms, recurrences, and what Zamba2's shared blocks add.

FLOP of a recurrence are those of its matrix products, over H heads of P values and N keys (`codesign._mixers`):

    decode, a token:   4 H P N  (mamba1, mamba2, mlstm: update, read)      6 H P N  (gdn: it also reads before it writes)
    prompt, a token:   the same, and within chunks of Q tokens the causal pairs, (Q + 1) * (G N + H P) for mamba2 and mlstm
                       (G groups of keys; mlstm G = H), (Q + 1) * H * (3 N + 2 P) for gdn (arXiv 2405.21060, 2406.06484)

mamba1 scans token by token. The chunk states are written once and read once; short convolutions, gates and norms carry bytes
and no FLOP.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign._mixers import CHUNK_TOKENS, conv_width, pick, projection_widths, recurrent_inner
from codesign.architecture import ArchitectureLike
from codesign.cache import attended_tokens, kv_bytes_per_token, kv_stored_share, state_bytes
from codesign.workload import Precision, Workload

__all__ = ["attention", "recurrence", "shared_blocks"]


def attention(
    arch: ArchitectureLike, workload: Workload, precision: Precision, prefill: bool, count: Any, gemm: Any, add: Any
) -> None:
    """Projections in, rotation, scores and weighted values, projection out; latent attention where kv_rank is above 0."""
    if np.any(arch.kv_rank):
        _latent(arch, workload, precision, prefill, count, gemm, add)
        return
    _, tokens, act = _sizes(workload, precision, prefill)
    d, dq, dkv = arch.d_attention_input, arch.d_query, arch.d_kv
    read, out = d * (tokens * act), arch.d_model * (tokens * act)
    qkv = dq + 2 * dkv
    if np.any(arch.attention_gate):
        qkv = qkv + arch.attention_gate * dq
    own = count
    if np.any(arch.n_kv_shared_layers):
        own = count * kv_stored_share(arch)
        gemm("q_proj", d * (qkv - 2 * dkv), read, (qkv - 2 * dkv) * (tokens * act), count - own)
    gemm("qkv_proj", d * qkv, read, qkv * (tokens * act), own)
    add("rope", "elementwise", 0, 0, (dq + dkv) * (tokens * act), (dq + dkv) * (tokens * act), count)
    _scores(arch, workload, precision, prefill, arch.d_query, arch.d_query, count, add)
    if np.any(arch.attention_gate):
        gated = arch.attention_gate * dq * (tokens * act)
        add("attention_gate", "elementwise", 0, 0, 2 * gated, gated, count)
    gemm("out_proj", arch.d_model * dq, dq * (tokens * act), out, count)


def _sizes(workload: Workload, precision: Precision, prefill: bool) -> tuple[int, int, float]:
    """Requests, new tokens of all of them, bytes of an activation."""
    requests = workload.batch_size
    each = workload.prompt_tokens if prefill else workload.serving.step_tokens
    return requests, requests * each, precision.activation_bits / 8


def _scores(
    arch: ArchitectureLike, workload: Workload, precision: Precision, prefill: bool, key_width: Any, value_width: Any,
    count: Any, add: Any, fresh: Any = None, name: str = "attention",
) -> None:  # fmt: skip
    """2 * (key_width + value_width) FLOP for each (query, key) pair; the cache read once and written once.

    key_width, value_width: numbers that one query's scores, and its weighted values, run over in all heads. fresh: bytes of a
    prompt token's keys and values where they are not what the cache holds of it. name: of the operator without a window.
    """
    serving, requests, prompt = workload.serving, workload.batch_size, workload.prompt_tokens
    act = precision.activation_bits / 8
    kv = kv_bytes_per_token(arch, precision, serving)
    step = prompt if prefill else serving.step_tokens
    new = requests * step
    context = float(prompt) if prefill else workload.mean_context_tokens
    dtype = "fp16" if precision.activation_bits < 16 else precision.compute
    stored = kv_stored_share(arch)

    def one(name: str, window: Any, context: float, attended: float, count: Any) -> None:
        if prefill:
            width = attended_tokens(attended, window) if np.any(window) else attended
            n_pairs = width * (width + 1) / 2 + (context - width) * width
            cached: Any = context
        else:
            cached = attended_tokens(attended, window) if np.any(window) else attended
            n_pairs = cached * step
        read = key_width * (new * act) + (
            (kv if fresh is None else fresh) * new if prefill else kv * (cached * requests)
        )
        add(name, "attention", (key_width + value_width) * (2 * requests * n_pairs), 0, read,
            value_width * (new * act) + kv * new * stored, count, dtype)  # fmt: skip

    full, window_layers = count, arch.n_window_layers
    if np.any(window_layers):
        loops = arch.loop_factor
        one("attention_window", arch.window_tokens, context, context, window_layers * loops)
        full = count - window_layers * loops
    if not prefill and serving.kv_budget_tokens:
        context += serving.kept_tokens(prompt) - prompt
    one(name, 0, context, serving.attended(context), full)
    if serving.sparse_tokens:
        _index(workload, context, new, prefill, full, arch, precision, add)
    if prefill and serving.kv_budget_tokens and serving.kv_budget_tokens < prompt:
        observers = min(serving.kv_observers, prompt) * requests
        add("kv_scoring", "attention", key_width * (2.0 * observers * prompt), 0, kv * new, kv * new * 0, full, dtype)


def _index(
    workload: Workload, context: float, new: int, prefill: bool, layers: Any, arch: ArchitectureLike, precision: Precision,
    add: Any,
) -> None:  # fmt: skip
    """The indexer of sparse attention, in one of each index_share layers: projections, and scores over all cached tokens.

    Weights d * (heads * d_index + d_index + heads): queries, the key, and each head's share.
    """
    serving, requests = workload.serving, workload.batch_size
    width, act = serving.index_heads * serving.d_index, precision.activation_bits / 8
    weights = arch.d_model * (width + serving.d_index + serving.index_heads)
    count = layers / serving.index_share
    add("index_proj", "gemm", weights * (2 * new), weights * (precision.weight_bits_stored / 8), arch.d_model * (new * act),
        (width + serving.d_index) * (new * act), count)  # fmt: skip
    key = serving.d_index * serving.index_bits / 8
    n_pairs = context * (context + 1) / 2 if prefill else context * serving.step_tokens
    cached = new if prefill else context * requests
    add("index_scores", "attention", width * (2.0 * requests * n_pairs), 0, width * (new * act) + key * cached,
        key * new + new * serving.sparse_tokens * 4.0, count)  # fmt: skip


def _latent(
    arch: ArchitectureLike, workload: Workload, precision: Precision, prefill: bool, count: Any, gemm: Any, add: Any
) -> None:
    """Multi-head latent attention. A prompt, and the expanded form, project the latents to keys and values of all heads.

    The absorbed form (decode) brings queries to the latents (n_heads * d_nope * kv_rank weights) and values back from them:
    scores run over kv_rank + d_rope numbers a head, values over kv_rank (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).
    """
    _, tokens, act = _sizes(workload, precision, prefill)
    d, dq, heads, rank = arch.d_model, arch.d_query, arch.n_heads, arch.kv_rank
    each, d_act = tokens * act, arch.d_model * (tokens * act)
    nope, value = arch.d_head - arch.d_rope, arch.d_value_head
    low = np.any(arch.q_rank)
    down = rank + arch.d_rope + (arch.q_rank if low else 0)
    direct = pick(arch.q_rank, 0, dq) if low else dq
    gemm("latent_down", d * (down + direct), d_act, (down + direct) * each, count)
    add("latent_norm", "elementwise", 0, 0, down * each, down * each, count)
    if low:
        gemm("q_up", arch.q_rank * dq, arch.q_rank * each, dq * each, count)
    rotated = (heads + 1) * arch.d_rope * each
    add("rope", "elementwise", 0, 0, rotated, rotated, count)
    if prefill or workload.serving.latent == "expanded":
        gemm("kv_up", rank * heads * (nope + value), rank * each, heads * (arch.d_head + value) * each, count)
        _scores(arch, workload, precision, prefill, dq, heads * value, count, add,
                fresh=heads * (arch.d_head + value) * (precision.kv_bits / 8), name="latent_attention")  # fmt: skip
    else:
        wide = heads * (rank + arch.d_rope)
        gemm("q_absorb", rank * heads * nope, heads * nope * each, heads * rank * each, count)
        _scores(arch, workload, precision, prefill, wide, heads * rank, count, add, name="latent_attention")
        gemm("v_absorb", rank * heads * value, heads * rank * each, heads * value * each, count)
    gemm("out_proj", d * heads * value, heads * value * each, d_act, count)


def recurrence(
    arch: ArchitectureLike, workload: Workload, precision: Precision, prefill: bool, count: Any, gemm: Any, add: Any
) -> None:
    """Projection in, short convolution, scan, gated norm, projection out."""
    kind = arch.recurrence
    requests, tokens, act = _sizes(workload, precision, prefill)
    d, inner, heads, keys = arch.d_model, recurrent_inner(arch), arch.n_state_heads, arch.d_state_key
    outer, within = projection_widths(arch)
    gemm("state_in_proj", d * outer, d * (tokens * act), outer * (tokens * act), count)
    width = conv_width(arch)
    if kind != "mlstm":
        read = width * (3 if kind == "conv" else 1)
        add("short_conv", "elementwise", 0, 0, read * (tokens * act), width * (tokens * act), count)
    if kind == "mamba1":
        gemm("state_params", inner * within, inner * (tokens * act), within * (tokens * act), count)
        gemm("state_step", arch.dt_rank * inner, arch.dt_rank * (tokens * act), inner * (tokens * act), count)
    if kind != "conv":
        flop = inner * keys * ((6 if kind == "gdn" else 4) * tokens)
        state = state_bytes(arch, precision) * requests
        moved = state * (1 if prefill else 2)
        if prefill and kind != "mamba1":
            prompt = workload.prompt_tokens
            chunk = min(CHUNK_TOKENS[kind], prompt)
            groups = heads if kind == "mlstm" else arch.n_state_groups
            pairs = heads * (3 * keys) + 2 * inner if kind == "gdn" else groups * keys + inner
            flop = flop + pairs * (tokens * (chunk + 1))
            chunks = -(-prompt // chunk)
            moved = moved + inner * keys * (precision.state_bits / 8) * (2 * (chunks - 1) * requests)
        streams = (2 * inner + 2 * heads * keys) if kind == "mlstm" else width + inner
        add("scan", "scan", flop, 0, streams * (tokens * act) + moved / 2, inner * (tokens * act) + moved / 2, count,
            "fp32" if precision.compute == "fp32" else "fp16")  # fmt: skip
        add("state_norm", "elementwise", 0, 0, 2 * inner * (tokens * act), inner * (tokens * act), count)
    gemm("state_out_proj", d * inner, inner * (tokens * act), d * (tokens * act), count)


def shared_blocks(arch: ArchitectureLike, tokens: int, act: float, count: Any, gemm: Any) -> None:
    """Zamba2: after each use of a shared block a projection d * d, and low-rank adapters of what goes into its FFN (and Q, K, V)."""
    uses, d, r = count * (arch.n_shared_blocks > 0), arch.d_model, arch.adapter_rank
    gemm("block_out", d * d, d * (tokens * act), d * (tokens * act), uses)
    wide = (1 + arch.ffn_gated) * arch.d_ff
    gemm("ffn_adapter", r * (d + wide), (d + r) * (tokens * act), (r + wide) * (tokens * act), uses)
    if np.any(arch.attention_adapters):
        read, out = 3 * arch.d_attention_input, arch.d_query + 2 * arch.d_kv
        gemm(
            "qkv_adapter",
            r * (read + out),
            (read + r) * (tokens * act),
            (r + out) * (tokens * act),
            uses * arch.attention_adapters,
        )
