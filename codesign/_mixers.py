"""Parameters and widths of token mixers other than plain attention, as formulas that broadcast.

One architecture has at most one kind of recurrence. All kinds keep, per layer and request, a matrix state of H heads of
size (d_value, d_key); the table gives the small tensors that each kind has beside its projections.

| recurrence | H heads | d_value P | d_key N | G groups | source |
|---|---|---|---|---|---|
| mamba1 | channels (expand * d) | 1 | state size | - | arXiv 2312.00752; low-rank step of rank `dt_rank` |
| mamba2 | heads | head size | state size | groups of B and C | arXiv 2405.21060 |
| gdn | value heads | value head size | key head size | key heads | gated delta net, arXiv 2412.06464 |
| mlstm | heads | value head size | key head size | - | xLSTM-7B, arXiv 2503.13427 |
| conv | channels | 1 | 0: no state but the convolution's | - | gated short convolution, LFM2, arXiv 2511.23404 |
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = [
    "CHUNK_TOKENS", "RECURRENCES", "Mixed", "conv_width", "latent_params", "pick", "projection_widths", "recurrence_params",
    "recurrent_inner",
]  # fmt: skip

RECURRENCES = ("none", "mamba1", "mamba2", "gdn", "mlstm", "conv")
#: Tokens that a prompt is cut into, by kind: the published implementations' own (mamba1 scans token by token).
CHUNK_TOKENS = {"mamba1": 1, "mamba2": 256, "gdn": 64, "mlstm": 64}


def pick(condition: Any, this: Any, other: Any) -> Any:
    """`this` where the condition holds, else `other`; of plain numbers a plain number, so that counts stay exact."""
    return np.where(condition, this, other) if np.ndim(condition) else this if condition else other


class Mixed(Protocol):
    """The fields that these formulas read; see `codesign.architecture.Architecture`."""

    @property
    def d_model(self) -> Any: ...
    @property
    def n_heads(self) -> Any: ...
    @property
    def d_head(self) -> Any: ...
    @property
    def q_rank(self) -> Any: ...
    @property
    def kv_rank(self) -> Any: ...
    @property
    def d_rope(self) -> Any: ...
    @property
    def d_value_head(self) -> Any: ...
    @property
    def recurrence(self) -> str: ...
    @property
    def n_state_heads(self) -> Any: ...
    @property
    def d_state_value(self) -> Any: ...
    @property
    def d_state_key(self) -> Any: ...
    @property
    def n_state_groups(self) -> Any: ...
    @property
    def d_conv(self) -> Any: ...
    @property
    def dt_rank(self) -> Any: ...
    @property
    def state_norm(self) -> Any: ...


def latent_params(a: Mixed) -> Any:
    """Per layer of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), without biases.

    Queries: d * q_rank + q_rank (norm) + q_rank * d_query, or d * d_query where q_rank is 0. Keys and values: down
    d * (kv_rank + d_rope), norm kv_rank, up kv_rank * n_heads * (d_head - d_rope + d_value). Output: n_heads * d_value * d.
    """
    d, dq, heads = a.d_model, a.n_heads * a.d_head, a.n_heads
    query = pick(a.q_rank, a.q_rank * (d + 1 + dq), d * dq)
    down = d * (a.kv_rank + a.d_rope) + a.kv_rank
    up = a.kv_rank * heads * (a.d_head - a.d_rope + a.d_value_head)
    return query + down + up + heads * a.d_value_head * d


def recurrent_inner(a: Mixed) -> Any:
    """Width of the recurrence's values: n_state_heads * d_state_value."""
    return a.n_state_heads * a.d_state_value


def conv_width(a: Mixed) -> Any:
    """Channels of the short causal convolution before the recurrence (0 for mlstm, which has none)."""
    inner = recurrent_inner(a)
    if a.recurrence in ("mamba1", "conv"):
        return inner
    if a.recurrence in ("mamba2", "gdn"):
        return inner + 2 * a.n_state_groups * a.d_state_key
    return 0 * inner


def projection_widths(a: Mixed) -> tuple[Any, Any]:
    """Outputs of the projections into a recurrence that read the hidden state, and of those inside it (mamba1's).

    mamba1: 2 HP, then R + 2N from HP. mamba2: 2 HP + 2 GN + H. gdn: 2 HP + 2 GN + 2 H. mlstm: 2 HN + 2 HP + 2 H.
    conv: 3 HP (what is convolved, and the gates before and after it).
    """
    inner, heads, keys = recurrent_inner(a), a.n_state_heads, a.d_state_key
    groups = a.n_state_groups * keys
    if a.recurrence == "mamba1":
        return 2 * inner, a.dt_rank + 2 * keys
    if a.recurrence == "mamba2":
        return 2 * inner + 2 * groups + heads, 0
    if a.recurrence == "gdn":
        return 2 * inner + 2 * groups + 2 * heads, 0
    if a.recurrence == "conv":
        return 3 * inner, 0
    return 2 * inner + 2 * heads * keys + 2 * heads, 0


def recurrence_params(a: Mixed) -> Any:
    """Per recurrent layer, the norms before it not counted.

    Projections in and out, the convolution (mamba: with bias), and by kind:
    mamba1: x_proj HP * (R + 2N), dt_proj R * HP + HP, A HP * N, D HP, and norms R + 2N where state_norm (Jamba);
    mamba2: A, D, dt_bias 3 H, and the gated norm HP where state_norm; gdn: A, dt_bias 2 H and a norm of P;
    mlstm: biases of both gates 2 H and a norm of HP; conv: the convolution without bias.
    """
    d, inner, heads = a.d_model, recurrent_inner(a), a.n_state_heads
    outer, within = projection_widths(a)
    count = d * (outer + inner)
    if a.recurrence == "mamba1":
        low = inner * within + a.dt_rank * inner + inner
        return count + inner * (a.d_conv + 1) + low + inner * (a.d_state_key + 1) + a.state_norm * within
    if a.recurrence == "mamba2":
        return count + conv_width(a) * (a.d_conv + 1) + 3 * heads + a.state_norm * inner
    if a.recurrence == "gdn":
        return count + conv_width(a) * a.d_conv + 2 * heads + a.d_state_value
    if a.recurrence == "conv":
        return count + inner * a.d_conv
    return count + 2 * heads + inner
