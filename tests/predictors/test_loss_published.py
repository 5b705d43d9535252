"""The gates again, from the published data (a folder beside the checkout that is not part of it)."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codesign.predictors.fitting import Dataset, Recipe, leave_out
from codesign.predictors.scaling import Logs

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "loss"
RECIPE = Recipe("aspect", True, 0.02, (1.5, 4.0), draws=2, starts=6)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/loss (public training-loss tables)")
def test_gemstones_gate() -> None:
    with (DATA / "gemstones.csv").open(newline="", encoding="utf-8") as handle:
        rows = [r for r in csv.DictReader(handle) if r["schedule"] == "cooldown_end"]
    n, tokens, depth, width, loss = (
        np.array([float(r[c]) for r in rows])
        for c in ("params_nonembed_active", "tokens", "n_layers", "d_model", "loss")
    )
    x = Logs(np.log(n / 1e8), np.log(tokens / 1e10), np.log(depth / 16), np.log(width / 1024), np.zeros(n.size))
    _, group = np.unique(np.stack([depth, width], 1), axis=0, return_inverse=True)
    data = Dataset(x, loss, np.asarray(group, dtype=np.int64).ravel(), n)
    test = n >= 0.8e9
    assert (test.sum(), (~test).sum()) == (49, 150)
    plain = np.abs(leave_out(data, replace(RECIPE, form="chinchilla", gp=False), test).error).mean()
    assert plain == pytest.approx(0.0387, abs=5e-4)  # measured_baselines.csv
    assert np.abs(leave_out(data, RECIPE, test).error).mean() <= 0.0264
