"""Starting a search from a run: the form, what it lets through, and a real search from start to run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import typer
from dashboard_pages import Browser, add_run
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.cli.main import app
from codesign.dashboard.search_form import FIELDS, FormError, check_form, from_command
from codesign.dashboard.search_job import SearchJobs

ASKED = {"device": "orin", "latency": "15ms", "space": "paper", "precision": "fp16"}


def test_every_field_is_an_option_of_the_command_with_its_default() -> None:
    """A default that the form shows is the one that the command takes; an empty field is left to the command."""
    search = typer.main.get_command(app).commands["search"]  # type: ignore[attr-defined]
    options = {
        name.removeprefix("--"): option for option in search.params for name in option.opts if name.startswith("--")
    }
    for field in FIELDS:
        default = options[field.name].default
        if field.flag:
            assert default is False
        else:
            assert field.default in ("", str(default)), field.name


def test_a_run_fills_the_form() -> None:
    filled = from_command([
        "codesign", "search", "-d", "orin", "--latency=20ms", "--precision", "fp16", "--precision", "int8,w4a16", "--prompt", "512",
        "--allow-extrapolation", "--out", "results/x", "--no-plot", "--json", "--baseline", "qwen2.5-0.5b", "--new-option", "3",
    ])  # fmt: skip
    told = {name: value for name, value in filled.values.items() if value}
    assert told["device"] == "orin" and told["latency"] == "20ms" and told["prompt"] == "512"
    assert told["precision"] == "fp16, int8,w4a16" and told["allow-extrapolation"] == "on" and "tokens" not in told
    assert filled.left_out == ("--new-option", "3")
    assert check_form(told) == [
        "--device=orin", "--latency=20ms", "--prompt=512", "--precision=fp16", "--precision=int8", "--precision=w4a16",
        "--baseline=qwen2.5-0.5b", "--allow-extrapolation",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command", [[], ["codesign"], ["codesign", "search"], ["codesign", "search", "--device"], ["x", "--", "-d"]]
)
def test_a_command_that_says_little_fills_little(command: list[str]) -> None:
    assert from_command(command).values["prompt"] == "1024"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("device", "", "give a device"),
        ("device", "orion", "did you mean 'orin'"),
        ("device", "../../etc/passwd", "is a file"),
        ("device", "/dev/zero", "is a file"),
        ("device", "x.toml", "is a file"),
        ("latency", "20", "has no unit"),
        ("latency", "-20ms", "above zero"),
        ("latency", "--out=/tmp/x", "is not a number"),
        ("memory", "8 bananas", "unknown unit 'bananas'"),
        ("prompt", "1e3", "whole number"),
        ("generate", "0", "at least 1"),
        ("batch", "-1", "whole number"),
        ("precision", "fp16, fp17", "unknown precision"),
        ("engine", "--help", "unknown engine"),
        ("power-mode", "9000W", "9000W"),
        ("tokens", "many", "is not a number"),
        ("space", "/etc/passwd", "is a file"),
        ("space", "nonsense", "no design space"),
        ("loss-law", "../x.json", "is a file"),
        ("loss-law", "gemstone", "did you mean 'gemstones'"),
        ("baseline", "~/model", "is a file"),
        ("baseline", "gpt-9", "unknown model"),
        ("vocab", "1", "at least 2"),
        ("objectives", "loss", "two or more"),
        ("objectives", "loss,beauty", "unknown objective"),
        ("solver", "magic", "unknown solver"),
        ("evaluations", "0", "at least 1"),
        ("confidence", "1.5", "between 0.5 and 1"),
        ("confidence", "nan", "between 0.5 and 1"),
        ("calibration", "/etc/passwd", "is a file"),
        ("calibration", "x", "unknown calibration"),
        ("seed", "-1", "at least 0"),
        ("allow-extrapolation", "--debug", "unknown choice"),
        ("latency", "2\n0ms", "cannot be shown"),
        ("device", "orin\0", "cannot be shown"),
        ("latency", "9" * 500 + "ms", "too long"),
        ("name", "../x", "letters, digits"),
        ("name", ".hidden", "letters, digits"),
        ("name", "-x", "letters, digits"),
        ("name", "a/b", "letters, digits"),
        ("name", "there", "is there already"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_its_field_and_nothing_starts(
    browser: Browser, field: str, value: str, said: str
) -> None:
    add_run(browser.results, "there")
    answer = browser.post("/search", {**ASKED, field: value})
    text = answer.get_data(as_text=True).replace("&#39;", "'")
    assert (
        answer.status_code == 422
        and said in text
        and f'id="error-{field}"' in text
        and f'href="#field-{field}"' in text
    )
    assert not browser.jobs.jobs and sorted(path.name for path in browser.results.iterdir()) == ["there"]


def test_a_bound_is_needed() -> None:
    with pytest.raises(FormError, match="at least one bound"):
        check_form({"device": "orin"})


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([f.name for f in FIELDS]),
        st.one_of(st.text(max_size=15), st.sampled_from(["orin", "20ms", "--out=x", "-d", "8GB", "1", "fp16", "on"])),
    )
)
def test_whatever_is_typed_becomes_known_options_or_an_error(values: dict[str, str]) -> None:
    """Each argument is --name=value of a known field: no value can be an option of its own."""
    try:
        arguments = check_form({"device": "orin", "latency": "20ms", **values})
    except FormError as error:
        assert error.errors
        return
    assert {text.partition("=")[0] for text in arguments} <= {f"--{f.name}" for f in FIELDS}
    assert not any("\0" in text or "\n" in text for text in arguments)


def test_a_file_of_the_run_itself_may_be_used_again_and_no_other(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("space.toml", "other.toml"):
        (tmp_path / name).write_text("[axes]\nn_layers = [4]\n")
    add_run(browser.results, changes=(('"20ms", ', '"20ms", "--space", "space.toml", '),))
    begun: list[list[str]] = []

    def start(_: Any, arguments: list[str], name: str, **__: Any) -> Any:
        begun.append(arguments)
        return browser

    monkeypatch.setattr(SearchJobs, "start", start)
    monkeypatch.setattr(Browser, "number", 1, raising=False)
    assert 'value="space.toml"' in browser.text("/search?from=orin-20ms")
    asked = {"device": "orin", "latency": "20ms", "space": "space.toml"}
    assert browser.post("/search", {**asked, "from": "orin-20ms"}).status_code == 303
    assert begun == [["--device=orin", "--latency=20ms", "--space=space.toml"]]
    assert browser.post("/search", asked).status_code == 422
    assert browser.post("/search", {**asked, "space": "other.toml", "from": "orin-20ms"}).status_code == 422


def test_a_dashboard_that_others_reach_starts_nothing(tmp_path: Path) -> None:
    wide = Browser(tmp_path, host="0.0.0.0")
    assert "has no log-in" in wide.text("/search")
    assert wide.post("/search", ASKED).status_code == 403 and not wide.jobs.jobs


def wait(browser: Browser, status: str, path: str) -> str:
    for _ in range(600):
        text = browser.text(path)
        if f'<span class="badge {status}">' in text:
            return text
        time.sleep(0.2)
    raise AssertionError(text)


def test_a_search_runs_and_its_run_appears(browser: Browser) -> None:
    answer = browser.post("/search", {**ASKED, "name": "mine"})
    assert answer.status_code == 303 and answer.headers["Location"] == "/search/1"
    again = browser.post("/search", {**ASKED, "name": "second"})
    assert again.status_code == 422 and "under way" in again.get_data(as_text=True)
    text = wait(browser, "finished", "/search/1")
    assert (
        f"codesign search --device=orin --latency=15ms --precision=fp16 --space=paper --out={browser.results}/mine"
        in text
    )
    assert 'href="/runs/mine"' in text and "data-refresh" not in text and "Jetson AGX Orin" in text
    assert 'value="15ms"' in browser.text("/search?from=mine")
    assert "Certificate" in browser.text("/runs/mine")


def test_a_search_that_fails_shows_its_line(browser: Browser) -> None:
    browser.post("/search", {**ASKED, "latency": "1us"})
    text = wait(browser, "failed", "/search/1")
    assert "error: no design meets the budget" in text and "Open the run" not in text
    again = browser.text("/search?again=1")
    assert 'value="1us"' in again and 'name="again" value="1"' in again
    browser.text("/search?again=7", 404)


def test_a_search_can_be_stopped(browser: Browser) -> None:
    browser.post("/search", {**ASKED, "solver": "heuristic", "evaluations": "1000000000", "name": "long"})
    assert "data-refresh" in wait(browser, "running", "/search/1")
    assert browser.post("/search/1/stop", {}).status_code == 303
    wait(browser, "stopped", "/search/1")
    assert browser.jobs.current is None and not (browser.results / "long").exists()
    assert browser.post("/search/9/stop", {}).status_code == 404
    assert 'value="long"' not in browser.text("/")


def test_names_do_not_collide(browser: Browser) -> None:
    folders = browser.app.extensions["codesign"].folders
    assert folders.free_name("a") == "a"
    add_run(browser.results, "a")
    add_run(browser.results, "a-2")
    assert folders.free_name("a") == "a-3"
