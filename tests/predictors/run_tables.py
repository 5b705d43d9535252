"""Tables of made-up runs whose law is known."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["law_table"]


def law_table(shapes: int = 12, tokens: int = 4, noise: float = 0.0, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Runs of L = 1.8 + 0.5 (N / 1e8)^-0.35 + 0.3 (D / 1e10)^-0.3, and their losses; a group is a shape."""
    rng = np.random.default_rng(seed)
    depth = rng.choice([4, 6, 8, 12, 16, 24, 32], shapes)
    width = rng.choice([256, 384, 512, 768, 1024, 1536, 2048], shapes)
    rows = []
    for index, (layers, wide) in enumerate(zip(depth, width, strict=True)):
        for token in np.geomspace(2e9, 2e11, tokens) * rng.uniform(0.9, 1.1):
            rows.append((index, int(layers), int(wide), 12 * layers * wide**2, token))
    frame = pd.DataFrame(rows, columns=["shape", "n_layers", "d_model", "params_nonembed_active", "tokens"])
    loss = 1.8 + 0.5 * (frame.params_nonembed_active / 1e8) ** -0.35 + 0.3 * (frame.tokens / 1e10) ** -0.3
    return frame, loss.to_numpy() * np.exp(noise * rng.normal(size=len(frame)))
