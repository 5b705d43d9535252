"""What the rest of codesign knows about a device: peaks, bandwidth, memory and power modes.

Peaks are **dense**. Marketing figures are often sparse (Jetson "275 TOPS" is sparse int8 on GPU plus DLA; the dense
GPU figure is 85), and no check can tell one from the other: a device file must state how its peak was derived.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from codesign.devices._names import match_mode
from codesign.devices.fit import DeviceFit
from codesign.errors import SpecError, UnknownNameError

__all__ = ["DTYPES", "KINDS", "Device", "PowerMode"]

DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int4", "fp4")
KINDS = ("gpu", "cpu", "npu")
CONFIDENCES = ("high", "medium", "low")


def _check_number(where: str, name: str, value: float | None, *, zero: bool = False) -> None:
    """Refuse what is not a finite number above zero (or not below zero, if `zero`)."""
    if value is None:
        return
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        allowed = "a finite number, zero or above" if zero else "a finite number above zero"
        raise SpecError(f"{where}: {name} is {value!r}; allowed: {allowed}")


def _check_peaks(where: str, peaks: Mapping[str, float]) -> None:
    if not peaks:
        raise SpecError(f"{where}: peak_flop_per_s is empty; allowed: one or more of {', '.join(DTYPES)}")
    for dtype, peak in peaks.items():
        if dtype not in DTYPES:
            raise SpecError(
                f"{where}: peak_flop_per_s has the unknown data type '{dtype}'; allowed: {', '.join(DTYPES)}"
            )
        _check_number(where, f"peak_flop_per_s.{dtype}", peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerMode:
    """One setting of a board's clocks and active units (on Jetson: one nvpmodel mode).

    Args:
        name: the vendor's name, such as ``MAXN`` or ``15W``.
        power_budget_W: the cap in watts; None where the mode is uncapped or the cap is unknown.
        n_sm: active SMs (or cores); None if unknown.
        clock_Hz: highest clock of those units in hertz; None if unknown.
        bandwidth_Bps: DRAM bandwidth in bytes/s.
        peak_flop_per_s: dense peak by data type, in FLOP/s (or integer operations/s).
        is_default: the mode a new board boots into.
        is_nominal: the mode the catalogue's own figures are for: full power.
        aliases: other spellings.
        source: where the clocks come from.
        note: what a user should know.

    Raises:
        SpecError: a number is not finite or not above zero.
    """

    name: str
    power_budget_W: float | None = None
    n_sm: int | None = None
    clock_Hz: float | None = None
    bandwidth_Bps: float
    peak_flop_per_s: Mapping[str, float] = field(hash=False)
    is_default: bool = False
    is_nominal: bool = False
    aliases: tuple[str, ...] = ()
    source: str
    note: str = ""

    def __post_init__(self) -> None:
        where = f"power mode '{self.name}'"
        for name in ("power_budget_W", "n_sm", "clock_Hz", "bandwidth_Bps"):
            _check_number(where, name, getattr(self, name))
        _check_peaks(where, self.peak_flop_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device at one power mode, every number in SI and with a source.

    Args:
        name: unique key, such as ``jetson_agx_orin_64gb``.
        title: what people call it.
        vendor: who makes it.
        generation: slug of the core or GPU generation (``ampere-sm87``); devices of one generation share efficiencies.
        family: coarser slug (``nvidia-jetson``) for when no device of the generation was measured.
        kind: ``gpu``, ``cpu`` or ``npu``: what runs the model.
        aliases: short names (``orin``).
        n_sm: SMs, compute units or CPU cores in use; None if unknown.
        clock_Hz: their clock in hertz; None if unknown or mixed.
        peak_flop_per_s: **dense** peak by data type (`DTYPES`), only those known, in FLOP/s. On GeForce ``fp16`` is
            with fp16 accumulation and ``bf16`` is the rate with fp32 accumulation, half of it.
        bandwidth_Bps: DRAM bandwidth in bytes/s.
        memory_B: DRAM in bytes, nominal (a "64 GB" part counts 64e9).
        memory_reserved_B: what the system keeps for itself, in bytes.
        l2_B: last-level on-chip cache of the GPU (L2 of a CPU) in bytes; None if unknown.
        tdp_W: board or chip power in watts; None if unknown.
        unified_memory: whether CPU and accelerator share the DRAM.
        price_usd: a price in US dollars, or None; `price_note` says which.
        power_mode: name of the mode in force; None where the device has no modes.
        power_modes: all known modes.
        sources: where each group of numbers comes from.
        confidence: ``high``, ``medium`` or ``low``.
        notes: what a user should know.
        peak_is_estimated: the 16-bit peak is not published and was derived; `sources['peak']` says how.
        fits: calibrations to measurements of this very device, one for each engine, precision, options and power mode.

    Raises:
        SpecError: a number is not finite or not above zero, or a word is not one of those allowed.

    Example:
        >>> from codesign.devices import load_device
        >>> orin = load_device("orin")
        >>> orin.power_mode, orin.bandwidth_Bps, orin.peak_flop_per_s["fp16"]
        ('MAXN', 204800000000.0, 42630000000000.0)
    """

    name: str
    title: str
    vendor: str
    generation: str
    family: str
    kind: str = "gpu"
    aliases: tuple[str, ...] = ()
    n_sm: int | None = None
    clock_Hz: float | None = None
    peak_flop_per_s: Mapping[str, float] = field(hash=False)
    bandwidth_Bps: float
    memory_B: float
    memory_reserved_B: float = 0.0
    l2_B: float | None = None
    tdp_W: float | None = None
    unified_memory: bool = False
    price_usd: float | None = None
    price_note: str = ""
    power_mode: str | None = None
    power_modes: tuple[PowerMode, ...] = ()
    sources: Mapping[str, str] = field(hash=False)
    confidence: str = "low"
    notes: str = ""
    peak_is_estimated: bool = False
    fits: tuple[DeviceFit, ...] = ()

    def __post_init__(self) -> None:
        where = f"device '{self.name}'"
        for name in ("n_sm", "clock_Hz", "bandwidth_Bps", "memory_B", "l2_B", "tdp_W", "price_usd"):
            _check_number(where, name, getattr(self, name))
        _check_number(where, "memory_reserved_B", self.memory_reserved_B, zero=True)
        _check_peaks(where, self.peak_flop_per_s)
        if self.memory_reserved_B >= self.memory_B:
            given = f"{self.memory_reserved_B!r} of {self.memory_B!r}"
            raise SpecError(f"{where}: memory_reserved_B is {given}; allowed: less than memory_B")
        for name, given, allowed in (("kind", self.kind, KINDS), ("confidence", self.confidence, CONFIDENCES)):
            if given not in allowed:
                raise SpecError(f"{where}: {name} is '{given}'; allowed: {', '.join(allowed)}")
        known = [mode.name for mode in self.power_modes]
        if (self.power_mode is None) != (not known) or (known and self.power_mode not in known):
            raise SpecError(f"{where}: power_mode is {self.power_mode!r}; allowed: {', '.join(known) or 'none'}")

    @property
    def memory_usable_B(self) -> float:
        """Bytes left for weights, KV cache and activations: `memory_B` less `memory_reserved_B`."""
        return self.memory_B - self.memory_reserved_B

    @property
    def mode(self) -> PowerMode | None:
        """The power mode in force, or None where the device has no modes."""
        return next((mode for mode in self.power_modes if mode.name == self.power_mode), None)

    def fit_for(self, engine: str | None, precision: str | None) -> DeviceFit | None:
        """The newest fit of an engine at a precision (None: of any) in the power mode in force; None if there is none.

        Of fits made together with other options (threads, provider, CUDA graphs) the surest counts: the smallest 90 % interval of
        decode, then the most architectures.
        """
        matching = [
            fit
            for fit in self.fits
            if fit.engine == (engine or fit.engine)
            and fit.precision == (precision or fit.precision)
            and fit.power_mode == self.power_mode
        ]

        def surest(fit: DeviceFit) -> tuple[str, float, int]:
            terms = fit.decode or fit.prefill
            return fit.fitted_at, -terms.interval_log if terms is not None else -math.inf, fit.n_architectures

        return max(matching, key=surest) if matching else None

    def usual_precision(self, engine: str | None = None) -> str:
        """The precision to assume where none is named: 16 bits, or what the device's own calibration was made at, if it
        was made at no 16-bit precision.
        """
        if any(self.fit_for(engine, name) for name in ("fp16", "bf16")):
            return "fp16" if self.fit_for(engine, "fp16") else "bf16"
        own = self.fit_for(engine, "fp32") or self.fit_for(engine, None)
        return own.precision if own is not None else "fp16"

    @property
    def power_limit_W(self) -> float | None:
        """The cap of the mode in force in watts; the TDP where the mode has none (an uncapped mode may draw
        more); None if neither is known.
        """
        mode = self.mode
        return mode.power_budget_W if mode is not None and mode.power_budget_W is not None else self.tdp_W

    def with_power_mode(self, name: str) -> Device:
        """Return this device with a mode's units, clock, peaks and bandwidth.

        Case, spaces and punctuation do not matter, and what people write around the name is understood: ``MAXN +
        jetson_clocks``, ``15W (max of original board)``. Text that names several modes ("25W or MAXN_SUPER not
        stated") means the one with the highest peak. ``default`` and an empty name mean the nominal (full-power)
        mode; ``factory default`` means the mode a new board boots into.

        Args:
            name: the mode as a person writes it.

        Raises:
            UnknownNameError: the device has no such mode; the message lists those it has.

        Example:
            >>> from codesign.devices import load_device
            >>> load_device("orin").with_power_mode("30 W").n_sm
            8
        """
        mode = match_mode(name, self.power_modes)
        if mode is None:
            if not self.power_modes and name.strip().lower() in ("", "default"):
                return self
            modes = ", ".join(mode.name for mode in self.power_modes)
            allowed = f"its modes: {modes}" if modes else "it has no power modes: leave the mode out"
            raise UnknownNameError(f"unknown power mode '{name}' of device '{self.name}'; {allowed}")
        return dataclasses.replace(
            self,
            power_mode=mode.name,
            n_sm=mode.n_sm,
            clock_Hz=mode.clock_Hz,
            peak_flop_per_s=mode.peak_flop_per_s,
            bandwidth_Bps=mode.bandwidth_Bps,
        )
