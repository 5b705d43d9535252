"""Small tables of candidates, and a quality that only the tests know."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from codesign.search.table import CandidateTable, parse_goal, read_candidates
from codesign.search.table_features import Features, features_of

QUALITY, COST = "accuracy", "latency_ms"


def accuracy_of(row: dict[str, str]) -> float:
    """What training would show: deeper, wider and attention are better, with diminishing returns."""
    bonus = {"conv": 1.0, "sep": 0.0, "attn": 2.0}[row["op"]]
    return 90 - 40 * math.exp(-0.3 * int(row["depth"])) - 800 / int(row["width"]) + bonus


def write_table(path: Path, rows: int = 60, *, answered: int | None = 0) -> list[dict[str, str]]:
    """A table whose first `answered` rows (None: all) have their accuracy."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(rows):
        depth, width, op = (
            int(rng.integers(1, 9)),
            int(rng.choice([64, 128, 256, 384])),
            str(rng.choice(["conv", "sep", "attn"])),
        )
        latency = 0.02 * depth * width * {"conv": 1.0, "sep": 0.4, "attn": 0.8}[op] * (1 + 0.1 * rng.random())
        row = {"name": f"m{i}", "depth": str(depth), "width": str(width), "op": op, COST: f"{latency:.3f}", QUALITY: ""}
        if answered is None or i < answered:
            row[QUALITY] = f"{accuracy_of(row):.3f}"
        found.append(row)
    save(path, found)
    return found


def save(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def load(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def opened(path: Path, *bounds: object) -> tuple[CandidateTable, Features]:
    table = read_candidates(
        path, parse_goal(f"{QUALITY}:max", "--quality"), [parse_goal(COST, "--cost", "min")], bounds
    )  # type: ignore[arg-type]
    return table, features_of(table)
