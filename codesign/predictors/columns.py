"""Columns of a table of training runs (those of the public loss tables) as inputs of laws and as features.

Any table with these names works; counts are plain numbers, tokens are tokens, losses nats per token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError

__all__ = ["law_columns", "law_inputs", "number"]

Array = npt.NDArray[np.float64]

#: Column of ln N, the first that is filled: what is active and without embeddings counts most.
_PARAMETERS = ("params_nonembed_active", "params_active", "params_total")
_TOTAL = "params_total"
_LOGS = {"t": "tokens", "l": "n_layers", "w": "d_model", "lr": "lr", "bs": "batch_tokens"}


def number(X: Any, name: str) -> Array | None:
    """A column as floats; None where the table lacks it or a cell is empty or not positive."""
    if name not in X.columns:
        return None
    values = np.asarray(X[name], dtype=float)
    return values if values.size and np.isfinite(values).all() and (values > 0).all() else None


def law_columns(X: Any) -> list[str]:
    """The columns that `law_inputs` reads and laws use: the first parameter count that is filled, tokens, shape, experts (and then all
    parameters and how many experts are active), and the recipe where both its parts vary.
    """
    counts = [name for name in _PARAMETERS if number(X, name) is not None]
    mixture = [_TOTAL, "n_experts", "top_k"] if "n_experts" in X.columns and X["n_experts"].nunique() > 1 else []
    recipe = [c for c in (_LOGS["lr"], _LOGS["bs"]) if c in X.columns and X[c].nunique() > 1]
    shape = [_LOGS[key] for key in ("t", "l", "w")]
    found = [*counts[:1], *shape, *mixture, *(recipe if len(recipe) == 2 else [])]
    return [name for name in dict.fromkeys(found) if name in X.columns]


def law_inputs(X: Any) -> dict[str, Array]:
    """The log inputs of `codesign.predictors.law_terms` that a table has in every row, each (rows,).

    Raises:
        SpecError: `X` is not a table with named columns.
    """
    if not hasattr(X, "columns"):
        raise SpecError("a law reads named columns: give a pandas DataFrame with the columns of a loss table")
    found: dict[str, Array] = {}
    for name in _PARAMETERS:
        values = number(X, name)
        if values is not None:
            found["n"] = np.log(values)
            break
    for key, name in _LOGS.items():
        values = number(X, name)
        if values is not None:
            found[key] = np.log(values)
    ratio = number(X, "d_ff")
    if ratio is not None and "w" in found:
        found["r"] = np.log(ratio) - found["w"]
    if "n_experts" in X.columns:
        experts = np.nan_to_num(np.asarray(X["n_experts"], dtype=float), nan=1.0)
        found["e"] = np.log(np.maximum(experts, 1.0))
        total = number(X, _TOTAL)
        if total is not None:
            found["p"] = np.log(total)
        if "top_k" in X.columns:
            active = np.nan_to_num(np.asarray(X["top_k"], dtype=float), nan=1.0)
            found["a"] = np.minimum(np.log(np.maximum(active, 1.0)) - found["e"], 0.0)
    return found
