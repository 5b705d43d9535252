"""A device's own power constants from metered passes: a made-up machine, and the committed measurements of a GPU."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import POINTS, TRUTH, dense, record, true_seconds

from codesign.devices import DeviceFit, EnergyTerms, PhaseTerms, load_device
from codesign.errors import SpecError
from codesign.measurement import Measurement
from codesign.operators import lower
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.roofline.device_energy import FEW_METERED, calibrate_energy
from codesign.roofline.device_fit import pass_workload
from codesign.store import read_jsonl
from codesign.workload import PRECISIONS, Workload

RNG = np.random.default_rng(0)
ARCHS = [dense(RNG) for _ in range(8)]
ORIN = load_device("orin")
#: Of the made-up machine: watts, joules per FLOP and per byte.
IDLE, FLOP, BYTE = 9.0, 3e-10, 8e-10
GPU_FILE = Path(__file__).resolve().parents[2] / "results" / "h100_measurements.jsonl.gz"


def metered(noise: float = 0.0, n: int = len(ARCHS)) -> list[Measurement]:
    rng = np.random.default_rng(1)
    found = []
    for arch in ARCHS[:n]:
        for point in POINTS:
            m = record(
                arch,
                point,
                true_seconds(arch, point),
                device=ORIN.name,
                power_mode="MAXN",
                state={"energy": "rails over 3.0 s; no note"},
            )
            operators = lower(arch, pass_workload(m), PRECISIONS["fp32"], m.phase)
            flop, moved = (
                sum(float(getattr(op, name) * op.count) for op in operators) for name in ("flop", "bytes_moved")
            )
            joules = IDLE * true_seconds(arch, point) + FLOP * flop + BYTE * moved
            found.append(replace(m, energy_J=joules * float(np.exp(rng.normal(0, noise))), power_W=1.0))
    return found  # fmt: skip


def test_constants_of_a_machine_without_noise_come_back() -> None:
    terms = calibrate_energy(metered(), ORIN)
    assert terms is not None and terms.held_out_mape_pct < 2 and terms.interval_log < 0.05
    assert (terms.n_rows, terms.n_architectures, terms.meter) == (32, 8, "rails")
    assert (terms.idle_W, terms.flop_J, terms.byte_J) == pytest.approx((IDLE, FLOP, BYTE), rel=0.2)


def test_noise_widens_the_interval_to_cover_it() -> None:
    terms = calibrate_energy(metered(noise=0.2), ORIN)
    assert terms is not None and 0.2 < terms.interval_log < 0.7 and 10 < terms.held_out_mape_pct < 30


def test_passes_without_energy_do_not_count_and_few_are_refused() -> None:
    bare = [replace(m, energy_J=None, power_W=None) for m in metered()]
    assert calibrate_energy(bare, ORIN) is None
    assert calibrate_energy(metered(n=FEW_METERED - 1), ORIN) is None
    assert calibrate_energy([*metered(n=FEW_METERED), *bare], ORIN) == calibrate_energy(metered(n=FEW_METERED), ORIN)


def test_the_calibration_in_force_goes_before_the_catalogues_power() -> None:
    """E = 10 W * t + 1 pJ * FLOP + 2 pJ * B, at this engine and precision alone."""
    own = EnergyTerms(idle_W=10.0, flop_J=1e-12, byte_J=2e-12, interval_log=0.2, held_out_mape_pct=5.0, n_rows=9, n_architectures=4, meter="rails")  # fmt: skip
    terms = PhaseTerms(
        seconds_per=TRUTH, interval_log=0.1, interval_beyond_log=0.1, span_params=(1e6, 1e9), span_tokens=(1.0, 4096.0), batches=(1,),
        n_rows=9, n_architectures=4,
    )  # fmt: skip
    fit = DeviceFit(
        engine="vllm", precision="fp16", power_mode=ORIN.power_mode, source="test", decode=terms, energy=own
    )
    bare = replace(ORIN, fits=(fit,))
    form, workload = PRECISIONS["fp16"], Workload()
    model = RooflineModel.of(bare, load_calibration().rates(bare, "vllm", form, 1))
    step = model.phase(ARCHS[0], workload, form, "decode")
    expected = 10.0 * step.seconds + 1e-12 * step.flop + 2e-12 * step.bytes_moved
    assert float(model.estimate(ARCHS[0], workload, form).energy_J) == pytest.approx(float(expected))
    assert model.power is not None and model.power.measured and model.power.interval_log == 0.2
    assert (
        model.power.source
        == "measured here on 9 visits of 4 architectures, 5.0 % off with architectures left out (rails)"
    )
    other = RooflineModel.of(bare, load_calibration().rates(bare, "llama.cpp", form, 1)).power
    assert other is not None and "measured here" not in other.source


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_constants_that_cannot_be_are_refused(value: float) -> None:
    with pytest.raises(SpecError, match="energy.byte_J is .*; allowed: a finite number of at least 0"):
        EnergyTerms(
            idle_W=1.0, flop_J=0.0, byte_J=value, interval_log=0.1, held_out_mape_pct=1.0, n_rows=1, n_architectures=1
        )


def test_a_metered_gpu_is_predicted_as_results_say() -> None:
    """results/h100.md: 6.4 % with architectures left out."""
    records = list(read_jsonl(gzip.decompress(GPU_FILE.read_bytes()).decode().splitlines(), GPU_FILE.name))
    terms = calibrate_energy(records, load_device("h100_sxm_80gb"))
    assert terms is not None and terms.n_architectures == 6 and terms.held_out_mape_pct < 8
    assert "NVML energy counter of NVIDIA H100" in terms.meter
