"""The list of runs, one run, its files and its report."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from dashboard_pages import Browser, add_run

import codesign.predictors
from codesign.dashboard import made_pages


def rows(text: str) -> list[str]:
    """The names in the table of runs, in order."""
    return [part.split('"')[0] for part in text.split('name="run" value="')[1:]]


def test_without_results_the_page_says_what_fills_it(browser: Browser) -> None:
    assert "codesign search --device orin --latency 20ms" in browser.text("/")


def test_a_run_is_listed_with_what_tells_it_from_others(browser: Browser) -> None:
    add_run(browser.results)
    text = browser.text("/")
    for shown in ("orin-20ms", "Jetson AGX Orin 64 GB", "MAXN, vllm", "latency ≤ 20 ms", "1,024 in, 128 out", "fp16", "63",
                  "2.808", "exact", "1,207,206 evaluated", "make report", "start from it"):  # fmt: skip
        assert shown in text, shown


def test_filter_and_sort(browser: Browser) -> None:
    for number, (name, title) in enumerate((("b", "Jetson Thor"), ("a", "RTX 4090"), ("c", "RTX 4090"))):
        folder = add_run(browser.results, name, changes=(('"Jetson AGX Orin 64 GB"', f'"{title}"'),))
        os.utime(folder / "frontier.jsonl", (1e9 + number, 1e9 + number))
    assert rows(browser.text("/")) == ["c", "a", "b"]  # the newest first
    assert rows(browser.text("/?sort=name&dir=up")) == ["a", "b", "c"]
    assert rows(browser.text("/?sort=name&dir=down")) == ["c", "b", "a"]
    assert 'aria-sort="descending"' in browser.text("/?sort=name&dir=down")
    assert rows(browser.text("/?sort=nonsense")) == ["c", "a", "b"]
    assert rows(browser.text("/?device=RTX+4090&sort=name")) == ["a", "c"]
    assert rows(browser.text("/?q=THOR+20")) == ["b"]
    assert "No run meets these filters" in browser.text("/?q=nothing")


def test_sort_links_keep_the_filter_and_nothing_else_of_the_address(browser: Browser) -> None:
    add_run(browser.results)
    assert 'href="/?q=orin&amp;sort=device&amp;dir=up"' in browser.text("/?q=orin")
    assert "javascript:" not in browser.text("/?_scheme=javascript&_external=1&_anchor=x").replace(
        "_scheme=javascript", ""
    )


def test_a_run_that_cannot_be_read_is_named_with_the_reason(browser: Browser) -> None:
    add_run(browser.results)
    for name, text in (("torn", '{"schema": "codesign.fro'), ("empty", ""), ("newer", '{"schema": "codesign.frontier", "version": 99}'),
                       ("bare", '{"schema": "codesign.frontier", "version": 1}')):  # fmt: skip
        (browser.results / name).mkdir()
        (browser.results / name / "frontier.jsonl").write_text(text)
    shown = browser.text("/")
    assert rows(shown) == ["orin-20ms"]
    for name, why in (("torn", "not JSON"), ("empty", "frontier"), ("newer", "version 99"), ("bare", "KeyError")):
        assert f"<strong>{name}</strong> cannot be read: " in shown and why in shown
    assert "version 99" in browser.text("/runs/newer")


@pytest.mark.parametrize(
    "value", ["null", "[]", "{}", '"x"', "-1", "Infinity", "NaN", "1e999", "true", "[" * 50_000 + "]" * 50_000]
)
def test_nothing_that_a_first_line_says_breaks_the_list(browser: Browser, value: str) -> None:
    """Each part of it in turn is something else: the run is shown, or named with the reason."""
    head, *rest = (add_run(browser.results, "good") / "frontier.jsonl").read_text().splitlines()
    parts = [*json.loads(head), "workload.prompt_tokens", "budget.latency_s", "device.title", "space.axes", "law.name"]
    for number, part in enumerate(parts):
        facts = json.loads(head)
        inner = facts
        *path, last = part.split(".")
        for key in path:
            inner = inner[key]
        inner[last] = "PLACE"
        folder = browser.results / f"run-{number}"
        folder.mkdir()
        (folder / "frontier.jsonl").write_text("\n".join([json.dumps(facts).replace('"PLACE"', value), rest[0]]))
    text = browser.text("/")
    assert all(f"run-{number}" in text for number in range(len(parts)))
    for number in range(len(parts)):
        browser.text(f"/runs/run-{number}")


def test_a_run_that_is_written_again_is_read_again(browser: Browser) -> None:
    add_run(browser.results)
    assert "2.808" in browser.text("/")
    path = browser.results / "orin-20ms" / "frontier.jsonl"
    head, first, *_ = path.read_text().splitlines()
    path.write_text(f"{head}\n{first}\n")
    assert "2.808" not in browser.text("/") and "3.334" in browser.text("/")


def test_one_run_and_its_files(browser: Browser) -> None:
    folder = add_run(browser.results)
    text = browser.text("/runs/orin-20ms")
    assert "codesign search --device orin --latency 20ms --baseline qwen2.5-0.5b" in text
    assert "4 layers × 1216, 19 heads (1 KV) of 64, FFN 4864" in text and "5.01 ms" in text
    answer = browser.get("/runs/orin-20ms/frontier.csv")
    assert answer.data == (folder / "frontier.csv").read_bytes()
    assert answer.headers["Content-Disposition"] == "attachment; filename=orin-20ms-frontier.csv"
    assert json.loads(browser.get("/runs/orin-20ms/designs/design-1/config.json").data)["num_hidden_layers"] == 4
    assert browser.get("/runs/orin-20ms/pareto.png").mimetype == "image/png"
    for missing in (
        "/runs/none",
        "/runs/orin-20ms/designs/design-2/config.json",
        "/runs/none/frontier.csv",
        "/runs/none/report",
    ):
        browser.text(missing, 404)


def test_designs_can_be_sorted(browser: Browser) -> None:
    add_run(browser.results)
    assert browser.text("/runs/orin-20ms?sort=params&dir=down").index("design-63") < browser.text(
        "/runs/orin-20ms?sort=params&dir=down"
    ).index("design-1 ")


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that a report was made of."""
    made: list[str] = []

    def make(folder: Path, _: object) -> None:
        made.append(folder.name)
        (folder / "report.html").write_text("<title>report</title><script>parent</script>")

    monkeypatch.setattr(made_pages, "_make", make)
    return made


def test_a_report_is_made_once_and_again_when_the_run_is_newer(browser: Browser, making: list[str]) -> None:
    folder = add_run(browser.results)
    os.utime(folder / "frontier.jsonl", (1e9, 1e9))
    assert "make report" in browser.text("/")
    assert "<title>report</title>" in browser.text("/runs/orin-20ms/report")
    assert "open report" in browser.text("/")
    browser.text("/runs/orin-20ms/report")
    assert making == ["orin-20ms"]
    os.utime(folder / "report.html", (9e8, 9e8))
    assert "make again report" not in browser.text("/") and "renew report" in browser.text("/")
    browser.text("/runs/orin-20ms/report")
    assert making == ["orin-20ms"] * 2


def test_a_report_has_an_origin_of_its_own(browser: Browser, making: list[str]) -> None:
    """What is in it can neither read this dashboard nor send its forms."""
    add_run(browser.results)
    policy = browser.get("/runs/orin-20ms/report").headers["Content-Security-Policy"]
    assert "sandbox allow-scripts" in policy and "allow-same-origin" not in policy and "default-src 'none'" in policy
    assert "form-action 'none'" in policy


def test_comparing_takes_two_runs_that_are_there(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(browser.results, "a")
    add_run(browser.results, "b")
    monkeypatch.setattr(
        made_pages, "_compare", lambda folders: f"<p>{' and '.join(folder.name for folder in folders)}</p>"
    )
    assert "<p>a and b</p>" in browser.text("/compare?run=a&run=b")
    assert "two runs or more" in browser.text("/compare?run=a&run=a", 400)
    assert "two runs or more" in browser.text("/compare", 400)
    browser.text("/compare?run=a&run=..%2Fb", 404)


def test_a_report_that_cannot_be_made_says_why(browser: Browser) -> None:
    add_run(browser.results, changes=(('"name": "gemstones"', '"name": "a law of mine"'),))
    assert "a law of mine" in browser.text("/runs/orin-20ms/report", 400)
    assert not (browser.results / "orin-20ms" / "report.html").exists()


def test_a_report_is_made_with_the_files_that_the_run_was_made_with(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = tmp_path / "mine.json"
    law.write_text((Path(codesign.predictors.__file__).parent / "laws" / "gemstones.json").read_text())
    add_run(
        browser.results,
        changes=(('"name": "gemstones"', '"name": "mine"'), ('"20ms", ', f'"20ms", "--loss-law", "{law}", ')),
    )
    assert "Jetson AGX Orin" in browser.text("/runs/orin-20ms/report")
