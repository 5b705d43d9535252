"""Results kept for the page and its pictures, which are made of one review one after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from codesign.report.review import Review

__all__ = ["once"]

T = TypeVar("T")


def once(compute: Callable[[Review], T]) -> Callable[[Review], T]:
    """Keep the result for the last review: that very object, since comparing two reviews would compare their arrays."""
    kept: list[tuple[Review, T]] = []

    @wraps(compute)
    def computed(review: Review) -> T:
        if not kept or kept[0][0] is not review:
            kept[:] = [(review, compute(review))]
        return kept[0][1]

    return computed
