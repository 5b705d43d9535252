"""The exception tree: every error a user can cause has one clear line.

A message says what is wrong, what was given, what is allowed and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CodesignError",
    "EngineLostError",
    "InfeasibleError",
    "MeasurementError",
    "MissingExtraError",
    "SchemaError",
    "SpecError",
    "UnknownNameError",
]


class CodesignError(Exception):
    """Base class of all errors raised on purpose by codesign."""


class SpecError(CodesignError, ValueError):
    """A value that the user gave does not make sense (unit, range, shape, file content)."""


class UnknownNameError(CodesignError, LookupError):
    """A name (device, engine, law, model, ...) that no catalogue holds."""

    @classmethod
    def near(cls, kind: str, given: str, known: Iterable[str], hint: str = "") -> UnknownNameError:
        """Build the message with the closest known name.

        Example:
            >>> str(UnknownNameError.near("device", "orion", ["orin", "thor"], "See 'codesign devices'."))
            "unknown device 'orion'; did you mean 'orin'? See 'codesign devices'."
        """
        names = sorted(set(known))
        close = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.5)
        meant = (
            f"did you mean '{close[0]}'?"
            if close
            else f"known: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}."
        )
        return cls(f"unknown {kind} '{given}'; {meant} {hint}".rstrip())


class InfeasibleError(CodesignError):
    """No candidate meets the budget; carries the nearest one and what it breaks."""

    def __init__(self, message: str, nearest: object | None = None, violated: str = "") -> None:
        super().__init__(message)
        self.nearest = nearest
        self.violated = violated


class MeasurementError(CodesignError):
    """A device, an engine or a clock failed, or gave times that cannot be."""


class EngineLostError(MeasurementError):
    """An engine failed so that it runs nothing more in this process, such as CUDA after an illegal address: a campaign ends."""


class MissingExtraError(CodesignError):
    """A package that this command needs is not installed."""

    @classmethod
    def of(cls, package: str, extra: str, needed_for: str) -> MissingExtraError:
        """Build the message that names the extra to install.

        Example:
            >>> str(MissingExtraError.of("onnxruntime", "onnx", "--engine onnxruntime"))
            "--engine onnxruntime needs the package 'onnxruntime', which is not installed; pip install 'codesign-llm[onnx]'"
        """
        return cls(
            f"{needed_for} needs the package '{package}', which is not installed; pip install 'codesign-llm[{extra}]'"
        )


class SchemaError(CodesignError):
    """A file is corrupt, of another kind, or written by a newer version."""
