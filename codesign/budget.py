"""What the answer must satisfy: upper bounds by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real

from codesign.errors import SpecError
from codesign.units import format_bytes, format_count, format_energy, format_power, format_seconds

__all__ = ["FORMATS", "Budget", "metric_of_bound"]

FORMATS: dict[str, Callable[[float], str]] = {
    "latency_s": format_seconds,
    "ttft_s": format_seconds,
    "e2e_s": format_seconds,
    "memory_B": format_bytes,
    "energy_J": format_energy,
    "power_W": format_power,
    "params": format_count,
}


def metric_of_bound(name: str) -> str:
    """The quantity that a bound limits: its name without the unit.

    Example:
        >>> metric_of_bound("latency_s"), metric_of_bound("params")
        ('latency', 'params')
    """
    return name.rsplit("_", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Upper bounds; None is no bound.

    Args:
        latency_s: time per generated token (a step, for a batch); ttft_s: time to first token; e2e_s: whole request.
        memory_B: peak memory of the model (never above what the device has free); energy_J: per generated token;
        power_W: mean power; params: stored parameters.
        confidence: probability with which each bound on time and energy must hold; 0.5 takes the prediction as it is.

    Raises:
        SpecError: a bound that is not a finite number above zero, or a confidence outside [0.5, 1).
    """

    latency_s: float | None = None
    ttft_s: float | None = None
    e2e_s: float | None = None
    memory_B: float | None = None
    energy_J: float | None = None
    power_W: float | None = None
    params: float | None = None
    confidence: float = 0.5

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not (value is None and f.name != "confidence") and not isinstance(value, Real):
                raise SpecError(f"the budget {f.name} must be a number in SI units, not {value!r}")
        for name, bound in self.bounds().items():
            if not math.isfinite(bound) or bound <= 0:
                raise SpecError(f"the budget {name} must be a finite number above zero, not {bound!r}")
        if not 0.5 <= self.confidence < 1:
            raise SpecError(f"confidence {self.confidence!r} must lie between 0.5 and 1 (such as 0.9)")

    def bounds(self) -> dict[str, float]:
        """The bounds that are set, by name.

        Example:
            >>> Budget(latency_s=0.02).bounds()
            {'latency_s': 0.02}
        """
        named = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "confidence")
        return {name: float(value) for name, value in named if value is not None}

    def describe(self) -> str:
        """The bounds as people write them.

        Example:
            >>> Budget(latency_s=0.02, memory_B=8e9).describe()
            'latency <= 20 ms, memory <= 8 GB'
        """
        shown = [f"{metric_of_bound(name)} <= {FORMATS[name](bound)}" for name, bound in self.bounds().items()]
        if self.confidence > 0.5:
            shown.append(f"with {self.confidence:.0%} confidence")
        return ", ".join(shown)
