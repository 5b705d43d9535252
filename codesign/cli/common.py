"""What commands share: options as people type them, and how numbers are shown."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from codesign.workload import Workload

__all__ = ["console", "parse_list", "parse_options", "parse_predictors", "perplexity", "workload_of", "writable_folder"]


def console() -> Console:
    """Standard output: as wide as the terminal; plain and 140 wide where it is none; NO_COLOR and COLUMNS are heard."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    if sys.stdout.isatty():
        return Piped(highlight=False, emoji=False)
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else 140
    return Piped(highlight=False, emoji=False, no_color=True, width=width)


def writable_folder(out: str | None, usual: str) -> Path:
    """The folder of --out, or results/NAME; made.

    Raises:
        SpecError: it cannot be made or written.
    """
    from codesign.errors import SpecError

    folder = Path(out) if out else Path("results") / usual
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot write to {folder}: {error.strerror or error}; give a writable --out") from error
    if not os.access(folder, os.W_OK):
        raise SpecError(f"cannot write to {folder}: it is not writable; give a writable --out")
    return folder


def parse_list(values: list[str] | None) -> list[str]:
    """Repeated options and comma-separated values, flattened; doubles dropped."""
    parts = [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
    return list(dict.fromkeys(parts))


def parse_predictors(values: list[str] | None) -> list[str] | None:
    """Predictors as typed, blanks around the plus sign optional; None: all.

    Raises:
        UnknownNameError: no such predictor.
    """
    from codesign.errors import UnknownNameError
    from codesign.predictors.candidates import CANDIDATES

    known = {name.replace(" ", ""): name for name in (*CANDIDATES, "stack")}
    typed = parse_list(values)
    for text in typed:
        if text.replace(" ", "") not in known:
            raise UnknownNameError.near("predictor", text, known.values(), "See 'codesign predictors'.")
    return [known[text.replace(" ", "")] for text in typed] or None


def workload_of(prompt: int, generate: int, batch: int, serving: list[str] | None = None) -> Workload:
    """The workload of three options and those of serving, each name=value.

    Raises:
        SpecError: a length out of range, or a serving option that is unknown or out of range.
    """
    from dataclasses import fields
    from typing import Any

    from codesign.errors import SpecError
    from codesign.serving import Serving
    from codesign.workload import Workload

    options: dict[str, Any] = {}
    known = [field.name.replace("_", "-") for field in fields(Serving) if field.name != "step_tokens"]
    for name, value in parse_options(serving, "--serving").items():
        if name not in known:
            raise SpecError(f"unknown serving option '{name}'; known: {', '.join(known)}")
        options[name.replace("-", "_")] = int(value) if value.isdigit() else value
    return Workload(prompt_tokens=prompt, output_tokens=generate, batch_size=batch, serving=Serving(**options))


def perplexity(loss: float) -> float:
    """exp(loss)."""
    import math

    return math.exp(loss)


def parse_options(texts: list[str] | None, flag: str = "--option") -> dict[str, str]:
    """Options of an engine, or of another flag, each name=value.

    Raises:
        SpecError: a text without '='.
    """
    from codesign.errors import SpecError

    found = {}
    for text in texts or []:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise SpecError(f"{flag} '{text}' is not name=value")
        found[name] = value
    return found
