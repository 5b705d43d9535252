"""Networks that learn free statistics first: where these decide the loss it needs fewer losses; bad input; determinism."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from codesign.errors import SpecError
from codesign.predictors.mlp import MLPEnsemble
from codesign.predictors.pretrain import PretrainedEnsemble


def space(rows: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, a statistic that is a product of choices (as parameters are), and a loss that is a power of it."""
    x = np.random.default_rng(0).uniform(-1, 1, (rows, 6))
    fact = np.exp(x @ np.array([0.9, -0.7, 0.5, 0.4, -0.3, 0.2]) + x[:, 0] * x[:, 1])
    return x, np.log(fact)[:, None], 2.0 + fact**-0.4


def test_it_needs_fewer_losses_where_a_statistic_decides_them() -> None:
    x, facts, loss = space()
    train = np.arange(16)
    errors = []
    for model in (MLPEnsemble(), PretrainedEnsemble(x, facts)):
        got = model.fit(x[train], loss[train]).predict(x[100:])
        errors.append(float(np.abs(got - loss[100:]).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_the_same_seed_gives_the_same_predictions_and_a_standard_deviation() -> None:
    x, facts, loss = space(120)
    mean, std = PretrainedEnsemble(x, facts, pretrain_steps=40).fit(x[:30], loss[:30]).predict(x, return_std=True)
    again = PretrainedEnsemble(x, facts, pretrain_steps=40).fit(x[:30], loss[:30]).predict(x)
    np.testing.assert_array_equal(mean, again)
    assert mean.shape == std.shape == (120,) and (std > 0).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, t: (x, t[:-1]), "as many rows each"),
        (lambda x, t: (x[:5], t[:5]), "at least 32 rows"),
        (lambda x, t: (x, np.where(t > 0, np.nan, t)), "all finite"),
        (lambda x, t: (x[:, :3], t), "3 features and X has 6"),
        (lambda x, t: (None, None), "as many rows each"),
    ],
)
def test_bad_statistics_are_refused(change: object, told: str) -> None:
    x, facts, loss = space(80)
    with pytest.raises(SpecError, match=told):
        PretrainedEnsemble(*change(x, facts)).fit(x[:20], loss[:20])  # type: ignore[operator]
