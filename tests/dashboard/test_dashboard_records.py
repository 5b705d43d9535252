"""Training runs and measurements of a store."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from dashboard_pages import Browser, fill_store, measured, trained

from codesign.dashboard.charts import MOST_CURVES, loss_curves, times_over_parameters
from codesign.dashboard.measured_rows import measured_rows
from codesign.dashboard.tables import MOST_ROWS, Column, make_table
from codesign.dashboard.training_rows import campaign_rows, share_done
from codesign.store import Store


def store_of(browser: Browser) -> Path:
    return Path(browser.app.extensions["codesign"].settings.store)


def chart(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="chart-data">(.*?)</script>', text, re.S)
    return json.loads(found[1]) if found else None


def test_without_a_store_the_pages_say_what_fills_it(browser: Browser) -> None:
    assert "codesign profile --device host" in browser.text("/measurements")
    assert "codesign train" in browser.text("/training")
    assert not store_of(browser).exists()


def test_a_file_that_is_no_store_is_an_error_in_one_line(browser: Browser) -> None:
    store_of(browser).write_text("not a database, and long enough to be looked into " * 20)
    assert "not a database" in browser.text("/measurements", 400)


def test_measurements_are_folded_filtered_and_drawn(browser: Browser) -> None:
    fill_store(store_of(browser))
    text = browser.text("/measurements")
    # visits of 10 and 12 ms, then 11 and 13: medians 11 and 12, the smaller one is the time
    for shown in ("2 passes, 3 visits", "decode at 256", "11 ms", "11 ms to 12 ms", "prefill of 64", "drift"):
        assert shown in text, shown
    data = chart(text)["data"]
    assert [trace["name"] for trace in data] == ["decode, torch, fp32, host", "prefill, onnxruntime, fp32, host"]
    assert (
        data[0]["y"] == [11.0]
        and data[0]["error_y"]["arrayminus"] == [0.0]
        and abs(data[0]["error_y"]["array"][0] - 1) < 1e-9
    )
    assert "1 pass, 2 of 3 visits" in browser.text("/measurements?phase=decode")
    assert "No measurement meets these filters" in browser.text("/measurements?engine=none")


def test_training_runs_are_listed_filtered_and_drawn(browser: Browser) -> None:
    fill_store(store_of(browser))
    text = browser.text("/training")
    for shown in (
        "2.3457",
        "(1.2750)",
        "50% seen",
        "loss is nan",
        "under way",
        'data-refresh="5"',
        '<progress max="1" value="0.7500"',
    ):
        assert shown in text, shown
    names = [trace["name"] for trace in chart(text)["data"]]
    assert names == ["2 × 64, finished", "2 × 128, running", "2 × 192, diverged"]
    assert [trace["name"] for trace in chart(browser.text("/training?status=running"))["data"]] == ["2 × 128, running"]
    assert "No run meets these filters" in browser.text("/training?campaign=none")


def test_a_curve_is_of_validation_losses_where_there_are_any() -> None:
    drawn = loss_curves([trained(4), trained(1, width=128)])["data"]
    assert drawn[0]["x"] == [1024, 2048] and drawn[0]["y"] == [2.55, 1.275] and "validation" in drawn[0]["text"]
    assert drawn[1]["y"] == [5.0] and "training" in drawn[1]["text"]
    assert loss_curves([trained(0)])["data"] == []
    assert len(loss_curves([trained(4, width=64 * k) for k in range(1, 100)])["data"]) == MOST_CURVES


def test_a_loss_that_is_not_finite_is_not_drawn_and_the_page_is_strict_json(browser: Browser) -> None:
    run = trained(4, status="diverged", reason="loss is nan")
    points = tuple(replace(point, train_loss=float("nan"), valid_loss=None) for point in run.curve)
    with Store(store_of(browser)) as store:
        store.add_runs([replace(run, curve=points)])
    assert chart(browser.text("/training")) is None


def test_progress_of_a_campaign() -> None:
    """Of the runs that were not given up: 8 of 8 batches and 4 of 8 are 75 %."""
    (row,) = campaign_rows([trained(), trained(4, width=128), trained(2, width=192, status="diverged", reason="nan")])
    assert row.share == 0.75 and row.under_way and row.best == 2.345678
    assert row.counts == {"finished": 1, "stopped": 0, "diverged": 1, "running": 1}
    assert share_done(trained(2)) == 0.25
    (given_up,) = campaign_rows([trained(2, status="stopped", reason="late")])
    assert given_up.share == 0.0 and not given_up.under_way and given_up.best is None


def test_series_are_one_a_kind_of_pass() -> None:
    rows = measured_rows([measured(k, engine=engine) for k, engine in enumerate("abc")])
    assert len(times_over_parameters(rows)["data"]) == 3


def test_unknown_values_sort_last_both_ways_and_long_tables_are_cut() -> None:
    column: Column[float | None] = Column(key="x", title="x", text=str, order=lambda value: value)
    for asked in ({"sort": "x", "dir": "up"}, {"sort": "x", "dir": "down"}):
        assert make_table([column], [None, 2.0, float("nan"), 1.0], asked).rows[2:][0] is None
    table = make_table([column], [float(k) for k in range(2 * MOST_ROWS)], {"sort": "x", "dir": "down"})
    assert len(table.rows) == MOST_ROWS and table.total == 2 * MOST_ROWS and table.rows[0] == 2 * MOST_ROWS - 1


def test_a_new_record_is_on_the_page_and_campaigns_are_apart(browser: Browser) -> None:
    fill_store(store_of(browser))
    assert "2 passes, 3 visits" in browser.text("/measurements")
    with Store(store_of(browser)) as store:
        store.add(measured(3, campaign="second"))
    assert "2 passes, 4 visits" in browser.text("/measurements")
    assert "1 pass, 1 of 4 visits" in browser.text("/measurements?campaign=second")
    assert "2 passes, 3 of 4 visits" in browser.text("/measurements?campaign=first")
