"""`FeatureMap`: named columns of a table of runs -> a numeric matrix for the non-parametric predictors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from codesign.errors import SpecError
from codesign.predictors.columns import law_inputs, number

__all__ = ["ARCHITECTURE", "FUNCTION", "TECHNIQUE", "FeatureMap", "known_columns"]

Array = npt.NDArray[np.float64]

#: Columns by question: what shape, which recipe, which operators.
ARCHITECTURE = (
    "n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "n_experts", "top_k", "d_ff_expert", "d_ff_shared",
    "n_dense_layers", "vocab", "params_total", "params_active", "params_nonembed_active", "routing_frequency", "flop_increase",
)  # fmt: skip
TECHNIQUE = (
    "tokens", "lr", "batch_tokens", "schedule", "seq_len", "warmup_steps", "weight_decay", "hparams", "warmup",
    "chinchilla_multiplier",
)  # fmt: skip
FUNCTION = ("arch", "router_type", "activation", "norm", "attention", "backbone", "operator")
#: Counts of which an empty cell means none.
_ZERO = ("n_experts", "top_k", "d_ff_expert", "d_ff_shared", "n_dense_layers")
_SEQUENCE = re.compile(r"\d+(?:\.\d+)?(?:[-|]\d+(?:\.\d+)?)*")
#: Two features that correlate more than this say the same.
_SAME = 0.9995
_MAX_CATEGORIES = 24
#: Dropped where the width fixes them: then they are a rounding of the width, not a choice of their own.
_HEADS = ("ln(n_kv_heads / n_heads)", "ln(d_model / n_heads)", "ln head_dim", "head_dim")


def known_columns(columns: Sequence[str]) -> list[str]:
    """Those columns of a table that are architecture, technique or function, in a fixed order."""
    return [name for name in (*ARCHITECTURE, *TECHNIQUE, *FUNCTION) if name in columns]


def _fixed_by(given: Array, column: Array) -> bool:
    """Whether rows of one value of `given` have one value of `column`, and enough of them repeat to tell."""
    names, index = np.unique(given, return_inverse=True)
    if 2 * names.size > given.size:
        return False
    return all(np.ptp(column[index.ravel() == i]) < 1e-9 for i in range(names.size))


class FeatureMap(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is Any to mypy
    """Features that a surrogate sees, (rows, features).

    - Size and aspect in place of depth and width, which are what losses depend on most simply: ``ln N``, ``ln D``,
      ``ln(d_model / n_layers)``, ``ln(d_ff / d_model)``; heads as head size and KV share.
    - Other positive numbers that span more than a factor 1.5: their log; other numbers: as they are.
    - Text: one column a category (a category that the fit did not see: all zero). A list such as ``512-512-768`` (one number a
      layer): the log of its mean. Least, greatest, first and last value beside it cost more than they told: on two of the
      language-model sets of ``../shared/data/nas`` Kendall's tau with 50 rows fell from 0.979 to 0.965 and 0.937 to 0.924.
    - Constant columns, those that say the same as an earlier one, and head sizes and KV shares that the width fixes are dropped.

    Args:
        columns: Columns to read; None: those of `known_columns`.

    Attributes:
        names_: Feature names. box_: least and greatest value a numeric feature had, (2, features).
    """

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self.columns = columns

    def fit(self, X: Any, y: Any = None) -> FeatureMap:
        """Decide the features from the rows.

        Raises:
            SpecError: No column varies, or a named column is missing.
        """
        if not hasattr(X, "columns"):
            raise SpecError("features are read from named columns: give a pandas DataFrame")
        names = list(self.columns) if self.columns is not None else known_columns(list(X.columns))
        missing = [name for name in names if name not in X.columns]
        if missing:
            raise SpecError(
                f"the table has no column {', '.join(repr(m) for m in missing)}; it has {', '.join(map(str, X.columns))}"
            )
        self.read_ = names
        self.logs_: dict[str, bool] = {}
        self.least_: dict[str, float] = {}
        self.kinds_ = {name: self._kind(X, name) for name in names}
        self.categories_ = {
            name: sorted({str(v) for v in X[name]}) for name, kind in self.kinds_.items() if kind == "category"
        }
        for name, found in self.categories_.items():
            if len(found) > _MAX_CATEGORIES:
                raise SpecError(
                    f"column '{name}' has {len(found)} different texts; at most {_MAX_CATEGORIES} make a category: leave it out"
                )
        values = self._all(X)
        kept: list[str] = []
        width = number(X, "d_model")
        for name, column in values.items():
            if not np.isfinite(column).all() or np.ptp(column) < 1e-9:
                continue
            if name in _HEADS and width is not None and _fixed_by(width, column):
                continue
            if any(abs(np.corrcoef(column, values[other])[0, 1]) > _SAME for other in kept):
                continue
            kept.append(name)
        if not kept:
            raise SpecError("no column of the table varies over the rows, so nothing can be learned from it")
        self.names_ = kept
        matrix = np.stack([values[name] for name in kept], axis=1)
        self.box_ = np.stack([matrix.min(axis=0), matrix.max(axis=0)])
        return self

    def transform(self, X: Any) -> Array:
        """The features of rows, (rows, features).

        Raises:
            SpecError: A row lacks a value that the fit used.
        """
        check_is_fitted(self, "names_")
        values = self._all(X)
        missing = [name for name in self.names_ if name not in values or not np.isfinite(values[name]).all()]
        if missing:
            raise SpecError(f"rows lack a value of {', '.join(missing)}, which the predictor was fitted on")
        return np.stack([values[name] for name in self.names_], axis=1)

    def overshoot(self, X: Any) -> Array:
        """How far rows lie beyond the fitted rows' box, Euclidean over the features in their units (logs), (rows,)."""
        matrix = self.transform(X)
        low, high = self.box_
        return np.asarray(
            np.sqrt((np.maximum(low - matrix, 0.0) ** 2 + np.maximum(matrix - high, 0.0) ** 2).sum(axis=1))
        )

    @staticmethod
    def _kind(X: Any, name: str) -> str:
        column = X[name]
        if column.dtype.kind in "iufb":
            return "number"
        texts = [str(v) for v in column]
        if all(_SEQUENCE.fullmatch(text) for text in texts):
            return "sequence" if any(not text.replace(".", "").isdigit() for text in texts) else "number"
        return "category"

    def _all(self, X: Any) -> dict[str, Array]:
        """Every possible feature by name."""
        given = X[[name for name in self.read_ if name in X.columns]]
        out: dict[str, Array] = {}
        law = law_inputs(given)
        used: set[str] = set()
        if "n" in law:
            out["ln N"] = law["n"]
            used |= {"params_total", "params_active", "params_nonembed_active"}
        if "t" in law:
            out["ln D"] = law["t"]
            used.add("tokens")
        if "l" in law and "w" in law:
            out["ln(d_model / n_layers)"] = law["w"] - law["l"]
            if "n" not in law:
                out["ln(n_layers d_model^2)"] = law["l"] + 2 * law["w"]
            used |= {"n_layers", "d_model"}
        if "r" in law:
            out["ln(d_ff / d_model)"] = law["r"]
            used.add("d_ff")
        heads, kv = number(given, "n_heads"), number(given, "n_kv_heads")
        if heads is not None:
            used.add("n_heads")
            if kv is not None:
                out["ln(n_kv_heads / n_heads)"] = np.log(kv / heads)
                used.add("n_kv_heads")
            if "w" in law and "head_dim" not in given.columns:
                out["ln(d_model / n_heads)"] = law["w"] - np.log(heads)
        if "n_experts" in self.read_:
            out["ln experts"] = law.get("e", np.zeros(len(X)))
            used.add("n_experts")
        for name in self.read_:
            if name in used:
                continue
            if name not in X.columns:
                raise SpecError(f"the rows have no column '{name}', which the predictor was fitted on")
            out.update(self._columns(X, name))
        return out

    def _columns(self, X: Any, name: str) -> dict[str, Array]:
        kind = self.kinds_[name]
        if kind == "category":
            texts = np.array([str(v) for v in X[name]])
            return {f"{name}={value}": (texts == value).astype(float) for value in self.categories_[name]}
        if kind == "sequence":
            means = [np.mean([float(part) for part in re.split(r"[-|]", str(v))]) for v in X[name]]
            return {f"ln mean {name}": np.log(np.maximum(means, 1e-9))}
        values = np.asarray(X[name], dtype=float)
        if name in _ZERO:
            return {name: np.log1p(np.nan_to_num(values, nan=0.0))}
        if name not in self.logs_:
            good = np.isfinite(values).all() and values.size > 0 and values.min() > 0
            self.logs_[name] = bool(good and values.max() / values.min() > 1.5)
            self.least_[name] = float(values.min()) if good else 1.0
        if self.logs_[name]:
            with np.errstate(divide="ignore", invalid="ignore"):
                # A zero that no fitted row had is far below them, not an empty cell.
                return {f"ln {name}": np.log(np.where(values <= 0, 0.1 * self.least_[name], values))}
        return {name: values}
