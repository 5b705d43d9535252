"""Fit a `Core` to measured losses and calibrate its interval on shapes that it has not seen.

Calibration never uses residuals of rows that were fitted. ``scale`` comes from k-fold over whole shapes,
``extension`` from leaving out the largest models; both use the given rows only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError
from codesign.predictors.core import Core, gp_features
from codesign.predictors.gp import fit_gp
from codesign.predictors.scaling import FORMS, Form, Logs, fit

__all__ = ["Dataset", "Left", "Recipe", "calibrate", "fit_core", "folds", "largest_splits", "leave_out", "z90"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Standard normal quantile of a two-sided 90 % interval.
Z90 = 1.6448536269514722
#: Fractions of the largest groups left out when the drift beyond the data is set, and when a form is chosen.
FRACTIONS = (0.15, 0.20, 0.25, 0.30, 0.35, 0.40)


@dataclass(frozen=True)
class Recipe:
    """What to fit: a law form, whether a GP corrects its mean, its bounds, and the robust scale of the law's fit."""

    form: str
    gp: bool
    max_std: float = 0.03
    scale_bounds: tuple[float, float] = (0.7, 4.0)
    draws: int = 64
    starts: int = 8

    @property
    def label(self) -> str:
        """For tables: ``aspect + GP``."""
        return self.form + (" + GP" if self.gp else "")


@dataclass(frozen=True)
class Dataset:
    """Measured rows: inputs, losses (nats/token), shape identity, and the size by which 'largest' is meant."""

    x: Logs
    loss: Array
    group: npt.NDArray[np.int64]
    size: Array

    def take(self, mask: Mask) -> Dataset:
        """The rows of a mask."""
        x = Logs(*(np.asarray(v)[mask] for v in self.x))
        return Dataset(x, self.loss[mask], self.group[mask], self.size[mask])


class Left(NamedTuple):
    """Left-out rows: prediction minus measurement, raw standard deviation, distance beyond the box, prediction."""

    error: Array
    std: Array
    distance: Array
    predicted: Array


def fit_core(data: Dataset, recipe: Recipe, seed: int = 0) -> Core:
    """Fit law, GP and draws (a Bayesian bootstrap over shapes: exponential weights, no draw loses a shape wholly)."""
    form, y = bounded(FORMS[recipe.form], data.x), data.loss

    def function(p: Array) -> Array:
        return form.function(p, data.x)

    p = fit(function, y, form.low, form.high, seed=seed, starts=recipe.starts)
    rng = np.random.default_rng(seed)
    _, index = np.unique(data.group, return_inverse=True)
    draws = []
    for _ in range(recipe.draws):
        weight = rng.exponential(size=index.max() + 1)[index]
        draws.append(fit(function, y, form.low, form.high, starts=0, init=p, weight=weight / weight.mean()))
    read = data.x._asdict().items()
    box = {k: (float(np.min(v)), float(np.max(v))) for k, v in read if k != "e" or form.name == "moe"}
    features = np.stack(gp_features(form.name, data.x), axis=1)
    shapes, group = np.unique(np.round(features, 9), axis=0, return_inverse=True)
    gp = fit_gp(
        shapes,
        np.asarray(group).ravel(),
        np.asarray(data.x.t),
        y - function(p),
        max_std=recipe.max_std,
        scale_bounds=recipe.scale_bounds,
        mean=recipe.gp,
    )
    return Core(form, p, np.array(draws), gp, data.x, box)


def bounded(form: Form, x: Logs) -> Form:
    """The form with its best aspect ratio kept inside the data's own: an optimum elsewhere is not measured."""
    if "u0" not in form.parameters:
        return form
    i, aspect = form.parameters.index("u0"), np.asarray(x.w - x.l)
    low, high = list(form.low), list(form.high)
    low[i], high[i] = max(low[i], float(aspect.min())), min(high[i], float(aspect.max()))
    if high[i] - low[i] < 1e-3:
        raise SpecError("the aspect form needs rows of more than one aspect ratio d_model / n_layers")
    return replace(form, low=tuple(low), high=tuple(high))


def leave_out(data: Dataset, recipe: Recipe, test: Mask, seed: int = 0) -> Left:
    """Fit on the other rows and predict these."""
    return _left(fit_core(data.take(~test), recipe, seed), data.take(test))


def _left(core: Core, test: Dataset) -> Left:
    predicted = core.mean(test.x)
    return Left(predicted - test.loss, np.sqrt(core.raw_variance(test.x)), core.distance(test.x), predicted)


def folds(data: Dataset, count: int = 24, seed: int = 0) -> list[Mask]:
    """Masks of left-out rows, whole shapes together; one shape a fold up to ``count`` shapes."""
    names, index = np.unique(data.group, return_inverse=True)
    order = np.random.default_rng(seed).permutation(names.size) % count
    return [order[index] == k for k in range(min(count, names.size))]


def largest_splits(data: Dataset, fractions: Sequence[float] = FRACTIONS) -> list[Mask]:
    """Masks that leave out the largest sizes: by quantile of the distinct sizes, so no size is split."""
    sizes = np.unique(data.size)
    masks: list[Mask] = []
    for fraction in fractions:
        mask = data.size >= np.quantile(sizes, 1 - fraction) * (1 - 1e-12)
        if 0 < mask.sum() < mask.size and not any((mask == m).all() for m in masks):
            masks.append(mask)
    return masks


def z90(left: Sequence[Left]) -> float:
    """The factor by which raw standard deviations must grow so that mean +- 1.645 std holds 90 % of these rows."""
    z = np.concatenate([np.abs(part.error) / part.std for part in left])
    return float(np.quantile(z, min(1.0, 0.9 * (1 + 1 / z.size))) / Z90)


def calibrate(
    data: Dataset, recipe: Recipe, seed: int = 0, *, split: Sequence[Mask] | None = None
) -> tuple[Core, list[Mask], list[Left]]:
    """Fit on all rows; scale and extension from rows left out.

    Returns:
        The calibrated core, the masks of the k-fold and their left-out rows (for a cross-validated coverage).
    """
    masks = folds(data, seed=seed) if split is None else list(split)
    inner = replace(recipe, draws=min(recipe.draws, 24), starts=5)
    left = [leave_out(data, inner, mask, seed) for mask in masks]
    scale = z90(left)
    beyond = [leave_out(data, inner, mask, seed) for mask in largest_splits(data, (0.15, 0.2, 0.25))]
    core = fit_core(data, recipe, seed)
    return replace(core, scale=scale, extension=extension(beyond, scale)), masks, left


def extension(beyond: Sequence[Left], scale: float) -> float:
    """Smallest drift per log unit that covers 90 % of the rows left out beyond the box."""
    parts = [np.array([p.error, p.std, p.distance]) for p in beyond]
    error, std, distance = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0))
    far = distance > 0.1
    if not far.any():
        return 0.0
    missing = np.maximum((error[far] / Z90) ** 2 - (scale * std[far]) ** 2, 0.0)
    return float(np.quantile(np.sqrt(missing) / distance[far], 0.9))
