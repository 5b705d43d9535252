"""Runs over a small space, searched in a fraction of a second and written as `codesign search` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codesign.budget import Budget
from codesign.devices import load_device
from codesign.predictors import load_law
from codesign.report.run import write_run
from codesign.roofline.calibration import load_calibration
from codesign.search import DesignSpace, Problem, build_problem, search
from codesign.workload import PRECISIONS, Workload

#: 4 x 2 x 3 x 7 x 6 x 4 = 4,032 points, some impossible.
AXES: dict[str, tuple[Any, ...]] = {
    "precision": ("fp16",),
    "vocab_size": (50304,),
    "experts": ((0, 0), (8, 1), (16, 2), (64, 1)),
    "d_head": (64, 128),
    "n_kv_heads": (1, 2, 8),
    "n_layers": (4, 8, 12, 18, 26, 40, 60),
    "d_model": (512, 768, 1024, 1280, 1536, 2048),
    "ffn_ratio": (2.75, 4.0, 6.0, 8.0),
}


def problem(
    *, device: str = "orin", power_mode: str | None = None, engine: str | None = None, law: str = "gemstones", tokens: float = 10e9,
    objectives: tuple[str, ...] = ("loss", "latency"), axes: dict[str, tuple[Any, ...]] | None = None,
    workload: Workload | None = None, allow_extrapolation: bool = False, **bounds: float,
) -> Problem:  # fmt: skip
    """The problem of a device over the small space; 20 ms a token where no bound is given."""
    board = load_device(device, power_mode)
    space = DesignSpace(axes=AXES | (axes or {}), name="small")
    fits = load_calibration()
    return build_problem(
        device=board, engine=engine or fits.engine_for(board, PRECISIONS[space.axes["precision"][0]]), space=space,
        workload=workload or Workload(), budget=Budget(**(bounds or {"latency_s": 0.02})), law=load_law(law), tokens=tokens,
        objectives=objectives, allow_extrapolation=allow_extrapolation, calibration=fits,
    )  # fmt: skip


def write_small(folder: Path, found: Problem, seed: int = 1) -> Path:
    """Search and write the run."""
    fits = load_calibration()
    device = next(iter(found.models.values())).device
    engine = fits.engine_for(device, PRECISIONS[found.space.axes["precision"][0]])
    provenance = {
        "codesign": "0", "command": ["codesign", "search"], "engine": engine,
        "calibration_held_out": {"prefill": fits.prefill.held_out, "decode": fits.decode.held_out},
    }  # fmt: skip
    return write_run(search(found, seed=seed, provenance=provenance), folder, plot=False)
