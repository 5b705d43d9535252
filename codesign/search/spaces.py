"""Design spaces by name and from files."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codesign.errors import SpecError
from codesign.search.experts import parse_experts
from codesign.search.space import AXES, DesignSpace
from codesign.workload import parse_precision

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["default_space", "load_space", "paper_space"]


def default_space(precisions: Sequence[str] = ("fp16",), vocab_size: int = 50304) -> DesignSpace:
    """Depth 4 to 80, width 256 to 3072 by 64, activated FFN ratio 2.75 to 8, heads of 64 or 128, 1 to 16 KV heads, dense or
    8 to 64 experts of which 1 or 2 are active.

    Widths, depths and FFN ratios span what the default loss law was fitted on; FFN widths are multiples of 64.
    """
    return DesignSpace(
        axes={
            "precision": tuple(precisions),
            "vocab_size": (vocab_size,),
            "experts": ((0, 0), (8, 1), (8, 2), (16, 1), (16, 2), (32, 1), (32, 2), (64, 1), (64, 2)),
            "d_head": (64, 128),
            "n_kv_heads": (1, 2, 4, 8, 16),
            "n_layers": tuple(range(4, 81)),
            "d_model": tuple(range(256, 3073, 64)),
            "ffn_ratio": (2.75, 3.0, 3.25, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0),
        },
        name="default",
    )


def paper_space(precisions: Sequence[str] = ("fp16", "int8"), vocab_size: int = 151936) -> DesignSpace:
    """The space of arXiv 2602.10377: 8 depths, 9 widths, 5 expert settings, 5 KV settings.

    Its list of FFN ratios is not published; powers of two from 0.5 to 8 are assumed here.
    """
    return DesignSpace(
        axes={
            "precision": tuple(precisions),
            "vocab_size": (vocab_size,),
            "experts": ((0, 0), (8, 1), (8, 2), (16, 1), (16, 2)),
            "d_head": (64,),
            "n_kv_heads": (1, 2, 4, 8, 0),
            "n_layers": tuple(range(4, 33, 4)),
            "d_model": (768, 1024, 1280, 1536, 1792, 2048, 2304, 2560, 3072),
            "ffn_ratio": (0.5, 1.0, 2.0, 4.0, 8.0),
        },
        name="paper",
    )


def _axis(name: str, value: Any, where: str) -> tuple[Any, ...]:
    """A list of values, or {from, to, step}."""
    if isinstance(value, Mapping):
        if set(value) - {"from", "to", "step"} or not {"from", "to"} <= set(value):
            raise SpecError(f"{where}: axis '{name}' takes a list, or {{from = .., to = .., step = ..}}")
        low, high, step = value["from"], value["to"], value.get("step", 1)
        numbers = all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in (low, high, step)
        )
        if not numbers or step <= 0:
            raise SpecError(f"{where}: axis '{name}': from, to and step must be numbers, step above zero")
        count = math.floor((high - low) / step + 1e-9) + 1
        if not 1 <= count <= 100_000:
            raise SpecError(f"{where}: axis '{name}' has {count} values; allowed: 1 to 100000")
        return tuple(low + i * step for i in range(count))
    values = value if isinstance(value, list) else [value]
    if name != "experts":
        return tuple(values)
    try:
        return tuple(parse_experts(text) for text in values)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def load_space(name: str, precisions: Sequence[str], vocab_size: int) -> DesignSpace:
    """A space by name (default; dense: default without experts; paper) or from a TOML file with a table [axes] and optional top-level options.

    Axes that the file leaves out keep the default's values; precision and vocabulary come from the arguments unless the
    file sets them.

    Raises:
        SpecError: unreadable or malformed file, unknown axis or option.
    """
    if name == "default":
        return default_space(precisions, vocab_size)
    if name == "dense":
        dense = default_space(precisions, vocab_size).with_axis("experts", ((0, 0),))
        return replace(dense, name="dense")
    if name == "paper":
        return paper_space(precisions, vocab_size)
    path = Path(name)
    if not path.is_file():
        raise SpecError(f"no design space '{name}'; give default, dense, paper or a TOML file with an [axes] table")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"cannot read the design space {path}: {error}") from error
    options: dict[str, type] = {"ff_multiple": int, "tied_embeddings": bool, "ffn_gated": bool, "name": str}
    axes = data.pop("axes", None)
    if not isinstance(axes, dict):
        raise SpecError(f"{path} has no [axes] table; axes: {', '.join(AXES)}")
    for key, given, known in (("axis", axes, AXES), ("option", data, tuple(options))):
        for unknown in sorted(set(given) - set(known)):
            close = difflib.get_close_matches(unknown, known, n=1)
            meant = f"did you mean '{close[0]}'? " if close else ""
            raise SpecError(f"{path}: unknown {key} '{unknown}'; {meant}known: {', '.join(known)}")
    for option, value in data.items():
        wanted = options[option]
        if type(value) is not wanted or (isinstance(value, int) and option == "ff_multiple" and value < 1):
            raise SpecError(f"{path}: {option} is {value!r}; allowed: a {wanted.__name__}, 1 or more if a number")
    base = default_space(precisions, vocab_size)
    values = dict(base.axes) | {axis: _axis(axis, value, str(path)) for axis, value in axes.items()}
    values["precision"] = tuple(parse_precision(str(text)).name for text in values["precision"])
    return DesignSpace(axes=values, **{"name": path.stem, **data})
