"""The additive roofline and its residual inside the cost model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import POINTS, TRUTH, dense, true_seconds

from codesign.architecture import Architecture, ArchitectureBatch
from codesign.devices import Device, DeviceFit, PhaseTerms, ResidualFit, load_device
from codesign.hf_config import read_config
from codesign.operators import Phase, lower
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.roofline.terms import FEATURES, TERMS, pass_features, pass_terms, residual_log
from codesign.workload import PRECISIONS, Workload

FORM = PRECISIONS["fp32"]
#: Two points of training in ln of the features, one above the roofline and one below.
RESIDUAL = ResidualFit(
    features=FEATURES, center=(2.0, 6.0, 7.0, 6.0, 4.0, 6.0), scale=(1.0, 1.0, 1.5, 1.0, 2.0, 1.0),
    points=((0.0,) * 6, (0.5, -0.5, 0.3, 0.0, 0.1, 0.4)), alpha=(3.0, -5.0), amplitude=0.1,
)  # fmt: skip
QWEN, MIXTURE = read_config("qwen2.5-0.5b"), read_config("qwen3-30b-a3b")
PHASES: tuple[Phase, ...] = ("prefill", "decode")


def terms(residual: ResidualFit | None = RESIDUAL, **changes: object) -> PhaseTerms:
    values: dict[str, object] = {
        "seconds_per": TRUTH, "residual": residual, "interval_log": 0.1, "interval_beyond_log": 0.3,
        "span_params": (1e6, 1e8), "span_tokens": (1.0, 4096.0), "batches": (1,), "n_rows": 40, "n_architectures": 20,
    }  # fmt: skip
    return PhaseTerms(**{**values, **changes})  # type: ignore[arg-type]


def model(residual: ResidualFit | None = RESIDUAL) -> RooflineModel:
    fit = DeviceFit(
        engine="onnxruntime",
        precision="fp32",
        power_mode="MAXN",
        source="made up",
        prefill=terms(residual),
        decode=terms(residual),
    )
    device: Device = replace(load_device("orin"), fits=(fit,))
    return RooflineModel.of(device, load_calibration().rates(device, "onnxruntime", FORM))


@pytest.mark.parametrize("arch", [QWEN, MIXTURE], ids=["dense", "mixture"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("residual", [None, RESIDUAL], ids=["roofline", "hybrid"])
def test_a_breakdown_sums_to_the_pass(arch: Architecture, phase: Phase, residual: ResidualFit | None) -> None:
    workload = Workload(prompt_tokens=300, output_tokens=20, batch_size=2)
    rows = model(residual).breakdown(arch, workload, FORM, phase)
    seconds = float(model(residual).phase(arch, workload, FORM, phase).seconds)
    assert sum(row.seconds for row in rows) == pytest.approx(seconds, rel=1e-12)
    assert {row.bound for row in rows} <= {"compute", "bandwidth", "overhead"}
    assert ("expert overhead" in {row.name for row in rows}) == bool(arch.n_experts)


@pytest.mark.parametrize("phase", PHASES)
def test_a_pass_is_the_sum_of_its_work_times_the_coefficients(phase: Phase) -> None:
    for point in (p for p in POINTS if p.phase == phase):
        prompt = point.tokens if phase == "prefill" else point.context_tokens
        workload = Workload(prompt_tokens=prompt, output_tokens=1)
        got = float(model(None).phase(QWEN, workload, FORM, phase).seconds)
        assert got == pytest.approx(true_seconds(QWEN, point), rel=1e-12)


def test_the_work_by_term_is_all_work() -> None:
    """FLOP of matrix products and attention, and bytes, are in exactly one term each; of the head FLOP and weights."""
    for arch in (QWEN, MIXTURE):
        for phase in PHASES:
            operators = lower(arch, Workload(), FORM, phase)
            work = pass_terms(arch, Workload(), FORM, phase)
            assert set(work) <= set(TERMS)
            head = next(op for op in operators if op.name == "lm_head")
            bytes_moved = sum(op.count * op.bytes_moved for op in operators) - head.read_B - head.write_B
            assert sum(v for k, v in work.items() if k.endswith("_B")) == pytest.approx(bytes_moved)
            flop = sum(op.count * op.flop for op in operators if op.kind in ("gemm", "attention"))
            assert sum(v for k, v in work.items() if k.endswith("_flop")) == pytest.approx(flop)
    # By hand, decode of one token: 24 layers; q and o 896 x 896, k and v 896 x 128, three FFN matrices 896 x 4864; fp32.
    work = pass_terms(QWEN, Workload(), FORM, "decode")
    weights = 24 * (2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864)
    assert work["matmul_B"] == pytest.approx(4 * weights, rel=1e-3) and work["matmul_flop"] == pytest.approx(
        2 * weights, rel=1e-3
    )
    assert work["head_B"] == 4 * 896 * 151936 and work["layer"] == 24 and work["step"] == 1


def test_a_batch_is_its_members() -> None:
    rng = np.random.default_rng(1)
    archs = [dense(rng) for _ in range(30)]
    batch, workload = ArchitectureBatch.of(archs), Workload(prompt_tokens=200, output_tokens=50)
    both = model().estimate(batch, workload, FORM)
    for i, arch in enumerate(archs):
        one = model().estimate(arch, workload, FORM)
        for name in ("prefill_s", "decode_s", "total_s", "energy_J"):
            assert getattr(both, name)[i] == pytest.approx(float(getattr(one, name)), rel=1e-9)


def test_an_open_mesh_is_its_points() -> None:
    layers, widths = np.array([2.0, 9.0, 40.0]), np.array([256.0, 512.0])
    mesh = replace(ArchitectureBatch.of([QWEN]), n_layers=layers[:, None], d_model=widths[None, :])
    got = model().phase(mesh, Workload(), FORM, "decode").seconds
    assert np.shape(got)[:2] == (3, 2)
    for i, n in enumerate(layers):
        for j, d in enumerate(widths):
            one = model().phase(replace(mesh, n_layers=n, d_model=d), Workload(), FORM, "decode").seconds
            assert got[i, j] == pytest.approx(float(np.squeeze(one)), rel=1e-9)


def test_the_residual_is_the_kernel_times_alpha_and_nothing_far_away() -> None:
    workload = Workload(prompt_tokens=400, output_tokens=1)
    features = pass_features(QWEN, workload, "decode")
    x = (np.log(np.array(features, dtype=float)) - RESIDUAL.center) / RESIDUAL.scale
    by_hand = 0.1 * sum(
        a * np.exp(-0.5 * np.sum((x - p) ** 2)) for a, p in zip(RESIDUAL.alpha, RESIDUAL.points, strict=True)
    )
    assert float(residual_log(RESIDUAL, features)) == pytest.approx(float(by_hand), rel=1e-9)
    giant = QWEN.evolve(n_layers=2000, d_ff=9_000_000)  # 5 length scales from both points
    assert float(residual_log(RESIDUAL, pass_features(giant, workload, "decode"))) == pytest.approx(0.0, abs=1e-6)
    near = (
        model().phase(QWEN, workload, FORM, "decode").seconds
        / model(None).phase(QWEN, workload, FORM, "decode").seconds
    )
    far = (
        model().phase(giant, workload, FORM, "decode").seconds
        / model(None).phase(giant, workload, FORM, "decode").seconds
    )
    assert abs(near - 1) > 1e-3 and far == pytest.approx(1.0, abs=1e-6)


def test_a_large_batch_is_cut_into_parts_of_bounded_memory() -> None:
    n = 65536 + 3
    features = [np.full(n, float(v)) for v in (8, 400, 1000, 400, 60, 400)]
    features[0][-1] = 9.0
    got = residual_log(RESIDUAL, features)
    assert got.shape == (n,) and np.all(got[:-1] == got[0]) and got[-1] != got[0]


@given(
    st.integers(1, 60), st.sampled_from([1, 2, 8, 32]), st.integers(1, 512), st.integers(1, 100_000), st.integers(0, 100_000),
    st.integers(1, 64), st.sampled_from(PHASES),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_predictions_are_finite_and_positive(
    layers: int, heads: int, ffn: int, vocab: int, prompt: int, batch: int, phase: Phase
) -> None:
    arch = Architecture(
        n_layers=layers, d_model=64 * heads, n_heads=heads, n_kv_heads=1, d_head=64, d_ff=64 * ffn, vocab_size=vocab
    )
    workload = Workload(prompt_tokens=prompt + (phase == "prefill"), output_tokens=1, batch_size=batch)
    seconds = float(model().phase(arch, workload, FORM, phase).seconds)
    assert np.isfinite(seconds) and seconds > 0
