"""What was fitted on one device to its own measurements: plain numbers, as they stand in a device file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from codesign.errors import SpecError

__all__ = ["DeviceFit", "EnergyTerms", "PhaseTerms", "ResidualFit"]

_MAX_ROWS = 20_000
_TEXTS = ("engine", "engine_version", "precision", "power_mode", "machine", "fitted_at", "source")
_AGAIN = "remove the file's [[calibration]] tables and calibrate again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualFit:
    """A Gaussian process on ln(measured / roofline): mean(x) = amplitude * k(x, points) @ alpha.

    x are ln of the features, shifted and divided by `scale` (n_features,); points: (n, n_features); alpha: (n,);
    k(x, p) = exp(-|x - p|**2 / 2). Far from all points the mean is 0: the roofline alone.
    """

    features: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    points: tuple[tuple[float, ...], ...] = field(hash=False)
    alpha: tuple[float, ...] = field(hash=False)
    amplitude: float

    def __post_init__(self) -> None:
        width = len(self.features)
        if not (len(self.center) == len(self.scale) == width and all(len(p) == width for p in self.points)):
            raise SpecError("a residual needs one center, scale and coordinate for each feature")
        if len(self.alpha) != len(self.points) or len(self.points) > _MAX_ROWS:
            raise SpecError(f"a residual needs one alpha for each of at most {_MAX_ROWS} points")
        numbers = [*self.center, *self.scale, *self.alpha, self.amplitude, *(v for p in self.points for v in p)]
        if not all(math.isfinite(v) for v in numbers) or any(v <= 0 for v in self.scale):
            raise SpecError("a residual holds a number that is not finite, or a scale that is not above zero")


#: Terms of files of earlier versions, and what each is now.
_SPLIT = {
    "recurrent": ("mamba1_layer", "mamba2_layer", "gdn_layer", "mlstm_layer", "conv_layer"),
    "chunk": ("mamba2_chunk", "gdn_chunk", "mlstm_chunk"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTerms:
    """One phase of one engine at one precision: seconds per unit of each term, and how far to trust them.

    seconds_per: term (see `codesign.roofline.terms.TERMS`) to seconds per FLOP, byte, layer, expert or pass, at least 0.
    interval_log: half-width of the 90 % interval of ln(seconds) inside the measured sizes; interval_beyond_log: outside.
    span_params: smallest and largest active parameters that were measured; mixtures: whether experts were among them; mixers:
        which of attention, latent and the recurrences were.
    span_tokens: shortest and longest measured prompt (prefill) or context (decode); batches: measured numbers of requests.
    n_rows, n_architectures: what it was fitted on. held_out: cross-validated errors by name.
    """

    seconds_per: Mapping[str, float] = field(hash=False)
    residual: ResidualFit | None = None
    interval_log: float
    interval_beyond_log: float
    span_params: tuple[float, float]
    span_tokens: tuple[float, float]
    batches: tuple[int, ...]
    mixtures: bool = False
    mixers: tuple[str, ...] = ("attention",)
    n_rows: int
    n_architectures: int
    held_out: Mapping[str, float] = field(default_factory=dict, hash=False)

    def covers(self, tokens: float, batch_size: int) -> bool:
        """Whether passes of about this length (half to twice the measured ones) and batch were measured."""
        return batch_size in self.batches and self.span_tokens[0] / 2 <= tokens <= 2 * self.span_tokens[1]

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds_per", _renamed(self.seconds_per))
        for name, value in self.seconds_per.items():
            if not math.isfinite(value) or value < 0:
                raise SpecError(f"seconds_per.{name} is {value!r}; allowed: a finite number of at least 0")
        if not 0 <= self.interval_log <= self.interval_beyond_log <= 20:
            raise SpecError(
                f"interval_log {self.interval_log!r} and interval_beyond_log {self.interval_beyond_log!r} must lie "
                "between 0 and 20, in this order"
            )
        if not 0 <= self.span_tokens[0] <= self.span_tokens[1] < math.inf or not self.batches or min(self.batches) < 1:
            raise SpecError("span_tokens must be two numbers in order, batches one or more numbers of at least 1")
        if not 0 < self.span_params[0] <= self.span_params[1] < math.inf or self.n_rows < 1 or self.n_architectures < 1:
            raise SpecError("span_params must be two numbers in order, n_rows and n_architectures at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyTerms:
    """Power constants from metered passes: idle_W * seconds + flop_J * FLOP + byte_J * bytes, in joules.

    interval_log: half-width of the 90 % interval of ln(energy) at a known time; held_out_mape_pct: mean error with architectures
    left out; n_rows, n_architectures: metered passes and the shapes among them; meter: what was read.
    """

    idle_W: float
    flop_J: float
    byte_J: float
    interval_log: float
    held_out_mape_pct: float
    n_rows: int
    n_architectures: int
    meter: str = ""

    def __post_init__(self) -> None:
        for name in ("idle_W", "flop_J", "byte_J", "interval_log", "held_out_mape_pct"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise SpecError(f"energy.{name} is {value!r}; allowed: a finite number of at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """The calibration of one engine at one precision, options and power mode of a device.

    machine: the processor that was measured, for a device such as host whose name does not say it. energy: None where too few
    passes were metered.
    """

    engine: str
    engine_version: str = ""
    precision: str
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    power_mode: str | None = None
    machine: str = ""
    fitted_at: str = ""
    source: str
    prefill: PhaseTerms | None = None
    decode: PhaseTerms | None = None
    energy: EnergyTerms | None = None

    @property
    def n_architectures(self) -> int:
        """Architectures measured in the phase that has more."""
        return max(terms.n_architectures for terms in (self.prefill, self.decode) if terms is not None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a device file; what is None is left out."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DeviceFit:
        """Build from `to_dict`'s output.

        Raises:
            SpecError: a field that is unknown, missing, or of a value that is not allowed.
        """
        try:
            values = dict(data)
            for phase in ("prefill", "decode"):
                if phase in values:
                    values[phase] = _phase(values[phase])
            if "energy" in values:
                values["energy"] = EnergyTerms(**values["energy"])
            options = values.get("options", {})
            texts = [*(values[name] for name in _TEXTS if name in values), *options.values()]
            if not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{', '.join(_TEXTS)} and options must be texts")
            fit = cls(**values)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise SpecError(f"a calibration is not what codesign calibrate writes ({error}); {_AGAIN}") from error
        if fit.prefill is None and fit.decode is None:
            raise SpecError(f"a calibration holds neither prefill nor decode; {_AGAIN}")
        return fit


def _renamed(seconds_per: Mapping[str, float]) -> dict[str, float]:
    """Terms by today's names: one overhead for all recurrences has become one for each."""
    found: dict[str, float] = {}
    for term, seconds in seconds_per.items():
        for name in _SPLIT.get(term, (term,)):
            found[name] = seconds
    return found


def _phase(data: Mapping[str, Any]) -> PhaseTerms:
    values = dict(data)
    if "residual" in values:
        r = dict(values["residual"])
        for name in ("features", "center", "scale", "alpha"):
            r[name] = tuple(r[name])
        r["points"] = tuple(tuple(float(v) for v in point) for point in r["points"])
        values["residual"] = ResidualFit(**r)
    for name in ("span_params", "span_tokens"):
        low, high = values[name]
        values[name] = (float(low), float(high))
    values["batches"] = tuple(int(v) for v in values["batches"])
    if "mixers" in values:
        values["mixers"] = tuple(str(v) for v in values["mixers"])
    values["seconds_per"] = {str(k): float(v) for k, v in values["seconds_per"].items()}
    return PhaseTerms(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
