"""`codesign measurements` as a user types it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from codesign.architecture import Architecture
from codesign.cli.main import main
from codesign.measurement import Measurement
from codesign.store import Store

TINY = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)


class Got(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, given: str | None = None, **environment: str) -> Got:
    """In this process, to be quick; `typed` starts one."""
    out, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.StringIO(given or ""))
        code = main(["measurements", *arguments])
    return Got(code, out.getvalue(), errors.getvalue())


def typed(*arguments: str, given: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codesign", "measurements", *arguments], capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, **environment}, timeout=60, check=False, input=given,
    )  # fmt: skip


def made_up(**changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "architecture": TINY, "precision": "fp32", "engine": "onnxruntime", "engine_version": "1.31.1", "options": {"threads": "1"},
        "phase": "decode", "tokens": 1, "context_tokens": 256, "device": "jetson_agx_orin_64gb", "power_mode": "30W",
        "wall_s": (0.0102, 0.0100, 0.0101), "campaign": "first", "created_at": "2026-11-22T10:00:00+00:00",
    }  # fmt: skip
    return Measurement(**{**values, **changes})


@pytest.fixture
def filled(tmp_path: Path) -> str:
    path = tmp_path / "m.sqlite"
    big = TINY.evolve(n_layers=4, d_model=128, n_experts=8, n_active_experts=2, d_ff_expert=64, d_ff=0)
    with Store(path) as store:
        store.add_all(
            [
                made_up(),
                made_up(wall_s=(0.0105,), flags=("drift",)),
                made_up(phase="prefill", tokens=64, context_tokens=0, wall_s=(0.04,), architecture=big, batch_size=2),
                made_up(
                    precision="w4a32", flags=("few",), energy_J=0.5, campaign="", created_at="2026-11-23T10:00:00Z"
                ),
                made_up(device="host", power_mode=None, engine="torch"),
            ]
        )
    return str(path)


def test_the_table(filled: str) -> None:
    got = typed("--store", filled, COLUMNS="140")
    assert got.returncode == 0 and got.stderr == ""
    lines = [line.rstrip() for line in got.stdout.splitlines()]
    assert lines[0] == f"4 passes, 5 visits, in {filled}"
    row = next(line for line in lines if "decode @256" in line and "fp32" in line and "orin" in line)
    cells = re.split(r"\s{2,}", row.strip())
    # two visits with medians 10.1 and 10.5 ms: 10.5 / 10.1 = 1.0396; the parameters of TINY are in Architecture's example
    assert cells == [
        "jetson_agx_orin_64gb",
        "30W",
        "onnxruntime",
        "fp32",
        "2 x 64, 80.4K",
        "decode @256",
        "10.1 ms",
        "2",
        "4.0 %",
        "-",
    ]
    assert "prefill 64 x2" in got.stdout and max(map(len, lines)) <= 140


def test_a_narrow_terminal_says_once_what_is_the_same(filled: str) -> None:
    got = run("--store", filled, "--device", "orin", COLUMNS="80")
    assert got.returncode == 0 and max(len(line.rstrip()) for line in got.stdout.splitlines()) <= 80
    assert "all: device jetson_agx_orin_64gb, mode 30W, engine onnxruntime" in got.stdout
    assert max(len(line.rstrip()) for line in run("--store", filled, COLUMNS="80").stdout.splitlines()) <= 80
    assert typed("--store", filled, PYTHONIOENCODING="ascii", PYTHONUTF8="0").stdout.isascii()


def test_filters(filled: str) -> None:
    def records(*arguments: str) -> int:
        got = run("--store", filled, "--json", *arguments)
        assert got.returncode == 0, got.stderr
        return len(got.stdout.splitlines()) - 1

    assert records() == 5 and records("--device", "host") == 1 and records("--device", "host,orin") == 5
    assert records("--engine", "torch", "--engine", "onnxruntime") == 5 and records("--precision", "w4a32") == 1
    assert (
        records("--phase", "prefill") == 1
        and records("--campaign", "first") == 4
        and records("--since", "2026-11-23") == 1
    )
    assert records("--flagged") == 2 and records("--unflagged") == 3 and records("--flagged", "--device", "host") == 0
    got = run("--store", filled, "--precision", "fp8")
    assert got.returncode == 0 and "5 records of: host, jetson_agx_orin_64gb" in got.stdout


def test_campaigns(filled: str) -> None:
    got = run("--store", filled, "--campaigns", COLUMNS="140")
    assert got.returncode == 0 and got.stdout.startswith("5 records in ")
    row = next(line for line in got.stdout.splitlines() if "first" in line and "orin" in line)
    assert re.split(r"\s{2,}", row.strip()) == ["first", "jetson_agx_orin_64gb", "onnxruntime", "fp32", "3", "2026-11-22 10:00", "2026-11-22 10:00"]  # fmt: skip


def test_json_goes_out_and_comes_in(filled: str, tmp_path: Path) -> None:
    out = run("--store", filled, "--json").stdout
    assert json.loads(out.splitlines()[0]) == {"schema": "codesign.measurements", "version": 1}
    (tmp_path / "records.jsonl").write_text(out, encoding="utf-8")
    other = str(tmp_path / "other.sqlite")
    got = run("--store", other, "--import", str(tmp_path / "records.jsonl"))
    assert got.returncode == 0 and got.stdout == f"5 records added to {other}; 0 were there already\n"
    assert (
        run("--store", other, "--import", "-", given=out).stdout
        == f"0 records added to {other}; 5 were there already\n"
    )
    (tmp_path / "records.jsonl.gz").write_bytes(gzip.compress(out.encode()))
    got = run("--store", other, "--import", str(tmp_path / "records.jsonl.gz"))
    assert got.stdout == f"0 records added to {other}; 5 were there already\n"
    assert run("--store", other, "--json").stdout == out
    assert Store(other).find() == Store(filled).find()


def test_csv(filled: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    got = run("--store", filled, "--csv", str(path))
    assert got.returncode == 0 and got.stderr == f"4 rows written to {path}\n" and got.stdout == ""
    assert run("--store", filled, "--csv", "-").stdout == path.read_text(encoding="utf-8")
    decode, prefill, quantised, _ = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    assert (
        float(decode["decode_ms_per_step"]) == pytest.approx(10.1)
        and decode["prefill_ms"] == decode["prompt_tokens"] == ""
    )
    assert (
        float(decode["decode_tok_s"]) == pytest.approx(1 / 0.0101)
        and decode["kv_start_tokens"] == "256"
        and decode["visits"] == "2"
    )
    assert (
        float(prefill["prefill_tok_s"]) == pytest.approx(2 * 64 / 0.04)
        and prefill["kind"] == "moe8x2"
        and prefill["layers"] == "4"
    )
    assert (quantised["flags"], quantised["energy_J"], decode["energy_J"]) == ("few", "0.5", "")


def test_predict_reads_the_csv_as_table_and_as_architectures(filled: str, tmp_path: Path) -> None:
    from codesign.measured_table import case_of_row, read_archs, read_rows

    path = tmp_path / "table.csv"
    run("--store", filled, "--device", "orin", "--csv", str(path))
    archs, (_, rows) = read_archs(path), read_rows(path)
    cases = [case_of_row(row, archs) for row in rows]
    assert cases[0].arch == TINY and cases[0].decode_s == pytest.approx(0.0101) and cases[0].decode.prompt_tokens == 256
    assert cases[1].prefill_s == pytest.approx(0.04) and cases[1].prefill is not None
    assert (cases[1].prefill.prompt_tokens, cases[1].prefill.batch_size, cases[1].device.power_mode) == (64, 2, "30W")
    shared = made_up(architecture=TINY.evolve(window_tokens=32, n_window_layers=1))
    with Store(filled) as store:
        store.add(shared)
    run("--store", filled, "--csv", str(path))
    (reason,) = [arch for arch in read_archs(path).values() if isinstance(arch, str)]
    assert "dense+window" in reason  # the columns cannot say it, so it is not read as something else


def test_an_empty_store(tmp_path: Path) -> None:
    got = run(CODESIGN_HOME=str(tmp_path), CODESIGN_STORE="")
    assert (
        got.returncode == 0
        and "No measurements yet in" in got.stdout
        and "codesign profile --device host" in got.stdout
    )
    assert list(tmp_path.iterdir()) == []
    assert len(run("--json", CODESIGN_HOME=str(tmp_path), CODESIGN_STORE="").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--store", "none.sqlite"], "no store of measurements at none.sqlite; fill it"),
        (["--store", "mysql://u:hunter2@h/d"], "kind 'mysql'; allowed"),
        (["--store", "postgresql://u:hunter2@127.0.0.1:1/d"], "check that the server runs"),
        (["--phase", "training"], "--phase 'training' is unknown; allowed: prefill, decode"),
        (["--since", "yesterday", "--store", "FILLED"], "'yesterday' is not a date"),
        (["--json", "--csv", "x.csv"], "--json and --csv do not go together"),
        (["--campaigns", "--device", "host"], "--campaigns takes no filters"),
        (["--import", "none.jsonl", "--store", "FILLED"], "cannot read none.jsonl"),
        (["--store", "FILLED", "--csv", "/none/x.csv"], "cannot write /none/x.csv"),
    ],
)  # fmt: skip
def test_bad_input(filled: str, arguments: list[str], said: str) -> None:
    got = run(*(filled if text == "FILLED" else text for text in arguments))
    assert got.returncode == 2 and said in got.stderr and got.stdout == "" and len(got.stderr.splitlines()) == 1
    assert "hunter2" not in got.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [], "does not begin with a header"),
        (lambda lines: lines[1:], "does not begin with a header"),
        (lambda lines: ['{"schema": "codesign.measurements", "version": 2}', *lines[1:]], "version 2; allowed: up to 1; update"),
        (lambda lines: [*lines[:-1], lines[-1][:100]], "line 6: no whole record"),
        (lambda lines: [*lines, '{"phase": "decode"}'], "line 7: no whole record (incomplete"),
        (lambda lines: [*lines, "[1]"], "line 7: no whole record"),
        (lambda lines: [lines[0], lines[1].replace("0.0102", "0.0")], "line 2: no whole record"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_imports_nothing(filled: str, tmp_path: Path, change: Any, said: str) -> None:
    lines = run("--store", filled, "--json").stdout.splitlines()
    other = str(tmp_path / "other.sqlite")
    got = run("--store", other, "--import", "-", given="\n".join(change(lines)))
    assert got.returncode == 2 and said in got.stderr and len(got.stderr.splitlines()) == 1
    assert run("--store", other, "--json").stdout.count("\n") == 1
