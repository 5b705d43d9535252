"""What quantisation costs in loss: a published law, its constant refitted to published perplexities, as a labelled prior.

    weights(N, D, P) = C * (D**g_D / N**g_N) * exp(-P / g_P)        [nats/token]

The form, g_D = 0.5068 and g_N = 0.3439 are those of Kumar et al. 2024, "Scaling Laws for Precision" (arXiv 2411.04330, Eq. 2
and Table 2): GPTQ on models of 30M to 220M parameters and up to 26 billion tokens. As published (C = 0.0598, g_P = 0.5907)
it is within a factor 2.3, typically, of 65 published perplexities of OPT, LLaMA, Llama 2 and 3 (85M to 175B parameters, 3 to
8.5 bits), too low by 1.4 in the median and by more at 6 to 8 bits, as its price falls 5.4-fold a bit. A uniform quantiser's
squared error falls 4-fold, and the loss rises with the square: g_P = 1 / ln 4, which with C refitted predicts the prices of
model families that the fit did not see within a factor 2. Their 90 % interval gives the standard deviation.

Weights that are trained ternary (BitNet b1.58) cost a (N / 1e9)^b, fitted to seven published pairs of 0.7B to 7B parameters at
equal tokens (arXiv 2402.17764, Table 1; arXiv 2411.04965, Table 1).

Activations of 8 bits cost 0.0054 +- 0.0046 nats more (SmoothQuant, arXiv 2211.10438, Tables 6 and 7: 11 models).

All numbers, sources and what is not known: results/quantisation.md, made by tools/fit_quantisation.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from codesign.workload import Precision

__all__ = ["quantisation_penalty", "unpriced_bits"]

_C, _G_D, _G_N, _G_P = 0.0239, 0.5068, 0.3439, 1.0 / math.log(4.0)
#: Standard deviation over price.
_SPREAD = 0.71
#: Mean and standard deviation, nats/token, of 8-bit activations.
_ACTIVATIONS = (0.0054, 0.0046)
#: Ternary weights: price at 1e9 parameters, its power of N, and the standard deviation between sources, nats/token.
_TERNARY = (0.0358, -1.335, 0.0222)


def quantisation_penalty(params_active_nonembedding: Any, tokens: float, precision: Precision) -> tuple[Any, Any]:
    """Shift of the loss and its standard deviation, in nats per token; 0 for weights of 16 bits and more.

    Args:
        params_active_nonembedding: N, a number or an array.
        tokens: training tokens D.
        precision: P is its stored bits per weight, scales included; products in int8 or fp8 quantise the activations too.

    Example:
        >>> from codesign.workload import PRECISIONS
        >>> for name in ("w4a16", "w8a16", "int8"):
        ...     shift, spread = quantisation_penalty(0.5e9, 10e9, PRECISIONS[name])
        ...     print(f"{name}: {shift:.5f} +- {spread:.5f}")
        w4a16: 0.00896 +- 0.00636
        w8a16: 0.00004 +- 0.00003
        int8: 0.00544 +- 0.00460
    """
    bits = precision.weight_bits_stored
    if precision.ternary:
        price = _TERNARY[0] * (np.asarray(params_active_nonembedding, dtype=float) / 1e9) ** _TERNARY[1]
        return price, np.full(np.shape(price), _TERNARY[2])
    if bits >= 16:
        return 0.0, 0.0
    scale = _C * tokens**_G_D * math.exp(-bits / _G_P)
    shift = scale * np.asarray(params_active_nonembedding, dtype=float) ** -_G_N
    spread = _SPREAD * shift
    if precision.compute in ("int8", "fp8"):
        shift, spread = shift + _ACTIVATIONS[0], np.hypot(spread, _ACTIVATIONS[1])
    return shift, spread


def unpriced_bits(precision: Precision) -> tuple[str, ...]:
    """Tensor classes below their usual bits whose cost in loss no number at hand tells: kv_bits, lm_head_bits, ..., activation_bits.

    Example:
        >>> from codesign.workload import parse_precision
        >>> unpriced_bits(parse_precision("w4a16+kv8")), unpriced_bits(parse_precision("q4_k_m"))
        (('kv_bits',), ())
    """
    return (*precision.changed, *(("activation_bits",) if precision.compute == "fp4" else ()))
