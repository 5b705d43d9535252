"""One measurement: a pass of one model, timed on one device, with every raw time.

A visit loads a model, warms it up and times each asked pass in interleaved epochs; each pass of each visit is one
`Measurement`. Visits to the same pass lie apart in time, because the spread within one misleads (what else the machine does
changes slowly). `observe` folds the visits of one pass into the statistic that is reported and used: the smallest median of
all epochs.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from codesign.architecture import Architecture
from codesign.errors import MeasurementError, SchemaError
from codesign.operators import Phase

__all__ = ["CLOCKS", "FLAGS", "Clock", "Measurement", "Observation", "epoch_medians", "machine_name", "observe"]

Clock = Literal["wall", "cpu", "device"]
CLOCKS: tuple[Clock, ...] = ("wall", "cpu", "device")
#: What can be said against a measurement.
FLAGS = {
    "unsteady": "warm-up did not settle within its limit",
    "drift": "the second half of the times differs from the first",
    "throttled": "clock fell, or the device reported throttling, between start and end",
    "few": "the time limit ended it before the least number of repeats",
    "imported": "no raw times: read from another tool's output",
    "composed": "not run as a whole: composed from two depths of the same shape",
}


_SPOILED = {"throttled", "unsteady"}
_LISTS = ("wall_s", "cpu_s", "device_s", "epochs", "flags")


def machine_name(host: Mapping[str, str]) -> str:
    """What tells one host from another: processor, CPUs that the process may use, memory in GB.

    Processors of virtual machines can share a name; then count and memory tell them apart, most of the time.

    Example:
        >>> machine_name({"cpu_model": "AMD EPYC", "cores_usable": "2", "memory_B": "25276514304"})
        'AMD EPYC, 2 CPUs, 25 GB'
    """
    if "cpu_model" not in host and "machine" not in host:
        return ""
    memory = f"{float(host['memory_B']) / 1e9:.0f} GB" if "memory_B" in host else "unknown memory"
    return f"{host.get('cpu_model') or host['machine']}, {host.get('cores_usable', '?')} CPUs, {memory}"


def epoch_medians(times: Sequence[float], epochs: Sequence[int]) -> list[float]:
    """Median of each epoch; `epochs` are their lengths, none: all times are one.

    Example:
        >>> epoch_medians([1.0, 3.0, 2.0, 5.0], [3, 1])
        [2.0, 5.0]
    """
    medians, start = [], 0
    for length in epochs or (len(times),):
        medians.append(statistics.median(times[start : start + length]))
        start += length
    return medians


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Times of one pass of one model in one visit.

    Args:
        architecture, precision: the model that ran; precision is a name of `PRECISIONS`.
        engine, engine_version, options: what ran it; options are those that change speed (threads, provider, flavour).
        phase, batch_size, tokens, context_tokens: the pass. prefill processes `tokens` new tokens of each request on a
            cache of `context_tokens` (usually 0); decode processes one (tokens = 1) that attends to `context_tokens`
            cached tokens and itself.
        device, power_mode: catalogue name, or host; None where the device has no modes.
        clock: whose seconds count: wall (host clock around the pass), cpu (process CPU time; with one thread it leaves
            out what other processes took), device (the accelerator's own events).
        wall_s, cpu_s, device_s: raw times of every repeat, in order, in seconds; empty where not taken.
        epochs: how many repeats each epoch of the visit has, in order; empty: one epoch.
        peak_memory_B: of the process (or of the accelerator); energy_J: per pass, from a meter; power_W: mean. None
            where nothing measures it, never 0.
        state: clocks, temperatures and other facts before and after, as the platform gives them.
        host: who measured: machine, operating system, Python.
        flags: keys of `FLAGS`.
        campaign: the campaign that asked for it; created_at: ISO 8601 in UTC; source: profile, or the tool's name.

    Raises:
        MeasurementError: no times, a time that is zero, negative or not finite, or lengths out of range.
    """

    architecture: Architecture
    precision: str
    engine: str
    engine_version: str = ""
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    phase: Phase
    batch_size: int = 1
    tokens: int
    context_tokens: int = 0
    device: str
    power_mode: str | None = None
    clock: Clock = "wall"
    wall_s: tuple[float, ...] = ()
    cpu_s: tuple[float, ...] = ()
    device_s: tuple[float, ...] = ()
    epochs: tuple[int, ...] = ()
    peak_memory_B: float | None = None
    energy_J: float | None = None
    power_W: float | None = None
    state: Mapping[str, Any] = field(default_factory=dict, hash=False)
    host: Mapping[str, str] = field(default_factory=dict, hash=False)
    flags: tuple[str, ...] = ()
    campaign: str = ""
    created_at: str = ""
    source: str = "profile"

    def __post_init__(self) -> None:
        if self.phase not in ("prefill", "decode"):
            raise MeasurementError(f"phase is '{self.phase}'; allowed: prefill, decode")
        if self.clock not in CLOCKS:
            raise MeasurementError(f"clock is '{self.clock}'; allowed: {', '.join(CLOCKS)}")
        for name, low in (("batch_size", 1), ("tokens", 1), ("context_tokens", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise MeasurementError(f"{name} is {value!r}; allowed: a whole number of at least {low}")
        if not self.times:
            raise MeasurementError(f"{self.label()}: no {self.clock} times; a measurement needs at least one")
        for name in ("wall_s", "cpu_s", "device_s"):
            for value in getattr(self, name):
                if not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
                    raise MeasurementError(
                        f"{self.label()}: {name} holds {value!r}; allowed: finite seconds above zero. The clock or the "
                        "engine failed: measure again"
                    )
        whole = all(isinstance(n, int) and n >= 1 for n in self.epochs)
        if self.epochs and not (whole and sum(self.epochs) == len(self.times)):
            raise MeasurementError(
                f"{self.label()}: epochs {self.epochs} do not add up to {len(self.times)} {self.clock} times"
            )
        for name in ("peak_memory_B", "energy_J", "power_W"):
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or value <= 0):
                raise MeasurementError(f"{self.label()}: {name} is {value!r}; allowed: above zero, or None if unknown")
        if unknown := sorted(set(self.flags) - set(FLAGS)):
            raise MeasurementError(f"unknown flag(s) {', '.join(unknown)}; allowed: {', '.join(FLAGS)}")

    @property
    def times(self) -> tuple[float, ...]:
        """The raw times of the clock that counts."""
        return {"wall": self.wall_s, "cpu": self.cpu_s, "device": self.device_s}[self.clock]

    @property
    def seconds(self) -> float:
        """Smallest of the epochs' medians of the clock that counts, in seconds."""
        return min(epoch_medians(self.times, self.epochs))

    @property
    def machine(self) -> str:
        """Processor, usable CPUs and memory of who measured, which tell one host from another; empty where unknown."""
        return machine_name(self.host)

    @property
    def key(self) -> str:
        """Identity of the pass (16 hex digits): equal for visits that may be folded together."""
        what = {
            "architecture": {k: v for k, v in self.architecture.to_dict().items() if k != "family"},
            "options": dict(sorted(self.options.items())),
            "composed": "composed" in self.flags,
            "machine": self.machine if self.device == "host" else "",
            **{
                name: getattr(self, name)
                for name in (
                    "precision", "engine", "engine_version", "phase", "batch_size", "tokens", "context_tokens",
                    "device", "power_mode", "clock", "source",
                )
            },
        }  # fmt: skip
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def label(self) -> str:
        """What was measured, in words.

        Example:
            >>> arch = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
            >>> Measurement(architecture=arch, precision="fp32", engine="torch", phase="decode", tokens=1,
            ...             context_tokens=256, device="host", wall_s=(0.01,)).label()
            'decode at context 256, 2 layers x 64, fp32, torch on host'
        """
        a = self.architecture
        work = f"prefill of {self.tokens}" if self.phase == "prefill" else f"decode at context {self.context_tokens}"
        batch = f" x batch {self.batch_size}" if self.batch_size > 1 else ""
        return f"{work}{batch}, {a.n_layers} layers x {a.d_model}, {self.precision}, {self.engine} on {self.device}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["architecture"] = self.architecture.to_dict()
        for name in _LISTS:
            data[name] = list(data[name])
        for name in ("options", "state", "host"):
            data[name] = dict(data[name])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measurement:
        """Build from `to_dict`'s output.

        Raises:
            SchemaError: an unknown or missing field.
            MeasurementError: a value that is not allowed.
        """
        values = dict(data)
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise SchemaError(f"unknown measurement field(s) {', '.join(unknown)}; update codesign")
        try:
            values["architecture"] = Architecture.from_dict(dict(values["architecture"]))
            for name in _LISTS:
                values[name] = tuple(values.get(name, ()))
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise SchemaError(f"incomplete measurement: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What all visits to one pass say.

    seconds: smallest of all epochs' medians; visits: how many; again_log: the scale, in ln(seconds), by which that would
    move if measured again: the gap between the two best visits, each by its best epoch (nan with one visit). It is no bound. On a
    simulated machine whose noise only adds time and changes between visits (2 to 15 %; exponential, half normal, lognormal),
    with 2 to 5 visits, the second measurement lies within again_log in 52 to 70 % of cases and within three times that in 78
    to 86 %; and the median of again_log over many passes is at least that of the moves (tests/profilers/test_timing.py).
    """

    first: Measurement
    seconds: float
    visits: int
    again_log: float
    energy_J: float | None
    peak_memory_B: float | None
    flags: tuple[str, ...]


def observe(measurements: Iterable[Measurement]) -> list[Observation]:
    """Fold visits by `Measurement.key`, in the order of first appearance.

    Visits that were throttled, or did not settle, are left out where there is another.
    """
    groups: dict[str, list[Measurement]] = {}
    for m in measurements:
        groups.setdefault(m.key, []).append(m)
    out = []
    for every in groups.values():
        visits = [m for m in every if not _SPOILED & set(m.flags)] or every
        medians = sorted(m.seconds for m in visits)
        energies = [m.energy_J for m in visits if m.energy_J is not None]
        memories = [m.peak_memory_B for m in visits if m.peak_memory_B is not None]
        best = min(visits, key=lambda m: m.seconds)
        out.append(
            Observation(
                first=visits[0],
                seconds=medians[0],
                visits=len(visits),
                again_log=math.log(medians[1] / medians[0]) if len(medians) > 1 else math.nan,
                energy_J=statistics.median(energies) if energies else None,
                peak_memory_B=max(memories) if memories else None,
                flags=best.flags,
            )
        )
    return out
