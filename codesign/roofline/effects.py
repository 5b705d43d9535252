"""The hierarchy behind the rates: each rate is a sum of effects of engine, precision, GPU generation and device.

A rate is link(mean + sum of effects): a logistic link for efficiencies (so that they stay below 1), exp for overheads
and the unpack rate (so that they stay above 0). Effects have Gaussian priors around 0, so what was measured little is
drawn to what its engine and generation show, and what was never measured (an effect of 0) *is* that fallback: same
engine, then same generation, then the mean over all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from codesign.devices import Device
from codesign.engines import has_unpack_roof
from codesign.operators import Phase
from codesign.roofline.rates import peak_flop_per_s
from codesign.workload import Precision

__all__ = ["LATENTS", "Cell", "Effect", "Latent", "link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What the effects are looked up by: where and how something ran."""

    device: str
    generation: str
    family: str
    engine: str
    kind: str
    batch_size: int
    peak_flop_per_s: float
    bandwidth_Bps: float
    sm_clock_Hz: float
    unpack_roof: bool

    @classmethod
    def of(cls, device: Device, engine: str, precision: Precision, batch_size: int) -> Cell:
        """The cell of a device at its power mode; sm_clock_Hz is n_sm * clock (nan where either is unknown)."""
        sm_clock = device.n_sm * device.clock_Hz if device.n_sm and device.clock_Hz else math.nan
        return cls(
            device=device.name,
            generation=device.generation,
            family=device.family,
            engine=engine,
            kind=precision.kind,
            batch_size=batch_size,
            peak_flop_per_s=peak_flop_per_s(device, "fp16"),
            bandwidth_Bps=device.bandwidth_Bps,
            sm_clock_Hz=sm_clock,
            unpack_roof=has_unpack_roof(engine, precision.weight_only) and math.isfinite(sm_clock),
        )

    @property
    def engine_root(self) -> str:
        """The engine whose kernels run: Ollama runs llama.cpp's."""
        return "llama.cpp" if self.engine == "ollama" else self.engine


@dataclass(frozen=True, slots=True)
class Effect:
    """One level of the hierarchy: a name, the key of a cell in it, its prior's standard deviation, and its regressor."""

    name: str
    key: Callable[[Cell], str]
    sd: float
    regressor: Callable[[Cell], float] = lambda cell: 1.0


@dataclass(frozen=True, slots=True)
class Latent:
    """One rate: the link's scale ("logistic" or "exp"), the prior mean on that scale, and its effects."""

    scale: str
    mean: float
    effects: tuple[Effect, ...]


def link(scale: str, value: float) -> float:
    """Map the sum of effects to the rate: 1 / (1 + exp(-x)) or exp(x)."""
    return 1.0 / (1.0 + math.exp(-value)) if scale == "logistic" else math.exp(value)


def _kind(c: Cell) -> str:
    return c.kind


def _engine(c: Cell) -> str:
    return c.engine_root


def _engine_kind(c: Cell) -> str:
    return f"{c.engine_root}/{c.kind}"


def _generation(c: Cell) -> str:
    return c.generation


def _engine_generation(c: Cell) -> str:
    return f"{c.engine_root}/{c.generation}"


def _family(c: Cell) -> str:
    return c.family


def _engine_family(c: Cell) -> str:
    return f"{c.engine_root}/{c.family}"


def _device(c: Cell) -> str:
    return c.device


def _device_engine(c: Cell) -> str:
    return f"{c.device}/{c.engine_root}"


def _cell(c: Cell) -> str:
    return f"{c.device}/{c.engine}/{c.kind}"


def _one(c: Cell) -> str:
    return "all"


def _log_bandwidth(c: Cell) -> float:
    return math.log(c.bandwidth_Bps / 300e9)


def _log_balance(c: Cell) -> float:
    return math.log(c.peak_flop_per_s / c.bandwidth_Bps / 200.0)


def _batched(c: Cell) -> float:
    return math.log2(c.batch_size) / 3.0


# Prior means are the medians of what the table shows; standard deviations were chosen on left-out groups
# (tools/fit_calibration.py prints the errors that they give).
LATENTS: dict[Phase, dict[str, Latent]] = {
    "decode": {
        "bandwidth": Latent("logistic", 1.76, (
            Effect("kind", _kind, 0.5), Effect("engine", _engine, 0.43), Effect("engine_kind", _engine_kind, 0.43),
            Effect("family", _family, 0.65), Effect("generation", _generation, 0.52),
            Effect("engine_generation", _engine_generation, 0.4), Effect("device", _device, 0.41),
            Effect("cell", _cell, 3.62), Effect("bandwidth", _one, 0.4, _log_bandwidth),
            Effect("batched", _device_engine, 0.1, _batched),
        )),
        "expert": Latent("logistic", 1.4, (Effect("engine", _engine, 0.34), Effect("device", _device, 0.54))),
        "compute": Latent("logistic", -1.2, (Effect("engine", _engine, 0.43), Effect("generation", _generation, 0.65))),
        "unpack": Latent("exp", math.log(9.3), (
            Effect("kind", _kind, 0.3), Effect("family", _family, 0.52), Effect("generation", _generation, 0.39),
        )),
        "layer": Latent("exp", math.log(60e-6), (
            Effect("family", _family, 0.65), Effect("engine", _engine, 0.43), Effect("generation", _generation, 0.39),
            Effect("device", _device, 0.41), Effect("bandwidth", _one, 0.6, _log_bandwidth),
        )),
        "step": Latent("exp", math.log(0.9e-3), (
            Effect("family", _family, 0.65), Effect("engine", _engine, 0.6), Effect("device", _device, 0.41),
        )),
    },
    "prefill": {
        "bandwidth": Latent("logistic", 2.0, ()),
        "expert": Latent("logistic", 0.2, ()),
        "compute": Latent("logistic", 0.2, (
            Effect("engine", _engine, 0.17), Effect("engine_kind", _engine_kind, 0.1),
            Effect("engine_family", _engine_family, 0.72), Effect("engine_generation", _engine_generation, 0.54),
            Effect("device", _device, 0.33), Effect("cell", _cell, 0.45), Effect("balance", _engine, 0.18, _log_balance),
        )),
        "expert_compute": Latent("logistic", -0.2, (Effect("engine", _engine, 0.5),)),
        "attention": Latent("logistic", 0.35, (Effect("engine", _engine, 0.23),)),
        "layer": Latent("exp", math.log(60e-6), (Effect("engine", _engine, 0.17),)),
        "step": Latent("exp", math.log(1.1e-3), (Effect("engine", _engine, 0.23), Effect("device", _device, 0.33))),
    },
}  # fmt: skip
