"""Seconds and memory of whole commands, each in a new process.

python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time

from _machine import table, write

COMMANDS = (
    ("codesign --help", ["--help"], 0.5),
    ("codesign search --help", ["search", "--help"], 0.5),
    ("codesign devices", ["devices"], 1.0),
    ("codesign search --device orin --latency 20ms", ["search", "--device", "orin", "--latency", "20ms"], 5.0),
    (
        "codesign search --device orin --latency 20ms --baseline qwen2.5-0.5b",
        ["search", "--device", "orin", "--latency", "20ms", "--baseline", "qwen2.5-0.5b"],
        5.0,
    ),
)


def once(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident memory in MB of one process."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os.chdir(folder)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.execv(sys.executable, [sys.executable, "-m", "codesign", *arguments])
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"codesign {' '.join(arguments)} failed")
    return seconds, usage.ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    rows = []
    for name, arguments, target in COMMANDS:
        runs = [once(arguments) for _ in range(options.runs)]
        seconds, memory = ([run[k] for run in runs] for k in (0, 1))
        rows.append([f"`{name}`", f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}", f"{target:g}",
                     f"{max(memory):.0f}"])  # fmt: skip
    headings = ["command", "seconds, median", "lowest", "highest", "target", "peak memory, MB"]
    text = table(headings, rows) + f"\n{options.runs} runs each, imports and plot included.\n"
    write("benchmark_startup.md", "Whole commands", text)


if __name__ == "__main__":
    main()
