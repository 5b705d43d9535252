from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from run_tables import law_table
from sklearn.base import BaseEstimator, RegressorMixin

from codesign.errors import SpecError
from codesign.predictors.law_regressor import LawRegressor
from codesign.predictors.surrogate import Surrogate

COLUMNS = ("n_layers", "d_model", "params_nonembed_active", "tokens")


class Offset(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The mean of what it is given, with a fixed standard deviation."""

    def fit(self, X: Any, y: Any, groups: Any = None) -> Offset:
        self.mean_, self.width_ = float(np.mean(y)), X.shape[1]
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        mean = np.full(len(X), self.mean_)
        return (mean, np.full(len(X), 0.03)) if return_std else mean


def test_a_law_times_what_the_model_adds() -> None:
    frame, loss = law_table()
    law = LawRegressor("chinchilla", draws=0)
    both = Surrogate(law, Offset(), COLUMNS).fit(frame, loss)
    alone = LawRegressor("chinchilla", draws=0).fit(frame, loss)
    residual = np.log(loss / alone.predict(frame)).mean()
    assert both.predict(frame) == pytest.approx(alone.predict(frame) * np.exp(residual))
    # The law's scatter is the model's to explain; without draws its parameters have no spread.
    mean, std = both.predict(frame, return_std=True)
    assert std / mean == pytest.approx(np.full(len(loss), 0.03))


def test_a_model_alone_predicts_logs() -> None:
    frame, loss = law_table()
    model = Surrogate(None, Offset(), COLUMNS).fit(frame, loss)
    assert model.predict(frame) == pytest.approx(np.full(len(loss), np.exp(np.log(loss).mean())))
    assert not model.extrapolates
    assert Surrogate(LawRegressor()).extrapolates


def test_a_law_alone_has_its_scatter() -> None:
    frame, loss = law_table(noise=0.02)
    mean, std = Surrogate(LawRegressor("chinchilla", draws=0)).fit(frame, loss).predict(frame, return_std=True)
    assert np.mean(std / mean) == pytest.approx(0.02, rel=0.4)
    assert mean == pytest.approx(loss, rel=0.1)


@pytest.mark.parametrize(
    ("law", "loss", "message"),
    [(None, 1.0, "needs a law, a model, or both"), (LawRegressor(), -1.0, "positive and finite"), (LawRegressor(), np.nan, "positive")],
)  # fmt: skip
def test_bad_input(law: Any, loss: float, message: str) -> None:
    frame, y = law_table(shapes=4)
    y[0] = loss
    with pytest.raises(SpecError, match=message):
        Surrogate(law).fit(frame, y)
