"""What machine is profiled: refused where it is another one, or in another power mode. Facts of boards are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from synthetic import TRUTH, record

from codesign.campaign import target
from codesign.campaign.target import check_machine, host_device, machine_name, target_device
from codesign.devices import DeviceFit, PhaseTerms, load_device, user_devices, write_device
from codesign.errors import MeasurementError, SpecError, UnknownNameError
from codesign.profilers.host import HostFacts, detect_host
from codesign.profilers.jetson import JetsonFacts

Facts = Callable[..., HostFacts]


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> Facts:
    """Pretend that this machine is another."""

    def pretend(**changes: Any) -> HostFacts:
        plain: dict[str, Any] = {
            "cpu_model": "Some CPU", "cores_usable": 2, "memory_B": 8e9, "memory_available_B": 6e9, "jetson": None, "isa": ("avx2",),
            "accelerator_device": None, "cpu_device": None, "machine": "x86_64", "l2_B": 1e6,
        }  # fmt: skip
        found = replace(detect_host(), **{**plain, **changes})
        monkeypatch.setattr(target, "detect_host", lambda: found)
        return found

    monkeypatch.setattr(
        target,
        "measure_peaks",
        lambda threads, seconds: {"gemm_fp32_flop_per_s": 5e10, "read_Bps": 9e9, "gemv_fp32_Bps": 1e10},
    )
    pretend()
    return pretend


def orin(facts: Facts, mode: str | None = "30W", raw: str | None = "MODE_30W") -> None:
    jetson = JetsonFacts(
        model="Jetson AGX Orin", device="jetson_agx_orin_64gb", power_mode=raw, catalogue_power_mode=mode
    )
    facts(jetson=jetson, accelerator_device="jetson_agx_orin_64gb", machine="aarch64")


def ask(name: str, mode: str | None = None, force: bool = False, accelerator: bool = True) -> Any:
    return target_device(name, mode, threads=1, accelerator=accelerator, force=force)


def test_a_board_is_profiled_in_the_mode_that_it_is_in(facts: Facts) -> None:
    orin(facts)
    for given in (None, "30W", "30 w"):
        assert ask("orin", given).power_mode == "30W"
    with pytest.raises(MeasurementError, match="the board is in power mode 30W, not 15W; set it with nvpmodel"):
        ask("orin", "15W")
    assert ask("orin", "15W", force=True).power_mode == "15W"
    with pytest.raises(UnknownNameError, match="unknown power mode '99W'"):
        ask("orin", "99W")


@pytest.mark.parametrize("raw", [None, "MY_MODE"])
def test_a_mode_that_is_unknown_is_not_taken_for_full_power(facts: Facts, raw: str | None) -> None:
    orin(facts, mode=None, raw=raw)
    why = (
        "'jetson_agx_orin_64gb' has no power mode 'MY_MODE'" if raw else "nvpmodel does not tell the board's power mode"
    )
    for given, force in ((None, False), ("15W", False), (None, True)):
        with pytest.raises(MeasurementError, match=f"{why}; allowed: MAXN, .*, 15W; set one with nvpmodel .* --force"):
            ask("orin", given, force)
    assert ask("orin", "15W", force=True).power_mode == "15W"


def test_a_board_without_modes_in_the_catalogue_has_none(facts: Facts) -> None:
    jetson = JetsonFacts(model="Jetson Nano", device="jetson_nano_4gb", power_mode="5W")
    facts(jetson=jetson, accelerator_device="jetson_nano_4gb", machine="aarch64")
    assert ask("jetson nano").power_mode is None
    with pytest.raises(UnknownNameError, match="it has no power modes"):
        ask("jetson nano", "5W")


def test_another_board_is_refused(facts: Facts) -> None:
    with pytest.raises(
        MeasurementError, match=r"not a 'jetson_agx_orin_64gb' but Some CPU, 2 CPUs, 8 GB; name --device host"
    ):
        ask("orin")
    assert ask("orin", force=True).name == "jetson_agx_orin_64gb"
    facts(accelerator_device="rtx_4090")
    assert ask("rtx 4090").name == "rtx_4090"
    with pytest.raises(MeasurementError, match="not a 'jetson_agx_orin_64gb' but a 'rtx_4090'"):
        ask("orin")
    with pytest.raises(MeasurementError, match="not a 'rtx_3090' but Some CPU"):
        ask("rtx 3090", accelerator=False)


def test_a_gpu_is_not_what_an_engine_on_the_cpu_measures(facts: Facts) -> None:
    orin(facts)
    with pytest.raises(
        MeasurementError,
        match="is a 'jetson_agx_orin_64gb', but the engine runs on its CPU.*--engine tensorrt or --provider cuda",
    ):
        ask("orin", accelerator=False)
    assert ask("orin", accelerator=False, force=True).power_mode == "30W"  # the mode that the board is in


def test_a_device_of_a_persons_own_file_is_the_persons_word(facts: Facts, tmp_path: Any) -> None:
    orin(facts)
    path = tmp_path / "mine.toml"
    write_device(replace(load_device("orin"), name="my_board"), path)
    assert ask(str(path)).power_mode == "MAXN" and ask(str(path), "15W").power_mode == "15W"
    write_device(load_device("rtx 4090"), path)  # a bundled device by its name
    with pytest.raises(MeasurementError, match="not a 'rtx_4090' but a 'jetson_agx_orin_64gb'"):
        ask(str(path))


def test_host_has_the_peaks_that_are_measured_now(facts: Facts) -> None:
    device = ask("host")
    assert (device.name, device.kind, device.generation, device.family) == ("host", "cpu", "x86-avx2", "cpu-x86")
    assert (device.peak_flop_per_s, device.bandwidth_Bps) == ({"fp32": 5e10}, 1e10)
    assert (device.memory_B, device.memory_usable_B, device.n_sm, device.l2_B) == (8e9, 6e9, 2, 1e6) and not device.fits
    assert "Some CPU, 2 CPUs, 8 GB" in device.sources["spec"] and ask(" HOST ") == device
    with pytest.raises(SpecError, match="--power-mode 15W: 'host' has no power modes"):
        ask("host", "15W")
    facts(machine="aarch64", isa=("neon",))
    assert host_device(1).family == "cpu-arm"
    facts(memory_B=None)
    with pytest.raises(MeasurementError, match="does not tell how much memory"):
        host_device(1)


def calibrated_elsewhere(facts: Facts, machine: str) -> Any:
    terms = PhaseTerms(
        seconds_per=TRUTH,
        interval_log=0.1,
        interval_beyond_log=0.2,
        span_params=(1.0, 2.0),
        span_tokens=(1.0, 4096.0),
        batches=(1,),
        n_rows=9,
        n_architectures=9,
    )
    fit = DeviceFit(engine="onnxruntime", precision="fp32", machine=machine, source="made up", decode=terms)
    return replace(host_device(1), fits=(fit,))


def test_a_calibration_of_another_host_is_refused_where_it_is_to_be_judged(facts: Facts) -> None:
    here = machine_name(facts())
    device = calibrated_elsewhere(facts, "Another CPU, 64 CPUs, 512 GB")
    with pytest.raises(
        MeasurementError, match=r"another machine \(Another CPU, 64 CPUs, 512 GB; this is Some CPU.*calibrate here"
    ):
        check_machine(device, None, accelerator=False, force=False)
    assert check_machine(device, None, accelerator=False, force=True) == device
    own = calibrated_elsewhere(facts, here)
    assert check_machine(own, None, accelerator=False, force=False) == own


def test_host_keeps_its_calibrations_when_it_is_measured_again(
    facts: Facts, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODESIGN_HOME", str(tmp_path))
    with pytest.raises(UnknownNameError, match="not calibrated yet; run: codesign profile --device host"):
        load_device("host")
    device = calibrated_elsewhere(facts, "x")
    write_device(device, user_devices() / "host.toml")
    facts(memory_B=9e9)
    assert ask("host").fits == device.fits and ask("host").memory_B == 9e9


def test_a_record_names_the_machine_as_the_machine_does() -> None:
    facts = detect_host()
    assert record(host=facts.summary()).machine == machine_name(facts)
    assert record(host={}).machine == ""  # imported: the file did not say
    bare = replace(facts, cpu_model=None, memory_B=None, cores_usable=None)
    assert record(host=bare.summary()).machine == machine_name(bare)
