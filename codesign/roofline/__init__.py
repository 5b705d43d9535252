"""The calibrated roofline: costs of architectures on a device."""

from codesign.roofline.calibration import LEVELS, Calibration, load_calibration
from codesign.roofline.cost import CostModel, Estimate, OperatorCost, RooflineModel
from codesign.roofline.rates import PhaseRates, Rates

__all__ = [
    "LEVELS",
    "Calibration",
    "CostModel",
    "Estimate",
    "OperatorCost",
    "PhaseRates",
    "Rates",
    "RooflineModel",
    "load_calibration",
]
