"""What the timing loop needs of an engine: load a model, and a function that runs one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from codesign.architecture import Architecture
from codesign.errors import SchemaError, SpecError
from codesign.measurement import Clock
from codesign.operators import Phase
from codesign.trtexec_files import LayerTime

__all__ = [
    "Engine",
    "LayerProfiler",
    "LoadedModel",
    "Point",
    "Task",
    "TimingSettings",
    "first_line",
    "uses_accelerator",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One pass to be timed: see `Measurement`.

    Raises:
        SpecError: a length out of range.

    Example:
        >>> Point.prefill(512), Point.decode(256).context_tokens
        (Point(phase='prefill', batch_size=1, tokens=512, context_tokens=0), 256)
    """

    phase: Phase
    batch_size: int = 1
    tokens: int = 1
    context_tokens: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.tokens < 1 or self.context_tokens < 0:
            raise SpecError(f"a pass needs at least one request and one token, not {self}")

    @classmethod
    def prefill(cls, tokens: int, batch_size: int = 1) -> Point:
        """A prompt of `tokens` on an empty cache."""
        return cls(phase="prefill", batch_size=batch_size, tokens=tokens)

    @classmethod
    def decode(cls, context_tokens: int, batch_size: int = 1) -> Point:
        """One new token on a cache of `context_tokens`."""
        return cls(phase="decode", batch_size=batch_size, context_tokens=context_tokens)


class LoadedModel(Protocol):
    """A model in an engine, with random weights."""

    def runner(self, point: Point) -> Callable[[], float | None]:
        """Prepare a pass (inputs, cache, bindings). The function runs it once, to its end.

        It returns the accelerator's own seconds where the engine has such a clock, else None.
        """
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class Engine(Protocol):
    """An inference engine on this machine.

    name: such as onnxruntime; version: of the engine; options: what changes its speed (threads, provider), as text;
    clock: which clock counts for it ("cpu" for one CPU thread, "device" for CUDA events, else "wall"); precisions: names
    that it runs; device_memory_B: free memory of the accelerator, None where models live in the host's memory.
    """

    name: str
    version: str
    options: Mapping[str, str]
    clock: Clock
    precisions: tuple[str, ...]
    device_memory_B: float | None

    def load(self, arch: Architecture, precision: str, *, max_tokens: int, seed: int = 0) -> LoadedModel:
        """Build the model with random weights for contexts of up to `max_tokens`.

        Raises:
            SpecError: a precision or a feature of the architecture that the engine lacks.
            MeasurementError: the engine failed to build or load it.
        """
        ...


def uses_accelerator(engine: Engine) -> bool:
    """Whether the engine runs models on an accelerator and not on the CPU.

    Its provider decides, not its clock: onnxruntime on CUDA is timed by the wall clock.

    Example:
        >>> from types import SimpleNamespace
        >>> uses_accelerator(SimpleNamespace(options={"provider": "cuda"}, clock="wall"))
        True
    """
    return engine.options.get("provider", "cpu") != "cpu" or engine.clock == "device"


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something, its type's name where none does.

    Example:
        >>> first_line(RuntimeError("CUDA error: out of memory\\nsee the log")), first_line(MemoryError())
        ('CUDA error: out of memory', 'MemoryError')
    """
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@runtime_checkable
class LayerProfiler(Protocol):
    """An engine that can say where the time of a pass goes."""

    def layer_profile(self, arch: Architecture, precision: str, point: Point, passes: int = 10) -> list[LayerTime]:
        """Seconds of each layer over passes of their own: profiling slows a pass, so use the shares."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingSettings:
    """How long and how often to time.

    Args:
        min_repeats, max_repeats: timed passes of a point in one epoch.
        min_time_s: keep repeating for at least this long in one epoch (up to max_repeats).
        max_time_s: stop an epoch after this long, and a point's epochs after this long in all.
        min_epochs, max_epochs: interleaved epochs of one visit; agree: the two smallest medians must differ by less than
            this share, or more epochs follow.
        settle: warm-up ends when two successive passes differ by less than this share.
    """

    min_repeats: int = 2
    max_repeats: int = 50
    min_time_s: float = 0.2
    max_time_s: float = 20.0
    min_epochs: int = 2
    max_epochs: int = 3
    agree: float = 0.02
    settle: float = 0.05

    def __post_init__(self) -> None:
        in_order = (
            1 <= self.min_repeats <= self.max_repeats
            and 0 <= self.min_time_s <= self.max_time_s
            and 1 <= self.min_epochs <= self.max_epochs
            and self.agree >= 0
        )
        if not in_order:
            raise SpecError(f"repeats, times and epochs must be in order and not negative, not {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One visit to one model: what a profiler does between two records. Plain data, so that it can go to another board.

    engine: a name that `open_engine` knows; engine_options: text options for it (threads, provider, ...); device,
    power_mode, campaign: written into the records. depths: measure two shallower models of the same shape instead, and
    compose the whole one from them (see `codesign.profilers.compose`). force: take the user's word for device and power
    mode; else each visit is refused where the machine is another or in another mode. energy: measure it, where a meter is.
    """

    architecture: Architecture
    precision: str
    engine: str
    engine_options: Mapping[str, str]
    points: tuple[Point, ...]
    device: str
    power_mode: str | None = None
    campaign: str = ""
    settings: TimingSettings = TimingSettings()
    depths: tuple[int, int] | None = None
    force: bool = False
    energy: bool = True

    def __post_init__(self) -> None:
        if not self.points:
            raise SpecError("a profiling task needs at least one pass")
        if self.depths is not None and not 1 <= self.depths[0] < self.depths[1] < self.architecture.n_layers:
            raise SpecError(
                f"depths {self.depths} must be two rising depths below the model's {self.architecture.n_layers} layers"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        data = asdict(self)
        data["architecture"] = self.architecture.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Task:
        """Build from `to_dict`'s output.

        Raises:
            SchemaError: not a task.
            SpecError: a value out of range.
        """
        try:
            values = dict(data)
            values["architecture"] = Architecture.from_dict(dict(values["architecture"]))
            values["points"] = tuple(Point(**point) for point in values["points"])
            values["settings"] = TimingSettings(**values["settings"])
            values["depths"] = tuple(values["depths"]) if values.get("depths") else None
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise SchemaError(
                f"not a profiling task ({error}); both sides need the same version of codesign"
            ) from error
