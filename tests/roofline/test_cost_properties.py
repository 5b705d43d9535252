"""Properties of the cost model: never below the roofline, monotone, the same for one, for a batch and for a mesh."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.architecture import Architecture, ArchitectureBatch
from codesign.devices import Device, load_catalogue, load_device
from codesign.engines import ENGINES, canonical_engine, default_engine, resolve_engine
from codesign.hf_config import read_config
from codesign.roofline.calibration import LEVELS, PhaseFit, load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.roofline.effects import LATENTS, Cell
from codesign.roofline.rates import PhaseRates, Rates
from codesign.workload import PRECISIONS, Precision, Workload

FITS = load_calibration()
DEVICES = load_catalogue()
FORMS = ("fp32", "fp16", "int8", "fp8", "q8_0", "w4a16", "q4_k_m")  # every class of kernels, and two of the 4-bit class
SMALL, LARGE = read_config("qwen2.5-0.5b"), read_config("llama-3.1-8b")
TWO = ArchitectureBatch.of([SMALL, LARGE])


def estimate(
    device: Device, engine: str, form: Precision, arch: object, workload: Workload, ideal: bool = False
) -> object:
    rates = Rates() if ideal else FITS.rates(device, engine, form, workload.batch_size)
    return RooflineModel(device=device, rates=rates).estimate(arch, workload, form)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_every_rate_of_the_catalogue_is_possible(name: str) -> None:
    device = DEVICES[name]
    workload, eight = Workload(), Workload(batch_size=8)
    for engine in (*ENGINES, "an engine that nobody measured"):
        for form in (PRECISIONS[f] for f in FORMS):
            rates = FITS.rates(device, engine, form)
            for phase in (rates.prefill, rates.decode):
                for field in dataclasses.fields(PhaseRates):
                    value = getattr(phase, field.name)
                    if field.name == "terms":
                        assert value is None  # no bundled device has a calibration of its own
                        continue
                    if field.name.endswith("_efficiency"):
                        assert 0 < value <= 1, field.name
                    elif field.name == "unpack_Bps":
                        assert value > 0
                    else:
                        assert 0 <= value < math.inf, field.name
                assert phase.interval_log > 0 and phase.level in range(len(LEVELS))
            one = RooflineModel(device=device, rates=rates).estimate(TWO, workload, form)
            ideal = RooflineModel(device=device).estimate(TWO, workload, form)
            batch = RooflineModel(device=device, rates=FITS.rates(device, engine, form, 8)).estimate(TWO, eight, form)
            for got in (one.prefill_s, one.decode_s, one.total_s, batch.decode_s):
                assert np.all(np.isfinite(got))
            assert np.all(one.decode_s >= ideal.decode_s) and np.all(one.prefill_s >= ideal.prefill_s)
            assert np.all(batch.decode_s >= one.decode_s) and np.all(batch.decode_s < 8 * one.decode_s)


def test_twice_the_bandwidth_of_a_calibrated_device_is_not_slower() -> None:
    for device in DEVICES.values():
        faster = dataclasses.replace(device, bandwidth_Bps=2 * device.bandwidth_Bps)
        for engine in ("vllm", "llama.cpp"):
            for form in (PRECISIONS["fp16"], PRECISIONS["q4_k_m"]):
                old = estimate(device, engine, form, TWO, Workload())
                new = estimate(faster, engine, form, TWO, Workload())
                assert np.all(new.decode_s <= old.decode_s)  # type: ignore[attr-defined]
                # The compute efficiency of prefill was fitted against FLOP per byte and may fall a little with it.
                assert np.all(new.prefill_s <= 1.03 * old.prefill_s)  # type: ignore[attr-defined]


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    kv, group = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 8]))
    layers = draw(st.integers(1, 40))
    experts = draw(st.sampled_from([0, 4, 64]))
    dense = draw(st.integers(0, layers - 1)) if experts else 0
    windows = draw(st.integers(0, layers))
    return Architecture(
        n_layers=layers, d_model=64 * draw(st.integers(1, 80)), n_heads=kv * group, n_kv_heads=kv,
        d_head=draw(st.sampled_from([32, 64, 128])), d_ff=0 if experts and not dense else 64 * draw(st.integers(1, 200)),
        vocab_size=draw(st.integers(100, 260_000)), tied_embeddings=draw(st.booleans()), ffn_gated=draw(st.booleans()),
        n_experts=experts, n_active_experts=min(experts, 2), d_ff_expert=128 if experts else 0,
        n_shared_experts=draw(st.integers(0, 1)) if experts else 0, d_ff_shared=64 if experts else 0,
        n_dense_layers=dense, window_tokens=64 if windows else 0, n_window_layers=windows,
    )  # fmt: skip


efficiency = st.floats(0.01, 1.0)
rates_of_a_phase = st.builds(
    PhaseRates,
    bandwidth_efficiency=efficiency, expert_bandwidth_efficiency=efficiency, compute_efficiency=efficiency,
    attention_efficiency=efficiency, expert_compute_efficiency=efficiency,
    unpack_Bps=st.one_of(st.just(math.inf), st.floats(1e9, 1e12)), layer_s=st.floats(0, 1e-3), step_s=st.floats(0, 1e-2),
)  # fmt: skip
workloads = st.builds(
    Workload, prompt_tokens=st.integers(0, 8192), output_tokens=st.integers(1, 2048), batch_size=st.integers(1, 64)
)
forms = st.sampled_from([PRECISIONS[name] for name in FORMS])


@settings(max_examples=60, deadline=None)
@given(arch=architectures(), rates=rates_of_a_phase, workload=workloads, form=forms)
def test_bounds_and_monotone(arch: Architecture, rates: PhaseRates, workload: Workload, form: Precision) -> None:
    device = load_device("orin")
    model = RooflineModel(device=device, rates=Rates(prefill=rates, decode=rates))
    got = model.estimate(arch, workload, form)
    ideal = RooflineModel(device=device).estimate(arch, workload, form)
    slack = 1 + 1e-12
    assert got.decode_s * slack >= ideal.decode_s > 0 and got.prefill_s * slack >= ideal.prefill_s >= 0
    assert (got.prefill_s == 0) == (workload.prompt_tokens == 0)

    wider = RooflineModel(device=dataclasses.replace(device, bandwidth_Bps=2 * device.bandwidth_Bps), rates=model.rates)
    more = wider.estimate(arch, workload, form)
    assert more.decode_s <= got.decode_s * slack and more.prefill_s <= got.prefill_s * slack

    longer = dataclasses.replace(workload, prompt_tokens=workload.prompt_tokens + 500)
    later = model.estimate(arch, longer, form)
    assert later.decode_s * slack >= got.decode_s and later.prefill_s * slack >= got.prefill_s
    assert later.kv_B >= got.kv_B

    twice = dataclasses.replace(workload, batch_size=2 * workload.batch_size)
    doubled = model.estimate(arch, twice, form)
    assert got.decode_s <= doubled.decode_s * slack and doubled.decode_s <= 2 * got.decode_s * slack


def alone(
    model: RooflineModel, archs: list[Architecture], workload: Workload, form: Precision, name: str
) -> list[float]:
    return [float(getattr(model.estimate(a, workload, form), name)) for a in archs]


FIGURES = (
    "prefill_s",
    "decode_s",
    "total_s",
    "weights_B",
    "kv_B",
    "workspace_B",
    "energy_J",
    "request_energy_J",
    "power_W",
)


@settings(max_examples=25, deadline=None)
@given(archs=st.lists(architectures(), min_size=1, max_size=6), workload=workloads, form=forms, shuffle=st.randoms())
def test_a_batch_is_each_alone_in_any_order(
    archs: list[Architecture], workload: Workload, form: Precision, shuffle: object
) -> None:
    device = load_device("orin")
    model = RooflineModel.of(device, FITS.rates(device, "llama.cpp", form, workload.batch_size))
    order = list(range(len(archs)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    together = model.estimate(ArchitectureBatch.of(archs), workload, form)
    mixed = model.estimate(ArchitectureBatch.of([archs[i] for i in order]), workload, form)
    for name in FIGURES:
        values = np.broadcast_to(getattr(together, name), (len(archs),))
        np.testing.assert_allclose(values, alone(model, archs, workload, form, name), rtol=1e-12)
        np.testing.assert_allclose(np.broadcast_to(getattr(mixed, name), values.shape), values[order], rtol=1e-13)


@pytest.mark.parametrize("experts", [0, 8])
@pytest.mark.parametrize("form", ["fp16", "q4_k_m"])
def test_an_open_mesh_is_the_flat_batch(experts: int, form: str) -> None:
    layers, widths, ffn, vocab = [2, 5], [128, 256, 512], [300, 700], [100, 3000]
    mesh_axes = np.ix_(*(np.array(v, dtype=float) for v in (layers, widths, ffn, vocab)))
    fixed = {"n_heads": 4, "n_kv_heads": 2, "d_head": 32}
    moe = {"n_experts": experts, "n_active_experts": 2} if experts else {}
    flat = [
        Architecture(n_layers=a, d_model=b, vocab_size=d, d_ff=0 if experts else c, d_ff_expert=c if experts else 0,
                     **fixed, **moe)  # type: ignore[arg-type]
        for a in layers for b in widths for c in ffn for d in vocab
    ]  # fmt: skip
    ell, d, f, v = mesh_axes
    mesh = ArchitectureBatch(n_layers=ell, d_model=d, vocab_size=v, d_ff=0 if experts else f,
                             d_ff_expert=f if experts else 0, **fixed, **moe)  # fmt: skip
    device, precision = load_device("orin"), PRECISIONS[form]
    model = RooflineModel.of(device, FITS.rates(device, "llama.cpp", precision))
    opened = model.estimate(mesh, Workload(), precision)
    for name in FIGURES:
        got = np.broadcast_to(getattr(opened, name), mesh.shape).ravel()
        np.testing.assert_allclose(got, alone(model, flat, Workload(), precision, name), rtol=1e-12)


# --- levels and engines ----------------------------------------------------------------------------------------------


def cell(device: str, engine: str, kind: str, generation: str) -> Cell:
    return Cell(device=device, generation=generation, family="f", engine=engine, kind=kind, batch_size=1,
                peak_flop_per_s=1e13, bandwidth_Bps=1e11, sm_clock_Hz=math.nan, unpack_roof=False)  # fmt: skip


MEASURED = PhaseFit(
    effects={}, cells={"board/vllm/fp16/gen-a": 3, "card/llama.cpp/w4/gen-b": 5}, intervals=(0.1, 0.2, 0.3, 0.4, 0.5)
)


@pytest.mark.parametrize(
    ("where", "level"),
    [
        (("board", "vllm", "fp16", "gen-a"), 0),
        (("board", "vllm", "w4", "gen-a"), 1),
        (("sister", "vllm", "fp16", "gen-a"), 2),
        (("sister", "vllm", "w4", "gen-a"), 2),
        (("board", "mlc-llm", "fp16", "gen-a"), 3),  # the device with another engine
        (("far", "vllm", "fp16", "gen-z"), 3),  # the engine elsewhere
        (
            ("far", "ollama", "w4", "gen-b"),
            3,
        ),  # llama.cpp's kernels, measured on that generation, inside another server
        (("sister", "mlc-llm", "fp16", "gen-a"), 4),  # the generation with another engine tells nothing
        (("far", "mlc-llm", "fp16", "gen-z"), 4),
    ],
)
def test_levels_of_the_fallback(where: tuple[str, str, str, str], level: int) -> None:
    assert MEASURED.level(cell(*where)) == level
    rates = MEASURED.rates("decode", cell(*where))
    assert rates.level == level and rates.interval_log == MEASURED.intervals[level]
    assert rates.n_rows == (3 if level == 0 else 0)


def test_an_empty_fit_still_predicts() -> None:
    empty = PhaseFit(effects={}, cells={}, intervals=(0.5,) * 5)
    rates = empty.rates("decode", cell("x", "y", "w4", "z"))
    assert rates.level == 4 and 0 < rates.bandwidth_efficiency < 1
    assert empty.span() == (math.inf, 0.0, False)


def test_effects_add_up_on_the_links_scale() -> None:
    here = cell("board", "vllm", "fp16", "gen-a")
    fit = dataclasses.replace(
        MEASURED, effects={"bandwidth:engine=vllm": 0.3, "bandwidth:generation=gen-a": -0.1, "step:engine=vllm": 0.2}
    )
    mean = {name: latent.mean for name, latent in LATENTS["decode"].items()}
    assert fit.latent("bandwidth", "decode", here) == pytest.approx(
        1 / (1 + math.exp(-(mean["bandwidth"] + 0.3 - 0.1)))
    )
    assert fit.latent("step", "decode", here) == pytest.approx(math.exp(mean["step"] + 0.2))


def test_intervals_of_the_bundled_calibration_widen_with_the_level() -> None:
    for fit in (FITS.prefill, FITS.decode):
        assert list(fit.intervals) == sorted(fit.intervals)
        assert 0 < fit.intervals[0] < fit.intervals[-1] < math.log(10)


def test_spans_of_cells() -> None:
    fit = dataclasses.replace(
        MEASURED, spans={"board/vllm/fp16/gen-a": (1e9, 8e9, 0.0), "card/llama.cpp/w4/gen-b": (2e8, 3e9, 1.0)}
    )
    assert fit.span(cell("board", "vllm", "fp16", "gen-a")) == (1e9, 8e9, False)
    assert fit.span() == (2e8, 8e9, True)
    assert fit.span(cell("board", "vllm", "w4", "gen-a")) == (math.inf, 0.0, False)


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("vLLM", "vllm"), ("vLLM 0.6.1", "vllm"), ("llama.cpp (Metal)", "llama.cpp"), ("llama-bench", "llama.cpp"),
        ("Ollama / llama.cpp", "ollama"), ("TensorRT Edge-LLM", "tensorrt-edge-llm"), ("TensorRT-LLM", "tensorrt-llm"),
        ("TRT-LLM", "tensorrt-llm"), ("TinyChat (AWQ)", "tinychat"), ("PyTorch (Hugging Face)", "transformers"),
        ("ExLlamaV2", "exllamav2"), (" MLC-LLM ", "mlc-llm"), ("tinygrad", "tinygrad"), ("New/RT", "new-rt"),
    ],
)  # fmt: skip
def test_engine_spellings(text: str, engine: str) -> None:
    assert canonical_engine(text) == engine


def test_an_engine_with_a_slash_does_not_break_the_cells() -> None:
    device = load_device("orin")
    rates = FITS.rates(device, canonical_engine("MLX / mlx-lm"), PRECISIONS["fp16"])
    assert "/" not in canonical_engine("MLX / mlx-lm") and rates.decode.level == 3


def test_engines_of_the_command_line() -> None:
    orin = load_device("orin")
    assert resolve_engine("vLLM", orin) == "vllm"
    with pytest.raises(LookupError, match=r"unknown engine 'vlm'; did you mean 'vllm'"):
        resolve_engine("vlm", orin)
    assert default_engine(load_device("orin"), PRECISIONS["fp16"]) == "vllm"
    assert default_engine(load_device("orin"), PRECISIONS["q4_k_m"]) == "llama.cpp"
    assert default_engine(load_device("raspberry-pi-5"), PRECISIONS["fp16"]) == "llama.cpp"
    assert {FITS.engine_for(d, PRECISIONS[f]) for d in DEVICES.values() for f in FORMS} <= set(ENGINES)
