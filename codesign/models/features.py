"""What a runnable model needs beyond `Architecture`: what its family fixes, and the names and shapes of its weights.

Models of attention and FFN in turn are `codesign.models.decoder.Decoder`s; all others (`is_stack`) are
`codesign.models.stack.Stack`s, which torch alone runs. Weights of a Decoder are named as in `codesign.models.decoder.Decoder.state_dict()`; matrices are stored as torch's Linear does,
(outputs, inputs):

    embed_tokens.weight                                  (vocab, d)
    layers.{i}.{q,k,v,o}_proj.weight, .bias              attention
    layers.{i}.{q,k}_norm.weight                         QK norms, (d_head,) or the whole projected width
    layers.{i}.attention_norm, ffn_norm                  gain (.weight) and LayerNorm's .bias
    layers.{i}.attention_post_norm, ffn_post_norm        norms of a block's output, where the family has them
    layers.{i}.ffn.{gate,up,down}_proj.weight, .bias     dense FFN; a plain one has no gate_proj
    layers.{i}.router.weight                             (n_experts, d)
    layers.{i}.experts.{e}.{gate,up,down}_proj.weight    routed experts
    layers.{i}.shared_expert.{gate,up,down}_proj.weight  shared experts, as one of their summed width
    layers.{i}.shared_gate.weight                        (1, d)
    final_norm.weight, .bias
    lm_head.weight                                       (vocab, d), absent where the embedding is the head
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from codesign._hf_families import FAMILIES
from codesign._hf_write import _windows
from codesign.architecture import Architecture
from codesign.errors import SpecError

__all__ = ["Features", "features", "is_stack", "weight_shapes"]


Activation = Literal["silu", "gelu_tanh", "relu2", "clamped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a family fixes.

    norm_eps: epsilon of every norm; activation of the FFN; pre_norm, post_norm: norms before and after each block;
    rotary_dim: rotated part of a head; rope_theta: rotary base by kind of layer (full, sliding); sliding: which layers
    have the window; embedding_scale: what embeddings are multiplied by; normalise_routing: the chosen experts' weights
    are divided by their sum.
    """

    norm_eps: float
    activation: Activation
    pre_norm: bool
    post_norm: bool
    rotary_dim: int
    rope_theta: dict[bool, float]
    sliding: tuple[bool, ...]
    embedding_scale: float
    normalise_routing: bool


_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
}

#: Rotated share of a head (0: none), rotary base, epsilon, activation of the families that run as a Stack.
_STACK_TRAITS: dict[str, tuple[float, float, float, Activation]] = {
    "bamba": (0.5, 10_000.0, 1e-5, "silu"),
    "codesign": (1.0, 1_000_000.0, 1e-6, "silu"),
    "deepseek_v2": (1.0, 10_000.0, 1e-6, "silu"),
    "deepseek_v3": (1.0, 10_000.0, 1e-6, "silu"),
    "falcon_mamba": (0.0, 10_000.0, 1e-5, "silu"),
    "gpt_oss": (1.0, 150_000.0, 1e-5, "clamped"),
    "granitemoe": (1.0, 10_000.0, 1e-6, "silu"),
    "granitemoehybrid": (0.0, 10_000.0, 1e-6, "silu"),
    "jamba": (0.0, 10_000.0, 1e-6, "silu"),
    "lfm2": (1.0, 1_000_000.0, 1e-5, "silu"),
    "mamba": (0.0, 10_000.0, 1e-5, "silu"),
    "mamba2": (0.0, 10_000.0, 1e-5, "silu"),
    "minicpm3": (1.0, 10_000.0, 1e-6, "silu"),
    "nemotron_h": (0.0, 10_000.0, 1e-5, "relu2"),
    "openelm": (1.0, 10_000.0, 1e-6, "silu"),
    "olmoe": (1.0, 10_000.0, 1e-5, "silu"),
    "qwen3_5_moe_text": (0.25, 10_000_000.0, 1e-6, "silu"),
    "qwen3_5_text": (0.25, 10_000_000.0, 1e-6, "silu"),
    "qwen3_next": (0.25, 10_000_000.0, 1e-6, "silu"),
    "xlstm": (0.0, 10_000.0, 1e-6, "silu"),
    "youtu": (1.0, 10_000.0, 1e-6, "silu"),
    "zamba2": (0.0, 10_000.0, 1e-5, "silu"),
}


def is_stack(arch: Architecture) -> bool:
    """Whether a model is more than attention and FFN in turn, and runs as a `codesign.models.stack.Stack`."""
    more: tuple[Any, ...] = (
        arch.n_recurrent_layers, arch.kv_rank, arch.attention_gate, arch.layout, arch.extra_ffn_layers,
        arch.n_kv_shared_layers, arch.n_looped_layers, arch.attention_sinks, arch.expert_bias, arch.n_shared_blocks, arch.is_uneven,
    )  # fmt: skip
    return any(more) or arch.family not in FAMILIES


def _stack_features(arch: Architecture) -> Features:
    for field, good in (
        ("norm_bias", not arch.norm_bias),
        ("norms_per_layer", arch.norms_per_layer == 2),
    ):  # fmt: skip
        if not good:
            raise SpecError(f"{field} {getattr(arch, field)!r} has no runnable model in a stack of mixed layers")
    traits = _STACK_TRAITS.get(arch.family)
    if traits is None:
        raise SpecError(
            f"family '{arch.family}' has no runnable model; families: {', '.join(sorted({*FAMILIES, *_STACK_TRAITS} - {'gemma2'}))}"
        )
    share, theta, eps, activation = traits
    rotary_dim = int((arch.d_rope or arch.d_head) * share)
    if rotary_dim % 2 and arch.n_attention_layers:
        raise SpecError(f"d_head {arch.d_head} has no runnable model: {rotary_dim} rotated dimensions do not pair up")
    return Features(
        norm_eps=eps, activation=activation, pre_norm=True, post_norm=False, rotary_dim=rotary_dim,
        rope_theta={False: theta, True: theta}, sliding=(), embedding_scale=1.0,
        normalise_routing=arch.n_active_experts > 1 and arch.family != "olmoe",
    )  # fmt: skip


def features(arch: Architecture) -> Features:
    """The features of an architecture's family.

    Raises:
        SpecError: a field that no runnable model is written for.
    """
    if is_stack(arch):
        return _stack_features(arch)
    family = FAMILIES[arch.family]
    if arch.family == "gemma2":
        raise SpecError("family 'gemma2' has no runnable model (soft-capped scores); use gemma3_text for its shape")
    if arch.norms_per_layer not in (2, 4):
        raise SpecError(f"norms_per_layer {arch.norms_per_layer} has no runnable model; allowed: 2 or 4")
    rotary_dim = int(arch.d_head * family.rotary)
    if rotary_dim % 2:
        raise SpecError(f"d_head {arch.d_head} has no runnable model: {rotary_dim} rotated dimensions do not pair up")
    post_only = arch.family == "olmo2" and arch.norms_per_layer == 2
    theta = family.rope_theta
    return Features(
        norm_eps=1e-6 if family.norm_key == "rms_norm_eps" else 1e-5,  # as `config_dict` writes it
        activation=_ACTIVATIONS[family.act],
        pre_norm=not post_only,
        post_norm=post_only or arch.norms_per_layer == 4,
        rotary_dim=rotary_dim,
        rope_theta={False: theta, True: 10_000.0 if arch.family == "gemma3_text" else theta},
        sliding=_sliding(arch),
        embedding_scale=arch.d_model**0.5 if arch.family in ("gemma", "gemma3_text") else 1.0,
        normalise_routing=arch.n_active_experts > 1 or family.experts == "mixtral",  # as `config_dict` writes it
    )


def _sliding(arch: Architecture) -> tuple[bool, ...]:
    """Which layers have the sliding window: as in the config.json of the design, else spread evenly."""
    layers, n_window = arch.n_layers, arch.n_window_layers
    if n_window in (0, layers):
        return (n_window > 0,) * layers
    kinds = _windows(arch, FAMILIES[arch.family]).get("layer_types")
    if kinds:
        return tuple(kind == "sliding_attention" for kind in kinds)
    return tuple((i + 1) * n_window // layers > i * n_window // layers for i in range(layers))


def is_mixture(arch: Architecture, layer: int) -> bool:
    """Whether a layer's FFN is a mixture: all but the first n_dense_layers, as in DeepSeekMoE (arXiv 2401.06066)."""
    return arch.n_experts > 0 and layer >= arch.n_dense_layers


def weight_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight; the sizes add up to `arch.params_total`.

    Raises:
        SpecError: a field that no runnable model is written for.

    Example:
        >>> tiny = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
        >>> weight_shapes(tiny)["layers.1.k_proj.weight"]
        (32, 64)
    """
    if is_stack(arch):
        raise SpecError(
            f"no graph is written for a stack of mixed layers (family '{arch.family}', recurrence '{arch.recurrence}'); it runs "
            "with --engine torch"
        )
    has, d = features(arch), arch.d_model
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (arch.vocab_size, d)}

    def linear(name: str, out: int, inputs: int, bias: bool = False) -> None:
        shapes[f"{name}.weight"] = (out, inputs)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = (d,)
        if arch.norm_bias:
            shapes[f"{name}.bias"] = (d,)

    def ffn(name: str, width: int, bias: bool = False) -> None:
        for part in ("gate_proj", "up_proj") if arch.ffn_gated else ("up_proj",):
            linear(f"{name}.{part}", width, d, bias)
        linear(f"{name}.down_proj", d, width, bias)

    for i in range(arch.n_layers):
        at = f"layers.{i}"
        for part, width in (("q_proj", arch.d_query), ("k_proj", arch.d_kv), ("v_proj", arch.d_kv)):
            linear(f"{at}.{part}", width, d, arch.qkv_bias)
        linear(f"{at}.o_proj", d, arch.d_query, arch.out_bias)
        if arch.qk_norm != "none":
            head = arch.qk_norm == "head"
            shapes[f"{at}.q_norm.weight"] = (arch.d_head if head else arch.d_query,)
            shapes[f"{at}.k_norm.weight"] = (arch.d_head if head else arch.d_kv,)
        for block in ("attention", "ffn"):
            if has.pre_norm:
                norm(f"{at}.{block}_norm")
            if has.post_norm:
                norm(f"{at}.{block}_post_norm")
        if not is_mixture(arch, i):
            ffn(f"{at}.ffn", arch.d_ff, arch.mlp_bias)
            continue
        linear(f"{at}.router", arch.n_experts, d)
        for e in range(arch.n_experts):
            ffn(f"{at}.experts.{e}", arch.d_ff_expert)
        if arch.n_shared_experts and arch.d_ff_shared:
            ffn(f"{at}.shared_expert", arch.n_shared_experts * arch.d_ff_shared)
        if arch.shared_expert_gate:
            linear(f"{at}.shared_gate", 1, d)
    norm("final_norm")
    if not arch.tied_embeddings:
        linear("lm_head", arch.vocab_size, d)
    return shapes
