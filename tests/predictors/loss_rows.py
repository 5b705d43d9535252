"""Made-up training runs whose losses follow a known law, as a CSV with the columns of published losses."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codesign.architecture import Architecture


def loss_of(arch: Architecture, tokens: float) -> float:
    """Chinchilla's form with a best aspect of 16: 1.6 + 0.9 (N / 3e4)^-0.22 (1 + 0.02 ln^2(aspect / 16)) + 0.4 (D / 4e6)^-0.3."""
    aspect = np.log(arch.d_model / arch.n_layers / 16)
    size = (arch.params_active_nonembedding / 3e4) ** -0.22
    return float(1.6 + 0.9 * size * (1 + 0.02 * aspect**2) + 0.4 * (tokens / 4e6) ** -0.3)


def shapes(count: int, seed: int = 0) -> list[Architecture]:
    """Different tiny decoders, 2 to 16 layers and 64 to 224 wide."""
    rng = np.random.default_rng(seed)
    found: dict[str, Architecture] = {}
    while len(found) < count:
        head, depth = int(rng.choice([16, 32])), int(rng.choice([2, 3, 4, 6, 8, 12, 16]))
        heads = int(rng.integers(64 // head, 224 // head + 1))
        kv = int(rng.choice([k for k in (1, 2, heads) if heads % k == 0]))
        width = heads * head
        arch = Architecture(
            n_layers=depth, d_model=width, n_heads=heads, n_kv_heads=kv, d_head=head, vocab_size=4096,
            d_ff=int(rng.choice([2.75, 4.0, 5.5]) * width) // 16 * 16,
        )  # fmt: skip
        found[repr(arch)] = arch
    return list(found.values())


def write_rows(
    path: Path, count: int = 40, *, noise: float = 0.002, seed: int = 0, tokens: Sequence[float] = (4e6,)
) -> Path:
    """The CSV; one token count by default, which leaves few law forms to choose among, so that a fit takes a second."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, arch in enumerate(shapes(count, seed)):
        trained = int(rng.choice(tokens))
        rows.append({
            "dataset_id": "made-up", "run_id": f"r{number}", "arch": "dense", "n_layers": arch.n_layers, "d_model": arch.d_model,
            "n_heads": arch.n_heads, "n_kv_heads": arch.n_kv_heads, "head_dim": arch.d_head, "d_ff": arch.d_ff, "vocab": 4096,
            "tokens": trained, "params_total": arch.params_total, "params_active": arch.params_active,
            "params_nonembed_active": arch.params_active_nonembedding, "lr": 0.35 / arch.d_model, "batch_tokens": 2048,
            "schedule": "cosine", "loss": loss_of(arch, trained) * np.exp(noise * rng.standard_normal()),
        })  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
