"""Recurrences over a prompt, in chunks, and for one token: plain torch, in fp32.

State S is (batch, heads, N, P): keys by values. All take an initial state or None (zeros) and give the last one. `chunked` cuts a
prompt into chunks of Q and what is left over into one shorter chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["chunked", "delta_chunks", "delta_step", "mlstm_chunks", "mlstm_step", "ssd_chunks", "ssd_step"]

State = tuple[Tensor, ...]


def chunked(
    scan: Callable[..., tuple[Tensor, State]], inputs: tuple[Tensor, ...], state: State, chunk: int
) -> tuple[Tensor, State]:
    """Run a scan whose inputs are (batch, heads, tokens, ...) in chunks; outputs (batch, heads, tokens, P)."""
    tokens = inputs[0].shape[2]
    whole = tokens // chunk * chunk
    outputs = []
    for low, high, size in ((0, whole, chunk), (whole, tokens, tokens - whole)):
        if high > low:
            parts = (x[:, :, low:high].unflatten(2, (-1, size)) for x in inputs)
            out, state = scan(*parts, *state)
            outputs.append(out.flatten(2, 3))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2), state


def _decays(log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulative ln decay within chunks (..., Q), and exp of its differences (..., Q, Q), lower triangle with diagonal."""
    total = log_decay.cumsum(-1)
    gap = total[..., :, None] - total[..., None, :]
    size = gap.shape[-1]
    causal = torch.ones(size, size, dtype=torch.bool, device=gap.device).tril()
    return total, gap.masked_fill(~causal, -torch.inf).exp()


def _by_group(x: Tensor, groups: int) -> Tensor:
    """(batch, heads, ..., P) as (batch, groups, ..., heads / groups * P): heads that share keys become columns of one product."""
    batch, heads, *middle, width = x.shape
    x = x.view(batch, groups, heads // groups, *middle, width)
    return x.movedim(2, -2).reshape(batch, groups, *middle, heads // groups * width)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """The inverse of `_by_group`."""
    batch, groups, *middle, width = x.shape
    x = x.view(batch, groups, *middle, heads // groups, width * groups // heads)
    return x.movedim(-2, 2).reshape(batch, heads, *middle, width * groups // heads)


def ssd_chunks(x: Tensor, log_decay: Tensor, keys: Tensor, queries: Tensor, state: Tensor) -> tuple[Tensor, State]:
    """Mamba-2's structured state space duality (arXiv 2405.21060, section 6).

    S_t = exp(log_decay_t) S_{t-1} + k_t x_t^T;  y_t = S_t^T q_t.

    Args:
        x: (batch, H, chunks, Q, P); log_decay: (batch, H, chunks, Q); keys, queries: (batch, G, chunks, Q, N); state: (batch, H, N, P).
    """
    heads, groups = x.shape[1], keys.shape[1]
    total, decay = _decays(log_decay)
    scores = queries @ keys.transpose(-1, -2)
    inside = (scores.repeat_interleave(heads // groups, dim=1) * decay) @ x
    late = x * (total[..., -1:] - total).exp()[..., None]
    added = _by_head(keys.transpose(-1, -2) @ _by_group(late, groups), heads)
    last = total[..., -1].exp()
    before = []
    for c in range(x.shape[2]):
        before.append(state)
        state = state * last[:, :, c, None, None] + added[:, :, c]
    earlier = _by_head(queries @ _by_group(torch.stack(before, dim=2), groups), heads)
    return inside + earlier * total.exp()[..., None], (state,)


def ssd_step(x: Tensor, log_decay: Tensor, keys: Tensor, queries: Tensor, state: Tensor) -> tuple[Tensor, State]:
    """One token: x (batch, H, P), log_decay (batch, H), keys and queries (batch, H, N)."""
    state = state * log_decay.exp()[..., None, None] + keys[..., :, None] * x[..., None, :]
    return (queries[..., None, :] @ state).squeeze(-2), (state,)


def delta_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, State]:
    """The gated delta rule in chunks, by the WY form (arXiv 2412.06464, section 3.3).

    S_t = exp(g_t) S_{t-1} + beta_t k_t (v_t - (exp(g_t) S_{t-1})^T k_t)^T;  y_t = S_t^T q_t.

    Args:
        q, k: (batch, H, chunks, Q, N); v: (batch, H, chunks, Q, P); log_decay, beta: (batch, H, chunks, Q); state: (batch, H, N, P).
    """
    total, decay = _decays(log_decay)
    scaled = k * beta[..., None]
    system = (scaled @ k.transpose(-1, -2) * decay).tril(-1)
    right = torch.cat([v * beta[..., None], scaled * total.exp()[..., None]], dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    u, w = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    inside = q @ k.transpose(-1, -2) * decay
    reading = q * total.exp()[..., None]
    writing = (k * (total[..., -1:] - total).exp()[..., None]).transpose(-1, -2)
    last = total[..., -1].exp()
    outputs = []
    for c in range(q.shape[2]):
        new = u[:, :, c] - w[:, :, c] @ state
        outputs.append(reading[:, :, c] @ state + inside[:, :, c] @ new)
        state = state * last[:, :, c, None, None] + writing[:, :, c] @ new
    return torch.stack(outputs, dim=2), (state,)


def delta_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, State]:
    """One token: q, k (batch, H, N), v (batch, H, P), log_decay and beta (batch, H)."""
    state = state * log_decay.exp()[..., None, None]
    held = (k[..., None, :] @ state).squeeze(-2)
    state = state + k[..., :, None] * ((v - held) * beta[..., None])[..., None, :]
    return (q[..., None, :] @ state).squeeze(-2), (state,)


def mlstm_chunks(
    q: Tensor, k: Tensor, v: Tensor, log_forget: Tensor, log_input: Tensor, state: Tensor, norm: Tensor, top: Tensor
) -> tuple[Tensor, State]:
    """mLSTM in chunks, stabilised by the running maximum m (xLSTM, arXiv 2405.04517; chunkwise form of arXiv 2503.14376).

    C_t = f C_{t-1} + i k v^T, n_t = f n_{t-1} + i k, y_t = C_t^T q / max(|n_t^T q|, exp(-m_t)), all times exp(-m_t).

    Args:
        q, k: (batch, H, chunks, Q, N), q scaled; v: (batch, H, chunks, Q, P); log_forget, log_input: (batch, H, chunks, Q);
        state: (batch, H, N, P); norm: (batch, H, N); top: m, (batch, H).
    """
    total = log_forget.cumsum(-1)
    size = total.shape[-1]
    causal = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    logs = (total[..., :, None] - total[..., None, :] + log_input[..., None, :]).masked_fill(~causal, -torch.inf)
    highest, scores = logs.amax(-1), q @ k.transpose(-1, -2)
    to_end = total[..., -1:] - total + log_input
    end_top = to_end.amax(-1)
    outputs = []
    for c in range(q.shape[2]):
        m = torch.maximum(highest[:, :, c], total[:, :, c] + top[..., None])
        weights = scores[:, :, c] * (logs[:, :, c] - m[..., None]).exp()
        carried = q[:, :, c] * (total[:, :, c] + top[..., None] - m).exp()[..., None]
        y = weights @ v[:, :, c] + carried @ state
        total_weight = weights.sum(-1) + (carried * norm[..., None, :]).sum(-1)
        outputs.append(y / (torch.maximum(total_weight.abs(), (-m).exp()) + 1e-6)[..., None])
        new_top = torch.maximum(total[:, :, c, -1] + top, end_top[:, :, c])
        keep = (total[:, :, c, -1] + top - new_top).exp()
        late = k[:, :, c] * (to_end[:, :, c] - new_top[..., None]).exp()[..., None]
        state = state * keep[..., None, None] + late.transpose(-1, -2) @ v[:, :, c]
        norm, top = norm * keep[..., None] + late.sum(-2), new_top
    return torch.stack(outputs, dim=2), (state, norm, top)


def mlstm_step(
    q: Tensor, k: Tensor, v: Tensor, log_forget: Tensor, log_input: Tensor, state: Tensor, norm: Tensor, top: Tensor
) -> tuple[Tensor, State]:
    """One token: q (scaled), k (batch, H, N), v (batch, H, P), log_forget and log_input (batch, H)."""
    new_top = torch.maximum(log_forget + top, log_input)
    keep, late = (log_forget + top - new_top).exp(), k * (log_input - new_top).exp()[..., None]
    state = state * keep[..., None, None] + late[..., :, None] * v[..., None, :]
    norm = norm * keep[..., None] + late
    total = (q * norm).sum(-1).abs()
    y = (q[..., None, :] @ state).squeeze(-2) / (torch.maximum(total, (-new_top).exp()) + 1e-6)[..., None]
    return y, (state, norm, new_top)
