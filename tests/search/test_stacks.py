"""Stacks of primitives: aggregation, extension, growth to a parameter target."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InfeasibleError, SpecError
from codesign.hf_config import architecture_from_config, config_dict
from codesign.search.stacks import (
    AGGREGATORS,
    aggregate,
    crossover,
    extend,
    mutate,
    random_stack,
    scaled,
    stack_architecture,
)  # fmt: skip

STACKS = st.text("ARF", min_size=6, max_size=6).filter(lambda s: set(s) - {"F"})


@settings(deadline=None, max_examples=40)  # the first call imports scikit-learn
@given(st.lists(st.tuples(STACKS, st.floats(0, 1)), min_size=1, max_size=12), st.sampled_from(AGGREGATORS))
def test_aggregates_have_the_length_and_letters_of_their_stacks(rows: list[tuple[str, float]], method: str) -> None:
    stacks, scores = [r[0] for r in rows], [r[1] for r in rows]
    found = aggregate(stacks, scores, method)
    assert len(found) == 6
    for place, letter in enumerate(found) if method != "layerwise" else ():
        assert letter in {s[place] for s in stacks}
    assert aggregate([stacks[0]] * 4, [0.1, 0.2, 0.3, 0.4], method) == stacks[0]


def test_aggregators_by_hand() -> None:
    """Ranks 1, 2, 3 weigh 1, 1/2, 1/3: at the third place F has 1/2 + 1/3 = 0.83 against 1 of R. Two clusters of stacks that differ
    everywhere: the one of the higher mean score gives the letters, though it is smaller.
    """
    assert aggregate(["AAR", "AAF", "RAF"], [0.9, 0.8, 0.7], "rank") == "AAR"
    assert (
        aggregate(["AAR", "AAF", "AAF", "RAF"], [0.9, 0.89, 0.88, 0.7], "rank") == "AAF"
        if 1 / 2 + 1 / 3 + 1 / 4 > 1
        else "AAR"
    )
    stacks = ["AFAFAF"] * 3 + ["RRRRRR"] * 5 + ["FFFFFA"] * 3
    assert aggregate(stacks, [0.9] * 3 + [0.2] * 5 + [0.1] * 3, "cluster") == "AFAFAF"
    # layerwise: places 0 and 2 (always R) are one cluster, places 1 and 3 (A in most) the other
    assert aggregate(["RARA", "RARA", "RARF"], [0.5, 0.5, 0.5], "layerwise") == "RARA"
    with pytest.raises(SpecError, match="unknown aggregator"):
        aggregate(["A"], [1.0], "mean")
    with pytest.raises(SpecError, match="one length"):
        aggregate(["A", "AR"], [1.0, 1.0], "rank")


@given(st.integers(0, 10**6))
def test_children_are_stacks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_stack(rng, "ARF", 8), random_stack(rng, "ARF", 8)
    for child in (mutate(rng, a, "ARF"), crossover(rng, a, b)):
        assert len(child) == 8 and set(child) <= set("ARF") and set(child) - {"F"}


def test_extensions_keep_the_share_of_each_letter() -> None:
    for how in ("stack", "stretch"):
        deep = extend("ARFF", 3, how)
        assert [deep.count(c) for c in "ARF"] == [3, 3, 6]
    with pytest.raises(SpecError, match="unknown extension"):
        extend("A", 2, "widen")


@pytest.mark.parametrize("recurrence", ["mamba2", "gdn", "mlstm", "conv"])
@pytest.mark.parametrize("params", [350e6, 1e9, 3e9])
def test_grown_models_have_their_size_and_their_order(recurrence: str, params: float) -> None:
    for how in ("stack", "stretch"):
        arch = scaled("RFAFRFRF", params, how, recurrence=recurrence)
        assert abs(arch.params_total / params - 1) < 0.081
        assert extend("RFAFRFRF", len(arch.layout) // 8, how) == arch.layout
        assert architecture_from_config(config_dict(arch, max_position_embeddings=2048), "config.json") == arch


def test_the_torch_module_of_a_grown_stack_has_its_parameters() -> None:
    torch = pytest.importorskip("torch")
    from codesign.models.decoder import build_decoder

    arch = stack_architecture("RRFAAFFR", 256, recurrence="gdn", vocab_size=512)
    with torch.device("meta"):
        assert sum(p.numel() for p in build_decoder(arch).parameters()) == arch.params_total


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SpecError, match="at least one mixer"):
        stack_architecture("FFFF", 256)
    with pytest.raises(SpecError, match="multiple of 128"):
        stack_architecture("AF", 200)
    with pytest.raises(InfeasibleError, match="no width and number of repeats"):
        scaled("AF" * 8, 1e5, "stack")
