"""`codesign report RUN`: the review page of a run, and its pictures."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["report"]


def report(
    run: Annotated[str, typer.Argument(help="Folder of a run, such as results/orin-20ms-1a2b3c4d.")],
    out: Annotated[
        str | None, typer.Option(help="Where the page goes; default: report.html in the run's folder.")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Write the page's pictures as PNG and SVG beside it.")] = True,
    loss_law: Annotated[
        str | None, typer.Option(help="The run's loss law, where it is a file of your own (name or path).")
    ] = None,
    calibration: Annotated[str | None, typer.Option(help="The calibration file that the run was made with.")] = None,
) -> None:
    """Make the page for a deployment review: one HTML file that opens offline, and its pictures.

    Frontier, roofline, feasible regions, all dimensions, evidence and what-if of one run; nothing is fetched when it is
    opened. Validate the run first (codesign validate) to see measured beside predicted.

    Example: codesign report results/orin-20ms-1a2b3c4d
    """
    from pathlib import Path

    from codesign.errors import SpecError
    from codesign.report.page import build_page, sections_of, write_page
    from codesign.report.review import load_review
    from codesign.report.static_pictures import write_pictures
    from codesign.units import format_bytes

    folder = Path(run)
    if not folder.is_dir():
        raise SpecError(f"no run at {run}; give the folder that codesign search wrote (it holds frontier.jsonl)")
    page = Path(out) if out else folder / "report.html"
    if page.is_dir():
        page = page / "report.html"
    if page.suffix.lower() not in (".html", ".htm"):
        raise SpecError(f"--out {out} is not an HTML file; give a name that ends in .html")
    review = load_review(folder, law=loss_law, calibration=Path(calibration) if calibration else None)
    text = build_page(review)
    write_page(text, page)
    drawn = write_pictures(review, page, sections_of(review)) if pictures else []
    names = f" and {len(drawn)} pictures ({page.stem}-*.png, .svg)" if drawn else ""
    print(f"written: {page} ({format_bytes(len(text.encode()))}){names}")
    for note in review.rebuilt.notes:
        print(f"note: {note}")
