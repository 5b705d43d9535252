"""What the predictors on numeric matrices share: checks of X, y, weights and groups, and splits by group."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codesign.errors import MissingExtraError, SpecError

try:
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError.of("scikit-learn>=1.6", "predictors", "a predictor") from error

__all__ = ["Rows", "Scale", "checked_features", "checked_rows", "group_codes", "grouped_parts"]

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


class Rows(NamedTuple):
    """Training rows that carry weight: X (rows, features), y (rows,), weight (rows,) of mean 1, group codes from 0 or None,
    and the sorted labels of the groups.
    """

    x: Array
    y: Array
    weight: Array
    codes: Codes | None
    labels: Any


class Scale(NamedTuple):
    """Mean and standard deviation of columns (about 0 where they are not centred); a constant column keeps 1, so that it is only
    moved to zero.
    """

    mean: Any
    std: Any

    @classmethod
    def of(cls, values: Array, weight: Array | None = None, centred: bool = True) -> Scale:
        """Of the columns of values (rows, columns) or of a vector (rows,)."""
        mean = np.average(values, axis=0, weights=weight) if centred else np.zeros(values.shape[1:])
        std = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weight))
        return cls(mean, np.where(std > 1e-12 * (1.0 + np.abs(mean)), std, 1.0))

    def __call__(self, values: Array) -> Array:
        """Standardised values."""
        return np.asarray((values - self.mean) / self.std, dtype=np.float64)


def checked_rows(estimator: Any, X: Any, y: Any, sample_weight: Any, groups: Any, min_rows: int) -> Rows:
    """Checked training data of an estimator; sets ``n_features_in_`` (and ``feature_names_in_`` of a table).

    Rows of weight zero are left out.

    Raises:
        SpecError: NaN or infinite values, fewer than min_rows rows, lengths that differ, negative weights.
    """
    x, target = _validated(estimator, X, y=y, ensure_min_samples=min_rows, y_numeric=True, reset=True)
    target = np.asarray(target, dtype=np.float64)
    name = type(estimator).__name__
    try:
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
    except ValueError as error:
        raise SpecError(f"{name}: {error}") from error
    labels: Any = None
    codes = None
    if groups is not None:
        labels, codes = group_codes(groups, len(x), name)
    keep = weight > 0
    if keep.sum() < min_rows:
        raise SpecError(
            f"{name}: {int(keep.sum())} of {len(x)} sample(s) have a sample_weight above zero; at least {min_rows} are needed"
        )
    x, target, weight = x[keep], target[keep], weight[keep]
    if codes is not None:
        used, codes = np.unique(codes[keep], return_inverse=True)
        labels = labels[used]
    return Rows(x, target, weight / weight.mean(), codes, labels)


def checked_features(estimator: Any, X: Any) -> Array:
    """Checked (rows, features) of a fitted estimator.

    Raises:
        SpecError: NaN or infinite values, or another number of columns than at the fit.
        NotFittedError: fit was not called.
    """
    check_is_fitted(estimator)
    return np.asarray(_validated(estimator, X, reset=False))


def _validated(estimator: Any, X: Any, **options: Any) -> Any:
    try:
        return validate_data(estimator, X, dtype=np.float64, **options)
    except ValueError as error:
        text = str(error)
        if "NaN" in text or "infinity" in text:  # what scikit-learn adds is about its own estimators
            text = (
                text.split("\n")[0] + " Leave those rows out: a diverged run has no loss, a missing feature no value."
            )
        raise SpecError(f"{type(estimator).__name__}: {text}") from error


def group_codes(groups: Any, rows: int, name: str) -> tuple[Any, Codes]:
    """Sorted labels of the groups and the code (rows,) of each row.

    Raises:
        SpecError: another number of groups than of rows.

    Example:
        >>> labels, codes = group_codes(["b", "a", "b"], 3, "GaussianProcess")
        >>> labels.tolist(), codes.tolist()
        (['a', 'b'], [1, 0, 1])
    """
    given = np.asarray(groups)
    if given.shape != (rows,):
        raise SpecError(f"{name}: groups has shape {given.shape}; allowed: one label a row, ({rows},)")
    labels, codes = np.unique(given, return_inverse=True)
    return labels, codes.astype(np.int64)


def grouped_parts(codes: Codes | None, rows: int, parts: int, rng: np.random.Generator) -> Codes:
    """Part (rows,) of each row, 0 to parts - 1: whole groups, at random, so that parts have about as many rows.

    There are at most as many parts as groups; without groups each row is its own.

    Example:
        >>> parts = grouped_parts(np.array([0, 0, 0, 1, 2, 1]), 6, 2, np.random.default_rng(0))
        >>> np.bincount(parts).tolist(), bool(parts[0] == parts[1] == parts[2])
        ([3, 3], True)
    """
    own = np.arange(rows) if codes is None else codes
    sizes = np.bincount(own)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large groups first, ties at random
    part_of, filled = np.zeros(len(sizes), dtype=np.int64), np.zeros(min(parts, len(sizes)))
    for group in order:
        part_of[group] = np.argmin(filled)
        filled[part_of[group]] += sizes[group]
    return np.asarray(part_of[own])
