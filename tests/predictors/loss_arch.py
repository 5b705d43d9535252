"""A minimal architecture with the fields that laws read, so that these tests stand on their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Arch:
    n_layers: Any = 16
    d_model: Any = 1024
    n_heads: Any = 8
    n_kv_heads: Any = 4
    d_head: Any = 128
    d_ff: Any = 4096
    ffn_gated: Any = True
    vocab_size: Any = 50304
    tied_embeddings: Any = False
    n_experts: Any = 0
    n_active_experts: Any = 0
    d_ff_expert: Any = 0
    n_shared_experts: Any = 0
    d_ff_shared: Any = 0
    n_dense_layers: Any = 0
    window_tokens: Any = 0
    n_window_layers: Any = 0
    recurrence: str = "none"
    n_recurrent_layers: Any = 0
    n_state_heads: Any = 0
    d_state_value: Any = 0
    d_state_key: Any = 0
    extra_ffn_layers: Any = 0
    kv_rank: Any = 0
    n_kv_shared_layers: Any = 0
    n_loops: Any = 1
    n_looped_layers: Any = 0
    n_shared_blocks: Any = 0

    @property
    def is_uneven(self) -> bool:
        return False

    @property
    def d_ff_mean(self) -> Any:
        return self.d_ff

    @property
    def n_heads_mean(self) -> Any:
        return self.n_heads

    @property
    def n_kv_heads_mean(self) -> Any:
        return self.n_kv_heads

    @property
    def n_attention_layers(self) -> Any:
        return self.n_layers - self.n_recurrent_layers

    @property
    def params_active_nonembedding(self) -> Any:
        mixed = (self.n_experts > 0) * (self.n_layers - self.n_dense_layers)
        routed = self.n_active_experts * self.d_ff_expert + self.n_shared_experts * self.d_ff_shared
        ffn = 3 * self.d_model * ((self.n_layers - mixed) * self.d_ff + mixed * routed)
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads)
        return ffn + self.n_layers * (attention + 2 * self.d_model)

    def evolve(self, **changes: Any) -> Arch:
        return replace(self, **changes)
