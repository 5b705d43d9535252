"""Read and write law files; the catalogue of shipped laws."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from codesign.errors import SchemaError, UnknownNameError
from codesign.predictors.core import Core
from codesign.predictors.fitted import surrogate_law
from codesign.predictors.fitted_file import SURROGATE_SCHEMA, checked_surrogate
from codesign.predictors.law import DIMENSIONS, LossLaw

__all__ = ["DEFAULT_LAW", "SCHEMA", "VERSION", "dump_law", "law_names", "load_law"]

SCHEMA = "codesign.loss_law"
VERSION = 1
DEFAULT_LAW = "gemstones"
_KEYS = ("name", "dataset", "source", "command", "form", "token_term", "ranges", "priors", "held_out")


def _folder() -> Any:
    from importlib import (
        resources,  # here: it takes 15 ms, which ``import codesign`` should not
    )

    return resources.files("codesign.predictors").joinpath("laws")


def law_names() -> tuple[str, ...]:
    """Names of the shipped laws, the default first.

    Example:
        >>> law_names()[0]
        'gemstones'
    """
    names = sorted(entry.name[:-5] for entry in _folder().iterdir() if entry.name.endswith(".json"))
    return tuple(sorted(names, key=lambda name: (name != DEFAULT_LAW, name)))


def load_law(name: str | os.PathLike[str] = DEFAULT_LAW) -> LossLaw:
    """A shipped law by name, or a user's own by the path of its JSON file (of `tools/fit_loss_laws.py` or `codesign fit`).

    Raises:
        UnknownNameError: No such law or file.
        SchemaError: The file is corrupt, of another kind, or of a newer version.
    """
    text = os.fspath(name)
    if text.endswith(".json") or os.sep in text or isinstance(name, os.PathLike):
        if not os.path.isfile(text):
            raise UnknownNameError(
                f"no law file at '{text}'; give a name ({', '.join(law_names())}) or an existing path"
            )
        with open(text, "rb") as handle:
            return parse_law(handle.read(), text)
    known = law_names()
    if text not in known:
        raise UnknownNameError.near("loss law", text, known, "Or give the path of a law's .json file.")
    return parse_law(_folder().joinpath(f"{text}.json").read_bytes(), f"laws/{text}.json")


def parse_law(raw: bytes, where: str) -> LossLaw:
    """Build a law from a file's bytes; ``where`` is named in errors.

    Raises:
        SchemaError: See `load_law`.
    """
    try:
        data: Any = json.loads(raw)
    except ValueError as error:
        raise SchemaError(f"law file '{where}' is not valid JSON ({error}); restore it or fit it again") from error
    if isinstance(data, dict) and data.get("schema") == SURROGATE_SCHEMA:
        return surrogate_law(checked_surrogate(data, where), hashlib.sha256(raw).hexdigest())
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise SchemaError(f"law file '{where}' is not a loss law: its schema is not '{SCHEMA}'")
    version = data.get("version")
    if not isinstance(version, int) or version < 1:
        raise SchemaError(f"law file '{where}' has no valid version (found {version!r})")
    if version > VERSION:
        raise SchemaError(
            f"law file '{where}' is of version {version}; this codesign reads up to {VERSION}: upgrade it"
        )
    missing = [key for key in _KEYS if key not in data]
    if missing:
        raise SchemaError(f"law file '{where}' lacks {', '.join(missing)}; fit it again")
    try:
        core = Core.from_dict(data["core"]) if data.get("core") is not None else None
        if core is None:
            [float(data["paper"][key]) for key in ("std", "overstated")]
            if len(data["paper"]["parameters"]) != 11:
                raise ValueError("the published form has 11 parameters")
        for dimension, edges in data["ranges"].items():
            if dimension not in (*DIMENSIONS, "tokens_per_param", "ffn_ratio_moe") or not float(edges[0]) <= float(
                edges[1]
            ):
                raise ValueError(f"bad range of '{dimension}'")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SchemaError(f"law file '{where}' is corrupt ({type(error).__name__}: {error}); fit it again") from error
    meta = {key: value for key, value in data.items() if key not in ("core", "schema", "version")}
    return LossLaw(str(data["name"]), meta, core)


def dump_law(law: LossLaw) -> str:
    """The file's text; `load_law` of it gives the same predictions."""
    head: dict[str, Any] = {"schema": SCHEMA, "version": VERSION, **law.meta}
    head["core"] = law.core.to_dict() if law.core is not None else None
    # One line a top-level key, one a draw: diffs stay readable and the file small.
    lines = [f" {json.dumps(key)}: {json.dumps(value, sort_keys=False)}" for key, value in head.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
