"""config.json of designs that are more than attention and FFN in turn: what the readers of `codesign._hf_stacks` read back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codesign._layout import sublayers
from codesign.architecture import Architecture
from codesign.errors import SpecError

__all__ = ["CODESIGN", "STACK_WRITERS", "common_fields", "stack_config"]

#: model_type of designs that no family of transformers expresses; codesign alone reads it.
CODESIGN = "codesign"
_CLASSES = {
    "bamba": "BambaForCausalLM", "codesign": "CodesignForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM", "lfm2": "Lfm2ForCausalLM", "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM", "xlstm": "xLSTMForCausalLM", "youtu": "YoutuForCausalLM",
}  # fmt: skip


def common_fields(arch: Architecture, model_class: str, positions: int, dtype: str) -> dict[str, Any]:
    """What every config.json says; token ids are null, because a design has no tokenizer yet."""
    return {
        "architectures": [model_class],
        "model_type": arch.family,
        "vocab_size": arch.vocab_size,
        "hidden_size": arch.d_model,
        "num_hidden_layers": arch.n_layers,
        "max_position_embeddings": positions,
        "tie_word_embeddings": arch.tied_embeddings,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def stack_config(arch: Architecture, positions: int, dtype: str) -> dict[str, Any]:
    """The config.json of a stack.

    Raises:
        SpecError: the family cannot express the architecture, or has no writer.
    """
    writer = STACK_WRITERS.get(arch.family)
    if writer is None:
        raise SpecError(
            f"family '{arch.family}' is read, not written; families: {', '.join(sorted(STACK_WRITERS))} ('codesign' takes any)"
        )
    return common_fields(arch, _CLASSES[arch.family], positions, dtype) | writer(arch)


def _need(arch: Architecture, **wanted: Any) -> None:
    for field, value in wanted.items():
        if getattr(arch, field) != value:
            raise SpecError(f"family '{arch.family}' cannot express {field} {getattr(arch, field)!r}; it has {value!r}")


def _plain_stack(arch: Architecture, **wanted: Any) -> str:
    """The mixers' letters of a stack of gated layers with an FFN each, and nothing that only other families have."""
    _need(
        arch, **{
            "ffn_gated": True, "norms_per_layer": 2, "norm_bias": False, "qkv_bias": False, "out_bias": False, "mlp_bias": False,
            "n_loops": 1, "n_kv_shared_layers": 0, "n_shared_blocks": 0, "extra_ffn_layers": 0, "attention_sinks": False,
            "expert_bias": False, "n_window_layers": 0, "kv_rank": 0, "attention_gate": False, **wanted,
        }
    )  # fmt: skip
    return "".join(c for c in sublayers(arch) if c in "AWR")


def _heads(arch: Architecture) -> dict[str, Any]:
    return {
        "num_attention_heads": arch.n_heads,
        "num_key_value_heads": arch.n_kv_heads,
        "head_dim": arch.d_head,
        "attention_dropout": 0.0,
    }


def _rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta, **more}, **more}


def _mamba(arch: Architecture) -> dict[str, Any]:
    inner = arch.n_state_heads * arch.d_state_value
    if inner % arch.d_model:
        raise SpecError(
            f"family '{arch.family}' cannot express n_state_heads {arch.n_state_heads}: twice, thrice, ... the width only"
        )
    return {
        "mamba_n_heads": arch.n_state_heads, "mamba_d_head": arch.d_state_value, "mamba_n_groups": arch.n_state_groups,
        "mamba_d_state": arch.d_state_key, "mamba_d_conv": arch.d_conv, "mamba_expand": inner // arch.d_model,
        "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_proj_bias": False, "hidden_act": "silu",
    }  # fmt: skip


def _bamba(arch: Architecture) -> dict[str, Any]:
    mixers = _plain_stack(arch, recurrence="mamba2", state_norm=True, n_experts=0, qk_norm="none")
    attending = [i for i, c in enumerate(mixers) if c == "A"]
    heads = _heads(arch) if attending else {}
    return {
        "intermediate_size": arch.d_ff, "attn_layer_indices": attending or None, "rms_norm_eps": 1e-5, "attention_bias": False,
        "mlp_bias": False, **heads, **_mamba(arch), **_rope(10_000.0, partial_rotary_factor=0.5),
    }  # fmt: skip


def _granite(arch: Architecture) -> dict[str, Any]:
    mixers = _plain_stack(
        arch, recurrence="mamba2", state_norm=True, qk_norm="none", n_dense_layers=0, shared_expert_gate=False
    )
    if arch.n_experts:
        _need(arch, n_shared_experts=1)
    if arch.n_attention_layers and arch.d_head * arch.n_heads != arch.d_model:
        raise SpecError(f"family 'granitemoehybrid' cannot express d_head {arch.d_head}; it has d_model / n_heads")
    return {
        "layer_types": ["attention" if c == "A" else "mamba" for c in mixers], "rms_norm_eps": 1e-6, "attention_bias": False,
        "num_local_experts": arch.n_experts, "num_experts_per_tok": arch.n_active_experts, "position_embedding_type": "nope",
        "intermediate_size": arch.d_ff_expert or arch.d_ff, "shared_intermediate_size": arch.d_ff_shared if arch.n_experts else arch.d_ff,
        **_mamba(arch), **(_heads(arch) if "A" in mixers else {}),
    }  # fmt: skip


def _qwen(arch: Architecture) -> dict[str, Any]:
    attends = arch.n_attention_layers > 0
    mixers = _plain_stack(arch, recurrence="gdn", qk_norm="head" if attends else "none", attention_gate=attends)
    config: dict[str, Any] = {
        "layer_types": ["full_attention" if c == "A" else "linear_attention" for c in mixers], "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "attention_bias": False, "linear_num_value_heads": arch.n_state_heads,
        "linear_num_key_heads": arch.n_state_groups, "linear_value_head_dim": arch.d_state_value,
        "linear_key_head_dim": arch.d_state_key, "linear_conv_kernel_dim": arch.d_conv,
        **_rope(10_000_000.0, partial_rotary_factor=0.25), **(_heads(arch) if attends else {}),
    }  # fmt: skip
    if attends and int(arch.d_head * 0.25) % 2:
        raise SpecError(
            f"family '{arch.family}' cannot express d_head {arch.d_head}; it has multiples of 8 (rotary pairs)"
        )
    if arch.family == "qwen3_5_text":
        _need(arch, n_experts=0)
        return config | {"intermediate_size": arch.d_ff}
    _need(arch, n_shared_experts=1, shared_expert_gate=True)
    return config | {
        "intermediate_size": arch.d_ff or arch.n_active_experts * arch.d_ff_expert, "num_experts": arch.n_experts,
        "num_experts_per_tok": arch.n_active_experts, "moe_intermediate_size": arch.d_ff_expert,
        "shared_expert_intermediate_size": arch.d_ff_shared, "decoder_sparse_step": 1,
        "norm_topk_prob": arch.n_active_experts > 1, "mlp_only_layers": list(range(arch.n_dense_layers)),
    }  # fmt: skip


def _latent(arch: Architecture) -> dict[str, Any]:
    _plain_stack(arch, recurrence="none", qk_norm="none", kv_rank=arch.kv_rank)
    if not arch.kv_rank:
        raise SpecError(f"family '{arch.family}' cannot express kv_rank 0; it has latent attention")
    config: dict[str, Any] = {
        "num_attention_heads": arch.n_heads, "num_key_value_heads": arch.n_heads, "kv_lora_rank": arch.kv_rank,
        "q_lora_rank": arch.q_rank or None, "qk_nope_head_dim": arch.d_head - arch.d_rope, "qk_rope_head_dim": arch.d_rope,
        "v_head_dim": arch.d_value or arch.d_head, "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False,
        "intermediate_size": arch.d_ff or arch.n_active_experts * arch.d_ff_expert, **_rope(10_000.0),
    }  # fmt: skip
    if arch.family == "youtu":
        _need(arch, n_experts=0)
        return config
    dense = arch.n_dense_layers if arch.n_experts else arch.n_layers
    return config | {
        "first_k_dense_replace": dense, "n_routed_experts": arch.n_experts or 1, "num_experts_per_tok": arch.n_active_experts or 1,
        "moe_intermediate_size": arch.d_ff_expert or 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": arch.n_active_experts > 1,
        "n_shared_experts": 0 if not arch.n_shared_experts else _whole(arch.n_shared_experts * arch.d_ff_shared, arch.d_ff_expert),
        "num_nextn_predict_layers": 0,
    }  # fmt: skip


def _whole(width: int, each: int) -> int:
    if width % each:
        raise SpecError(
            f"family 'deepseek_v3' cannot express d_ff_shared {width}; it has multiples of d_ff_expert {each}"
        )
    return width // each


def _xlstm(arch: Architecture) -> dict[str, Any]:
    _plain_stack(arch, recurrence="mlstm", n_recurrent_layers=arch.n_layers, n_experts=0, qk_norm="none",
                 tied_embeddings=False)  # fmt: skip  # transformers never ties it, whatever the config says
    heads = arch.n_state_heads
    return {
        "embedding_dim": arch.d_model, "num_blocks": arch.n_layers, "num_heads": heads, "use_bias": False, "add_out_norm": True,
        "qk_dim_factor": heads * arch.d_state_key / arch.d_model, "v_dim_factor": heads * arch.d_state_value / arch.d_model,
        "ffn_proj_factor": (arch.d_ff + 0.5) / arch.d_model, "ffn_round_up_to_multiple_of": 1, "weight_mode": "single",
    }  # fmt: skip


def _lfm2(arch: Architecture) -> dict[str, Any]:
    attends = arch.n_attention_layers > 0
    mixers = _plain_stack(
        arch, recurrence="conv", n_state_heads=arch.d_model, n_experts=0, qk_norm="head" if attends else "none"
    )
    if attends and arch.d_head * arch.n_heads != arch.d_model:
        raise SpecError(f"family 'lfm2' cannot express d_head {arch.d_head}; it has d_model / n_heads")
    return {
        "intermediate_size": arch.d_ff, "block_auto_adjust_ff_dim": False, "conv_L_cache": arch.d_conv, "conv_bias": False,
        "layer_types": ["full_attention" if c == "A" else "conv" for c in mixers], "norm_eps": 1e-5,
        "tie_embedding": arch.tied_embeddings, **(_heads(arch) if attends else {}), **_rope(1_000_000.0),
    }  # fmt: skip


def _own(arch: Architecture) -> dict[str, Any]:
    return {"architecture": arch.to_dict()}


#: Writer by family.
STACK_WRITERS: dict[str, Callable[[Architecture], dict[str, Any]]] = {
    "bamba": _bamba, CODESIGN: _own, "deepseek_v3": _latent, "granitemoehybrid": _granite, "lfm2": _lfm2, "qwen3_5_text": _qwen,
    "qwen3_next": _qwen, "xlstm": _xlstm, "youtu": _latent,
}  # fmt: skip
