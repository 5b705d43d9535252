"""Architecture: validation, derived counts, and batches."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.architecture import Architecture, ArchitectureBatch
from codesign.errors import SpecError

BASE: dict[str, Any] = {
    "n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_head": 16, "d_ff": 128, "vocab_size": 100,
}  # fmt: skip
MIXTURE: dict[str, Any] = {"n_experts": 4, "n_active_experts": 2, "d_ff_expert": 32}
SIZES = sorted(BASE)
COUNTS = ["n_experts", "n_active_experts", "d_ff_expert", "n_shared_experts", "d_ff_shared", "n_dense_layers",
          "window_tokens", "n_window_layers", "norms_per_layer"]  # fmt: skip
FLAGS = ["tied_embeddings", "ffn_gated", "norm_bias", "qkv_bias", "out_bias", "mlp_bias", "shared_expert_gate"]


def test_parameters_by_hand() -> None:
    tiny = Architecture(**BASE)
    # Q 64*64, K and V 64*32 each, O 64*64; gate, up and down 64*128 each; two norms of 64.
    layer = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert tiny.params_nonembedding == 2 * layer + 64
    assert tiny.params_total == tiny.params_active == 2 * layer + 64 + 100 * 64 == 80_448
    assert tiny.evolve(tied_embeddings=False).params_total == 80_448 + 6_400
    assert tiny.evolve(ffn_gated=False).params_total == 80_448 - 2 * 64 * 128
    assert tiny.evolve(qkv_bias=True).params_total == 80_448 + 2 * (64 + 2 * 32)
    assert tiny.evolve(out_bias=True).params_total == 80_448 + 2 * 64
    assert tiny.evolve(mlp_bias=True).params_total == 80_448 + 2 * (2 * 128 + 64)
    assert tiny.evolve(qk_norm="head").params_total == 80_448 + 2 * 2 * 16
    assert tiny.evolve(qk_norm="full").params_total == 80_448 + 2 * (64 + 32)
    assert tiny.evolve(norms_per_layer=4).params_total == 80_448 + 2 * 2 * 64
    assert tiny.evolve(norm_bias=True).params_total == 80_448 + (2 * 2 + 1) * 64


def test_a_mixture_by_hand() -> None:
    tiny = Architecture(**BASE)
    mixed = tiny.evolve(**MIXTURE, n_dense_layers=1, n_shared_experts=2, d_ff_shared=24, shared_expert_gate=True)
    # One layer swaps its dense FFN for a router 64*4, four experts 3*64*32, two shared ones 3*64*24 and a gate of 64.
    expert = 3 * 64 * 32
    layer = 64 * 4 + 4 * expert + 2 * 3 * 64 * 24 + 64
    assert mixed.params_total == 80_448 - 3 * 64 * 128 + layer
    assert mixed.params_active == mixed.params_total - 2 * expert
    assert (mixed.n_moe_layers, mixed.n_dense_ffn_layers) == (1, 1)


@pytest.mark.parametrize("field", [*SIZES, *COUNTS])
@pytest.mark.parametrize("value", [-1, 1.0, "2", None, True, float("nan"), [2]])
def test_whole_numbers_are_checked(field: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"^{field} must be a whole number of at least [01], not "):
        Architecture(**{**BASE, field: value})


@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize("value", [0, 1, 2, "true", None])
def test_flags_are_checked(field: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"^{field} must be true or false, not "):
        Architecture(**{**BASE, field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_kv_heads": 3}, "n_kv_heads 3 does not divide n_heads 4"),
        ({"n_layers": 0}, "n_layers must be a whole number of at least 1, not 0"),
        ({"d_ff": 0}, "d_ff is 0 but some layers have a dense FFN"),
        ({"d_ff": 0, **MIXTURE, "n_dense_layers": 1}, "d_ff is 0 but some layers have a dense FFN"),
        ({**MIXTURE, "n_active_experts": 5}, "n_active_experts 5 must lie between 1 and n_experts 4"),
        ({**MIXTURE, "n_active_experts": 0}, "n_active_experts 0 must lie between"),
        ({**MIXTURE, "d_ff_expert": 0}, "d_ff_expert must be a whole number of at least 1"),
        ({**MIXTURE, "n_dense_layers": 3}, "n_dense_layers 3 is more than n_layers 2"),
        ({**MIXTURE, "n_experts": 0}, "need n_experts above 0"),
        ({"n_shared_experts": 1}, "need n_experts above 0"),
        ({"window_tokens": 9}, "window_tokens 9 and n_window_layers 0 of 2 layers do not go together"),
        ({"n_window_layers": 1}, "do not go together"),
        ({"window_tokens": 9, "n_window_layers": 3}, "do not go together"),
        ({"qk_norm": "rms"}, "qk_norm 'rms' is not one of none, head, full"),
        ({"family": 3}, "family must be a name"),
    ],
)
def test_fields_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Architecture(**{**BASE, **changes})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@given(st.integers(1, 12), st.integers(1, 12))
def test_heads_are_shared_evenly_or_refused(heads: int, kv_heads: int) -> None:
    fields = {**BASE, "n_heads": heads, "n_kv_heads": kv_heads}
    if heads % kv_heads:
        with pytest.raises(SpecError, match="does not divide"):
            Architecture(**fields)
    else:
        assert Architecture(**fields).d_query == heads * 16


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3), st.integers(0, 4))
def test_mixtures_are_consistent_or_refused(experts: int, active: int, width: int, dense: int) -> None:
    good = (1 <= active <= experts and width >= 1 and dense <= 2) if experts else active == width == 0
    fields = {"n_experts": experts, "n_active_experts": active, "d_ff_expert": width, "n_dense_layers": dense}
    if not good:
        with pytest.raises(SpecError):
            Architecture(**BASE, **fields)
        return
    arch = Architecture(**BASE, **fields)
    assert arch.params_active <= arch.params_total
    assert arch.n_moe_layers + arch.n_dense_ffn_layers == arch.n_layers


def test_numpy_integers_become_plain_ones() -> None:
    big = {name: np.int32(value) for name, value in {**BASE, "d_model": 65_536, "d_ff": 65_536}.items()}
    arch = Architecture(**big, tied_embeddings=np.bool_(True))
    assert arch.params_ffn == 3 * 65_536**2  # 32-bit products would have wrapped
    assert all(type(value) in (int, bool, str) for value in arch.to_dict().values())
    assert Architecture.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch


def test_dictionaries_round_trip_and_typos_are_named() -> None:
    arch = Architecture(**BASE, **MIXTURE, family="qwen3_moe")
    assert Architecture.from_dict(arch.to_dict()) == arch
    with pytest.raises(SpecError, match=r"unknown architecture field\(s\) n_layer; known: .*n_layers"):
        Architecture.from_dict({**BASE, "n_layer": 3})
    with pytest.raises(SpecError, match="incomplete architecture: .*n_layers"):
        Architecture.from_dict({key: value for key, value in BASE.items() if key != "n_layers"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        arch.n_layers = 3  # type: ignore[misc]


UNEVEN = Architecture(**{**BASE, "d_ff": 192}, ffn_widths=(64, 192))


def test_lists_of_one_number_a_layer() -> None:
    even = Architecture(**{**BASE, "d_ff": 128})
    assert UNEVEN.params_total == even.params_total and isinstance(UNEVEN.params_total, int)
    assert UNEVEN.d_ff_mean == 128 and UNEVEN.is_uneven and not even.is_uneven
    assert Architecture(**{**BASE, "d_ff": 128}, ffn_widths=[128, 128]) == even  # type: ignore[arg-type]
    assert Architecture.from_dict(UNEVEN.to_dict()) == UNEVEN and UNEVEN.to_dict()["ffn_widths"] == [64, 192]
    assert UNEVEN.sublayer("F", 0) == Architecture(**{**BASE, "d_ff": 64})
    assert (
        UNEVEN.evolve(n_heads=3, layer_heads=(3, 2), n_kv_heads=2, layer_kv_heads=(1, 2)).n_kv_heads == 2
    )  # 2 of 3 in no layer
    heads = UNEVEN.evolve(layer_heads=(2, 4), layer_kv_heads=(1, 2))
    assert heads.sublayer("A", 0).n_kv_heads == 1 and heads.d_query == 3 * BASE["d_head"]
    assert heads.params_total < UNEVEN.params_total
    batch = ArchitectureBatch.of([heads, even, UNEVEN])
    assert [batch.pick((i,)) for i in range(3)] == [heads, even, UNEVEN]
    assert batch.params_total.tolist() == [heads.params_total, even.params_total, UNEVEN.params_total]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ffn_widths": (64,)}, "ffn_widths must list one number for each of the 2 dense FFNs, not 1 numbers"),
        ({"ffn_widths": 64}, "ffn_widths must list one number for each of the 2 dense FFNs, not 64"),
        ({"ffn_widths": (64, 0)}, "ffn_widths must hold whole numbers of at least 1, not 0"),
        ({"ffn_widths": (64.0, 192)}, "ffn_widths must hold whole numbers"),
        ({"ffn_widths": (64, 128)}, "d_ff 192 must be the greatest of ffn_widths, 128"),
        ({"layer_heads": (3, 4)}, "n_kv_heads 2, which does not divide its n_heads 3"),
        (
            {"layer_heads": (2, 4), "n_window_layers": 1, "window_tokens": 8},
            "layer_heads does not go with n_window_layers 1",
        ),
        (
            {"layer_heads": (4, 2), "layer_kv_heads": (2, 0)},
            "layer_kv_heads must hold whole numbers of at least 1, not 0",
        ),
        ({"layer_heads": (4, 2), "layer_kv_heads": (2, "1")}, "layer_kv_heads must hold whole numbers"),
        (
            {"layer_heads": (4, 2), "layer_kv_heads": 2},
            "layer_kv_heads must list one number for each of the 2 attention layers, not 2",
        ),
        ({"ffn_widths": np.array([64, 192])}, "ffn_widths must list one number for each of the 2 dense FFNs"),
        ({"n_loops": 2, "n_looped_layers": 2}, "ffn_widths does not go with n_looped_layers 2"),
    ],
)
def test_bad_lists_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        UNEVEN.evolve(**change)


def test_a_batch_of_lists_and_of_what_has_none_gives_each_back() -> None:
    looped = Architecture(**{**BASE, "d_ff": 128}, n_loops=2, n_looped_layers=2)
    window = Architecture(**{**BASE, "d_ff": 128}, n_window_layers=1, window_tokens=8)
    heads = UNEVEN.evolve(layer_heads=(2, 4))
    batch = ArchitectureBatch.of([UNEVEN, looped, window, heads])
    assert [batch.pick((i,)) for i in range(4)] == [UNEVEN, looped, window, heads]
    alone = Architecture(**{**BASE, "n_heads": 1, "n_kv_heads": 1, "d_head": 1}, recurrence="mamba2", n_recurrent_layers=2, n_state_heads=8,
                         d_state_value=16, d_state_key=8, n_state_groups=2, d_conv=4)  # fmt: skip
    mixed = ArchitectureBatch.of([alone, alone.evolve(n_layers=4, n_heads=4, n_kv_heads=1, layer_heads=(2, 4))])
    assert mixed.d_query.tolist() == [1.0, 3.0]  # no attention: as alone, not 0


def test_a_batch_has_the_fields_of_one_architecture() -> None:
    assert [f.name for f in dataclasses.fields(ArchitectureBatch)] == [f.name for f in dataclasses.fields(Architecture)]
    for one, many in zip(dataclasses.fields(Architecture), dataclasses.fields(ArchitectureBatch), strict=True):
        assert one.default == many.default


def test_stacking_and_picking_is_the_identity() -> None:
    archs = [Architecture(**BASE), Architecture(**BASE, **MIXTURE), Architecture(**BASE, tied_embeddings=False)]
    batch = ArchitectureBatch.of(archs)
    assert batch.shape == (3,)
    assert [batch.pick((index,)) for index in range(3)] == archs
    assert batch.params_total.tolist() == [arch.params_total for arch in archs]
    assert batch.params_active.tolist() == [arch.params_active for arch in archs]
    with pytest.raises(SpecError, match="at least one"):
        ArchitectureBatch.of([])
    with pytest.raises(SpecError, match="must share qk_norm"):
        ArchitectureBatch.of([archs[0], archs[0].evolve(qk_norm="head")])


def test_picking_from_an_open_mesh() -> None:
    mesh = ArchitectureBatch(**{**BASE, "n_layers": np.array([[2], [3]]), "d_model": np.array([[64, 128, 256]])})
    assert mesh.shape == (2, 3)
    assert mesh.pick((1, 2)) == Architecture(**{**BASE, "n_layers": 3, "d_model": 256})
