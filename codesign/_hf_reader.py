"""Typed access to the fields of one config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codesign.errors import SpecError

__all__ = ["Reader"]

_MAX_VALUE = 10**12


class Reader:
    """A config and what error messages call it.

    Raises (all methods):
        SpecError: a field that is missing, of the wrong type or out of range.
    """

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def check(self, key: str, value: Any, low: int, high: int = _MAX_VALUE) -> int:
        """The value, if it is a whole number from low to high."""
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            shown = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a far larger number"
            raise SpecError(f"{self.where}: {key} must be a whole number from {low} to {high}, not {shown[:60]}")
        return value

    def required(self, key: str, defaults: Mapping[str, int] | None = None, high: int = _MAX_VALUE) -> int:
        """A whole number of at least 1."""
        value = self.config.get(key, (defaults or {}).get(key))
        if value is None:
            raise SpecError(f"{self.where}: missing field {key}; copy the model's whole config.json")
        return self.check(key, value, 1, high)

    def count(self, key: str, default: int, low: int = 0) -> int:
        """A whole number of at least `low`; the default where absent, 0 where null."""
        if key not in self.config:
            return default
        value = self.config[key]
        return 0 if value is None else self.check(key, value, low)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; the default where absent or null."""
        value = self.config.get(key, default) if key else default
        if value is None:
            return default
        if not isinstance(value, bool):
            raise SpecError(f"{self.where}: {key} must be true or false, not {str(value)[:60]!r}")
        return value

    def number(self, key: str, default: float) -> float:
        """A number above zero."""
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _MAX_VALUE:
            raise SpecError(f"{self.where}: {key} must be a number above zero, not {str(value)[:60]!r}")
        return float(value)

    def without(self, *keys: str) -> None:
        """Refuse fields that change the model in a way that is not counted here."""
        for key in keys:
            if self.config.get(key):
                raise SpecError(
                    f"{self.where}: {key} {str(self.config[key])[:40]} is not supported; only models without it are"
                )

    def kinds(self, key: str, letters: Mapping[str, str], length: int = 0) -> str:
        """A list of names as a letter each; "" where absent.

        `length`: how many there must be (0: any number).
        """
        names = self.config.get(key)
        if names is None:
            return ""
        if not isinstance(names, list) or not names or (length and len(names) != length):
            wanted = f"one type for each of the {length} layers" if length else "the type of each layer"
            raise SpecError(f"{self.where}: {key} must list {wanted}")
        for name in names:
            if not isinstance(name, str) or name not in letters:
                raise SpecError(
                    f"{self.where}: layer type {str(name)[:60]!r} is not supported; supported: {', '.join(letters)}"
                )
        return "".join(letters[name] for name in names)

    def each(self, key: str, count: int) -> tuple[int, ...]:
        """A list of one whole number of at least 1 for each layer."""
        values = self.config.get(key)
        if not isinstance(values, list) or len(values) != count:
            raise SpecError(f"{self.where}: {key} must list a whole number for each of the {count} layers")
        return tuple(self.check(key, value, 1) for value in values)

    def numbers(self, key: str, high: int) -> set[int] | None:
        """A list of layer numbers below `high`; None where absent or null."""
        value = self.config.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise SpecError(f"{self.where}: {key} must be a list of layer numbers, not {str(value)[:60]!r}")
        return {self.check(key, number, 0, high - 1) for number in value}
