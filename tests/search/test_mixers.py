"""The axis mixer: every design is one that transformers (or codesign's own module) builds with the same parameters, and its config reads back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codesign._hf_stack_write import CODESIGN
from codesign.architecture import Architecture
from codesign.errors import SpecError
from codesign.hf_config import architecture_from_config, config_dict
from codesign.operators import lower
from codesign.search.experts import experts_name, experts_of, parse_experts
from codesign.search.mixers import FAMILIES, Mixer, family_axes, mixer_of, parse_mixer
from codesign.search.space import DesignSpace
from codesign.workload import PRECISIONS, Workload

MIXERS = (
    "full", "window:64:4", "mamba2:4", "mamba2:0", "gdn:4", "gdn:0", "mlstm:4", "mlstm:0", "conv:3", "mla:64", "shared:2", "loop:3", "taper:4",
)  # fmt: skip


def space(mixers: tuple[str, ...] = MIXERS, experts: tuple[tuple[int, ...], ...] = ((0, 0), (4, 2))) -> DesignSpace:
    return DesignSpace(
        axes={
            "precision": ("fp16",), "vocab_size": (512,), "mixer": mixers, "experts": experts, "d_head": (32, 64), "n_kv_heads": (1, 2),
            "n_layers": (3, 4, 8), "d_model": (128, 192, 256), "ffn_ratio": (2.0, 4.0),
        }
    )  # fmt: skip


def designs(one: DesignSpace) -> list[Architecture]:
    found = []
    for block in one.blocks():
        for i in np.flatnonzero(block.valid):
            found.append(one.point(block.start + int(i))[1])
    return found


SHARED = tuple(m for m in MIXERS if m != "taper:4")
SOME = [
    a
    for a in designs(space()) + designs(space(SHARED, ((8, 2, 1), (8, 2, 2))))
    if a.d_model in (128, 256) and a.n_layers in (4, 8)
]


def test_every_design_is_another_architecture() -> None:
    every = designs(space())
    assert len(set(every)) == len(every)


def test_shared_experts_are_fine_grained_and_known_again() -> None:
    offered = ((4, 2), (8, 2, 1), (8, 2, 2))
    one = space(SHARED, offered)
    found = designs(one)
    assert len(set(found)) == len(found) > 200
    for block in one.blocks():
        for i in np.flatnonzero(block.valid):
            value = tuple(one.axes["experts"][one.indices(block.start + int(i))[3]])
            arch = one.point(block.start + int(i))[1]
            assert experts_of(arch, offered) == value
            if len(value) == 3:
                assert arch.d_ff_shared == value[2] * arch.d_ff_expert
                assert arch.d_ff_active == (2 + value[2]) * arch.d_ff_expert


def test_experts_as_text() -> None:
    for value in ((0, 0), (8, 2), (64, 6, 2)):
        assert parse_experts(experts_name(value)) == value
    assert parse_experts("8x2+0") == (8, 2)
    for text in ("8", "8x", "8x2+", "8x2+1+1", "x"):
        with pytest.raises(SpecError, match="neither dense nor ExK nor"):
            parse_experts(text)
    for value in ((0, 0, 1), (8, 9), (8, 2, 2000)):
        with pytest.raises(SpecError, match="is not E experts with 1 to E active and at most 1024 shared"):
            space(("full",), (value,))


@pytest.mark.parametrize("experts", [((0, 0), (4, 2)), ((8, 2, 1), (8, 2, 2))], ids=["own", "shared"])
def test_a_block_a_flat_batch_and_a_point_agree(experts: Any) -> None:
    one = space(MIXERS, experts)
    for block in one.blocks():
        index = np.flatnonzero(block.valid)[:3]
        if not len(index):
            continue
        axes = np.stack(np.unravel_index(block.start + index, one.lengths), axis=1)
        for _, rows, arch, valid in one.flat(axes):
            assert np.all(valid)
            total = np.broadcast_to(arch.params_total, arch.shape)
            active = np.broadcast_to(block.arch.params_active, block.shape).reshape(-1)
            for row in rows:
                picked = one.point(int(block.start + index[row]))[1]
                assert picked.params_total == total[list(rows).index(row)]
                assert picked.params_active == active[index[row]]


@pytest.mark.parametrize(
    "arch",
    SOME[:: max(1, len(SOME) // 90)],
    ids=lambda a: f"{a.family}-{a.recurrence}-{a.n_layers}x{a.d_model}-{a.n_experts}",
)
def test_configs_read_back_and_transformers_builds_them(arch: Architecture) -> None:
    config = config_dict(arch, max_position_embeddings=2048)
    assert architecture_from_config(config, "config.json") == arch
    torch = pytest.importorskip("torch")
    if arch.family == CODESIGN:
        from codesign.models.decoder import build_decoder

        with torch.device("meta"):
            model = build_decoder(arch)
    else:
        transformers = pytest.importorskip("transformers")
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    assert sum(p.numel() for p in {id(p): p for p in model.parameters()}.values()) == arch.params_total


@pytest.mark.parametrize("mixer", MIXERS)
def test_costs_of_a_block_are_those_of_its_designs(mixer: str) -> None:
    """FLOP and bytes of a decode step and a prompt, by broadcasting and one by one."""
    one, form, workload = space((mixer,), ((0, 0),)), PRECISIONS["fp16"], Workload(prompt_tokens=300, output_tokens=9)
    for phase in ("prefill", "decode"):
        for block in one.blocks():
            index = np.flatnonzero(block.valid)[:2]
            operators = lower(block.arch, workload, form, phase)  # type: ignore[arg-type]

            def total(ops: Any, shape: tuple[int, ...]) -> Any:
                return sum(np.broadcast_to(op.count * (op.flop + op.bytes_moved), shape) for op in ops)

            for i in index:
                alone = total(lower(one.point(block.start + int(i))[1], workload, form, phase), ())  # type: ignore[arg-type]
                assert total(operators, block.shape).reshape(-1)[i] == pytest.approx(float(alone), rel=1e-12)


def test_what_mixers_save() -> None:
    """At equal shape: a recurrence caches nothing that grows, windows cap the cache, sharing halves it, loops multiply it."""
    from codesign.cache import cache_bytes

    def cache(mixer: str, prompt: int) -> float:
        arch = next(a for a in designs(space((mixer,), ((0, 0),))) if (a.n_layers, a.d_model) == (8, 256))
        return float(cache_bytes(arch, Workload(prompt_tokens=prompt - 1, output_tokens=1), PRECISIONS["fp16"]))

    full = cache("full", 4096)
    assert cache("mamba2:0", 4096) == cache("mamba2:0", 64) < full
    assert cache("window:64:4", 4096) == full * 2 / 8 + full * 6 / 8 * 64 / 4096
    assert cache("shared:2", 4096) == full / 2
    assert cache("loop:3", 4096) == full * 2
    assert cache("gdn:4", 8192) - cache("gdn:4", 4096) == full / 4


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mamba:4", "'mamba:4' is not a known mixer; known: full, window:TOKENS:PERIOD"), ("gdn", "not of the form gdn:PERIOD"),
        ("gdn:x", "with whole numbers"), ("gdn:²", "with whole numbers"), ("mamba2:1", "and not 1"), ("mla:4", "rank 4 of 'mla:4' must be from 8"), (4, "is not a text"),
    ],
)  # fmt: skip
def test_bad_mixers_are_refused(value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        parse_mixer(value)
    with pytest.raises(SpecError):
        space((value,))


def test_tapers_keep_the_mean_and_are_known_again() -> None:
    every = {
        (a.n_layers, a.d_model, a.d_head, a.n_kv_heads, a.d_ff_mean): a for a in designs(space(("full",), ((0, 0),)))
    }
    found = designs(space(("taper:4", "taper:8"), ((0, 0),)))
    assert len(found) == 2 * len(every)
    for arch in found:
        assert arch.ffn_widths == tuple(sorted(arch.ffn_widths)) and all(width % 64 == 0 for width in arch.ffn_widths)
        alike = every[arch.n_layers, arch.d_model, arch.d_head, arch.n_kv_heads, arch.d_ff_mean]
        assert arch.params_total == alike.params_total
    wide = DesignSpace(
        axes={
            **space().axes,
            "mixer": ("taper:4", "taper:8"),
            "experts": ((0, 0),),
            "d_model": (512, 4096),
            "n_layers": (2, 5),
        }
    )
    for block in wide.blocks():
        for i in np.flatnonzero(block.valid):
            arch = wide.point(block.start + int(i))[1]
            assert mixer_of(arch, ("full", "taper:4", "taper:8")) == block.mixer
            ratio = arch.ffn_widths[-1] / arch.ffn_widths[0]
            assert ratio == pytest.approx(int(block.mixer[-1]), rel=0.05 if arch.d_model > 512 else 0.2)


def test_families_are_axes() -> None:
    assert parse_mixer("mla:64") == Mixer("mla", (64,))
    assert family_axes(["moe"], [(0, 0), (8, 2)]) == (((8, 2),), ("full",))
    assert family_axes(["dense", "moe", "window"], [(8, 2)])[0] == ((0, 0), (8, 2))
    with pytest.raises(SpecError, match="unknown family 'hybrids'; did you mean 'hybrid'"):
        family_axes(["hybrids"], [])
    with pytest.raises(SpecError, match="no family given"):
        family_axes([], [])
    with pytest.raises(SpecError, match="this space has no experts"):
        family_axes(["moe"], [(0, 0)])
    for values in FAMILIES.values():
        for value in values:
            parse_mixer(value)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_written_config_ties_the_head_as_the_design_does(mixer: str, tied: bool) -> None:
    """Real weights, not the meta device's: what `from_config` builds has the table's parameters, tied or not."""
    transformers = pytest.importorskip("transformers")
    one = space((mixer,), ((0, 0), (4, 2)))
    found = {}
    for arch in designs(DesignSpace(axes=one.axes, tied_embeddings=tied)):
        if arch.d_model == 128 or arch.family not in found:
            found.setdefault(arch.family, arch)
    for family, arch in found.items():
        config = config_dict(arch, max_position_embeddings=512)
        assert architecture_from_config(config, "config.json") == arch
        if family != CODESIGN:
            model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
            assert sum(p.numel() for p in {id(p): p for p in model.parameters()}.values()) == arch.params_total
    if mixer == "mlstm:0":
        assert ("xlstm" in found) is (not tied)
