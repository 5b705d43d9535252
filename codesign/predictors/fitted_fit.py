"""From a table of runs to the content of a loss surrogate's file: the staged selection, what is held, ranges and priors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError
from codesign.predictors.conformal import FAR
from codesign.predictors.features import known_columns
from codesign.predictors.files import load_law
from codesign.predictors.fitted import COMPUTED
from codesign.predictors.fitted_model import FittedModel
from codesign.predictors.loss_table import LossTable
from codesign.predictors.staged import StagedRegressor

__all__ = ["fit_surrogate"]

Array = npt.NDArray[np.float64]

_LAW_COLUMNS = ("params_nonembed_active", "params_active", "params_total", "n_layers", "d_model", "d_ff", "n_experts", "top_k", "tokens", "lr", "batch_tokens")  # fmt: skip
#: Set by the experiment's design rather than by the architecture or the recipe; no search could give them.
_LEFT_OUT = ("routing_frequency", "flop_increase", "chinchilla_multiplier", "hparams")
_RECIPE = ("lr", "batch_tokens")
_VARIES = 1.5  # a dimension whose values span less is not measured: its labelled prior acts


def fit_surrogate(
    table: LossTable,
    *,
    name: str,
    dataset: str,
    command: Sequence[str],
    source: Mapping[str, Any],
    predictors: Sequence[str] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> tuple[dict[str, Any], StagedRegressor]:
    """Fit the staged selection and put what is in use into a file's content.

    Args:
        table: The usable rows. name, dataset, command, source: Provenance, as it is to be stored.
        predictors: Those that compete; None: all. folds, seed: Of the selection.

    Raises:
        SpecError: Too few groups, or nothing varies.
    """
    frame = table.frame
    columns = [c for c in known_columns(list(frame.columns)) if c not in _LEFT_OUT and _usable(frame[c])]
    for recipe in _RECIPE:
        told = _numbers(frame, recipe)
        if recipe in columns and told is not None and _rule(frame, told, table.y)[1]:
            columns.remove(recipe)
    if not columns:
        raise SpecError(f"no column of '{table.name}' that a predictor reads varies over its {len(frame)} rows")
    staged = StagedRegressor(predictors, columns, table.size, folds, seed).fit(frame, table.y, groups=table.groups)
    kept = list(dict.fromkeys([*columns, *(c for c in _LAW_COLUMNS if c in frame.columns and _filled(frame[c]))]))
    ranges, priors = _ranges_and_priors(frame)
    values = {c: _values(frame, c) for c in ("n_kv_heads", "head_dim", "n_layers") if _numbers(frame, c) is not None}
    data: dict[str, Any] = {
        "name": name, "dataset": dataset, "command": list(command), "source": dict(source), "versions": _versions(), "target": table.target,
        "chosen": staged.chosen_, "chosen_beyond": staged.chosen_beyond_, "law_form": staged.law_form_,
        "parts": {part: _part(staged, part) for part in dict.fromkeys([staged.chosen_, staged.chosen_beyond_]) if part is not None},
        "far": FAR, "size": table.size, "random_state": seed, "columns": columns, "held": _held(frame, kept, table.y), "ffn_matrices": _matrices(frame),
        "tokens": _common(frame["tokens"]) if _numbers(frame, "tokens") is not None else None,
        "ranges": ranges, "priors": priors, "values": values,
        "held_out": [_score(score) for score in staged.scores_],
        "rows": {c: _column(frame[c]) for c in kept}, "losses": [float(v) for v in table.y], "groups": [int(g) for g in table.groups],
    }  # fmt: skip
    again = FittedModel(data)
    data["fitted"] = [float(f"{v:.6g}") for v in again.mean(frame[kept])]
    return data, staged


def _usable(column: Any) -> bool:
    """Whether a column varies and is filled; what is constant is read by no predictor. Mixtures' own columns may have gaps."""
    return bool(column.dropna().nunique() > 1)


def _filled(column: Any) -> bool:
    return column.dtype.kind in "iuf" and bool(column.notna().any())


def _numbers(frame: Any, name: str) -> Array | None:
    """A column of numbers above zero without gaps, or None."""
    if name not in frame.columns or frame[name].dtype.kind not in "iuf":
        return None
    values = np.asarray(frame[name], dtype=float)
    return values if values.size and np.isfinite(values).all() and (values > 0).all() else None


def _values(frame: Any, name: str) -> list[float]:
    """Values that the rows have, for a design space; KV heads as many as the query heads are 0 there."""
    values, heads = np.asarray(frame[name], dtype=float), _numbers(frame, "n_heads")
    if name == "n_kv_heads" and heads is not None:
        values = np.where(values == heads, 0.0, values)
    return sorted({float(v) for v in values})


def _common(column: Any) -> float:
    """Most common value, of equals the largest."""
    counts = column.value_counts()
    return float(max(counts.index[counts == counts.max()]))


def _column(column: Any) -> list[Any]:
    if column.dtype.kind in "iufb":
        return [
            None if math.isnan(v) else int(v) if float(v).is_integer() and abs(v) < 2**53 else float(v) for v in column
        ]
    return [str(v) for v in column]


def _part(staged: StagedRegressor, name: str) -> dict[str, Any]:
    member = staged.members_[name]
    factors = {str(level): factor for level, factor in member.correction_.factors.items()}
    return {
        "weights": staged.shares(name),
        "scale": member.correction_.scale,
        "drift": member.drift_,
        "factors": factors,
    }


def _score(score: Any) -> dict[str, Any]:
    """A predictor's scores; what is not known (nan) is null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in score.__dict__.items()}


def _held(frame: Any, kept: Sequence[str], loss: Array) -> dict[str, Any]:
    """Columns that no architecture decides, at what the best rows have: see `codesign.predictors.fitted`."""
    held: dict[str, Any] = {}
    for name in kept:
        if name in COMPUTED and not (name == "arch" and not set(frame["arch"].astype(str)) <= {"dense", "moe"}):
            continue
        values = _numbers(frame, name)
        if name in _RECIPE and values is not None and np.ptp(values) > 0:
            held[name] = _rule(frame, values, loss)[0]
        else:
            value = frame[name].mode(dropna=True).iloc[-1]
            held[name] = {"value": float(value) if frame[name].dtype.kind in "iuf" else str(value)}
    return held


def _rule(frame: Any, values: Array, loss: Array) -> tuple[dict[str, Any], bool]:
    """``ln value = c0 + c1 ln N + c2 ln D + c3 ln d_model`` over the best row of each size and token count (least squares), and
    whether it gives every row's value within 2 %: then the column says nothing that the size does not.

    A recipe that was swept is so held at its best, one that was set by a rule at the rule; powers of N and D are what Step Law
    (arXiv 2503.04715) found, powers of the width what `codesign train` sets.
    """
    ones = np.ones(values.size)
    size = next((v for c in _LAW_COLUMNS[:3] if (v := _numbers(frame, c)) is not None), ones)
    read = [size, *(ones if (v := _numbers(frame, c)) is None else v for c in ("tokens", "d_model"))]
    x = np.stack([ones, *(np.log(v) if np.ptp(v) > 0 else 0.0 * ones for v in read)], axis=1)
    cell = np.ravel(np.unique(x, axis=0, return_inverse=True)[1])
    best = np.array([min(np.flatnonzero(cell == c), key=lambda i: loss[i]) for c in range(cell.max() + 1)])
    coefficients = np.linalg.lstsq(x[best], np.log(values[best]), rcond=None)[0]
    exact = bool(np.abs(x @ coefficients - np.log(values)).max() < 0.02)
    rule = {
        "coefficients": [float(f"{c:.9g}") for c in coefficients],
        "low": float(values[best].min()), "high": float(values[best].max()),
    }  # fmt: skip
    return rule, exact


def _matrices(frame: Any) -> int:
    """Matrices of one FFN in the rows, 2 or 3: as said, else as their parameter counts tell, else 3 (gated)."""
    said = _numbers(frame, "ffn_matrices")
    if said is not None:
        return int(np.clip(np.median(said), 2, 3))
    read = {
        c: _numbers(frame, c) for c in ("params_nonembed_active", "n_layers", "d_model", "d_ff", "n_heads", "head_dim")
    }
    if any(v is None for v in read.values()):
        return 3
    n, depth, width, hidden, heads, size = (np.asarray(v) for v in read.values())
    kv = _numbers(frame, "n_kv_heads")
    attention = 2 * width * size * (heads + (heads if kv is None else kv))
    return int(np.clip(np.round(np.median((n / depth - attention) / (width * hidden))), 2, 3))


def _ranges_and_priors(frame: Any) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Ranges that the rows have, and the labelled priors (of the shipped default law) of what they do not vary."""
    shipped = load_law().meta
    ranges: dict[str, list[float]] = {}
    priors: dict[str, Any] = {}

    def edges(values: Array) -> list[float]:
        return [float(values.min()), float(values.max())]

    size = next((v for c in _LAW_COLUMNS[:3] if (v := _numbers(frame, c)) is not None), None)
    width, depth = _numbers(frame, "d_model"), _numbers(frame, "n_layers")
    aspect = width / depth if width is not None and depth is not None else None
    for key, values in {
        "params_active": size,
        "n_layers": depth,
        "d_model": width,
        "aspect": aspect,
        "tokens": _numbers(frame, "tokens"),
    }.items():
        if values is not None:
            ranges[key] = edges(values)
    heads, kv, head = (_numbers(frame, c) for c in ("n_heads", "n_kv_heads", "head_dim"))
    if head is None and heads is not None and width is not None:
        head = width / heads
    share = kv * head / width if kv is not None and head is not None and width is not None else None
    if share is not None and kv is not None and share.max() > _VARIES * share.min():
        ranges["n_kv"] = edges(kv)
    else:
        usual = float(np.median(share)) if share is not None else shipped["priors"]["kv"]["width_share"]
        priors["kv"] = {**shipped["priors"]["kv"], "width_share": usual}
        ranges["n_kv"] = shipped["ranges"]["n_kv"]
    if head is not None and head.max() > _VARIES * head.min():
        ranges["d_head"] = edges(head)
    else:
        low, high = edges(head) if head is not None else shipped["priors"]["d_head"]["data"]
        priors["d_head"] = {**shipped["priors"]["d_head"], "data": [low, high]}
        ranges["d_head"] = [min(low, shipped["ranges"]["d_head"][0]), max(high, shipped["ranges"]["d_head"][1])]
    vocab = _numbers(frame, "vocab")
    one = vocab is not None and np.ptp(vocab) == 0
    priors["vocab"] = {"data": float(vocab[0]) if one and vocab is not None else None, "source": "the rows"}
    experts = (
        np.nan_to_num(np.asarray(frame["n_experts"], dtype=float))
        if "n_experts" in frame.columns
        else np.zeros(len(frame))
    )
    matrices = _matrices(frame) / 3.0
    dense, hidden = experts <= 1, _hidden(frame, matrices)
    if hidden is not None and width is not None and np.isfinite(hidden[dense]).any():
        ratio = (hidden / width)[dense & np.isfinite(hidden)]
        if ratio.max() > _VARIES * ratio.min():
            ranges["ffn_ratio"] = edges(ratio)
        else:
            priors["ffn_ratio"] = {**shipped["priors"]["ffn_ratio"], "data": edges(ratio)}
            low, high = shipped["ranges"]["ffn_ratio"]
            ranges["ffn_ratio"] = [min(low, float(ratio.min())), max(high, float(ratio.max()))]
    if experts.max() > 1:
        ranges["experts"] = [float(max(experts.min(), 1.0)), float(experts.max())]
        wide = _activated(frame, matrices)
        if wide is not None and width is not None:
            ranges["ffn_ratio_moe"] = edges((wide / width)[~dense])
            ranges.setdefault("ffn_ratio", ranges["ffn_ratio_moe"])
    else:
        ranges["experts"] = [1.0, 1.0]
        ranges["ffn_ratio_moe"] = shipped["ranges"]["ffn_ratio_moe"]
        priors["moe"] = dict(shipped["priors"]["moe"])
    return ranges, priors


def _hidden(frame: Any, matrices: float) -> Array | None:
    """FFN width of dense rows in a gated FFN of equal parameters; nan where a row has none."""
    if "d_ff" not in frame.columns or frame["d_ff"].dtype.kind not in "iuf" or not frame["d_ff"].notna().any():
        return None
    return np.asarray(frame["d_ff"], dtype=float) * matrices


def _activated(frame: Any, matrices: float) -> Array | None:
    """FFN width that a token uses in the mixtures' layers."""
    if "d_ff_expert" not in frame.columns or "top_k" not in frame.columns:
        return None
    parts = {c: np.nan_to_num(np.asarray(frame[c], dtype=float)) if c in frame.columns else np.zeros(len(frame)) for c in ("top_k", "d_ff_expert", "d_ff_shared")}  # fmt: skip
    wide = parts["top_k"] * parts["d_ff_expert"] + parts["d_ff_shared"]
    return wide * matrices if (wide[np.nan_to_num(np.asarray(frame["n_experts"], dtype=float)) > 1] > 0).all() else None


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("codesign-llm", "numpy", "scipy", "scikit-learn", "torch", "gpytorch", "xgboost", "xgboost-cpu"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
