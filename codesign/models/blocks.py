"""Parts of decoders as torch modules: norms, attention, FFN and mixtures. Parameters are named as in `codesign.models.features`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.architecture import Architecture
from codesign.models.features import Features

__all__ = [
    "Attention", "CacheSpec", "FeedForward", "FeedForwardBlock", "KeyValues", "RMSNorm", "add_feed_forward", "causal_scores", "feed_forward",
    "norm_of", "rotary_angles", "rotate", "set_weights",
]  # fmt: skip

#: Keys and values of one layer, each (batch, n_kv_heads, past, d_head), keys rotated.
KeyValues = tuple[Tensor, Tensor]
#: Shape and type of each tensor that one layer keeps.
CacheSpec = list[tuple[tuple[int, ...], torch.dtype]]
_ALPHA, _CLAMP = 1.702, 7.0


class RMSNorm(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """x / sqrt(mean(x^2) + eps) * gain over the last axis, computed in fp32 (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return self.weight * (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class FeedForward(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """down(act(gate(x)) * up(x)), or down(act(up(x))) where it is not gated.

    clamped (gpt-oss): g sigmoid(1.702 g) (u + 1) of gates and values clamped at 7.
    """

    def __init__(self, d_model: int, width: int, *, gated: bool, bias: bool, activation: str) -> None:
        super().__init__()
        self.up_proj = nn.Linear(d_model, width, bias=bias)
        self.gate_proj = nn.Linear(d_model, width, bias=bias) if gated else None
        self.down_proj = nn.Linear(width, d_model, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(self._act(self.up_proj(x)))
        gate, up = self.gate_proj(x), self.up_proj(x)
        if self.activation == "clamped":
            gate, up = gate.clamp(max=_CLAMP), up.clamp(-_CLAMP, _CLAMP) + 1
            return self.down_proj(up * gate * torch.sigmoid(_ALPHA * gate))
        return self.down_proj(self._act(gate) * up)

    def _act(self, x: Tensor) -> Tensor:
        if self.activation == "silu":
            return F.silu(x)
        return F.relu(x).square() if self.activation == "relu2" else F.gelu(x, approximate="tanh")


def norm_of(arch: Architecture, eps: float) -> nn.Module:
    """The norm of the residual stream: RMSNorm, or LayerNorm where norms have biases."""
    return nn.LayerNorm(arch.d_model, eps=eps) if arch.norm_bias else RMSNorm(arch.d_model, eps)


class Attention(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Grouped-query attention with or without a window, QK norms and an output gate.

    `shares`: it has no keys and values of its own, but is given those of an earlier layer.
    """

    def __init__(self, arch: Architecture, has: Features, sliding: bool, shares: bool = False) -> None:
        super().__init__()
        self.arch, self.has, self.sliding, self.shares = arch, has, sliding, shares
        d, eps = arch.d_model, has.norm_eps
        self.q_proj = nn.Linear(d, arch.d_query * (1 + arch.attention_gate), bias=arch.qkv_bias)
        if not shares:
            self.k_proj = nn.Linear(d, arch.d_kv, bias=arch.qkv_bias)
            self.v_proj = nn.Linear(d, arch.d_kv, bias=arch.qkv_bias)
        self.o_proj = nn.Linear(arch.d_query, d, bias=arch.out_bias)
        self.sinks: Tensor | None = nn.Parameter(torch.zeros(arch.n_heads)) if arch.attention_sinks else None
        if arch.qk_norm != "none":
            head = arch.qk_norm == "head"
            self.q_norm = RMSNorm(arch.d_head if head else arch.d_query, eps)
            if not shares:
                self.k_norm = RMSNorm(arch.d_head if head else arch.d_kv, eps)

    def attend(
        self, x: Tensor, angles: tuple[Tensor, Tensor], past: KeyValues | None, given: KeyValues | None = None
    ) -> tuple[Tensor, KeyValues]:
        """Output, and keys and values with the new positions; `given`: those of the layer whose cache this one uses."""
        arch, (batch, new, _) = self.arch, x.shape

        def heads(y: Tensor, norm: str = "") -> Tensor:
            y = getattr(self, norm)(y) if norm and arch.qk_norm == "full" else y
            y = y.view(batch, new, -1, arch.d_head)
            y = getattr(self, norm)(y) if norm and arch.qk_norm == "head" else y
            return y.transpose(1, 2)

        q, gate = self.q_proj(x), None
        if arch.attention_gate:
            q, gate = (y.reshape(batch, new, -1) for y in q.view(batch, new, arch.n_heads, -1).chunk(2, dim=-1))
        q = rotate(heads(q, "q_norm"), *angles)
        if given is None:
            k = rotate(heads(self.k_proj(x), "k_norm"), *angles)
            v = heads(self.v_proj(x))
            if past is not None:
                k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        else:
            k, v = given
        y = self._scores(q, k, v).transpose(1, 2).reshape(batch, new, arch.d_query)
        return self.o_proj(y if gate is None else y * torch.sigmoid(gate)), (k, v)

    def _scores(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(d_head)) v over what each query may see; the cache ends with the newest position."""
        arch, new, total = self.arch, q.shape[2], k.shape[2]
        group = arch.n_heads // arch.n_kv_heads
        if self.sinks is not None:
            return self._with_sinks(q, k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1))
        window = arch.window_tokens if self.sliding and arch.window_tokens < total else 0
        if new == 1:  # the queries that share a key head become rows of one product: the cache is not repeated
            if window:
                k, v = k[:, :, -window:], v[:, :, -window:]
            grouped = q.reshape(q.shape[0], arch.n_kv_heads, group, arch.d_head)
            return F.scaled_dot_product_attention(grouped, k, v).reshape(q.shape)
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        return causal_scores(q, k, v, window)

    def _with_sinks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each head's softmax has one more column, a learnt number that no value belongs to."""
        seen = _seen(q.shape[2], k.shape[2], self.arch.window_tokens if self.sliding else 0, q.device)
        scores = (q @ k.transpose(-1, -2) * self.arch.d_head**-0.5).masked_fill(~seen, -torch.inf)
        assert self.sinks is not None
        sink = self.sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1] @ v


def causal_scores(q: Tensor, k: Tensor, v: Tensor, window: int = 0, scale: float | None = None) -> Tensor:
    """Attention of queries (batch, heads, new, width) to keys up to their own position, or to a window of them."""
    new, total = q.shape[2], k.shape[2]
    if new == total and not window:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_seen(new, total, window, q.device), scale=scale)


def _seen(new: int, total: int, window: int, device: torch.device) -> Tensor:
    """Which keys each of the newest queries sees: up to its own position, or a window of them (0: none), (new, total)."""
    query = torch.arange(total - new, total, device=device)[:, None]
    key = torch.arange(total, device=device)
    return (key <= query) & (query - key < window) if window else key <= query


def set_weights(model: nn.Module, seed: int) -> None:
    """Weights to start training from: matrices normal with standard deviation 0.02, gains of norms 1, all other vectors 0."""
    generator = torch.Generator(device=model.embed_tokens.weight.device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name and not name.endswith("bias") else 0.0)


class FeedForwardBlock(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """A dense FFN or a mixture of experts."""

    def __init__(self, arch: Architecture, has: Features, mixture: bool) -> None:
        super().__init__()
        add_feed_forward(self, arch, has, mixture)

    def forward(self, x: Tensor) -> Tensor:
        return feed_forward(self, x)


def add_feed_forward(to: nn.Module, arch: Architecture, has: Features, mixture: bool) -> None:
    """Give a module the parameters of its FFN."""
    to.arch, to.has, to.mixture = arch, has, mixture
    d = arch.d_model

    def ffn(width: int, bias: bool = False) -> FeedForward:
        return FeedForward(d, width, gated=arch.ffn_gated, bias=bias, activation=has.activation)

    if not mixture:
        to.ffn = ffn(arch.d_ff, arch.mlp_bias)
        return
    to.router = nn.Linear(d, arch.n_experts, bias=arch.expert_bias)
    to.experts = nn.ModuleList(ffn(arch.d_ff_expert, arch.expert_bias) for _ in range(arch.n_experts))
    shared = arch.n_shared_experts * arch.d_ff_shared
    to.shared_expert = ffn(shared) if shared else None
    to.shared_gate = nn.Linear(d, 1, bias=False) if arch.shared_expert_gate else None


def feed_forward(of: nn.Module, x: Tensor) -> Tensor:
    """The FFN, or the weighted sum of the K experts of each token plus the shared expert (Mixtral, arXiv 2401.04088)."""
    if not of.mixture:
        return of.ffn(x)
    rows = x.reshape(-1, x.shape[-1])
    share, chosen = of.router(rows).float().softmax(-1).topk(of.arch.n_active_experts, dim=-1)
    if of.has.normalise_routing:
        share = share / share.sum(-1, keepdim=True)
    share = share.to(x.dtype)
    out = torch.zeros_like(rows)
    for expert in chosen.unique().tolist():  # an expert without tokens costs nothing
        token, slot = torch.where(chosen == expert)
        out.index_add_(0, token, of.experts[expert](rows[token]) * share[token, slot, None])
    if of.shared_expert is not None:
        shared = of.shared_expert(rows)
        out = out + (shared if of.shared_gate is None else torch.sigmoid(of.shared_gate(rows)) * shared)
    return out.view_as(x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv 2104.09864) of the first dimensions, in halves as transformers does it."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def rotary_angles(position_ids: Tensor, width: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position * theta^(-2 i / width), (batch, 1, sequence, width / 2)."""
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=position_ids.device) / width
    angles = position_ids[:, None, :, None].float() * (theta**-exponents).float()
    return angles.cos().to(dtype), angles.sin().to(dtype)
