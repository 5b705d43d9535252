"""Device files: every device comes back as it was, with and without calibrations; a corrupt calibration is one line."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import TRUTH

from codesign.devices import (
    Device,
    DeviceFit,
    EnergyTerms,
    PhaseTerms,
    ResidualFit,
    describe,
    load_device,
    user_devices,
    write_device,
)
from codesign.devices.catalogue import load_bundled, load_catalogue
from codesign.devices.schema import parse_device, read_device
from codesign.devices.write import device_dict
from codesign.errors import CodesignError, SpecError
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.roofline.rates import UNSEEN_PASS_LOG
from codesign.roofline.terms import FEATURES
from codesign.roofline.terms import TERMS as KNOWN_TERMS
from codesign.workload import PRECISIONS, Workload

RESIDUAL = ResidualFit(
    features=FEATURES, center=(1.5,) * 6, scale=(0.25,) * 6, points=((0.1,) * 6, (-1e-9,) * 6), alpha=(0.1 + 0.2, -3.0), amplitude=1e-3
)  # fmt: skip
TERMS = PhaseTerms(
    seconds_per=TRUTH, residual=RESIDUAL, interval_log=0.08, interval_beyond_log=0.3, span_params=(1e6, 1.5e8), span_tokens=(1.0, 4096.0), batches=(1,), n_rows=40,
    n_architectures=20, held_out={"roofline_mape_pct": 3.25},
)  # fmt: skip


def fits(mode: str | None) -> tuple[DeviceFit, ...]:
    both = DeviceFit(
        engine="onnxruntime", engine_version="1.31", precision="fp32", options={"threads": "1"}, power_mode=mode, machine="M, 2 CPUs",
        fitted_at="2026-11-22T00:00:00+00:00", source="40 measurements", prefill=TERMS, decode=replace(TERMS, residual=None, mixtures=True),
    )  # fmt: skip
    energy = EnergyTerms(idle_W=144.7, flop_J=1.37e-12, byte_J=0.0, interval_log=0.16, held_out_mape_pct=6.439, n_rows=18, n_architectures=6, meter="NVML")  # fmt: skip
    return replace(both, energy=energy), replace(both, precision="w4a32", prefill=None)


def test_overheads_of_files_of_earlier_versions_are_each_recurrences() -> None:
    old = replace(TERMS, seconds_per={"matmul_B": 1e-10, "recurrent": 4e-5, "chunk": 2e-5, "layer": 3e-5})
    assert old.seconds_per == {
        "matmul_B": 1e-10, "layer": 3e-5, **dict.fromkeys((f"{k}_layer" for k in ("mamba1", "mamba2", "gdn", "mlstm", "conv")), 4e-5),
        **dict.fromkeys((f"{k}_chunk" for k in ("mamba2", "gdn", "mlstm")), 2e-5),
    }  # fmt: skip
    assert set(old.seconds_per) <= set(KNOWN_TERMS)


@pytest.mark.parametrize("name", sorted(load_catalogue()))
def test_every_device_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    device = load_bundled(name)
    path = tmp_path / "d.toml"
    for one in (device, replace(device, fits=fits(device.power_mode))):
        write_device(one, path, "A heading\nof two lines.")
        assert read_device(path) == one
        assert ("energy 145 W idle, 1.37 pJ/FLOP, 0 pJ/byte, 6.4 % off" in describe(one)) == bool(one.fits)
        assert path.read_text().startswith("# A heading\n# of two lines.\n") and [
            p.name for p in tmp_path.iterdir()
        ] == ["d.toml"]
        for mode in one.power_modes:  # whichever mode is in force when it is written
            assert parse_device(device_dict(one.with_power_mode(mode.name)), "again") == one


def test_a_device_of_the_user_takes_the_place_of_the_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODESIGN_HOME", str(tmp_path))
    bundled = load_device("orin")
    assert not bundled.fits
    write_device(replace(bundled, fits=fits("30W")), user_devices() / f"{bundled.name}.toml")
    assert load_device("orin").fits == fits("30W") and load_bundled(bundled.name) == bundled
    assert load_device("orin", "30W").fit_for("onnxruntime", "fp32") == fits("30W")[0]
    assert load_device("orin").fit_for("onnxruntime", "fp32") is None  # at full power nothing was measured


def test_the_newest_fit_of_the_mode_in_force_counts() -> None:
    old = fits("MAXN")[0]
    new = replace(old, fitted_at="2026-11-23T00:00:00+00:00", options={"threads": "2"})
    device = replace(load_device("orin"), fits=(new, old, replace(old, power_mode="15W", fitted_at="2027")))
    assert device.fit_for("onnxruntime", "fp32") == device.fit_for(None, "fp32") == new
    assert device.fit_for("torch", "fp32") is None and device.fit_for("onnxruntime", "fp16") is None
    assert device.usual_precision() == "fp32" and load_device("orin").usual_precision() == "fp16"


Edit = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.pop("engine"), lambda c: c.update(spin=1), lambda c: (c.pop("prefill"), c.pop("decode")),
        lambda c: c.update(decode=3), lambda c: c["decode"].pop("interval_log"), lambda c: c["decode"].update(spin=1),
        lambda c: c["decode"]["seconds_per"].update(layer=math.nan), lambda c: c["decode"]["seconds_per"].update(layer=-1e-9),
        lambda c: c["decode"]["seconds_per"].update(layer="fast"), lambda c: c["decode"].update(seconds_per=[1.0]),
        lambda c: c["decode"].update(interval_log=-0.1), lambda c: c["decode"].update(interval_log=9.0),
        lambda c: c["decode"].update(interval_beyond_log=math.inf), lambda c: c["decode"].update(span_params=[2.0, 1.0]),
        lambda c: c["decode"].update(span_params=[0.0, 1.0]), lambda c: c["decode"].update(span_params=[1.0]),
        lambda c: c["decode"].update(n_rows=0), lambda c: c["decode"].update(n_architectures="many"),
        lambda c: c["prefill"]["residual"].pop("alpha"), lambda c: c["prefill"]["residual"]["alpha"].pop(),
        lambda c: c["prefill"]["residual"]["points"][0].pop(), lambda c: c["prefill"]["residual"]["scale"].__setitem__(0, 0.0),
        lambda c: c["prefill"]["residual"]["alpha"].__setitem__(0, math.nan), lambda c: c["prefill"]["residual"].update(amplitude="x"),
        lambda c: c["prefill"].update(residual=[]), lambda c: c.update(options="threads=1"), lambda c: c.update(fitted_at=2026),
        lambda c: c.update(precision=32), lambda c: c.update(engine=["onnxruntime"]), lambda c: c.update(power_mode=30),
    ],
)  # fmt: skip
def test_a_corrupt_calibration_is_refused_in_one_line(edit: Edit, tmp_path: Path) -> None:
    import tomli_w

    data = device_dict(replace(load_device("orin"), fits=fits("MAXN")))
    edit(data["calibration"][0])
    path = tmp_path / "broken.toml"
    path.write_text(tomli_w.dumps(data))
    with pytest.raises(SpecError) as caught:
        read_device(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ") and "\n" not in told and "calibrat" in told and "calibrate again" in told


@pytest.mark.parametrize("key", ["seconds_per", "residual"])
def test_a_calibration_with_terms_of_another_version_is_refused_where_it_is_used(key: str) -> None:
    """The file is whole, but what it speaks of is not what this version computes: never a wrong prediction."""
    if key == "seconds_per":
        bad = replace(TERMS, seconds_per={**TRUTH, "warp_B": 1e-9})
    else:
        features = (*FEATURES[:-1], "moon")
        bad = replace(TERMS, residual=replace(RESIDUAL, features=features))
    device = replace(load_device("orin"), fits=(replace(fits("MAXN")[0], decode=bad),))
    with pytest.raises(CodesignError, match="calibrate again"):
        RooflineModel.of(device, load_calibration().rates(device, "onnxruntime", PRECISIONS["fp32"]))


def test_batches_and_lengths_that_were_not_measured_get_a_wider_interval() -> None:
    """Never less than such passes were seen to miss by, nor than that of other sizes."""
    calibration, precision = load_calibration(), PRECISIONS["fp32"]
    for beyond in (0.1, 0.9):
        terms = replace(TERMS, residual=None, mixtures=True, interval_beyond_log=beyond)
        device = replace(load_device("orin"), fits=(replace(fits("MAXN")[0], decode=terms),))
        near = calibration.rates(device, "onnxruntime", precision, 1, workload=Workload(prompt_tokens=512))
        assert near.decode.n_rows == 40 and near.decode.interval_log == 0.08
        for batch, prompt in ((8, 512), (1, 20_000)):
            work = Workload(prompt_tokens=prompt, batch_size=batch)
            far = calibration.rates(device, "onnxruntime", precision, batch, workload=work).decode
            assert far.n_rows == 0 and far.interval_log == far.interval_beyond_log == max(
                beyond, UNSEEN_PASS_LOG["decode"]
            )


def test_a_folder_or_disk_that_does_not_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = load_device("orin")
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "d.toml", tmp_path / "file" / "deep" / "d.toml"):
        with pytest.raises(CodesignError, match=r"cannot write the device file .*give another --out"):
            write_device(device, place)
    path = tmp_path / "d.toml"
    write_device(device, path)
    before = path.read_bytes()
    true = Path.write_text

    def full(self: Path, text: str, **options: Any) -> int:
        true(self, text[:100], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CodesignError, match="No space left on device; give another --out or make room"):
        write_device(replace(device, fits=fits("MAXN")), path)
    assert path.read_bytes() == before and {p.name for p in tmp_path.iterdir()} == {"d.toml", "file"}


def test_a_device_whose_mode_is_not_nominal_is_written_at_its_nominal_mode() -> None:
    orin: Device = load_device("orin", "15W")
    assert parse_device(device_dict(orin), "x") == load_device("orin")
