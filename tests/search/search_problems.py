"""Problems that the tests of the search share."""

from __future__ import annotations

from typing import Any

from codesign.budget import Budget
from codesign.devices import load_device
from codesign.predictors import load_law
from codesign.search import DesignSpace, Problem, build_problem, default_space
from codesign.workload import Workload

#: 2 x 1 x 4 x 2 x 3 x 6 x 5 x 4 = 5,760 points over every axis, some impossible.
SMALL_AXES: dict[str, tuple[Any, ...]] = {
    "precision": ("fp16", "w4a16"),
    "vocab_size": (50304,),
    "experts": ((0, 0), (8, 1), (8, 2), (64, 2)),
    "d_head": (64, 128),
    "n_kv_heads": (0, 1, 4),
    "n_layers": (4, 7, 12, 18, 26, 40),
    "d_model": (512, 768, 896, 1024, 1408),
    "ffn_ratio": (2.75, 4.0, 5.5, 8.0),
}


def space(**axes: tuple[Any, ...]) -> DesignSpace:
    """The small space with some axes changed."""
    return DesignSpace(axes=SMALL_AXES | axes, name="small")


def middle_space(precisions: tuple[str, ...] = ("fp16",)) -> DesignSpace:
    """About 283,000 points: exact in a quarter of a second, and larger than the heuristic's coarse grid."""
    axes = dict(default_space(precisions).axes)
    axes["n_layers"] = tuple(range(4, 81, 4))
    axes["d_model"] = tuple(range(256, 3073, 128))
    axes["ffn_ratio"] = (2.75, 3.25, 4.0, 5.0, 6.0, 7.0, 8.0)
    return DesignSpace(axes=axes, name="middle")


def problem(
    designs: DesignSpace | None = None,
    *,
    device: str = "orin",
    engine: str = "vllm",
    law: str = "gemstones",
    tokens: float = 10e9,
    workload: Workload | None = None,
    objectives: tuple[str, ...] = ("loss", "latency"),
    allow_extrapolation: bool = False,
    power_mode: str | None = None,
    **bounds: float,
) -> Problem:
    """The problem of a device with the bounds of a budget; 20 ms a token where none is given."""
    return build_problem(
        device=load_device(device, power_mode),
        engine=engine,
        space=designs or space(),
        workload=workload or Workload(),
        budget=Budget(**(bounds or {"latency_s": 0.02})),
        law=load_law(law),
        tokens=tokens,
        objectives=objectives,
        allow_extrapolation=allow_extrapolation,
    )
