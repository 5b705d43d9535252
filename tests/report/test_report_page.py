"""The page as a file: nothing to fetch, strict JSON, hostile names escaped, size; and its pictures."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from review_pages import EXAMPLE, ROOT, Opened, write_report
from small_runs import problem, write_small

pytest.importorskip("playwright", reason="playwright is not installed")
sys.path.insert(0, str(ROOT / "benchmarks"))

from report_page import many  # noqa: E402

from codesign.errors import SpecError  # noqa: E402
from codesign.report.page import SECTIONS, sections_of, write_page  # noqa: E402
from codesign.report.review import load_review  # noqa: E402
from codesign.report.section import column, significant  # noqa: E402
from codesign.report.static_pictures import write_pictures  # noqa: E402

HOSTILE = "\"'><img src=x onerror=alert(1)></script><script>alert(2)</script>&lt;"


def data_of(text: str) -> Any:
    """The page's data; JSON without NaN or infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in the page's data")

    raw = re.search(r'<script type="application/json" id="codesign-data">(.*?)</script>', text, re.S)
    assert raw is not None
    return json.loads(raw.group(1), parse_constant=refuse)


def test_the_file_refers_to_nothing_outside(example_report: Path) -> None:
    text = example_report.read_text()
    assert len(text.encode()) < 8e6
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", markup)
    assert "@import" not in markup and "url(" not in markup
    assert "default-src 'none'" in markup
    assert set(data_of(text)["sections"]) >= {"frontier", "roofline", "parallel", "trust"}


def test_the_same_run_gives_the_same_page(example_report: Path, tmp_path: Path) -> None:
    assert write_report(EXAMPLE, tmp_path / "again.html").read_bytes() == example_report.read_bytes()


def test_hostile_names_are_text(opened: Callable[..., Opened], tmp_path: Path) -> None:
    """In every place that a run's file can put text into the page: no element appears, no script runs."""
    run = tmp_path / "run <b>bold<"
    run.mkdir()
    head, *lines = (EXAMPLE / "frontier.jsonl").read_text().splitlines()
    data = json.loads(head)
    data["command"] = ["codesign", HOSTILE]
    data["certificate"] = data["engine"] = data["calibration"] = data["codesign"] = HOSTILE
    data["device"]["title"] = data["device"]["power_mode"] = HOSTILE
    data["device"]["name"] = "orin" + HOSTILE
    data["device"]["sources"] = {HOSTILE: HOSTILE}
    data["law"]["summary"] = HOSTILE
    data["space"]["name"] = HOSTILE
    data["baselines"][0]["candidate"]["name"] = HOSTILE
    data["baselines"][0]["candidate"]["marks"].append(HOSTILE)
    designs = [json.loads(line) for line in lines[:9]]
    designs[4]["name"] = HOSTILE
    designs[4]["marks"].append(f"outside:{HOSTILE}")
    (run / "frontier.jsonl").write_text("\n".join([json.dumps(data), *map(json.dumps, designs)]) + "\n")
    row = {
        "design": HOSTILE,
        "metric": "latency_s",
        "predicted": 0.005,
        "measured": 0.005,
        "interval_90": [0.004, 0.006],
        "inside": True,
        "error": 0.0,
    }
    summary = {
        HOSTILE: {"designs": 1, "mape_pct": 0.0, "max_pct": 0.0, "spearman": None, "coverage": 1.0, "repeat_pct": None}
    }
    facts = {
        "schema": "codesign.validation",
        "version": 1,
        "rows": [row],
        "summary": summary,
        "device": {"title": HOSTILE},
    }
    (run / "validation.json").write_text(json.dumps(facts))
    found = opened(write_report(run, tmp_path / "hostile.html"))
    page = found.page
    found.drawn("frontier-plot")
    page.evaluate("(name) => codesign.page.select(name)", HOSTILE)
    assert page.locator("#frontier-chosen").text_content() == HOSTILE
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    found.frames()
    assert page.evaluate("document.querySelectorAll('img, header b, h1 b').length") == 0
    assert HOSTILE in page.locator("h1").text_content()
    assert page.title().startswith(f"Deployment review: {HOSTILE}")


def test_five_thousand_designs(opened: Callable[..., Opened], tmp_path: Path) -> None:
    """The file stays below 8 MB; benchmarks/report_page.py measures how fast it opens."""
    path = write_report(many(5000, tmp_path / "run"), tmp_path / "many.html")
    assert path.stat().st_size < 8e6
    found = opened(path)
    found.drawn("frontier-plot")
    assert found.page.evaluate("codesign.page.designs.length") == 5000
    drawn = found.page.evaluate(
        "document.getElementById('frontier-plot').data.filter((t) => / \\(\\d+\\)$/.test(t.name || '')).reduce((n, t) => n + t.x.length, 0)"
    )
    assert drawn == 5000
    found.page.evaluate("codesign.page.select('design-4321')")
    assert found.page.locator("#frontier-chosen").text_content() == "design-4321"
    wanted = load_review(tmp_path / "run").frontier.candidates[4320]
    got = found.page.evaluate("codesign.page.design('design-4321')")
    assert got["values"]["latency_s"] == pytest.approx(wanted.values["latency_s"], rel=1e-3)
    assert got["marks"] == sorted(wanted.marks) and got["arch"]["d_model"] == wanted.architecture.d_model
    shown = json.loads(found.page.evaluate("codesign.page.config(codesign.page.design('design-4321'))"))
    assert shown["num_hidden_layers"] == wanted.architecture.n_layers


def test_one_design_only(opened: Callable[..., Opened], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "frontier.jsonl").write_text("\n".join((EXAMPLE / "frontier.jsonl").read_text().splitlines()[:2]) + "\n")
    found = opened(write_report(run, tmp_path / "one.html"))
    found.drawn("frontier-plot")
    assert "One design only" in found.page.locator("#parallel").inner_text()


@pytest.mark.parametrize("objectives", [("latency", "memory"), ("size", "latency")])
def test_a_run_without_losses_compares_costs(
    objectives: tuple[str, ...], opened: Callable[..., Opened], tmp_path: Path
) -> None:
    axes = {"mixer": ("full", "mla:256", "shared:2"), "experts": ((0, 0),)}
    run = write_small(tmp_path / "run", problem(objectives=objectives, axes=axes, allow_extrapolation=True))
    review = load_review(run)
    assert not review.loss_known and review.y_key == {"size": "params_active_nonembedding"}.get(
        objectives[0], "memory_B"
    )
    assert any(not c.loss_known for c in review.frontier.candidates)
    found = opened(write_report(run, tmp_path / "cost.html"))
    found.drawn("frontier-plot")
    text = found.page.locator("body").inner_text()
    assert "No data at hand tells the loss of mla:256, shared:2: this run compares cost alone." in text
    assert not found.page.locator("#regions").count() and not found.page.locator("#what-if").count()
    dark = next(c for c in review.frontier.candidates if not c.loss_known)
    assert found.page.evaluate(f"Number.isNaN(codesign.page.design('{dark.name}').values.loss)")
    found.page.evaluate(f"codesign.page.select('{dark.name}')")
    assert "not predicted" in found.page.locator("#frontier-details").inner_text()
    assert write_pictures(review, tmp_path / "cost.html", sections_of(review))


def test_pictures_are_written_as_png_and_svg(tmp_path: Path) -> None:
    """Every section of the page that has a picture; the same run gives the same bytes."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(EXAMPLE / "frontier.jsonl", run)
    review = load_review(run)
    own = ("frontier_section", "roofline_section", "parallel_section", "trust_section")
    assert set(own) <= set(SECTIONS)
    first = write_pictures(review, run / "report.html", own)
    assert sorted(p.name for p in first) == sorted(
        f"report-{k}.{e}" for k in ("frontier", "roofline", "parallel", "trust") for e in ("png", "svg")
    )
    before = {p.name: p.read_bytes() for p in first}
    assert all(b.startswith(b"\x89PNG") if n.endswith("png") else b"<svg" in b for n, b in before.items())
    again = write_pictures(review, run / "report.html", own)
    assert {p.name: p.read_bytes() for p in again} == before
    assert not list(run.glob(".*"))


def test_the_published_rows_are_those_of_the_results() -> None:
    """What the package ships for the calibration plot is results/latency_validation.csv, fewer columns."""
    shipped = list(csv.DictReader((ROOT / "codesign/report/data/latency_held_out.csv").open()))
    results = list(csv.DictReader((ROOT / "results/latency_validation.csv").open()))
    assert shipped == [{key: row[key] for key in shipped[0]} for row in results]


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="cannot write the report"):
        write_page("x", tmp_path / "file" / "report.html")


def test_columns() -> None:
    """By hand: 70 levels take two letters each; 70 = 1 * 64 + 6."""
    values = list(range(70)) * 5 + [69]
    packed = column(values)
    assert packed["w"] == 2 and packed["at"].endswith("BF") and len(packed["at"]) == 2 * len(values)
    assert column([1.5, 2.5, 3.5]) == [1.5, 2.5, 3.5]
    assert significant(0.000123456, 3) == 0.000123 and significant(2.0) == 2
