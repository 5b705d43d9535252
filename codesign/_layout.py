"""The order of sublayers: a letter each, as in `Architecture.layout`."""

from __future__ import annotations

from codesign._shape import Shape

__all__ = ["interleaved", "sublayers", "usual_layout"]


def interleaved(mixers: str, ffns: str) -> str:
    """Mixers and FFNs in turn, as most models have them."""
    return "".join(a + b for a, b in zip(mixers, ffns, strict=True))


def _spread(letters: str, count: int, total: int, other: str) -> str:
    """`count` of `letters` among `total`, evenly, the last place theirs; `other`, in order, elsewhere."""
    rest = iter(other)
    return "".join(
        letters if (i + 1) * count // total > i * count // total else next(rest) for i in range(total)
    )  # fmt: skip


def usual_layout(arch: Shape) -> str:
    """The order where none is given: each kind spread evenly, dense FFNs first among mixtures, FFNs between the mixers.

    Example:
        >>> from codesign.architecture import Architecture
        >>> usual_layout(Architecture(n_layers=4, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100,
        ...     recurrence="mlstm", n_recurrent_layers=3, n_state_heads=4, d_state_value=16, d_state_key=8))
        'RFRFRFAF'
    """
    attending, windows = int(arch.n_attention_layers), int(arch.n_window_layers)
    attention = _spread("A", attending - windows, attending, "W" * windows) if windows else "A" * attending
    kinds = iter(attention)
    order = "".join(
        next(kinds) if place == "A" else "R"
        for place in _spread("A", attending, int(arch.n_layers), "R" * int(arch.n_recurrent_layers))
    )
    dense, mixed = int(arch.n_dense_ffn_layers), int(arch.n_moe_layers)
    ffns = "F" * dense + "E" * mixed
    if len(ffns) == len(order):
        return interleaved(order, ffns)
    if not ffns:
        return order
    places = _spread("F", len(ffns), len(order) + len(ffns), "M" * len(order))
    mixer, ffn = iter(order), iter(ffns)
    return "".join(next(ffn) if p == "F" else next(mixer) for p in places)


def sublayers(arch: Shape) -> str:
    """The order of an architecture: its layout, or the usual one."""
    return str(arch.layout) or usual_layout(arch)
