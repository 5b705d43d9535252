"""The surrogate of a table's quality: several predictors, the mixture of those that predict left-out rows well.

Candidates: a Gaussian process on the number columns, the same with a linear trend, one on numbers and labels, and boosted trees. (Far from
the trained rows a process without a trend goes back to the mean of what it saw. After a first batch without a good row it takes the good
ones for average and is slow to look there; one with a trend alone is too sure that more is better.) Each is scored on rows that it did not
see by the continuous ranked probability score of its normal prediction,

    CRPS = s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt pi),   z = (y - m) / s

which is in units of the quality and asks for good means and honest intervals at once (Gneiting and Raftery 2007, eq. 21). Those within
25 % of the best are used as an equal mixture: where they disagree, its standard deviation says so. When the rows have doubled they are
judged again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr  # type: ignore[import-untyped,unused-ignore]

if TYPE_CHECKING:
    from codesign.search.table_features import Features

__all__ = ["MIN_ROWS", "TableModel", "crps"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

#: Fewest rows that a surrogate is fitted to.
MIN_ROWS = 8
_FOLDS = 4
_GROWTH = 2.0
_CLOSE = 1.25
_JITTERS = 6  # from 1e-8 to 1e-3
_TREES_FROM = 40  # below, four folds leave trees fewer rows than they have splits to choose


def crps(value: Array, mean: Array, std: Array) -> float:
    """Mean continuous ranked probability score of normal predictions, all (rows,); the lower the better.

    Example:
        >>> round(crps(np.zeros(1), np.zeros(1), np.ones(1)), 4)  # 2 phi(0) - 1 / sqrt pi
        0.2337
    """
    z = (value - mean) / std
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return float(np.mean(std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))))


class TableModel:
    """Predicts the quality of every row of a table from the rows whose quality is known.

    Args:
        features: Of all rows. seed: Of the folds and of the trees.

    Attributes:
        used: Names of the predictors that are mixed. scores: Name -> CRPS at the last judgement.
    """

    def __init__(self, features: Features, seed: int = 0) -> None:
        self.seed = seed
        self.used: tuple[str, ...] = ()
        self.scores: dict[str, float] = {}
        self._judged_at = 0
        moving = (
            np.ptp(features.numbers, axis=0) > 0 if features.numbers.size else np.zeros(features.numbers.shape[1], bool)
        )
        numbers, labels = features.numbers[:, moving], features.labels
        every = np.concatenate([numbers, labels], axis=1)
        hot = [(labels[:, k, None] == np.unique(labels[:, k])).astype(float) for k in range(labels.shape[1])]
        self._inputs: dict[str, Array] = {}
        self._makers: dict[str, Callable[[], Any]] = {}
        if numbers.shape[1]:
            self._add("gp on numbers", numbers, lambda: _process(None))
            self._add("gp on numbers, with trend", numbers, lambda: _process(None, linear=True))
        if labels.shape[1]:
            columns = list(range(numbers.shape[1], every.shape[1]))
            name = "gp on numbers and labels" if numbers.shape[1] else "gp on labels"
            self._add(name, every, lambda: _process(columns))
        self._add("trees", np.concatenate([numbers, *hot], axis=1), lambda: _trees(self.seed))

    def _add(self, name: str, inputs: Array, maker: Callable[[], Any]) -> None:
        self._inputs[name], self._makers[name] = inputs, maker

    def fit(self, rows: Index, value: Array) -> TableModel:
        """Fit to rows (indices) with their quality value (rows,), minimised."""
        if len(rows) >= _GROWTH * self._judged_at or not self.used:
            self._judge(rows, value)
        self._fitted = {name: self._one(name, rows, value) for name in self.used}
        return self

    def _one(self, name: str, rows: Index, value: Array) -> Any:
        """Fit one predictor; rows with the same features make a covariance singular, which takes more jitter than gpytorch tries."""
        from gpytorch.settings import cholesky_max_tries

        with cholesky_max_tries(_JITTERS):
            return self._makers[name]().fit(self._inputs[name][rows], value)

    def predict(self) -> tuple[Array, Array]:
        """Mean and standard deviation of the quality of every row of the table, each (rows,)."""
        each = [model.predict(self._inputs[name], return_std=True) for name, model in self._fitted.items()]
        mean = np.mean([m for m, _ in each], axis=0)
        variance = np.mean([s * s + (m - mean) ** 2 for m, s in each], axis=0)
        return np.asarray(mean), np.asarray(np.sqrt(variance))

    def _judge(self, rows: Index, value: Array) -> None:
        """Score every candidate on left-out rows; a constant quality leaves nothing to judge."""
        self._judged_at = len(rows)
        names = [name for name in self._makers if name != "trees" or len(rows) >= _TREES_FROM]
        self.scores = {}
        if len(names) > 1 and np.ptp(value) > 0:
            fold = np.random.default_rng((self.seed, len(rows))).permutation(len(rows)) % _FOLDS
            for name in names:
                left = np.empty((2, len(rows)))
                for k in range(_FOLDS):
                    out, inputs = fold == k, self._inputs[name]
                    model = self._one(name, rows[~out], value[~out])
                    left[:, out] = model.predict(inputs[rows[out]], return_std=True)
                self.scores[name] = crps(value, left[0], left[1])
            names = sorted(names, key=self.scores.__getitem__)
            names = [name for name in names if self.scores[name] <= _CLOSE * self.scores[names[0]]]
        self.used = tuple(names)


def _process(labels: list[int] | None, *, linear: bool = False) -> Any:
    from codesign.predictors.gaussian_process import GaussianProcess

    return GaussianProcess(categorical=labels, linear=linear, max_iter=60)


def _trees(seed: int) -> Any:
    from codesign.predictors.trees import BoostedTrees

    return BoostedTrees(members=5, learning_rate=0.1, max_rounds=400, random_state=seed)
