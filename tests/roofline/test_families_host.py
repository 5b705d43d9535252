"""The committed measurements of every family: predicted within 12 % when whole shapes are left out, as results/families_host.md says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import family_validation

        yield family_validation
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_left_out_shapes_of_every_family_are_predicted_within_12_percent(tool: Any, phase: str) -> None:
    rows = tool.rows_of(ROOT / "results" / "family_measurements.jsonl.gz")[phase]
    families = np.array([tool.family_of(row.arch) for row in rows])
    assert set(families) == set(tool.FAMILIES)
    errors = tool.cross_validate(rows, tool.additive(tool.PLACES["host"].prior()[phase]))
    for family in tool.FAMILIES:
        inside = families == family
        assert inside.sum() >= 12
        assert tool.mape(errors[inside]) <= 12, family
