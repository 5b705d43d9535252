"""pymoo operators for axes of two kinds: numbers in order, and categories (precision, mixer, experts) without one.

Numbers: simulated binary crossover and polynomial mutation. Categories: parents exchange them whole (uniform crossover), and a
mutation draws any other one: between mamba2:4 and mlstm:4 there is nothing to interpolate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair

__all__ = ["Exchange", "Reset"]

Categories = NDArray[np.bool_]


class Exchange(Crossover):  # type: ignore[misc]  # pymoo is Any to mypy
    """Crossover of two parents, by kind of axis."""

    def __init__(self, categories: Categories) -> None:
        super().__init__(2, 2, prob=0.9, vtype=float, repair=RoundingRepair())
        self.categories, self.numbers = categories, SBX(prob=0.9, eta=10)

    def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        children = self.numbers._do(problem, X, *args, random_state=random_state, **kwargs)
        swapped = np.where(random_state.random(X.shape[1:]) < 0.5, X, X[::-1])
        children[:, :, self.categories] = swapped[:, :, self.categories]
        return children


class Reset(Mutation):  # type: ignore[misc]  # pymoo is Any to mypy
    """Mutation, by kind of axis."""

    def __init__(self, categories: Categories, lengths: NDArray[np.int64]) -> None:
        super().__init__(prob=0.9, vtype=float, repair=RoundingRepair())
        self.categories, self.lengths, self.numbers = categories, lengths, PM(prob=0.9, eta=10)

    def _do(self, problem: Any, X: Any, *args: Any, random_state: Any = None, **kwargs: Any) -> Any:
        mutated = self.numbers._do(problem, X, *args, random_state=random_state, **kwargs)
        chosen = random_state.random(X.shape) < 1 / X.shape[1]
        drawn = random_state.integers(0, self.lengths, size=X.shape)
        mutated[:, self.categories] = np.where(chosen, drawn, X)[:, self.categories]
        return mutated
