"""Families of architectures as people ask for them: searched, predicted, served, measured on this host, composed."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from command_line import SHORT, codesign

from codesign.architecture import Architecture
from codesign.hf_config import config_dict, read_config

ORIN = ("--device", "orin", "--latency", "20ms")
SPACE = """
[axes]
n_layers = [4, 8, 16]
d_model = [768, 1024]
experts = ["dense", "8x2"]
"""


def frontier(path: Path) -> tuple[dict, list[Architecture], list[dict]]:
    head, *rows = (json.loads(line) for line in path.read_text().splitlines())
    designs = [r for r in rows if "architecture" in r and r.get("name", "").startswith("design")]
    return head, [Architecture.from_dict(r["architecture"]) for r in designs], designs


def test_families_are_searched_exactly_and_said(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    done = codesign(tmp_path, "search", *ORIN, "--space", "s.toml", "--families", "dense,moe,window,hybrid,recurrent", "--vocab", "151936",
                    "--baseline", "qwen3-0.6b", "--out", "run", "--no-plot", "--objectives", "loss,latency,memory", "--allow-extrapolation")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "exact: " in done.stdout and "mixers" in done.stdout and "R: recurrent layers" in done.stdout
    head, archs, rows = frontier(tmp_path / "run" / "frontier.jsonl")
    assert head["space"]["axes"]["mixer"][:2] == ["full", "window:512:6"]
    assert {"none"} < {a.recurrence for a in archs}
    for arch, row in zip(archs, rows, strict=True):
        written = read_config(tmp_path / "run" / row["name"] / "config.json")
        assert written == arch
        assert (
            ("prior:mixer" in row["marks"]) == (arch.n_recurrent_layers > 0) == ("latency:mixer_here" in row["marks"])
        )
    again = codesign(
        tmp_path,
        "search",
        *ORIN,
        "--space",
        "s.toml",
        "--families",
        "dense",
        "--out",
        "plain",
        "--no-plot",
        "--allow-extrapolation",
    )
    assert (
        "mixers" not in again.stdout
        and "mixer" not in frontier(tmp_path / "plain" / "frontier.jsonl")[0]["space"]["axes"]
    )


def test_families_without_a_loss_are_compared_on_cost(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    bad = codesign(tmp_path, "search", *ORIN, "--space", "s.toml", "--families", "dense,mla", "--no-plot")
    assert bad.returncode == 2 and "no data at hand tells the loss of mixer mla:256, mla:512" in bad.stderr
    good = codesign(tmp_path, "search", *ORIN, "--space", "s.toml", "--families", "dense,mla,shared,looped", "--objectives", "latency,memory",
                    "--out", "run", "--no-plot", "--allow-extrapolation")  # fmt: skip
    assert good.returncode == 0, good.stderr

    assert "–" in good.stdout and "$" in good.stdout
    rows = list(csv.DictReader((tmp_path / "run" / "frontier.csv").open()))
    dark = [row for row in rows if "unpriced:" in row["marks"]]
    assert dark and all(row[key] == "" for row in dark for key in ("loss", "loss_std", "loss_low90", "loss_high90"))
    assert all(row["loss"] for row in rows if row not in dark)
    page = codesign(tmp_path, "report", "run", "--no-pictures")
    assert page.returncode == 0, page.stderr
    assert "this run compares cost alone" in (tmp_path / "run" / "report.html").read_text()
    both = codesign(
        tmp_path,
        "search",
        *ORIN,
        "--space",
        "s.toml",
        "--families",
        "dense",
        "--out",
        "dense",
        "--no-plot",
        "--allow-extrapolation",
    )
    assert both.returncode == 0, both.stderr
    refused = codesign(tmp_path, "compare", "run", "dense")
    assert (
        refused.returncode == 2
        and f"{len(dark)} of {len(rows)} designs of run have no predicted loss" in refused.stderr
    )


def test_the_largest_design_in_the_least_time(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SPACE)
    done = codesign(tmp_path, "search", *ORIN, "--space", "s.toml", "--families", "dense,shared", "--objectives", "size,latency", "--out", "run",
                    "--allow-extrapolation")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = frontier(tmp_path / "run" / "frontier.jsonl")[2]
    sizes = [row["values"]["params_active_nonembedding"] for row in rows]
    times = [row["values"]["latency_s"] for row in rows]
    assert len(rows) > 2 and sizes == sorted(sizes) and times == sorted(times)
    assert (tmp_path / "run" / "pareto.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", *ORIN, "--families", "hybrids"), "unknown family 'hybrids'; did you mean 'hybrid'?"),
        (("search", *ORIN, "--space", "dense", "--families", "moe"), "this space has no experts"),
        (("search", *ORIN, "--serving", "kv-budget=3"), "unknown serving option 'kv-budget'; known: latent, kv-budget-tokens"),
        (("search", *ORIN, "--serving", "sparse-tokens"), "--serving 'sparse-tokens' is not name=value"),
        (("search", *ORIN, "--precision", "w4a16+kv7"), "must be one or more of +kv, +head, +emb, +state"),
        (("predict", "qwen3-8b", "--device", "orin", "--serving", "latent=expanded"), "does nothing: this model has no latent attention"),
        (("predict", "qwen3-8b", "--device", "orin", "--serving", "index-share=2"), "index-share does nothing without sparse-tokens"),
        (("search", *ORIN, "--families", "recurrent", "--serving", "kv-budget-tokens=64"), "does nothing: the space has no attention"),
        (("predict", "qwen3-8b", "--device", "orin", "--draft", "qwen3-0.6b"), "--draft needs --acceptance"),
        (("predict", "qwen3-8b", "--device", "orin", "--acceptance", "0.7"), "--acceptance goes with --draft"),
        (("predict", "qwen3-8b", "--device", "orin", "--tier", "flash=3GB/s"), "this model has none"),
        (("predict", "qwen3-30b-a3b", "--device", "orin", "--tier", "flash"), "is not of the form name=RATE"),
        (("predict", "qwen3-30b-a3b", "--device", "orin", "--skew", "1"), "--memory and --skew go with --tier"),
        (("compose", "--device", "orin", "--primitives", "attention,rnn"), "unknown primitive 'rnn'; known: attention, mlp"),
        (("compose", "--device", "orin", "--primitives", "mamba2,gdn"), "a stack has one kind at most"),
        (("compose", "--device", "orin", "--primitives", "mlp"), "with A or R among them"),
        (("compose", "--device", "orin", "--primitives", "attention"), "evaluations 24 are more than the 1 stack of 16 sublayers"),
        (("compose", "--device", "orin", "--primitives", "attention,mlp", "--layers", "4"), "more than the 15 stacks of 4"),
        (("compose", "--device", "orin", "--vocab", "1"), "--vocab 1 must be at least 2"),
        (("compose", "--device", "orin", "--targets", "350M,2M"), "2e+06 parameters are out of reach"),
        (("compose", "--device", "orin", "--tasks", "recall,foo"), "unknown task 'foo'"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = codesign(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_public_models_of_every_kind_are_predicted(tmp_path: Path) -> None:
    for name, text in (("nemotron-h-4b", "KV cache and state"), ("deepseek-v2-lite", "latent attention: no data at hand tells its loss"),
                       ("lfm2-700m", "short convolutions: no data at hand tells the loss"), ("xlstm-7b", "mark R: recurrent layers")):  # fmt: skip
        done = codesign(tmp_path, "predict", name, "--device", "thor")
        assert done.returncode == 0 and text in done.stdout, (name, done.stderr)
    done = codesign(
        tmp_path, "predict", "qwen3-8b", "--device", "orin", "--draft", "qwen3-0.6b", "--acceptance", "0.8", "--json"
    )
    s = json.loads(done.stdout)["speculation"]
    assert s["tokens"] == pytest.approx(3.3616) and s["decode_s"] == pytest.approx(s["step_s"] / s["tokens"])
    done = codesign(
        tmp_path,
        "predict",
        "qwen3-30b-a3b",
        "--device",
        "orin-nano",
        "--precision",
        "w4a16",
        "--tier",
        "flash=3GB/s",
        "--json",
    )
    t = json.loads(done.stdout)["tiers"]
    assert 0 < t["hit_rate"] < 1 and t["decode_s"] > t["all_resident_decode_s"]


def test_a_calibrated_host_searches_the_mixers_that_it_measured(tmp_path: Path) -> None:
    """Dense and Mamba-2 models are measured with torch; then a space with gated delta nets, too, is searched: none of them is in the answer."""
    pytest.importorskip("torch")
    names = []
    for n in (1, 2, 3, 4):
        base = {
            "n_layers": 2 * n,
            "d_model": 128,
            "n_heads": 4,
            "n_kv_heads": 1,
            "d_head": 32,
            "d_ff": 256,
            "vocab_size": 512,
        }
        mamba = {
            "recurrence": "mamba2", "n_recurrent_layers": n, "n_state_heads": 4, "d_state_value": 64, "d_state_key": 128, "n_state_groups": 1,
            "d_conv": 4, "state_norm": True, "family": "bamba",
        }  # fmt: skip
        for kind, arch in (("dense", Architecture(**base)), ("mamba", Architecture(**base, **mamba))):
            folder = tmp_path / f"{kind}{n}"
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config_dict(arch, max_position_embeddings=256)))
            names.append(str(folder))
    models = [part for name in names for part in ("--models", name)]
    done = codesign(
        tmp_path, "profile", "--device", "host", "--engine", "torch", *models, *SHORT, "--visits", "1", timeout=300
    )
    assert done.returncode == 0 and "8 architectures" in done.stdout, done.stderr
    done = codesign(tmp_path, "calibrate", "--device", "host")
    assert done.returncode == 0, done.stderr
    (tmp_path / "s.toml").write_text(
        '[axes]\nn_layers = [2, 4, 6]\nd_model = [128, 256]\nffn_ratio = [2.0]\nd_head = [32]\nn_kv_heads = [1]\nvocab_size = [512]\n'
        'experts = ["dense"]\nmixer = ["full", "mamba2:2", "gdn:2"]\n'
    )  # fmt: skip
    common = (
        "search",
        "--device",
        "host",
        "--engine",
        "torch",
        "--latency",
        "1s",
        "--space",
        "s.toml",
        *SHORT,
        "--vocab",
        "512",
        "--no-plot",
    )
    plain = codesign(tmp_path, *common, "--out", "own", "--objectives", "latency,params")
    assert plain.returncode in (0, 2)  # so small a model may lie outside the law's range: then the reason is said
    done = codesign(tmp_path, *common, "--out", "run", "--allow-extrapolation", "--objectives", "loss,latency,params")
    assert done.returncode == 0, done.stderr
    head, archs, rows = frontier(tmp_path / "run" / "frontier.jsonl")
    assert head["rates"]["fp32"]["decode"]["mixers"] == ["attention", "mamba2"]
    marks = {a.recurrence: set(r["marks"]) for a, r in zip(archs, rows, strict=True)}
    assert "latency:mixer" not in marks.get("mamba2", set()) | marks.get("none", set())
    assert all("latency:mixer" in m for kind, m in marks.items() if kind == "gdn")
    assert all(math.isfinite(r["values"]["latency_s"]) for r in rows)


def test_composing_trains_reduces_and_grows(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    arguments = ("compose", "--device", "orin", "--layers", "4", "--evaluations", "3", "--steps", "2", "--tasks", "recall,compress", "--keep", "3",
                 "--targets", "350M", "--out", "c")  # fmt: skip
    done = codesign(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "3 stacks trained" in done.stdout and "Grown, on Jetson AGX Orin" in done.stdout
    report = json.loads((tmp_path / "c" / "compose.json").read_text())
    assert set(report["aggregates"]) == {"rank", "cluster", "layerwise"}
    for row in report["grown"]:
        arch = read_config(tmp_path / "c" / "grown" / row["name"] / "config.json")
        assert arch.params_total == row["params"] and arch.layout == row["layout"]
    again = codesign(tmp_path, *arguments)
    assert again.returncode == 0 and again.stderr == ""  # nothing was left to train
    other = codesign(tmp_path, *arguments[:-2], "--out", "c", "--seed", "2")
    assert other.returncode == 2 and "is of a search with another seed" in other.stderr


def space_of(tmp_path: Path, mixers: list[str]) -> tuple[str, ...]:
    (tmp_path / "m.toml").write_text(
        f"[axes]\nn_layers = [4, 8]\nd_model = [1024, 2048]\nmixer = {json.dumps(mixers)}\n"
    )
    return "--space", "m.toml"


def test_mixers_that_no_design_can_have_are_named(tmp_path: Path) -> None:
    given = ("search", *ORIN, "--allow-extrapolation", "--no-plot", "--out", "run")
    done = codesign(tmp_path, *given, *space_of(tmp_path, ["full", "mlstm:100"]))
    assert done.returncode == 0, done.stderr
    assert "mixer mlstm:100: no design of this space can have it; it needs at least 100 layers" in done.stdout
    none = codesign(tmp_path, *given, *space_of(tmp_path, ["mla:5000", "mlstm:100"]), "--objectives", "size,latency")
    assert none.returncode in (2, 3) and "mla:5000 needs a width above 5000" in none.stderr
    both = codesign(tmp_path, *given, *space_of(tmp_path, ["mlstm:4"]), "--families", "hybrid")
    assert both.returncode == 2 and "both say what is searched" in both.stderr
    zero = codesign(tmp_path, *given, *space_of(tmp_path, ["window:0:6"]))
    assert zero.returncode == 2 and "must be from 1 to 1000000" in zero.stderr and "not 1" not in zero.stderr


def test_predict_shows_the_marks_that_search_shows(tmp_path: Path) -> None:
    shown = codesign(tmp_path, "predict", "deepseek-v2-lite", "--device", "orin", "--serving", "kv-budget-tokens=64")
    assert shown.returncode == 0, shown.stderr
    for text in (
        "mark X: no model with these mixers",
        "mark $L: latent attention",
        "mark $bud: a KV cache cut to a budget",
        "of other models",
    ):
        assert text in shown.stdout, text
    assert "not predicted (see the marks)" in shown.stdout
    done = codesign(tmp_path, "predict", "deepseek-v2-lite", "--device", "orin", "--json")
    told = json.loads(done.stdout)
    assert told["loss"] is None and {"latency:mixer_here", "unpriced:latent"} <= set(told["marks"])
    small = json.loads(codesign(tmp_path, "predict", "qwen2.5-0.5b", "--device", "orin", "--json").stdout)
    assert "latency:size_here" in small["marks"] and small["loss"] > 2
    (tmp_path / "s.toml").write_text(SPACE)
    found = codesign(tmp_path, "search", *ORIN, "--space", "s.toml", "--baseline", "qwen2.5-0.5b", "--serving", "sparse-tokens=256", "--out", "run",
                     "--no-plot", "--allow-extrapolation")  # fmt: skip
    assert "its marks: " in found.stdout and "$spa" in found.stdout
    assert all("unpriced:sparse" in row["marks"] for row in frontier(tmp_path / "run" / "frontier.jsonl")[2])
