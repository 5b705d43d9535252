"""The predictors of a loss surrogate's file, fitted again on its rows: means of a million designs, joint errors of a few."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codesign.errors import MissingExtraError, SchemaError

try:
    import pandas as pd

    from codesign.predictors.candidates import candidate, possible_laws
    from codesign.predictors.columns import law_inputs
    from codesign.predictors.conformal import NEAR
except ImportError as error:
    raise MissingExtraError.of(error.name or "scikit-learn", "predictors", "a loss law of your own runs") from error

__all__ = ["FittedModel", "Joint", "refitted", "rows_frame"]

Array = npt.NDArray[np.float64]
_CHUNK = 1 << 15
#: Designs up to which the Gaussian process's posterior is drawn with its correlations.
CORRELATED = 600
#: Relative change of a prediction at the rows above which the file is refused: libraries of other versions fit otherwise.
_CHANGED = 0.01
_FITTED: dict[str, FittedModel] = {}


class Joint(NamedTuple):
    """Predictions of n rows and their errors' parts, relative to the mean: error / mean = z @ shared + e own + u @ drift.

    mean (n,); shared (k, n) and drift (parts, n), each row with one standard normal coefficient for all n; own (n,).
    """

    mean: Array
    shared: Array
    own: Array
    drift: Array


def rows_frame(data: Mapping[str, Any]) -> Any:
    """The stored rows as a pandas DataFrame."""
    frame = {}
    for name, column in data["rows"].items():
        text = bool(column) and isinstance(column[0], str)
        frame[name] = np.array(column, dtype=str if text else float)
    return pd.DataFrame(frame)


def refitted(data: Mapping[str, Any]) -> FittedModel:
    """The model of a file's content; once a process.

    Raises:
        SchemaError: The predictors cannot be fitted, or no longer give the stored predictions.
    """
    key = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    if key not in _FITTED:
        model = FittedModel(data)
        again = model.mean(rows_frame(data))
        change = float(np.max(np.abs(again / np.array(data["fitted"]) - 1.0)))
        if change > _CHANGED:
            then = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
            raise SchemaError(
                f"the loss surrogate '{data['name']}' predicts its own rows up to {change:.1%} differently here than where it was "
                f"fitted ({then}); fit it again: {' '.join(data['command'])}"
            )
        _FITTED[key] = model
    return _FITTED[key]


class _Part:
    """A predictor in use: a weighted mean of surrogates in ln(loss), with its conformal factor and drift."""

    def __init__(self, settings: Mapping[str, Any], members: Mapping[str, Any]) -> None:
        weights = settings["weights"]
        total = sum(weights.values())
        self.members = [(weight / total, members[name]) for name, weight in weights.items()]
        self.scale, self.drift = float(settings["scale"]), float(settings["drift"])

    def log_mean(self, X: Any) -> Array:
        return np.asarray(sum(weight * _log_mean(member, X) for weight, member in self.members))

    def relative_std(self, X: Any, far: Array) -> Array:
        logs, variances = [], []
        for _, member in self.members:
            mean, std = member.predict(X, return_std=True)
            logs.append(np.log(mean))
            variances.append((std / mean) ** 2)
        centre = sum(weight * log for (weight, _), log in zip(self.members, logs, strict=True))
        total: Any = 0.0
        for (weight, _), log, variance in zip(self.members, logs, variances, strict=True):
            total = total + weight * (variance + (log - centre) ** 2)
        return np.asarray(np.sqrt(self.scale**2 * total + (self.drift * far) ** 2))

    def joint(self, X: Any, correlated: bool) -> tuple[Array, Array]:
        """Shared directions (k, n) and own standard deviation (n,), relative, with the conformal factor."""
        logs = [_log_mean(member, X) for _, member in self.members]
        centre = np.asarray(sum(weight * log for (weight, _), log in zip(self.members, logs, strict=True)))
        directions: list[Array] = []
        own: Any = np.zeros(centre.size)
        for (weight, member), log in zip(self.members, logs, strict=True):
            root = np.sqrt(weight)
            if len(self.members) > 1:
                directions.append(root * (log - centre)[None, :])
            if member.law is not None:
                directions.append(root * _law_directions(member.law_, X))
            if member.model is None:
                own = own + weight * member.law_.scatter_**2
                continue
            features = member.features_.transform(X)
            if correlated and type(member.model_).__name__ == "GaussianProcess":
                posterior, noise = _gp_posterior(member.model_, features)
                values, vectors = np.linalg.eigh(posterior)
                directions.append(root * (vectors * np.sqrt(np.maximum(values, 0.0))).T)
                own = own + weight * noise
            else:
                own = own + weight * member.model_.predict(features, return_std=True)[1] ** 2
        shared = np.concatenate(directions) if directions else np.zeros((0, centre.size))
        return self.scale * shared, self.scale * np.sqrt(own)


class FittedModel:
    """See the module.

    Args:
        data: A checked file's content.

    Raises:
        SchemaError: The rows do not allow the predictors that the file names.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        frame = rows_frame(data)
        losses, groups = np.array(data["losses"], dtype=float), np.array(data["groups"])
        forms = possible_laws(frame)
        members: dict[str, Any] = {}
        for part in data["parts"].values():
            for name in part["weights"]:
                if name in members:
                    continue
                made = candidate(
                    name, forms, data["law_form"], columns=data["columns"], random_state=data["random_state"]
                )
                if made is None:
                    raise SchemaError(
                        f"the rows of the loss surrogate '{data['name']}' do not allow its predictor '{name}'"
                    )
                members[name] = made.fit(frame, losses, groups=groups)
        parts = {name: _Part(settings, members) for name, settings in data["parts"].items()}
        self._inside = parts[data["chosen"]]
        self._beyond = parts[data["chosen_beyond"]] if data["chosen_beyond"] is not None else self._inside
        self._far = float(data.get("far", NEAR))  # files that do not say so were fitted with the lower one
        self._features = next(iter(members.values())).features_

    def mean(self, columns: Any) -> Array:
        """Predicted loss of rows given by their columns, (rows,)."""
        return np.concatenate([self._mean(part) for part in _chunks(columns)])

    def mean_std(self, columns: Any) -> tuple[Array, Array]:
        """Predicted loss and its corrected standard deviation, each (rows,)."""
        means, stds = [], []
        for X in _chunks(columns):
            mean, std = self._mean(X), np.empty(len(X))
            far = self._features.overshoot(X)
            for part, mask in self._split(far):
                if mask.any():
                    std[mask] = part.relative_std(X[mask], far[mask])
            means.append(mean)
            stds.append(mean * std)
        return np.concatenate(means), np.concatenate(stds)

    def joint(self, columns: Any) -> Joint:
        """Predictions and the parts of their errors; see `Joint`."""
        X = pd.DataFrame(columns)
        n = len(X)
        far, own = self._features.overshoot(X), np.zeros(n)
        shared, drift = [], []
        for part, mask in self._split(far):
            if mask.any():
                directions, own[mask] = part.joint(X[mask], n <= CORRELATED)
                wide = np.zeros((len(directions), n))
                wide[:, mask] = directions
                shared.append(wide)
                drift.append(np.where(mask, part.drift * far, 0.0))
        return Joint(self._mean(X), np.concatenate(shared), own, np.stack(drift))

    def _mean(self, X: Any) -> Array:
        out = np.empty(len(X))
        for part, mask in self._split(self._features.overshoot(X)):
            if mask.any():
                out[mask] = part.log_mean(X if mask.all() else X[mask])
        return np.exp(out)

    def _split(self, far: Array) -> list[tuple[_Part, Any]]:
        if self._beyond is self._inside:
            return [(self._inside, np.ones(far.size, dtype=bool))]
        beyond = far > self._far
        return [(self._inside, ~beyond), (self._beyond, beyond)]


def _chunks(columns: Any) -> list[Any]:
    frame = columns if isinstance(columns, pd.DataFrame) else pd.DataFrame(columns)
    return [frame.iloc[start : start + _CHUNK] for start in range(0, max(len(frame), 1), _CHUNK)]


def _log_mean(member: Any, X: Any) -> Array:
    """ln of a surrogate's mean, without the spread that `Surrogate.predict` works out as well."""
    total: Any = 0.0
    if member.law is not None:
        total = np.log(member.law_.predict(X))
    if member.model is not None:
        total = total + member.model_.predict(member.features_.transform(X))
    return np.asarray(total)


def _law_directions(law: Any, X: Any) -> Array:
    """Bootstrap draws of a law about its mean, relative, each over the root of their number: (draws, rows)."""
    found = law_inputs(X)
    x = {name: (found[name] - law.centre_[name])[None, :] for name in law.law_.reads}
    drawn = law.law_(law.draws_.T[:, :, None], x)
    return np.asarray((drawn / law.predict(X) - 1.0) / np.sqrt(max(len(law.draws_), 1)))


def _gp_posterior(gp: Any, features: Array) -> tuple[Array, float]:
    """Posterior covariance of a Gaussian process between rows, (rows, rows), and the variance of one run's noise."""
    import torch

    inputs = torch.as_tensor(np.concatenate([gp.x_scale_(features), np.full((len(features), 1), -1.0)], axis=1))
    with torch.no_grad():
        half = torch.linalg.solve_triangular(gp.chol_, gp.kernel_(gp.train_, inputs).to_dense(), upper=False)
        posterior = (gp.kernel_(inputs).to_dense() - half.T @ half).numpy()
    unit = float((gp.y_scale_.std * gp.widened_) ** 2)
    return np.asarray(unit * posterior), unit * float(gp.hyper_["noise"])
