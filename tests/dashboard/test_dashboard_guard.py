"""Hostile names, files, hosts and requests."""

from __future__ import annotations

import html
import os
import re
import stat
from pathlib import Path
from urllib.parse import quote

import pytest
from dashboard_pages import EXAMPLE, MARKUP, SECRET, Browser, add_run, fill_store, measured, trained
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesign.dashboard import Settings
from codesign.dashboard.guard import host_allowed
from codesign.dashboard.run_folders import inside
from codesign.store import Store

QUOTES = "\"><script>alert('1')<'"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the results that nobody may see."""
    folder = tmp_path / "outside"
    add_run(tmp_path, "outside")
    (folder / "frontier.csv").write_text(SECRET)
    (folder / "report.html").write_text(SECRET)
    (folder / "design-1" / "config.json").write_text(SECRET)
    return folder


@pytest.mark.parametrize(
    "name", [MARKUP, QUOTES.replace("/", ""), "a&b", "ünï çødé", "%2e%2e", "a b#c?d", "a..%2f", "x\ny", "{{ 12345*9 }}"]
)
def test_names_of_runs_are_escaped_and_lead_to_their_run(browser: Browser, name: str) -> None:
    add_run(browser.results, name)
    text = browser.text("/")
    assert "<img" not in text and "<script>" not in text and "111105" not in text
    (link,) = {html.unescape(found) for found in re.findall(r'href="(/runs/[^"/]+)"', text)}
    one = browser.text(link)
    assert "<img src=x" not in one and "<script>" not in one and "Designs" in one
    answer = browser.get(f"{link}/frontier.csv")
    assert answer.data == (EXAMPLE / "frontier.csv").read_bytes()
    assert "<script>" not in browser.text(f"/search?from={quote(name, safe='')}")


def test_what_a_frontier_says_is_escaped(browser: Browser) -> None:
    add_run(browser.results, changes=(
        ('"Jetson AGX Orin 64 GB"', f'"{MARKUP}"'), ('"design-1"', f'"{MARKUP}"'), ('"vllm"', f'"{MARKUP}"'),
        ('"qwen2.5-0.5b", "--out"', f'"{MARKUP}", "--out"'),
    ))  # fmt: skip
    for page in ("/", "/runs/orin-20ms", "/search?from=orin-20ms", f"/?q={quote(QUOTES)}"):
        text = browser.text(page)
        assert "<img src=x" not in text and "<script>alert" not in text
        assert "&lt;img" in text or "q=" in page


@pytest.mark.parametrize("design", ["", "..", "../../outside", "a/b", "x\\n", "%2e%2e", "."])
def test_a_design_of_any_name_is_listed_and_leads_nowhere_else(browser: Browser, outside: Path, design: str) -> None:
    add_run(browser.results, changes=(('"name": "design-1"', f'"name": "{design}"'),))
    links = re.findall(r'href="([^"]+/config.json)"', browser.text("/runs/orin-20ms"))
    answer = browser.get(html.unescape(links[0]))
    assert answer.status_code in (404, 308) and SECRET not in answer.get_data(as_text=True)


def test_what_a_store_says_is_escaped(browser: Browser) -> None:
    with Store(browser.app.extensions["codesign"].settings.store) as store:
        store.add(measured(engine=MARKUP, device="</script><script>alert(1)</script>"))
        store.add_runs([trained(campaign=MARKUP, data="</script><script>alert(1)</script>")])
    for page in ("/measurements", "/training"):
        text = browser.text(page)
        assert "<img" not in text and "<script>alert" not in text and "</script><script>" not in text


PATHS = ["..", "../outside", "..%2foutside", "%2e%2e", "%2e%2e/outside", "%2e%2e%2foutside", "..%5coutside", "%252e%252e%252foutside",
         "/etc", "%2fetc", "x%00", "..%00", ".", "", "orin-20ms/..%2f..%2foutside", "~", "file:%2f%2f%2fetc", "\\\\host\\share"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_results(browser: Browser, outside: Path, path: str) -> None:
    add_run(browser.results)
    for rest in ("", "/report", "/frontier.csv", "/pareto.png", "/designs/design-1/config.json"):
        answer = browser.get(f"/runs/{path}{rest}")
        assert answer.status_code in (404, 400, 308) and SECRET not in answer.get_data(as_text=True)
    for where in (f"/runs/orin-20ms/designs/{path}/config.json", f"/search?from={path}", f"/compare?run={path}&run=orin-20ms",
                  f"/static/{path}", f"/static/..%2f{path}"):  # fmt: skip
        answer = browser.get(where)
        assert SECRET not in answer.get_data(as_text=True)
        assert answer.status_code in (400, 404, 308) or where == "/search?from="


def test_links_that_lead_out_are_left_out(browser: Browser, outside: Path) -> None:
    run = add_run(browser.results)
    (browser.results / "linked").symlink_to(outside)
    (browser.results / "sly").mkdir()
    (browser.results / "sly" / "frontier.jsonl").symlink_to(outside / "frontier.jsonl")
    (browser.results / "loop").symlink_to(browser.results / "loop")
    for name in ("frontier.csv", "report.html"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside / name)
    (run / "design-1" / "config.json").unlink()
    (run / "design-1" / "config.json").symlink_to(outside / "design-1" / "config.json")
    (run / "design-2").symlink_to(outside / "design-1")
    text = browser.text("/")
    assert 'value="linked"' not in text and 'value="sly"' not in text and "2 left out" in text
    for path in ("linked/frontier.csv", "sly/frontier.csv", "linked/report", "linked", "sly", "orin-20ms/frontier.csv",
                 "orin-20ms/designs/design-1/config.json", "orin-20ms/designs/design-2/config.json"):  # fmt: skip
        assert SECRET not in browser.text(f"/runs/{path}", 404)
    assert "make report" in text  # the link is no report


def test_a_link_inside_the_results_is_fine(browser: Browser) -> None:
    add_run(browser.results, "first")
    (browser.results / "latest").symlink_to("first")
    assert 'value="latest"' in browser.text("/")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_a_folder_is_no_file(browser: Browser) -> None:
    run = add_run(browser.results)
    (run / "frontier.csv").unlink()
    os.mkfifo(run / "frontier.csv")
    (run / "pareto.png").unlink()
    (run / "pareto.png").mkdir()
    (browser.results / "piped").mkdir()
    os.mkfifo(browser.results / "piped" / "frontier.jsonl")
    assert 'value="piped"' not in browser.text("/")
    for name in ("frontier.csv", "pareto.png"):
        browser.text(f"/runs/orin-20ms/{name}", 404)
    assert stat.S_ISFIFO((run / "frontier.csv").stat().st_mode)


def test_a_name_of_other_bytes_is_left_out(browser: Browser) -> None:
    add_run(browser.results)
    try:
        os.rename(os.fsencode(add_run(browser.results, "other")), os.fsencode(browser.results) + b"/\xff\xfe")
    except OSError:
        pytest.skip("this file system keeps no such names")
    assert "1 left out" in browser.text("/")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.text(max_size=12), st.sampled_from(["..", ".", "outside", "a", "config.json", "link", "\0", "/", ""])
        ),
        max_size=4,
    )
)
def test_inside_never_leaves(tmp_path: Path, parts: list[str]) -> None:
    """Whatever is asked for: nothing, or a regular file in the folder."""
    base = tmp_path / "base"
    if not base.exists():
        (base / "a").mkdir(parents=True)
        (tmp_path / "outside").write_text(SECRET)
        (base / "a" / "config.json").write_text("{}")
        (base / "link").symlink_to(tmp_path / "outside")
        (base / "a" / "link").symlink_to(tmp_path)
    found = inside(base, *parts)
    assert found is None or (found.is_relative_to(base.resolve()) and found.read_text() == "{}")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8750", "127.0.0.1.evil.example", "localhost.evil.example", "",
                                  "evil@127.0.0.1", "127.0.0.1:port", "127.0.0.1/x", "192.168.1.5:8750", "[::1", "2130706433"])  # fmt: skip
def test_other_names_are_not_answered(browser: Browser, host: str) -> None:
    answer = browser.get("/", headers={"Host": host})
    assert answer.status_code in (400, 403)
    assert "Runs of" not in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8750", "localhost:8750", "LOCALHOST", "[::1]:8750", "localhost.", "127.0.0.1"]
)
def test_names_of_this_machine_are(browser: Browser, host: str) -> None:
    assert browser.get("/", headers={"Host": host}).status_code == 200


def test_with_another_host_numbers_and_the_given_name_are_answered_but_no_other_name() -> None:
    wide = Settings(host="0.0.0.0")
    assert host_allowed("192.168.1.5:8750", wide) and host_allowed("localhost", wide)
    assert not host_allowed("evil.example:8750", wide)
    assert host_allowed("board.lan:8750", Settings(host="board.lan"))


def test_answers_carry_a_policy_that_lets_nothing_else_in(browser: Browser) -> None:
    add_run(browser.results)
    fill_store(Path(browser.app.extensions["codesign"].settings.store))
    for page in (
        "/",
        "/runs/orin-20ms",
        "/training",
        "/measurements",
        "/search",
        "/nothing",
        "/static/dashboard.js",
        "/plotly.min.js",
    ):
        headers = browser.get(page).headers
        policy = headers["Content-Security-Policy"]
        assert (
            "default-src 'none'" in policy
            and "script-src 'self';" in policy
            and "unsafe" not in policy
            and "*" not in policy
        )
        assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        text = browser.get(page).get_data(as_text=True) if page.count(".") == 0 else ""
        assert "http://" not in text.replace("http://127.0.0.1", "") and "https://" not in text and "style=" not in text


def test_every_answer_has_a_nonce_of_its_own(browser: Browser) -> None:
    assert browser.get("/").headers["Content-Security-Policy"] != browser.get("/").headers["Content-Security-Policy"]


def test_the_cookie_stays_on_this_site(browser: Browser) -> None:
    cookie = browser.get("/search").headers["Set-Cookie"]
    assert "SameSite=Strict" in cookie and "HttpOnly" in cookie and cookie.startswith("codesign_dashboard_8750=")


def test_a_form_needs_the_token_of_its_session(browser: Browser, tmp_path: Path) -> None:
    asked = {"device": "orin", "latency": "20ms"}
    fresh = Browser(tmp_path)
    for token in ("", "-", "None", "x" * 40, browser.token, "é"):  # the last but one: of another session
        assert fresh.post("/search", asked, token=token).status_code == 403
        assert fresh.post("/search/1/stop", {}, token=token).status_code == 403
    bare = fresh.app.test_client().post("/search", data=asked, base_url=fresh.base)
    assert bare.status_code == 403 and not fresh.jobs.jobs


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8751"])
def test_a_form_of_another_site_is_refused_although_it_has_the_token(browser: Browser, origin: str) -> None:
    answer = browser.post("/search", {"device": "orin", "latency": "20"}, headers={"Origin": origin})
    assert answer.status_code == 403


def test_pages_change_nothing_by_other_methods(browser: Browser) -> None:
    for path in ("/", "/training", "/runs/x/report"):
        assert browser.post(path, {}).status_code == 405
    assert browser.get("/search/1/stop").status_code in (404, 405)


def test_a_body_that_is_too_large_is_refused(browser: Browser) -> None:
    assert browser.post("/search", {"device": "x" * 100_000}).status_code == 413
