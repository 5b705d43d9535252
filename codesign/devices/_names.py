"""How names that people write find a device or a power mode."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

__all__ = ["match_mode", "name_key"]

_LOG = logging.getLogger(__name__)


class _Mode(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def is_default(self) -> bool: ...
    @property
    def is_nominal(self) -> bool: ...
    @property
    def peak_flop_per_s(self) -> Mapping[str, float]: ...


M = TypeVar("M", bound=_Mode)


def name_key(name: str) -> str:
    """Return what is compared: lower case without spaces, '-', '_' and '.'.

    Example:
        >>> name_key("RTX 4090"), name_key("agx-orin_64GB")
        ('rtx4090', 'agxorin64gb')
    """
    return re.sub(r"[\s._-]+", "", name.lower())


def _mode_key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def match_mode(text: str, modes: Sequence[M]) -> M | None:
    """Find the mode that `text` means, or None.

    In this order: nothing or "default" (nominal mode), "factory default", the whole text, the text before the first
    bracket, '+', ',' or ';', and last every mode named anywhere in it, of which the one with the highest peak wins.
    """
    by_key = {_mode_key(name): mode for mode in modes for name in (*mode.aliases, mode.name)}
    by_key |= {_mode_key(mode.name): mode for mode in modes}
    key = _mode_key(text)
    if key in ("", "default", "nominal"):
        return next((mode for mode in modes if mode.is_nominal), None)
    if key in ("factory", "factorydefault"):
        return next((mode for mode in modes if mode.is_default), None)
    for candidate in (key, _mode_key(re.split(r"[(\[+,;]", text)[0])):
        if candidate in by_key:
            return by_key[candidate]
    words = re.findall(r"[a-z0-9_]+", text.lower())
    named = [by_key[_mode_key(word)] for word in words if _mode_key(word) in by_key]
    if not named:
        return None
    best = max(named, key=lambda mode: max(mode.peak_flop_per_s.values()))
    _LOG.info("power mode '%s' is ambiguous; taking %s", text, best.name)
    return best
