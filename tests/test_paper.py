"""The reproduction of arXiv 2602.10377: its latency model, its closed forms, and that the committed report is current."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import paper_closed_forms  # noqa: E402
import paper_runs  # noqa: E402
import reproduce_paper  # noqa: E402

from codesign.architecture import Architecture  # noqa: E402
from codesign.search import closed_form as cf  # noqa: E402
from codesign.workload import PRECISIONS  # noqa: E402

REPORT = (ROOT / "results" / "paper_reproduction.md").read_text(encoding="utf-8")
STALE = "results/paper_reproduction.md is out of date: run python tools/reproduce_paper.py"
SETTING = paper_closed_forms.Setting(42.63e12, 204.8e9)


def test_latency_equations_by_hand() -> None:
    """16 x 1024, 16 heads, 4 KV heads (g = 4), top-1 of 8 experts of width 1024 (r = 1), FP16.

    prefill: 16 * 1024 tokens * 1024^2 * (4 + 1 + 6) = 1.8898e11 FLOP / 42.63e12 = 4.4330 ms
    decode: weights (2 + 0.5 + 3) * 1024^2 * 2 B = 11,534,336 B; KV 2 * 1032.5 * 1024 / 4 * 2 B = 1,057,280 B;
        16 * 12,591,616 B / 204.8e9 = 0.98372 ms
    memory: 16 * (2.5 + 24) * 1024^2 * 2 B = 889,192,448 B
    per operator: projections 5 * 1024^3 FLOP = 125.93 us (weights 25.6 us); the FFN's 6 * 1024^3 FLOP = 151.12 us, but
        24 * 1024^2 * 2 B of experts = 245.76 us: 16 * (125.93 + 245.76) us = 5.9470 ms
    """
    arch = Architecture(
        n_layers=16, d_model=1024, n_heads=16, n_kv_heads=4, d_head=64, d_ff=0, vocab_size=151936, n_experts=8,
        n_active_experts=1, d_ff_expert=1024, family="qwen3_moe", qk_norm="head",
    )  # fmt: skip
    orin = paper_runs.device()
    plain = paper_runs.PaperLatency(device=orin).estimate(arch, paper_runs.WORKLOAD, PRECISIONS["fp16"])
    assert float(plain.prefill_s) == pytest.approx(4.4330e-3, rel=1e-4)
    assert float(plain.decode_s) == pytest.approx(0.98372e-3, rel=1e-4)
    assert float(plain.peak_memory_B) == 889_192_448
    assert float(plain.total_s) == pytest.approx(float(plain.prefill_s) + 16 * float(plain.decode_s))
    per_operator = paper_runs.PaperLatency(device=orin, per_operator=True)
    waits = per_operator.estimate(arch, paper_runs.WORKLOAD, PRECISIONS["fp16"])
    assert float(waits.prefill_s) == pytest.approx(5.9470e-3, rel=1e-4)
    assert float(waits.decode_s) == float(plain.decode_s)


def test_closed_forms_agree_with_brute_force_where_their_constraint_binds() -> None:
    found = paper_closed_forms.checks(SETTING)
    for check in found:
        expected = not ("as printed" in check.name or "waits" in check.where or "l = 64" in check.where)
        assert check.agrees == expected, check
        assert check.loss_gap > -1e-5, check
    assert sum(check.agrees for check in found) >= 20


def test_dual_rate_fills_both_budgets() -> None:
    """At the rate of the dual forms, the depth of the time budget is that of the memory budget."""
    d, r, g, b_w, kv, memory = 1024.0, 1.5, 4.0, 2.0, 2.0, 4e9
    flop, moved = 2e8, 6e8
    held = lambda rho: memory / (d**2 * b_w * (2 + 2 / g + 3 * r / rho))  # noqa: E731
    assert held(cf.dual_prefill_rho(r, g, flop / memory, b_w)) == pytest.approx(cf.prefill_depth(flop, d, r, g))
    assert held(cf.dual_decode_rho(r, g, moved / memory, kv)) == pytest.approx(cf.decode_depth(moved, d, r, g, kv, b_w))


def test_closed_form_edges() -> None:
    """A huge budget wants no grouping; a tiny one wants almost no FFN; KV bytes push decode to larger groups."""
    assert cf.prefill_group(1e12, 1024, 1.0) == 1.0
    assert cf.prefill_ratio(1e3, 1024, 4.0, 1 / 16) < 1e-2
    assert cf.decode_group(4e8, 1024, 1.0, 4.0, 2.0) > cf.decode_group(4e8, 1024, 1.0, 0.0, 2.0)


def test_headline_findings() -> None:
    """Under the paper's law and equations every point is a top-1 mixture; the per-operator roofline orders the phases."""
    for phase in paper_runs.VALUE:
        assert all(map(paper_runs.is_top1, paper_runs.frontier("equations", "paper", "fp16", phase)))
    many = {
        phase: paper_runs.share(
            paper_runs.frontier("per operator", "paper", "fp16", phase), lambda c: paper_runs.experts(c) == 16
        )
        for phase in paper_runs.VALUE
    }
    assert many["prefill"] < many["request"] < many["decode"]


@pytest.mark.parametrize("latency", list(paper_runs.LATENCY_MODELS))
def test_report_is_current(latency: str) -> None:
    """Rows of each table, made again."""
    rows = [
        reproduce_paper.frontier_row(latency, "paper", "fp16", "request", False),
        reproduce_paper.frontier_row(latency, "gemstones", "int8", "decode", False),
        reproduce_paper.budget_row("decode", 0.02, latency, "fp16"),
        reproduce_paper.budget_row("request", 0.5, latency, "int8"),
        reproduce_paper.gap_row(latency, "paper", False, "request", False),
        reproduce_paper.gap_row(latency, "gemstones", False, "decode", True),
    ]
    for row in rows:
        assert f"| {row} |" in REPORT, STALE


def test_closed_form_table_is_current() -> None:
    assert reproduce_paper.closed_forms() in REPORT, STALE


def test_report_is_product_text() -> None:
    """No absolute paths; every verdict is one of three words."""
    assert "/work/" not in REPORT and "/tmp/" not in REPORT
    block = REPORT.split("## Findings")[1].split("## 1.")[0]
    rows = [line.split(" | ") for line in block.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 8
    assert all(row[2].split(" ")[0] in ("same", "partly", "not") for row in rows)
