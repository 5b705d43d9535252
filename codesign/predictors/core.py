"""A fitted law: form, parameters, bootstrap draws and GP on the residual, with one mean and one joint variance.

The variance of a prediction adds, before the conformal factor ``scale``,

1. the law's parameters: the spread over bootstrap draws of the law *after* the GP has pulled each draw to the data
   (``dev_b(x) - k(x) K^-1 dev_b(X)``), so shared between designs;
2. the GP's posterior variance, with what one trained shape has of its own;

and, unscaled, (3) ``(extension * distance)^2``, a drift beyond the box of the data, distance being the overshoot in
log units: extrapolation widens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.predictors.gp import GP, Hyper
from codesign.predictors.scaling import FORMS, Form, Logs

__all__ = ["Core", "flat", "gp_features"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def flat(x: Logs) -> Logs:
    """All inputs broadcast and raveled: for the paths that need covariances, never for the mean."""
    parts = np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in x))
    return Logs(*(np.ravel(v) for v in parts))


def gp_features(form: str, x: Logs) -> list[Any]:
    """Shape features of the GP: size ``ln(l d^2)`` and aspect; for the mixture form ln N and ln E."""
    return [x.n, x.e] if form == "moe" else [x.l + 2 * x.w, x.w - x.l]


@dataclass
class Core:
    """See the module.

    Attributes:
        form: The law form.
        p: Its parameters, (P,).
        draws: Bootstrap draws of the parameters, (B, P).
        gp: The GP on the residual (its shape term is zero where the law alone won).
        rows: Training inputs, each (rows,).
        box: (low, high) per input, log units.
        scale: Conformal factor on the standard deviation.
        extension: Drift per log unit outside the box (nats).
    """

    form: Form
    p: Array
    draws: Array
    gp: GP
    rows: Logs
    box: dict[str, tuple[float, float]]
    scale: float = 1.0
    extension: float = 0.0
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def features(self, x: Logs) -> list[Any]:
        """See `gp_features`."""
        return gp_features(self.form.name, x)

    def law(self, x: Logs) -> Array:
        """The law alone, without the GP."""
        return self.form.function(self.p, x)

    def mean(self, x: Logs) -> Array:
        """Law plus GP mean; the result has the broadcast shape of what the law reads."""
        law = self.law(x)
        if self.gp.hyper.shape_std == 0.0:
            return law
        return np.asarray(law + self.gp.mean(self.features(x), x.t))

    def distance(self, x: Logs) -> Array:
        """Overshoot beyond the box of the data, in log units (Euclidean over the inputs)."""
        total: Any = 0.0
        for name, (low, high) in self.box.items():
            value = getattr(x, name)
            total = total + (np.maximum(low - value, 0.0) + np.maximum(value - high, 0.0)) ** 2
        return np.asarray(np.sqrt(total))

    def deviations(self, x: Logs) -> Array:
        """Draw minus central law, after the GP's pull; x flat, result (B, points)."""
        raw = self._raw(x)
        if self.gp.hyper.shape_std == 0.0:
            return raw
        if "rows" not in self._cache:
            self._cache["rows"] = self._raw(self.rows) @ self.gp.inverse()
        return np.asarray(raw - self._cache["rows"] @ self.gp.cross(self._matrix(x), np.asarray(x.t)).T)

    def _raw(self, x: Logs) -> Array:
        parameters = self.draws.T[:, :, None]
        rows = Logs(*(np.asarray(v)[None, :] for v in x))
        return self.form.function(parameters, rows) - self.law(x)[None, :]

    def _matrix(self, x: Logs) -> Array:
        return np.stack([np.asarray(f, dtype=float) for f in self.features(x)], axis=1)

    def raw_variance(self, x: Logs) -> Array:
        """Variance before ``scale`` and ``extension``; x flat, (points,)."""
        spread = (self.deviations(x) ** 2).mean(axis=0)
        return np.asarray(spread + self.gp.variance(self._matrix(x), np.asarray(x.t)))

    def variance(self, x: Logs) -> Array:
        """Calibrated variance (nats^2); x flat."""
        drift = (self.extension * self.distance(x)) ** 2
        return np.asarray(self.scale**2 * self.raw_variance(x) + drift)

    def difference_variance(self, a: Logs, b: Logs, same: Mask) -> Array:
        """Calibrated variance of ``L(a) - L(b)`` at the same tokens, shared parts cancelled; a and b flat."""
        spread = ((self.deviations(a) - self.deviations(b)) ** 2).mean(axis=0)
        own = self.gp.difference_variance(self._matrix(a), self._matrix(b), np.asarray(a.t), same)
        drift = self.extension * (self.distance(a) - self.distance(b))
        return np.asarray(np.where(same, 0.0, self.scale**2 * (spread + own) + drift**2))

    def error_samples(self, x: Logs, size: int, rng: np.random.Generator, correlated: int = 600) -> Array:
        """Joint draws (size, points) of the calibrated error; x flat, all at the same tokens.

        The GP's posterior is drawn with its correlations up to `correlated` points, and as independent above: that
        overstates how far close designs may swap.
        """
        deviations = self.deviations(x)
        errors = rng.standard_normal((size, len(deviations))) @ deviations / np.sqrt(len(deviations))
        features, tokens = self._matrix(x), np.asarray(x.t)
        own = self.gp.hyper.group_std**2 + self.gp.hyper.noise_std**2
        if deviations.shape[1] <= correlated:
            values, vectors = np.linalg.eigh(self.gp.posterior(features, tokens))
            root = vectors * np.sqrt(np.maximum(values, 0.0))
            errors = errors + rng.standard_normal((size, len(root))) @ root.T
            errors = errors + rng.standard_normal(errors.shape) * np.sqrt(own)
        else:
            errors = errors + rng.standard_normal(errors.shape) * np.sqrt(self.gp.variance(features, tokens))
        drift = rng.standard_normal((size, 1)) * (self.extension * self.distance(x))
        return np.asarray(self.scale * errors + drift)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; numbers rounded to nine significant digits."""
        return {
            "form": self.form.name,
            "parameters": dict(zip(self.form.parameters, _round(self.p), strict=True)),
            "draws": [_round(d, 6) for d in self.draws],
            "scale": float(f"{self.scale:.6g}"),
            "extension_nats_per_log": float(f"{self.extension:.6g}"),
            "box": {k: _round(np.array(v)) for k, v in self.box.items()},
            "gp": {
                **self.gp.hyper.to_dict(),
                "group": self.gp.group.tolist(),
                "residual": _round(self.gp.residual, 6),
                "shapes": [_round(s) for s in self.gp.shapes],
            },
            "rows": {k: _round(np.asarray(v), 8) for k, v in self.rows._asdict().items()},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Core:
        """Inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: The dictionary is not one of `to_dict`'s.
        """
        form = FORMS[data["form"]]
        gp = dict(data["gp"])
        rows = Logs(**{k: np.array(v, dtype=float) for k, v in data["rows"].items()})
        keys = ("group", "residual", "shapes")
        held = {k: gp.pop(k) for k in keys}
        hyper = Hyper(**{**gp, "scales": tuple(gp["scales"])})
        p = np.array([data["parameters"][name] for name in form.parameters], dtype=float)
        draws = np.array(data["draws"], dtype=float)
        residual, group = np.array(held["residual"], dtype=float), np.array(held["group"], dtype=np.int64)
        shapes = np.array(held["shapes"], dtype=float)
        if draws.ndim != 2 or draws.shape[1] != p.size or not rows.t.size == residual.size == group.size:
            raise ValueError("draws, rows, residual and group do not match in length")
        if not all(np.isfinite(v).all() for v in (p, draws, residual, shapes)):
            raise ValueError("a parameter, draw or residual is not finite")
        process = GP(hyper, shapes, group, np.asarray(rows.t), residual)
        box = {k: (float(v[0]), float(v[1])) for k, v in data["box"].items()}
        return cls(form, p, draws, process, rows, box, float(data["scale"]), float(data["extension_nats_per_log"]))


def _round(values: Array, digits: int = 9) -> list[float]:
    return [float(f"{v:.{digits}g}") for v in np.asarray(values, dtype=float)]
