"""trtexec, Edge-LLM, trtllm-bench, vLLM and tables: see data/README.md for where each sample is from."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from codesign.errors import SchemaError, SpecError, UnknownNameError
from codesign.hf_config import read_config
from codesign.importers import Imported, read_measurements, read_trtexec_profile, read_trtexec_times
from codesign.measurement import Measurement, observe
from codesign.store.export import measurements_csv

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "latency"
WHAT: dict[str, Any] = {"device": "orin", "power_mode": "MAXN", "model": "qwen2.5-0.5b", "precision": "fp16"}


def changed(tmp_path: Path, name: str, change: dict[str, Any], **arguments: Any) -> Imported:
    """A JSON sample with top-level keys changed (None removes one)."""
    data = {
        k: v for k, v in (json.loads((DATA / name).read_text()) | change).items() if v is not None or k not in change
    }
    (tmp_path / name).write_text(json.dumps(data))
    return read_measurements(tmp_path / name, **arguments)


# trtexec


def test_trtexec_times_of_a_pass_that_the_user_names() -> None:
    path = DATA / "trtexec_times_made_up.json"
    assert [t.compute_s for t in read_trtexec_times(path)] == pytest.approx([4.0e-3, 4.2e-3, 4.1e-3])
    got = read_measurements(path, phase="decode", context=256, batch=2, **WHAT)
    (m,) = got.measurements
    assert got.kind == m.source == "trtexec" and m.engine == "tensorrt"
    assert (m.phase, m.tokens, m.context_tokens, m.batch_size) == ("decode", 1, 256, 2)
    assert (m.clock, m.flags, m.power_mode) == ("device", (), "MAXN") and m.seconds == pytest.approx(4.1e-3)
    assert m.wall_s == pytest.approx((4.06e-3, 4.26e-3, 4.16e-3))
    old = read_measurements(DATA / "trtexec_times_8_0_made_up.json", phase="prefill", tokens=64, **WHAT)
    assert (old.measurements[0].tokens, old.measurements[0].batch_size) == (64, 1)
    assert "batch not stated: 1" in old.notes


def test_trtexec_files_name_what_is_missing() -> None:
    path = DATA / "trtexec_times_made_up.json"
    with pytest.raises(SpecError, match="give --device, --model, --precision, --phase too"):
        read_measurements(path)
    with pytest.raises(SpecError, match="give --tokens too"):
        read_measurements(path, phase="prefill", **WHAT)
    with pytest.raises(SpecError, match="give --context too"):
        read_measurements(path, phase="decode", **WHAT)
    with pytest.raises(SpecError, match="a decode step processes one token"):
        read_measurements(path, phase="decode", context=5, tokens=7, **WHAT)
    for bad in ({"tokens": 0}, {"batch": -1}, {"context": -1}, {"phase": "train"}):
        with pytest.raises(SpecError, match="allowed"):
            read_measurements(path, **bad)


def test_trtexec_layer_times_are_not_pass_times() -> None:
    path = DATA / "trtexec_profile_made_up.json"
    with pytest.raises(SpecError, match="under the profiler's overhead; give the file of --exportTimes"):
        read_measurements(path, phase="decode", context=256, **WHAT)
    assert [(x.median_s, x.share) for x in read_trtexec_profile(path)] == [(pytest.approx(0.39e-3), 0.8), (None, 0.2)]


def test_trtexec_time_of_zero(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text((DATA / "trtexec_times_made_up.json").read_text().replace('"computeMs" : 4.2', '"computeMs" : 0'))
    with pytest.raises(SchemaError, match="computeMs 0"):
        read_measurements(path, phase="decode", context=256, **WHAT)


# TensorRT Edge-LLM


def test_edge_llm_bench() -> None:
    (prefill,) = read_measurements(DATA / "edge_llm_e2e_prefill_made_up.csv", **WHAT).measurements
    assert (prefill.tokens, prefill.batch_size, prefill.seconds) == (128, 2, pytest.approx(0.048))
    assert (prefill.engine, prefill.clock, prefill.flags) == ("tensorrt-edge-llm", "device", ("imported",))
    (step,) = read_measurements(DATA / "edge_llm_e2e_decode_made_up.csv", **WHAT).measurements
    assert (step.tokens, step.context_tokens, step.seconds) == (1, 128, pytest.approx(0.005))
    got = read_measurements(DATA / "edge_llm_e2e_sequence_made_up.csv", **WHAT)
    (sequence,) = got.measurements
    # --osl 101: 100 steps on 128 .. 227 cached tokens, 177.5 in the mean; 510 ms / 100.
    assert (sequence.context_tokens, sequence.seconds) == (178, pytest.approx(5.1e-3))
    assert got.skipped == [("line 3", "mode 'eagle_verify'; only prefill and decode are modelled")]
    with pytest.raises(SpecError, match="give --device, --model, --precision"):
        read_measurements(DATA / "edge_llm_e2e_decode_made_up.csv")


def test_edge_llm_profile(tmp_path: Path) -> None:
    name = "edge_llm_profile_made_up.json"
    prefill, decode = read_measurements(DATA / name, **WHAT).measurements
    assert (prefill.tokens, prefill.seconds, prefill.peak_memory_B) == (128, pytest.approx(0.024), 2e9)
    # 64 steps on 128 .. 191 cached tokens: 159.5 in the mean.
    assert (decode.context_tokens, decode.seconds) == (160, pytest.approx(0.005))
    reused = {"prefill": {"reused_tokens": 64, "average_tokens_per_run": 128.0, "average_time_per_run_ms": 9.0}}
    got = changed(tmp_path, name, reused, **WHAT)
    assert [m.phase for m in got.measurements] == ["decode"] and "came from the cache" in got.skipped[0][1]
    assert "speculative" in changed(tmp_path, name, {"eagle_generation": {"total_runs": 1}}, **WHAT).skipped[0][1]
    with pytest.raises(SpecError, match="only batch 1"):
        read_measurements(DATA / name, batch=4, **WHAT)
    (tmp_path / "layer.csv").write_text("layer_name,onnx_op,time_ms_mean\nx,y,1\n")
    with pytest.raises(SpecError, match=r"give its e2e_\*\.csv"):
        read_measurements(tmp_path / "layer.csv", **WHAT)


# trtllm-bench


def test_trtllm_bench(tmp_path: Path) -> None:
    name = "trtllm_bench_made_up.json"
    prefill, decode = read_measurements(DATA / name).measurements
    assert (prefill.device, prefill.precision, prefill.engine) == ("h100_sxm_80gb", "bf16", "tensorrt-llm")
    assert (prefill.tokens, prefill.seconds, prefill.engine_version) == (512, pytest.approx(0.020), "1.2.0")
    # 127 steps on 512 .. 638 cached tokens: 575 in the mean.
    assert (decode.context_tokens, decode.seconds) == (575, pytest.approx(0.0068))
    data = json.loads((DATA / name).read_text())
    asked, engine = data["request_info"], data["engine"]
    for change, message in (
        ({"request_info": asked | {"avg_num_concurrent_requests": 7.9}}, "7.9 requests ran at once"),
        ({"streaming_metrics": None}, "run with --streaming"),
        ({"world_info": {"world_size": 4}}, "ran on 4 GPUs"),
        ({"decoding_stats": {"mode": "eagle"}}, "speculative"),
        ({"machine": {"name": "NVIDIA Thor"}}, "'NVIDIA Thor' is not one device of the catalogue; give --device"),
        ({"engine": engine | {"quantization": "W4A8_AWQ"}}, "'W4A8_AWQ' is not one of codesign's; give --precision"),
    ):
        with pytest.raises(SpecError, match=message):
            changed(tmp_path, name, change)
    unknown = changed(tmp_path, name, {"engine": engine | {"model": "org/none"}})
    assert not unknown.measurements and "give --model" in unknown.skipped[0][1]
    fp8 = changed(tmp_path, name, {"engine": engine | {"quantization": "FP8", "kv_cache_dtype": "FP8"}})
    assert [m.precision for m in fp8.measurements] == ["fp8", "fp8"]  # 512 tokens of an 8-bit cache do not matter
    one = changed(tmp_path, name, {"request_info": asked | {"avg_output_length": 1.0}})
    assert [where for where, _ in one.skipped] == ["decode"]


# vLLM


VLLM: dict[str, Any] = {"device": "rtx_4090", "precision": "bf16"}


def test_vllm_serve_with_every_request() -> None:
    got = read_measurements(DATA / "vllm_serve_detailed_made_up.json", **VLLM)
    found = [(m.phase, m.tokens, m.context_tokens, m.wall_s) for m in got.measurements]
    assert found == [
        ("prefill", 128, 0, (0.020, 0.022)),
        ("prefill", 64, 0, (0.012,)),
        # 16 steps on 128 .. 143 cached tokens: 135.5; 13 steps on 64 .. 76: 70, in four chunks of 65 ms together.
        ("decode", 1, 136, pytest.approx((0.005, 0.006))),
        ("decode", 1, 70, pytest.approx((0.005,))),
    ]
    assert {(m.engine, m.source, m.flags, m.batch_size) for m in got.measurements} == {("vllm", "vllm", (), 1)}
    assert got.measurements[0].architecture == read_config("qwen2.5-0.5b")
    assert got.skipped == [("the result, request 4", "lengths 64 and 0; it failed")]


def test_vllm_serve_summary_and_several_results(tmp_path: Path) -> None:
    got = read_measurements(DATA / "vllm_serve_made_up.json", **VLLM)
    prefill, decode = got.measurements
    # 320 tokens in 3 requests; 16 out each: 15 steps on 107 .. 121 cached tokens.
    assert (prefill.tokens, prefill.seconds, prefill.flags) == (107, pytest.approx(0.020), ("imported",))
    assert (decode.context_tokens, decode.seconds) == (114, pytest.approx(0.005))
    text = (DATA / "vllm_serve_made_up.json").read_text()
    path = tmp_path / "appended.json"
    path.write_text(
        text
        + "\n"
        + text.replace('"max_concurrency": 1', '"max_concurrency": 8').replace(
            '"max_concurrent_requests": 1', '"max_concurrent_requests": 8'
        )
    )
    two = read_measurements(path, **VLLM)
    assert len(two.measurements) == 2 and two.skipped == [
        ("result 2", "8 requests ran at once and share steps; run with --max-concurrency 1")
    ]


def test_vllm_serve_refusals(tmp_path: Path) -> None:
    name = "vllm_serve_made_up.json"
    with pytest.raises(SpecError, match="give --device, --precision"):
        read_measurements(DATA / name)
    assert "not bundled; give --model" in changed(tmp_path, name, {"model_id": "org/none"}, **VLLM).skipped[0][1]
    assert changed(tmp_path, name, {"model_id": "org/none"}, model="qwen3-0.6b", **VLLM).measurements
    assert "not --model qwen3-0.6b" in changed(tmp_path, name, {}, model="qwen3-0.6b", **VLLM).skipped[0][1]
    assert "speculative" in changed(tmp_path, name, {"spec_decode_acceptance_rate": 0.5}, **VLLM).skipped[0][1]
    nan = {"median_tpot_ms": float("nan"), "mean_tpot_ms": 0.0}
    assert changed(tmp_path, name, nan, **VLLM).skipped == [
        ("the result, decode", "no time per output token above zero")
    ]
    (m, *_) = changed(tmp_path, name, {"backend": "tensorrt-llm"}, **VLLM).measurements
    assert m.engine == "tensorrt-llm"
    ragged = {"input_lens": [128]}
    assert (
        "not lists of one length" in changed(tmp_path, "vllm_serve_detailed_made_up.json", ragged, **VLLM).skipped[0][1]
    )


def test_vllm_latency_is_whole_requests() -> None:
    path = DATA / "vllm_latency_made_up.json"
    with pytest.raises(SpecError, match="--output-len 1 give --phase prefill"):
        read_measurements(path, **VLLM)
    with pytest.raises(SpecError, match="cannot be split off"):
        read_measurements(path, phase="decode", context=5, **VLLM)
    given = {"model": "qwen2.5-0.5b", "phase": "prefill", "tokens": 32, "batch": 8}
    (m,) = read_measurements(path, **given, **VLLM).measurements  # type: ignore[arg-type]
    assert (m.tokens, m.batch_size, m.wall_s) == (32, 8, (0.049, 0.051, 0.05))
    with pytest.raises(SpecError, match="cannot be told apart"):
        read_measurements(DATA / "vllm_throughput_made_up.json", **VLLM)


# Tables

HEADER = "row_id,device_id,power_mode,arch_id,weight_precision,kv_precision,engine,batch,prompt_tokens,kv_start_tokens,gen_tokens,prefill_ms,decode_ms_per_step,power_w,quality"  # fmt: skip
ARCHS = "arch_id,layers,hidden,ffn_hidden,n_heads,n_kv_heads,head_dim,vocab\nm,32,4096,14336,32,8,128,128256\n"


def table(tmp_path: Path, *lines: str, **arguments: Any) -> Imported:
    (tmp_path / "archs.csv").write_text(ARCHS)
    (tmp_path / "t.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return read_measurements(tmp_path / "t.csv", **({"archs": tmp_path / "archs.csv"} | arguments))


def test_a_row_gives_a_measurement_for_each_phase(tmp_path: Path) -> None:
    prefill, decode = table(tmp_path, "r,orin,30W,m,w4a16,,vLLM,2,1024,,128,1000,40,25,A").measurements
    assert (prefill.tokens, prefill.context_tokens, prefill.seconds, prefill.power_W) == (1024, 0, 1.0, None)
    assert (decode.tokens, decode.context_tokens, decode.seconds, decode.power_W) == (1, 1088, 0.04, 25.0)
    for m in (prefill, decode):
        assert (m.device, m.power_mode, m.engine, m.precision) == ("jetson_agx_orin_64gb", "30W", "vllm", "w4a16")
        assert (m.batch_size, m.flags, m.architecture.params_total) == (2, ("imported",), m.architecture.params_total)
    (from_empty,) = table(tmp_path, "r,orin,,m,fp16,,llama.cpp,1,512,0,128,,40,,A").measurements
    assert from_empty.context_tokens == 64


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("r,orin,MAXN,m,fp16,,vLLM,1,8,,8,0,0,,A", "neither prefill_ms"),
        ("r,orin,MAXN,m,fp16,,vLLM,1,8,,8,nan,,,A", "column prefill_ms: 'nan'"),
        ("r,orin,MAXN,m,fp16,,vLLM,1,8,,8,-5,,,A", "column prefill_ms: '-5'"),
        ("r,orin,MAXN,x,fp16,,vLLM,1,8,,8,5,,,A", "the architecture of 'x' is not in"),
        ("r,orin,MAXN,m,fp16,8,vLLM,1,8,,8,5,,,A", "KV cache of 8 bits"),
        ("r,orin,MAXN,m,fp16,,,1,8,,8,5,,,A", "engine is not stated"),
        ("r,orin,MAXN,m,fp16,,vLLM,1,8,,8,5,,,C", "quality C"),
        ("r,nowhere,MAXN,m,fp16,,vLLM,1,8,,8,5,,,A", "unknown device 'nowhere'"),
    ],
)
def test_rows_of_a_table_that_cannot_be_used(tmp_path: Path, line: str, reason: str) -> None:
    got = table(tmp_path, line)
    assert not got.measurements and got.skipped[0][0] == "row 1 (r)" and reason in got.skipped[0][1]


def test_rows_of_other_devices_and_modes_are_left_out(tmp_path: Path) -> None:
    lines = [
        f"{d}{mode},{d},{mode},m,fp16,,vLLM,1,8,,8,5,,,A"
        for d, mode in (("orin", "30W"), ("orin", "MAXN"), ("rtx_4090", ""))
    ]
    assert len(table(tmp_path, *lines).measurements) == 3
    assert len(table(tmp_path, *lines, device="agx-orin").measurements) == 2
    assert len(table(tmp_path, *lines, device="agx-orin", power_mode="30w").measurements) == 1
    assert len(table(tmp_path, *lines, archs=None, model="qwen2.5-0.5b").measurements) == 3
    with pytest.raises(SpecError, match="give --archs FILE"):
        table(tmp_path, *lines, archs=None)
    with pytest.raises(UnknownNameError):
        table(tmp_path, *lines, device="nope")


def measured(**change: Any) -> Measurement:
    values: dict[str, Any] = {
        "architecture": read_config("smollm2-135m"), "precision": "int8-dynamic", "engine": "onnxruntime", "engine_version": "1.23.2",
        "options": {"threads": "1"}, "phase": "decode", "tokens": 1, "context_tokens": 512, "device": "host", "clock": "cpu",
        "wall_s": (0.011, 0.012), "cpu_s": (0.010, 0.0101, 0.0102), "peak_memory_B": 1e9, "energy_J": 0.25,
    }  # fmt: skip
    return Measurement(**(values | change))


def test_what_measurements_exports_reads_back(tmp_path: Path) -> None:
    orin = {
        "device": "jetson_agx_orin_64gb",
        "power_mode": "30W",
        "clock": "device",
        "device_s": (0.5,),
        "engine": "tensorrt",
    }
    normed = read_config("smollm2-135m").evolve(qk_norm="head", family="qwen3")
    given = [
        measured(),
        measured(phase="prefill", tokens=256, context_tokens=64, batch_size=2, architecture=normed),
        measured(**orin),
    ]
    path = tmp_path / "export.csv"
    path.write_text(measurements_csv(observe(given)))
    got = read_measurements(path)
    assert not got.skipped and len(got.measurements) == 3
    for old, new in zip(given, got.measurements, strict=True):
        assert new.key == old.key or new.architecture != old.architecture
        assert new.seconds == pytest.approx(old.seconds) and new.flags == ("imported",)
        assert (new.phase, new.tokens, new.context_tokens, new.batch_size) == (old.phase, old.tokens, old.context_tokens, old.batch_size)  # fmt: skip
        assert (new.engine, new.options, new.device, new.power_mode) == (
            old.engine,
            old.options,
            old.device,
            old.power_mode,
        )
        assert (new.clock, new.energy_J, new.peak_memory_B) == (old.clock, old.energy_J, old.peak_memory_B)
        assert new.architecture.params_total == pytest.approx(old.architecture.params_total, rel=1e-3)
        assert new.architecture.qk_norm == old.architecture.qk_norm
    assert [m.device for m in read_measurements(path, device="host").measurements] == ["host", "host"]
    path.write_text(path.read_text().replace("0.0101", "nan"))
    assert len(read_measurements(path).skipped) == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published measurements are not here")
def test_the_published_table() -> None:
    with (SHARED / "measured.csv").open(encoding="utf-8-sig", newline="") as file:
        total = sum(1 for _ in csv.DictReader(file))
    got = read_measurements(SHARED / "measured.csv", archs=SHARED / "model_archs.csv")
    rows_used = total - len(got.skipped)
    assert rows_used > 0.75 * total and len(got.measurements) >= rows_used
    assert {m.source for m in got.measurements} > {"S16_edgereasoning"}
    orin = read_measurements(SHARED / "measured.csv", archs=SHARED / "model_archs.csv", device="orin")
    assert {m.device for m in orin.measurements} == {"jetson_agx_orin_64gb"} and len(orin.measurements) > 50
