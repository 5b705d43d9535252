"""Labelled prior terms: dimensions that a law's data does not vary, from other published data, each with its spread.

Every term is zero where the design agrees with the law's data. Its spread is one unknown coefficient shared by all
designs, so in a difference of two designs what they share cancels. A spread is therefore returned *signed*.

The numbers come from the law's JSON (``priors``), each with its source. Dimensions:

- ``kv``: 0.20 / d_m^0.05, d_m = d_head n_kv (arXiv:2602.10377 Table 6), relative to the KV width that the law's data
  has at this d_model.
- ``d_head``: ``c min(0, ln(d_head / 128))^2``: loss of heads smaller than 128 at equal width, fitted on openlm_grid.
- ``ffn_ratio``: no shift (N carries it), a spread per log unit away from the data's ratios.
- ``moe``: ``ln N_eff - ln N_active``, from deepmind_routed, discounted by its transfer to steplaw_moe.
- ``mixer``: recurrent layers: the gap of mLSTM to Llama at equal N and D (`mixer_prior.json`, tools/fit_mixer_prior.py).
- ``window``: no number; Gemma 3's report (arXiv 2503.19786, section 5.3) finds minimal change with 5 of 6 layers local.
- ``uneven``: no shift where FFN widths or heads differ from layer to layer, a spread of 0.0028 nats (results/uneven_layers.md).
- ``vocab``: no number; losses per token of different vocabularies do not compare.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codesign.predictors.scaling import moe_gain

__all__ = [
    "UNPRICED_SHAPES", "Term", "activated_width", "d_head_term", "equivalent_experts", "ffn_ratio_term", "kv_term", "mixer_term", "moe_term", "uneven_term", "unpriced",
]  # fmt: skip

Array = npt.NDArray[np.float64]

#: Nats: twice the standard error of what a taper of the FFN widths does.
_UNEVEN_STD = 0.0028


class Term(NamedTuple):
    """Shift of the mean and signed spread, in nats (for ``moe``: in ln N)."""

    shift: Any
    spread: Any


def activated_width(arch: Any) -> Any:
    """FFN width that one token uses in a gated FFN of equal parameters, averaged over the layers.

    Mixture layers use ``K d_ff_expert + n_shared d_ff_shared``; a plain FFN has two matrices instead of three and
    counts 2/3.
    """
    matrices = (2 + np.multiply(arch.ffn_gated, 1)) / 3.0
    if not np.any(arch.n_experts):
        return arch.d_ff_mean * matrices
    share = np.where(np.asarray(arch.n_experts) > 0, 1 - np.divide(arch.n_dense_layers, arch.n_layers), 0.0)
    routed = arch.n_active_experts * arch.d_ff_expert + arch.n_shared_experts * arch.d_ff_shared
    return (share * routed + (1 - share) * arch.d_ff_mean) * matrices


def equivalent_experts(arch: Any, active: Any, fraction: float) -> Any:
    """Expert count of the deepmind_routed stack that has the same ratio of stored to used parameters.

    ``1 + (P - 1) / fraction`` with P = N_stored / N_active without embeddings, and ``fraction`` the share of one
    expert set in N_active there. P counts top-k, shared experts, expert width and dense layers alike: on the
    deepmind_routed rows that are not in the fit it predicts top-2 and top-4 better than E or E/K does. One for dense.

    Example:
        >>> from types import SimpleNamespace
        >>> dense = SimpleNamespace(n_experts=0)
        >>> equivalent_experts(dense, 1e8, 0.3)
        1.0
    """
    if not np.any(arch.n_experts):
        return 1.0
    experts = np.asarray(arch.n_experts)
    per_expert = (2 + np.multiply(arch.ffn_gated, 1)) * arch.d_model * arch.d_ff_expert
    idle = (experts - arch.n_active_experts) * (arch.n_layers - arch.n_dense_layers) * per_expert
    return np.where(experts > 0, 1.0 + np.maximum(idle, 0) / (active * fraction), 1.0)


def kv_term(arch: Any, prior: dict[str, Any]) -> Term:
    """Published KV term relative to the data's KV width ``prior["width_share"] * d_model``.

    The full published size is the shift (a search should not get narrow KV for free); the spread is a share of it.
    """
    power = -float(prior["exponent"])
    width = np.multiply(arch.d_head, arch.n_kv_heads_mean, dtype=float)
    usual = float(prior["width_share"]) * np.asarray(arch.d_model, dtype=float)
    shift = float(prior["coefficient"]) * (width**power - usual**power)
    return Term(shift, float(prior["relative_std"]) * shift)


def d_head_term(arch: Any, prior: dict[str, Any]) -> Term:
    """Loss of small heads at equal width, zero inside the data's own range of head sizes."""
    size = np.asarray(arch.d_head, dtype=float)
    low, high = prior["data"]

    def penalty(value: Any) -> Any:
        return np.minimum(np.log(value / 128.0), 0.0) ** 2

    curve = penalty(size) - penalty(np.clip(size, low, high))
    return Term(float(prior["coefficient"]) * curve, float(prior["std"]) * curve)


def ffn_ratio_term(arch: Any, prior: dict[str, Any]) -> Term:
    """No shift; ``std`` nats per log unit of FFN ratio outside the data's ratios.

    Zero for mixtures: their spread was calibrated on activated ratios from 0.5 to 8.2 (steplaw_moe) already.
    """
    low, high = prior["data"]
    width = np.asarray(activated_width(arch), dtype=float)
    ratio = np.log(np.maximum(width, 1.0) / np.asarray(arch.d_model, dtype=float))
    away = np.where(
        width > 0, ratio - np.clip(ratio, np.log(low), np.log(high)), 0.0
    )  # Mamba's layers have no FFN at all
    if np.any(arch.n_experts):
        away = np.where(np.asarray(arch.n_experts) > 0, 0.0, away)
    return Term(0.0, float(prior["std_per_log"]) * away)


def moe_term(n: Any, experts: Any, prior: dict[str, Any]) -> Term:
    """``ln(N_eff / N)``: `moe_gain` times the transfer factor; its spread is that factor's."""
    low, high = prior["n_range"]
    gain = moe_gain(prior["parameters"], n, np.minimum(experts, prior["experts"][1]), low, high)
    return Term(float(prior["transfer"]) * gain, float(prior["transfer_std"]) * gain)


@functools.cache
def _mixer_prior() -> dict[str, Any]:
    text = resources.files("codesign.predictors").joinpath("mixer_prior.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def mixer_term(arch: Any, n: Any) -> Term:
    """Gap of recurrent layers to attention at equal N and D: their share of the layers times ``a + b n``, times what is left of it
    at the context of the laws' data. For recurrences that no run at hand has the mean is 0: taken as attention's.

    Its spread is the whole gap at 16k tokens.

    Args:
        n: ln(active parameters / 1e8), clipped to the sizes of the data.
    """
    prior = _mixer_prior()
    low, high = np.log(np.asarray(prior["n_range"]) / 1e8)
    share = np.asarray(arch.n_recurrent_layers, dtype=float) / np.asarray(arch.n_layers, dtype=float)
    gap = share * (prior["a"] + prior["b"] * np.clip(n, low, high))
    left = prior["context_factor"] ** np.log2(16384 / prior["context_tokens"])
    known = arch.recurrence in prior["measured"]
    return Term((left if known else 0.0) * gap, gap)


def uneven_term(arch: Any) -> Term:
    """Layers of different widths at equal totals: of 783 trained models a profile that rises fourfold adds -0.0009 +- 0.0014 nats
    (`tools/uneven_layers.py`); the spread is twice that standard error.
    """
    differs = (
        (np.asarray(arch.d_ff_mean) != arch.d_ff)
        | (np.asarray(arch.n_heads_mean) != arch.n_heads)
        | (np.asarray(arch.n_kv_heads_mean) != arch.n_kv_heads)
    )
    return Term(0.0, _UNEVEN_STD * differs)


#: Names that `unpriced` may give.
UNPRICED_SHAPES = ("latent", "shared_kv", "looped", "shared_blocks", "conv", "mamba1")


def unpriced(arch: Any) -> dict[str, Any]:
    """What a design has whose loss no data at hand tells, by name: masks. Such designs are compared on cost alone."""
    found: dict[str, Any] = {}
    for name, count in (
        ("latent", arch.kv_rank), ("shared_kv", arch.n_kv_shared_layers), ("looped", arch.n_looped_layers),
        ("shared_blocks", arch.n_shared_blocks),
        (arch.recurrence, arch.n_recurrent_layers if arch.recurrence in ("conv", "mamba1") else 0),
    ):  # fmt: skip
        if np.any(count):
            found[name] = np.asarray(count) > 0
    return found
