"""From records to a device with calibrations: which records count, which are refused, what is replaced."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from synthetic import POINTS, dense, record, true_seconds

from codesign.campaign import calibrate, target
from codesign.campaign.calibrate import calibrate_measurements, device_to_calibrate
from codesign.devices import Device, load_device
from codesign.devices.schema import parse_device
from codesign.devices.write import device_dict
from codesign.errors import MeasurementError, SpecError
from codesign.measurement import Measurement
from codesign.profilers.host import detect_host

RNG = np.random.default_rng(0)
ARCHS = [dense(RNG) for _ in range(10)]
ORIN = load_device("orin")


def records(archs: Iterable[Any] = ARCHS, factor: float = 1.0, **changes: Any) -> list[Measurement]:
    rng = np.random.default_rng(3)
    values = {"device": ORIN.name, "power_mode": "MAXN", **changes}
    return [
        record(a, p, factor * true_seconds(a, p) * float(np.exp(rng.exponential(0.02))), **values)
        for _ in range(2)
        for a in archs
        for p in POINTS
    ]


def fitted(device: Device, found: list[Measurement], **options: Any) -> tuple[Device, Any]:
    return calibrate_measurements(device, found, source="a test's store", **options)


def test_each_combination_is_fitted_on_its_own() -> None:
    found = [
        *records(),
        *records(precision="w4a32", factor=0.5),
        *records(engine="torch"),
        *records(options={"threads": "2"}),
    ]
    device, fits = fitted(ORIN, found)
    assert [(c.fit.engine, c.fit.precision, c.fit.options["threads"]) for c in fits] == [
        ("onnxruntime", "fp32", "1"), ("onnxruntime", "w4a32", "1"), ("torch", "fp32", "1"), ("onnxruntime", "fp32", "2"),
    ]  # fmt: skip
    assert all(c.records == 80 and set(c.phases) == {"prefill", "decode"} for c in fits)
    assert all(c.fit.power_mode == "MAXN" and c.fit.source == "80 measurements of a test's store" for c in fits)
    assert device.fits == tuple(c.fit for c in fits) and replace(device, fits=()) == ORIN
    assert parse_device(device_dict(device), "again") == device


def test_a_new_fit_replaces_the_old_one_of_its_combination_only() -> None:
    device, first = fitted(ORIN, [*records(), *records(engine="torch")])
    slower, second = fitted(device, records(factor=2.0))
    assert [f.engine for f in slower.fits] == ["torch", "onnxruntime"] and slower.fits[0] == device.fits[1]
    old, new = first[0].fit.decode, second[0].fit.decode
    assert old and new and new.seconds_per["matmul_B"] == pytest.approx(2 * old.seconds_per["matmul_B"], rel=0.2)
    both, _ = fitted(device.with_power_mode("30W"), records(power_mode="30W"))
    assert {(f.engine, f.power_mode) for f in both.fits} == {
        ("onnxruntime", "MAXN"),
        ("torch", "MAXN"),
        ("onnxruntime", "30W"),
    }


def test_another_power_mode_is_refused_unless_forced() -> None:
    found = records(power_mode="30W")
    with pytest.raises(MeasurementError, match="of power mode 30W, not MAXN; give --power-mode, or --force"):
        fitted(ORIN, found)
    assert fitted(ORIN.with_power_mode("30W"), found)[1][0].fit.power_mode == "30W"
    device, (one,) = fitted(ORIN, found, force=True)
    assert one.fit.power_mode == "MAXN" and device.fit_for("onnxruntime", "fp32") == one.fit
    mixed = [*records(ARCHS[:9]), *found]
    assert fitted(ORIN, mixed)[1][0].records == 72  # those of the mode that is calibrated; the others are left aside


def test_other_devices_are_left_aside_and_none_at_all_is_said() -> None:
    assert fitted(ORIN, [*records(), *records(device="rtx_4090", power_mode=None)])[1][0].records == 80
    with pytest.raises(
        SpecError, match=r"no measurements of 'jetson_agx_orin_64gb' in a test's store; run codesign profile"
    ):
        fitted(ORIN, records(device="host", power_mode=None))


def as_of(cores: int, **changes: Any) -> dict[str, Any]:
    host = dataclasses.replace(detect_host(), cpu_model="Some CPU", cores_usable=cores).summary()
    return {"device": "host", "power_mode": None, "host": host, **changes}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Device:
    """This machine has 2 CPUs of a kind; its peaks are made up."""
    facts = dataclasses.replace(detect_host(), cpu_model="Some CPU", cores_usable=2)
    for module in (calibrate, target):
        monkeypatch.setattr(module, "detect_host", lambda: facts)
    monkeypatch.setattr(
        target,
        "measure_peaks",
        lambda threads, seconds: {"gemm_fp32_flop_per_s": 5e10, "read_Bps": 9e9, "gemv_fp32_Bps": 1e10},
    )
    return device_to_calibrate("host", None, 1)


def test_a_host_that_was_another_machine_is_refused_unless_forced(host: Device) -> None:
    device, (one,) = fitted(host, records(**as_of(2)))
    assert one.fit.machine == target.machine_name(target.detect_host()) and device.fits == (one.fit,)
    for found in (records(**as_of(64)), [*records(**as_of(2)), *records(**as_of(64))]):
        with pytest.raises(
            MeasurementError, match=r"of another machine \(Some CPU, 64 CPUs.*this is Some CPU, 2 CPUs.*--force"
        ):
            fitted(host, found)
    assert fitted(host, records(**as_of(64)), force=True)[1][0].records == 80
    assert (
        fitted(host, records(**as_of(2, host={})))[1][0].records == 80
    )  # imported: the file does not say which machine


def test_host_has_no_power_modes() -> None:
    with pytest.raises(SpecError, match="'host' has no power modes"):
        device_to_calibrate("host", "15W", 1)


def test_a_precision_that_this_version_does_not_know_is_one_line() -> None:
    with pytest.raises(SpecError, match="of precision fp2, which this version does not know"):
        fitted(ORIN, records(precision="fp2"))
