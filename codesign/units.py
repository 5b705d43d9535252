"""Units at the edge: people type ``20ms``, ``8GB``, ``15W``, ``10B``; inside everything is SI floats.

GB is 1e9 bytes and GiB is 2**30 bytes, never the other way round.
"""

from __future__ import annotations

import math
import re

from codesign.errors import SpecError

__all__ = [
    "format_bytes",
    "format_count",
    "format_energy",
    "format_power",
    "format_seconds",
    "parse_bytes",
    "parse_count",
    "parse_energy",
    "parse_power",
    "parse_seconds",
]

_NUMBER = re.compile(r"^\s*([+-]?(?:\d+(?:[_,]\d{3})*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµμ]*)\s*$")

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_BYTES |= {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}
_WATTS = {"mw": 1e-3, "w": 1.0, "kw": 1e3, "MW": 1e6}  # MW and MJ as written; else case does not matter
_JOULES = {"uj": 1e-6, "µj": 1e-6, "mj": 1e-3, "j": 1.0, "kj": 1e3, "MJ": 1e6}
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


def _parse(text: str, units: dict[str, float], what: str, example: str, *, positive: bool = True) -> float:
    match = _NUMBER.match(text)
    shown = ", ".join(unit for unit in units if unit) or "none"
    if match is None:
        raise SpecError(f"{what} '{text}' is not a number with a unit; units: {shown}; write for example {example}")
    number, unit = match.groups()
    scale = units.get(unit, units.get(unit.lower()))
    if scale is None:
        problem = "has no unit" if not unit else f"has the unknown unit '{unit}'"
        raise SpecError(f"{what} '{text}' {problem}; units: {shown}; write for example {example}")
    value = float(number.replace(",", "").replace("_", "")) * scale
    if not math.isfinite(value) or (positive and value <= 0):
        raise SpecError(f"{what} '{text}' must be a finite number above zero; write for example {example}")
    return value


def parse_seconds(text: str, what: str = "duration") -> float:
    """Parse a duration in ns, us, ms, s or min to seconds.

    Raises:
        SpecError: no unit, an unknown unit, or not above zero.

    Example:
        >>> parse_seconds("20ms")
        0.02
    """
    return _parse(text, _SECONDS, what, "20ms")


def parse_bytes(text: str, what: str = "size") -> float:
    """Parse a size to bytes: GB is 1e9, GiB is 2**30.

    Raises:
        SpecError: no unit, an unknown unit, or not above zero.

    Example:
        >>> parse_bytes("8GB"), parse_bytes("1GiB")
        (8000000000.0, 1073741824.0)
    """
    return _parse(text, _BYTES, what, "8GB")


def parse_power(text: str, what: str = "power") -> float:
    """Parse a power to watts.

    Example:
        >>> parse_power("15W")
        15.0
    """
    return _parse(text, _WATTS, what, "15W")


def parse_energy(text: str, what: str = "energy") -> float:
    """Parse an energy to joules.

    Example:
        >>> parse_energy("250mJ")
        0.25
    """
    return _parse(text, _JOULES, what, "500mJ")


def parse_count(text: str, what: str = "count") -> float:
    """Parse a count such as ``10B`` (1e9), ``350M`` or ``1.5e9``.

    Example:
        >>> parse_count("10B"), parse_count("1,024")
        (10000000000.0, 1024.0)
    """
    return _parse(text, _COUNTS, what, "10B")


def _scaled(value: float, steps: list[tuple[float, str]], digits: int) -> str:
    if not math.isfinite(value):
        return "-"
    scale, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    scaled = value / scale
    magnitude = math.floor(math.log10(abs(scaled))) if scaled else 0
    text = f"{scaled:.{max(digits - 1 - magnitude, 0)}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


def format_seconds(seconds: float, digits: int = 3) -> str:
    """Show a duration with the unit that reads best.

    Example:
        >>> format_seconds(0.0193)
        '19.3 ms'
    """
    return _scaled(seconds, [(1.0, "s"), (1e-3, "ms"), (1e-6, "us")], digits)


def format_bytes(size_B: float, digits: int = 3) -> str:
    """Show a size in decimal units (GB is 1e9).

    Example:
        >>> format_bytes(2.5e9)
        '2.5 GB'
    """
    return _scaled(size_B, [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")], digits)


def format_count(count: float, digits: int = 3) -> str:
    """Show a count with K, M, B or T.

    Example:
        >>> format_count(494032768)
        '494M'
    """
    return _scaled(count, [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"), (1.0, "")], digits).replace(" ", "")


def format_energy(energy_J: float, digits: int = 3) -> str:
    """Show an energy.

    Example:
        >>> format_energy(0.42)
        '420 mJ'
    """
    return _scaled(energy_J, [(1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ")], digits)


def format_power(power_W: float, digits: int = 3) -> str:
    """Show a power.

    Example:
        >>> format_power(31.25)
        '31.2 W'
    """
    return _scaled(power_W, [(1e3, "kW"), (1.0, "W"), (1e-3, "mW")], digits)
