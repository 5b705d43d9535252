"""The store: training runs and measurements."""

from __future__ import annotations

from flask import render_template, request

from codesign.dashboard import measured_rows, training_rows
from codesign.dashboard.charts import MOST_CURVES, loss_curves, times_over_parameters
from codesign.dashboard.tables import filter_of, make_table
from codesign.dashboard.views_runs import state
from codesign.store import Store

__all__ = ["measurements", "training"]


def training() -> str:
    """Training runs, their curves, and how far each campaign is."""
    with Store(state().settings.store, create=False) as store:
        every, place = store.find_runs(), store.name
    asked = {name: request.args.get(name, "") for name in ("campaign", "status", "data")}
    shown = [run for run in every if all(value in ("", getattr(run, name)) for name, value in asked.items())]
    table = make_table(training_rows.COLUMNS, shown, request.args)
    campaigns = training_rows.campaign_rows(every)
    return str(
        render_template(
            "training.html", page="training", title="Training runs", table=table, place=place, every=len(every),
            campaigns=campaigns, chart=loss_curves(table.rows), most=MOST_CURVES,
            live=any(campaign.under_way for campaign in campaigns),
            filters=[filter_of("campaign", "Campaign", (run.campaign for run in every), request.args),
                     filter_of("status", "Status", (run.status for run in every), request.args),
                     filter_of("data", "Data", (run.data for run in every), request.args)],
        )
    )  # fmt: skip


def measurements() -> str:
    """Measured passes with their spread, and time over parameters."""
    with Store(state().settings.store, create=False) as store:
        every, place = store.count(), store.name
        campaigns = [row.campaign for row in store.campaigns()]
        found = state().measured.rows(store, request.args.get("campaign", ""))
    names = ("device", "engine", "precision", "phase")
    asked = {name: request.args.get(name, "") for name in names}
    rows = [row for row in found if all(value in ("", getattr(row, name)) for name, value in asked.items())]
    filters = [
        filter_of(name, name.capitalize(), (getattr(row, name) for row in found), request.args) for name in names
    ]
    return str(
        render_template(
            "measurements.html", page="measurements", title="Measurements", place=place, every=every,
            table=make_table(measured_rows.COLUMNS, rows, request.args), records=sum(row.visits for row in rows),
            chart=times_over_parameters(rows), filters=[*filters, filter_of("campaign", "Campaign", campaigns, request.args)],
        )
    )  # fmt: skip
