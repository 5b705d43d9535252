"""Token mixers beside attention as torch modules: Mamba, Mamba-2, gated delta net, mLSTM, gated short convolution, latent attention.

Each maps (batch, tokens, d_model) and its cache to the same shape and the new cache, with the parameters that
`codesign._mixers` counts. Recurrent states are fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign._mixers import CHUNK_TOKENS, conv_width, projection_widths, recurrent_inner
from codesign.architecture import Architecture
from codesign.models.blocks import CacheSpec, RMSNorm, causal_scores, rotate
from codesign.models.scans import chunked, delta_chunks, delta_step, mlstm_chunks, mlstm_step, ssd_chunks, ssd_step

__all__ = ["MLSTM", "RECURRENT", "DeltaNet", "LatentAttention", "Mamba1", "Mamba2", "Recurrent", "ShortConv"]

Cache = tuple[Tensor, ...]
_GATE_CAP = 15.0  # of mLSTM's gates (xLSTM-7B)


class Recurrent(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Projection in, short causal convolution (where there is one), recurrence, projection out.

    The cache is (last d_conv - 1 inputs of the convolution, states of the recurrence ...).
    """

    def __init__(self, arch: Architecture, eps: float) -> None:
        super().__init__()
        self.arch, self.inner, self.eps = arch, int(recurrent_inner(arch)), eps
        self.convolved, d = int(conv_width(arch)), arch.d_model
        self.in_proj = nn.Linear(d, int(projection_widths(arch)[0]), bias=False)
        if arch.d_conv:
            bias = arch.recurrence in ("mamba1", "mamba2")
            self.conv = nn.Conv1d(self.convolved, self.convolved, arch.d_conv, groups=self.convolved, bias=bias)
        self.out_proj = nn.Linear(self.inner, d, bias=False)

    def state_shapes(self, batch: int) -> list[tuple[int, ...]]:
        """Shapes of the recurrence's states; zeros begin a prompt."""
        a = self.arch
        return [(batch, a.n_state_heads, a.d_state_key, a.d_state_value)]

    def cache_spec(self, batch: int, past: int, dtype: torch.dtype) -> CacheSpec:
        """Shape and type of each part of the cache, whatever the past: the convolution's inputs in `dtype`, states in fp32."""
        taps = [((batch, self.convolved, self.arch.d_conv - 1), dtype)] if self.arch.d_conv else []
        return [*taps, *((shape, torch.float32) for shape in self.state_shapes(batch))]

    def forward(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        if past is None:
            past = tuple(
                torch.zeros(shape, dtype=dtype, device=x.device)
                for shape, dtype in self.cache_spec(x.shape[0], 0, x.dtype)
            )
        return self._mix(self.in_proj(x), past)

    def _convolve(self, x: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
        """Causal depthwise convolution of (batch, tokens, channels), and the inputs that the next token needs."""
        x = torch.cat([taps.to(x.dtype), x.transpose(1, 2)], dim=2)
        if x.shape[2] == self.arch.d_conv:  # one token: a weighted sum
            y = (x * self.conv.weight[:, 0]).sum(-1, keepdim=True)
            y = y if self.conv.bias is None else y + self.conv.bias[:, None]
        else:
            y = self.conv(x)
        return y.transpose(1, 2), x[:, :, x.shape[2] - self.arch.d_conv + 1 :]

    def initialise(self) -> None:
        """Set decays and steps to what training starts from; matrices and gains are set by the model."""

    def _mix(self, x: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        raise NotImplementedError


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, tokens, heads * width) as (batch, heads, tokens, width), fp32."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).float()


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _set_steps(bias: Tensor) -> None:
    """Biases whose softplus runs from 0.001 to 0.1, evenly in ln (arXiv 2312.00752)."""
    steps = torch.logspace(-3, -1, len(bias), device=bias.device)
    bias.copy_(steps.expm1().log())


class Mamba1(Recurrent):
    """Mamba (arXiv 2312.00752): a state of N numbers for each channel; with Jamba's norms of step, B and C where state_norm.

    A prompt is scanned token by token, as the operators say; here that is a loop in Python, far slower than a fused kernel.
    """

    def __init__(self, arch: Architecture, eps: float) -> None:
        super().__init__(arch, eps)
        rank, keys = arch.dt_rank, arch.d_state_key
        self.x_proj = nn.Linear(self.inner, rank + 2 * keys, bias=False)
        self.dt_proj = nn.Linear(rank, self.inner)
        self.A_log, self.D = nn.Parameter(torch.zeros(self.inner, keys)), nn.Parameter(torch.ones(self.inner))
        if arch.state_norm:
            self.dt_norm, self.b_norm, self.c_norm = RMSNorm(rank, eps), RMSNorm(keys, eps), RMSNorm(keys, eps)

    def initialise(self) -> None:
        """A = -1 .. -N in each channel, D = 1, steps from 0.001 to 0.1, evenly in ln."""
        self.A_log.copy_(
            torch.arange(1, self.arch.d_state_key + 1, device=self.A_log.device).log().expand_as(self.A_log)
        )
        self.D.fill_(1.0)
        _set_steps(self.dt_proj.bias)

    def _mix(self, x: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        a = self.arch
        taps, state = past
        mixed, gate = x.split([self.inner, self.inner], dim=-1)
        mixed, taps = self._convolve(mixed, taps)
        mixed = F.silu(mixed)
        step, b, c = self.x_proj(mixed).split([a.dt_rank, a.d_state_key, a.d_state_key], dim=-1)
        if a.state_norm:
            step, b, c = self.dt_norm(step), self.b_norm(b), self.c_norm(c)
        step = F.softplus(self.dt_proj(step).float())
        decay_rate, scaled, b, c = -self.A_log.float().exp(), step * mixed.float(), b.float(), c.float()
        state, outputs = state.squeeze(-1), []  # (batch, channels, N)
        for t in range(x.shape[1]):
            state = state * torch.exp(step[:, t, :, None] * decay_rate) + scaled[:, t, :, None] * b[:, t, None]
            outputs.append(state @ c[:, t, :, None])
        y = torch.cat(outputs, dim=-1).transpose(1, 2) + mixed.float() * self.D.float()
        return self.out_proj((y * F.silu(gate.float())).to(x.dtype)), (taps, state[..., None])


class Mamba2(Recurrent):
    """Mamba-2 (arXiv 2405.21060) with the gated norm over each group of heads."""

    def __init__(self, arch: Architecture, eps: float) -> None:
        super().__init__(arch, eps)
        heads = arch.n_state_heads
        self.A_log, self.D = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.ones(heads))
        self.dt_bias = nn.Parameter(torch.zeros(heads))
        self.norm = RMSNorm(self.inner, eps) if arch.state_norm else None

    def initialise(self) -> None:
        """A = -1 .. -H, D = 1, steps from 0.001 to 0.1, evenly in ln."""
        heads = self.arch.n_state_heads
        self.A_log.copy_(torch.arange(1, heads + 1, device=self.A_log.device).log())
        self.D.fill_(1.0)
        _set_steps(self.dt_bias)

    def _mix(self, x: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        a = self.arch
        taps, state = past
        groups, keys = a.n_state_groups, a.n_state_groups * a.d_state_key
        gate, mixed, dt = x.split([self.inner, self.convolved, a.n_state_heads], dim=-1)
        mixed, taps = self._convolve(mixed, taps)
        values, k, q = F.silu(mixed).split([self.inner, keys, keys], dim=-1)
        step = F.softplus(dt.float() + self.dt_bias.float()).transpose(1, 2)
        decay = -step * self.A_log.float().exp()[:, None]
        v, k, q = _split(values, a.n_state_heads), _split(k, groups), _split(q, groups)
        scaled = v * step[..., None]
        if x.shape[1] == 1:
            each = a.n_state_heads // groups
            k, q = (y[:, :, 0].repeat_interleave(each, dim=1) for y in (k, q))
            y, (state,) = ssd_step(scaled[:, :, 0], decay[:, :, 0], k, q, state)
            y = y[:, :, None]
        else:
            y, (state,) = chunked(ssd_chunks, (scaled, decay, k, q), (state,), CHUNK_TOKENS["mamba2"])
        y = _join(y + v * self.D.float()[:, None, None]) * F.silu(gate.float())
        if self.norm is not None:
            y = y.unflatten(-1, (groups, -1))
            y = (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)).flatten(-2)
            y = y * self.norm.weight
        return self.out_proj(y.to(x.dtype)), (taps, state)


class DeltaNet(Recurrent):
    """Gated delta net (arXiv 2412.06464) as Qwen3-Next has it: L2-normalised keys, an RMS norm of each head, a gate."""

    def __init__(self, arch: Architecture, eps: float) -> None:
        super().__init__(arch, eps)
        self.A_log = nn.Parameter(torch.zeros(arch.n_state_heads))
        self.dt_bias = nn.Parameter(torch.ones(arch.n_state_heads))
        self.norm = RMSNorm(arch.d_state_value, eps)

    def initialise(self) -> None:
        """A from -1 to -16, steps from 0.001 to 0.1, evenly in ln."""
        self.A_log.copy_(torch.linspace(0.0, 2.77, len(self.A_log), device=self.A_log.device))
        _set_steps(self.dt_bias)

    def _mix(self, x: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        a = self.arch
        taps, state = past
        heads, groups, keys = a.n_state_heads, a.n_state_groups, a.n_state_groups * a.d_state_key
        mixed, gate, beta, dt = x.split([self.convolved, self.inner, heads, heads], dim=-1)
        mixed, taps = self._convolve(mixed, taps)
        q, k, v = F.silu(mixed).split([keys, keys, self.inner], dim=-1)
        q, k, v = _split(q, groups), _split(k, groups), _split(v, heads)
        q, k = (y * torch.rsqrt(y.square().sum(-1, keepdim=True) + 1e-6) for y in (q, k))
        q, k = (y.repeat_interleave(heads // groups, dim=1) for y in (q * a.d_state_key**-0.5, k))
        decay = -(self.A_log.float().exp() * F.softplus(dt.float() + self.dt_bias.float())).transpose(1, 2)
        strength = beta.float().sigmoid().transpose(1, 2)
        if x.shape[1] == 1:
            q, k, v, decay, strength = (t[:, :, 0] for t in (q, k, v, decay, strength))
            y, (state,) = delta_step(q, k, v, decay, strength, state)
            y = y[:, :, None]
        else:
            y, (state,) = chunked(delta_chunks, (q, k, v, decay, strength), (state,), CHUNK_TOKENS["gdn"])
        y = self.norm(y.transpose(1, 2)).flatten(2) * F.silu(gate.float())
        return self.out_proj(y.to(x.dtype)), (taps, state)


class MLSTM(Recurrent):
    """mLSTM with exponential gates and an output gate (xLSTM-7B, arXiv 2503.13427)."""

    def __init__(self, arch: Architecture, eps: float) -> None:
        super().__init__(arch, eps)
        self.gate_bias = nn.Parameter(torch.zeros(2 * arch.n_state_heads))
        self.norm = nn.Parameter(torch.ones(self.inner))

    def initialise(self) -> None:
        """Gates' biases of xLSTM-7B: input -10, forget 3 to 6."""
        heads = self.arch.n_state_heads
        self.gate_bias[:heads].fill_(-10.0)
        self.gate_bias[heads:].copy_(torch.linspace(3.0, 6.0, heads, device=self.gate_bias.device))

    def state_shapes(self, batch: int) -> list[tuple[int, ...]]:
        a = self.arch
        return [*super().state_shapes(batch), (batch, a.n_state_heads, a.d_state_key), (batch, a.n_state_heads)]

    def _mix(self, x: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        a = self.arch
        heads, keys = a.n_state_heads, a.n_state_heads * a.d_state_key
        q, k, v, out, gates = x.split([keys, keys, self.inner, self.inner, 2 * heads], dim=-1)
        gates = _GATE_CAP * torch.tanh((gates + self.gate_bias).float() / _GATE_CAP)
        log_input, forget = gates.transpose(1, 2).split(heads, dim=1)
        q, k, v = _split(q, heads) * a.d_state_key**-0.5, _split(k, heads), _split(v, heads)
        inputs = (q, k, v, F.logsigmoid(forget), log_input)
        if x.shape[1] == 1:
            y, past = mlstm_step(*(t[:, :, 0] for t in inputs), *past)
            y = y[:, :, None]
        else:
            y, past = chunked(mlstm_chunks, inputs, past, CHUNK_TOKENS["mlstm"])
        y = _join(F.layer_norm(y, y.shape[-1:], eps=self.eps)) * self.norm.float()
        return self.out_proj((out.float().sigmoid() * y).to(x.dtype)), past


class ShortConv(Recurrent):
    """LFM2's gated short convolution: C * conv(B * x)."""

    def state_shapes(self, batch: int) -> list[tuple[int, ...]]:
        return []

    def _mix(self, x: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        before, after, values = x.chunk(3, dim=-1)
        y, taps = self._convolve(before * values, past[0])
        return self.out_proj(after * y), (taps,)


#: Module by `Architecture.recurrence`.
RECURRENT: dict[str, type[Recurrent]] = {
    "mamba1": Mamba1,
    "mamba2": Mamba2,
    "gdn": DeltaNet,
    "mlstm": MLSTM,
    "conv": ShortConv,
}


class LatentAttention(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434); the cache is (latents, rotated keys), as stored.

    A prompt is computed with keys and values of all heads, one new token in the absorbed form.
    """

    def __init__(self, arch: Architecture, eps: float) -> None:
        super().__init__()
        self.arch = arch
        d, dq, rank, heads = arch.d_model, arch.d_query, arch.kv_rank, arch.n_heads
        self.nope, self.value = arch.d_head - arch.d_rope, int(arch.d_value_head)
        if arch.q_rank:
            self.q_down, self.q_norm = nn.Linear(d, arch.q_rank, bias=False), RMSNorm(arch.q_rank, eps)
        self.q_up = nn.Linear(arch.q_rank or d, dq, bias=False)
        self.kv_down, self.kv_norm = nn.Linear(d, rank + arch.d_rope, bias=False), RMSNorm(rank, eps)
        self.kv_up = nn.Linear(rank, heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, d, bias=False)

    def cache_spec(self, batch: int, past: int, dtype: torch.dtype) -> CacheSpec:
        """Latents and rotated keys of the past."""
        return [((batch, past, self.arch.kv_rank), dtype), ((batch, past, self.arch.d_rope), dtype)]

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], past: Cache | None) -> tuple[Tensor, Cache]:
        a, (batch, new, _) = self.arch, x.shape
        heads, rank = a.n_heads, a.kv_rank
        q = self.q_up(self.q_norm(self.q_down(x)) if a.q_rank else x).view(batch, new, heads, a.d_head).transpose(1, 2)
        q_nope, q_rope = q.split([self.nope, a.d_rope], dim=-1)
        latent, k_rope = self.kv_down(x).split([rank, a.d_rope], dim=-1)
        latent, k_rope = self.kv_norm(latent), rotate(k_rope[:, None], *angles)[:, 0]
        q_rope = rotate(q_rope, *angles)
        if past is not None:
            latent, k_rope = torch.cat([past[0], latent], dim=1), torch.cat([past[1], k_rope], dim=1)
        scale = a.d_head**-0.5
        if new == 1:
            up = self.kv_up.weight.view(heads, self.nope + self.value, rank)
            wide = torch.cat([(q_nope.transpose(0, 1).flatten(1, 2) @ up[:, : self.nope]).view(heads, batch, rank).transpose(0, 1),
                              q_rope[:, :, 0]], dim=-1)  # fmt: skip
            keys = torch.cat([latent, k_rope], dim=-1)
            y = F.scaled_dot_product_attention(wide[:, None], keys[:, None], latent[:, None], scale=scale)[:, 0]
            y = (
                (y.transpose(0, 1) @ up[:, self.nope :].transpose(1, 2))
                .transpose(0, 1)
                .reshape(batch, 1, heads * self.value)
            )
            return self.o_proj(y), (latent, k_rope)
        total = latent.shape[1]
        k_nope, v = (
            self.kv_up(latent).view(batch, total, heads, -1).transpose(1, 2).split([self.nope, self.value], dim=-1)
        )
        k = torch.cat([k_nope, k_rope[:, None].expand(-1, heads, -1, -1)], dim=-1)
        y = causal_scores(torch.cat([q_nope, q_rope], dim=-1), k, v, scale=scale)
        return self.o_proj(y.transpose(1, 2).reshape(batch, new, heads * self.value)), (latent, k_rope)
