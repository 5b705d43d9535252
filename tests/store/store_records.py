"""Made-up measurements for tests of the store."""

from __future__ import annotations

from typing import Any

from codesign.architecture import Architecture
from codesign.measurement import Measurement

TINY = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)


def record(number: int = 0, **changes: Any) -> Measurement:
    """A decode step of a tiny model; each number has times of its own."""
    values: dict[str, Any] = {
        "architecture": TINY, "precision": "fp32", "engine": "torch", "engine_version": "2.13.0", "options": {"threads": "1"},
        "phase": "decode", "tokens": 1, "context_tokens": 256, "device": "host", "clock": "cpu",
        "wall_s": (0.01 + number * 1e-6, 0.011), "cpu_s": (0.009 + number * 1e-6, 0.1 + 0.2), "peak_memory_B": 1e9,
        "state": {"before": {"clock_Hz": 2.1e9}, "after": None}, "host": {"machine": "é"}, "campaign": "first",
        "created_at": f"2026-11-22T10:00:00.{number:06d}+00:00",
    }  # fmt: skip
    return Measurement(**{**values, **changes})
