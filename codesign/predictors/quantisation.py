"""What quantising the weights costs in loss: a published law, used as a labelled prior with its own uncertainty.

    delta(N, D, P) = C * (D**g_D / N**g_N) * exp(-P / g_P)        [nats/token]

Post-training quantisation law of Kumar et al. 2024, "Scaling Laws for Precision" (arXiv 2411.04330), C = 0.0598,
g_D = 0.5068, g_N = 0.3439, g_P = 0.5907: fitted there on GPTQ-quantised models of 30M to 220M parameters and up to 26B
tokens. The constants are quoted from memory of the paper's appendix and were not re-read. Check: Llama-2-7B at 4 bits
gives 0.048 nats, where AWQ measured ln(5.60 / 5.47) = 0.024 (arXiv 2306.00978): hence a standard deviation as large as the
shift itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from codesign.workload import Precision

__all__ = ["quantisation_penalty"]

_C, _G_D, _G_N, _G_P = 0.0598, 0.5068, 0.3439, 0.5907


def quantisation_penalty(params_active_nonembedding: Any, tokens: float, precision: Precision) -> tuple[Any, Any]:
    """Shift of the loss and its standard deviation, in nats per token; 0 for weights of 16 bits and more.

    Args:
        params_active_nonembedding: N, a number or an array.
        tokens: training tokens D.
        precision: its stored bits per weight are P.

    Example:
        >>> from codesign.workload import PRECISIONS
        >>> shift, spread = quantisation_penalty(6.5e9, 2e12, PRECISIONS["w4a16"])
        >>> round(float(shift), 3), float(shift) == float(spread)
        (0.038, True)
    """
    bits = precision.weight_bits_stored
    if bits >= 16:
        return 0.0, 0.0
    scale = _C * tokens**_G_D * math.exp(-bits / _G_P)
    shift = scale * np.asarray(params_active_nonembedding, dtype=float) ** -_G_N
    return shift, shift
