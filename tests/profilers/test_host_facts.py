"""Host facts from a fake x86 tree, an empty one, and this machine (invariants only)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from platform_trees import build_tree, fake_nvml, hide_nvml, memory, put

from codesign.devices import device_names
from codesign.errors import MeasurementError, SpecError
from codesign.profilers import host_names, host_peaks
from codesign.profilers.host import detect_host, detected_device_name, measure_peaks
from codesign.profilers.host_limits import cpu_quota, memory_bytes


def test_x86_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_nvml(monkeypatch)
    facts = detect_host(build_tree("x86_server", tmp_path))
    assert facts.cpu_model == "Intel(R) Xeon(R) Platinum 8480+"
    assert (facts.cores_logical, facts.cores_physical, facts.cores_usable) == (2, 2, 5)
    assert facts.cpu_quota == 2.5  # the tighter of the two groups
    assert {"avx512_vnni", "amx_int8", "amx_bf16", "avx2"} <= set(facts.isa)
    assert (facts.l2_B, facts.l3_B) == (2 * 2048 * 2**10, 105 * 2**20)
    assert facts.memory_B == 32 * 2**30
    assert facts.memory_available_B == 30 * 2**30 + 512 * 2**20  # limit less used, plus reclaimable cache
    assert facts.virtualised is False
    assert facts.jetson is None and facts.accelerator_device is None
    assert facts.cpu_device is None  # the name fits, but only two of its 56 cores are there


def test_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_nvml(monkeypatch)
    facts = detect_host(tmp_path)
    for name in (
        "cpu_model",
        "cores_physical",
        "cores_usable",
        "memory_B",
        "memory_available_B",
        "l2_B",
        "virtualised",
    ):
        assert getattr(facts, name) is None, name
    assert facts.isa == ()
    assert set(facts.summary()) == {"os", "machine", "python"}


def test_control_groups_version_1(tmp_path: Path) -> None:
    """Made up after admin-guide/cgroup-v1: a container sees its own group at the mount's top, the path is the host's."""
    put(tmp_path, "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n")
    put(tmp_path, "proc/self/cgroup", "5:memory:/docker/ab12\n4:cpuset:/\n3:cpu,cpuacct:/docker/ab12\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", 2 * 10**9)
    put(tmp_path, "sys/fs/cgroup/memory/memory.usage_in_bytes", 5 * 10**8)
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", 150000)
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", 100000)
    assert memory_bytes(tmp_path) == (2e9, 1.5e9)
    assert cpu_quota(tmp_path) == 1.5
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1)
    assert memory_bytes(tmp_path) == (8000000 * 1024.0, 6000000 * 1024.0)
    assert cpu_quota(tmp_path) is None


def test_processor_device() -> None:
    name = "AMD EPYC 9654 96-Core Processor"
    assert host_names.cpu_device_name(name, 96, 192) == "epyc_9654"
    assert host_names.cpu_device_name(name, 192, 384) is None  # two sockets
    assert host_names.cpu_device_name(name, 96, 8) is None
    assert host_names.cpu_device_name("Intel(R) Xeon(R) Platinum 8480+", 56, 112) == "xeon_8480plus"


@pytest.mark.parametrize(
    ("name", "memory_B", "device"),
    [
        ("NVIDIA A100-SXM4-80GB", 85e9, "a100_sxm_80gb"),
        ("NVIDIA A100-SXM4-40GB", 42e9, "a100_sxm_40gb"),
        ("NVIDIA A100-PCIE-40GB", 42e9, None),
        ("NVIDIA A100 80GB PCIe", 85e9, "a100_pcie_80gb"),
        ("NVIDIA H100 80GB HBM3", 85e9, "h100_sxm_80gb"),
        ("NVIDIA H100 PCIe", 85e9, "h100_pcie_80gb"),
        ("NVIDIA H200", 150e9, "h200_sxm"),
        ("NVIDIA L4", 24e9, "l4"),
        ("NVIDIA L40", 48e9, None),
        ("NVIDIA L40S", 48e9, "l40s"),
        ("Tesla T4", 16e9, "t4"),
        ("Tesla V100-SXM2-32GB", 34e9, "v100_sxm2_32gb"),
        ("NVIDIA GeForce RTX 3080", 12.8e9, None),
        ("NVIDIA GeForce RTX 3080", 10.7e9, "rtx_3080"),
        ("NVIDIA GeForce RTX 3080 Ti", 12.8e9, "rtx_3080_ti"),
        ("NVIDIA GeForce RTX 3070 Laptop GPU", 8e9, "rtx_3070_mobile"),
        ("NVIDIA GeForce RTX 4080 SUPER", 16e9, None),
        ("NVIDIA RTX 6000 Ada Generation", 51e9, "rtx_6000_ada"),
        ("NVIDIA GB10", None, "dgx_spark_gb10"),
        ("Orin (nvgpu)", None, None),
    ],
)
def test_gpu_device(name: str, memory_B: float | None, device: str | None) -> None:
    assert host_names.gpu_device_name(name, memory_B) == device


def test_tables_name_devices_of_the_catalogue() -> None:
    named = {row[-1] for table in (host_names._GPUS, host_names._BOARDS, host_names._CPUS) for row in table}
    assert named <= set(device_names())


def test_gpu_by_fake_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"nvmlDeviceGetName": b"NVIDIA GeForce RTX 4090", "nvmlDeviceGetMemoryInfo": memory(25.7e9)}
    module = fake_nvml(monkeypatch, answers)
    facts = detect_host(tmp_path)
    assert (facts.gpu, facts.gpu_memory_B, facts.accelerator_device) == ("NVIDIA GeForce RTX 4090", 25.7e9, "rtx_4090")
    assert detected_device_name(tmp_path) == "rtx_4090"
    assert detected_device_name(tmp_path, accelerator=False) == "host"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-12ab,GPU-34cd")
    detect_host(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    detect_host(tmp_path)
    assert module.asked == [0, 0, 0, "GPU-12ab", 3]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert detect_host(tmp_path).gpu is None


def test_nvml_without_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, {}, driver=False)
    assert detect_host(tmp_path).gpu is None


def test_jetson_wins_over_its_nvml_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, {"nvmlDeviceGetName": "Orin (nvgpu)"})
    facts = detect_host(build_tree("orin_nano_super_jp62", tmp_path))
    assert (facts.gpu, facts.gpu_memory_B) == ("Orin (nvgpu)", None)
    assert facts.accelerator_device == "jetson_orin_nano_8gb_super"


def test_this_machine() -> None:
    facts = detect_host()
    assert facts.os == platform.system() and facts.python == platform.python_version()
    assert facts.cores_usable is not None and facts.cores_usable >= 1
    assert facts.memory_B is None or facts.memory_B > 1e8
    if facts.memory_available_B is not None and facts.memory_B is not None:
        assert 0 <= facts.memory_available_B <= facts.memory_B
    assert platform.node() not in facts.summary().values()
    name = detected_device_name()
    assert name == "host" or name in device_names()


def test_peaks_of_this_machine() -> None:
    peaks = measure_peaks(1, seconds=0.2)
    assert peaks["threads"] == 1
    assert 1e8 < peaks["gemm_fp32_flop_per_s"] < 1e13
    for name in ("copy_Bps", "read_Bps", "gemv_fp32_Bps"):
        assert 1e8 < peaks[name] < 1e13


def test_peaks_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="threads is 0; allowed: 1 to"):
        measure_peaks(0)
    with pytest.raises(SpecError, match="allowed: above 0"):
        measure_peaks(1, seconds=0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(MeasurementError, match="failed"):
        measure_peaks(1)


def test_peaks_set_the_threads_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, 'warning\n{"threads": 1}\n', "")

    monkeypatch.setattr(host_peaks.subprocess, "run", run)
    assert measure_peaks(1) == {"threads": 1.0}
    assert seen["OMP_NUM_THREADS"] == seen["OPENBLAS_NUM_THREADS"] == seen["MKL_NUM_THREADS"] == "1"
    assert seen["PATH"] == os.environ["PATH"]
