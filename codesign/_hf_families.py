"""What each Hugging Face `model_type` means: defaults of absent fields and the small tensors it has.

The values are those of the configuration classes of transformers (a config.json omits fields that are at their
default); the tests compare every one of them with transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One `model_type`.

    Args:
        model_class: name for "architectures" in config.json.
        kv_heads: default of num_key_value_heads (0: num_attention_heads).
        head_dim: default of head_dim (0: hidden_size / num_attention_heads).
        tied: default of tie_word_embeddings.
        act_key, act: field and name of the activation function.
        norm_key: field of the norm's epsilon.
        gated, norms_per_layer, norm_bias, qk_norm: as in `Architecture`.
        bias_key: field that turns on attention biases ("": never, or always where bias_default is true);
            bias_default: its default; bias_out: whether it covers the output projection too.
        mlp_bias_key: field that turns on FFN biases ("": never).
        experts: "" (dense), "mixtral" or "qwen": which fields describe the mixture; expert_defaults: their defaults.
        shared: has a shared expert and its gate.
        window: which layers slide: "none", "all", "tail" (from max_window_layers on), "even" (alternate layers) or
            "pattern" (all but each sixth).
        window_switch: sliding_window counts only where use_sliding_window is true.
        window_default: default of sliding_window (0: null).
        square: d_model must be a multiple of n_heads (transformers checks it).
        rotary: part of a head that is rotated.
        rope_theta: base of the rotary embedding that the family's published models use.
        extra: required fields that published configs of this family omit, with their defaults.
    """

    model_class: str
    kv_heads: int = 0
    head_dim: int = 0
    tied: bool = False
    act_key: str = "hidden_act"
    act: str = "silu"
    norm_key: str = "rms_norm_eps"
    gated: bool = True
    norms_per_layer: int = 2
    norm_bias: bool = False
    qk_norm: str = "none"
    bias_key: str = ""
    bias_default: bool = False
    bias_out: bool = False
    mlp_bias_key: str = ""
    experts: Literal["", "mixtral", "qwen"] = ""
    expert_defaults: dict[str, int] = field(default_factory=dict)
    shared: bool = False
    window: Literal["none", "all", "tail", "even", "pattern"] = "none"
    window_switch: bool = False
    window_default: int = 0
    square: bool = False
    rotary: float = 1.0
    rope_theta: float = 10_000.0
    extra: dict[str, int] = field(default_factory=dict)


_GELU: dict[str, Any] = {"act_key": "hidden_activation", "act": "gelu_pytorch_tanh"}
_BIAS: dict[str, Any] = {"bias_key": "attention_bias", "bias_out": True}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        model_class="LlamaForCausalLM", **_BIAS, mlp_bias_key="mlp_bias", square=True, rope_theta=500_000.0
    ),
    "qwen2": Family(
        model_class="Qwen2ForCausalLM", kv_heads=32, bias_default=True, window="tail", window_switch=True,
        window_default=4096, rope_theta=1_000_000.0,
    ),
    "qwen3": Family(
        model_class="Qwen3ForCausalLM", kv_heads=32, head_dim=128, qk_norm="head", **_BIAS, window="tail",
        window_switch=True, window_default=4096, rope_theta=1_000_000.0,
    ),
    "mistral": Family(
        model_class="MistralForCausalLM", kv_heads=8, window="all", window_default=4096, rope_theta=1_000_000.0
    ),
    "gemma": Family(
        model_class="GemmaForCausalLM", kv_heads=16, head_dim=256, tied=True, act="gelu_pytorch_tanh", **_BIAS
    ),
    "gemma2": Family(
        model_class="Gemma2ForCausalLM", kv_heads=4, head_dim=256, tied=True, **_GELU, norms_per_layer=4, **_BIAS,
        window="even", window_default=4096, square=True,
    ),
    "gemma3_text": Family(
        model_class="Gemma3ForCausalLM", kv_heads=4, head_dim=256, tied=True, **_GELU, norms_per_layer=4,
        qk_norm="head", **_BIAS, window="pattern", window_default=4096, square=True, rope_theta=1_000_000.0,
        extra={"num_attention_heads": 8, "vocab_size": 262_208},
    ),
    "phi3": Family(model_class="Phi3ForCausalLM", window="all"),
    "olmo2": Family(model_class="Olmo2ForCausalLM", qk_norm="full", **_BIAS, rope_theta=500_000.0),
    "mixtral": Family(
        model_class="MixtralForCausalLM", kv_heads=8, experts="mixtral", window="all", rope_theta=1_000_000.0,
        expert_defaults={"num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "qwen2_moe": Family(
        model_class="Qwen2MoeForCausalLM", kv_heads=16, bias_key="qkv_bias", bias_default=True, experts="qwen",
        shared=True, window="even", window_switch=True, window_default=4096, rope_theta=1_000_000.0,
        expert_defaults={"num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
                         "shared_expert_intermediate_size": 5632},
    ),
    "qwen3_moe": Family(
        model_class="Qwen3MoeForCausalLM", kv_heads=4, qk_norm="head", **_BIAS, experts="qwen", window="all",
        window_switch=True, window_default=4096, rope_theta=1_000_000.0,
        expert_defaults={"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    ),
    "nemotron": Family(
        model_class="NemotronForCausalLM", act="relu2", norm_key="norm_eps", gated=False, norm_bias=True, **_BIAS,
        mlp_bias_key="mlp_bias", rotary=0.5,
    ),
    "starcoder2": Family(
        model_class="Starcoder2ForCausalLM", kv_heads=2, tied=True, act="gelu_pytorch_tanh", norm_key="norm_epsilon",
        gated=False, norm_bias=True, bias_key="use_bias", bias_default=True, bias_out=True, mlp_bias_key="use_bias",
        window="all", rope_theta=1_000_000.0,
    ),
}  # fmt: skip
