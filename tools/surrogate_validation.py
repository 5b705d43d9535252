"""Judge every predictor on rows it did not see, on every public data set; write results/surrogates.{md,csv,png} and held_out.json.

    python tools/surrogate_validation.py --data ../shared/data --cache CACHE

A cell is one split of one data set: fit all predictors on its training rows, choose, predict its test rows. Each finished cell is a
file in the cache, so the run can be stopped and started again; about an hour of one core in all. Kinds of cells:

- ``curve``: 25, 50, 100, 200, 400 training rows of random whole groups, tested on (at most 400 rows of) the other groups;
- ``largest``: the largest models left out;
- ``published``: the splits of shared/data/loss/measured_baselines.csv and the gates.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from surrogate_report import write_held_out, write_report
from surrogate_sets import SETS, DataSet, published

from codesign.errors import SpecError
from codesign.predictors.evaluate import Split, evaluate, group_splits, row_splits
from codesign.predictors.loss_table import LossTable

ROOT = Path(__file__).resolve().parents[1]
SIZES = (25, 50, 100, 200, 400)
MOST_TEST_ROWS = 400
_URGENT = (50, 200, 100, 25, 400)


@dataclass(frozen=True)
class Cell:
    """One split of one data set."""

    set: str
    kind: str
    key: str
    split: Split
    folds: int

    @property
    def file(self) -> str:
        return f"{self.set}.{self.kind}.{self.key}.json".replace(" ", "_").replace("/", "-")


def largest(table: LossTable, share: float) -> Split | None:
    """The largest models out: a share of the distinct sizes, at least one; four groups stay."""
    sizes = np.asarray(table.frame[table.size], dtype=float)
    distinct = np.unique(np.round(np.log(sizes), 2))  # sizes within 1 % are one
    count = max(1, round(share * distinct.size))
    if count >= distinct.size:
        return None
    out = np.round(np.log(sizes), 2) >= distinct[-count]
    return Split(~out, out) if np.unique(table.groups[~out]).size >= 4 else None


def cells(data: DataSet, table: LossTable, repeats: int) -> Iterator[Cell]:
    """Cells of a data set, the important ones first."""
    for entry in published():
        if entry.set == data.name:
            for number, split in enumerate(entry.splits(table)):
                yield Cell(data.name, "published", f"{entry.key}.{number}", split, 5)
    if data.largest and table.size is not None:
        split = largest(table, data.largest)
        if split is not None:
            yield Cell(data.name, "largest", "0", capped(split, 0), 5)
    count = len(table.frame)
    if count < 2 * SIZES[0] and data.largest == 0.0:  # too few for a curve: four folds
        for number, split in enumerate(group_splits(table, 4)):
            yield Cell(data.name, "curve", f"{3 * count // 4}.{number}", split, 4)
    for rows in SIZES:
        try:
            splits = row_splits(table, rows, repeats if rows < 200 else min(repeats, 2))
        except SpecError:
            continue
        for number, split in enumerate(splits):
            yield Cell(
                data.name,
                "curve",
                f"{rows}.{number}",
                capped(split, number),
                4 if rows <= 100 else 3,
            )


def capped(split: Split, seed: int) -> Split:
    """At most 400 rows of each side."""

    def few(rows: Any) -> Any:
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
        if rows.size <= MOST_TEST_ROWS:
            return rows
        return np.sort(np.random.default_rng(seed).choice(rows, MOST_TEST_ROWS, replace=False))

    return Split(few(split.train), few(split.test))


def run(cell: Cell, data: DataSet, table: LossTable, names: list[str] | None) -> dict[str, Any]:
    """Scores of all predictors on one cell."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=RuntimeWarning)
        results = evaluate(table, [cell.split], names=names, columns=data.columns, folds=cell.folds)
    rows = []
    for result in results:
        values = {k: v if isinstance(v, str) else float(f"{v:.5g}") for k, v in result.score.__dict__.items()}
        rows.append(
            {
                **values,
                "chosen": result.chosen,
                "beyond": result.beyond,
                "weight": round(result.weight, 4),
                "n_train": round(result.n_train),
                "n_test": result.n_test,
            }
        )
    return {"set": cell.set, "kind": cell.kind, "key": cell.key, "cpu_s": time.process_time() - start, "rows": rows}


def urgency(cell: Cell) -> tuple[int, int, int]:
    """Published splits first, then extrapolation, then the curves, one repeat of all sets before the next: a run cut short has what
    matters most.
    """
    kind = ("published", "largest", "curve").index(cell.kind)
    rows, _, repeat = cell.key.rpartition(".")
    if cell.kind != "curve":
        return kind, 0, 0
    return kind, int(repeat), _URGENT.index(int(rows)) if int(rows) in _URGENT else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with loss/ and nas/")
    parser.add_argument("--cache", type=Path, required=True, help="folder of finished cells")
    parser.add_argument("--sets", nargs="*", default=list(SETS), help="only these data sets")
    parser.add_argument("--kinds", nargs="*", default=["published", "largest", "curve"])
    parser.add_argument("--predictors", nargs="*", default=None)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--cpu-s", type=float, default=float("inf"), help="start no cell after so much CPU time; run it again"
    )
    parser.add_argument("--report-only", action="store_true", help="write the results from the cache as it is")
    parser.add_argument("--output", type=Path, default=ROOT, help="root that the results are written under")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    if not arguments.report_only:
        tables = {name: SETS[name].read(arguments.data) for name in arguments.sets}
        every = [cell for name, table in tables.items() for cell in cells(SETS[name], table, arguments.repeats)]
        for cell in sorted((c for c in every if c.kind in arguments.kinds), key=urgency):
            path = arguments.cache / cell.file
            skipped = path.with_suffix(".skipped")
            if path.exists() or skipped.exists():
                continue
            if time.process_time() > arguments.cpu_s:
                return
            try:
                found = run(cell, SETS[cell.set], tables[cell.set], arguments.predictors)
            except SpecError as error:  # such as rows that lack a column that the others have
                skipped.write_text(f"{error}\n")
                print(f"{cell.file} skipped: {error}", flush=True)
                continue
            part = path.with_suffix(".part")
            part.write_text(json.dumps(found))
            part.replace(path)
            print(f"{cell.file} {found['cpu_s']:.0f} s", flush=True)
    done = [json.loads(path.read_text()) for path in sorted(arguments.cache.glob("*.json"))]
    write_report(done, arguments.output / "results")
    write_held_out(done, arguments.output / "codesign" / "predictors" / "held_out.json")


if __name__ == "__main__":
    main()
