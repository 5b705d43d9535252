"""What a model keeps between tokens: the KV cache of its attention layers and the state of its recurrences, in bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from codesign._mixers import conv_width, pick, recurrent_inner
from codesign.architecture import ArchitectureLike
from codesign.serving import Serving
from codesign.workload import Precision, Workload

__all__ = ["attended_tokens", "cache_bytes", "kv_bytes", "kv_bytes_per_token", "kv_stored_share", "state_bytes"]


def kv_bytes_per_token(arch: ArchitectureLike, precision: Precision, serving: Serving | None = None) -> Any:
    """Bytes that one token adds to the KV cache of one attention layer: 2 * n_kv_heads * d_head * kv_bits / 8.

    Latent attention: kv_rank + d_rope numbers, or n_heads * (d_head + d_value) where its cache is expanded (`Serving`).
    """
    plain = arch.d_kv * (2 * precision.kv_bits / 8)
    if not np.any(arch.kv_rank):
        return plain
    if serving is not None and serving.latent == "expanded":
        numbers = arch.n_heads * (arch.d_head + arch.d_value_head)
    else:
        numbers = arch.kv_rank + arch.d_rope
    return pick(arch.kv_rank, numbers * (precision.kv_bits / 8), plain)


def kv_stored_share(arch: ArchitectureLike) -> Any:
    """Share of the attention layers that have a cache of their own: 1 less those that use another layer's.

    Where windows and full layers mix, both kinds are taken to share alike.
    """
    if not np.any(arch.n_kv_shared_layers):
        return 1
    return 1 - arch.n_kv_shared_layers / np.maximum(arch.n_attention_layers, 1)


def attended_tokens(context: float, window: Any) -> Any:
    """Cache entries that one query reads: the context, or the window where that is smaller (0: no window)."""
    return np.where(np.asarray(window) > 0, np.minimum(window, context), context)


def state_bytes(arch: ArchitectureLike, precision: Precision) -> Any:
    """State of one recurrent layer for one request.

    The matrix state H * P * N at state_bits (and for mlstm its normaliser, H * (N + 1)), and the convolution's last
    d_conv - 1 inputs at activation_bits.
    """
    inner, keys = recurrent_inner(arch), arch.d_state_key
    numbers = inner * keys
    if arch.recurrence == "mlstm":
        numbers = numbers + arch.n_state_heads * (keys + 1)
    taps = np.maximum(arch.d_conv - 1, 0) * conv_width(arch)
    return numbers * (precision.state_bits / 8) + taps * (precision.activation_bits / 8)


def kv_bytes(arch: ArchitectureLike, workload: Workload, precision: Precision) -> Any:
    """KV cache of all attention layers and requests at the longest context, index keys of sparse attention included."""
    serving = workload.serving
    kv_token = kv_bytes_per_token(arch, precision, serving) * workload.batch_size
    layers = arch.n_layers if not np.any(arch.n_recurrent_layers) else arch.n_attention_layers
    context = serving.kept_tokens(workload.prompt_tokens) + workload.output_tokens
    kv = kv_token * layers * context
    if np.any(arch.n_window_layers):
        saved = np.maximum(context - arch.window_tokens, 0) * arch.n_window_layers
        kv = kv - kv_token * saved
    if np.any(arch.n_kv_shared_layers):
        kv = kv * kv_stored_share(arch)
    if serving.sparse_tokens:
        index = serving.d_index * (serving.index_bits / 8) * workload.batch_size
        kv = kv + index * (layers - arch.n_window_layers) / serving.index_share * context
    return kv * arch.loop_factor if np.any(arch.n_looped_layers) else kv


def cache_bytes(arch: ArchitectureLike, workload: Workload, precision: Precision) -> Any:
    """KV cache and recurrent state of all layers and requests at the longest context."""
    cache = kv_bytes(arch, workload, precision)
    if np.any(arch.n_recurrent_layers):
        state = arch.n_recurrent_layers * state_bytes(arch, precision) * workload.batch_size
        cache = cache + state * arch.loop_factor
    return cache
