"""Intervals from held-out errors."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["conformal_log"]


def conformal_log(errors_log: NDArray[np.float64], level: float = 0.9) -> float:
    """Half-width that held-out errors stay within: the ceil((n + 1) level)-th smallest |error| (Vovk et al.; the largest
    where n is too small for the level).
    """
    n = len(errors_log)
    rank = min(math.ceil((n + 1) * level), n)
    return float(np.sort(np.abs(errors_log))[rank - 1])
