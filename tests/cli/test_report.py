"""`codesign report` as people type it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from command_line import codesign

EXAMPLE = Path(__file__).parents[2] / "results" / "example"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "example"
    folder.mkdir(parents=True)
    shutil.copy(EXAMPLE / "frontier.jsonl", folder)
    return folder


def test_a_page_and_its_pictures_beside_the_run(run: Path, tmp_path: Path) -> None:
    done = codesign(tmp_path, "report", "results/example")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith("written: results/example/report.html (5") and "pictures" in done.stdout
    names = {path.name for path in run.iterdir()}
    assert {"report.html", "report-frontier.png", "report-frontier.svg", "report-trust.png"} <= names
    assert "Jetson AGX Orin 64 GB" in (run / "report.html").read_text()


def test_another_place_and_no_pictures(run: Path, tmp_path: Path) -> None:
    done = codesign(tmp_path, "report", "results/example", "--out", "pages/orin.html", "--no-pictures")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["orin.html"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["results/none"], "no run at results/none"),
        (["results/example", "--out", "page.pdf"], "is not an HTML file"),
        (["results/example", "--loss-law", "nosuch"], "unknown loss law 'nosuch'"),
        (["results/example", "--calibration", "nosuch.json"], "device and rates are those written in the run"),
        (["."], "cannot read the frontier"),
    ],
)
def test_errors_are_one_line(run: Path, tmp_path: Path, arguments: list[str], text: str) -> None:
    done = codesign(tmp_path, "report", *arguments, "--no-pictures")
    assert text in done.stdout + done.stderr and "Traceback" not in done.stderr
    if done.returncode:
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_without_the_extra_it_says_what_to_install(run: Path, tmp_path: Path) -> None:
    """A package that hides jinja2 comes first on the path."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "jinja2.py").write_text("raise ImportError('no jinja2')")
    done = codesign(
        tmp_path, "report", "results/example", PYTHONPATH=str(hidden) + os.pathsep + os.pathsep.join(sys.path[:0])
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: the review page needs the package 'jinja2', which is not installed; pip install 'codesign-llm[report]'\n"
    )


def test_what_differs_here_is_told(run: Path, tmp_path: Path) -> None:
    head, *lines = (run / "frontier.jsonl").read_text().splitlines()
    data = json.loads(head)
    data["device"]["bandwidth_Bps"] = 150e9
    (run / "frontier.jsonl").write_text("\n".join([json.dumps(data), *lines]) + "\n")
    done = codesign(tmp_path, "report", "results/example", "--no-pictures")
    assert done.returncode == 0 and "note: bandwidth, B/s: 1.5e+11 in the run, 2.048e+11 here" in done.stdout
