"""The decoder as a torch module: what profilers run and training trains.

Its parameters are named as in `codesign.models.features`, and it computes what the family's model in transformers computes,
given the same weights (`codesign.models.transformers_names`). Grouped-query attention runs through
`scaled_dot_product_attention`; a cache is a list of (key, value), each (batch, n_kv_heads, past, d_head), keys rotated.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.architecture import Architecture
from codesign.models.features import Features, features, is_mixture
from codesign.models.weights import RandomWeights

__all__ = ["Cache", "Decoder", "random_decoder"]

Cache = list[tuple[Tensor, Tensor]]


class RMSNorm(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """x / sqrt(mean(x^2) + eps) * gain over the last axis, computed in fp32 (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return self.weight * (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class FeedForward(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """down(act(gate(x)) * up(x)), or down(act(up(x))) where it is not gated."""

    def __init__(self, d_model: int, width: int, *, gated: bool, bias: bool, activation: str) -> None:
        super().__init__()
        self.up_proj = nn.Linear(d_model, width, bias=bias)
        self.gate_proj = nn.Linear(d_model, width, bias=bias) if gated else None
        self.down_proj = nn.Linear(width, d_model, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(self._act(self.up_proj(x)))
        return self.down_proj(self._act(self.gate_proj(x)) * self.up_proj(x))

    def _act(self, x: Tensor) -> Tensor:
        if self.activation == "silu":
            return F.silu(x)
        return F.relu(x).square() if self.activation == "relu2" else F.gelu(x, approximate="tanh")


class Layer(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Attention and FFN (dense or a mixture), each added to the residual stream."""

    def __init__(self, arch: Architecture, has: Features, index: int) -> None:
        super().__init__()
        self.arch, self.has, self.sliding = arch, has, has.sliding[index]
        d, eps = arch.d_model, has.norm_eps

        def norm() -> nn.Module:
            return nn.LayerNorm(d, eps=eps) if arch.norm_bias else RMSNorm(d, eps)

        self.q_proj = nn.Linear(d, arch.d_query, bias=arch.qkv_bias)
        self.k_proj = nn.Linear(d, arch.d_kv, bias=arch.qkv_bias)
        self.v_proj = nn.Linear(d, arch.d_kv, bias=arch.qkv_bias)
        self.o_proj = nn.Linear(arch.d_query, d, bias=arch.out_bias)
        if arch.qk_norm != "none":
            head = arch.qk_norm == "head"
            self.q_norm = RMSNorm(arch.d_head if head else arch.d_query, eps)
            self.k_norm = RMSNorm(arch.d_head if head else arch.d_kv, eps)
        if has.pre_norm:
            self.attention_norm, self.ffn_norm = norm(), norm()
        if has.post_norm:
            self.attention_post_norm, self.ffn_post_norm = norm(), norm()

        def ffn(width: int, bias: bool = False) -> FeedForward:
            return FeedForward(d, width, gated=arch.ffn_gated, bias=bias, activation=has.activation)

        self.mixture = is_mixture(arch, index)
        if not self.mixture:
            self.ffn = ffn(arch.d_ff, arch.mlp_bias)
            return
        self.router = nn.Linear(d, arch.n_experts, bias=False)
        self.experts = nn.ModuleList(ffn(arch.d_ff_expert) for _ in range(arch.n_experts))
        shared = arch.n_shared_experts * arch.d_ff_shared
        self.shared_expert = ffn(shared) if shared else None
        self.shared_gate = nn.Linear(d, 1, bias=False) if arch.shared_expert_gate else None

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.attention_norm(x) if self.has.pre_norm else x
        y, present = self._attention(y, angles, past)
        x = x + (self.attention_post_norm(y) if self.has.post_norm else y)
        y = self.ffn_norm(x) if self.has.pre_norm else x
        y = self._mixture(y) if self.mixture else self.ffn(y)
        return x + (self.ffn_post_norm(y) if self.has.post_norm else y), present

    def _attention(
        self, x: Tensor, angles: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        arch, (batch, new, _) = self.arch, x.shape

        def heads(y: Tensor, norm: str = "") -> Tensor:
            y = getattr(self, norm)(y) if norm and arch.qk_norm == "full" else y
            y = y.view(batch, new, -1, arch.d_head)
            y = getattr(self, norm)(y) if norm and arch.qk_norm == "head" else y
            return y.transpose(1, 2)

        q = rotate(heads(self.q_proj(x), "q_norm"), *angles)
        k = rotate(heads(self.k_proj(x), "k_norm"), *angles)
        v = heads(self.v_proj(x))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        y = self._scores(q, k, v)
        return self.o_proj(y.transpose(1, 2).reshape(batch, new, arch.d_query)), (k, v)

    def _scores(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(d_head)) v over what each query may see; the cache ends with the newest position."""
        arch, new, total = self.arch, q.shape[2], k.shape[2]
        group = arch.n_heads // arch.n_kv_heads
        window = arch.window_tokens if self.sliding and arch.window_tokens < total else 0
        if new == 1:  # the queries that share a key head become rows of one product: the cache is not repeated
            if window:
                k, v = k[:, :, -window:], v[:, :, -window:]
            grouped = q.reshape(q.shape[0], arch.n_kv_heads, group, arch.d_head)
            return F.scaled_dot_product_attention(grouped, k, v).reshape(q.shape)
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        if new == total and not window:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        query = torch.arange(total - new, total, device=q.device)[:, None]
        key = torch.arange(total, device=q.device)
        mask = (key <= query) & (query - key < window) if window else key <= query
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def _mixture(self, x: Tensor) -> Tensor:
        """Weighted sum of the K experts of each token, plus the shared expert (Mixtral, arXiv 2401.04088)."""
        rows = x.reshape(-1, x.shape[-1])
        share, chosen = self.router(rows).float().softmax(-1).topk(self.arch.n_active_experts, dim=-1)
        if self.has.normalise_routing:
            share = share / share.sum(-1, keepdim=True)
        share = share.to(x.dtype)
        out = torch.zeros_like(rows)
        for expert in chosen.unique().tolist():  # an expert without tokens costs nothing
            token, slot = torch.where(chosen == expert)
            out.index_add_(0, token, self.experts[expert](rows[token]) * share[token, slot, None])
        if self.shared_expert is not None:
            shared = self.shared_expert(rows)
            out = out + (shared if self.shared_gate is None else torch.sigmoid(self.shared_gate(rows)) * shared)
        return out.view_as(x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv 2104.09864) of the first dimensions, in halves as transformers does it."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class Decoder(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """A decoder-only language model.

    Args:
        arch: its architecture; the parameters add up to `arch.params_total`.

    Raises:
        SpecError: a field that no runnable model is written for.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch, self.has = arch, features(arch)
        self.embed_tokens = nn.Embedding(arch.vocab_size, arch.d_model)
        self.layers = nn.ModuleList(Layer(arch, self.has, i) for i in range(arch.n_layers))
        eps = self.has.norm_eps
        self.final_norm = nn.LayerNorm(arch.d_model, eps=eps) if arch.norm_bias else RMSNorm(arch.d_model, eps)
        self.lm_head = None if arch.tied_embeddings else nn.Linear(arch.d_model, arch.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        past: Cache | None = None,
        last_only: bool = True,
    ) -> tuple[Tensor, Cache]:
        """Logits and the cache with the new positions.

        Args:
            input_ids: (batch, sequence); position_ids: the same shape, consecutive; None continues the cache.
            past: the cache, which ends right before the first new position; None is empty. Layers with a sliding window
                may be given the last window_tokens - 1 positions only (then give position_ids).
            last_only: logits of the last position only (batch, 1, vocab), as serving needs them; else of all.
        """
        if position_ids is None:
            start = past[0][0].shape[2] if past else 0
            position_ids = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)[None]
        x = self.embed_tokens(input_ids)
        if self.has.embedding_scale != 1:
            x = x * self.has.embedding_scale
        angles = {
            sliding: self._angles(position_ids, self.has.rope_theta[sliding], x.dtype)
            for sliding in sorted(set(self.has.sliding))
        }
        present: Cache = []
        for i, layer in enumerate(self.layers):
            x, kept = layer(x, angles[self.has.sliding[i]], past[i] if past else None)
            present.append(kept)
        x = self.final_norm(x[:, -1:] if last_only else x)
        return F.linear(x, self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight), present

    def _angles(self, position_ids: Tensor, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine of position * theta^(-2 i / rotary_dim), (batch, 1, sequence, rotary_dim / 2)."""
        width = self.has.rotary_dim
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device=position_ids.device) / width
        angles = position_ids[:, None, :, None].float() * (theta**-exponents).float()
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def initialise(self, seed: int) -> Decoder:
        """Weights to start training from: normal with standard deviation 0.02, gains 1, biases 0, as transformers does."""
        generator = torch.Generator(device=self.embed_tokens.weight.device).manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.02, generator=generator)
                else:
                    parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        return self


def random_decoder(
    arch: Architecture, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: Any = "cpu"
) -> Decoder:
    """A decoder with random weights to be timed, made at the speed of a copy (to train, use `Decoder.initialise`)."""
    with torch.device("meta"):
        model = Decoder(arch)
    model.to(dtype).to_empty(device=device)
    random = RandomWeights(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            else:
                parameter.copy_(torch.from_numpy(random.normal(tuple(parameter.shape), "float32")))
    model.eval()
    return model
