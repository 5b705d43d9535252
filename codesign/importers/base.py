"""What all readers of other tools' files share: the request, the answer, and text that becomes numbers or a clear error."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codesign.architecture import Architecture
from codesign.cache import kv_bytes
from codesign.errors import SpecError
from codesign.measurement import Measurement
from codesign.operators import Phase, weight_bytes
from codesign.workload import Precision, Workload

__all__ = ["Imported", "Request", "json_values", "kv_objection", "number", "read_text", "seconds_list", "whole"]

MAX_FILE_B = 256_000_000
MAX_TOKENS = 10**9
_KV_SHARE = 0.03  # of the bytes of a decode step; below it the cache's format cannot be seen in a latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user said about a file; None where nothing. See `read_measurements`."""

    path: Path
    device: str | None = None
    power_mode: str | None = None
    model: str | None = None
    precision: str | None = None
    engine: str | None = None
    archs: Path | None = None
    phase: Phase | None = None
    tokens: int | None = None
    context: int | None = None
    batch: int | None = None


@dataclass(slots=True, kw_only=True)
class Imported:
    """What a file gave.

    kind: the format it was read as; measurements: in the order of the file; skipped: (row or record, reason); notes: what was
    assumed or chosen, once each.
    """

    kind: str
    measurements: list[Measurement] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note that is not there yet."""
        if text and text not in self.notes:
            self.notes.append(text)


def read_text(path: Path) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark (what PowerShell's `>` writes).

    Raises:
        SpecError: no such file, not a regular file, larger than 256 MB, empty, or in another encoding.
    """
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not there" if not path.exists() else "is no regular file"
            raise SpecError(f"cannot read {path}: it {what}; give the file that the benchmark wrote")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_B + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_FILE_B:
        raise SpecError(f"{path} is larger than {MAX_FILE_B // 10**6} MB: more than any benchmark's summary; give that")
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path} is neither UTF-8 nor UTF-16 with a byte order mark ({error.reason}); is it text?"
        ) from error
    if not text.strip():
        raise SpecError(f"{path} is empty; did the benchmark fail?")
    return text


_BARE = re.compile(r"(:\s*)[-+]?(?:nan|inf)(?=\s*[,}\]])")


def json_values(text: str, path: Path, tool: str) -> list[Any]:
    """The JSON values that follow each other in a text: one for JSON, one a line for JSON Lines and for appended files.

    C++ prints nan and inf bare; they are read as null.

    Raises:
        SpecError: not JSON, or cut off.
    """
    decoder, values, at = json.JSONDecoder(), [], 0
    text = _BARE.sub(r"\1null", text)
    try:
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            values.append(value)
            while at < len(text) and text[at].isspace():
                at += 1
    except (ValueError, RecursionError) as error:
        reason = (
            f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else type(error).__name__
        )
        raise SpecError(f"{path} is not the JSON of {tool} ({reason}); was it cut off, or edited?") from error
    return values


def number(value: object) -> float | None:
    """A finite number of a JSON or CSV cell, else None.

    Example:
        >>> number("1.5"), number(2), number("nan"), number(True), number(None)
        (1.5, 2.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def whole(row: dict[str, Any], key: str, *, low: int = 0, default: int | None = None) -> int:
    """A whole number of a cell; the default where the cell is absent or empty.

    Raises:
        SpecError: absent without a default, not whole, below `low` or beyond 1e9.
    """
    value = row.get(key)
    if (value is None or value == "") and default is not None:
        return default
    result = number(value)
    if result is None or not result.is_integer() or not low <= result <= MAX_TOKENS:
        given = f"is {str(value)[:40]!r}" if key in row else "is missing"
        raise SpecError(f"{key} {given}; allowed: a whole number of at least {low}")
    return int(result)


def seconds_list(values: object, scale: float, what: str) -> tuple[float, ...]:
    """Raw times in seconds.

    Raises:
        SpecError: no list, empty, or a value that is not finite and above zero.
    """
    if not isinstance(values, list) or not values:
        raise SpecError(f"{what} holds no times")
    out = []
    for value in values:
        seconds = number(value)
        if seconds is None or seconds * scale <= 0:
            raise SpecError(f"{what} holds {str(value)[:40]!r}; allowed: times above zero")
        out.append(seconds * scale)
    return tuple(out)


def kv_objection(
    arch: Architecture, precision: Precision, phase: Phase, context: int, batch: int, kv_bits: float
) -> str | None:
    """Why a decode step with a KV cache of `kv_bits` cannot stand as one of `precision`; None where it can.

    A precision fixes the cache's bits, and a measurement names a precision. The difference does not matter while it is
    below 3 % of the bytes that the step moves: |kv_bits - precision.kv_bits| / precision.kv_bits * KV bytes.
    """
    if phase == "prefill" or kv_bits == precision.kv_bits:
        return None
    held = Workload(prompt_tokens=max(context - 1, 0), output_tokens=1, batch_size=batch)
    cache = float(kv_bytes(arch, held, precision))
    changed = cache * abs(kv_bits - precision.kv_bits) / precision.kv_bits
    if changed <= _KV_SHARE * (float(weight_bytes(arch, precision)) + cache):
        return None
    return (
        f"KV cache of {kv_bits:g} bits, where {precision.name} has {precision.kv_bits:g}, matters at context {context}; "
        f"measure with a {precision.kv_bits:g}-bit cache"
    )
