"""The search problem: what one point of the space costs, what it loses, and whether it meets the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codesign.architecture import ArchitectureLike
from codesign.budget import Budget, metric_of_bound
from codesign.errors import SpecError
from codesign.predictors.quantisation import quantisation_penalty
from codesign.roofline.cost import Estimate, RooflineModel
from codesign.roofline.rates import Rates
from codesign.search.marks import Spans, latency_flags, unlike_levels
from codesign.search.mixers import COST_ONLY, parse_mixer
from codesign.search.space import DesignSpace
from codesign.workload import PRECISIONS, Precision, Workload

__all__ = ["OBJECTIVES", "Evaluation", "LossModel", "Problem", "metric", "metric_log_sd"]

Array = NDArray[np.float64]

#: What can be minimised, but size: active parameters without embeddings, of which there should be many. It stands in for the loss where
#: no data at hand tells it.
OBJECTIVES = ("loss", "latency", "ttft", "e2e", "memory", "energy", "params", "size")
_Z90 = NormalDist().inv_cdf(0.95)


class LossModel(Protocol):
    """What the search needs of a loss law (`codesign.predictors.LossLaw` has it)."""

    @property
    def name(self) -> str:
        """Such as gemstones."""
        ...

    def predict(self, arch: Any, tokens: Any, return_std: bool = False) -> Any:
        """Mean loss, and its standard deviation if asked."""
        ...

    def outside(self, arch: Any, tokens: Any) -> Mapping[str, Any]:
        """Which dimensions lie outside the range that the law was fitted on."""
        ...

    def priors(self, arch: Any) -> Mapping[str, Any]:
        """Which labelled priors act."""
        ...

    def difference(self, arch_a: Any, arch_b: Any, tokens: Any) -> tuple[Any, Any]:
        """Mean and standard deviation of the difference in loss."""
        ...

    def error_samples(self, arch: Any, tokens: float, size: int, rng: np.random.Generator) -> Array:
        """Joint draws of the errors of many designs, (size, designs)."""
        ...


def metric(name: str, arch: ArchitectureLike, estimate: Estimate) -> Any:
    """The quantity that an objective or a bound of this name reads."""
    values = {
        "latency": estimate.decode_s,
        "ttft": estimate.prefill_s,
        "e2e": estimate.total_s,
        "memory": estimate.peak_memory_B,
        "energy": estimate.energy_J,
        "power": estimate.power_W,
    }
    if name == "size":
        return arch.params_active_nonembedding
    return arch.params_total if name == "params" else values[name]


def metric_log_sd(name: str, rates: Rates, energy_log: float = 0.0, unlike: int = 0) -> float:
    """Standard deviation of ln(quantity) under the calibration's interval: half-width of the 90 % interval / 1.645.

    e2e takes the wider phase; energy adds the power model's own in quadrature; memory and params are exact. `unlike`: see
    `codesign.search.marks.unlike`.
    """
    decode, prefill = (r.half_width_log(unlike) / _Z90 for r in (rates.decode, rates.prefill))
    table = {"latency": decode, "ttft": prefill, "e2e": max(decode, prefill)}
    if name in ("energy", "power"):
        return math.hypot(decode if name == "energy" else 0.0, energy_log / _Z90)
    return table.get(name, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Objectives of the feasible points of a batch.

    index: linear indices (m,); objectives: (m, k), all to be minimised (size with its sign changed); n_valid: possible architectures evaluated;
    n_feasible: those that meet the budget, m of them.
    """

    index: NDArray[np.int64]
    objectives: Array
    n_valid: int
    n_feasible: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Minimise the objectives over the space within the budget.

    Args:
        space, workload, budget: what is searched, for what request, within what bounds.
        models: the cost model of each precision of the space.
        law: the loss law; tokens: training tokens of every design.
        objectives: two or more of `OBJECTIVES`; loss first gives the usual frontier.
        memory_B: what the device has free; every design must fit.
        allow_extrapolation: keep designs outside the range of the law's data.
        quantisation_priced: add the published cost of quantised weights to the loss.
        latency_spans: by precision, active parameters (low, high) and whether mixtures were measured: on this device, engine
            and precision ("here"), and anywhere ("anywhere").
        model_log_sd: by phase, the standard deviation of ln(seconds) between models of one device and engine.

    Raises:
        SpecError: objectives that are unknown, fewer than two, or without a power model; a vocabulary that the loss law
            cannot compare.
    """

    space: DesignSpace
    workload: Workload
    budget: Budget
    models: Mapping[str, RooflineModel] = field(hash=False)
    law: LossModel = field(hash=False)
    tokens: float = 10e9
    objectives: tuple[str, ...] = ("loss", "latency")
    memory_B: float = math.inf
    allow_extrapolation: bool = False
    quantisation_priced: bool = True
    latency_spans: Mapping[str, Spans] = field(default_factory=dict, hash=False)
    model_log_sd: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown or len(set(self.objectives)) != len(self.objectives) or len(self.objectives) < 2:
            raise SpecError(
                f"objectives '{','.join(self.objectives)}' must be two or more different ones of {', '.join(OBJECTIVES)}"
            )
        dark = [text for text in self.space.axes["mixer"] if parse_mixer(text).kind in COST_ONLY]
        if dark and "loss" in self.objectives:
            raise SpecError(
                f"no data at hand tells the loss of mixer {', '.join(dark)}: compare it on cost alone, with --objectives "
                "size,latency (the most active parameters in the least time) or another pair without loss, or leave it out"
            )
        if len(self.space.axes["vocab_size"]) > 1:
            raise SpecError(
                "the design space varies vocab_size, but no loss law here compares losses across vocabularies (loss per "
                "token means another text per token); fix --vocab to your tokenizer's size"
            )
        unpowered = any(model.power is None for model in self.models.values())
        asked = {"energy"} & set(self.objectives) or {"energy_J", "power_W"} & set(self.budget.bounds())
        if unpowered and asked:
            raise SpecError(
                "no power model for this device (its TDP is unknown): drop --energy, --power and the energy objective"
            )

    @property
    def loss_known(self) -> bool:
        """Whether data at hand tells the loss of every mixer of the space."""
        return not any(parse_mixer(text).kind in COST_ONLY for text in self.space.axes["mixer"])

    def precision(self, name: str) -> Precision:
        """A precision of the space."""
        return PRECISIONS[name]

    def factors(self, kind: str, precision: str) -> list[float]:
        """What tightens a bound on a metric so that it holds with the budget's confidence, for each level of `unlike`."""
        z = NormalDist().inv_cdf(self.budget.confidence)
        model = self.models[precision]
        energy_log = model.power.interval_log if model.power else 0.0
        return [math.exp(-z * metric_log_sd(kind, model.rates, energy_log, how)) for how in range(3)]

    def limits(self, precision: str) -> dict[str, Any]:
        """Bound of each metric that has one at this precision, tightened by `factors`: (3,), for each level of `unlike`."""
        limits: dict[str, Any] = {}
        for name, bound in self.budget.bounds().items():
            kind = metric_of_bound(name)
            limits[kind] = bound * np.array(self.factors(kind, precision))
        limits["memory"] = np.minimum(limits.get("memory", np.full(3, math.inf)), self.memory_B)
        return {kind: limit for kind, limit in limits.items() if np.isfinite(limit).all()}

    def loss(self, arch: ArchitectureLike, precision: Precision) -> Any:
        """Predicted loss with the price of quantised weights, nats per token."""
        mean = self.law.predict(arch, self.tokens)
        if self.quantisation_priced:
            mean = mean + quantisation_penalty(arch.params_active_nonembedding, self.tokens, precision)[0]
        return mean

    def loss_with_std(self, arch: ArchitectureLike, precision: Precision) -> tuple[Any, Any]:
        """Predicted loss and its standard deviation, the quantisation prior's included."""
        mean, std = self.law.predict(arch, self.tokens, return_std=True)
        if self.quantisation_priced:
            shift, spread = quantisation_penalty(arch.params_active_nonembedding, self.tokens, precision)
            mean, std = mean + shift, np.hypot(std, spread)
        return mean, std

    def latency_outside(self, arch: ArchitectureLike, precision: str) -> dict[str, Any]:
        """Which designs are unlike what was measured: `codesign.search.marks.latency_flags`."""
        return latency_flags(arch, self.latency_spans.get(precision, {}), self.models[precision].rates)

    def unlike(self, arch: ArchitectureLike, precision: str) -> Any:
        """How unlike the measured models designs are: `codesign.search.marks.unlike_levels`."""
        return unlike_levels(self.latency_outside(arch, precision))

    def in_range(self, arch: ArchitectureLike, precision: str) -> Any:
        """Mask of designs inside the range of the law's data in every dimension, and of the calibration's anywhere."""
        inside: Any = True
        for name, flags in self.latency_outside(arch, precision).items():
            if not name.endswith("_here"):
                inside = inside & ~np.asarray(flags)
        for name, flags in self.law.outside(arch, self.tokens).items():
            if name != "vocab":  # the user's tokenizer is given, not searched
                inside = inside & ~np.asarray(flags)
        return inside

    def evaluate(
        self, precision: str, arch: ArchitectureLike, valid: Any, shape: tuple[int, ...], index: Any
    ) -> Evaluation:
        """Costs, bounds and objectives of a batch: cost and bounds first, the loss only where something is feasible.

        Args:
            precision: its name; arch: fields that broadcast to `shape`; valid: mask of possible architectures.
            index: linear index of each point, in C order (n,), or the index of the first.
        """
        form = PRECISIONS[precision]
        energy = "energy" in self.objectives or bool({"energy_J", "power_W"} & set(self.budget.bounds()))
        estimate = self.models[precision].estimate(arch, self.workload, form, energy=energy)
        mask = np.broadcast_to(valid, shape)
        n_valid = int(mask.sum())
        limits = self.limits(precision)
        how = self.unlike(arch, precision) if any(np.ptp(limit) for limit in limits.values()) else 0
        for kind, limit in limits.items():
            mask = mask & (metric(kind, arch, estimate) <= limit[how])
        if not self.allow_extrapolation and np.any(mask):
            mask = mask & self.in_range(arch, precision)
        chosen = np.flatnonzero(mask)
        if not len(chosen):
            return Evaluation(index=np.empty(0, np.int64), objectives=np.empty((0, len(self.objectives))),
                              n_valid=n_valid, n_feasible=0)  # fmt: skip
        columns = []
        for name in self.objectives:
            value = self.loss(arch, form) if name == "loss" else metric(name, arch, estimate)
            value = -value if name == "size" else value
            columns.append(np.broadcast_to(value, shape).reshape(-1)[chosen])
        linear = chosen + index if np.ndim(index) == 0 else np.asarray(index)[chosen]
        return Evaluation(index=linear.astype(np.int64), objectives=np.stack(columns, axis=1),
                          n_valid=n_valid, n_feasible=len(chosen))  # fmt: skip
