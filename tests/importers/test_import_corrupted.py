"""Whatever happens to a file, the answer is measurements with reasons, or one of codesign's own errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.errors import CodesignError
from codesign.importers import KINDS, read_measurements

DATA = Path(__file__).parent / "data"
SAMPLES = sorted(path for path in DATA.iterdir() if path.suffix != ".md" or "bench" in path.name)
ARGUMENTS: dict[str, Any] = {
    "device": "rtx_4080", "model": "qwen2.5-7b", "precision": "q4_k_m", "phase": "prefill", "tokens": 8, "context": 8, "batch": 1,
}  # fmt: skip
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TABLE = (
    "row_id,device_id,arch_id,engine,batch,prompt_tokens,gen_tokens,prefill_ms,decode_ms_per_step,phase,tokens,seconds,clock,"
    "options,layers,hidden,ffn_hidden,n_heads,n_kv_heads,head_dim,vocab\n"
    "r,orin,m,vllm,1,8,8,5,6,decode,1,0.01,wall,a=b,2,64,128,4,2,16,100\n"
)


def check(path: Path, **arguments: Any) -> None:
    try:
        got = read_measurements(path, **arguments)
    except CodesignError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert all(reason and "\n" not in reason for _, reason in got.skipped)
    for m in got.measurements:
        assert all(0 < t < math.inf for t in m.times) and m.context_tokens >= 0 and m.tokens > 0


edit = st.tuples(st.floats(0, 1), st.integers(0, 12), st.binary(max_size=6) | st.sampled_from(
    [b"nan", b"-1", b"0", b"1e999", b"null", b"[", b"}", b'"', b",", b"\n", b"\r", b"\xff", b"\x00", b"9" * 40, b"true", b"{}", b"|"]
))  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
@SETTINGS
@given(edits=st.lists(edit, min_size=1, max_size=4), kind=st.sampled_from(["auto", "auto", *KINDS]), bare=st.booleans())
def test_bytes_overwritten(sample: Path, tmp_path: Path, edits: list[Any], kind: str, bare: bool) -> None:
    data = bytearray(sample.read_bytes())
    for where, length, new in edits:
        at = int(where * len(data))
        data[at : at + length] = new
    path = tmp_path / "file"
    path.write_bytes(data)
    check(path, kind=kind, **({} if bare else ARGUMENTS))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_cut_off_anywhere(sample: Path, tmp_path: Path) -> None:
    data = sample.read_bytes()
    for size in range(0, len(data), max(1, len(data) // 40)):
        (tmp_path / "file").write_bytes(data[:size])
        check(tmp_path / "file", **ARGUMENTS)


value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([1e-320, 1e308, 10**400, -0.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("sample", [path for path in SAMPLES if path.suffix == ".json"], ids=lambda path: path.name)
@SETTINGS
@given(data=st.data(), bare=st.booleans())
def test_json_values_replaced(sample: Path, tmp_path: Path, data: st.DataObject, bare: bool) -> None:
    tree = json.loads(sample.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        node = tree
        while isinstance(node, (dict, list)) and node:
            key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if data.draw(st.booleans()) or not isinstance(node[key], (dict, list)):
                node[key] = data.draw(value)
                break
            node = node[key]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(tree), encoding="utf-8", errors="surrogatepass")
    check(path, **({} if bare else ARGUMENTS))


@SETTINGS
@given(edits=st.lists(edit, min_size=1, max_size=4))
def test_tables_overwritten(tmp_path: Path, edits: list[Any]) -> None:
    data = bytearray(TABLE.encode())
    for where, length, new in edits:
        at = int(where * len(data))
        data[at : at + length] = new
    (tmp_path / "t.csv").write_bytes(data)
    check(tmp_path / "t.csv", kind="table")


@SETTINGS
@given(content=st.binary(max_size=60), kind=st.sampled_from(["auto", *KINDS]))
def test_any_bytes(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "file").write_bytes(content)
    check(tmp_path / "file", kind=kind, **ARGUMENTS)
