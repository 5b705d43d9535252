"""Tables of published measurements as people write them: read, or refused row by row with the reason."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.devices import load_device
from codesign.errors import SpecError
from codesign.measured_table import Case, case_of_row, iter_cases, read_archs, read_rows
from codesign.operators import weight_bytes
from codesign.roofline.calibration import LEVELS, load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.roofline.score_table import ADDED, predicted_table
from codesign.workload import PRECISIONS, Workload, parse_precision

FITS = load_calibration()
ARCH_HEADER = "arch_id,layers,hidden,ffn_hidden,n_heads,n_kv_heads,head_dim,vocab,tied_embeddings,ffn_matrices,kind"
LLAMA = "llama-3.1-8b,32,4096,14336,32,8,128,128256,0,3,dense"
MOE = "qwen3-30b-a3b,48,2048,768,32,4,128,151936,0,3,moe128x8"
ROW = {
    "row_id": "r1", "source_id": "s", "quality": "A", "device_id": "jetson_agx_orin_64gb", "power_mode": "MAXN",
    "arch_id": "llama-3.1-8b", "weight_precision": "w4a16", "engine": "vLLM", "batch": "1", "prompt_tokens": "1024",
    "gen_tokens": "128", "prefill_ms": "1000", "decode_ms_per_step": "40", "e2e_s": "7", "notes": "as is",
}  # fmt: skip


@pytest.fixture
def archs(tmp_path: Path) -> Path:
    path = tmp_path / "archs.csv"
    path.write_text("\n".join([ARCH_HEADER, LLAMA, MOE]) + "\n", encoding="utf-8")
    return path


def table(path: Path, *rows: dict[str, str], header: list[str] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header or list(ROW), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def predicted(tmp_path: Path, archs: Path, *rows: dict[str, str]) -> list[dict[str, str]]:
    text, _ = predicted_table(table(tmp_path / "t.csv", *rows), archs, FITS)
    return list(csv.DictReader(io.StringIO(text)))


def one(tmp_path: Path, archs: Path, **change: str) -> dict[str, str]:
    return predicted(tmp_path, archs, {**ROW, **change})[0]


def read(archs: Path, **change: str) -> Case:
    return case_of_row({**ROW, **change}, read_archs(archs))


def test_a_row_by_hand(tmp_path: Path, archs: Path) -> None:
    got = one(tmp_path, archs)
    device, form, arch = load_device("orin"), PRECISIONS["w4a16"], read_archs(archs)["llama-3.1-8b"]
    rates = FITS.rates(device, "vllm", form)
    model = RooflineModel(device=device, rates=rates)
    assert not isinstance(arch, str)
    prefill = model.phase(arch, Workload(prompt_tokens=1024), form, "prefill").seconds
    decode = model.phase(arch, Workload(prompt_tokens=1024, output_tokens=128), form, "decode").seconds
    spread = math.exp(rates.decode.interval_log)
    expected = {
        "predicted_prefill_ms": 1e3 * prefill,
        "prefill_error_pct": 100 * (prefill / 1.0 - 1),
        "predicted_decode_ms": 1e3 * decode,
        "predicted_decode_low90_ms": 1e3 * decode / spread,
        "predicted_decode_high90_ms": 1e3 * decode * spread,
        "decode_error_pct": 100 * (decode / 0.040 - 1),
        "predicted_e2e_s": prefill + 128 * decode,
        "e2e_error_pct": 100 * ((prefill + 128 * decode) / 7 - 1),
    }
    for name, value in expected.items():
        assert float(got[name]) == pytest.approx(float(value), rel=1e-5, abs=0.006), name
    assert got["nearest_measurement"] == LEVELS[0]
    assert got["not_predicted_because"] == got["prediction_note"] == ""
    # 4.3 GB of blocks and a 1.05 GB head at 204.8 GB/s are 26 ms at the very least.
    assert 26 < float(got["predicted_decode_ms"]) < 60


def test_rows_keep_their_order_and_their_cells(tmp_path: Path, archs: Path) -> None:
    rows = [{**ROW, "row_id": str(i), "device_id": name, "notes": note} for i, (name, note) in enumerate([
        ("rtx_4090", 'quoted "words", and a comma'), ("no such board", " spaces "), ("orin", "two\nlines"), ("h100", "µ"),
    ])]  # fmt: skip
    text, summary = predicted_table(table(tmp_path / "t.csv", *rows), archs, FITS)
    got = list(csv.DictReader(io.StringIO(text)))
    assert [{k: row[k] for k in ROW} for row in got] == rows
    assert list(got[0]) == [*ROW, *ADDED]
    assert summary[0] == "4 rows, 3 predicted, 1 not" and summary[1].startswith("  1 x unknown device 'no such board'")


def test_output_as_input_replaces_the_added_columns(tmp_path: Path, archs: Path) -> None:
    rows = [ROW, {**ROW, "device_id": "nope"}]
    text, _ = predicted_table(table(tmp_path / "t.csv", *rows), archs, FITS)
    (tmp_path / "again.csv").write_text(text.replace(LEVELS[0], "stale"), encoding="utf-8")
    again, _ = predicted_table(tmp_path / "again.csv", archs, FITS)
    assert again == text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device_id": ""}, "unknown device ''"),
        ({"device_id": "jetson_agx_orion"}, "did you mean"),
        ({"device_id": "a/b"}, "cannot be read"),
        ({"arch_id": ""}, "not in the table of architectures"),
        ({"arch_id": "gpt-9"}, "the architecture of 'gpt-9' is not in the table"),
        ({"weight_precision": "w3a7"}, "unknown precision 'w3a7'"),
        ({"engine": "llama.cpp (CPU)"}, "ran on the CPU of 'jetson_agx_orin_64gb'"),
        ({"batch": "0"}, "batch_size must be a whole number of at least 1, not 0"),
        ({"batch": "-1"}, "column batch: '-1' must be finite and not negative"),
        ({"batch": "one"}, "column batch: 'one' is not a number"),
        ({"batch": "1e300"}, "column batch: '1e300' is above"),
        ({"prompt_tokens": "1,024"}, "column prompt_tokens: '1,024' is not a number"),
        ({"gen_tokens": "nan"}, "column gen_tokens: 'nan' must be finite"),
        ({"prefill_ms": "inf"}, "column prefill_ms: 'inf' must be finite"),
        ({"decode_ms_per_step": "-3"}, "column decode_ms_per_step: '-3' must be finite and not negative"),
        ({"e2e_s": "7 s"}, "column e2e_s: '7 s' is not a number"),
        ({"power_w": "~30"}, "column power_w: '~30' is not a number"),
        ({"weight_file_gb": "4.9 GB"}, "column weight_file_gb"),
    ],
)
def test_what_cannot_be_predicted_says_why(tmp_path: Path, archs: Path, change: dict[str, str], reason: str) -> None:
    header = [*ROW, *(name for name in change if name not in ROW)]
    text, summary = predicted_table(table(tmp_path / "t.csv", {**ROW, **change}, header=header), archs, FITS)
    (got,) = csv.DictReader(io.StringIO(text))
    assert reason in got["not_predicted_because"] and "\n" not in got["not_predicted_because"]
    assert {got[name] for name in ADDED if name != "not_predicted_because"} == {""}
    assert summary[0] == "1 rows, 0 predicted, 1 not"


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"power_mode": ""}, "power mode not stated: full power assumed"),
        ({"power_mode": "turbo"}, "power mode 'turbo' unknown: full power assumed"),
        ({"power_mode": "MAXN + jetson_clocks"}, ""),
        ({"device_id": "rtx_4090", "power_mode": ""}, ""),
        ({"device_id": "rtx_4090", "power_mode": "default"}, ""),
        ({"engine": ""}, "engine not stated: the mean over engines"),
        ({"weight_precision": " "}, "weight precision not stated: fp16 assumed"),
        ({"engine": "", "power_mode": "?!"}, "full power assumed; engine not stated"),
    ],
)
def test_what_was_assumed_is_noted(tmp_path: Path, archs: Path, change: dict[str, str], note: str) -> None:
    got = one(tmp_path, archs, **change)
    assert note in got["prediction_note"] and (note or not got["prediction_note"])
    assert float(got["predicted_decode_ms"]) > 0


def test_power_modes_act(tmp_path: Path, archs: Path) -> None:
    rows = [
        {**ROW, "engine": "llama.cpp", "weight_precision": "q4_k_m", "power_mode": mode}
        for mode in ("MAXN", "30W", "junk")
    ]
    fast, slow, assumed = (float(r["predicted_decode_ms"]) for r in predicted(tmp_path, archs, *rows))
    assert 2 < slow / fast < 4.3 and assumed == fast


def test_an_engine_that_nobody_measured_is_predicted(tmp_path: Path, archs: Path) -> None:
    got = one(tmp_path, archs, engine="Foo/Bar 1.0")
    assert got["nearest_measurement"] == LEVELS[3] and float(got["predicted_decode_ms"]) > 26
    assert one(tmp_path, archs, engine="Foo", device_id="mi250")["nearest_measurement"] in LEVELS[3:]


def test_missing_lengths(tmp_path: Path, archs: Path) -> None:
    got = one(tmp_path, archs, prompt_tokens="", gen_tokens="", decode_ms_per_step="", prefill_ms="", e2e_s="")
    assert got["predicted_prefill_ms"] == got["predicted_e2e_s"] == got["decode_error_pct"] == ""
    assert float(got["predicted_decode_ms"]) > 0 and got["not_predicted_because"] == ""
    no_prompt = read(archs, prompt_tokens="")
    assert no_prompt.prefill is None and no_prompt.decode == Workload(prompt_tokens=0, output_tokens=128)
    from_empty = read(archs, kv_start_tokens="0")
    assert from_empty.decode.prompt_tokens == 0 and from_empty.prefill is not None
    assert math.isnan(read(archs, decode_ms_per_step="0").decode_s)  # a time of 0 is no measurement


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Q4_K_M (presumed)", "q4_k_m"), ("fp16/bf16 (presumed)", "fp16"), ("W4A16 (INT4-AWQ)", "w4a16"), ("INT4", "w4a16"),
        (" f16 ", "fp16"), ("int4 (q4f16_ft)", "q4f16"), ("MXFP4 (presumed)", "mxfp4"), ("fp4", "nvfp4"), ("W8A8", "int8"),
    ],
)  # fmt: skip
def test_precisions_as_tables_write_them(text: str, name: str) -> None:
    assert parse_precision(text).name == name


def test_mlc_formats_file_sizes_and_kv_bits(archs: Path) -> None:
    assert read(archs, engine="MLC-LLM", weight_precision="int4").precision.name == "q4f16"
    arch = read(archs).arch
    plain = weight_bytes(arch, read(archs, weight_precision="q4_k_m").precision)
    sized = read(archs, weight_precision="q4_k_m", weight_file_gb="4.5").precision
    assert weight_bytes(arch, sized) == pytest.approx(4.5e9) != pytest.approx(plain)
    odd = read(archs, weight_precision="q4_k_m", weight_file_gb="16").precision
    assert weight_bytes(arch, odd) == plain  # another model's file is not believed
    assert read(archs, weight_precision="fp16", weight_file_gb="14").precision == PRECISIONS["fp16"]
    bits = [read(archs, kv_precision=kv).precision.kv_bits for kv in ("fp8", "int8", "bf16", "8", "q8_0", "²", "")]
    assert bits == [8, 8, 16, 8, 16, 16, 16]


def test_byte_order_mark_crlf_short_rows_and_blank_lines(tmp_path: Path, archs: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [
        "row_id,device_id,engine,arch_id,prompt_tokens,notes",
        "a,orin,vLLM,llama-3.1-8b,64,x",
        "",
        "b,orin,vLLM,llama-3.1-8b",
    ]
    path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode("utf-8"))
    text, summary = predicted_table(path, archs, FITS)
    got = list(csv.DictReader(io.StringIO(text)))
    assert [row["row_id"] for row in got] == ["a", "b"] and summary[0].startswith("2 rows, 2 predicted")
    assert got[0]["predicted_prefill_ms"] and not got[1]["predicted_prefill_ms"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("row_id,engine\nr,vllm\n", "lacks the column(s) device_id, arch_id"),
        ("device_id,engine,arch_id\norin,vllm,llama-3.1-8b,extra\n", "row 1 below the header: more cells"),
        ("device_id,engine,arch_id,\norin,vllm,llama-3.1-8b,1,2\n", "row 1 below the header: more cells"),
        ("device_id,engine,arch_id,notes,notes\norin,vllm,llama-3.1-8b,1,2\n", "'notes' twice"),
        ('device_id,engine,arch_id\norin,"vllm,llama', "cannot read the table"),
        ("\ufffe", "cannot read the table"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, archs: Path, content: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode("utf-16" if content == "\ufffe" else "utf-8"))
    with pytest.raises(SpecError) as caught:
        predicted_table(path, archs, FITS)
    assert message.replace("'notes' twice", "twice") in str(caught.value) and str(path) in str(caught.value)


def test_a_header_alone_and_absent_files(tmp_path: Path, archs: Path) -> None:
    text, summary = predicted_table(table(tmp_path / "t.csv"), archs, FITS)
    assert text.count("\n") == 1 and summary == ["0 rows, 0 predicted, 0 not"]
    for bad in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(SpecError, match="cannot read the table"):
            read_rows(bad)
    with pytest.raises(SpecError, match="lacks the column"):
        read_archs(table(tmp_path / "t.csv", ROW))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("m,32,4096,14336,32,8,128,128256,0,3,hybrid-gdn", "of kind 'hybrid-gdn'"),
        ("m,32,4096,14336,32,8,128,128256,0,3,moe8", "is not moe<experts>x<active>"),
        ("m,32,4096,14336,32,8,128,128256,0,3,moe0x0", "is not moe<experts>x<active>"),
        ("m,32,4096,14336,32,8,128,128256,0,3,moe8x9", "n_active_experts"),
        ("m,32,4096,14336,32,8,128,128256,0,4,dense", "column ffn_matrices: '4' is neither 2 nor 3"),
        ("m,32,4096,14336,32,8,128,128256,maybe,3,dense", "column tied_embeddings: 'maybe' is not a number"),
        ("m,,4096,,32,8,128,128256,0,3,dense", "has no layers, ffn_hidden"),
        ("m,32,4096,14336,32,5,128,128256,0,3,dense", "n_kv_heads"),
        ("m,-1,4096,14336,32,8,128,128256,0,3,dense", "column layers"),
        ("m,1e12,4096,14336,32,8,128,128256,0,3,dense", "column layers: '1e12' is above"),
    ],
)
def test_architectures_that_cannot_be_read(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{ARCH_HEADER}\n{row}\n{LLAMA}\n", encoding="utf-8")
    archs = read_archs(path)
    assert isinstance(archs["m"], str) and reason in archs["m"]
    assert not isinstance(archs["llama-3.1-8b"], str)
    cases = list(iter_cases([{**ROW, "arch_id": "m"}, ROW], archs))
    assert cases[0] == archs["m"] and isinstance(cases[1], Case)


def test_architecture_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [
        "a,2,64,128,4,2,16,100,1.0,2.0,",
        "b,2,64,128,4,2,16,100,no,3,dense",
        " c ,2,64,128,4,2,16,100,,,Dense",
        MOE,
    ]
    path.write_text("\n".join([ARCH_HEADER, *rows]) + "\n", encoding="utf-8")
    a, b, c, moe = read_archs(path).values()
    assert not any(isinstance(x, str) for x in (a, b, c, moe))
    assert (a.tied_embeddings, a.ffn_gated) == (True, False)  # type: ignore[union-attr]
    assert (b.tied_embeddings, b.ffn_gated) == (False, True)  # type: ignore[union-attr]
    assert (c.tied_embeddings, c.ffn_gated) == (True, True)  # type: ignore[union-attr]
    assert "c" in read_archs(path)
    assert (moe.n_experts, moe.n_active_experts, moe.d_ff_expert, moe.d_ff) == (128, 8, 768, 0)  # type: ignore[union-attr]
    assert moe.params_total == pytest.approx(30.5e9, rel=0.01)  # type: ignore[union-attr]


cell = st.one_of(
    st.sampled_from([
        "", "1", "0", "-1", "1e9", "1e308", "1e-300", "nan", "inf", "0.5", "vLLM", "orin", "llama-3.1-8b", "qwen3-30b-a3b", "int4",
        "q4_k_m (presumed)", "fp8", "MAXN", "15W (original)", "llama.cpp (CPU)", "MLC-LLM", "²", "a/b/c", "moe8x2", "\x00",
    ]),
    st.text(max_size=6),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.dictionaries(st.sampled_from([*ROW, "kv_precision", "weight_file_gb", "kv_start_tokens", "power_w"]), cell),
        max_size=3,
    )
)
def test_no_cell_breaks_the_table(archs: Path, changes: list[dict[str, str]]) -> None:
    known = read_archs(archs)
    for change, found in zip(changes, iter_cases([{**ROW, **c} for c in changes], known), strict=True):
        if isinstance(found, str):
            assert found
            continue
        rates = FITS.rates(found.device, found.engine, found.precision, found.decode.batch_size)
        model = RooflineModel(device=found.device, rates=rates)
        seconds = model.phase(found.arch, found.decode, found.precision, "decode").seconds
        assert 0 < float(seconds) < math.inf, change
