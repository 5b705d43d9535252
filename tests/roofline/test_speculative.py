"""Speculative decoding: the expected tokens of a step, and its time on a device that moves bytes only."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.devices import load_device
from codesign.errors import SpecError
from codesign.hf_config import read_config
from codesign.roofline.cost import RooflineModel
from codesign.roofline.speculative import expected_tokens, speculate
from codesign.workload import PRECISIONS, Workload

TARGET, DRAFT = read_config("qwen3-8b"), read_config("qwen3-0.6b")
FORM = PRECISIONS["fp16"]


@pytest.mark.parametrize(("acceptance", "drafted"), [(0.0, 3), (0.6, 1), (0.8, 4), (0.95, 8)])
def test_the_expected_tokens_are_those_of_a_simulation(acceptance: float, drafted: int) -> None:
    """Accept each drafted token with the given probability until one is refused; one more comes from the target."""
    rng = np.random.default_rng(1)
    accepted = rng.random((200_000, drafted)) < acceptance
    kept = np.cumprod(accepted, axis=1).sum(axis=1) + 1
    assert expected_tokens(acceptance, drafted) == pytest.approx(kept.mean(), rel=0.01)


def test_verifying_costs_about_a_step_where_weights_decide() -> None:
    """On Orin at batch 1 a pass of five tokens moves the same weights: its time is within 5 % of one token's; so four drafted
    tokens of a model a twelfth as large at 80 % acceptance give more than double the speed.
    """
    cost = RooflineModel.of(load_device("orin"), RooflineModel(device=load_device("orin")).rates)
    found = speculate(cost, TARGET, DRAFT, Workload(), FORM, drafted=4, acceptance=0.8)
    assert found.verify_s == pytest.approx(found.plain_s, rel=0.05)
    assert found.tokens == pytest.approx(3.3616)
    assert found.decode_s == pytest.approx((found.draft_s + found.verify_s) / 3.3616)
    assert 2.0 < found.speedup < 3.3616
    assert found.memory_B > 2 * (TARGET.params_total + DRAFT.params_total)


def test_a_draft_that_is_never_right_only_costs() -> None:
    cost = RooflineModel(device=load_device("orin"))
    found = speculate(cost, TARGET, DRAFT, Workload(), FORM, drafted=4, acceptance=0.0)
    assert found.speedup < 1 and found.tokens == 1.0


def test_at_large_batches_verifying_computes_more_than_it_saves() -> None:
    cost = RooflineModel(device=load_device("orin"))
    one, many = (
        speculate(cost, TARGET, DRAFT, Workload(batch_size=b), FORM, drafted=4, acceptance=0.8).speedup
        for b in (1, 256)
    )
    assert many < one


def test_bad_choices_are_refused() -> None:
    cost = RooflineModel(device=load_device("orin"))
    with pytest.raises(SpecError, match="acceptance 1.2 must lie between 0 and 1"):
        expected_tokens(1.2, 4)
    with pytest.raises(SpecError, match="drafted tokens 0 must be a whole number from 1 to 64"):
        expected_tokens(0.5, 0)
    with pytest.raises(SpecError, match="the draft has a vocabulary of 49152 and the target 151936"):
        speculate(cost, TARGET, read_config("smollm2-135m"), Workload(), FORM, drafted=2, acceptance=0.5)
