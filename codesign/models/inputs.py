"""Shapes of what a decoder's graph is given."""

from __future__ import annotations

from codesign.architecture import Architecture
from codesign.models.features import features

__all__ = ["input_shape"]


def input_shape(name: str, arch: Architecture, *, batch: int, tokens: int, past: int) -> tuple[int, ...]:
    """Shape of an input of `codesign.models.onnx_graph.build_onnx`.

    ids and positions: (batch, tokens); a layer's cache: (batch, n_kv_heads, past, d_head), of the last window_tokens - 1
    positions where the layer has a window, as serving keeps it.

    Example:
        >>> arch = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
        >>> input_shape("past_key_values.1.key", arch, batch=1, tokens=1, past=256)
        (1, 2, 256, 16)
    """
    if name in ("input_ids", "position_ids"):
        return (batch, tokens)
    layer = int(name.split(".")[1])
    kept = min(past, arch.window_tokens - 1) if features(arch).sliding[layer] else past
    return (batch, arch.n_kv_heads, kept, arch.d_head)
