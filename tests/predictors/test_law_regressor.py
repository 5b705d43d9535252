from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")

from hypothesis import given, settings
from hypothesis import strategies as st
from run_tables import law_table
from sklearn.base import clone

from codesign.errors import SpecError
from codesign.predictors import law_regressor
from codesign.predictors.columns import law_inputs
from codesign.predictors.law_regressor import LawRegressor
from codesign.predictors.law_terms import LAW_NAMES, build_law


def test_chinchilla_by_hand() -> None:
    law = build_law("chinchilla")
    assert [p.name for p in law.parameters] == ["E", "ln A", "a", "ln B", "b"]
    # 1.7 + e^(0 - 0.5 * 2) + e^(-1 - 0.25 * 4) = 1.7 + e^-1 + e^-2
    found = law([1.7, 0.0, 0.5, -1.0, 0.25], {"n": np.array([2.0]), "t": np.array([4.0])})
    assert found[0] == pytest.approx(1.7 + np.exp(-1.0) + np.exp(-2.0))


def test_aspect_and_additive_by_hand() -> None:
    x = {"n": np.array([1.0]), "l": np.array([0.5]), "w": np.array([1.5]), "t": np.array([0.0])}
    # ln(w / l) = 1, u0 = 0.25: e^(0 - 0.3 + 0.2 * 0.75^2)
    found = build_law("aspect", tokens=False)([1.0, 0.0, 0.3, 0.2, 0.25], x)
    assert found[0] == pytest.approx(1.0 + np.exp(-0.3 + 0.2 * 0.5625))
    found = build_law("additive", tokens=False)([1.0, 0.0, 2.0, 0.0, 1.0], x)
    assert found[0] == pytest.approx(1.0 + np.exp(-1.0) + np.exp(-1.5))


def test_a_data_term_coupled_to_size() -> None:
    x = {"n": np.array([2.0]), "t": np.array([1.0])}
    # B D^-b N^h: e^(-1 - 0.4 + 0.1 * 2)
    found = build_law("chinchilla*")([0.0, -12.0, 3.0, -1.0, 0.4, 0.1], x)
    assert found[0] == pytest.approx(np.exp(-1.2), rel=1e-6)


def test_a_mixture_of_one_expert_is_the_dense_law() -> None:
    p = [1.0, 0.0, 0.3, 0.05, -0.01, 0.0, 5.0]
    x = {"n": np.array([0.0, 1.0]), "e": np.zeros(2)}
    assert build_law("moe", tokens=False)(p, x) == pytest.approx(1.0 + np.exp(-0.3 * x["n"]))
    more = build_law("moe", tokens=False)(p, {**x, "e": np.log([8.0, 64.0])})
    assert (more < 1.0 + np.exp(-0.3 * x["n"])).all()


def test_the_best_recipe_costs_nothing_and_every_other_more() -> None:
    law = build_law("chinchilla", recipe=True)
    names = [p.name for p in law.parameters]
    p = np.array([parameter.mean for parameter in law.parameters])
    for name in ("u0", "un", "ut", "v0", "vt"):
        p[names.index(name)] = 0.0
    zero = {name: np.zeros(5) for name in law.reads}
    moved = {**zero, "lr": np.array([0.0, 1.0, -1.0, 0.0, 0.0]), "bs": np.array([0.0, 0.0, 0.0, 1.0, -1.0])}
    found = law(p, moved)
    assert found[0] == pytest.approx(law(p, zero)[0])
    assert (found[1:] > found[0]).all()
    assert found[1] > found[2]  # too high a learning rate costs more than too low


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([name for name in LAW_NAMES if not name.startswith("quadratic")]), st.integers(0, 99))
def test_more_training_never_hurts_where_the_data_term_is_not_coupled(name: str, seed: int) -> None:
    if "*" in name:
        return
    law, rng = build_law(name), np.random.default_rng(seed)
    p = np.array([q.mean + 0.3 * q.std * rng.normal() for q in law.parameters]).clip(
        [q.low for q in law.parameters], [q.high for q in law.parameters]
    )
    x = {key: np.full(6, rng.normal()) for key in ("n", "l", "w", "e", "p", "a")}
    x["e"] = np.abs(x["e"])
    assert (np.diff(law(p, {**x, "t": np.linspace(-2, 2, 6)})) <= 1e-12).all()


def test_mixtures_by_what_is_stored_and_used() -> None:
    """1 of 64 to 2 of 16 experts active; the law of what is stored and used tells models with twice as many active."""
    rng = np.random.default_rng(0)
    rows = [
        (e, k, total * (0.2 + 0.8 * k / e), total, tokens)
        for total in (1e9, 2e9, 4e9) for e, k in ((64, 1), (64, 2), (16, 1), (16, 2), (16, 4)) for tokens in (2e9, 8e9, 3e10)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["n_experts", "top_k", "params_nonembed_active", "params_total", "tokens"])
    share = frame["top_k"] / frame["n_experts"]
    loss = 1.6 + 0.3 * (frame["params_total"] / 2e9) ** -0.3 + 0.1 * (share / 0.05) ** -0.4 + 0.3 * (frame["tokens"] / 8e9) ** -0.35  # fmt: skip
    loss = loss.to_numpy() * np.exp(0.002 * rng.normal(size=len(frame)))
    most = (frame["top_k"] == 4).to_numpy()
    model = LawRegressor("sparse", draws=0).fit(frame[~most], loss[~most])
    assert model.predict(frame[most]) == pytest.approx(loss[most], rel=0.006)
    p = np.arange(1.0, 8.0) / 10  # ln A, a, ln C, lambda, ln G, delta, g
    x = {"p": np.array([0.7]), "a": np.array([-2.0])}
    by_hand = np.exp(0.1 - 0.2 * 0.7) + np.exp(0.3 + 0.4 * 2.0) + np.exp(0.5 + 0.6 * 2.0 - 0.7 * 0.7)
    assert build_law("sparse", tokens=False)(np.concatenate([[1.0], p]), x) == pytest.approx(1.0 + by_hand)
    dense = law_inputs(frame.assign(n_experts=1, top_k=np.nan))
    assert (dense["a"] == 0).all() and (dense["e"] == 0).all()
    with pytest.raises(SpecError, match="reads a, which the table lacks"):
        LawRegressor("sparse").fit(frame.drop(columns="top_k"), loss)


def test_finds_the_law_and_predicts_ten_times_larger_models() -> None:
    frame, loss = law_table()
    model = LawRegressor("chinchilla", draws=8).fit(frame, loss, groups=frame["shape"])
    assert model.predict(frame) == pytest.approx(loss, rel=2e-3)
    # Coefficients are at the centre of the data: the exponents are the law's own.
    assert model.coef_["a"] == pytest.approx(0.35, abs=0.08)
    assert model.coef_["b"] == pytest.approx(0.30, abs=0.08)
    large = frame.assign(params_nonembed_active=frame["params_nonembed_active"] * 10)
    truth = 1.8 + 0.5 * (large.params_nonembed_active / 1e8) ** -0.35 + 0.3 * (large.tokens / 1e10) ** -0.3
    assert model.predict(large) == pytest.approx(truth.to_numpy(), rel=0.01)


def test_uncertainty_grows_beyond_the_data() -> None:
    frame, loss = law_table(noise=0.01)
    model = LawRegressor("aspect").fit(frame, loss, groups=frame["shape"])
    near = model.predict(frame, return_std=True)[1].mean()
    far = model.predict(frame.assign(params_nonembed_active=1e12), return_std=True)[1].mean()
    assert far > 1.25 * near


def test_derivatives_are_those_of_the_law() -> None:
    frame, loss = law_table(noise=0.02)
    model = LawRegressor("aspect*", draws=0).fit(frame, loss)
    x = model._centred(law_inputs(frame))
    slopes = model._log_slopes(model.p_, x)
    for j in range(model.p_.size):
        moved = model.p_.copy()
        moved[j] += 1e-7
        by_hand = (np.log(model.law_(moved, x)) - np.log(model.law_(model.p_, x))) / 1e-7
        assert slopes[:, j] == pytest.approx(by_hand, abs=1e-5)


def test_equal_fits_are_looked_up_and_the_same() -> None:
    frame, loss = law_table(noise=0.02)
    model = LawRegressor("additive", draws=4)
    first = clone(model).fit(frame, loss, groups=frame["shape"]).predict(frame, return_std=True)
    law_regressor._FITTED.clear()
    again = clone(model).fit(frame, loss, groups=frame["shape"])
    looked_up = clone(model).fit(frame, loss, groups=frame["shape"])
    assert len(law_regressor._FITTED) == 1
    for other in (again, looked_up):
        assert all(np.array_equal(a, b) for a, b in zip(first, other.predict(frame, return_std=True), strict=True))
    clone(model).fit(frame, loss * 1.01, groups=frame["shape"])
    clone(model).fit(frame, loss, groups=None)
    assert len(law_regressor._FITTED) == 3


def test_few_rows_fall_back_on_the_priors() -> None:
    frame, loss = law_table(shapes=4, tokens=1)
    model = LawRegressor("depth_width*", draws=4).fit(frame, loss)
    assert np.isfinite(model.predict(frame, return_std=True)).all()
    assert model.predict(frame) == pytest.approx(loss, rel=0.02)


def test_an_outlier_pulls_little() -> None:
    frame, loss = law_table()
    spoilt = loss.copy()
    spoilt[5] *= 1.5
    model = LawRegressor("chinchilla", draws=0).fit(frame, spoilt)
    assert np.delete(model.predict(frame), 5) == pytest.approx(np.delete(loss, 5), rel=0.005)


@pytest.mark.parametrize(
    ("form", "drop", "loss", "message"),
    [
        ("aspect", "d_model", None, "the law 'aspect' reads w, which the table lacks or leaves empty"),
        ("nonsense", "", None, "unknown law 'nonsense'"),
        ("chinchilla", "", np.nan, "losses must be positive and finite"),
        ("chinchilla", "", 0.0, "losses must be positive and finite"),
    ],
)
def test_bad_input(form: str, drop: str, loss: float | None, message: str) -> None:
    frame, y = law_table(shapes=4)
    if loss is not None:
        y[0] = loss
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        LawRegressor(form).fit(frame.drop(columns=[drop] if drop else []), y)


def test_needs_names() -> None:
    with pytest.raises(SpecError, match="named columns"):
        LawRegressor("chinchilla").fit(np.ones((8, 2)), np.ones(8))
    frame, loss = law_table(shapes=4)
    model = LawRegressor("chinchilla", draws=0).fit(frame, loss)
    with pytest.raises(SpecError, match="reads t"):
        model.predict(pd.DataFrame({"params_total": [1e8]}))
