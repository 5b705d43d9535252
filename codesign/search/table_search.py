"""Search on a table: which rows to train next, by expected hypervolume gain, until the budget of trainings is spent.

1. The first batch is drawn at random. (Rows nearest to the centres of k-means are typical rows; without a good or a bad one among
   them some searches never looked where the good ones are. One row from each of as many cost classes did no better.)
2. A surrogate (`table_model`) is fitted to what was asked. Qualities are cut at three times the distance from the best to the reference:
   they cannot gain, so how much worse still they are must not bend the surrogate. (Cut at the reference itself, the surrogate
   no longer tells the failed from the mediocre, and searches got stuck.)
3. The reference: cost, 1 % of the range beyond the dearest row; quality, the worse of the median of the first batch and 10 % beyond the observed front. A cost
   reference taken from the observed front never looks at rows dearer than what is already found.
4. Rows are asked one after the other by expected gain (`table_gain`); a row that was picked counts as found with its predicted
   quality until it is known (Kriging believer, Ginsbourger et al. 2010), so a batch spreads along the front. The last fifth of a batch
   is picked with standard deviations tripled: a surrogate that is sure of the wrong thing is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError
from codesign.search.front import hypervolume
from codesign.search.table import CandidateTable
from codesign.search.table_features import Features
from codesign.search.table_gain import Cells, cells_of, expected_gain
from codesign.search.table_model import MIN_ROWS, TableModel
from codesign.search.table_score import front_of

__all__ = ["Ask", "TableSearch", "replay"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

FIRST = 20
_BEYOND = 0.1
_CUT = 2.0
_BOLD, _BOLD_SHARE = 3.0, 0.2
_DEAREST = 0.01  # so that the dearest row can gain, too
_CHUNK = 512


@dataclass(frozen=True)
class Ask:
    """Rows to train next.

    Attributes:
        rows: Indices, the most promising first. mean, std: Predicted quality of all rows (minimised); None at a first batch.
        gain: Expected hypervolume gain of each row when it was picked, as a share of the hypervolume found so far; None at a first batch.
        reference: Costs and quality beyond which nothing counts; None at a first batch. predictors: What
            predicted; scores: of all that were judged.
    """

    rows: Index
    mean: Array | None = None
    std: Array | None = None
    gain: Array | None = None
    reference: Array | None = None
    predictors: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)


class TableSearch:
    """Ask and tell on a table.

    Args:
        table: Its `value` and `asked` are what is known at the start. features: Of its rows. seed: Of everything random.
        first: Rows of the first batch. order: The rows that are known at the start in their order; None: the table's.

    Attributes:
        order: Rows in the order in which they were asked, those known at the start first.
    """

    def __init__(
        self,
        table: CandidateTable,
        features: Features,
        seed: int = 0,
        first: int = FIRST,
        order: Sequence[int] | None = None,
    ) -> None:
        self.table, self.features, self.first = table, features, first
        self.value, self.asked = table.value.copy(), table.asked.copy()
        self.order = [int(row) for row in (np.flatnonzero(self.asked) if order is None else order)]
        self._rng = np.random.default_rng(seed)
        self._model = TableModel(features, seed)

    def ask(self, count: int) -> Ask:
        """The next `count` rows, or as many as are left; none of them was asked before."""
        count = min(count, int((~self.asked).sum()))
        if len(self._counting()) < MIN_ROWS:
            return Ask(self._random(min(max(count, MIN_ROWS), int((~self.asked).sum()))))
        model = self._fit()
        mean, std = model.predict()
        reference = self._reference()
        rows, gain = self._pick(mean, std, reference, count)
        return Ask(rows, mean, std, gain, reference, model.used, dict(model.scores))

    def tell(self, rows: Index, value: Array) -> None:
        """The quality (rows,) of rows (indices), minimised; nan: trained, came to nothing.

        Raises:
            SpecError: a row that was told before.
        """
        for row, found in zip(rows, value, strict=True):
            if self.asked[row]:
                raise SpecError(f"row {self.table.line[row]} was told twice")
            self.asked[row], self.value[row] = True, found
            self.order.append(int(row))

    def front(self) -> Index:
        """The frontier of what was asked, by first cost."""
        return front_of(self.table, self.value, np.array(self.order, dtype=np.int64))

    def predict(self) -> Ask:
        """The surrogate's view of all rows, without a question; a first batch's (nothing) where too little is known."""
        if len(self._counting()) < MIN_ROWS:
            return Ask(np.empty(0, dtype=np.int64))
        model = self._fit()
        mean, std = model.predict()
        return Ask(np.empty(0, np.int64), mean, std, None, self._reference(), model.used, dict(model.scores))

    def _counting(self) -> Index:
        rows = np.array(self.order, dtype=np.int64)
        return rows[self.table.allowed(self.value[rows])]

    def _fit(self) -> TableModel:
        rows = np.array(self.order, dtype=np.int64)
        worst = self._worst()
        best = float(np.nanmin(self.value[rows]))
        return self._model.fit(rows, np.fmin(self.value[rows], worst + _CUT * (worst - best)))

    def _worst(self) -> float:
        """Reference of the quality; fmin with it also takes the place of nan."""
        early = np.array(self.order[: self.first], dtype=np.int64)
        known = self.value[early][self.table.allowed(self.value[early])]
        front = self.value[self.front()]
        beyond = front.max() + _BEYOND * np.ptp(front)
        return float(max(beyond, np.median(known))) if len(known) else float(beyond)

    def _reference(self) -> Array:
        cost = self.table.cost
        return np.append(cost.max(axis=0) + _DEAREST * np.ptp(cost, axis=0), self._worst())

    def _pick(self, mean: Array, std: Array, reference: Array, count: int) -> tuple[Index, Array]:
        """Greedy: each time the row of the largest expected gain; gains only shrink as others are picked, so old ones are bounds."""
        scale = np.append(
            np.maximum(np.ptp(self.table.cost, axis=0), 1e-12), 1.0
        )  # volumes of a size that floats hold well
        cost, reference = self.table.cost / scale[:-1], reference / scale
        found = self.front()
        held, values = cost[found], self.value[found]
        whole = max(hypervolume(np.column_stack([held, values]), reference), np.finfo(float).tiny)
        bound = np.where(self.asked, -1.0, np.inf)
        rows: list[int] = []
        gains: list[float] = []
        bold = count - int(_BOLD_SHARE * count)
        wide = std
        for number in range(count):
            cells = cells_of(held, values, reference)
            if number == bold:  # other standard deviations: old gains are no bounds any more
                wide = _BOLD * std
                bound = np.where(bound < 0, -1.0, np.inf)
            row, gain = _largest(bound, cells, cost, mean, wide)
            if gain <= 0:  # nothing can gain: learn where least is known
                row = int(np.argmax(np.where(bound < 0, -1.0, std)))
            bound[row] = -1.0
            rows.append(row)
            honest = expected_gain(cells, cost[row : row + 1], mean[row : row + 1], std[row : row + 1])
            gains.append(float(honest[0]) / whole)
            held, values = np.append(held, cost[row : row + 1], axis=0), np.append(values, mean[row])
        return np.array(rows, dtype=np.int64), np.array(gains)

    def _random(self, count: int) -> Index:
        """Rows not asked, at random."""
        return np.asarray(self._rng.permutation(np.flatnonzero(~self.asked))[:count])


def _largest(bound: Array, cells: Cells, cost: Array, mean: Array, std: Array) -> tuple[int, float]:
    """Row of the largest expected gain, and that gain; no gain exceeds its old one, `bound`, which is tightened in place."""
    order = np.argsort(-bound, kind="stable")
    best, value = int(order[0]), -1.0
    for start in range(0, len(order), _CHUNK):
        part = order[start : start + _CHUNK]
        part = part[bound[part] >= 0]
        if not len(part) or bound[part[0]] <= value:
            break
        bound[part] = expected_gain(cells, cost[part], mean[part], std[part])
        top = part[int(np.argmax(bound[part]))]
        if bound[top] > value:
            best, value = int(top), float(bound[top])
    return best, value


def replay(
    table: CandidateTable,
    features: Features,
    evaluations: int,
    *,
    batch_size: int = 10,
    seed: int = 0,
    first: int = FIRST,
    on_progress: Callable[[int, int], None] | None = None,
) -> TableSearch:
    """Search a table whose quality is known in every row as if it were hidden: rows are revealed as they are asked.

    Raises:
        SpecError: a row whose quality is not known, or more evaluations than rows.
    """
    hidden = int((~table.asked).sum())
    if hidden:
        raise SpecError(
            f"{table.quality.column} is empty in {hidden} of {len(table)} usable rows; a replay needs all of them: leave out "
            f"--evaluations to get the next batch to train"
        )
    if not 1 <= evaluations <= len(table):
        raise SpecError(f"--evaluations {evaluations}; allowed: 1 to the {len(table)} usable rows of '{table.name}'")
    from dataclasses import replace

    nothing = replace(table, value=np.full(len(table), np.nan), asked=np.zeros(len(table), dtype=bool))
    search = TableSearch(nothing, features, seed, first)
    while len(search.order) < evaluations:
        left = evaluations - len(search.order)
        rows = search.ask(min(batch_size if search.order else first, left)).rows[:left]
        search.tell(rows, table.value[rows])
        if on_progress is not None:
            on_progress(len(search.order), evaluations)
    return search
