"""Words and numbers as the page shows them: metrics, marks, units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from codesign.architecture import Architecture
from codesign.search import Frontier
from codesign.units import format_bytes, format_count, format_energy, format_power, format_seconds

__all__ = [
    "COST_KEYS",
    "FILTERS",
    "MARKS",
    "MEASURED_TITLES",
    "METRICS",
    "SCALES",
    "SIZE_KEY",
    "arch_text",
    "family_text",
    "ffn_text",
    "mark_text",
    "mixer_text",
    "show_metric",
    "space_edges",
    "span_text",
]


def _seconds(value: float) -> str:
    return format_seconds(value).replace(" us", " µs")


#: Metric to its title, and how a value of it is shown.
METRICS: dict[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("training loss, nats per token", lambda v: f"{v:.3f}"),
    "perplexity": ("perplexity", lambda v: f"{v:.1f}"),
    "latency_s": ("time per generated token", _seconds),
    "ttft_s": ("time to first token", _seconds),
    "e2e_s": ("whole request", _seconds),
    "memory_B": ("peak memory", format_bytes),
    "energy_J": ("energy per generated token", format_energy),
    "power_W": ("mean power", format_power),
    "params": ("parameters", format_count),
    "params_active": ("active parameters", format_count),
    "params_active_nonembedding": ("active parameters without embeddings", format_count),
    "weights_B": ("weights", format_bytes),
    "kv_B": ("KV cache", format_bytes),
    "workspace_B": ("activations", format_bytes),
}

#: Metrics that `codesign validate` measures, by their short titles.
MEASURED_TITLES = {"latency_s": "time per token", "ttft_s": "time to first token", "energy_J": "energy per token"}

#: The metric of the objective size.
SIZE_KEY = "params_active_nonembedding"

#: Objective that is a cost to the metric that it reads.
COST_KEYS = {
    "latency": "latency_s", "ttft": "ttft_s", "e2e": "e2e_s", "memory": "memory_B", "energy": "energy_J", "params": "params",
}  # fmt: skip

#: Metric to the factor and unit that it is drawn in.
SCALES = {
    "latency_s": (1e3, "ms"), "ttft_s": (1e3, "ms"), "e2e_s": (1.0, "s"), "memory_B": (1e-9, "GB"), "energy_J": (1e3, "mJ"),
    "params": (1e-6, "M"), "params_active": (1e-6, "M"), "params_active_nonembedding": (1e-6, "M"),
}  # fmt: skip

_RECURRENCES = {"mamba1": "Mamba", "mamba2": "Mamba-2", "gdn": "gated delta", "mlstm": "mLSTM", "conv": "convolution"}

#: Mark to a letter for tables, a short name and what it means for the reader.
MARKS: dict[str, tuple[str, str]] = {
    "prior:kv": ("K", "KV width differs from the law's data: a published term is added"),
    "prior:moe": ("E", "experts: effective parameters, transferred from another data set"),
    "prior:ffn_ratio": ("F", "FFN ratio differs from the law's data"),
    "prior:d_head": ("H", "head size differs from the law's data"),
    "prior:vocab": ("V", "vocabulary differs from the law's data: compare losses within this run only"),
    "prior:quantisation": ("Q", "price of quantised weights: a published law"),
    "prior:mixer": (
        "R",
        "recurrent layers: mLSTM's gap to attention at equal size and tokens, from another data set; others taken as attention's, within that",
    ),
    "prior:window": ("W", "windows: no term; a report finds minimal change with 5 of 6 layers local"),
    "prior:uneven": (
        "U",
        "FFN widths or heads differ from layer to layer: as the mean layer; trained models show no difference at equal totals",
    ),
    "unpriced:latent": ("$L", "latent attention: no data at hand tells its loss, compared on cost alone"),
    "unpriced:shared_kv": ("$K", "keys and values shared between layers: no data at hand tells the loss"),
    "unpriced:looped": ("$O", "looped layers: no data at hand tells the loss"),
    "unpriced:shared_blocks": ("$B", "shared blocks: no data at hand tells the loss"),
    "unpriced:conv": ("$C", "short convolutions: no data at hand tells the loss"),
    "unpriced:mamba1": ("$M", "Mamba: no data at hand tells the loss"),
    "unpriced:kv_bits": ("$kv", "a KV cache of fewer bits: no number at hand tells its cost in loss"),
    "unpriced:lm_head_bits": ("$head", "an output head of fewer bits: no number at hand tells its cost in loss"),
    "unpriced:embedding_bits": ("$emb", "an embedding of fewer bits: no number at hand tells its cost in loss"),
    "unpriced:state_bits": ("$st", "a recurrent state of fewer bits: no number at hand tells its cost in loss"),
    "unpriced:activation_bits": ("$act", "inputs of products in 4 bits: no number at hand tells their cost in loss"),
    "unpriced:kv_budget": ("$bud", "a KV cache cut to a budget: no number at hand tells its cost in loss"),
    "unpriced:sparse": ("$spa", "attention to few of the cached tokens: no number at hand tells its cost in loss"),
    "latency:mixer_here": ("X", "no model with these mixers was measured on this device, engine and precision"),
    "latency:mixer": ("!X", "no model with these mixers was measured on this device"),
    "latency:size_here": ("S", "smaller or larger than any model measured on this device, engine and precision"),
    "latency:experts_here": ("M", "no mixture of experts was measured on this device, engine and precision"),
    "latency:size": ("!S", "smaller or larger than any model measured anywhere"),
    "latency:experts": ("!M", "no mixture of experts was measured anywhere"),
}


def mark_text(mark: str) -> tuple[str, str]:
    """Letter and meaning of a mark; unknown ones speak for themselves.

    Example:
        >>> mark_text("outside:n_layers")
        ('!n_layers', "outside the range of the law's data in n_layers")
    """
    if mark in MARKS:
        return MARKS[mark]
    kind, _, name = mark.partition(":")
    if kind == "outside":
        return f"!{name}", f"outside the range of the law's data in {name}"
    return mark, mark


def space_edges(frontier: Frontier) -> list[tuple[str, float, int]]:
    """Ends of the space's axes at which at least half of the designs sit: axis, end, how many designs."""
    axes = frontier.provenance["space"]["axes"]
    archs = [c.architecture for c in frontier.candidates]
    experts = [float(str(name).split("x")[0]) if "x" in str(name) else 0.0 for name in axes["experts"]]
    widths = [a.d_ff_active / a.d_model for a in archs]
    series: dict[str, tuple[list[float], list[float]]] = {
        "n_layers": (axes["n_layers"], [a.n_layers for a in archs]),
        "d_model": (axes["d_model"], [a.d_model for a in archs]),
        "ffn_ratio": (axes["ffn_ratio"], widths),
        "experts": (experts, [a.n_experts for a in archs]),
    }
    found = []
    for name, (values, used) in series.items():
        for edge in sorted({min(values), max(values)}) if len(set(values)) > 1 else ():
            if name == "experts" and not edge:
                continue  # no experts: the end of no scale
            count = sum(abs(value - edge) <= 0.02 * max(abs(edge), 1) for value in used)
            if 2 * count >= len(archs):
                found.append((name, float(edge), count))
    return found


def show_metric(key: str, value: float) -> str:
    """A metric's value with its unit; a dash where it is unknown.

    Example:
        >>> show_metric("latency_s", 0.0102), show_metric("loss", 3.0773)
        ('10.2 ms', '3.077')
    """
    if not math.isfinite(value):
        return "–"
    return METRICS[key][1](value) if key in METRICS else f"{value:.4g}"


def mixer_text(arch: Architecture) -> str:
    """What mixes tokens, where it is not full attention in every layer; "" there.

    Example:
        >>> from codesign.hf_config import read_config
        >>> mixer_text(read_config("gemma-3-1b")), mixer_text(read_config("qwen3-0.6b"))
        ('22 of 26 windows of 512', '')
    """
    layers = arch.n_layers
    if arch.recurrence != "none":
        return f"{arch.n_recurrent_layers} of {layers} {_RECURRENCES[arch.recurrence]}"
    if arch.kv_rank:
        return f"latent {arch.kv_rank}"
    if arch.n_kv_shared_layers:
        return f"KV of {layers - arch.n_kv_shared_layers} in {layers}"
    if arch.n_looped_layers:
        return f"{arch.n_looped_layers} of {layers} run {arch.n_loops} times"
    return f"{arch.n_window_layers} of {layers} windows of {arch.window_tokens}" if arch.n_window_layers else ""


def family_text(arch: Architecture) -> str:
    """Dense or mixture, and what mixes tokens beside attention.

    Example:
        >>> from codesign.hf_config import read_config
        >>> family_text(read_config("gemma-3-1b")), family_text(read_config("qwen3-30b-a3b"))
        ('dense, windows', 'mixture of experts')
    """
    kind = "mixture of experts" if arch.n_experts else "dense"
    if arch.recurrence != "none":
        alone = arch.n_recurrent_layers == arch.n_layers
        return f"{kind}, {_RECURRENCES[arch.recurrence]} {'alone' if alone else 'hybrid'}"
    for name, has in (
        ("latent attention", arch.kv_rank), ("shared KV", arch.n_kv_shared_layers), ("looped", arch.n_looped_layers),
        ("windows", arch.n_window_layers), ("uneven layers", arch.is_uneven),
    ):  # fmt: skip
        if has:
            return f"{kind}, {name}"
    return kind


def arch_text(arch: Architecture) -> str:
    """A shape in one line.

    Example:
        >>> from codesign.hf_config import read_config
        >>> arch_text(read_config("qwen2.5-0.5b"))
        '24 layers × 896, 14 heads (2 KV) of 64, FFN 4864'
        >>> arch_text(read_config("openelm-270m"))
        '16 layers × 1280, 12 to 20 heads (3 to 5 KV) of 64, FFN 768 to 5120'
    """
    mixer = mixer_text(arch)
    shown = f"{span_text(arch.layer_heads, arch.n_heads)} heads ({span_text(arch.layer_kv_heads, arch.n_kv_heads)} KV) of {arch.d_head}"
    heads = shown if arch.n_attention_layers else ""
    return ", ".join(
        part for part in (f"{arch.n_layers} layers × {arch.d_model}", heads, mixer, ffn_text(arch)) if part
    )


def ffn_text(arch: Architecture) -> str:
    """The FFN or the experts.

    Example:
        >>> from codesign.hf_config import read_config
        >>> ffn_text(read_config("qwen1.5-moe-a2.7b")), ffn_text(read_config("openelm-270m"))
        ('60 experts of 1408, 4 active, shared 5632', 'FFN 768 to 5120')
    """
    if arch.n_experts:
        shared = f", shared {arch.n_shared_experts * arch.d_ff_shared}" if arch.n_shared_experts else ""
        return f"{arch.n_experts} experts of {arch.d_ff_expert}, {arch.n_active_experts} active{shared}"
    return f"FFN {span_text(arch.ffn_widths, arch.d_ff)}" if arch.n_ffn_layers else "no FFN"


def span_text(values: tuple[int, ...], alike: int) -> str:
    """The number of every layer, or the least and greatest of those that differ."""
    return f"{min(values)} to {max(values)}" if values else str(alike)


def _pct(value: float) -> str:
    return f"{100 * value:.0f} %"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "metric": lambda value, key: show_metric(key, float(value)),
    "metric_title": lambda key: METRICS[key][0] if key in METRICS else key,
    "seconds": _seconds, "bytes": format_bytes, "count": format_count, "energy": format_energy,
    "power": format_power, "pct": _pct, "arch": arch_text, "perplexity": lambda loss: f"{math.exp(loss):.1f}",
}  # fmt: skip
