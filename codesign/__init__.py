"""codesign: language-model architectures for a device.

    >>> import codesign
    >>> device = codesign.load_device("orin")
    >>> qwen = codesign.read_config("qwen2.5-0.5b")
    >>> rates = codesign.load_calibration().rates(device, "vllm", codesign.PRECISIONS["fp16"])
    >>> model = codesign.RooflineModel.of(device, rates)
    >>> step = model.estimate(qwen, codesign.Workload(), codesign.PRECISIONS["fp16"]).decode_s
    >>> bool(0.005 < step < 0.02)
    True

Names load when they are first used: `import codesign` itself is quick. The search itself is
`codesign.search.search(codesign.build_problem(...))`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codesign.architecture import Architecture, ArchitectureBatch
    from codesign.budget import Budget
    from codesign.devices import Device, PowerMode, device_names, load_device
    from codesign.errors import (
        CodesignError,
        InfeasibleError,
        MeasurementError,
        MissingExtraError,
        SchemaError,
        SpecError,
        UnknownNameError,
    )
    from codesign.hf_config import config_dict, known_models, read_config
    from codesign.measurement import Measurement, observe
    from codesign.operators import Operator, lower
    from codesign.predictors import LossLaw, law_names, load_law
    from codesign.roofline import Calibration, Estimate, Rates, RooflineModel, load_calibration
    from codesign.search import (
        Candidate,
        DesignSpace,
        Frontier,
        Problem,
        build_problem,
        default_space,
        load_space,
        read_frontier,
    )
    from codesign.serving import Serving
    from codesign.workload import PRECISIONS, Precision, Workload

__all__ = [
    "PRECISIONS",
    "Architecture",
    "ArchitectureBatch",
    "Budget",
    "Calibration",
    "Candidate",
    "CodesignError",
    "DesignSpace",
    "Device",
    "Estimate",
    "Frontier",
    "InfeasibleError",
    "LossLaw",
    "Measurement",
    "MeasurementError",
    "MissingExtraError",
    "Operator",
    "PowerMode",
    "Precision",
    "Problem",
    "Rates",
    "RooflineModel",
    "SchemaError",
    "Serving",
    "SpecError",
    "UnknownNameError",
    "Workload",
    "build_problem",
    "config_dict",
    "default_space",
    "device_names",
    "known_models",
    "law_names",
    "load_calibration",
    "load_device",
    "load_law",
    "load_space",
    "lower",
    "observe",
    "read_config",
    "read_frontier",
]

_WHERE = {
    "architecture": ("Architecture", "ArchitectureBatch"),
    "budget": ("Budget",),
    "devices": ("Device", "PowerMode", "device_names", "load_device"),
    "errors": (
        "CodesignError",
        "InfeasibleError",
        "MeasurementError",
        "MissingExtraError",
        "SchemaError",
        "SpecError",
        "UnknownNameError",
    ),
    "hf_config": ("config_dict", "known_models", "read_config"),
    "measurement": ("Measurement", "observe"),
    "operators": ("Operator", "lower"),
    "predictors": ("LossLaw", "law_names", "load_law"),
    "roofline": ("Calibration", "Estimate", "Rates", "RooflineModel", "load_calibration"),
    "search": (
        "Candidate",
        "DesignSpace",
        "Frontier",
        "Problem",
        "build_problem",
        "default_space",
        "load_space",
        "read_frontier",
    ),
    "serving": ("Serving",),
    "workload": ("PRECISIONS", "Precision", "Workload"),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"codesign.{_MODULES[name]}"), name)
    if name in (
        "campaign",
        "devices",
        "importers",
        "models",
        "predictors",
        "profilers",
        "report",
        "roofline",
        "search",
        "store",
    ):
        return importlib.import_module(f"codesign.{name}")
    raise AttributeError(f"module 'codesign' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
