"""Designs of kinds that a calibration never saw have an interval of what such designs were seen to miss by."""

from __future__ import annotations

import math

import pytest

from codesign.architecture import Architecture
from codesign.budget import Budget
from codesign.devices import load_device
from codesign.predictors import load_law
from codesign.roofline.calibration import load_calibration
from codesign.roofline.rates import UNSEEN_KIND_LOG, PhaseRates
from codesign.search import DesignSpace, build_problem, search
from codesign.search.marks import unlike
from codesign.workload import PRECISIONS, Workload


def test_the_half_width_by_how_unlike_a_design_is() -> None:
    own = PhaseRates(interval_log=0.1, interval_beyond_log=0.2)
    assert [own.half_width_log(level) for level in range(3)] == [0.1, 0.2, UNSEEN_KIND_LOG]
    rough = PhaseRates(interval_log=0.9)
    assert [rough.half_width_log(level) for level in range(3)] == [0.9, 0.9, 0.9]
    assert PhaseRates().half_width_log(2) == 0  # the ideal roofline claims nothing


def test_levels_of_marks() -> None:
    assert unlike(["outside:d_model", "prior:moe"]) == 0
    assert unlike(["latency:size_here", "outside:d_model"]) == 1
    assert unlike(["latency:size_here", "latency:mixer_here"]) == unlike(["latency:experts"]) == 2


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_a_recurrent_design_is_as_unsure_as_that_in_a_search(confidence: float) -> None:
    """Its interval, and with a confidence its bound, too: exp(z * 0.63 / 1.645) below 20 ms."""
    orin, form = load_device("orin"), PRECISIONS["fp16"]
    fits = load_calibration()
    space = DesignSpace(
        axes={"precision": ("fp16",), "vocab_size": (50304,), "experts": ((0, 0),), "mixer": ("full", "mlstm:0"), "d_head": (128,),
              "n_kv_heads": (2,), "n_layers": (8, 12, 18), "d_model": (768, 1024, 1536), "ffn_ratio": (2.75, 4.0)}, name="two mixers",
    )  # fmt: skip
    problem = build_problem(
        device=orin, engine=fits.engine_for(orin, form), space=space, workload=Workload(), law=load_law("gemstones"), tokens=10e9,
        budget=Budget(latency_s=0.02, confidence=confidence), objectives=("size", "latency"), calibration=fits, allow_extrapolation=True,
    )  # fmt: skip
    found = search(problem).candidates
    z = {0.5: 0.0, 0.9: 1.2816}[confidence]
    seen = set()
    for c in found:
        recurrent = c.architecture.recurrence == "mlstm"
        seen.add(recurrent)
        low, high = c.intervals["latency_s"]
        half = math.log(high / low) / 2
        assert (half == pytest.approx(UNSEEN_KIND_LOG)) if recurrent else half < UNSEEN_KIND_LOG
        if recurrent:
            assert c.values["latency_s"] <= 0.02 * math.exp(-z * UNSEEN_KIND_LOG / 1.6449) * (1 + 1e-6)
    assert True in seen and isinstance(found[0].architecture, Architecture)
