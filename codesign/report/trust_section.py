"""Section 5: what was measured against what was predicted, what is extrapolated, and how to make this answer again."""

from __future__ import annotations

import csv
import math
import shlex
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from codesign.report.answer import cautions
from codesign.report.review import Review
from codesign.report.section import Section, column, render_template, significant, static_text
from codesign.report.static_pictures import draw_trust
from codesign.report.words import MEASURED_TITLES, mark_text
from codesign.roofline.calibration import load_calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["build", "held_out_rows", "picture", "published_rows"]

_WAYS = {"model": "model left out", "source": "source left out", "device": "device left out"}


def picture(review: Review) -> Figure | None:
    """Predicted against measured."""
    return draw_trust(review)


def build(review: Review) -> Section:
    """Calibration plot, error tables, marks, provenance."""
    p = review.frontier.provenance
    rows = _published(review)
    validation = review.validation
    html = render_template(
        "trust.html", review=review, p=p, cautions=cautions(review), notes=review.rebuilt.notes, own=_own(p),
        held_out=_held_out(p), ways=_WAYS, rates=_rates(p), marks=_marks(review), command=_command(p), sources=_sources(review),
        deviation=review.rebuilt.deviation, validation=validation, titles=MEASURED_TITLES, law=_law(review), has_rows=bool(rows),
        fits=_fits(review), deviation_max=max(review.rebuilt.deviation.values()),
    )  # fmt: skip
    data: dict[str, Any] = {"device": p["device"]["name"], "engine": review.engine}
    if rows:
        data["published"] = rows
    if validation is not None:
        data["validation"] = [
            {"design": str(r["design"]), "metric": str(r["metric"]), "measured": significant(r["measured"], 5),
             "predicted": significant(r["predicted"], 5), "low": significant(r["interval_90"][0], 5),
             "high": significant(r["interval_90"][1], 5), "inside": bool(r["inside"])}
            for r in validation["rows"]
            if r["metric"] in ("latency_s", "ttft_s")  # the plot's axes are times
        ]  # fmt: skip
    return Section(key="trust", title="Trust", html=html, data=data, script=static_text("trust.js"))


def held_out_rows() -> list[dict[str, str]]:
    """Published measurements with what a calibration that never saw their group predicts: one row each and way of leaving
    out (results/latency_validation.csv without the columns that the page does not show).
    """
    path = files("codesign.report") / "data" / "latency_held_out.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def published_rows(review: Review) -> list[dict[str, str]]:
    """`held_out_rows`; none where the run was made with another calibration than the bundled one, or with the device's own
    throughout.
    """
    p = review.frontier.provenance
    fits = load_calibration()
    same = p.get("calibration_held_out") == {
        "prefill": dict(fits.prefill.held_out),
        "decode": dict(fits.decode.held_out),
    }
    return held_out_rows() if same and not _all_own(p) else []


def _published(review: Review) -> dict[str, Any]:
    """The left-out rows as columns."""
    rows = published_rows(review)
    if not rows:
        return {}
    found: dict[str, Any] = {
        key: column([row[key] for row in rows]) for key in ("phase", "left_out", "device", "engine", "kind", "model", "source")
    }  # fmt: skip
    for key in ("measured_ms", "predicted_ms"):
        found[key] = [significant(float(row[key]), 4) for row in rows]
    found["inside"] = column([int(row["inside_90"] == "True") for row in rows])
    return found


def _held_out(p: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float]]]:
    """Errors of the published calibration: phase, way of leaving out, figures; nothing where every rate is the device's own."""
    if _all_own(p):
        return []
    return [
        (phase, _WAYS.get(way, way), p["calibration_held_out"][phase][way])
        for phase in ("decode", "prefill")
        for way in ("model", "source", "device")
        if way in p.get("calibration_held_out", {}).get(phase, {})
    ]


def _all_own(p: Mapping[str, Any]) -> bool:
    return all("seconds_per" in r[phase] for r in p["rates"].values() for phase in ("prefill", "decode"))


def _own(p: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any], str]]:
    """Cross-validated errors of the device's own calibration: precision, phase, rates, which fit acts."""
    return [
        (name, phase, rates[phase], "hybrid" if rates[phase].get("residual_points") else "roofline")
        for name, rates in p["rates"].items()
        for phase in ("decode", "prefill")
        if "seconds_per" in rates[phase]
    ]


def _fits(review: Review) -> list[str]:
    """Engine version, machine and date of the device's own calibrations, where its file is here."""
    if not review.rebuilt.from_catalogue:
        return []
    fits = [review.device.fit_for(review.engine, name) for name in review.models]
    return [
        f"{fit.precision}: {fit.engine} {fit.engine_version} on {fit.machine or 'this device'}, fitted {fit.fitted_at}"
        for fit in fits
        if fit is not None
    ]


def _rates(p: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, rates in p["rates"].items():
        for phase in ("decode", "prefill"):
            r = rates[phase]
            found.append({"precision": name, "phase": phase, "level": r["level"], "rows": r["rows"],
                          "factor": math.exp(r["interval_log"]),
                          "beyond": math.exp(r["interval_beyond_log"]) if r.get("interval_beyond_log") else None,
                          "bandwidth": r.get("bandwidth_efficiency"), "compute": r.get("compute_efficiency"),
                          "layer_s": r.get("layer_s", r.get("seconds_per", {}).get("layer", 0.0)),
                          "step_s": r.get("step_s", r.get("seconds_per", {}).get("step", 0.0))})  # fmt: skip
    return found


def _marks(review: Review) -> list[tuple[str, str, int, int]]:
    """Letter, meaning, number of designs of the frontier, of known models."""
    designs = Counter(mark for c in review.frontier.candidates for mark in c.marks)
    known = Counter(mark for k in review.known for mark in k.candidate.marks)
    every = sorted({*designs, *known}, key=lambda mark: (-designs[mark], mark))
    return [(*mark_text(mark), designs[mark], known[mark]) for mark in every]


def _command(p: Mapping[str, Any]) -> str:
    return shlex.join(str(part) for part in p.get("command", [])) or "not recorded: the run was made from Python"


def _law(review: Review) -> list[tuple[str, Mapping[str, Any]]]:
    """Splits of the loss law's left-out errors."""
    held: Mapping[str, Mapping[str, Any]] = getattr(review.problem.law, "held_out", {})
    return [(split, scores) for split, scores in held.items() if "mae" in scores]


def _sources(review: Review) -> list[tuple[str, str]]:
    p = review.frontier.provenance
    found = [(f"device, {key}", str(text)) for key, text in p["device"]["sources"].items()]
    found.append(("latency", str(p["calibration"])))
    if p.get("power_model"):
        found.append(("energy", str(p["power_model"]["source"])))
    found.append(("loss law", str(p["law"]["summary"] or p["law"]["name"])))
    meta = getattr(review.problem.law, "meta", {})
    for key in ("source", "command"):
        if meta.get(key):
            found.append((f"loss law, {key}", str(meta[key])))
    return found
