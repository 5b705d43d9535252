"""What benchmarks share: the machine in words, problems, and the table that goes to results/."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy is imported

RESULTS = Path(__file__).resolve().parents[1] / "results"


def machine() -> str:
    """CPU, cores, system and versions."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    packages = ", ".join(f"{p} {version(p)}" for p in ("codesign-llm", "numpy", "moocore", "pymoo"))
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {packages}"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write(name: str, title: str, body: str) -> None:
    """Print the body and write results/<name> with the machine and the command above it."""
    script = Path(sys.argv[0]).name
    command = " ".join(["python", f"benchmarks/{script}", *sys.argv[1:]])
    text = f"# {title}\n\nMade by `{command}`, one run.\nMachine: {machine()}.\n\n{body}"
    print(body)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(text, encoding="utf-8")
    print(f"written: results/{name}")
