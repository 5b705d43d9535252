from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn")

from codesign.errors import SpecError
from codesign.predictors.features import FeatureMap, known_columns


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "n_layers": [2, 4, 8, 16], "d_model": [256, 512, 512, 1024], "params_total": [1e6, 8e6, 2e7, 2e8],
            "tokens": [1e9, 1e10, 2e9, 1e9], "schedule": ["cosine", "wsd", "cosine", "linear"], "loss": [4.0, 3.5, 3.2, 3.0],
        }
    )  # fmt: skip


def test_shape_by_hand() -> None:
    features = FeatureMap().fit(frame())
    assert features.names_[:3] == ["ln N", "ln D", "ln(d_model / n_layers)"]
    matrix = features.transform(frame())
    # ln(256/2) = ln 128, ln(512/8) = ln(1024/16) = ln 64
    assert matrix[:, 2] == pytest.approx(np.log([128, 128, 64, 64]))
    assert matrix[:, 0] == pytest.approx(np.log(frame()["params_total"]))
    assert {"schedule=cosine", "schedule=linear", "schedule=wsd"} <= set(features.names_)


def test_a_category_that_was_not_seen_is_none_of_them() -> None:
    features = FeatureMap(columns=["schedule", "tokens"]).fit(frame())
    row = features.transform(frame()[:1].assign(schedule="constant"))
    assert row[0, [n.startswith("schedule") for n in features.names_]].tolist() == [0.0, 0.0, 0.0]


def test_a_list_of_one_number_a_layer() -> None:
    table = pd.DataFrame({"d_inner": ["512-1024", "256-256-256", "64"]})
    features = FeatureMap(columns=["d_inner"]).fit(table)
    assert features.names_ == ["ln mean d_inner"]
    assert features.transform(table)[:, 0] == pytest.approx(np.log([768, 256, 64]))


def test_constant_and_repeated_columns_are_dropped() -> None:
    table = frame().assign(
        vocab=50304, seq_len=2048, weight_decay=[0.1, 0.2, 0.1, 0.2], warmup_steps=[1e9, 1e10, 2e9, 1e9]
    )
    features = FeatureMap().fit(table)
    assert not any("vocab" in n or "seq_len" in n or "warmup" in n for n in features.names_)
    matrix = features.transform(table)
    assert (np.ptp(matrix, axis=0) > 0).all()


def test_heads_that_the_width_fixes_are_no_choice() -> None:
    width = np.repeat([256, 384, 512, 1024], 3)
    table = pd.DataFrame(
        {
            "n_layers": np.tile([4, 8, 16], 4),
            "d_model": width,
            "n_heads": width // 128,
            "n_kv_heads": np.maximum(width // 256, 1),
        }
    )
    assert FeatureMap().fit(table).names_ == ["ln(d_model / n_layers)", "ln(n_layers d_model^2)"]
    free = table.assign(n_kv_heads=np.tile([1, 1, 2], 4))
    assert "ln(n_kv_heads / n_heads)" in FeatureMap().fit(free).names_


def test_empty_expert_cells_mean_none() -> None:
    table = pd.DataFrame({"n_experts": [np.nan, 8.0, 64.0], "top_k": [np.nan, 1.0, 2.0]})
    matrix = FeatureMap(columns=["n_experts", "top_k"]).fit(table)
    assert matrix.transform(table)[0].tolist() == [0.0, 0.0]


def test_overshoot_is_the_distance_to_the_box() -> None:
    features = FeatureMap(columns=["params_total", "tokens"]).fit(frame())
    rows = frame()[:2].assign(params_total=[2e8 * np.e**3, 1e7], tokens=[1e9 / np.e**4, 5e9])
    assert features.overshoot(rows) == pytest.approx([5.0, 0.0])


def test_a_second_fit_forgets_the_first() -> None:
    table = frame().assign(warmup_steps=[100, 200, 400, 2000])
    features = FeatureMap(columns=["warmup_steps"]).fit(table)
    assert features.names_ == ["ln warmup_steps"]
    features.fit(table.assign(warmup_steps=[1000, 1100, 1200, 1300]))
    assert features.names_ == ["warmup_steps"]


def test_a_zero_that_no_fitted_row_had_lies_far_below() -> None:
    table = frame().assign(warmup_steps=[100, 200, 400, 2000])
    features = FeatureMap(columns=["warmup_steps"]).fit(table)
    assert features.transform(table[:1].assign(warmup_steps=0))[0, 0] == pytest.approx(np.log(10))


def test_known_columns_keep_one_order() -> None:
    assert known_columns(["loss", "tokens", "d_model", "n_layers"]) == ["n_layers", "d_model", "tokens"]


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        (frame(), ["width"], "the table has no column 'width'; it has n_layers"),
        (frame()[:1], None, "no column of the table varies"),
        (pd.DataFrame({"schedule": [f"s{i}" for i in range(30)]}), None, "30 different texts; at most 24"),
        (np.ones((3, 2)), None, "give a pandas DataFrame"),
    ],
)
def test_bad_input(table: object, columns: list[str] | None, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        FeatureMap(columns).fit(table)


def test_a_row_that_lacks_what_the_fit_used() -> None:
    features = FeatureMap().fit(frame())
    with pytest.raises(SpecError, match=r"lack a value of ln D|no column 'tokens'"):
        features.transform(frame().drop(columns=["tokens"]))
    with pytest.raises(SpecError, match="lack a value of ln D"):
        features.transform(frame().assign(tokens=[1e9, np.nan, 1e9, 1e9]))
