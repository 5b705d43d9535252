"""What a campaign of trained models teaches a loss law, and the frontier it finds: results/training_campaign.md and .png.

    python tools/training_validation.py results/training_runs.jsonl.gz

reads runs that `codesign train --export` wrote. Everything is fitted on one set of architectures and scored on another; nothing
is tuned on the scored ones. Latency is that of the calibrated host of results/host_cpu_measurements.jsonl.gz.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from training_report import plot, report
from training_scores import LARGE, SMALL, everyone, frontiers, judged, learning_curve, left_out, load, scores


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--measurements", type=Path, default=Path("results/host_cpu_measurements.jsonl.gz"))
    parser.add_argument(
        "--example", type=Path, default=Path("results/host_example/frontier.jsonl"), help="has the host's peaks"
    )
    parser.add_argument("--out", type=Path, default=Path("results/training_campaign.md"))
    options = parser.parse_args(argv)
    campaign = load(options.runs, options.measurements, options.example)
    count = campaign.loss.size
    if count < SMALL + LARGE:
        raise SystemExit(f"{options.runs} has {count} finished runs; {SMALL + LARGE} are needed")
    found: dict[str, Any] = {}

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    tell(f"{count} finished runs")
    members, staged = everyone(campaign.table, np.arange(SMALL))
    test = np.arange(count - LARGE, count)
    mean = staged.predict(campaign.table.frame)
    low, high = staged.interval(campaign.table.frame, 0.9)
    found["largest"] = {"scores": scores(campaign.table, test, judged(members, campaign.table, test)), "chosen": staged.chosen_,
                        "beyond": staged.chosen_beyond_, "curve": (mean, low, high)}  # fmt: skip
    tell("smaller models predicted larger ones")
    found["fronts"] = frontiers(campaign)
    tell("frontiers")
    found["curve"] = learning_curve(campaign)
    tell("learning curve")
    found["left_out"], _, found["chosen"] = left_out(campaign.table)
    tell("shapes left out")
    plot(campaign, found, options.out.with_suffix(".png"))
    options.out.write_text(report(campaign, found, str(options.runs)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
