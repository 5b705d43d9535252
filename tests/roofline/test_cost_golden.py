"""The cost model by hand: ideal seconds, memory, energy, bounds, and the unpack roof."""

from __future__ import annotations

import dataclasses
import math

import pytest

from codesign.architecture import Architecture
from codesign.devices import load_device
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel, memory_bytes
from codesign.roofline.energy import PowerModel, power_model
from codesign.roofline.rates import PhaseRates, Rates, peak_flop_per_s
from codesign.workload import PRECISIONS, Workload

ORIN = load_device("orin")  # 204.8e9 B/s, 42.63e12 FLOP/s at 16 bits
FP16, W4 = PRECISIONS["fp16"], PRECISIONS["w4a16"]
TINY = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
SHORT = Workload(prompt_tokens=16, output_tokens=8)
WIDE = Architecture(n_layers=1, d_model=4096, n_heads=32, n_kv_heads=8, d_head=128, d_ff=8192, vocab_size=32000)

# One decode step of TINY, 2 bytes a value, mean context 16 + (8 + 1) / 2 = 20.5 tokens: weights + read + write.
DECODE_LAYER_B = (
    (128 + 128)  # attention norm: 64 values in, 64 out
    + (16384 + 128 + 256)  # Q, K, V: 64 x (64 + 32 + 32) weights; 64 in, 128 out
    + (192 + 192)  # rotary embedding of Q and K: 96 values
    + (128 + 128 * 20.5 + 128 + 128)  # attention: query, cache of 2 x 32 x 2 B a token; output, the new token's K and V
    + (8192 + 128 + 128)  # output projection: 64 x 64
    + (128 + 128)  # FFN norm
    + (32768 + 128 + 512)  # gate and up: 64 x 256
    + (512 + 256)  # activation: 256 in, 128 out
    + (16384 + 256 + 128)  # down: 128 x 64
)
DECODE_B = 2 * DECODE_LAYER_B + (128 + 128) + (128 + 128) + (12800 + 128 + 200)  # embedding, final norm, head 64 x 100
# Multiply-adds times two: the weights above, attention 4 * 64 * 20.5, the head.
DECODE_FLOP = 2 * (2 * (8192 + 4096 + 16384 + 8192) + 4 * 64 * 20.5) + 2 * 6400
WEIGHT_B = 2 * (16384 + 8192 + 32768 + 16384) + 12800


def test_the_device_is_the_one_that_the_goldens_are_for() -> None:
    assert (ORIN.bandwidth_Bps, ORIN.peak_flop_per_s["fp16"], ORIN.power_mode) == (204.8e9, 42.63e12, "MAXN")


def test_ideal_decode_is_bytes_over_bandwidth() -> None:
    assert DECODE_B == 173768
    cost = RooflineModel(device=ORIN).phase(TINY, SHORT, FP16, "decode")
    # Every operator has at most 1 FLOP a byte; the ridge of the device is at 208.
    assert cost.seconds == pytest.approx(173768 / 204.8e9, rel=1e-12)
    assert (cost.bytes_moved, cost.flop) == (DECODE_B, DECODE_FLOP)


def test_ideal_prefill_takes_the_larger_roof_of_each_operator() -> None:
    s, bw, peak = 1024, 204.8e9, 42.63e12
    hidden = s * 4096 * 2  # bytes of one hidden state
    by_hand = {
        "embedding": 2 * hidden / bw,
        "attention_norm": 2 * hidden / bw,
        "qkv_proj": 2 * s * 4096 * 6144 / peak,  # 51.5 GFLOP: 1.21 ms; 71 MB: 0.35 ms
        "rope": 2 * (s * (4096 + 1024) * 2) / bw,
        "attention": 4 * 4096 * (s * (s + 1) / 2) / peak,  # causal pairs
        "out_proj": 2 * s * 4096 * 4096 / peak,
        "ffn_norm": 2 * hidden / bw,
        "ffn_up": 2 * s * 4096 * 16384 / peak,
        "ffn_act": (s * 16384 * 2 + s * 8192 * 2) / bw,
        "ffn_down": 2 * s * 8192 * 4096 / peak,
        "final_norm": 2 * hidden / bw,
        "lm_head": (4096 * 32000 * 2 + 4096 * 2 + 32000 * 2) / bw,  # for the last position only
    }
    model, workload = RooflineModel(device=ORIN), Workload(prompt_tokens=s, output_tokens=1)
    rows = {row.name: row for row in model.breakdown(WIDE, workload, FP16, "prefill")}
    for name, seconds in by_hand.items():
        assert rows[name].seconds == pytest.approx(seconds, rel=1e-12), name
        matrix = name in ("qkv_proj", "attention", "out_proj", "ffn_up", "ffn_down")
        assert rows[name].bound == ("compute" if matrix else "bandwidth"), name
    assert model.phase(WIDE, workload, FP16, "prefill").seconds == pytest.approx(sum(by_hand.values()), rel=1e-12)


def test_memory_by_hand() -> None:
    # Blocks: 2 * (2*64*(64+32) attention + 3*64*128 FFN + 2*64 norms) + 64 final norm = 74,048 weights, each 4 bits and
    # a 128th of a 16-bit scale and a 4-bit zero; the head stays at 16 bits.
    weights, kv, workspace = memory_bytes(TINY, SHORT, W4)
    assert TINY.params_total - 6400 == 74048
    assert weights == pytest.approx(74048 * (4 + 20 / 128) / 8 + 6400 * 2)
    assert kv == 2 * 2 * 32 * 2 * 24  # K and V, 2 layers, 32 values, 2 bytes, 16 + 8 tokens
    assert workspace == (2 * 64 + 2 * 128) * 16 * 2 + 100 * 4  # residual twice, gate and up; logits in fp32
    untied = dataclasses.replace(TINY, tied_embeddings=False)
    assert memory_bytes(untied, SHORT, W4)[0] - weights == 6400 * 2
    four = memory_bytes(TINY, dataclasses.replace(SHORT, batch_size=4), W4)
    assert four == (weights, 4 * kv, 4 * workspace)
    estimate = RooflineModel(device=ORIN).estimate(TINY, SHORT, W4)
    assert estimate.peak_memory_B == weights + kv + workspace


def test_a_window_saves_the_cache_beyond_it() -> None:
    windowed = dataclasses.replace(TINY, window_tokens=8, n_window_layers=1)
    full, less = memory_bytes(TINY, SHORT, FP16)[1], memory_bytes(windowed, SHORT, FP16)[1]
    assert full - less == (24 - 8) * 128  # one layer keeps 8 of 24 tokens of 128 bytes


def test_gguf_weights_are_stored_at_their_file_bits() -> None:
    form = PRECISIONS["q4_k_m"]
    assert memory_bytes(TINY, SHORT, form)[0] == pytest.approx((74048 * 4.81 + 6400 * 6.5625) / 8)


def test_energy_by_hand() -> None:
    power = PowerModel(idle_W=10.0, flop_J=1e-12, byte_J=1e-10, interval_log=0.1, measured=False, source="test")
    workload = dataclasses.replace(SHORT, prompt_tokens=0)  # no prefill: mean context 4.5 tokens, not 20.5
    estimate = RooflineModel(device=ORIN, power=power).estimate(TINY, workload, FP16)
    moved, flop = DECODE_B - 2 * 128 * 16, DECODE_FLOP - 2 * 4 * 64 * 16
    joule = 10.0 * moved / 204.8e9 + 1e-12 * flop + 1e-10 * moved
    assert estimate.energy_J == pytest.approx(joule, rel=1e-12)
    assert estimate.request_energy_J == pytest.approx(8 * joule, rel=1e-12)
    assert estimate.power_W == pytest.approx(joule / (moved / 204.8e9), rel=1e-12)
    assert estimate.prefill_s == 0


def test_energy_of_a_request_is_prefill_and_all_steps() -> None:
    model = RooflineModel.of(ORIN, Rates())
    assert model.power is not None
    one = model.estimate(TINY, SHORT, FP16)
    prefill = model.phase(TINY, SHORT, FP16, "prefill")
    first = model.power.energy_J(prefill.seconds, prefill.flop, prefill.bytes_moved)
    assert one.request_energy_J == pytest.approx(first + 8 * one.energy_J)
    assert one.total_s == pytest.approx(one.prefill_s + 8 * one.decode_s)
    batch = model.estimate(TINY, dataclasses.replace(SHORT, batch_size=4), FP16)
    assert batch.energy_J < one.energy_J  # a token of one request: the weights are shared


def test_without_a_power_limit_energy_is_unknown() -> None:
    bare = dataclasses.replace(load_device("rtx-4090"), tdp_W=None)
    assert power_model(bare) is None
    estimate = RooflineModel.of(bare, Rates()).estimate(TINY, SHORT, FP16)
    assert math.isnan(estimate.energy_J) and math.isnan(estimate.power_W)
    assert estimate.decode_s > 0


def test_another_devices_power_is_scaled_to_its_limit() -> None:
    device = load_device("rtx-4090")
    scaled, orin = power_model(device), power_model(ORIN)
    assert scaled is not None and orin is not None and device.tdp_W is not None
    share = device.tdp_W / 60.0
    assert scaled.idle_W == pytest.approx(orin.idle_W * share)
    # At the memory roof both draw the same share of their limits.
    assert scaled.byte_J * device.bandwidth_Bps == pytest.approx(orin.byte_J * 204.8e9 * share)
    assert scaled.flop_J * peak_flop_per_s(device, "fp16") == pytest.approx(orin.flop_J * 42.63e12 * share)
    assert not scaled.measured and scaled.interval_log > orin.interval_log


SLOW = PhaseRates(
    bandwidth_efficiency=0.5, compute_efficiency=0.25, attention_efficiency=0.125, layer_s=1e-4, step_s=1e-3
)


def test_efficiencies_and_overheads_by_hand() -> None:
    model = RooflineModel(device=ORIN, rates=Rates(decode=SLOW))
    expected = DECODE_B / (0.5 * 204.8e9) + 2 * 1e-4 + 1e-3
    assert model.phase(TINY, SHORT, FP16, "decode").seconds == pytest.approx(expected, rel=1e-12)
    prefill = RooflineModel(device=ORIN, rates=Rates(prefill=SLOW))
    rows = {r.name: r for r in prefill.breakdown(WIDE, Workload(), FP16, "prefill")}
    assert rows["attention"].seconds == pytest.approx(4 * 4096 * (1024 * 1025 / 2) / (0.125 * 42.63e12))
    assert rows["ffn_down"].seconds == pytest.approx(2 * 1024 * 8192 * 4096 / (0.25 * 42.63e12))
    assert rows["layer overhead"].seconds == 1e-4 and rows["step overhead"].seconds == 1e-3
    assert {rows[n].bound for n in ("layer overhead", "step overhead")} == {"overhead"}


def test_routed_experts_have_rates_of_their_own() -> None:
    moe = Architecture(n_layers=1, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=0, vocab_size=100,
                       n_experts=8, n_active_experts=2, d_ff_expert=32)  # fmt: skip
    whole = RooflineModel(device=ORIN)
    half = RooflineModel(device=ORIN, rates=Rates(decode=PhaseRates(expert_bandwidth_efficiency=0.5)))
    first, second = ({r.name: r.seconds for r in m.breakdown(moe, SHORT, FP16, "decode")} for m in (whole, half))
    for name, seconds in first.items():
        factor = 2 if name.startswith("experts") else 1
        assert second[name] == pytest.approx(factor * seconds), name
    # One token hits 2 experts: gate and up 2 * 2 * 64 * 32 weights; 2 x 64 values in, 2 x 64 out.
    assert first["experts_up"] == pytest.approx((2 * 2 * 64 * 32 * 2 + 2 * 64 * 2 + 2 * 2 * 32 * 2) / 204.8e9)


def test_the_unpack_roof_bounds_matrix_products() -> None:
    rates = Rates(decode=PhaseRates(unpack_Bps=1e9))
    model = RooflineModel(device=ORIN, rates=rates)
    rows = model.breakdown(TINY, SHORT, FP16, "decode")
    gemms = [r for r in rows if r.name.endswith(("_proj", "_up", "_down", "_head"))]
    assert {r.bound for r in gemms} == {"unpack"}
    assert {r.bound for r in rows if r not in gemms and "overhead" not in r.name} == {"bandwidth"}
    assert sum(r.seconds for r in gemms) == pytest.approx(WEIGHT_B / 1e9)


def test_llama_cpp_on_orin_follows_the_sm_clock() -> None:
    fits, form = load_calibration(), PRECISIONS["q4_k_m"]
    full, low = load_device("orin", "MAXN"), load_device("orin", "30W")
    assert full.bandwidth_Bps == low.bandwidth_Bps
    roofs = [fits.rates(d, "llama.cpp", form).decode.unpack_Bps for d in (full, low)]
    assert roofs[0] / roofs[1] == pytest.approx((16 * 1301e6) / (8 * 612e6))  # SMs times clock
    large = Architecture(n_layers=32, d_model=4096, n_heads=32, n_kv_heads=8, d_head=128, d_ff=14336, vocab_size=128256,
                         tied_embeddings=False)  # fmt: skip
    slow = RooflineModel.of(low, fits.rates(low, "llama.cpp", form))
    fast = RooflineModel.of(full, fits.rates(full, "llama.cpp", form))
    steps = [m.phase(large, Workload(prompt_tokens=0), form, "decode").seconds for m in (fast, slow)]
    assert 2.5 < steps[1] / steps[0] < 4.3  # measured: 3.3
    bounds = {r.name: r.bound for r in slow.breakdown(large, Workload(), form, "decode")}
    assert bounds["ffn_down"] == "unpack"
    # 16-bit weights need no unpacking, nor do other engines' kernels show it.
    assert math.isinf(fits.rates(low, "llama.cpp", FP16).decode.unpack_Bps)
    assert math.isinf(fits.rates(low, "vllm", W4).decode.unpack_Bps)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("form", ["fp16", "q4_k_m", "int8"])
def test_a_breakdown_sums_to_the_pass(phase: str, form: str) -> None:
    mixed = Architecture(n_layers=6, d_model=256, n_heads=8, n_kv_heads=2, d_head=32, d_ff=512, vocab_size=5000,
                         n_experts=8, n_active_experts=2, d_ff_expert=128, n_shared_experts=1, d_ff_shared=64,
                         n_dense_layers=2, window_tokens=64, n_window_layers=3)  # fmt: skip
    precision = PRECISIONS[form]
    model = RooflineModel.of(ORIN, load_calibration().rates(ORIN, "llama.cpp", precision, 4))
    workload = Workload(prompt_tokens=200, output_tokens=50, batch_size=4)
    rows = model.breakdown(mixed, workload, precision, phase)  # type: ignore[arg-type]
    cost = model.phase(mixed, workload, precision, phase)  # type: ignore[arg-type]
    assert sum(r.seconds for r in rows) == pytest.approx(float(cost.seconds), rel=1e-12)
    assert sum(r.flop for r in rows) == pytest.approx(float(cost.flop), rel=1e-12)
    assert sum(r.bytes_moved for r in rows) == pytest.approx(float(cost.bytes_moved), rel=1e-12)
    assert {r.bound for r in rows} <= {"compute", "bandwidth", "unpack", "overhead"}


def test_peak_of_a_type_that_the_device_lacks() -> None:
    pi = load_device("raspberry-pi-5")
    assert peak_flop_per_s(ORIN, "int8") == 85.26e12
    assert peak_flop_per_s(ORIN, "fp8") == 42.63e12  # no fp8 units on Ampere: 16 bits
    assert peak_flop_per_s(ORIN, "fp32") == 5.33e12
    assert peak_flop_per_s(pi, "bf16") >= max(pi.peak_flop_per_s.get("fp16", 0), pi.peak_flop_per_s.get("bf16", 0))
    only = dataclasses.replace(ORIN, power_mode=None, power_modes=(), peak_flop_per_s={"int8": 4e12})
    assert peak_flop_per_s(only, "fp16") == 4e12


def test_an_int8_model_keeps_its_head_and_attention_at_16_bits() -> None:
    form = PRECISIONS["int8"]
    model = RooflineModel(device=ORIN)
    rows = {r.name: r for r in model.breakdown(WIDE, Workload(prompt_tokens=4096, output_tokens=1), form, "prefill")}
    assert rows["ffn_down"].seconds == pytest.approx(2 * 4096 * 8192 * 4096 / 85.26e12)
    assert rows["attention"].seconds == pytest.approx(4 * 4096 * (4096 * 4097 / 2) / 42.63e12)
