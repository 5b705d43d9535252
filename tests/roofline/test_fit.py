"""The fit on synthetic measurements of known rates, and the held-out errors that judge it."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.architecture import Architecture
from codesign.devices import load_device
from codesign.hf_config import read_config
from codesign.measured_table import Case
from codesign.operators import Phase
from codesign.roofline.calibration import Calibration, PhaseFit
from codesign.roofline.cost import RooflineModel
from codesign.roofline.effects import LATENTS, Cell
from codesign.roofline.fit import Observation, fit_phase, observations, predict_seconds
from codesign.roofline.validation import LeftOut, calibrate_intervals, errors, leave_out, one_scalar, plain_roofline
from codesign.workload import PRECISIONS, Precision, Workload

Array = NDArray[np.float64]
DEVICES = ("orin", "jetson-orin-nano-8gb-super", "rtx-4090", "rtx-3090", "a100-80gb", "h100-sxm-80gb")
MODELS = ("qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.2-3b", "llama-3.1-8b")
SETUPS = (("vllm", "fp16"), ("llama.cpp", "q4_k_m"), ("tinychat", "w4a16"))


def case(device: str, engine: str, precision: Precision, model: str, arch: Architecture, prompt: int = 512) -> Case:
    return Case(
        row_id=f"{device}-{engine}-{model}", source=f"of {device}", quality="A", model=model, device=load_device(device),
        engine=engine, precision=precision, arch=arch, prefill=Workload(prompt_tokens=prompt, output_tokens=1),
        decode=Workload(prompt_tokens=prompt, output_tokens=128), prefill_s=1.0, decode_s=1.0,
    )  # fmt: skip


@cache
def synthetic(phase: Phase, seed: int = 1, noise: float = 0.02) -> tuple[tuple[Observation, ...], PhaseFit]:
    """Observations whose seconds are those of rates drawn from half of the prior, and the rates."""
    rng = np.random.default_rng(seed)
    cases = [
        case(device, engine, PRECISIONS[form], model, read_config(model))
        for device in DEVICES for engine, form in SETUPS for model in MODELS
    ]  # fmt: skip
    obs = observations(cases, phase)
    effects = {
        key: rng.normal(0, 0.5 * effect.sd)
        for key, effect in sorted({
            f"{name}:{effect.name}={effect.key(o.cell)}": effect
            for o in obs for name, latent in LATENTS[phase].items() for effect in latent.effects
        }.items(), key=lambda item: item[0])
    }  # fmt: skip
    truth = PhaseFit(effects, {}, (0.1,) * 5)
    seconds = predict_seconds(truth, obs) * np.exp(rng.normal(0, noise, len(obs)))
    return tuple(with_seconds(obs, seconds)), truth


def with_seconds(obs: list[Observation] | tuple[Observation, ...], seconds: Array) -> list[Observation]:
    return [dataclasses.replace(o, seconds=float(s)) for o, s in zip(obs, seconds, strict=True)]


PHASES: tuple[Phase, ...] = ("prefill", "decode")


@pytest.mark.parametrize("phase", PHASES)
def test_the_fit_recovers_known_rates(phase: Phase) -> None:
    obs, truth = synthetic(phase)
    off = np.log(predict_seconds(fit_phase(obs), obs) / predict_seconds(truth, obs))
    assert np.median(np.abs(off)) < 0.02 and np.max(np.abs(off)) < 0.12


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("form", ["fp16", "int8", "fp8", "w4a16", "q4_k_m", "q8_0"])
def test_the_fits_formula_is_the_cost_models(phase: Phase, form: str) -> None:
    """Attention and the 16-bit head of an int8 model run at the 16-bit peak in both."""
    moe = Architecture(n_layers=4, d_model=512, n_heads=8, n_kv_heads=2, d_head=64, d_ff=0, vocab_size=9000,
                       n_experts=8, n_active_experts=2, d_ff_expert=256)  # fmt: skip
    precision = PRECISIONS[form]
    archs = {"moe": moe, "dense": read_config("llama-3.1-8b")}
    obs = observations([case(d, "llama.cpp", precision, m, a, 3000) for d in DEVICES for m, a in archs.items()], phase)
    _, fit = synthetic(phase)
    calibration = Calibration(fit, fit, "test")
    for o, seconds in zip(obs, predict_seconds(fit, obs), strict=True):
        c = o.case
        workload = c.prefill if phase == "prefill" else c.decode
        assert workload is not None
        rates = calibration.of(phase).rates(phase, o.cell)
        model = RooflineModel(device=c.device)
        ideal = model.phase(c.arch, workload, precision, phase).seconds
        both = dataclasses.replace(model.rates, prefill=rates, decode=rates)
        assert seconds == pytest.approx(
            RooflineModel(device=c.device, rates=both).phase(c.arch, workload, precision, phase).seconds
        )
        assert plain_roofline([o])[0] == pytest.approx(ideal)
        assert seconds >= ideal


@pytest.mark.parametrize("phase", PHASES)
def test_one_outlier_does_not_move_the_fit(phase: Phase) -> None:
    obs, truth = synthetic(phase)
    clean = predict_seconds(fit_phase(obs), obs)
    which = 5
    seconds = np.array([o.seconds for o in obs])
    seconds[which] *= 3
    moved = predict_seconds(fit_phase(with_seconds(obs, seconds)), obs)
    others = np.arange(len(obs)) != which
    assert np.median(np.abs(np.log(moved / clean))[others]) < 0.005
    assert np.max(np.abs(np.log(moved / clean))[others]) < 0.12
    assert abs(math.log(moved[which] / predict_seconds(truth, obs)[which])) < 0.3  # not 3 times: ln 3 is 1.1


def test_a_device_that_was_never_seen_is_predicted_by_its_engine_and_generation() -> None:
    obs, _ = synthetic("decode")
    device = "rtx_3090"
    fit = fit_phase([o for o in obs if o.cell.device != device])
    unseen = [o for o in obs if o.cell.device == device]
    assert {fit.level(o.cell) for o in unseen} <= {2, 3}
    measured = np.array([o.seconds for o in unseen])
    ours = np.median(np.abs(np.log(predict_seconds(fit, unseen) / measured)))
    ideal = np.median(np.abs(np.log(plain_roofline(unseen) / measured)))
    assert ours < 0.35 and ours < 0.6 * ideal
    # Nothing was learnt about the device itself.
    assert not [key for key in fit.effects if f"={device}" in key]


def test_a_model_left_out_is_predicted_by_its_cells() -> None:
    obs, truth = synthetic("decode")
    part = leave_out(obs, "model")
    assert set(part.level.tolist()) == {0}
    off = np.abs(np.log(part.predicted / predict_seconds(truth, obs)))
    assert np.median(off) < 0.03 and np.quantile(off, 0.9) < 0.1


@pytest.mark.parametrize("way", ["model", "source", "device"])
def test_a_left_out_group_never_reaches_its_own_prediction(way: str) -> None:
    obs, _ = synthetic("prefill")
    before = leave_out(obs, way)
    poisoned = before.group[0]
    seconds = np.array([o.seconds * (100 if g == poisoned else 1) for o, g in zip(obs, before.group, strict=True)])
    after = leave_out(with_seconds(obs, seconds), way)
    mine = np.array([g == poisoned for g in before.group])
    assert np.array_equal(after.predicted[mine], before.predicted[mine])
    assert not np.array_equal(after.predicted[~mine], before.predicted[~mine])  # the poison does act elsewhere
    scalar = [one_scalar(p)[mine] for p in (before, after)]
    assert np.array_equal(*scalar)


def test_the_fit_does_not_depend_on_the_order_of_rows() -> None:
    obs, _ = synthetic("prefill")
    forwards, backwards = fit_phase(obs), fit_phase(obs[::-1])
    assert forwards.cells == backwards.cells and forwards.spans == backwards.spans
    for key, value in forwards.effects.items():
        assert backwards.effects[key] == pytest.approx(value, abs=2e-3)


def test_cells_and_spans_count_what_was_fitted() -> None:
    obs, _ = synthetic("decode")
    fit = fit_phase(obs)
    assert fit.cells["jetson_agx_orin_64gb/vllm/fp16/ampere-sm87"] == len(MODELS)
    assert sum(fit.cells.values()) == len(obs)
    sizes = [read_config(m).params_active for m in MODELS]
    assert fit.spans["jetson_agx_orin_64gb/vllm/fp16/ampere-sm87"] == (min(sizes), max(sizes), 0.0)


def test_a_row_with_only_an_end_to_end_time_gives_a_decode_step() -> None:
    one = case("orin", "vllm", PRECISIONS["fp16"], "llama-3.1-8b", read_config("llama-3.1-8b"), prompt=1000)
    only = dataclasses.replace(one, prefill_s=math.nan, decode_s=math.nan, e2e_s=10.0)
    (o,) = observations([only], "decode")
    # Prefill at half of 42.63e12 FLOP/s, 2 FLOP for each of 6.98e9 active parameters (without embeddings) and token.
    prefill = 2 * only.arch.params_active_nonembedding * 1000 / (42.63e12 / 2)
    assert o.seconds == pytest.approx((10.0 - prefill) / 128)
    assert observations([only], "prefill") == []
    assert observations([dataclasses.replace(only, prefill=None)], "decode") == []


# --- validation --------------------------------------------------------------------------------------------------------


def test_errors_by_hand() -> None:
    # Relative errors of +10, -20, 0 and +50 %: mean of 10, 20, 0, 50; median of those; signed median of -20, 0, 10, 50.
    found = errors(np.array([1.1, 0.8, 1.0, 1.5]), np.ones(4))
    assert found == {"n": 4, "mape_pct": 20.0, "median_pct": 15.0, "p90_pct": 41.0, "bias_pct": 5.0}
    assert errors(np.array([]), np.array([])) == {"n": 0}


def parts_with(spread: tuple[float, ...], per_level: int, seed: int) -> list[LeftOut]:
    """Left-out predictions whose ln errors are normal with a standard deviation for each level."""
    rng = np.random.default_rng(seed)
    template, _ = synthetic("decode")
    parts = []
    for way in ("model", "source", "device"):
        level = np.repeat(np.arange(len(spread)), per_level)
        obs = tuple(template[i % len(template)] for i in range(len(level)))
        key = {
            "model": lambda o: o.case.model,
            "source": lambda o: o.case.source,
            "device": lambda o: o.case.device.name,
        }[way]
        error = rng.normal(0, np.array(spread)[level])
        seconds = np.array([o.seconds for o in obs])
        parts.append(LeftOut(way=way, obs=obs, predicted=seconds * np.exp(error), level=level, interval_level=level,
                             group=tuple(key(o) for o in obs)))  # fmt: skip
    return parts


def test_intervals_cover_nine_of_ten() -> None:
    spread = (0.05, 0.1, 0.2, 0.3, 0.4)
    widths, coverage = calibrate_intervals(parts_with(spread, 300, seed=3))
    for width, sd in zip(widths, spread, strict=True):
        assert width == pytest.approx(1.645 * sd, rel=0.12)
    assert set(coverage) == {"model", "source", "device"}
    assert all(0.87 < value < 0.93 for value in coverage.values())


def test_widths_do_not_shrink_with_the_level_and_borrow_where_rows_are_few() -> None:
    widths, _ = calibrate_intervals(parts_with((0.3, 0.1, 0.1, 0.1, 0.1), 100, seed=4))
    assert list(widths) == sorted(widths) and widths[0] == pytest.approx(1.645 * 0.3, rel=0.2)
    few, _ = calibrate_intervals([dataclasses.replace(p, level=p.level * 2, interval_level=p.interval_level * 2)
                                  for p in parts_with((0.1, 0.2, 0.4), 100, seed=5)])  # fmt: skip
    assert list(few) == sorted(few) and few[0] < few[1] <= few[2] <= few[4]


def test_one_scalar_is_the_median_of_the_others() -> None:
    obs, _ = synthetic("decode")
    fixed = with_seconds(obs, plain_roofline(obs) / np.array([0.5 if o.cell.engine == "vllm" else 0.25 for o in obs]))
    part = leave_out(fixed[:24], "model")
    assert one_scalar(part) == pytest.approx(np.array([o.seconds for o in fixed[:24]]))


def test_a_cell_of_a_device_with_unknown_clock_has_no_unpack_roof() -> None:
    orin = load_device("orin")
    assert Cell.of(orin, "llama.cpp", PRECISIONS["q4_k_m"], 1).unpack_roof
    unknown = dataclasses.replace(orin, clock_Hz=None)
    found = Cell.of(unknown, "llama.cpp", PRECISIONS["q4_k_m"], 1)
    assert not found.unpack_roof and math.isnan(found.sm_clock_Hz)
    assert Cell.of(orin, "ollama", PRECISIONS["q4_k_m"], 1).engine_root == "llama.cpp"
