"""Section 6: the same workload and budget on every device and power mode of the catalogue."""

from __future__ import annotations

from typing import Any

from codesign.report.once import once
from codesign.report.review import Review
from codesign.report.section import Section, render_template, significant, static_text
from codesign.report.what_if import (
    UNMEASURED,
    Alternative,
    Choice,
    Pool,
    Stair,
    alternatives,
    design_at,
    pool_of,
    time_key,
)
from codesign.report.words import METRICS, ffn_text, mixer_text, show_metric
from codesign.roofline.calibration import LEVELS

__all__ = ["FAMILIES", "build", "draw_what_if", "picture"]

#: Family slug of a device to its group on the page.
FAMILIES = {
    "nvidia-jetson": "Jetson", "nvidia-desktop": "desktop GPU", "nvidia-datacenter": "data centre", "amd": "data centre",
    "apple": "Apple", "cpu-arm": "CPU or phone", "cpu-x86": "CPU or phone",
}  # fmt: skip
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "D", "s", "^", "P", "X")


@once
def scored(review: Review) -> tuple[Pool, list[Alternative]]:
    """The pool and every device, once for the page and its picture."""
    pool = pool_of(review)
    return pool, alternatives(review, pool)


def build(review: Review) -> Section:
    """Sortable table and plot; a slider moves the bound on the time."""
    pool, found = scored(review)
    key = time_key(review.problem)
    bound = review.problem.budget.bounds().get(key)
    start = bound or review.best.values[key]
    numbers: dict[tuple[int, int], int] = {}
    rows = [_row(a, numbers) for a in found]
    groups = list(dict.fromkeys(FAMILIES.get(a.device.family, "other") for a in found))
    data: dict[str, Any] = {
        "key": key, "title": METRICS[key][0], "bound": significant(start, 6), "given": bound is not None, "levels": list(LEVELS), "groups": groups,
        "rows": rows, "designs": [_design(review, pool, at) for at in numbers], "precisions": list(review.models),
    }  # fmt: skip
    within = [a for a in found if a.best(start)]
    others = [name for name in review.problem.budget.bounds() if name not in (key, "memory_B")]
    html = render_template(
        "what_if.html", n=len(found), n_devices=len({a.device.name for a in found}), n_within=len(within), searched=pool.n_searched,
        thinned=pool.thinned, title=METRICS[key][0], bound=show_metric(key, start), given=bound is not None,
        unmeasured=sum(a.level > 1 for a in found), priced=sum(a.device.price_usd is not None for a in found),
        others=[METRICS[name][0] for name in others], levels=LEVELS, confidence=review.problem.budget.confidence,
        metered=sum(a.metered for a in found),
    )  # fmt: skip
    return Section(key="what-if", title="What if", html=html, data=data, script=static_text("what_if.js"))


def _row(a: Alternative, numbers: dict[tuple[int, int], int]) -> dict[str, Any]:
    d = a.device
    return {
        "name": d.name, "title": d.title, "mode": d.power_mode or "", "group": FAMILIES.get(d.family, "other"), "engine": a.engine,
        "precision": a.precision, "level": a.level, "rows": a.rows, "width": [significant(w, 8) for w in a.width_log], "factor": [significant(f, 8) for f in a.factors],
        "cap_W": a.cap_W, "price": d.price_usd, "price_note": d.price_note, "memory_B": significant(d.memory_usable_B, 4), "here": a.here,
        "problem": a.problem, "stair": _stair(a.searched, numbers), "own": _stair(a.designs, numbers),
    }  # fmt: skip


def _stair(stair: Stair, numbers: dict[tuple[int, int], int]) -> dict[str, Any]:
    def number(c: Choice) -> int:
        return numbers.setdefault(c.at, len(numbers))

    return {
        "t": [significant(c.time_s, 6) for c in stair.choices], "d": [number(c) for c in stair.choices],
        "w": [significant(c.power_W, 3) for c in stair.choices],
        "m": [sum(1 << k for k, name in enumerate(UNMEASURED) if name in c.unmeasured) for c in stair.choices],
        "u": [c.unlike for c in stair.choices],
    }  # fmt: skip


def _design(review: Review, pool: Pool, at: tuple[int, int]) -> list[Any]:
    """Loss, precision, shape, and the run's design that it is ("")."""
    precision, arch = design_at(pool, at)
    _, _, loss, own = pool.groups[at[0]]
    name = review.frontier.candidates[int(own[at[1]])].name if own[at[1]] >= 0 else ""
    return [
        significant(float(loss[at[1]]), 6), precision, arch.n_layers, arch.d_model, arch.n_heads, arch.n_kv_heads, arch.d_head,
        arch.n_experts, arch.n_active_experts, arch.d_ff_expert if arch.n_experts else arch.d_ff, name,
        mixer_text(arch), ffn_text(arch),
    ]  # fmt: skip


def draw_what_if(review: Review, axes: Any, found: list[Alternative] | None = None) -> None:
    """Lowest loss within the budget against the power cap, a symbol and colour a family, hollow where nothing was measured."""
    from matplotlib.ticker import FuncFormatter

    found = found if found is not None else scored(review)[1]
    key = time_key(review.problem)
    bound = review.problem.budget.bounds().get(key) or review.best.values[key]
    groups = list(dict.fromkeys(FAMILIES.get(a.device.family, "other") for a in found))
    shown: dict[tuple[str, float], float] = {}
    for a in found:
        choice = a.best(bound)
        if choice is None or a.cap_W is None:
            continue
        k = groups.index(FAMILIES.get(a.device.family, "other"))
        low, high = a.interval(bound)
        bars = [[choice.loss - (low or choice.loss)], [max((high or choice.loss) - choice.loss, 0.0)]]
        colour = _COLOURS[k % 6]
        axes.errorbar([a.cap_W], [choice.loss], yerr=bars, fmt=_MARKERS[k % 6], ms=9 if a.here else 6, color=colour, lw=0.8,
                      mfc=colour if a.level < 2 else "none", mec="#1b1f24" if a.here else colour, alpha=0.9)  # fmt: skip
        shown[(a.device.title, a.cap_W)] = choice.loss
    best: list[tuple[str, float, float]] = []
    for (title, watts), loss in sorted(shown.items(), key=lambda item: (item[0][1], item[1])):
        if not best or loss < best[-1][2] - 1e-9:
            best.append((title, watts, loss))
    named: set[str] = set()
    for title, watts, loss in best:
        if title in named:
            continue
        named.add(title)
        axes.annotate(title, (watts, loss), fontsize=6.5, xytext=(4, -9), textcoords="offset points")
    axes.step([b[1] for b in best], [b[2] for b in best], where="post", color="#6e7781", lw=1, ls="--")
    for k, group in enumerate(groups):
        axes.plot([], [], marker=_MARKERS[k % 6], color=_COLOURS[k % 6], ls="", label=group)
    axes.plot(
        [], [], marker="o", mfc="none", color="#1b1f24", ls="", label="hollow: device and engine not measured together"
    )
    axes.set_xscale("log")
    if shown:
        low, high = min(shown.values()), max(shown.values())
        axes.set_ylim(low - 0.14 * (high - low) - 0.01, high + 0.3 * (high - low) + 0.01)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.set_xlabel("power cap of the mode (else TDP), W")
    axes.set_ylabel("lowest loss within the budget, nats per token")
    axes.set_title(
        f"The same workload elsewhere: {METRICS[key][0]} within {show_metric(key, bound)}\nbars: the 90 % interval of the time",
        fontsize=10,
    )
    axes.grid(alpha=0.25, lw=0.5)
    axes.legend(fontsize=7, frameon=False, loc="upper right")


def picture(review: Review) -> Any:
    """`draw_what_if` as a figure."""
    from codesign.report.static_pictures import new_figure

    figure, axes = new_figure(10.0, 6.0)
    draw_what_if(review, axes)
    return figure
