"""The bundled catalogue: every device loads, names are unique, peaks are dense, power modes are found."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codesign.devices import describe, device_names, device_row, load_catalogue, load_device, mode_rows
from codesign.devices._names import name_key
from codesign.devices.catalogue import _folder, _index, _read_bundled
from codesign.devices.schema import read_device
from codesign.errors import UnknownNameError

NAMES = sorted(path.stem for path in _folder().glob("*.toml"))
SUPER_ABOVE_NOMINAL = {("jetson_orin_nx_16gb", "40W"), ("jetson_orin_nx_16gb", "MAXN_SUPER")}


def test_the_index_is_in_step_with_the_files() -> None:
    assert len(NAMES) >= 40
    assert sorted(_index()) == NAMES
    for name in NAMES:
        device = read_device(_folder() / f"{name}.toml")
        assert device.name == name
        assert device.aliases == _index()[name]


def test_every_name_and_alias_means_one_device() -> None:
    keys = [name_key(text) for name, aliases in _index().items() for text in (name, *aliases)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", NAMES)
def test_device_is_complete(name: str) -> None:
    device = load_device(name)
    assert device.peak_flop_per_s["fp16"] > 0
    assert 0 <= device.memory_reserved_B < device.memory_B
    assert device.memory_usable_B > 0.6 * device.memory_B
    assert device.sources["spec"] and device.sources["peak"] and device.sources["memory_reserved"]
    assert device.vendor and device.family and device.generation
    assert not device.peak_is_estimated or "estimated" in device.sources["peak"]
    assert pickle.loads(pickle.dumps(device)) == device
    assert hash(device) == hash(pickle.loads(pickle.dumps(device)))


@pytest.mark.parametrize("name", NAMES)
def test_files_speak_of_the_product_alone(name: str) -> None:
    text = (_folder() / f"{name}.toml").read_text(encoding="utf-8").lower()
    for word in ("recalled", " here", "not found", "/work", "none mhz", "stored file"):
        assert word not in text


def test_agx_orin_peaks_are_dense() -> None:
    # 16 SM x 2048 dense fp16 FLOP per clock per SM x 1.301 GHz = 42.63e12; int8 is twice that, 85.26e12.
    # "275 TOPS" is 170 sparse int8 on the GPU plus 105 sparse on two DLAs.
    orin = load_device("orin")
    assert orin.n_sm == 16 and orin.clock_Hz == 1.301e9
    assert orin.peak_flop_per_s["fp16"] == pytest.approx(16 * 2048 * 1.301e9, rel=1e-3)
    assert orin.peak_flop_per_s["fp16"] == 42.63e12
    assert orin.peak_flop_per_s["int8"] == 85.26e12
    assert orin.bandwidth_Bps == 204.8e9  # 256 bits / 8 x 2 x 3200 MHz
    assert orin.memory_B == 64e9


@pytest.mark.parametrize(
    ("name", "dtype", "dense"),
    [
        ("orin-nano-super", "fp16", 8 * 2048 * 1.020e9),  # 16.71e12
        ("orin-nano-super", "int8", 8 * 4096 * 1.020e9),  # 33.4e12, sold as 67 sparse
        ("orin-nano", "int8", 8 * 4096 * 0.625e9),  # 20.5e12, sold as 40 sparse
        ("4090", "fp16", 128 * 1024 * 2.520e9),  # fp16 accumulation
        ("4090", "bf16", 128 * 512 * 2.520e9),  # fp32 accumulation is half on GeForce
        ("thor", "fp4", 20 * 32768 * 1.570e9),  # 1029e12, sold as 2070 sparse
        ("a100", "fp16", 108 * 2048 * 1.410e9),  # 312e12, not 624
        ("h100", "bf16", 132 * 4096 * 1.830e9),  # 989e12, not 1979
    ],
)
def test_dense_peaks_by_hand(name: str, dtype: str, dense: float) -> None:
    assert load_device(name).peak_flop_per_s[dtype] == pytest.approx(dense, rel=2e-3)


def test_estimated_peaks_follow_their_working() -> None:
    pixel = (2 * 32 * 2.802 + 2 * 16 * 2.253 + 4 * 8 * 1.803) * 1e9
    i5 = (2 * 32 * 4.4 + 8 * 16 * 3.3) * 1e9
    snapdragon = (1 * 32 * 3.3 + 3 * 16 * 3.2 + 2 * 16 * 3.0) * 1e9
    working = {"pixel_6a": 2 * pixel, "i5_1235u": i5, "snapdragon_8_gen3": 2 * snapdragon, "raspberry_pi_4b": 48e9}
    working |= {"xeon_8480plus": 56 * 128 * 2e9, "epyc_9654": 96 * 32 * 2.4e9, "jetson_thor_t4000": 1200e12 / 2 / 4}
    estimated = {name for name in NAMES if load_device(name).peak_is_estimated}
    assert estimated == set(working)
    for name, fp16 in working.items():
        assert load_device(name).peak_flop_per_s["fp16"] == pytest.approx(fp16, rel=5e-3)


@pytest.mark.parametrize("text", ["orin", "ORIN", "agx-orin", "AGX Orin", "jetson_agx_orin_64gb"])
def test_orin_is_agx_orin_64gb_at_maxn(text: str) -> None:
    device = load_device(text)
    assert (device.name, device.power_mode) == ("jetson_agx_orin_64gb", "MAXN")
    default = next(mode for mode in device.power_modes if mode.is_default)
    assert default.name == "30W"  # what a board boots into is not what the catalogue shows


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("orin-nx", "jetson_orin_nx_16gb"),
        ("orin-nano", "jetson_orin_nano_8gb"),
        ("thor", "jetson_agx_thor_t5000"),
        ("xavier", "jetson_agx_xavier_32gb"),
        ("jetson-nano", "jetson_nano_4gb"),
        ("rtx4090", "rtx_4090"),
        ("GeForce RTX 4090", "rtx_4090"),
        ("h100", "h100_sxm_80gb"),
        ("gb10", "dgx_spark_gb10"),
        ("DGX Spark", "dgx_spark_gb10"),
        ("pi5", "raspberry_pi_5"),
        ("m1-max", "apple_m1_max_32c"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert load_device(alias).name == name


def test_unknown_device_suggests_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"^unknown device 'orion'; did you mean 'orin'\? See 'codesign devices'\.$"
    ):
        load_device("orion")


@pytest.mark.parametrize(
    ("device", "text", "mode"),
    [
        ("orin", "30W", "30W"),
        ("orin", "30 w", "30W"),
        ("orin", "", "MAXN"),
        ("orin", "default", "MAXN"),
        ("orin", "factory default", "30W"),
        ("orin", "maxn", "MAXN"),
        ("orin", "MAXN + jetson_clocks", "MAXN"),
        ("orin-nano", "15W (max of original board)", "15W"),
        ("orin-nano", "15W (original)", "15W"),
        ("orin-nano-super", "25W + jetson_clocks", "25W"),
        ("orin-nano-super", "MAXN_SUPER + jetson_clocks", "MAXN_SUPER"),
        ("orin-nano-super", "Super (25W or MAXN_SUPER not stated)", "MAXN_SUPER"),
        ("orin-nano-super", "25W or MAXN_SUPER, not stated", "MAXN_SUPER"),
        ("orin-nano-super", "MAXN", "MAXN_SUPER"),
        ("orin-nx", "40W", "40W"),
        ("orin-nx", "40W (Super)", "40W"),
        ("orin-nx", "MAXN", "MAXN"),
        ("orin-nx", "maxn super", "MAXN_SUPER"),
        ("thor", "MAXN (nvpmodel -m 0)", "MAXN"),
    ],
)
def test_power_mode_text(device: str, text: str, mode: str) -> None:
    assert load_device(device, text).power_mode == mode
    assert load_device(device).with_power_mode(text).power_mode == mode


def test_30W_orin_has_half_the_units_and_all_the_bandwidth() -> None:
    orin, low = load_device("orin"), load_device("orin", "30W")
    assert (low.n_sm, low.clock_Hz, low.bandwidth_Bps) == (8, 612e6, orin.bandwidth_Bps)
    assert low.peak_flop_per_s["fp16"] == pytest.approx(8 * 2048 * 612e6, rel=1e-3)
    assert low.power_limit_W == 30 and orin.power_limit_W == orin.tdp_W == 60
    assert low.with_power_mode("default") == orin


def test_unknown_mode_lists_the_modes() -> None:
    with pytest.raises(
        UnknownNameError, match="'20W' of device 'jetson_agx_orin_64gb'; its modes: MAXN, 50W, 30W, 15W"
    ):
        load_device("orin", "20W")
    with pytest.raises(UnknownNameError, match="no power modes"):
        load_device("4090", "MAXN")
    assert load_device("4090", "default") == load_device("4090")


@pytest.mark.parametrize("name", NAMES)
def test_no_mode_is_above_the_nominal_one(name: str) -> None:
    device = load_device(name)
    for mode in device.power_modes:
        assert mode.bandwidth_Bps <= device.bandwidth_Bps
        above = any(mode.peak_flop_per_s[dtype] > peak for dtype, peak in device.peak_flop_per_s.items())
        assert above == ((name, mode.name) in SUPER_ABOVE_NOMINAL)  # needs the Super configuration flashed
        assert mode.is_nominal == (mode.name == device.power_mode)


def test_describe_shows_modes_and_sources() -> None:
    text = describe(load_device("orin", "30W"))
    for part in ("jetson_agx_orin_64gb", "10.03", "MAXN", "factory default", "sources:", "github.com/LineageOS"):
        assert part in text
    for device in load_catalogue().values():
        assert describe(device).count("\n") > 15
        assert len({len(device_row(device)), len(device_row(load_device("orin")))}) == 1
        assert len(mode_rows(device)) == len(device.power_modes)


def test_one_device_reads_one_file_in_5_ms() -> None:
    load_device("orin")
    times = []
    for name in ("4090", "thor", "pi5", "a100", "m1"):
        _read_bundled.cache_clear()
        start = time.perf_counter()
        load_device(name)
        times.append(time.perf_counter() - start)
        assert _read_bundled.cache_info().currsize == 1
    assert sorted(times)[2] < 5e-3  # the median of five


def test_loading_a_bundled_device_imports_nothing_heavy() -> None:
    code = "import sys; from codesign.devices import load_device; load_device('orin'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "codesign.devices" in loaded
    assert not {"importlib.metadata", "torch", "onnxruntime", "matplotlib", "scipy"} & set(loaded)


def test_index_is_small_and_plain() -> None:
    text = (_folder() / "index.json").read_text(encoding="utf-8")
    assert json.loads(text)["version"] == 1
    assert len(text) < 20_000


def test_names_are_sorted_and_all_numbers_finite() -> None:
    assert device_names() == sorted(device_names())
    for device in load_catalogue().values():
        assert all(map(math.isfinite, device.peak_flop_per_s.values()))


def test_path_names_a_file(tmp_path: Path) -> None:
    mine = tmp_path / "my.toml"
    text = (_folder() / "rtx_4090.toml").read_text(encoding="utf-8").replace('"rtx_4090"', '"mine"')
    mine.write_text(text, encoding="utf-8")
    assert load_device(mine).name == load_device(str(mine)).name == "mine"
