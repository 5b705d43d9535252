from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")

from run_tables import law_table

from codesign.errors import SpecError, UnknownNameError
from codesign.predictors.candidates import CANDIDATES, BestLaw, ParameterCount, candidate, possible_laws
from codesign.predictors.law_regressor import LawRegressor
from codesign.predictors.law_terms import median_forms


def test_laws_need_what_they_read_to_vary() -> None:
    frame, _ = law_table()
    assert {"chinchilla", "aspect*", "additive**", "quadratic**"} <= set(possible_laws(frame))
    one_budget = frame.assign(tokens=1e10)
    assert possible_laws(one_budget) == ["chinchilla", "aspect", "additive"]
    tied = frame.assign(n_layers=frame["d_model"] // 64)
    assert all(form.rstrip("*") == "chinchilla" and "**" not in form for form in possible_laws(tied))
    mixture = frame.assign(n_experts=np.where(np.arange(len(frame)) % 2, 8, 1))
    assert possible_laws(mixture) == ["moe", "moe*"]
    mixture = mixture.assign(top_k=2, params_total=frame["params_nonembed_active"] * (1 + mixture["n_experts"]))
    assert possible_laws(mixture) == ["moe", "moe*", "sparse", "sparse*"]
    assert possible_laws(pd.DataFrame({"lr": [1e-3, 2e-3]})) == []


def test_the_form_of_the_rows_wins_against_one_that_cannot_fit() -> None:
    frame, loss = law_table(noise=0.002)
    loss = loss + 0.3 * (frame["n_layers"] / 8.0) ** -1.5  # depth matters beyond its parameters
    best = BestLaw(["chinchilla", "additive", "depth_width*"], "params_nonembed_active", draws=0)
    best.fit(frame, loss, groups=frame["shape"])
    assert best.form_ != "chinchilla"
    assert best.scores_["chinchilla"] == max(best.scores_.values())
    assert best.predict(frame) == pytest.approx(loss, rel=0.03)


def test_the_median_of_three_laws_by_hand() -> None:
    frame, loss = law_table(noise=0.01)
    forms = ["chinchilla", "aspect", "additive"]
    median = LawRegressor(f"median({', '.join(forms)})", draws=3).fit(frame, loss, groups=frame["shape"])
    each = [LawRegressor(f, draws=3, starts=1).fit(frame, loss, groups=frame["shape"]).predict(frame) for f in forms]
    assert median.predict(frame) == pytest.approx(np.median(each, axis=0))
    assert median.draws_.shape == (3, median.p_.size)
    assert "aspect: E" in median.coef_


def test_a_law_in_use_is_a_median_of_those_that_fit() -> None:
    frame, loss = law_table(noise=0.01)
    best = BestLaw(["chinchilla*", "aspect*", "additive*", "chinchilla"], draws=0).fit(
        frame, loss, groups=frame["shape"]
    )
    assert set(median_forms(best.median_)) <= {"chinchilla*", "aspect*", "additive*", "chinchilla"}
    mixture = frame.assign(n_experts=np.where(np.arange(len(frame)) % 2, 8, 1), top_k=1)
    mixture = mixture.assign(params_total=frame["params_nonembed_active"] * mixture["n_experts"] ** 0.7)
    of_mixtures = BestLaw(draws=0).fit(mixture, loss, groups=frame["shape"])
    assert of_mixtures.median_ == of_mixtures.form_ and len(of_mixtures.scores_) == 4
    one = BestLaw(["chinchilla"], draws=0).fit(frame, loss, groups=frame["shape"])
    assert one.median_ == one.form_ == "chinchilla"


def test_the_parameter_count_alone_falls() -> None:
    frame, loss = law_table(tokens=1)
    model = ParameterCount().fit(frame, loss)
    order = np.argsort(frame["params_nonembed_active"].to_numpy())
    assert (np.diff(model.predict(frame)[order]) <= 0).all()
    assert model.predict(frame, return_std=True)[1].shape == (len(loss),)
    with pytest.raises(SpecError, match="no parameter count"):
        ParameterCount().fit(frame[["d_model"]], loss)


def test_every_name_makes_what_it_says() -> None:
    frame, _ = law_table()
    forms = possible_laws(frame)
    for name in CANDIDATES:
        made = candidate(name, forms, "median(aspect*, additive*, chinchilla*)")
        assert (made.law is not None) == ("law" in name or "*" in name)
        assert (made.model is not None) == (name != "law")
    assert candidate("law", forms, None) is None
    assert candidate("law + gp", ["chinchilla"], "median(chinchilla, aspect)") is None
    assert candidate("additive** + gp", ["chinchilla"], "chinchilla") is None


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="unknown predictor 'tree'; did you mean 'trees'"):
        candidate("tree", [], None)
    with pytest.raises(SpecError, match="no law fits this table"):
        BestLaw().fit(pd.DataFrame({"lr": np.geomspace(1e-4, 1e-2, 8)}), np.ones(8))
