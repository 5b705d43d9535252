"""Section 2: the chosen design's operators under the device's roofs, prefill and decode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codesign.operators import Phase
from codesign.report.review import Review
from codesign.report.section import Section, render_template, significant, static_text
from codesign.report.static_pictures import draw_roofline
from codesign.roofline.cost import RooflineModel
from codesign.roofline.rates import peak_flop_per_s
from codesign.workload import PRECISIONS, Precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["build", "picture", "roofs"]

_PHASES: tuple[Phase, ...] = ("prefill", "decode")


def build(review: Review) -> Section:
    """Roofs by precision and phase; the operators are those of the common data."""
    data = {
        name: {phase: roofs(model, PRECISIONS[name], phase) for phase in _PHASES} for name, model in review.models.items()
    }  # fmt: skip
    device = review.device
    sources = {key: str(text) for key, text in device.sources.items() if key in ("spec", "peak")}
    html = render_template(
        "roofline.html", fitted=any(m.rates.decode.terms is not None for m in review.models.values()), sources=sources,
        prompt=review.problem.workload.prompt_tokens,
    )  # fmt: skip
    return Section(key="roofline", title="Roofline", html=html, data=data, script=static_text("roofline.js"))


def picture(review: Review) -> Figure:
    """The best design's roofline."""
    return draw_roofline(review)


def roofs(model: RooflineModel, form: Precision, phase: Phase) -> dict[str, Any]:
    """Roofs of a device: of the data sheet, and as calibrated.

    Returns:
        bandwidth_Bps and peak_flop_per_s of the data sheet and the compute type; calibrated: a list of {name, bandwidth_Bps,
        flop_per_s}; add: whether moving and computing add up (a device's own calibration) instead of the larger counting.
    """
    device, rates = model.device, model.rates.of(phase)
    peak = peak_flop_per_s(device, form.compute)
    found: dict[str, Any] = {
        "bandwidth_Bps": significant(device.bandwidth_Bps, 6), "peak_flop_per_s": significant(peak, 6), "dtype": form.compute,
        "add": rates.terms is not None,
    }  # fmt: skip
    calibrated: list[dict[str, Any]] = []
    if rates.terms is not None:
        per = rates.terms.seconds_per
        for name, kind in (("matrix products", "matmul"), ("output head", "head"), ("attention", "attention")):
            seconds_flop, seconds_B = per.get(f"{kind}_flop", 0.0), per.get(f"{kind}_B", 0.0)
            if seconds_flop > 0 and seconds_B > 0:
                calibrated.append({"name": name, "bandwidth_Bps": 1 / seconds_B, "flop_per_s": 1 / seconds_flop})
    else:
        bandwidth = device.bandwidth_Bps
        calibrated = [
            {"name": "matrix products", "bandwidth_Bps": bandwidth * rates.bandwidth_efficiency,
             "flop_per_s": peak * rates.compute_efficiency},
            {"name": "routed experts", "bandwidth_Bps": bandwidth * rates.expert_bandwidth_efficiency,
             "flop_per_s": peak * rates.expert_compute_efficiency},
            {"name": "attention", "bandwidth_Bps": bandwidth * rates.bandwidth_efficiency,
             "flop_per_s": peak * rates.attention_efficiency},
        ]  # fmt: skip
    for roof in calibrated:
        for key in ("bandwidth_Bps", "flop_per_s"):
            roof[key] = significant(roof[key], 4)
    found["calibrated"] = calibrated
    return found
