"""Zamba2 (arXiv 2411.15242) as a torch module: Mamba-2 layers, before some of them an attention-and-FFN block whose weights they share.

A block reads the hidden state and the embedding side by side, has no residual of its own, and differs from use to use by low-rank
adapters and a projection; what comes out is added to what the Mamba-2 layer reads. Without rotation, as the family's default.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign._layout import sublayers
from codesign.architecture import Architecture
from codesign.errors import SpecError
from codesign.models.blocks import CacheSpec, RMSNorm, causal_scores, set_weights
from codesign.models.features import features
from codesign.models.mixers import Mamba2

__all__ = ["SharedStack"]

Cache = list[tuple[Tensor, ...]]


class SharedBlock(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """The weights that several uses share."""

    def __init__(self, arch: Architecture, eps: float) -> None:
        super().__init__()
        d, ff = arch.d_model, arch.d_ff
        self.norm, self.ffn_norm = RMSNorm(2 * d, eps), RMSNorm(d, eps)
        self.q_proj = nn.Linear(2 * d, arch.d_query, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(2 * d, arch.d_kv, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(arch.d_query, d, bias=False)
        self.gate_proj, self.up_proj = (nn.Linear(d, ff, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(ff, d, bias=False)


class Use(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """What one use of a block has of its own: a projection and low-rank adapters."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        d, r = arch.d_model, arch.adapter_rank
        self.out_proj = nn.Linear(d, d, bias=False)

        def adapter(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(inputs, r, bias=False), nn.Linear(r, outputs, bias=False))

        self.ffn_adapter = adapter(d, 2 * arch.d_ff)
        if arch.attention_adapters:
            self.q_adapter = adapter(2 * d, arch.d_query)
            self.k_adapter, self.v_adapter = (adapter(2 * d, arch.d_kv) for _ in range(2))


class SharedStack(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """A decoder with shared blocks; interface as `codesign.models.stack.Stack`. The cache has (keys, values) of each use and what
    each Mamba-2 layer keeps, in the order in which they run.

    Raises:
        SpecError: a layout of other than R and AFR, or a field that no runnable model is written for.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch, self.has = arch, features(arch)
        letters = sublayers(arch)
        if letters.replace("AFR", "").strip("R") or arch.recurrence != "mamba2" or not arch.ffn_gated:
            raise SpecError(
                f"layout {letters!r} has no runnable model with shared blocks; only R and AFR have, of Mamba-2 and gated FFNs"
            )
        self.used = [letter == "U" for letter in letters.replace("AFR", "U")]
        eps = self.has.norm_eps
        self.embed_tokens = nn.Embedding(arch.vocab_size, arch.d_model)
        self.blocks = nn.ModuleList(SharedBlock(arch, eps) for _ in range(arch.n_shared_blocks))
        self.uses = nn.ModuleList(Use(arch) for _ in range(sum(self.used)))
        self.norms = nn.ModuleList(RMSNorm(arch.d_model, eps) for _ in self.used)
        self.layers = nn.ModuleList(Mamba2(arch, eps) for _ in self.used)
        self.final_norm = RMSNorm(arch.d_model, eps)
        self.lm_head = None if arch.tied_embeddings else nn.Linear(arch.d_model, arch.vocab_size, bias=False)

    def cache_spec(self, batch: int, past: int, dtype: torch.dtype) -> list[CacheSpec]:
        """Each entry of the cache after `past` tokens."""
        arch = self.arch
        spec: list[CacheSpec] = []
        for layer, used in zip(self.layers, self.used, strict=True):
            if used:
                spec.append([((batch, arch.n_kv_heads, past, arch.d_head), dtype)] * 2)
            spec.append(layer.cache_spec(batch, past, dtype))
        return spec

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, past: Cache | None = None, last_only: bool = True
    ) -> tuple[Tensor, Cache]:
        """Logits and the cache with the new positions; see `codesign.models.decoder.Decoder.forward`."""
        x, present = self._run(input_ids, past)
        x = self.final_norm(x[:, -1:] if last_only else x)
        return F.linear(x, self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight), present

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Hidden states after the last norm, (batch, sequence, d_model)."""
        return self.final_norm(self._run(input_ids, None)[0])

    def _run(self, input_ids: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        embedded = x = self.embed_tokens(input_ids)
        present: Cache = []
        use = 0
        for norm, layer, used in zip(self.norms, self.layers, self.used, strict=True):
            read = x
            if used:
                added, kept = self._block(use, torch.cat([x, embedded], dim=-1), past[len(present)] if past else None)
                present.append(kept)
                read, use = x + added, use + 1
            y, after = layer(norm(read), past[len(present)] if past else None)
            present.append(after)
            x = x + y
        return x, present

    def _block(self, use: int, x: Tensor, past: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        arch, block, own = self.arch, self.blocks[use % self.arch.n_shared_blocks], self.uses[use]
        x = block.norm(x)
        q, k, v = block.q_proj(x), block.k_proj(x), block.v_proj(x)
        if arch.attention_adapters:
            q, k, v = q + own.q_adapter(x), k + own.k_adapter(x), v + own.v_adapter(x)
        q, k, v = (y.unflatten(-1, (-1, arch.d_head)).transpose(1, 2) for y in (q, k, v))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        group = arch.n_heads // arch.n_kv_heads
        keys, values = (y.repeat_interleave(group, dim=1) if group > 1 else y for y in (k, v))
        y = causal_scores(q, keys, values, scale=(arch.d_head / 2) ** -0.5)
        y = block.ffn_norm(block.o_proj(y.transpose(1, 2).flatten(2)))
        gate, up = own.ffn_adapter(y).chunk(2, dim=-1)
        y = block.down_proj(F.gelu(block.gate_proj(y) + gate) * (block.up_proj(y) + up))
        return own.out_proj(y), (k, v)

    def initialise(self, seed: int) -> SharedStack:
        """Weights to start training from, as `codesign.models.stack.Stack.initialise`."""
        set_weights(self, seed)
        with torch.no_grad():
            for layer in self.layers:
                layer.initialise()
        return self
