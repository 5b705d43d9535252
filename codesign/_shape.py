"""The shape of a decoder: what formulas read, and the parameter counts that follow, written once with broadcasting."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = ["ArchitectureLike", "Shape"]


class ArchitectureLike(Protocol):
    """What formulas read: each member is an integer, or arrays that broadcast against each other.

    Shapes: any, as long as they broadcast; open-mesh axes such as (L, 1, 1) and (1, D, 1) keep sub-expressions small.
    """

    @property
    def n_layers(self) -> Any: ...
    @property
    def d_model(self) -> Any: ...
    @property
    def n_heads(self) -> Any: ...
    @property
    def n_kv_heads(self) -> Any: ...
    @property
    def d_head(self) -> Any: ...
    @property
    def d_ff(self) -> Any: ...
    @property
    def vocab_size(self) -> Any: ...
    @property
    def tied_embeddings(self) -> Any: ...
    @property
    def ffn_gated(self) -> Any: ...
    @property
    def n_experts(self) -> Any: ...
    @property
    def n_active_experts(self) -> Any: ...
    @property
    def d_ff_expert(self) -> Any: ...
    @property
    def n_shared_experts(self) -> Any: ...
    @property
    def d_ff_shared(self) -> Any: ...
    @property
    def n_dense_layers(self) -> Any: ...
    @property
    def shared_expert_gate(self) -> Any: ...
    @property
    def window_tokens(self) -> Any: ...
    @property
    def n_window_layers(self) -> Any: ...
    @property
    def n_moe_layers(self) -> Any: ...
    @property
    def n_dense_ffn_layers(self) -> Any: ...
    @property
    def ffn_matrices(self) -> Any: ...
    @property
    def d_query(self) -> Any: ...
    @property
    def d_kv(self) -> Any: ...
    @property
    def params_total(self) -> Any: ...
    @property
    def params_active(self) -> Any: ...
    @property
    def params_active_nonembedding(self) -> Any: ...


class Shape:
    """Quantities that follow from the fields; parameters are counts, formulas in the property docstrings."""

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
    norms_per_layer: Any
    norm_bias: Any
    qkv_bias: Any
    out_bias: Any
    mlp_bias: Any
    qk_norm: str
    shared_expert_gate: Any

    @property
    def d_query(self) -> Any:
        """Width of the query projection: n_heads * d_head."""
        return self.n_heads * self.d_head

    @property
    def d_kv(self) -> Any:
        """Width of the key (or value) projection: n_kv_heads * d_head."""
        return self.n_kv_heads * self.d_head

    @property
    def n_moe_layers(self) -> Any:
        """Layers whose FFN is a mixture of experts."""
        return (self.n_experts > 0) * (self.n_layers - self.n_dense_layers)

    @property
    def n_dense_ffn_layers(self) -> Any:
        """Layers whose FFN is dense."""
        return self.n_layers - self.n_moe_layers

    @property
    def ffn_matrices(self) -> Any:
        """Matrices of one FFN: 3 when gated (gate, up, down), 2 when plain (up, down)."""
        return 2 + self.ffn_gated

    @property
    def params_attention(self) -> Any:
        """Per layer: Q and O are d * d_query, K and V are d * d_kv, plus biases and QK norms.

        qk_norm "head" has one gain per head size for Q and for K; "full" has one per projected width.
        """
        d, dq, dkv = self.d_model, self.d_query, self.d_kv
        count = 2 * d * (dq + dkv) + self.qkv_bias * (dq + 2 * dkv) + self.out_bias * d
        if self.qk_norm == "head":
            return count + 2 * self.d_head
        if self.qk_norm == "full":
            return count + dq + dkv
        return count

    @property
    def params_norms(self) -> Any:
        """Per layer: norms_per_layer gains (and biases, for LayerNorm) of width d."""
        return self.norms_per_layer * (1 + self.norm_bias) * self.d_model

    @property
    def params_ffn(self) -> Any:
        """Per dense layer: ffn_matrices * d * d_ff, plus biases."""
        return self.ffn_matrices * self.d_model * self.d_ff + self.mlp_bias * (
            (1 + self.ffn_gated) * self.d_ff + self.d_model
        )

    @property
    def params_expert(self) -> Any:
        """One routed expert: ffn_matrices * d * d_ff_expert."""
        return self.ffn_matrices * self.d_model * self.d_ff_expert

    @property
    def params_moe_common(self) -> Any:
        """Per mixture layer and always active: router d * E, shared experts, and their gate (d)."""
        shared = self.ffn_matrices * self.d_model * self.n_shared_experts * self.d_ff_shared
        return self.d_model * self.n_experts + shared + self.shared_expert_gate * self.d_model

    @property
    def params_embedding(self) -> Any:
        """Input embedding: vocab * d (also the output head where tied)."""
        return self.vocab_size * self.d_model

    @property
    def params_head(self) -> Any:
        """Output head beyond the embedding: vocab * d where not tied."""
        return (1 - 1 * self.tied_embeddings) * (self.vocab_size * self.d_model)

    def _params_body(self, n_experts: Any) -> Any:
        per_layer = self.params_attention + self.params_norms
        body = self.n_layers * per_layer + self.n_dense_ffn_layers * self.params_ffn
        if np.any(self.n_experts):
            body = body + self.n_moe_layers * (self.params_moe_common + n_experts * self.params_expert)
        return body + (1 + self.norm_bias) * self.d_model

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
