"""`codesign compare`: what compares, differences by hand and against the law, the command line, and the page in a browser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from review_pages import EXAMPLE, HOST_EXAMPLE, Opened
from small_runs import problem, write_small

from codesign.cli.main import main
from codesign.errors import SchemaError, SpecError
from codesign.predictors import load_law
from codesign.predictors.quantisation import quantisation_penalty
from codesign.report.compare import Run, compare_runs, read_runs
from codesign.report.compare_page import build_comparison, draw_comparison, summary_lines, warnings_of
from codesign.report.page import write_page
from codesign.search import Candidate, Frontier
from codesign.workload import PRECISIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that differ in one thing each."""
    root = tmp_path_factory.mktemp("runs")
    write_small(root / "orin", problem(latency_s=0.02))
    write_small(root / "thor", problem(device="thor", latency_s=0.02))
    write_small(root / "w4", problem(latency_s=0.02, axes={"precision": ("w4a16",)}))
    write_small(root / "tight", problem(latency_s=0.01))
    write_small(root / "longer", problem(latency_s=0.02, tokens=20e9))
    write_small(root / "words", problem(latency_s=0.02, axes={"vocab_size": (151936,)}))
    write_small(root / "law", problem(latency_s=0.02, law="deepmind-moe", allow_extrapolation=True))
    write_small(root / "whole", problem(e2e_s=2.0, objectives=("loss", "e2e")))
    return root


def runs(folder: Path, *names: str) -> list[Run]:
    return read_runs([folder / name for name in names])


def test_runs_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    for given, error, words in (
        ([folder / "orin"], SpecError, "allowed: 2 to 12"),
        ([folder / "orin", folder / "orin" / ".." / "orin"], SpecError, "given twice"),
        ([folder / "orin", tmp_path / "none"], SchemaError, "no run at"),
        ([folder / "orin", tmp_path], SchemaError, "cannot read the frontier"),
    ):
        with pytest.raises(error, match=words):
            read_runs(given)


def test_names_that_are_the_same_get_their_parents(tmp_path: Path) -> None:
    found = problem(latency_s=0.02)
    a, b = write_small(tmp_path / "one" / "run", found), write_small(tmp_path / "two" / "run", found)
    assert [r.name for r in read_runs([a, b])] == ["one/run", "two/run"]
    c = compare_runs(read_runs([a, b]))
    assert not any(row.differs for row in c.inputs) and c.reasons == {} and len(c.groups) == 1
    assert all(s.difference in (None, 0.0) for group in c.standings for s in group)
    assert "have the same inputs" in build_comparison(c)


def test_losses_compare_only_under_one_law_tokens_and_vocabulary(folder: Path) -> None:
    c = compare_runs(runs(folder, "orin", "thor", "longer", "words", "law", "w4"))
    assert c.groups == (("orin", "thor", "w4"), ("longer",), ("words",), ("law",))
    assert c.reasons == {
        "longer": "losses of longer do not compare with those of orin: it counts 20B training tokens, not 10B",
        "words": "losses of words do not compare with those of orin: its vocabulary has 151,936 tokens, not 50,304",
        "law": "losses of law do not compare with those of orin: its loss law is deepmind-moe, not gemstones",
    }
    assert {s.run for s in c.standings[0]} == {"orin", "thor", "w4"}
    assert all(s.difference is None for group in c.standings[1:] for s in group)


def test_inputs_that_differ(folder: Path) -> None:
    def differing(*names: str) -> set[str]:
        return {row.name for row in compare_runs(runs(folder, *names)).inputs if row.differs}

    assert differing("orin", "w4") == {"precision"}
    assert differing("orin", "tight") == {"budget"}
    assert differing("orin", "longer") == {"training tokens"}
    assert differing("orin", "words") == {"vocabulary"}
    assert differing("orin", "whole") == {"budget", "objectives"}
    assert {"device", "memory free"} <= differing("orin", "thor") <= {"device", "memory free", "power mode", "engine"}


def by_hand(folder: Path, points: list[tuple[float, float]], bound: float, name: str) -> Run:
    """A run whose designs are given as (seconds, loss), in the clothes of a real one."""
    (real, _) = runs(folder, "orin", "tight")
    shape: Candidate = real.candidates[0]
    designs = tuple(
        replace(shape, name=f"design-{i + 1}", loss=loss, values={**shape.values, "latency_s": seconds})
        for i, (seconds, loss) in enumerate(points)
    )
    budget = {"latency_s": bound, "confidence": 0.5}
    return Run(name=name, frontier=Frontier(candidates=designs, provenance={**real.provenance, "budget": budget}))


def test_equal_budgets_by_hand(folder: Path) -> None:
    """Bounds 10 and 20 ms. Within 10 ms: 2.9 against 3.1 (+0.2); within 20 ms: 2.7 against 2.6 (-0.1), times 18 and 12 ms."""
    a = by_hand(folder, [(0.005, 3.0), (0.009, 2.9), (0.018, 2.7)], 0.02, "a")
    b = by_hand(folder, [(0.008, 3.1), (0.012, 2.6)], 0.01, "b")
    late = by_hand(folder, [(0.015, 2.0)], 0.02, "late")
    c = compare_runs([a, b, late])
    assert c.key == "latency_s" and c.bounds == (0.01, 0.02)
    shown = {(s.run, s.bound): s for s in c.standings[0]}
    assert shown["b", 0.01].difference == pytest.approx(0.2) and shown["b", 0.02].difference == pytest.approx(-0.1)
    assert shown["b", 0.02].ratio == pytest.approx(12 / 18)
    assert shown["late", 0.01].design is None and shown["late", 0.01].difference is None
    assert shown["a", 0.01].design is not None and shown["a", 0.01].difference is None


def test_intervals_are_the_laws(folder: Path) -> None:
    """Shapes by `difference` of the law; 4-bit weights add the spread of their published price."""
    c = compare_runs(runs(folder, "orin", "thor", "w4"))
    law = load_law("gemstones")
    by_run = {(s.run, s.bound): s for s in c.standings[0]}
    base = by_run["orin", 0.02].design
    assert base is not None
    for name in ("thor", "w4"):
        s = by_run[name, 0.02]
        assert s.design is not None and s.interval is not None and s.difference is not None
        _, std = law.difference(s.design.architecture, base.architecture, 10e9)
        price = quantisation_penalty(
            s.design.architecture.params_active_nonembedding, 10e9, PRECISIONS[s.design.precision]
        )[1]
        half = 1.6448536 * math.hypot(float(std), float(price))
        assert s.interval == pytest.approx((s.difference - half, s.difference + half), rel=1e-6)


def test_warnings(folder: Path) -> None:
    assert warnings_of(compare_runs(runs(folder, "orin", "thor"))) == []
    notes = warnings_of(compare_runs(runs(folder, "orin", "whole", "law")))
    assert any("do not compare" in n for n in notes) and any("was not minimised by whole" in n for n in notes)
    assert any("keep designs outside" in n for n in notes)
    assert "the workloads differ" in " ".join(warnings_of(compare_runs(read_runs([folder / "orin", HOST_EXAMPLE]))))


def test_pictures_keep_groups_apart(folder: Path, tmp_path: Path) -> None:
    c = compare_runs(runs(folder, "orin", "thor", "law"))
    figure = draw_comparison(c)
    assert len(figure.axes) == 2
    assert [len(axes.get_legend().get_texts()) for axes in figure.axes] == [2, 1]
    figure.savefig(tmp_path / "compare.png", dpi=40)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "pages" / "both.html"
    assert main(["compare", str(folder / "orin"), str(folder / "law"), "--out", str(page)]) == 0
    out = capsys.readouterr().out
    assert "warning: losses of law do not compare with those of orin" in out and f"written: {page}" in out
    assert {p.name for p in page.parent.iterdir()} == {"both.html", "both-frontiers.png", "both-frontiers.svg"}
    assert page.stat().st_size < 8e6
    for arguments, words in (
        ([str(folder / "orin")], "allowed: 2 to 12"),
        ([str(folder / "orin"), str(folder / "thor"), "--out", str(tmp_path / "x.pdf")], "not an HTML file"),
        ([str(folder / "orin"), str(tmp_path / "gone")], "no run at"),
    ):
        assert main(["compare", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_lines_of_the_terminal(folder: Path) -> None:
    lines = summary_lines(compare_runs(runs(folder, "orin", "thor")))
    assert lines[0].startswith("A orin: Jetson AGX Orin 64 GB, best loss ")
    assert any(line.startswith("within 20 ms: B against A: loss -0.") for line in lines)


def test_a_broken_provenance_is_one_line(folder: Path, tmp_path: Path) -> None:
    text = (folder / "orin" / "frontier.jsonl").read_text().replace('"tokens": 10000000000.0, ', "")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "frontier.jsonl").write_text(text)
    with pytest.raises(SchemaError, match="provenance cannot be used"):
        compare_runs(read_runs([folder / "orin", tmp_path / "bad"]))


# ---- in the browser ---------------------------------------------------------------------------------------------------


def names_in(found: Opened, plot: str) -> list[str]:
    names: Any = found.page.evaluate(
        f"() => document.getElementById('{plot}').data.map((t) => t.name || '').filter((n) => n)"
    )
    return [str(n) for n in names]


def test_the_page(folder: Path, tmp_path: Path, opened: Callable[..., Opened]) -> None:
    """Two groups, two plots; the slider's table is what the runs hold; choosing a point shows its design."""
    found = runs(folder, "orin", "thor", "law")
    path = tmp_path / "compare.html"
    write_page(build_comparison(compare_runs(found)), path)
    shown = opened(path)
    page = shown.page
    shown.drawn("frontiers-plot-0")
    assert [n[:6] for n in names_in(shown, "frontiers-plot-0")] == ["A orin", "B thor"]
    shown.drawn("frontiers-plot-1")
    assert [n[:5] for n in names_in(shown, "frontiers-plot-1")] == ["C law"]
    assert "do not compare" in page.locator("header").inner_text()
    slider = page.locator("#frontiers-bound")
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    shown.frames(4)
    times = [c.values["latency_s"] for run in found for c in run.candidates]
    low, high = min(times), max(*times, 0.02)
    bound = low * (high / low) ** (int(slider.input_value()) / 400)
    rows = page.evaluate(
        "() => [...document.querySelectorAll('#frontiers-best tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    for run, row in zip(found, rows, strict=True):
        best = run.within("latency_s", bound)
        assert (
            row[2] == ("nothing fits" if best is None else f"{best.loss:.3f}") or abs(float(row[2]) - best.loss) < 6e-4
        )
    page.evaluate(
        "() => document.getElementById('frontiers-plot-0').emit('plotly_click', {points: [{customdata: [1, 'design-1']}]})"
    )
    assert "B thor, design-1" in page.locator("#frontiers-chosen").inner_text()
    page.select_option("#frontiers-x", "memory_B")
    page.locator("#frontiers-intervals").check()
    page.locator("#theme-toggle").click()
    shown.frames(4)
    assert page.locator("#inputs strong").count() >= 2


def test_names_are_escaped(tmp_path: Path, opened: Callable[..., Opened]) -> None:
    nasty = tmp_path / "<img src=x onerror=alert(1)>"
    write_small(nasty, problem(latency_s=0.02))
    path = tmp_path / "nasty.html"
    write_page(build_comparison(compare_runs(read_runs([nasty, EXAMPLE]))), path)
    shown = opened(path, viewport={"width": 1920, "height": 1080})
    shown.drawn("frontiers-plot-0")
    assert shown.page.locator("img").count() == 0
    assert nasty.name in shown.page.locator("h1").inner_text()
