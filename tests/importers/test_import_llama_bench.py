"""llama-bench files: see data/README.md for where each sample is from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codesign.errors import CodesignError, SpecError, UnknownNameError
from codesign.hf_config import config_dict, read_config
from codesign.importers import Imported, read_measurements
from codesign.importers.names import gguf_format, gguf_model, gpu_device

DATA = Path(__file__).parent / "data"
README = json.loads((DATA / "llama_bench_readme.json").read_text())


def rows(tmp_path: Path, *changes: dict[str, Any], base: int = 1, **arguments: Any) -> Imported:
    """The README's JSON with fields changed; base 0 is its prefill row, 1 its decode row."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([README[base] | change for change in changes]))
    return read_measurements(path, **arguments)


def test_the_readme_s_json() -> None:
    got = read_measurements(DATA / "llama_bench_readme.json")
    assert got.kind == "llama-bench" and not got.skipped
    prefill, decode = got.measurements
    assert prefill.architecture == decode.architecture == read_config("qwen2.5-7b")
    assert (prefill.phase, prefill.tokens, prefill.context_tokens, prefill.batch_size) == ("prefill", 512, 0, 1)
    assert prefill.wall_s == pytest.approx((0.0746019, 0.0716329, 0.0717452, 0.0719527, 0.0707455))
    # 128 steps from an empty cache: 0 .. 127 cached tokens, 63.5 in the mean; 1.0753613 s / 128 = 8.401 ms.
    assert (decode.phase, decode.tokens, decode.context_tokens) == ("decode", 1, 64)
    assert decode.wall_s[0] == pytest.approx(1.0753613 / 128) and len(decode.wall_s) == 5
    assert (decode.device, decode.power_mode, decode.precision, decode.engine) == (
        "rtx_4080",
        None,
        "q4_k_m",
        "llama.cpp",
    )
    assert decode.engine_version == "b5163 8cf427ff" and decode.source == "llama-bench" and decode.flags == ()
    assert decode.created_at == "2025-04-24T11:58:51Z" and decode.clock == "wall"
    assert decode.options == {
        "backend": "CUDA", "n_batch": "2048", "n_ubatch": "512", "flash_attn": "-1", "type_k": "f16", "type_v": "f16",
    }  # fmt: skip
    assert got.notes == ["'qwen2 7B Q4_K - Medium' is taken as qwen2.5-7b"]


def test_csv_and_sql_hold_the_mean_and_the_same_options() -> None:
    as_json = read_measurements(DATA / "llama_bench_readme.json").measurements
    for name in ("llama_bench_readme.csv", "llama_bench_made_up.sql"):
        got = read_measurements(DATA / name)
        assert [m.flags for m in got.measurements] == [("imported",)] * 2 and not got.skipped
        for mean, raw in zip(got.measurements, as_json, strict=True):
            assert len(mean.wall_s) == 1 and mean.seconds == pytest.approx(raw.seconds, rel=0.03)
            assert mean.options == raw.options and mean.key == raw.key
        assert "one time a row" in " ".join(got.notes)


def test_markdown_needs_the_device_and_has_depths() -> None:
    path = DATA / "llama_bench_readme.md"
    with pytest.raises(SpecError, match=r"does not say which device it ran on; give --device"):
        read_measurements(path)
    got = read_measurements(path, device="rtx 4080")
    assert [(m.phase, m.tokens, m.context_tokens) for m in got.measurements] == [
        ("prefill", 512, 0), ("decode", 1, 64), ("prefill", 512, 512), ("decode", 1, 576),
    ]  # fmt: skip
    assert [m.seconds for m in got.measurements] == pytest.approx(
        [512 / 7340.20, 1 / 120.60, 512 / 6425.91, 1 / 116.71]
    )
    assert {m.precision for m in got.measurements} == {"q4_k_m"} and not got.skipped


def test_markdown_with_the_log_above_it() -> None:
    got = read_measurements(DATA / "llama_bench_made_up.md")
    assert [m.device for m in got.measurements] == ["rtx_3090"] * 2
    assert [(m.tokens, m.context_tokens) for m in got.measurements] == [(64, 0), (1, 8)]
    assert got.measurements[0].engine_version == "b6188 21c17b5b"
    assert [where for where, _ in got.skipped] == ["line 8", "line 9"]
    assert "cannot be split" in got.skipped[0][1] and "allowed: above zero" in got.skipped[1][1]


def test_json_lines_of_a_cpu() -> None:
    got = read_measurements(DATA / "llama_bench_made_up.jsonl")
    prefill, decode = got.measurements
    assert (prefill.device, prefill.precision, prefill.options["threads"]) == ("i5_1235u", "fp16", "2")
    # 31 steps on 100 .. 130 cached tokens: 115 in the mean, exactly.
    assert decode.context_tokens == 115 and decode.wall_s == pytest.approx((0.1, 0.11))
    assert len(got.skipped) == 1 and got.skipped[0][0] == "record 3"
    host = read_measurements(DATA / "llama_bench_made_up.jsonl", device="host")
    assert {m.device for m in host.measurements} == {"host"}
    gpu = read_measurements(DATA / "llama_bench_made_up.jsonl", device="orin")
    assert not gpu.measurements and "ran on the CPU, and jetson_agx_orin_64gb is a GPU" in gpu.skipped[0][1]


def test_files_appended_to_each_other(tmp_path: Path) -> None:
    for name in ("llama_bench_readme.json", "llama_bench_readme.csv", "llama_bench_made_up.jsonl"):
        text = (DATA / name).read_text()
        (tmp_path / name).write_text(text + "\n" + text)
        once, twice = read_measurements(DATA / name), read_measurements(tmp_path / name)
        assert len(twice.measurements) == 2 * len(once.measurements), name


def test_utf16_as_powershell_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text((DATA / "llama_bench_readme.json").read_text(), encoding="utf-16")
    assert len(read_measurements(path).measurements) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_prompt": 512}, "pp512+tg128) cannot be split"),
        ({"n_gen": 0}, "neither n_prompt nor n_gen"),
        ({"n_gen": -3}, "n_gen is '-3'; allowed: a whole number"),
        ({"n_gen": 1e300}, "allowed: a whole number"),
        ({"samples_ns": []}, "samples_ns holds no times"),
        ({"samples_ns": [1.0, 0]}, "samples_ns holds '0'"),
        ({"samples_ns": [float("nan")]}, "samples_ns holds 'nan'"),
        ({"samples_ns": [-5]}, "samples_ns holds '-5'"),
        ({"samples_ns": "fast"}, "samples_ns holds no times"),
        ({"samples_ns": None, "avg_ns": 0}, "avg_ns is 0"),
        ({"backends": "CPU"}, "is not one device of the catalogue"),
        ({"backends": "CUDA,RPC"}, "over RPC"),
        ({"gpu_info": "NVIDIA GeForce RTX 4080, NVIDIA GeForce RTX 4080"}, "ran on several GPUs"),
        ({"n_gpu_layers": 20}, "20 of 28 layers"),
        ({"n_gpu_layers": 28}, "28 of 28 layers and the head"),
        ({"n_cpu_moe": 4}, "stayed on the CPU"),
        ({"no_kv_offload": True}, "stayed on the CPU"),
        ({"tensor_buft_overrides": "exps=CPU"}, "placed by hand"),
        ({"embeddings": True}, "output head"),
        ({"model_type": "qwen2 7B Q5_K - Small"}, "give the nearest with --precision"),
        ({"model_type": "glm4 9B Q4_0", "model_n_params": 9_400_000_000, "model_filename": "glm.gguf"}, "no bundled model is glm4 9B Q4_0 of 9.4B"),
        ({"model_n_params": 7_000_000_000}, "no bundled model"),
        ({"type_k": "q8_0", "type_v": "q8_0", "n_depth": 32768}, "KV cache of 8.5 bits"),
        ({"type_k": "turbo3"}, "KV cache type 'turbo3' is unknown"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    got = rows(tmp_path, {}, change)
    assert len(got.measurements) == 1
    assert [where for where, _ in got.skipped] == ["record 2"] and reason in got.skipped[0][1]


def test_what_the_user_says_is_checked_against_the_row(tmp_path: Path) -> None:
    assert "not on --device rtx_3090" in rows(tmp_path, {}, device="rtx_3090").skipped[0][1]
    assert "its weights are q4_k_m, not --precision fp16" in rows(tmp_path, {}, precision="f16").skipped[0][1]
    assert "is not --model qwen3-8b, which has 8.191B" in rows(tmp_path, {}, model="qwen3-8b").skipped[0][1]
    odd = {"model_type": "qwen2 7B Q5_K - Small"}
    assert rows(tmp_path, odd, precision="q5_k_m").measurements[0].precision == "q5_k_m"
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_dict(read_config("qwen2.5-7b"), max_position_embeddings=4096)))
    assert rows(tmp_path, {"model_type": "x y F16"}, model=str(config)).measurements[0].precision == "fp16"
    with pytest.raises(UnknownNameError, match="unknown device 'rtx_9999'"):
        rows(tmp_path, {}, device="rtx_9999")
    with pytest.raises(UnknownNameError, match="unknown precision"):
        rows(tmp_path, {}, precision="q9")


def test_a_short_quantised_cache_does_not_matter(tmp_path: Path) -> None:
    (m,) = rows(tmp_path, {"type_k": "q8_0", "type_v": "q8_0"}).measurements
    assert m.options["type_k"] == "q8_0"
    assert len(rows(tmp_path, {"type_k": "q8_0"}, base=0).measurements) == 1


def test_one_name_for_several_boards_needs_the_device(tmp_path: Path) -> None:
    orin = {"gpu_info": "Orin"}
    with pytest.raises(SpecError, match=r"says only 'Orin'; give --device"):
        rows(tmp_path, orin)
    got = rows(tmp_path, orin, device="orin", power_mode="30W")
    assert (got.measurements[0].device, got.measurements[0].power_mode) == ("jetson_agx_orin_64gb", "30W")
    assert "MAXN assumed" in " ".join(rows(tmp_path, orin, device="orin").notes)
    mixed = rows(tmp_path, orin, {})
    assert len(mixed.measurements) == 1 and "not one device" in mixed.skipped[0][1]


def test_several_gpus_with_one_in_use(tmp_path: Path) -> None:
    two = {"gpu_info": "NVIDIA GeForce RTX 4080, NVIDIA GeForce RTX 4080"}
    assert "several GPUs" in rows(tmp_path, two, device="rtx_4080").skipped[0][1]
    assert rows(tmp_path, two | {"split_mode": "none"}, device="rtx_4080").measurements


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100_sxm_80gb"), ("NVIDIA A100-SXM4-40GB", "a100_sxm_40gb"), ("NVIDIA H100 PCIe", "h100_pcie_80gb"),
        ("NVIDIA H100 80GB HBM3", "h100_sxm_80gb"), ("Tesla T4", "t4"), ("NVIDIA L40S", "l40s"), ("NVIDIA RTX A6000", "rtx_a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx_6000_ada"), ("NVIDIA GeForce RTX 4070 Ti", "rtx_4070_ti"), ("NVIDIA GB10", "dgx_spark_gb10"),
        ("Tesla V100-SXM2-32GB", "v100_sxm2_32gb"), ("Apple M4 Max", "apple_m4_max_40c"), ("NVIDIA Thor", None), ("Xavier", None),
        ("NVIDIA GeForce RTX 3090 Laptop GPU", None), ("NVIDIA A100-SXM4-120GB", None), ("", None), ("llvmpipe", None),
    ],
)  # fmt: skip
def test_gpu_names(text: str, name: str | None) -> None:
    assert gpu_device(text) == name


def test_models_by_name_and_size() -> None:
    assert gguf_model("llama 1B Q8_0", "Llama-3.2-1B-Instruct-Q8_0.gguf", 1235814432, None)[0] == "llama-3.2-1b"
    assert gguf_model("llama 1B all F32 (guessed)", "", 1.10e9, None)[0] == "tinyllama-1.1b"
    assert gguf_model("llama 8B F16", r"C:\m\Meta-Llama-3.1-8B.gguf", 8030261312, None)[0] == "llama-3.1-8b"
    # Older GGUF files of a tied model hold the head as a tensor of its own: 494 + 136 million.
    assert gguf_model("qwen2 1B Q4_0", "", 630.17e6, None)[0] == "qwen2.5-0.5b"
    assert gguf_model("qwen3moe 30B.A3B Q4_K - Medium", "", 30532122624, None)[0] == "qwen3-30b-a3b"
    for model_type, name, n in (
        ("llama 7B Q4_0", "", 6.74e9),
        ("", "", None),
        ("qwen3 1B F16", "Qwen3-0.6B.gguf", 0.8e9),
    ):
        with pytest.raises(SpecError, match="no bundled model"):
            gguf_model(model_type, name, n, None)


@pytest.mark.parametrize(
    ("text", "name"),
    [("F16", "fp16"), ("BF16", "bf16"), ("Q2_K - Medium", "q2_k"), ("Q3_K - Medium", "q3_k_m"), ("Q6_K", "q6_k"), ("Q4_K - Small", "q4_k_s"),
     ("MXFP4 MoE", None), ("NVFP4", None), ("Q4_1", None), ("int8", None), ("unknown, may not work", None), ("", None)],
)  # fmt: skip
def test_weight_formats(text: str, name: str | None) -> None:
    assert gguf_format(f"llama 8B {text}") == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"), (b" \n", "is empty"), (b"\x80\x81\x82", "neither UTF-8 nor UTF-16"), (b"\xff\xfe\x00", "neither UTF-8"),
        (b"hello", "is of no kind that is known by its content; name it with --kind: llama-bench, trtexec"),
        (b'[{"n_prompt": 1, "n_gen": 0, "avg_ns": 5}, {"n_pro', "line 1: .*was it cut off"),
        (b'[{"n_prompt": 1, "n_gen": 0, "avg_ns": ' + b"[" * 100_000, "RecursionError|line 1"),
        (b'{"n_prompt": 1, "n_gen": 0, "avg_ns": ' + b"9" * 5000 + b"}", "ValueError|line"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=message):
        read_measurements(path, device="rtx_4080")


def test_no_file_and_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, why in (
        (tmp_path / "absent", "is not there"),
        (tmp_path, "is a folder"),
        (Path("/dev/zero"), "no regular file"),
    ):
        with pytest.raises(SpecError, match=why):
            read_measurements(path)
    monkeypatch.setattr("codesign.importers.base.MAX_FILE_B", 100)
    with pytest.raises(SpecError, match="larger than"):
        read_measurements(DATA / "llama_bench_readme.json")
    with pytest.raises(CodesignError):
        read_measurements(Path("a\0b"))


def test_kinds_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'llama-bench'"):
        read_measurements(DATA / "llama_bench_readme.json", kind="llamabench")
    got = read_measurements(DATA / "llama_bench_readme.json", kind="llama-bench")
    assert len(got.measurements) == 2
    with pytest.raises(SpecError):
        read_measurements(DATA / "llama_bench_readme.json", kind="trtllm-bench", device="orin")


def test_a_file_of_two_kinds_asks_which(tmp_path: Path) -> None:
    path = tmp_path / "both.json"
    path.write_text(json.dumps([README[0] | {"completed": 1, "total_input_tokens": 5}]))
    with pytest.raises(SpecError, match="could be llama-bench or vllm; name it with --kind"):
        read_measurements(path)
    assert len(read_measurements(path, kind="llama-bench").measurements) == 1
