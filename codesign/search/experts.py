"""The axis `experts` of a design space: how many routed experts, how many of them are active, and how many shared ones.

Values are pairs (E, K), (0, 0) for a dense FFN, or triples (E, K, S) with S shared experts as wide as a routed one; as text "dense",
"8x2" and "64x6+2". All are fine-grained by K and S: the activated width is that of the axis ffn_ratio, divided among K + S.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from codesign.architecture import Architecture
from codesign.errors import SpecError

__all__ = ["ExpertsValue", "expert_counts", "experts_name", "experts_of", "parse_experts"]

ExpertsValue = tuple[int, ...]
_TEXT = re.compile(r"(\d+)x(\d+)(?:\+(\d+))?")


def expert_counts(value: ExpertsValue) -> tuple[int, int, int]:
    """Routed, active and shared experts.

    Example:
        >>> expert_counts((64, 6, 2)), expert_counts((8, 2))
        ((64, 6, 2), (8, 2, 0))
    """
    experts, active, *shared = value
    return experts, active, shared[0] if shared else 0


def experts_name(value: ExpertsValue) -> str:
    """A value as text.

    Example:
        >>> experts_name((0, 0)), experts_name((8, 2)), experts_name((64, 6, 2))
        ('dense', '8x2', '64x6+2')
    """
    experts, active, shared = expert_counts(value)
    return f"{experts}x{active}" + (f"+{shared}" if shared else "") if experts else "dense"


def parse_experts(text: Any) -> ExpertsValue:
    """The value of a text.

    Raises:
        SpecError: none of the three forms.

    Example:
        >>> parse_experts("dense"), parse_experts("8x2"), parse_experts("64x6+2")
        ((0, 0), (8, 2), (64, 6, 2))
    """
    name = str(text).strip().lower()
    if name == "dense":
        return (0, 0)
    found = _TEXT.fullmatch(name)
    if found is None:
        raise SpecError(f"axis 'experts': '{text}' is neither dense nor ExK nor ExK+S, such as 8x2 or 64x6+2")
    counts = tuple(int(part) for part in found.groups() if part is not None)
    return counts[:2] if counts[2:] == (0,) else counts


def experts_of(arch: Architecture, offered: Sequence[ExpertsValue]) -> ExpertsValue:
    """The value that a design came from; without its shared experts where no value offered has them (the family's own)."""
    pair = (arch.n_experts, arch.n_active_experts)
    shared = arch.n_shared_experts * arch.d_ff_shared // arch.d_ff_expert if arch.n_experts else 0
    return (*pair, shared) if shared and (*pair, shared) in offered else pair
