"""The shape of a decoder: what formulas read, and the parameter counts that follow, written once with broadcasting."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from codesign._mixers import latent_params, pick, recurrence_params

__all__ = ["ArchitectureLike", "Shape"]


class Shape:
    """Quantities that follow from the fields; parameters are counts, formulas in the property docstrings.

    Each field is an integer, or arrays that broadcast against each other; open-mesh axes such as (L, 1, 1) and (1, D, 1) keep
    sub-expressions small.
    """

    __slots__ = ()

    n_layers: Any
    d_model: Any
    n_heads: Any
    n_kv_heads: Any
    d_head: Any
    d_ff: Any
    vocab_size: Any
    tied_embeddings: Any
    ffn_gated: Any
    n_experts: Any
    n_active_experts: Any
    d_ff_expert: Any
    n_shared_experts: Any
    d_ff_shared: Any
    n_dense_layers: Any
    window_tokens: Any
    n_window_layers: Any
    norms_per_layer: Any
    norm_bias: Any
    qkv_bias: Any
    out_bias: Any
    mlp_bias: Any
    qk_norm: str
    shared_expert_gate: Any
    attention_gate: Any
    attention_sinks: Any
    expert_bias: Any
    q_rank: Any
    kv_rank: Any
    d_rope: Any
    d_value: Any
    n_kv_shared_layers: Any
    recurrence: str
    n_recurrent_layers: Any
    n_state_heads: Any
    d_state_value: Any
    d_state_key: Any
    n_state_groups: Any
    d_conv: Any
    dt_rank: Any
    state_norm: Any
    extra_ffn_layers: Any
    layout: str
    n_shared_blocks: Any
    adapter_rank: Any
    attention_adapters: Any
    n_loops: Any
    n_looped_layers: Any
    ffn_widths: Any
    layer_heads: Any
    layer_kv_heads: Any

    @property
    def is_uneven(self) -> bool:
        """Whether FFN widths or heads differ from layer to layer (in a batch: of any)."""
        return any(np.size(values) > 0 for values in (self.ffn_widths, self.layer_heads, self.layer_kv_heads))

    @property
    def d_ff_mean(self) -> Any:
        """Mean width of the dense FFNs. Parameters, FLOP and bytes are linear in it: those of the mean are those of all layers."""
        return _mean(self.ffn_widths, self.n_dense_ffn_layers, self.d_ff)

    @property
    def n_heads_mean(self) -> Any:
        """Mean number of query heads of the attention layers."""
        return _mean(self.layer_heads, self.n_attention_layers, self.n_heads)

    @property
    def n_kv_heads_mean(self) -> Any:
        """Mean number of KV heads of the attention layers."""
        return _mean(self.layer_kv_heads, self.n_attention_layers, self.n_kv_heads)

    @property
    def n_heads_widest(self) -> Any:
        """Most query and KV heads together that one layer has."""
        if np.size(self.layer_heads) and np.size(self.layer_kv_heads):
            return np.max(np.asarray(self.layer_heads) + np.asarray(self.layer_kv_heads), axis=-1)
        return self.n_heads + self.n_kv_heads

    @property
    def d_query(self) -> Any:
        """Width of the query projection, n_heads * d_head; the mean where heads differ from layer to layer."""
        return self.n_heads_mean * self.d_head

    @property
    def d_kv(self) -> Any:
        """Width of the key (or value) projection, n_kv_heads * d_head; the mean where heads differ from layer to layer."""
        return self.n_kv_heads_mean * self.d_head

    @property
    def d_value_head(self) -> Any:
        """Size of one value head: d_value where it is given (latent attention), else d_head."""
        return pick(self.d_value, self.d_value, self.d_head) if np.any(self.d_value) else self.d_head

    @property
    def d_attention_input(self) -> Any:
        """Width that attention reads: d, or 2 d in Zamba2's shared blocks, which read the embedding beside the stream."""
        return self.d_model * (1 + (self.n_shared_blocks > 0)) if np.any(self.n_shared_blocks) else self.d_model

    @property
    def n_attention_layers(self) -> Any:
        """Layers whose mixer is attention, with a window or without."""
        return self.n_layers - self.n_recurrent_layers

    @property
    def n_ffn_layers(self) -> Any:
        """FFN sublayers, dense or mixtures: one for each mixer, and extra_ffn_layers more."""
        return self.n_layers + self.extra_ffn_layers

    @property
    def n_moe_layers(self) -> Any:
        """FFN sublayers that are a mixture of experts."""
        return (self.n_experts > 0) * (self.n_ffn_layers - self.n_dense_layers)

    @property
    def n_dense_ffn_layers(self) -> Any:
        """FFN sublayers that are dense."""
        return self.n_ffn_layers - self.n_moe_layers

    @property
    def loop_factor(self) -> Any:
        """Layers run over layers stored: 1 + (n_loops - 1) * n_looped_layers / n_layers."""
        return 1 + (self.n_loops - 1) * self.n_looped_layers / self.n_layers if np.any(self.n_looped_layers) else 1

    @property
    def ffn_matrices(self) -> Any:
        """Matrices of one FFN: 3 when gated (gate, up, down), 2 when plain (up, down)."""
        return 2 + self.ffn_gated

    @property
    def params_attention(self) -> Any:
        """Per attention layer: Q (twice with attention_gate) and O d * d_query, K and V d * d_kv, biases, QK norms, sinks.

        qk_norm "head" has one gain per head size for Q and for K; "full" has one per projected width. Latent attention
        (kv_rank above 0): `codesign._mixers.latent_params`.
        """
        d, dq, dkv, read = self.d_model, self.d_query, self.d_kv, self.d_attention_input
        count = read * (dq + 2 * dkv) + dq * d + self.qkv_bias * (dq + 2 * dkv) + self.out_bias * d
        if np.any(self.attention_gate):
            count = count + self.attention_gate * (d * dq + self.qkv_bias * dq)
        if np.any(self.attention_sinks):
            count = count + self.attention_sinks * self.n_heads_mean
        if self.qk_norm == "head":
            count = count + 2 * self.d_head
        elif self.qk_norm == "full":
            count = count + dq + dkv
        return pick(self.kv_rank, latent_params(self), count) if np.any(self.kv_rank) else count

    @property
    def params_shared_kv(self) -> Any:
        """What a layer that takes keys and values from an earlier one lacks: K and V, their biases, the norm of K."""
        count = self.d_kv * 2 * (self.d_model + self.qkv_bias)
        return count + {"head": self.d_head, "full": self.d_kv}.get(self.qk_norm, 0)

    @property
    def params_recurrence(self) -> Any:
        """Per recurrent layer: `codesign._mixers.recurrence_params`."""
        return recurrence_params(self)

    @property
    def params_norms(self) -> Any:
        """Per layer: norms_per_layer gains (and biases, for LayerNorm) of width d, half before the mixer, half the FFN."""
        return self.norms_per_layer * (1 + self.norm_bias) * self.d_model

    @property
    def params_ffn(self) -> Any:
        """Per dense layer: ffn_matrices * d * d_ff, plus biases."""
        width = self.d_ff_mean
        return self.ffn_matrices * self.d_model * width + self.mlp_bias * ((1 + self.ffn_gated) * width + self.d_model)

    @property
    def params_expert(self) -> Any:
        """One routed expert: ffn_matrices * d * d_ff_expert, plus biases where expert_bias."""
        count = self.ffn_matrices * self.d_model * self.d_ff_expert
        if np.any(self.expert_bias):
            count = count + self.expert_bias * ((1 + self.ffn_gated) * self.d_ff_expert + self.d_model)
        return count

    @property
    def params_moe_common(self) -> Any:
        """Per mixture layer and always active: router d * E (and its bias), shared experts, and their gate (d)."""
        shared = self.ffn_matrices * self.d_model * self.n_shared_experts * self.d_ff_shared
        router = (self.d_model + self.expert_bias) * self.n_experts
        return router + shared + self.shared_expert_gate * self.d_model

    @property
    def params_embedding(self) -> Any:
        """Input embedding: vocab * d (also the output head where tied)."""
        return self.vocab_size * self.d_model

    @property
    def params_head(self) -> Any:
        """Output head beyond the embedding: vocab * d where not tied."""
        return (1 - 1 * self.tied_embeddings) * (self.vocab_size * self.d_model)

    def _params_body(self, n_experts: Any) -> Any:
        body = self.n_layers * self.params_norms + (1 + self.norm_bias) * self.d_model
        if np.any(self.extra_ffn_layers):
            body = body + self.extra_ffn_layers * (self.params_norms // 2)
        attention, dense = self.n_attention_layers, self.n_dense_ffn_layers
        if np.any(self.n_shared_blocks):
            more, norms = self._params_shared_blocks
            body = body + more
            attention = pick(self.n_shared_blocks, self.n_shared_blocks, attention)
            dense = pick(self.n_shared_blocks, self.n_shared_blocks, dense)
            body = body - norms
        body = body + attention * self.params_attention + dense * self.params_ffn
        if np.any(self.n_recurrent_layers):
            body = body + self.n_recurrent_layers * self.params_recurrence
        if np.any(self.n_kv_shared_layers):
            body = body - self.n_kv_shared_layers * self.params_shared_kv
        if np.any(self.n_experts):
            body = body + self.n_moe_layers * (self.params_moe_common + n_experts * self.params_expert)
        return (
            round(float(body)) if self.is_uneven and not np.ndim(body) else body
        )  # a count, though means are fractions

    @property
    def _params_shared_blocks(self) -> tuple[Any, Any]:
        """Zamba2 (arXiv 2411.15242): what each use of a shared block has of its own, and norms counted that it has not.

        Each use: a projection d * d and low-rank adapters of the FFN's inputs, d * r + r * 2 * d_ff, and of Q, K and V where
        attention_adapters. A shared block has norms of 2 d and d; one for each use were counted.
        """
        d, r, uses, shared = self.d_model, self.adapter_rank, self.n_attention_layers, self.n_shared_blocks > 0
        adapter = r * (d + (1 + self.ffn_gated) * self.d_ff)
        queries = self.attention_adapters * r * (3 * self.d_attention_input + self.d_query + 2 * self.d_kv)
        return shared * uses * (d * d + adapter + queries), shared * (2 * uses - 3 * self.n_shared_blocks) * d

    @property
    def params_nonembedding(self) -> Any:
        """All parameters of the layers and the final norm: without input embedding and output head."""
        return self._params_body(self.n_experts)

    @property
    def params_active_nonembedding(self) -> Any:
        """Non-embedding parameters that one token uses: n_active_experts of n_experts."""
        return self._params_body(self.n_active_experts)

    @property
    def params_total(self) -> Any:
        """All stored parameters; equals `sum(p.numel() for p in model.parameters())` of transformers."""
        return self.params_nonembedding + self.params_embedding + self.params_head

    @property
    def params_active(self) -> Any:
        """Stored parameters less the experts that a token does not use."""
        return self.params_active_nonembedding + self.params_embedding + self.params_head


def _mean(values: Any, count: Any, alike: Any) -> Any:
    """Mean of one number a layer (in a batch: rows of them, padded with zeros); `alike` where there are none."""
    if not np.size(values):
        return alike
    mean = np.sum(values, axis=-1) / np.maximum(count, 1)
    return pick(np.asarray(count) > 0 if np.ndim(count) else count > 0, mean, alike)  # of no layers: as if alike


#: One architecture or a batch of them: what formulas read.
ArchitectureLike: TypeAlias = Shape
