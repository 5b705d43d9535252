"""Workloads and precisions: lengths, stored bits, classes of kernels."""

from __future__ import annotations

import numpy as np
import pytest

from codesign.errors import SpecError, UnknownNameError
from codesign.workload import PRECISIONS, Precision, Workload, parse_precision


def test_contexts_by_hand() -> None:
    # Four tokens after ten: each step sees 11, 12, 13, 14 tokens with its own, 12.5 on average.
    workload = Workload(prompt_tokens=10, output_tokens=4)
    assert workload.mean_context_tokens == (11 + 12 + 13 + 14) / 4
    assert workload.max_context_tokens == 14
    assert Workload(prompt_tokens=0, output_tokens=1).mean_context_tokens == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_tokens": -1}, {"output_tokens": 0}, {"batch_size": 0}, {"batch_size": 1.0}, {"batch_size": True},
        {"prompt_tokens": "1024"}, {"prompt_tokens": None}, {"batch_size": np.int64(2)}, {"prompt_tokens": 10**9 + 1},
        {"output_tokens": 10**400}, {"batch_size": float("nan")},
    ],
)  # fmt: skip
def test_lengths_out_of_range(fields: dict[str, object]) -> None:
    (name,) = fields
    with pytest.raises(SpecError, match=f"^{name} must be a whole number of at (least|most)") as caught:
        Workload(**fields)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp16", 16), ("int8", 8), ("w4a16", 4 + 20 / 128), ("w8a16", 8 + 16 / 128), ("q4f16", 4 + 16 / 32), ("nvfp4", 4 + 8 / 16),
        ("mxfp4", 4 + 8 / 32),
        ("q4_0", 8 * 18 / 32),  # 32 weights in 16 bytes and a 16-bit scale
        ("q8_0", 8 * 34 / 32),  # 32 weights in 32 bytes and a 16-bit scale
        ("q6_k", 8 * 210 / 256),  # 256 weights in 128 + 64 + 16 + 2 bytes
    ],
)  # fmt: skip
def test_stored_bits_of_each_weight(name: str, bits: float) -> None:
    assert PRECISIONS[name].weight_bits_stored == pytest.approx(bits)


def test_every_precision_is_possible() -> None:
    for name, form in PRECISIONS.items():
        assert form.name == name and form.source
        assert form.weight_bits <= form.weight_bits_stored <= 32
        assert 4 <= form.lm_head_bits <= 32 and 4 <= form.embedding_bits <= 32
        assert form.compute in ("fp32", "fp16", "bf16", "int8", "fp8", "fp4")
        assert form.kind in ("fp32", "fp16", "int8", "fp8", "fp4", "w8", "w4")
        assert form.weight_only == form.kind.startswith("w")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("fp32", "fp32"), ("fp16", "fp16"), ("bf16", "fp16"), ("int8", "int8"), ("fp8", "fp8"), ("w8a16", "w8"), ("q8_0", "w8"),
     ("q6_k", "w8"), ("q5_k_m", "w4"), ("w4a16", "w4"), ("q4_k_m", "w4"), ("mxfp4", "w4"), ("q2_k", "w4")],
)  # fmt: skip
def test_classes_of_kernels(name: str, kind: str) -> None:
    assert PRECISIONS[name].kind == kind


def test_names_are_forgiving_and_errors_are_not_silent() -> None:
    for name, form in PRECISIONS.items():
        assert parse_precision(f"  {name.upper()} (Presumed) ") is form
    with pytest.raises(UnknownNameError, match="unknown precision 'fp17'; did you mean"):
        parse_precision("fp17")
    with pytest.raises(UnknownNameError, match="unknown precision ''"):
        parse_precision("")
    assert Precision(name="x", weight_bits=4).weight_bits_stored == 4


def test_bits_of_tensor_classes_by_name() -> None:
    """A cache of 8 bits is half, a head of 4 a quarter; names are one whatever the order; the rest is the base's."""
    from codesign.architecture import Architecture
    from codesign.cache import cache_bytes
    from codesign.operators import weight_bytes

    form, base = parse_precision("AWQ+kv8+head4"), PRECISIONS["w4a16"]
    assert form.name == "w4a16+head4+kv8" == parse_precision("w4a16 + kv8 + head4".replace(" ", "")).name
    assert PRECISIONS[form.name] == form and (form.kv_bits, form.lm_head_bits, form.weight_bits) == (8, 4, 4)
    assert form.kind == base.kind and "w4a16+head4+kv8" not in list(PRECISIONS)
    arch = Architecture(
        n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100, tied_embeddings=False
    )
    assert float(cache_bytes(arch, Workload(), form)) == float(cache_bytes(arch, Workload(), base)) / 2
    assert float(weight_bytes(arch, base) - weight_bytes(arch, form)) == 6400 * (16 - 4) / 8
    for bad in ("w4a16+kv7", "w4a16+ffn8", "w4a16+kv8+kv4", "w4a16+"):
        with pytest.raises(SpecError, match="must be one or more of"):
            parse_precision(bad)
    with pytest.raises(UnknownNameError):
        parse_precision("w9+kv8")


def test_ternary_formats_store_what_their_blocks_hold() -> None:
    """llama.cpp's block_tq2_0: 64 bytes of two-bit values and a 16-bit scale for 256 weights; block_tq1_0: 48 + 4 and the scale."""
    assert PRECISIONS["tq2_0"].weight_bits == (64 + 2) * 8 / 256
    assert PRECISIONS["tq1_0"].weight_bits == (48 + 4 + 2) * 8 / 256
    assert parse_precision("ternary").name == "tq2_0"
