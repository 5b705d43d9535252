"""Loss predictors: fitted scaling laws with calibrated intervals (see `codesign.predictors.law`)."""

from __future__ import annotations

from codesign.predictors.files import DEFAULT_LAW, dump_law, law_names, load_law
from codesign.predictors.fitted import SurrogateLaw
from codesign.predictors.law import DIMENSIONS, LossLaw

__all__ = ["DEFAULT_LAW", "DIMENSIONS", "LossLaw", "SurrogateLaw", "dump_law", "law_names", "load_law"]
