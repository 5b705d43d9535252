"""The file of a fitted loss surrogate: its rows and its settings, read back with precise errors.

Nothing is pickled: predictors are fitted again on the stored rows (`codesign.predictors.fitted_model`), so a file from someone
else runs no code, and a file is a few lines of text a diff can show. The same rows and options give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from codesign.errors import SchemaError

__all__ = ["SURROGATE_SCHEMA", "SURROGATE_VERSION", "checked_surrogate", "surrogate_text"]

SURROGATE_SCHEMA = "codesign.loss_surrogate"
SURROGATE_VERSION = 1
#: Top-level keys and what they hold.
_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str, "dataset": str, "command": list, "source": dict, "versions": dict, "target": str, "chosen": str,
    "chosen_beyond": (str, type(None)), "law_form": (str, type(None)), "parts": dict, "size": (str, type(None)),
    "random_state": int, "columns": list, "held": dict, "ffn_matrices": int, "tokens": (int, float, type(None)),
    "ranges": dict, "priors": dict, "values": dict, "held_out": list, "rows": dict, "losses": list, "groups": list, "fitted": list,
}  # fmt: skip
_PART_KEYS = ("weights", "scale", "drift")


def surrogate_text(data: Mapping[str, Any]) -> str:
    """The file's text: one line a key, one a column of the rows."""
    head = {"schema": SURROGATE_SCHEMA, "version": SURROGATE_VERSION, **data}
    lines = []
    for key, value in head.items():
        if key == "rows":
            columns = [f"  {json.dumps(name)}: {json.dumps(column)}" for name, column in value.items()]
            lines.append(' "rows": {\n' + ",\n".join(columns) + "\n }")
        elif key == "held_out":
            lines.append(' "held_out": [\n' + ",\n".join(f"  {json.dumps(score)}" for score in value) + "\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def checked_surrogate(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The content of a file after every check that needs no fit; `where` is named in errors.

    Raises:
        SchemaError: A newer version, a missing or malformed part, columns of different lengths, a loss that is none.
    """
    version = data.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SchemaError(f"loss surrogate '{where}' has no valid version (found {version!r})")
    if version > SURROGATE_VERSION:
        raise SchemaError(
            f"loss surrogate '{where}' is of version {version}; this codesign reads up to {SURROGATE_VERSION}: upgrade it"
        )
    if not (_number(data.get("far", 0.0)) and data.get("far", 0.0) >= 0):
        raise SchemaError(f"loss surrogate '{where}': 'far' must be a number of at least 0, not {data['far']!r}")
    missing = [key for key in _KEYS if key not in data]
    if missing:
        raise SchemaError(f"loss surrogate '{where}' lacks {', '.join(missing)}; fit it again: codesign fit")
    try:
        _check(data)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise SchemaError(
            f"loss surrogate '{where}' is corrupt ({type(error).__name__}: {error}); fit it again: codesign fit"
        ) from error
    return {key: value for key, value in data.items() if key in _KEYS}


def _check(data: Mapping[str, Any]) -> None:
    for key, kind in _KEYS.items():
        if not isinstance(data[key], kind) or (isinstance(data[key], bool)):
            raise ValueError(f"'{key}' is {type(data[key]).__name__}")
    count = len(data["losses"])
    if count < 4:
        raise ValueError(f"{count} losses")
    for name, column in {**data["rows"], "groups": data["groups"], "fitted": data["fitted"]}.items():
        if not isinstance(column, list) or len(column) != count:
            raise ValueError(f"column '{name}' does not have {count} values")
    for name in ("losses", "fitted"):
        if not all(_number(v) and v > 0 for v in data[name]):
            raise ValueError(f"'{name}' holds a value that is no number above zero")
    for name, column in data["rows"].items():
        texts = sum(isinstance(v, str) for v in column)
        numbers = sum(v is None or _number(v) for v in column)
        if not (texts == count or numbers == count):
            raise ValueError(f"column '{name}' holds neither numbers alone nor texts alone")
    for name in data["columns"]:
        if name not in data["rows"]:
            raise ValueError(f"no rows of column '{name}'")
    for name in (data["chosen"], data["chosen_beyond"]):
        if name is not None and name not in data["parts"]:
            raise ValueError(f"no settings of '{name}'")
    for name, part in data["parts"].items():
        bad = [key for key in _PART_KEYS if key not in part]
        if bad or not part["weights"] or not all(_number(w) and w > 0 for w in part["weights"].values()):
            raise ValueError(f"bad settings of '{name}'")
        if not (_number(part["scale"]) and part["scale"] > 0 and _number(part["drift"]) and part["drift"] >= 0):
            raise ValueError(f"bad settings of '{name}'")
    for name, edges in data["ranges"].items():
        if len(edges) != 2 or not all(_number(v) for v in edges) or edges[0] > edges[1]:
            raise ValueError(f"bad range of '{name}'")
    for name, held in data["held"].items():
        if not isinstance(held, dict) or not ({"value"} == set(held) or {"coefficients", "low", "high"} == set(held)):
            raise ValueError(f"bad setting of '{name}'")
        if "value" not in held and not (len(held["coefficients"]) == 4 and all(map(_number, held["coefficients"]))):
            raise ValueError(f"bad rule of '{name}'")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
