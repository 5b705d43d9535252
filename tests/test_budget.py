"""Budgets: bounds that make sense, shown as people write them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from codesign.budget import FORMATS, Budget
from codesign.errors import SpecError


def test_bounds_and_their_description() -> None:
    budget = Budget(
        latency_s=0.02, ttft_s=0.5, memory_B=8e9, energy_J=0.25, power_W=15, params=500_000_000, confidence=0.9
    )
    assert budget.bounds() == {
        "latency_s": 0.02,
        "ttft_s": 0.5,
        "memory_B": 8e9,
        "energy_J": 0.25,
        "power_W": 15.0,
        "params": 5e8,
    }
    assert budget.describe() == (
        "latency <= 20 ms, ttft <= 500 ms, memory <= 8 GB, energy <= 250 mJ, power <= 15 W, params <= 500M, with 90% confidence"
    )
    assert Budget().bounds() == {} and Budget().describe() == ""
    assert set(FORMATS) == {f for f in Budget.__dataclass_fields__ if f != "confidence"}
    assert Budget(latency_s=np.float64(0.02)).bounds() == {"latency_s": 0.02}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "20ms", [1.0]])
def test_bounds_that_make_no_sense(name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"the budget {name} must be"):
        Budget(**{name: value})


@pytest.mark.parametrize("value", [0.0, 0.49, 1.0, 1.5, math.nan, "0.9", None])
def test_confidence_is_a_probability_from_one_half(value: Any) -> None:
    with pytest.raises(SpecError, match="confidence"):
        Budget(confidence=value)
