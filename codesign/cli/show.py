"""How a frontier is shown in the terminal: a table that fits its width, the assumptions, and the baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from codesign.search import Candidate, Frontier

__all__ = ["print_frontier"]

_MARKS_WIDTH = 8
MAX_ROWS = 25


def print_frontier(frontier: Frontier, folder: Path, kept: Sequence[Path] = ()) -> None:
    """Print the table, what the answer rests on, and the baselines."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from codesign.cli.common import console

    screen = console()
    shown = _spread(frontier.candidates)
    columns = _columns(frontier, shown, screen.width)
    table = Table(title=_title(frontier), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading, _ in columns:  # the marks give way, so that no number is ever cut
        side: Any = "left" if heading in ("FFN", "marks", "bits", "mixers") else "right"
        table.add_column(heading, justify=side, no_wrap=heading != "marks", overflow="fold")
    for c in shown:
        table.add_row(*(show(c) for _, show in columns))
    screen.print(table)
    if len(shown) < len(frontier.candidates):
        screen.print(
            f"{len(shown)} of {len(frontier.candidates)} designs shown, evenly along the frontier; all are in frontier.csv"
        )
    for line in _assumptions(frontier):
        screen.print(line)
    for baseline in frontier.baselines:
        for line in _baseline_lines(frontier, baseline):
            screen.print(line)
    files = ["frontier.jsonl", "frontier.csv", "pareto.png", "design-N/config.json"]
    if not (folder / "pareto.png").exists():
        files.remove("pareto.png")
    screen.print(f"\nwritten: {folder}/ ({', '.join(files)})")
    for path in kept:
        screen.print(f"the run with other designs that was there is kept as {path}/")
    screen.print(f"next: codesign report {folder}")


def _columns(frontier: Frontier, shown: list[Candidate], width: int) -> list[tuple[str, Callable[[Candidate], str]]]:
    """Headings and cells; what does not fit beside marks of 8 characters is left out, the least needed first (the files have it all)."""
    from codesign.cli.common import perplexity
    from codesign.report.words import mixer_text, span_text
    from codesign.units import format_bytes, format_count, format_energy, format_seconds

    def ffn(c: Candidate) -> str:
        a = c.architecture
        shared = f"+{a.n_shared_experts * a.d_ff_shared}" if a.n_shared_experts else ""
        if a.n_experts:
            return f"{a.n_experts}x{a.d_ff_expert}{shared} top-{a.n_active_experts}"
        return span_text(a.ffn_widths, a.d_ff)

    def size(c: Candidate) -> str:
        total, active = c.values["params"], c.values["params_active"]
        return format_count(total) + (f" ({format_count(active)})" if active < total else "")

    def joules(c: Candidate) -> str:
        return format_energy(c.values["energy_J"], 2).replace(" ", "") if "energy_J" in c.values else "-"

    mixed = any(mixer_text(c.architecture) for c in frontier.candidates)
    # the first number says what goes first: the highest; 0 stays
    columns: list[tuple[int, str, Callable[[Candidate], str]]] = [
        (0, "#", lambda c: c.name.removeprefix("design-")),
        (0, "L", lambda c: str(c.architecture.n_layers)),
        (0, "width", lambda c: str(c.architecture.d_model)),
        (0, "heads", lambda c: f"{c.architecture.n_heads}/{c.architecture.n_kv_heads}"),
        (0, "FFN", ffn),
        *([(1, "mixers", lambda c: mixer_text(c.architecture))] if mixed else []),
        (4, "params (act.)", size),
        (0, "ms/tok", lambda c: f"{1e3 * c.values['latency_s']:.1f}"),
        (5, "TTFT", lambda c: format_seconds(c.values["ttft_s"], 2).replace(" ", "")),
        (6, "memory", lambda c: format_bytes(c.values["memory_B"], 2).replace(" ", "")),
        (7, "energy", joules),
        (0, "loss, 90 %", lambda c: f"{c.loss:.3f}±{1.645 * c.loss_std:.3f}" if c.loss_known else "–"),
        (9, "ppl", lambda c: f"{perplexity(c.loss):.1f}" if c.loss_known else "–"),
        (3, "fits", lambda c: f"{c.p_budget:.2f}"),
        (8, "front", lambda c: f"{c.p_front:.2f}"),
        (0, "marks", _short_marks),
    ]
    if len(frontier.provenance["rates"]) > 1:
        columns.insert(1, (0, "bits", lambda c: c.precision))
    sizes = [max(len(text) for text in (heading, *map(show, shown))) for _, heading, show in columns]
    sizes[-1] = min(sizes[-1], _MARKS_WIDTH)
    kept = list(range(len(columns)))
    while sum(sizes[i] + 2 for i in kept) > width and any(columns[i][0] for i in kept):
        kept.remove(max(kept, key=lambda i: columns[i][0]))
    return [columns[i][1:] for i in kept]


def _spread(candidates: tuple[Candidate, ...]) -> list[Candidate]:
    if len(candidates) <= MAX_ROWS:
        return list(candidates)
    step = (len(candidates) - 1) / (MAX_ROWS - 1)
    return [candidates[round(i * step)] for i in range(MAX_ROWS)]


def _short_marks(candidate: Candidate) -> str:
    from codesign.report.words import mark_text

    each = [mark for mark in candidate.marks if mark != "prior:vocab"]  # the same for all: told below the table
    return " ".join(dict.fromkeys(mark_text(mark)[0] for mark in each))


def _title(frontier: Frontier) -> str:
    p = frontier.provenance
    w = p["workload"]
    mode = f" at {p['device']['power_mode']}" if p["device"]["power_mode"] else ""
    return f"{p['device']['title']}{mode}, {p['engine']}, {w['prompt_tokens']} in, {w['output_tokens']} out, batch {w['batch_size']}"


def _assumptions(frontier: Frontier) -> list[str]:
    """What the answer rests on, in words."""
    import math

    from codesign.report.words import MARKS
    from codesign.search.mixers import mixer_needs
    from codesign.units import format_count

    p = frontier.provenance
    lines = [p["certificate"]]
    lines += [
        f"mixer {mixer}: no design of this space can have it; it needs {mixer_needs(mixer)}"
        for mixer in p.get("impossible_mixers", [])
    ]
    for name, rates in p["rates"].items():
        d, f = rates["decode"], rates["prefill"]
        lines.append(
            f"latency ({name}): decode {d['rows']} rows, prefill {f['rows']} rows of this device, engine and precision; decode: "
            f"{d['level']}; 90 % interval: times or divided by {math.exp(d['interval_log']):.2f} (decode), "
            f"{math.exp(f['interval_log']):.2f} (prefill)"
        )
    own = [_own_calibration(name, rates) for name, rates in p["rates"].items() if "seconds_per" in rates["decode"]]
    lines += own
    if _experts_left_out(p):
        lines.append(
            "designs with experts are left out: no mixture of experts was measured on this device; profile some (--space default), or "
            "--allow-extrapolation keeps them, marked !M"
        )
    if len(own) < len(p["rates"]):
        held = p["calibration_held_out"]["decode"]
        shown = [
            f"{held[way]['mape_pct']:.0f} % with {way}s left out"
            for way in ("model", "source", "device")
            if way in held
        ]
        lines.append(f"calibration: decode error {', '.join(shown)} ({p['calibration'].split(';')[0]})")
    lines.append(f"loss: {format_count(p['tokens'])} training tokens; law {p['law']['summary']}")
    if p["power_model"]:
        spread = math.exp(p["power_model"]["interval_log"])
        lines.append(
            f"energy: {p['power_model']['source'].split(';')[0]}; 90 % interval at a known time: times or divided by {spread:.2f}"
        )
    marks = {mark for c in frontier.candidates for mark in c.marks}
    told = [f"{letter}: {text}" for mark, (letter, text) in MARKS.items() if mark in marks]
    beyond = sorted(mark.removeprefix("outside:") for mark in marks if mark.startswith("outside:"))
    if beyond:
        told.append(f"!: outside the range of the law's data ({', '.join(beyond)})")
    lines += _edges(frontier)
    if told:
        lines.append("marks: " + "; ".join(told))
    lines.append(
        "fits: probability that the budget holds; front: probability that no other design here is better in every objective"
    )
    return lines


def _experts_left_out(provenance: Any) -> bool:
    """Whether the space has experts and the device's own calibration has none."""
    own = [r["decode"]["mixtures"] for r in provenance["rates"].values() if "mixtures" in r["decode"]]
    experts = any(name != "dense" for name in provenance["space"]["axes"]["experts"])
    return bool(own) and not any(own) and experts and not provenance["allow_extrapolation"]


def _own_calibration(precision: str, rates: Any) -> str:
    """What the device's own calibration says of its error."""
    import math

    parts = []
    for phase in ("decode", "prefill"):
        r = rates[phase]
        held = r.get("held_out", {})
        kind = "hybrid" if r.get("residual_points") else "roofline"
        if f"{kind}_mape_pct" in held:
            parts.append(
                f"{phase} error {held[f'{kind}_mape_pct']:.1f} % with architectures left out, "
                f"{held[f'{kind}_largest_out_mape_pct']:.1f} % with the largest left out"
            )
        elif "seconds_per" in r:
            parts.append(f"{phase} error not cross-validated ({r['architectures']} architectures)")
    for phase in ("decode", "prefill"):
        if rates[phase].get("covered") is False:
            parts.append(f"no {phase} of about this length and batch was measured: a wider interval")
    beyond = math.exp(max(rates[phase].get("interval_beyond_log", 0.0) for phase in ("decode", "prefill")))
    return (
        f"calibration ({precision}) is this device's own: {'; '.join(parts)}; designs marked S get an interval of times or divided "
        f"by up to {beyond:.2f}"
    )


def _edges(frontier: Frontier) -> list[str]:
    """Axes at whose end at least half of the designs sit: a wider space may hold better ones, or the law cannot tell."""
    from codesign.report.words import space_edges

    found = [
        f"{name} {edge:g} ({count} of {len(frontier.candidates)} designs)"
        for name, edge, count in space_edges(frontier)
        if name != "experts" or not _experts_left_out(frontier.provenance)
    ]
    if not found:
        return []
    return [
        f"at the edge of the space: {', '.join(sorted(found))}: a wider --space may hold better designs, and the law is least sure there"
    ]


def _baseline_lines(frontier: Frontier, baseline: Any) -> list[str]:
    from codesign.cli.common import perplexity
    from codesign.report.words import mark_text
    from codesign.units import format_count

    c = baseline.candidate
    tokens = format_count(frontier.provenance["tokens"])
    low, high = (1e3 * v for v in c.intervals.get("latency_s", (c.values["latency_s"],) * 2))
    loss = (
        f"loss {c.loss:.3f} ± {1.645 * c.loss_std:.3f}, perplexity {perplexity(c.loss):.1f}"
        if c.loss_known
        else "loss not predicted"
    )
    lines = [
        f"\n{c.name} ({format_count(c.values['params'])} parameters), scored by the same law at the same {tokens} training tokens: "
        f"{1e3 * c.values['latency_s']:.1f} ms ({low:.1f}-{high:.1f}), {loss}"
    ]
    if c.marks:
        lines.append("  its marks: " + "; ".join(": ".join(mark_text(mark)) for mark in c.marks))
    if not c.loss_known or not any(d.loss_known for d in frontier.candidates):
        lines.append("  nothing beside it: losses are not predicted")
        return lines
    for name, gap in (("at its latency", baseline.at_latency), ("at its loss", baseline.at_loss)):
        if gap is None:
            lines.append(f"  {name}: nothing on this frontier (see the budget)")
            continue
        (a, b), (x, y) = gap.loss_interval, gap.latency_interval
        lines.append(
            f"  {name}: {gap.design}, loss {gap.loss_difference:+.3f} ({a:+.3f} to {b:+.3f}), perplexity "
            f"{100 * (gap.perplexity_ratio - 1):+.1f} %, latency x {gap.latency_ratio:.2f} ({x:.2f}-{y:.2f})"
        )
    return lines
