"""What campaigns are set up to measure."""

from __future__ import annotations

from typing import Any

import pytest

from codesign.campaign.setup import build_campaigns


def architectures(**changes: Any) -> Any:
    """The pool of a remote campaign on Orin: nothing is opened or measured."""
    asked: dict[str, Any] = {
        "device": "orin", "power_mode": None, "engine": "tensorrt", "options": {}, "threads": 1, "models": [], "space": "dense",
        "plan": None, "random": 12, "max_params": None, "precisions": ["fp16"], "prompt": 512, "generate": 128, "batch": 1, "phase": None,
        "visits": 1, "compose": False, "name": None, "seed": 1, "remote": True, "force": False, **changes,
    }  # fmt: skip
    return build_campaigns(**asked).campaigns[0].architectures


@pytest.mark.parametrize("chosen", [{"random": 40}, {"plan": 8, "random": None}])
def test_half_of_the_pool_has_no_qk_norms_so_that_their_cost_is_told_from_the_layers(chosen: dict[str, Any]) -> None:
    """Whatever else a design is: with norms it is Qwen3's family, without them Llama's."""
    pool = architectures(**chosen)
    kinds = [(arch.family, arch.qk_norm) for arch in pool]
    assert set(kinds) == {("qwen3", "head"), ("llama", "none")}
    assert 0.25 <= kinds.count(("llama", "none")) / len(kinds) <= 0.75


def test_known_models_are_measured_as_they_are() -> None:
    (arch,) = architectures(models=["qwen3-0.6b"], random=None)
    assert (arch.family, arch.qk_norm) == ("qwen3", "head")
