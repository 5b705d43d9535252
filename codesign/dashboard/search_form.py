"""The form that starts `codesign search`: its fields, how they are filled from a run, checked, and become an argument list.

A value becomes part of one argument, ``--name=value``: it cannot turn into another option, and no shell reads it. Files are
left to the command line; the one exception is a file that the run at hand was itself made with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign import units
from codesign.devices import device_names, load_device
from codesign.engines import ENGINES, resolve_engine
from codesign.errors import CodesignError, SpecError
from codesign.hf_config import known_models, read_config
from codesign.predictors import law_names, load_law
from codesign.search import OBJECTIVES, load_space
from codesign.workload import PRECISIONS, Workload, parse_precision

__all__ = ["FIELDS", "GROUPS", "Field", "FormError", "Prefilled", "check_form", "from_command", "suggestions"]

Check = Callable[[str], object]
_LONGEST = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One option of `codesign search`.

    name: without dashes; default: what the command takes without it; hint, example: for who fills it in; check: raises `CodesignError`; choices: all that is allowed,
    where that is a short list; flag: an option without a value; several: repeatable, written with commas here.
    """

    name: str
    title: str
    group: str
    check: Check
    default: str = ""
    hint: str = ""
    example: str = ""
    choices: tuple[str, ...] = ()
    flag: bool = False
    several: bool = False


class FormError(SpecError):
    """What is wrong with which field: `errors` by name."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(errors.values()))
        self.errors = dict(errors)


def _whole(low: int, what: str) -> Check:
    def check(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise SpecError(f"{what} '{text}' must be a whole number of at least {low}")
        return value

    return check


def _length(name: str) -> Check:
    return lambda text: Workload(**{name: _whole(0, name.replace("_", " "))(text)})  # type: ignore[arg-type]


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.5 <= value < 1:
        raise SpecError(f"confidence '{text}' must lie between 0.5 and 1 (such as 0.9)")
    return value


def _each(check: Check) -> Check:
    return lambda text: [check(part) for part in _parts(text)]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _named(what: str, check: Check) -> Check:
    """Names only: a path would let a page choose which file of this machine is read."""

    def checked(text: str) -> object:
        if any(sign in text for sign in ("/", "\\", "~")) or text.lower().endswith((".toml", ".json")):
            raise SpecError(f"{what} '{text}' is a file; give a name here, or use the command line for files")
        return check(text)

    return checked


def _objectives(text: str) -> None:
    names = _parts(text)
    for name in names:
        if name not in OBJECTIVES:
            raise SpecError(f"unknown objective '{name}'; known: {', '.join(OBJECTIVES)}")
    if len(names) < 2:
        raise SpecError("give two or more objectives, such as loss,latency")


def _only(what: str, *known: str) -> Check:
    def check(text: str) -> None:
        if text not in known:
            raise SpecError(f"unknown {what} '{text}'; known: {', '.join(known)}")

    return check


_BOUNDS: tuple[tuple[str, str, Callable[..., float], str], ...] = (
    ("latency", "Time per token", units.parse_seconds, "20ms"),
    ("ttft", "Time to first token", units.parse_seconds, "500ms"),
    ("e2e", "Whole request", units.parse_seconds, "2s"),
    ("memory", "Peak memory", units.parse_bytes, "8GB"),
    ("energy", "Energy per token", units.parse_energy, "500mJ"),
    ("power", "Mean power", units.parse_power, "15W"),
    ("params", "Stored parameters", units.parse_count, "3B"),
)


def _bound(parse: Callable[..., float], title: str) -> Check:
    return lambda text: parse(text, title)


FIELDS: tuple[Field, ...] = (
    Field(name="device", title="Device", group="Device", example="orin",
          check=_named("device", load_device)),
    Field(name="power-mode", title="Power mode", group="Device", example="30W", hint="empty: full power", check=str),
    Field(name="engine", title="Engine", group="Device", hint="empty: what was measured, else the usual one",
          check=str),
    *(Field(name=name, title=title, group="Budget", example=example, check=_bound(parse, title))
      for name, title, parse, example in _BOUNDS),
    Field(name="confidence", title="Confidence", group="Budget", default="0.5", check=_share,
          hint="probability with which bounds on time and energy hold"),
    Field(name="prompt", title="Prompt tokens", group="Workload", default="1024", check=_length("prompt_tokens")),
    Field(name="generate", title="Generated tokens", group="Workload", default="128", check=_length("output_tokens")),
    Field(name="batch", title="Requests at once", group="Workload", default="1", check=_length("batch_size")),
    Field(name="precision", title="Precision", group="Models", several=True, check=_each(parse_precision),
          hint="fp16, w4a16, ...; several with commas; empty: the device's usual"),
    Field(name="tokens", title="Training tokens", group="Models", check=_bound(units.parse_count, "tokens"),
          hint="of every design; empty: 10B, or those of your own runs"),
    Field(name="space", title="Design space", group="Models", default="default",
          check=_named("space", lambda text: load_space(text, ["fp16"], 50304)), hint="default, dense or paper"),
    Field(name="loss-law", title="Loss law", group="Models", default="gemstones", check=_named("loss law", load_law)),
    Field(name="vocab", title="Vocabulary", group="Models", check=_whole(2, "vocabulary"),
          hint="empty: the known model's, else the law's"),
    Field(name="baseline", title="Known models", group="Models", several=True,
          check=_each(_named("known model", read_config)), hint="to compare with; several with commas"),
    Field(name="objectives", title="Objectives", group="Search", default="loss,latency", check=_objectives,
          hint=", ".join(OBJECTIVES)),
    Field(name="solver", title="Solver", group="Search", default="auto", choices=("auto", "exact", "heuristic"),
          check=_only("solver", "auto", "exact", "heuristic")),
    Field(name="evaluations", title="Evaluations", group="Search", example="20000", check=_whole(1, "evaluations"),
          hint="of the heuristic solver"),
    Field(name="calibration", title="Calibration file", group="Search", hint="empty: the one that ships with codesign",
          check=_named("calibration", _only("calibration"))),
    Field(name="seed", title="Seed", group="Search", default="1", check=_whole(0, "seed")),
    Field(name="allow-extrapolation", title="Keep designs outside the loss law's data", group="Search", flag=True,
          check=_only("choice", "on")),
)  # fmt: skip
GROUPS = tuple(dict.fromkeys(f.group for f in FIELDS))
_BY_NAME = {f.name: f for f in FIELDS}
_BOUND_NAMES = tuple(name for name, *_ in _BOUNDS)
#: Options that say where a run goes and what is printed: the dashboard's own affair.
_OURS = {"out": 1, "plot": 0, "no-plot": 0, "json": 0, "debug": 0, "quiet": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """values by field; left_out: what of the command the form does not have; files: values that are files of the run."""

    values: dict[str, str]
    left_out: tuple[str, ...] = ()
    files: frozenset[str] = field(default_factory=frozenset)


def from_command(command: Sequence[str]) -> Prefilled:
    """Fill the form from a run's own command line (`codesign search ...`); what is not understood is told.

    Example:
        >>> filled = from_command(["codesign", "search", "-d", "orin", "--latency=20ms", "--shell", "ls"])
        >>> filled.values["device"], filled.values["latency"], filled.left_out
        ('orin', '20ms', ('--shell', 'ls'))
    """
    values = {f.name: f.default for f in FIELDS}
    several: dict[str, list[str]] = {}
    left_out: list[str] = []
    rest = list(command[1:])
    if rest[:1] == ["search"]:
        rest.pop(0)
    while rest:
        text = rest.pop(0)
        name, sign, value = text.partition("=")
        name = "device" if name == "-d" else name.removeprefix("--") if name.startswith("--") else ""
        known = _BY_NAME.get(name)
        if known is not None and known.flag:
            values[name] = "on"
        elif known is not None and (sign or rest):
            value = value if sign else rest.pop(0)
            several.setdefault(name, []).append(value)
            values[name] = ", ".join(several[name]) if known.several else value
        elif name in _OURS:
            del rest[: 0 if sign else _OURS[name]]
        elif text:
            left_out.append(text)
    files = {part for name, value in values.items() for part in (_parts(value) if _BY_NAME[name].several else [value])
             if part and _is_file(part)}  # fmt: skip
    return Prefilled(values=values, left_out=tuple(left_out), files=frozenset(files))


def _is_file(text: str) -> bool:
    try:
        path = Path(text)
        return any(sign in text for sign in ("/", ".toml", ".json")) and (path.is_file() or path.is_dir())
    except (OSError, ValueError):
        return False


def check_form(given: Mapping[str, str], files: frozenset[str] = frozenset()) -> list[str]:
    """The arguments of `codesign search` that a form asks for; fields that it does not know are ignored.

    Args:
        files: values that may be files (see `Prefilled`).

    Raises:
        FormError: what is wrong, field by field.

    Example:
        >>> check_form({"device": "orin", "latency": "20ms", "prompt": "1024"})
        ['--device=orin', '--latency=20ms']
    """
    values = {f.name: str(given.get(f.name, "")).strip() for f in FIELDS}
    errors = {}
    for f in FIELDS:
        try:
            if values[f.name]:
                _check(f, values[f.name], files)
            elif f.name == "device":
                raise SpecError("give a device, such as orin")
        except CodesignError as error:
            errors[f.name] = " ".join(str(error).split())
    if not any(values[name] for name in _BOUND_NAMES):
        errors["latency"] = "give at least one bound, such as 20ms here"
    if "device" not in errors:
        _check_device(values, errors)
    if errors:
        raise FormError(errors)
    arguments: list[str] = []
    for f in FIELDS:
        value = values[f.name]
        if f.flag and value:
            arguments.append(f"--{f.name}")
        elif value and value != f.default:
            arguments += [f"--{f.name}={part}" for part in (_parts(value) if f.several else [value])]
    return arguments


def _check(f: Field, value: str, files: frozenset[str]) -> None:
    if len(value) > _LONGEST or not value.isprintable():
        raise SpecError(f"{f.title.lower()}: too long, or it holds characters that cannot be shown")
    names = _parts(value) if f.several else [value]
    others = [name for name in names if name not in files]
    if others:
        f.check(", ".join(others) if f.several else others[0])


def _check_device(values: Mapping[str, str], errors: dict[str, str]) -> None:
    """What goes together with the device only: its power modes and its engines."""
    device: Any = load_device(values["device"])
    for name, check in (("power-mode", device.with_power_mode), ("engine", lambda text: resolve_engine(text, device))):
        try:
            if values[name] and name not in errors:
                check(values[name])
        except CodesignError as error:
            errors[name] = " ".join(str(error).split())


def suggestions() -> dict[str, list[str]]:
    """Names to choose from, by field; a field takes others too (aliases, several)."""
    return {
        "device": device_names(), "engine": sorted(ENGINES), "precision": list(PRECISIONS), "loss-law": list(law_names()),
        "space": ["default", "dense", "paper"], "baseline": list(known_models()),
    }  # fmt: skip
