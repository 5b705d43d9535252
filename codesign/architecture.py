"""Decoder architectures: one (`Architecture`, integers) or many (`ArchitectureBatch`, arrays of the same names).

Every derived quantity (parameters, widths) is a formula over the field names, written once in `codesign._shape.Shape` with numpy
broadcasting, so that one model, a flat batch and an open mesh (`np.ix_`-like axes) all run the same code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from codesign._architecture_checks import RECURRENT_FIELDS, check_list, check_mixers
from codesign._shape import ArchitectureLike, Shape
from codesign.errors import SpecError

__all__ = ["OPTIONAL", "Architecture", "ArchitectureBatch", "ArchitectureLike", "batch_key", "mixer_kind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture(Shape):
    """One decoder-only transformer.

    Args:
        n_layers: depth l.
        d_model: width d.
        n_heads: query heads; d_head: size of each (d_head * n_heads need not equal d_model).
        n_kv_heads: key/value heads (grouped-query attention); must divide n_heads.
        d_ff: hidden width of the dense FFN (0 where every layer is a mixture).
        vocab_size: rows of the embedding; tied_embeddings: the output head is the embedding.
        ffn_gated: gated FFN with three matrices (SwiGLU), else plain with two.
        n_experts: routed experts E (0: dense); n_active_experts: K per token; d_ff_expert: width of one.
        n_shared_experts: always-on experts; d_ff_shared: width of each.
        n_dense_layers: layers of a mixture model that keep a dense FFN.
        window_tokens: sliding window (0: none) of n_window_layers layers.
        kv_rank: width of the compressed keys and values of latent attention (0: none), then q_rank (0: plain queries),
            d_rope: rotated part of d_head that all heads share, d_value: size of a value head.
        n_kv_shared_layers: attention layers that use the keys and values of an earlier layer.
        recurrence: what n_recurrent_layers of the layers have in place of attention (`codesign._mixers`): none, mamba1, mamba2,
            gdn, mlstm, conv; n_state_heads, d_state_value, d_state_key, n_state_groups: size of its state; d_conv: taps of its
            convolution; dt_rank: of mamba1. Where no layer attends, heads and their size are 1.
        extra_ffn_layers: FFN sublayers beyond one for each mixer (negative where some mixers have none behind them).
        layout: order of the sublayers, a letter each: A attention, W attention with the window, R recurrence, F dense FFN,
            E mixture ("": mixer and FFN in turn, kinds spread evenly). It decides the config.json, not the cost.
        n_loops: how often n_looped_layers layers in the middle run (looped models: one set of weights, a cache each time).
        ffn_widths: width of each dense FFN in order, where they differ (d_ff is the widest); layer_heads, layer_kv_heads: query
            and KV heads of each attention layer, where they differ (n_heads, n_kv_heads are the most).
        n_shared_blocks: distinct attention-and-FFN blocks of Zamba2 that all attention layers share, with adapters of
            adapter_rank (attention_adapters: on Q, K and V too).
        family: `model_type` of the config.json that this architecture reads from and writes to.
        norms_per_layer, norm_bias, qkv_bias, out_bias, mlp_bias, qk_norm ("none", "head", "full"), shared_expert_gate,
        attention_gate, attention_sinks, expert_bias, state_norm: the family's small tensors, so that parameter counts are exact.

    Raises:
        SpecError: a field out of range, or heads that n_kv_heads does not divide.

    Example:
        >>> tiny = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
        >>> tiny.params_total
        80448
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    vocab_size: int
    tied_embeddings: bool = True
    ffn_gated: bool = True
    n_experts: int = 0
    n_active_experts: int = 0
    d_ff_expert: int = 0
    n_shared_experts: int = 0
    d_ff_shared: int = 0
    n_dense_layers: int = 0
    window_tokens: int = 0
    n_window_layers: int = 0
    norms_per_layer: int = 2
    norm_bias: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: str = "none"
    shared_expert_gate: bool = False
    attention_gate: bool = False
    attention_sinks: bool = False
    expert_bias: bool = False
    q_rank: int = 0
    kv_rank: int = 0
    d_rope: int = 0
    d_value: int = 0
    n_kv_shared_layers: int = 0
    recurrence: str = "none"
    n_recurrent_layers: int = 0
    n_state_heads: int = 0
    d_state_value: int = 0
    d_state_key: int = 0
    n_state_groups: int = 0
    d_conv: int = 0
    dt_rank: int = 0
    state_norm: bool = False
    extra_ffn_layers: int = 0
    layout: str = ""
    n_shared_blocks: int = 0
    adapter_rank: int = 0
    attention_adapters: bool = False
    n_loops: int = 1
    n_looped_layers: int = 0
    ffn_widths: tuple[int, ...] = ()
    layer_heads: tuple[int, ...] = ()
    layer_kv_heads: tuple[int, ...] = ()
    family: str = "llama"

    def __post_init__(self) -> None:
        for names, low in (
            (_SIZES, 1),
            (_COUNTS, 0),
            (("extra_ffn_layers",), -self.n_layers if _is_int(self.n_layers) else 0),
        ):
            for name in names:
                value = getattr(self, name)
                _check_int(name, value, low)
                if type(value) is not int:  # numpy integers overflow in products and are no JSON
                    object.__setattr__(self, name, int(value))
        for name in _FLAGS:
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)):
                raise SpecError(f"{name} must be true or false, not {value!r}")
            if type(value) is not bool:
                object.__setattr__(self, name, bool(value))
        if not isinstance(self.family, str):
            raise SpecError(f"family must be a name, not {self.family!r}")
        if not np.size(self.layer_heads) and not np.size(self.layer_kv_heads) and self.n_heads % self.n_kv_heads:
            raise SpecError(
                f"n_kv_heads {self.n_kv_heads} does not divide n_heads {self.n_heads}; "
                "each key/value head serves the same number of query heads"
            )
        if self.n_experts:
            if not 1 <= self.n_active_experts <= self.n_experts:
                raise SpecError(
                    f"n_active_experts {self.n_active_experts} must lie between 1 and n_experts {self.n_experts}"
                )
            _check_int("d_ff_expert", self.d_ff_expert, 1)
            if self.n_dense_layers > self.n_ffn_layers:
                raise SpecError(f"n_dense_layers {self.n_dense_layers} is more than n_layers {self.n_ffn_layers}")
        elif self.n_active_experts or self.d_ff_expert or self.n_shared_experts:
            raise SpecError("n_active_experts, d_ff_expert and n_shared_experts need n_experts above 0")
        if self.d_ff == 0 and self.n_dense_ffn_layers:
            raise SpecError("d_ff is 0 but some layers have a dense FFN; give d_ff above 0")
        if self.n_window_layers > self.n_attention_layers or bool(self.window_tokens) != bool(self.n_window_layers):
            raise SpecError(
                f"window_tokens {self.window_tokens} and n_window_layers {self.n_window_layers} of "
                f"{self.n_attention_layers} layers do not go together"
            )
        if self.qk_norm not in ("none", "head", "full"):
            raise SpecError(f"qk_norm '{self.qk_norm}' is not one of none, head, full")
        check_mixers(self)
        for name, alike in _LISTS.items():  # all are lists, before they are compared
            if not isinstance(value := getattr(self, name), (list, tuple)):
                check_list(self, name, alike, value)
        for name, alike in _LISTS.items():
            if value := getattr(self, name):
                object.__setattr__(self, name, check_list(self, name, alike, value))
            elif type(value) is list:
                object.__setattr__(self, name, ())

    @property
    def d_ff_active(self) -> int:
        """FFN width that one token uses: d_ff (the mean, rounded), or in a mixture K * d_ff_expert and the shared experts'."""
        if not self.n_experts:
            return round(float(self.d_ff_mean))
        return self.n_active_experts * self.d_ff_expert + self.n_shared_experts * self.d_ff_shared

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values; those of other mixers and stacks only where they say something."""
        shown = {k: v for k, v in asdict(self).items() if k not in OPTIONAL or v != OPTIONAL[k]}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in shown.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Architecture:
        """Build from `to_dict`'s output.

        Raises:
            SpecError: an unknown or missing field, or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise SpecError(f"unknown architecture field(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        try:
            return cls(**data)
        except TypeError as error:
            raise SpecError(f"incomplete architecture: {error}") from error

    def evolve(self, **changes: Any) -> Architecture:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def sublayer(self, letter: str, index: int) -> Architecture:
        """This architecture with the FFN width or the heads of one sublayer throughout.

        Args:
            letter: of `layout`; index: which of the dense FFNs (F), or of the attention layers (A and W).
        """
        changes: dict[str, Any] = {"ffn_widths": (), "layer_heads": (), "layer_kv_heads": ()}
        if letter == "F" and self.ffn_widths:
            changes["d_ff"] = self.ffn_widths[index]
        for name, alike in (("layer_heads", "n_heads"), ("layer_kv_heads", "n_kv_heads")):
            if getattr(self, name):  # other sublayers have no heads: any that go together
                changes[alike] = getattr(self, name)[index if letter in "AW" else 0]
        return replace(self, **changes)


_SIZES = ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "vocab_size", "n_loops")
_COUNTS = (
    "d_ff",
    "n_experts",
    "n_active_experts",
    "d_ff_expert",
    "n_shared_experts",
    "d_ff_shared",
    "n_dense_layers",
    "window_tokens",
    "n_window_layers",
    "norms_per_layer",
    "q_rank",
    "kv_rank",
    "d_rope",
    "d_value",
    "n_kv_shared_layers",
    "n_recurrent_layers",
    "n_state_heads",
    "d_state_value",
    "d_state_key",
    "n_state_groups",
    "d_conv",
    "dt_rank",
    "n_shared_blocks",
    "adapter_rank",
    "n_looped_layers",
)
_FLAGS = (
    "tied_embeddings",
    "ffn_gated",
    "norm_bias",
    "qkv_bias",
    "out_bias",
    "mlp_bias",
    "shared_expert_gate",
    "attention_gate",
    "attention_sinks",
    "expert_bias",
    "state_norm",
    "attention_adapters",
)
_TEXTS = ("qk_norm", "recurrence", "layout", "family")
#: Fields of one number a layer, and the field that holds the greatest of them.
_LISTS = {"ffn_widths": "d_ff", "layer_heads": "n_heads", "layer_kv_heads": "n_kv_heads"}


def batch_key(arch: Architecture) -> tuple[str, str]:
    """What architectures of one `ArchitectureBatch` must share: QK norms and the kind of recurrence."""
    return (arch.qk_norm, arch.recurrence)


def mixer_kind(arch: Shape) -> str:
    """The operators of the mixers that calibrations tell apart: attention, latent, or the recurrence.

    Example:
        >>> mixer_kind(Architecture(n_layers=1, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=9, vocab_size=9))
        'attention'
    """
    if np.any(arch.kv_rank):
        return "latent"
    return "attention" if arch.recurrence == "none" else arch.recurrence


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_int(name: str, value: object, low: int) -> None:
    if not _is_int(value) or value < low:  # type: ignore[operator]  # a whole number, as just checked
        raise SpecError(f"{name} must be a whole number of at least {low}, not {value!r}")


_names = [field.name for field in fields(Architecture)]
#: Fields of other mixers and stacks, with their defaults.
OPTIONAL: dict[str, Any] = {
    field.name: field.default for field in fields(Architecture)[_names.index("attention_gate") : _names.index("family")]
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArchitectureBatch(Shape):
    """Many architectures: fields of `Architecture` as arrays that broadcast (or as scalars, where all agree).

    Values are float64 or integers; nothing is validated here, the design space does that once for its axes.
    """

    n_layers: Any
    d_model: Any
    n_heads: Any
    n_kv_heads: Any
    d_head: Any
    d_ff: Any
    vocab_size: Any
    tied_embeddings: Any = True
    ffn_gated: Any = True
    n_experts: Any = 0
    n_active_experts: Any = 0
    d_ff_expert: Any = 0
    n_shared_experts: Any = 0
    d_ff_shared: Any = 0
    n_dense_layers: Any = 0
    window_tokens: Any = 0
    n_window_layers: Any = 0
    norms_per_layer: Any = 2
    norm_bias: Any = False
    qkv_bias: Any = False
    out_bias: Any = False
    mlp_bias: Any = False
    qk_norm: str = "none"
    shared_expert_gate: Any = False
    attention_gate: Any = False
    attention_sinks: Any = False
    expert_bias: Any = False
    q_rank: Any = 0
    kv_rank: Any = 0
    d_rope: Any = 0
    d_value: Any = 0
    n_kv_shared_layers: Any = 0
    recurrence: str = "none"
    n_recurrent_layers: Any = 0
    n_state_heads: Any = 0
    d_state_value: Any = 0
    d_state_key: Any = 0
    n_state_groups: Any = 0
    d_conv: Any = 0
    dt_rank: Any = 0
    state_norm: Any = False
    extra_ffn_layers: Any = 0
    layout: str = ""
    n_shared_blocks: Any = 0
    adapter_rank: Any = 0
    attention_adapters: Any = False
    n_loops: Any = 1
    n_looped_layers: Any = 0
    ffn_widths: Any = ()
    layer_heads: Any = ()
    layer_kv_heads: Any = ()
    family: str = "llama"

    @classmethod
    def of(cls, architectures: list[Architecture]) -> ArchitectureBatch:
        """Stack architectures; fields become arrays of shape (n,).

        The family is that of the first, and layouts are dropped: neither decides parameters or cost.

        Raises:
            SpecError: an empty list, or architectures whose qk_norm differ, or of two kinds of recurrence.
        """
        if not architectures:
            raise SpecError("a batch needs at least one architecture")
        if len({a.qk_norm for a in architectures}) > 1:
            raise SpecError("architectures of one batch must share qk_norm")
        kinds = sorted({a.recurrence for a in architectures} - {"none"})
        if len(kinds) > 1:
            raise SpecError(f"architectures of one batch must share the recurrence, not {' and '.join(kinds)}")
        columns: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(a, field.name) for a in architectures]
            if field.name in _TEXTS:
                columns[field.name] = values[0]
            elif field.name in _LISTS:
                columns[field.name] = _padded(architectures, field.name)
            else:
                columns[field.name] = np.asarray(values, dtype=np.float64)
        return cls(**{**columns, "recurrence": kinds[0] if kinds else "none", "layout": ""})

    @property
    def shape(self) -> tuple[int, ...]:
        """The broadcast shape of all fields."""
        arrays = [np.shape(value) for value in self._values() if not isinstance(value, str)]
        return np.broadcast_shapes(*arrays)

    def _values(self) -> Iterator[Any]:
        return (getattr(self, field.name) for field in fields(self) if field.name not in _LISTS)

    def pick(self, index: tuple[Any, ...]) -> Architecture:
        """The architecture at one multi-index of `shape`."""
        shape = self.shape
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _LISTS:
                rows = np.broadcast_to(value, (*shape, np.shape(value)[-1]))
                value = tuple(int(v) for v in rows[index] if v)
            elif not isinstance(value, str):
                value = np.broadcast_to(value, shape)[index].item()
                value = bool(value) if field.name in _FLAGS else int(value)
            values[field.name] = value
        if not values["n_recurrent_layers"]:
            values |= {name: OPTIONAL[name] for name in RECURRENT_FIELDS}
        return Architecture(**values)


def _padded(architectures: list[Architecture], name: str) -> Any:
    """Rows (n, layers) of one number a layer, zeros behind the last; () where all layers of all architectures are alike."""
    if not any(getattr(a, name) for a in architectures):
        return ()
    counts = [a.n_dense_ffn_layers if name == "ffn_widths" else a.n_attention_layers for a in architectures]
    out = np.zeros((len(architectures), max(counts)))
    for row, arch, count in zip(out, architectures, counts, strict=True):
        row[:count] = getattr(arch, name) or getattr(arch, _LISTS[name])
    return out
