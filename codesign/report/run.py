"""A run's folder: frontier.jsonl, frontier.csv, pareto.png and a config.json for each design; all or nothing."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from codesign.architecture import OPTIONAL
from codesign.errors import SpecError
from codesign.hf_config import config_dict
from codesign.report.plot import plot_frontier
from codesign.search import Frontier

__all__ = ["check_folder", "frontier_csv", "write_run"]

_FIELDS = (
    "n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "n_experts", "n_active_experts", "d_ff_expert",
    "vocab_size",
)  # fmt: skip


def frontier_csv(frontier: Frontier) -> str:
    """One row a design: shape, precision, loss, every metric in SI units with its 90 % interval, probabilities, marks; a loss that no data
    at hand tells is empty.

    Fields of windows, shared experts and other mixers have a column where a design of the run uses them.
    """
    archs = [c.architecture for c in frontier.candidates]
    more = {"n_shared_experts": 0, "d_ff_shared": 0, "window_tokens": 0, "n_window_layers": 0, **OPTIONAL}
    names = [*_FIELDS, *(name for name, usual in more.items() if any(getattr(a, name) != usual for a in archs))]
    metrics = sorted({key for c in frontier.candidates for key in c.values})
    spans = sorted({key for c in frontier.candidates for key in c.intervals})
    header = ["name", "precision", *names, "loss", "loss_std", *metrics]
    header += [f"{key}_{side}90" for key in spans for side in ("low", "high")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, "p_budget", "p_front", "marks"])
    for c in frontier.candidates:
        row: list[object] = [
            c.name,
            c.precision,
            *(getattr(c.architecture, name) for name in names),
            *((c.loss, c.loss_std) if c.loss_known else ("", "")),
        ]
        row += [c.values.get(key, "") for key in metrics]
        known = {key: span for key, span in c.intervals.items() if key != "loss" or c.loss_known}
        row += [known[key][i] if key in known else "" for key in spans for i in (0, 1)]
        writer.writerow([*row, c.p_budget, c.p_front, " ".join(c.marks)])
    return out.getvalue()


def check_folder(folder: Path) -> None:
    """Refuse a folder that a run cannot be written to, before an hour is spent on the search.

    Raises:
        SpecError: it holds something that is not a run, or its parent cannot be written.
    """
    given = folder
    folder = folder.absolute()
    if not folder.name or folder == Path.cwd():
        raise SpecError(f"cannot write the run to {given}: a run is a folder of its own; give another --out")
    try:
        if folder.exists() and (
            not folder.is_dir() or (any(folder.iterdir()) and not (folder / "frontier.jsonl").is_file())
        ):
            raise SpecError(f"{given} exists and is not a run of codesign; give another --out")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot write the run to {given}: {error}; give a writable --out") from error
    if not os.access(folder.parent, os.W_OK):
        raise SpecError(f"cannot write the run to {given}: {folder.parent} is not writable; give a writable --out")


def write_run(
    frontier: Frontier, folder: Path, *, plot: bool = True, on_kept: Callable[[Path], object] = lambda path: None
) -> Path:
    """Write a run beside its place and move it there, so that a reader never sees half of one.

    Where the same designs stand there already, everything else in the folder (a report, exported models, notes) stays. A run with other
    designs is kept under the first free name FOLDER.old-1, FOLDER.old-2, ..., which `on_kept` is told.

    Raises:
        SpecError: the folder holds something else, or cannot be written.
    """
    check_folder(folder)
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        (part / "frontier.jsonl").write_text(frontier.to_jsonl(), encoding="utf-8")
        (part / "frontier.csv").write_text(frontier_csv(frontier), encoding="utf-8")
        workload = frontier.provenance["workload"]
        context = int(workload["prompt_tokens"] + workload["output_tokens"])
        for candidate in frontier.candidates:
            design = part / candidate.name
            design.mkdir()
            config = config_dict(candidate.architecture, max_position_embeddings=max(context, 2048))
            (design / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if plot:
            plot_frontier(frontier, part / "pareto.png")
        _replace(part, folder, on_kept)
    except OSError as error:
        raise SpecError(f"cannot write the run to {folder}: {error}; give a writable --out") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _replace(part: Path, folder: Path, on_kept: Callable[[Path], object]) -> None:
    if not folder.exists():
        os.replace(part, folder)
        return
    same = _designs(folder) == _designs(part)
    if same:
        _carry(folder, part)
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    os.replace(folder, old)
    try:
        os.replace(part, folder)
    except OSError:
        os.replace(old, folder)
        raise
    if same or not any(old.iterdir()):
        shutil.rmtree(old)
        return
    places = (folder.with_name(f"{folder.name}.old-{k}") for k in itertools.count(1))
    kept = next(place for place in places if not place.exists())
    os.replace(old, kept)
    on_kept(kept)


def _designs(folder: Path) -> list[str]:
    """The lines of its designs."""
    path = folder / "frontier.jsonl"
    return path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []


def _carry(old: Path, new: Path) -> None:
    """Everything of a folder that a new one has not, linked where that is possible."""
    for path in sorted(old.rglob("*")):
        place = new / path.relative_to(old)
        if place.exists() or (path.is_dir() and not path.is_symlink()):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place, follow_symlinks=False)
        except OSError:  # another file system, or one without links
            shutil.copy2(path, place, follow_symlinks=False)
