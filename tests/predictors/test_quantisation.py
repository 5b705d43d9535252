"""The price of quantised weights: goldens by hand, orders that must hold, and the published perplexities it was fitted to."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.predictors.quantisation import quantisation_penalty, unpriced_bits
from codesign.workload import PRECISIONS, parse_precision

ROOT = Path(__file__).resolve().parents[2]


def test_llama_2_7b_at_four_bits_by_hand() -> None:
    """ln D = ln 2e12 = 28.3241, x 0.5068 = 14.3547; ln N = ln 6.5e9 = 22.5950, x 0.3439 = 7.7704; P = 4 + 20/128 = 4.15625,
    x ln 4 = 5.7618. Sum 14.3547 - 7.7704 - 5.7618 = 0.8225; e^0.8225 x 0.0239 = 0.0544; spread x 0.71 = 0.0386.
    """
    shift, spread = quantisation_penalty(6.5e9, 2e12, PRECISIONS["w4a16"])
    assert float(shift) == pytest.approx(0.0544, abs=2e-4)
    assert float(spread) == pytest.approx(0.0386, abs=2e-4)
    measured = math.log(5.60 / 5.47)  # AWQ, arXiv 2306.00978, Table 4
    assert abs(measured - shift) < 1.645 * spread


def test_int8_pays_for_its_activations_and_weight_only_eight_bits_for_nothing() -> None:
    """P = 8 x ln 4 = 11.0904: 14.3547 - 7.7704 - 11.0904 = -4.5061; e^ = 0.01104 x 0.0239 = 0.00026, + 0.0054."""
    shift, spread = quantisation_penalty(6.5e9, 2e12, PRECISIONS["int8"])
    assert float(shift) == pytest.approx(0.00566, abs=2e-5)
    assert float(spread) == pytest.approx(0.0046, abs=1e-5)
    assert float(quantisation_penalty(6.5e9, 2e12, PRECISIONS["w8a16"])[0]) < 0.0003
    assert float(quantisation_penalty(6.5e9, 2e12, PRECISIONS["q8_0"])[0]) < 0.0003


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_sixteen_bits_cost_nothing(name: str) -> None:
    assert quantisation_penalty(np.array([1e8, 1e9]), 1e10, PRECISIONS[name]) == (0.0, 0.0)


@given(
    n=st.floats(1e7, 1e11), d=st.floats(1e9, 1e13), more=st.floats(1.01, 50.0),
    name=st.sampled_from(["w4a16", "q4f16", "nvfp4", "q4_k_m", "q2_k", "int8", "fp8", "w8a16"]),
)  # fmt: skip
def test_more_tokens_cost_more_and_more_parameters_less(n: float, d: float, more: float, name: str) -> None:
    form = PRECISIONS[name]
    price, spread = quantisation_penalty(n, d, form)
    assert price > 0 and spread > 0
    assert quantisation_penalty(n, d * more, form)[0] > price
    assert quantisation_penalty(n * more, d, form)[0] < price


def test_fewer_bits_cost_more() -> None:
    names = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k")
    prices = [float(quantisation_penalty(1e9, 1e11, PRECISIONS[name])[0]) for name in names]
    assert prices == sorted(prices)


def test_arrays_keep_their_shape() -> None:
    shift, spread = quantisation_penalty(np.full((2, 3), 1e9), 1e10, PRECISIONS["fp8"])
    assert shift.shape == spread.shape == (2, 3)


def test_published_prices_lie_in_the_interval_as_often_as_it_says() -> None:
    """The rows of results/quantisation.csv, predicted by the module (its constant saw them; the report leaves families out)."""
    with (ROOT / "results/quantisation.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 65
    held = []
    for row in rows:
        n, d, bits = float(row["params_nonembedding"]), float(row["tokens"]), float(row["bits_stored"])
        form = PRECISIONS.get(row["format"])
        price = float(quantisation_penalty(n, d, form)[0]) if form else float(row["in_use_nats"])
        assert price == pytest.approx(float(row["in_use_nats"]), rel=0.01, abs=2e-5)
        assert bits < 9
        held.append(abs(float(row["price_nats"]) - price) <= 1.645 * 0.71 * price)
    assert 0.85 <= np.mean(held) <= 0.97


def test_ternary_weights_cost_what_two_papers_found() -> None:
    """Seven pairs at equal size, tokens and data; the price falls with size and its interval holds all but at most one."""
    pairs = (
        (0.7e9, 12.33, 12.87),
        (1.3e9, 11.25, 11.29),
        (3e9, 10.04, 9.91),
        (0.7e9, 11.44, 12.32),
        (1.3e9, 10.82, 11.27),
        (3e9, 9.61, 9.97),
        (7e9, 9.20, 9.24),
    )
    form, held = PRECISIONS["tq2_0"], 0
    for n, sixteen, ternary in pairs:
        shift, spread = quantisation_penalty(n, 100e9, form)
        held += abs(math.log(ternary / sixteen) - float(shift)) < 1.645 * float(spread)
    assert held >= 6
    prices = quantisation_penalty(np.array([0.5e9, 1e9, 7e9]), 10e9, form)[0]
    assert (np.diff(prices) < 0).all() and prices[1] == pytest.approx(0.0358)


def test_what_no_number_prices_is_named() -> None:
    assert unpriced_bits(parse_precision("w4a16+head4+kv4")) == ("lm_head_bits", "kv_bits")
    assert unpriced_bits(parse_precision("w4a16+kv16")) == ()
    assert unpriced_bits(PRECISIONS["nvfp4-w4a4"]) == ("activation_bits",)
