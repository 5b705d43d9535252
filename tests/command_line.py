"""Running `codesign` in a process of its own: with a home, a folder for temporary files and so a board lock of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from codesign.architecture import Architecture
from codesign.hf_config import config_dict

#: A space of 24 models of well under a million parameters.
SPACE = """
[axes]
n_layers = [1, 2, 4, 6]
d_model = [64, 128, 192]
ffn_ratio = [2.0, 4.0]
d_head = [32]
n_kv_heads = [1]
vocab_size = [512]
experts = ["dense"]
"""
SHORT = ("--prompt", "16", "--generate", "4")


def environment(home: Path, **extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "CODESIGN_STORE")}
    temporary = home / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    own = {"CODESIGN_HOME": str(home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    return {**kept, **own, **extra}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "codesign", *arguments]


def codesign(home: Path, *arguments: str, timeout: float = 120, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run to the end, in the folder `home`."""
    return subprocess.run(
        command(*arguments), cwd=home, env=environment(home, **extra), capture_output=True, text=True, timeout=timeout, check=False
    )  # fmt: skip


def write_models(folder: Path, count: int) -> list[str]:
    """config.json files of tiny models that differ in depth."""
    names = []
    for n in range(1, count + 1):
        arch = Architecture(n_layers=n, d_model=64, n_heads=2, n_kv_heads=1, d_head=32, d_ff=128, vocab_size=512)
        path = folder / f"tiny-{n}" / "config.json"
        path.parent.mkdir()
        path.write_text(json.dumps(config_dict(arch, max_position_embeddings=1024)))
        names.append(str(path))
    return names
