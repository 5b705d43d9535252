"""Jetson boards from trees of published listings (data_platform says what was transcribed)."""

from __future__ import annotations

from pathlib import Path

import pytest
from platform_trees import DATA, build_tree, hide_nvml, put

from codesign.devices import device_names, load_device
from codesign.profilers.host import detect_host, detected_device_name
from codesign.profilers.jetson import _MODELS, _MODULES, catalogue_mode, parse_nvpmodel, query_nvpmodel, read_jetson


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_nvml(monkeypatch)


@pytest.mark.parametrize(
    ("tree", "module", "device", "l4t", "jetpack", "mode", "catalogue"),
    [
        ("orin_nano_super_jp62", "p3767-0005", "jetson_orin_nano_8gb_super", "36.4.3", "6", "MAXN_SUPER", "MAXN_SUPER"),
        ("orin_nx_16gb_jp5", "p3767-0000", "jetson_orin_nx_16gb", "35.4.1", "5", "25W", "25W"),
        ("agx_orin_64gb_jp62", "p3701-0000", "jetson_agx_orin_64gb", "36.4.7", "6.2.1", "MODE_30W", "30W"),
    ],
)
def test_board(
    tree: str, module: str, device: str, l4t: str, jetpack: str, mode: str, catalogue: str, tmp_path: Path
) -> None:
    facts = read_jetson(build_tree(tree, tmp_path))
    assert facts is not None
    assert (facts.module, facts.device, facts.l4t, facts.jetpack) == (module, device, l4t, jetpack)
    assert (facts.power_mode, facts.catalogue_power_mode) == (mode, catalogue)
    assert load_device(device, facts.catalogue_power_mode).power_mode == catalogue
    assert detected_device_name(tmp_path) == device
    assert detected_device_name(tmp_path, accelerator=False) == "host"


def test_orin_nano_as_a_host(tmp_path: Path) -> None:
    facts = detect_host(build_tree("orin_nano_super_jp62", tmp_path))
    assert facts.cpu_model == "Cortex-A78AE"
    assert facts.isa == ("dotprod", "fp16", "neon")
    assert (facts.memory_B, facts.memory_available_B) == (7802844 * 1024, 4023972 * 1024)
    assert facts.cores_usable == 6
    assert facts.virtualised is False
    assert facts.gpu is None
    summary = facts.summary()
    assert summary["jetson_power_mode"] == "MAXN_SUPER"
    assert summary["board"].endswith("Kit Super")
    assert all(isinstance(value, str) and value for value in summary.values())


@pytest.mark.parametrize(
    ("compatible", "model", "memory_kB", "device"),
    [
        ("nvidia,p3768-0000+p3767-0003", "NVIDIA Jetson Orin Nano Developer Kit", 7800000, "jetson_orin_nano_8gb"),
        ("nvidia,p3768-0000+p3767-0004", "NVIDIA Jetson Orin Nano Developer Kit", 3700000, "jetson_orin_nano_4gb"),
        ("nvidia,p3768-0000+p3767-0001-super", "NVIDIA Jetson Orin NX", 7800000, "jetson_orin_nx_8gb"),
        ("nvidia,p3737-0000+p3701-0004", "NVIDIA Jetson AGX Orin", 31000000, "jetson_agx_orin_32gb"),
        ("nvidia,p3737-0000+p3701-0000", "NVIDIA Jetson AGX Orin Developer Kit", 30800000, "jetson_agx_orin_32gb"),
        ("nvidia,p3737-0000+p3701-0008", "NVIDIA Jetson AGX Orin", 62000000, "jetson_agx_orin_industrial"),
        ("nvidia,p3737-0000+p3701-0000-as-p3767-0003", "NVIDIA Jetson AGX Orin", 7000000, "jetson_orin_nano_8gb"),
        ("nvidia,p4071-0000+p3834-0008", "NVIDIA Jetson AGX Thor Developer Kit", 125000000, "jetson_agx_thor_t5000"),
        ("nvidia,p4071-0000+p3834-0000", "NVIDIA Jetson Thor", 62000000, "jetson_thor_t4000"),
        ("nvidia,p3449-0000-b00+p3448-0000-b00", "NVIDIA Jetson Nano Developer Kit", 4059000, "jetson_nano_4gb"),
        ("nvidia,p3509-0000+p3668-0003", "NVIDIA Jetson Xavier NX", 15500000, None),  # 16 GB: not in the catalogue
        ("nvidia,custom-carrier", "ACME box with Orin NX", 16000000, "jetson_orin_nx_16gb"),
        ("nvidia,custom-carrier", "ACME box", 16000000, None),
    ],
)
def test_modules(compatible: str, model: str, memory_kB: int, device: str | None, tmp_path: Path) -> None:
    put(tmp_path, "proc/device-tree/compatible", compatible + "\0nvidia,tegra234\0")
    put(tmp_path, "proc/device-tree/model", model + "\0")
    put(tmp_path, "proc/meminfo", f"MemTotal: {memory_kB} kB\n")
    facts = read_jetson(tmp_path)
    assert facts is not None
    assert (facts.device, facts.l4t, facts.power_mode) == (device, None, None)


def test_not_a_jetson(tmp_path: Path) -> None:
    assert read_jetson(tmp_path) is None
    put(tmp_path, "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    assert read_jetson(tmp_path) is None
    assert detected_device_name(tmp_path, accelerator=False) == "raspberry_pi_5"
    assert detected_device_name(tmp_path) == "host"


def test_tables_name_devices_of_the_catalogue() -> None:
    assert {*_MODULES.values(), *(row[-1] for row in _MODELS)} <= set(device_names())


def _outputs() -> list[tuple[str, str]]:
    blocks = (DATA / "nvpmodel.txt").read_text(encoding="utf-8").split("\n--- ")[1:]
    return [(block.split()[0], block.split("\n", 1)[1]) for block in blocks]


@pytest.mark.parametrize(("expected", "output"), _outputs())
def test_nvpmodel_output(expected: str, output: str) -> None:
    assert str(parse_nvpmodel(output)) == expected


@pytest.mark.parametrize(
    ("device", "mode", "expected"),
    [
        ("jetson_agx_orin_64gb", "MODE_50W", "50W"),
        ("jetson_agx_orin_64gb", "MAXN", "MAXN"),
        ("jetson_orin_nano_4gb", "7W-CPU", "7W_CPU"),
        ("jetson_orin_nano_8gb", "MAXN_SUPER", None),
        ("jetson_agx_thor_t5000", "120W", None),  # not listed: no mode rather than the wrong one
        (None, "MAXN", None),
    ],
)
def test_mode_names(device: str | None, mode: str, expected: str | None) -> None:
    assert catalogue_mode(device, mode) == expected


def test_nvpmodel_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake nvpmodel on the PATH: a shell script that prints the transcribed output."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert query_nvpmodel("nvpmodel-that-is-not-there") is None
    script = tmp_path / "nvpmodel"
    script.write_text('#!/bin/sh\n[ "$1" = -q ] && echo "NV Power Mode: MODE_50W" && echo 3\n')
    script.chmod(0o755)
    assert query_nvpmodel() == "MODE_50W"
    script.write_text("#!/bin/sh\necho NVPM ERROR: permission denied >&2\nexit 255\n")
    assert query_nvpmodel() is None
