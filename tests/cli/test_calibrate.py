"""`codesign calibrate` on made-up measurements: the device file, what it prints, what it refuses."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import POINTS, dense, record, true_seconds

from codesign.architecture import Architecture
from codesign.cli import main
from codesign.devices import load_device
from codesign.measurement import Measurement
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.workload import PRECISIONS, Workload

pytest.importorskip("sqlalchemy")
pytest.importorskip("sklearn")

RNG = np.random.default_rng(0)
ARCHS = [dense(RNG) for _ in range(10)]


def records(
    archs: list[Architecture] = ARCHS, noise: float = 0.02, visits: int = 2, **changes: Any
) -> list[Measurement]:
    rng = np.random.default_rng(1)
    values = {"device": "jetson_agx_orin_64gb", "power_mode": "MAXN", **changes}
    return [
        record(a, p, true_seconds(a, p) * float(np.exp(rng.exponential(noise))), **values)
        for _ in range(visits)
        for a in archs
        for p in POINTS
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODESIGN_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def keep(found: list[Measurement]) -> None:
    from codesign.store import Store

    with Store() as store:
        store.add_all(found)


def run(capsys: pytest.CaptureFixture[str], *arguments: str, device: str = "orin") -> tuple[int, str, str]:
    code = main(["calibrate", "--device", device, *arguments])
    out, err = capsys.readouterr()
    assert code == 0 or (code == 2 and err.startswith("error: ") and err.count("\n") == 1), (code, err)
    return code, out, err


def test_few_metered_models_and_several_options_are_told(home: Path, capsys: Any) -> None:
    """Two of ten metered; and torch eager, which repeats badly, beside its CUDA graphs: the surer one is in force."""
    keep([replace(m, energy_J=1.0, power_W=20.0) if m.architecture in ARCHS[:2] else m for m in records()])
    eager = {"options": {"provider": "cuda"}, "engine": "torch", "clock": "wall"}
    keep(records(noise=0.6, **eager))
    keep(records(**{**eager, "options": {"provider": "cuda", "graph": "true"}}))
    _, out, _ = run(capsys)
    told = " ".join(out.split())
    assert (
        "energy (onnxruntime, fp32): not fitted: 2 architectures have metered passes, 4 of different shapes are needed"
        in told
    )
    assert (
        "torch (graph=true, provider=cuda)" in told
        and "several calibrations of torch, fp32, with different options" in told
    )
    fit = load_device("orin").fit_for("torch", "fp32")
    assert fit is not None and fit.options.get("graph") == "true"


def test_metered_passes_give_the_device_power_constants_of_its_own(home: Path, capsys: Any) -> None:
    """A machine that draws 20 W whatever it does."""
    keep([replace(m, energy_J=20 * m.cpu_s[0], power_W=20.0, state={"energy": "rails over 3.0 s"}) for m in records()])
    _, out, _ = run(capsys)
    told = " ".join(out.split())
    assert (
        "energy (onnxruntime, fp32): " in told and "80 metered visits of 10 architectures, rails; 90 %: x/÷ 1.0" in told
    )
    device = load_device("orin")
    model = RooflineModel.of(device, load_calibration().rates(device, "onnxruntime", PRECISIONS["fp32"]))
    assert model.power is not None and model.power.source.startswith("measured here on 80 visits of 10 architectures")
    cost = model.estimate(ARCHS[0], Workload(prompt_tokens=64), PRECISIONS["fp32"])
    assert float(cost.energy_J) == pytest.approx(20 * float(cost.decode_s), rel=0.05)


def test_the_device_file_is_found_and_search_predicts_the_machine(home: Path, capsys: Any) -> None:
    keep(records())
    code, out, err = run(capsys)
    path = home / "devices/jetson_agx_orin_64gb.toml"
    assert code == 0 and err == "" and f"written: {path}" in out.replace("\n", "") and path.is_file()
    assert "warning" not in out and "--device orin --latency" in out
    for text in ("onnxruntime", "fp32", "prefill", "decode", "roofline", "x/÷ 1."):
        assert text in out
    device = load_device("orin")
    rates = load_calibration().rates(device, "onnxruntime", PRECISIONS["fp32"])
    new = dense(np.random.default_rng(9))
    step = (
        RooflineModel.of(device, rates)
        .estimate(new, Workload(prompt_tokens=64, output_tokens=1), PRECISIONS["fp32"])
        .decode_s
    )
    assert float(step) == pytest.approx(true_seconds(new, POINTS[2]), rel=0.1)


def test_json_has_the_whole_fit(home: Path, capsys: Any) -> None:
    keep(records())
    _, out, _ = run(capsys, "--json")
    data = json.loads(out)
    (fit,) = data["fits"]
    assert (
        data["device"] == "jetson_agx_orin_64gb"
        and fit["records"] == 80
        and fit["warnings"] == {"prefill": [], "decode": []}
    )
    assert set(fit["decode"]["held_out"]) == {
        "roofline_mape_pct", "hybrid_mape_pct", "roofline_largest_out_mape_pct", "hybrid_largest_out_mape_pct",
    }  # fmt: skip
    assert 0 < fit["decode"]["held_out"]["roofline_mape_pct"] < 10


def test_another_file_leaves_the_own_one_alone(home: Path, capsys: Any) -> None:
    keep(records())
    out_file = home / "elsewhere" / "mine.toml"
    _, out, _ = run(capsys, "--out", str(out_file))
    assert out_file.is_file() and not (home / "devices").exists() and f"--device {out_file}" in out.replace("\n", "")
    assert load_device(out_file).fits and not load_device("orin").fits


def test_too_few_and_too_noisy_are_said(home: Path, capsys: Any) -> None:
    keep(records(ARCHS[:3], visits=1))
    _, out, _ = run(capsys)
    assert "warning: onnxruntime, fp32, decode: each pass was visited once" in out and "little: 3 architectures" in out
    keep(records(noise=0.5))
    _, out, _ = run(capsys)
    assert "noisy: a second visit differs by" in out


def test_filters(home: Path, capsys: Any) -> None:
    keep([*records(), *records(engine="torch", campaign="other"), *records(precision="w4a32", campaign="other")])
    for arguments, found in (
        ((), {("onnxruntime", "fp32"), ("torch", "fp32"), ("onnxruntime", "w4a32")}),
        (("--engine", "torch"), {("torch", "fp32")}), (("--precision", "w4a32"), {("onnxruntime", "w4a32")}),
        (("--campaign", "synthetic"), {("onnxruntime", "fp32")}), (("--campaign", "synthetic", "--campaign", "other", "--engine", "torch"), {("torch", "fp32")}),
    ):  # fmt: skip
        _, out, _ = run(capsys, "--json", "--out", str(home / "x.toml"), *arguments)
        assert {(f["engine"], f["precision"]) for f in json.loads(out)["fits"]} == found
    code, _, err = run(capsys, "--campaign", "none")
    assert (
        code == 2
        and "with --campaign none; it has onnxruntime fp32 (campaign synthetic), " in err
        and "or run codesign profile" in err
    )


def test_another_power_mode_is_refused_and_forced(home: Path, capsys: Any) -> None:
    keep(records(power_mode="30W"))
    code, _, err = run(capsys)
    assert (
        code == 2
        and "of power mode 30W, not MAXN; give --power-mode, or --force" in err
        and not (home / "devices").exists()
    )
    assert run(capsys, "--power-mode", "30W")[0] == 0
    assert [f.power_mode for f in load_device("orin").fits] == ["30W"]
    assert run(capsys, "--force")[0] == 0
    assert [f.power_mode for f in load_device("orin").fits] == ["30W", "MAXN"]


def test_another_machine_of_the_name_host_is_refused_and_forced(
    home: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codesign.campaign import target

    peaks = {"gemm_fp32_flop_per_s": 5e10, "read_Bps": 9e9, "gemv_fp32_Bps": 1e10}
    monkeypatch.setattr(target, "measure_peaks", lambda threads, seconds: peaks)
    elsewhere = {"cpu_model": "Another CPU", "machine": "x86_64", "cores_usable": "64", "memory_B": "512000000000"}
    keep(records(device="host", power_mode=None, host=elsewhere))
    code, _, err = run(capsys, device="host")
    assert code == 2 and "of another machine (Another CPU, 64 CPUs, 512 GB; this is" in err and "--force" in err
    code, out, _ = run(capsys, "--force", device="host")
    assert code == 0 and load_device("host").fits and "--device host --latency" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kind", "csv"), "--kind go with --from FILE only"), (("--tokens", "5", "--phase", "decode"), "--phase, --tokens go with"),
        (("--phase", "train", "--from", "x"), "--phase 'train' is neither prefill nor decode"),
        (("--power-mode", "99W"), "unknown power mode '99W'"), (("--precision", "fp3"), "unknown precision 'fp3'"),
        (("--from", "gone.json"), "gone.json"), (("--store", "gone/none.sqlite"), "no measurements of 'jetson_agx_orin_64gb' in"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)  # fmt: skip
def test_bad_arguments(home: Path, capsys: Any, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2 and said in err


def test_scikit_learn_that_is_not_installed_is_named(home: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(records())
    for name in [n for n in sys.modules if n.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = run(capsys)
    assert code == 2 and "needs the package 'scikit-learn'" in err and "codesign-llm[profile]" in err


def test_a_full_disk_leaves_the_old_calibration(home: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(records())
    run(capsys)
    path = home / "devices/jetson_agx_orin_64gb.toml"
    before = path.read_bytes()

    def full(self: Path, text: str, **_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    code, _, err = run(capsys)
    assert code == 2 and "No space left on device" in err and path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_corrupt_calibration_can_be_made_again_as_it_says(home: Path, capsys: Any) -> None:
    keep(records())
    run(capsys)
    path = home / "devices/jetson_agx_orin_64gb.toml"
    text = path.read_text()
    path.write_text(text.replace('engine = "onnxruntime"', "engine = 7"))
    code, _, err = run(capsys)
    assert code == 2 and str(path) in err and "remove the file's [[calibration]] tables and calibrate again" in err
    path.write_text(text[: text.index("[[calibration]]")])
    assert run(capsys)[0] == 0 and load_device("orin").fits


LLAMA_BENCH = [
    {"model_filename": "qwen2.5-0.5b-f16.gguf", "model_type": "qwen2 1B F16", "n_prompt": p, "n_gen": g, "n_depth": 0, "n_batch": 512,
     "avg_ns": ns, "samples_ns": [ns, int(1.01 * ns)], "build_number": 1, "backends": "CUDA", "n_threads": 8}
    for p, g, ns in ((512, 0, 200_000_000), (0, 32, 640_000_000))
]  # fmt: skip


def test_rows_of_another_tool_go_into_the_store_and_the_fit(home: Path, capsys: Any) -> None:
    """Made up after the documented fields of llama-bench -o json."""
    path = home / "bench.json"
    path.write_text(json.dumps(LLAMA_BENCH))
    code, out, err = run(capsys, "--from", str(path), "--model", "qwen2.5-0.5b")
    assert code == 0, err
    assert "2 measurements read as llama-bench, 2 of them new to the store" in out and "little: 1 architectures" in out
    fit = load_device("orin").fits[0]
    assert fit.engine == "llama.cpp" and fit.decode is not None
    assert "0 of them new" in run(capsys, "--from", str(path), "--model", "qwen2.5-0.5b")[1]
