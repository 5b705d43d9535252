"""`codesign compare RUN RUN…`: one page across devices, budgets or precisions."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["compare"]


def compare(
    runs: Annotated[list[str], typer.Argument(help="Two or more folders of runs.", metavar="RUN RUN...")],
    out: Annotated[str, typer.Option(help="Where the page goes.")] = "compare.html",
    pictures: Annotated[bool, typer.Option(help="Write the frontiers as PNG and SVG beside it.")] = True,
) -> None:
    """Compare runs: frontiers overlaid, the best design of each, differences at equal budget, and what differs between the inputs.

    Losses compare only under one loss law, number of training tokens and vocabulary: runs that differ in one of these get plots of
    their own, with a warning. The page is one HTML file that opens offline.

    Example: codesign compare results/orin-20ms-1a2b3c4d results/thor-20ms-5e6f7a8b --out compare.html
    """
    from pathlib import Path

    from codesign.errors import SpecError
    from codesign.report.compare import compare_runs, read_runs
    from codesign.report.compare_page import build_comparison, summary_lines, write_comparison_pictures
    from codesign.report.page import write_page
    from codesign.units import format_bytes

    page = Path(out)
    if page.is_dir():
        page = page / "compare.html"
    if page.suffix.lower() not in (".html", ".htm"):
        raise SpecError(f"--out {out} is not an HTML file; give a name that ends in .html")
    found = compare_runs(read_runs([Path(run) for run in runs]))
    text = build_comparison(found)
    write_page(text, page)
    drawn = write_comparison_pictures(found, page) if pictures else []
    for line in summary_lines(found):
        print(line)
    names = f" and {len(drawn)} pictures ({page.stem}-*.png, .svg)" if drawn else ""
    print(f"written: {page} ({format_bytes(len(text.encode()))}){names}")
