"""`LawRegressor`: a scaling law as a scikit-learn estimator, with the uncertainty of its parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares  # type: ignore[import-untyped,unused-ignore]
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from codesign.errors import SpecError
from codesign.predictors.columns import law_inputs
from codesign.predictors.law_terms import MedianLaw, build_law, median_forms

__all__ = ["LawRegressor"]

Array = npt.NDArray[np.float64]

#: Fits by a digest of all that they follow from; the oldest goes first.
_FITTED: dict[bytes, tuple[Array, Array]] = {}
_MOST_FITTED = 512
#: Of a bootstrap refit, which starts at the fit.
_STEPS = 6


class LawRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is Any to mypy
    """A scaling law fitted by penalised robust least squares on the log loss.

    ``minimise sum_i rho((ln L(p, x_i) - ln y_i) / s) + sum_j ((p_j - m_j) / d_j)^2``, rho soft-L1, s = `noise`; m and d are the
    priors of `codesign.predictors.law_terms`. The standard deviation joins the spread of `draws` Bayesian bootstrap fits over whole
    groups (Rubin 1981) with the scatter of the residuals.

    Args:
        form: One of `law_terms.LAW_NAMES`, or several: ``median(aspect*, additive*, chinchilla*)``, see `law_terms.MedianLaw`.
        recipe: Whether learning rate and batch are inputs; None: where both vary.
        noise: Relative error of one run that counts as usual.
        draws: Bootstrap draws.
        starts: Random starts of the fit beside the prior mean.
        random_state: Seed.

    Attributes:
        coef_: Parameters by name, at the centre of the data.
        centre_: What was subtracted from each log input.
    """

    law_: Any
    p_: Array
    draws_: Array
    coef_: dict[str, float]

    def __init__(
        self,
        form: str = "aspect",
        *,
        recipe: bool | None = None,
        noise: float = 0.005,
        draws: int = 12,
        starts: int = 3,
        random_state: int = 0,
    ) -> None:
        self.form = form
        self.recipe = recipe
        self.noise = noise
        self.draws = draws
        self.starts = starts
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> LawRegressor:
        """Fit on a table with the columns of `codesign.predictors.columns`; y in nats per token.

        Raises:
            SpecError: A column that the form reads is missing or empty, or a loss is not positive and finite.
        """
        loss = np.asarray(y, dtype=float)
        if loss.ndim != 1 or not (np.isfinite(loss).all() and (loss > 0).all()):
            raise SpecError("losses must be positive and finite (nats per token); exclude diverged runs first")
        raw = law_inputs(X)
        self.n_features_in_ = np.shape(X)[1]
        self.centre_ = {name: float(np.mean(values)) if name != "e" else 0.0 for name, values in raw.items()}
        forms = median_forms(self.form)
        if forms:
            self._fit_median(forms, X, loss, groups, sample_weight)
        else:
            self._fit_one(raw, loss, groups, sample_weight)
        error = np.log(np.maximum(self.law_(self.p_, self._centred(raw)), 1e-3)) - np.log(loss)
        freedom = max(1.0, loss.size - 0.5 * self.p_.size / max(1, len(forms)))
        self.scatter_ = float(np.sqrt(max((error**2).sum() / freedom, 1e-12)))
        return self

    def _fit_median(self, forms: Sequence[str], X: Any, loss: Array, groups: Any, sample_weight: Any) -> None:
        """Each form by itself; the bootstrap's weights are the same for all, so that their draws belong together."""
        parts = [
            LawRegressor(**{**self.get_params(deep=False), "form": form, "starts": min(self.starts, 1)}).fit(
                X, loss, groups, sample_weight
            )
            for form in forms
        ]
        self.law_ = MedianLaw(tuple(part.law_ for part in parts))
        self.p_ = np.concatenate([part.p_ for part in parts])
        self.draws_ = np.concatenate([part.draws_ for part in parts], axis=1)
        self.coef_ = {f"{part.form}: {name}": value for part in parts for name, value in part.coef_.items()}

    def _fit_one(self, raw: dict[str, Array], loss: Array, groups: Any, sample_weight: Any) -> None:
        recipe = self.recipe
        varies = {name: float(np.ptp(values)) > 1e-9 for name, values in raw.items()}
        if recipe is None:
            recipe = varies.get("lr", False) and varies.get("bs", False)
        try:
            law = build_law(self.form, tokens=varies.get("t", False), recipe=recipe)
        except KeyError:
            raise SpecError(f"unknown law '{self.form}'") from None
        lacking = [name for name in law.reads if name not in raw]
        if lacking:
            raise SpecError(f"the law '{self.form}' reads {', '.join(lacking)}, which the table lacks or leaves empty")
        self.law_ = law
        x = self._centred(raw)
        weight = np.ones(loss.size) if sample_weight is None else np.asarray(sample_weight, dtype=float)
        names = self.law_.parameters
        self._low = np.array([p.low for p in names])
        self._high = np.array([p.high for p in names])
        self._mean = np.array([p.mean for p in names])
        self._std = np.array([p.std for p in names])
        self._start_from(x, loss)
        group = (
            np.arange(loss.size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
        )
        self.p_, self.draws_ = self._fitted(x, loss, weight, group)
        self.coef_ = dict(zip((p.name for p in names), self.p_.tolist(), strict=True))

    def _fitted(self, x: dict[str, Array], loss: Array, weight: Array, group: Any) -> tuple[Array, Array]:
        """Parameters and bootstrap draws; a fit to the same rows is looked up (several surrogates share one law)."""
        digest = hashlib.blake2b(repr((self.law_.name, self.law_.reads, self.get_params(deep=False))).encode())
        for values in (*(x[name] for name in self.law_.reads), loss, weight, np.asarray(group, dtype=np.int64)):
            digest.update(np.ascontiguousarray(values).tobytes())
        key = digest.digest()
        if key not in _FITTED:
            while len(_FITTED) >= _MOST_FITTED:
                del _FITTED[next(iter(_FITTED))]
            _FITTED[key] = self._search(x, loss, weight, group)
        return _FITTED[key]

    def _search(self, x: dict[str, Array], loss: Array, weight: Array, group: Any) -> tuple[Array, Array]:
        rng = np.random.default_rng(self.random_state)
        best = None
        for trial in range(1 + self.starts):
            p0 = self._mean if trial == 0 else self._mean + self._std * rng.standard_normal(self._mean.size)
            found = self._solve(p0, x, loss, weight)
            if best is None or found.cost < best.cost:
                best = found
        assert best is not None
        return np.asarray(best.x), self._bootstrap(np.asarray(best.x), x, loss, weight, group)

    def _bootstrap(self, p: Array, x: dict[str, Array], loss: Array, weight: Array, group: Any) -> Array:
        """Draws, (draws, parameters): refits from p, a few steps each, to random weights of the groups.

        The weights follow from `random_state` alone, so that draws of several forms belong together.
        """
        rng = np.random.default_rng((self.random_state, 1))
        draws = np.empty((self.draws, p.size))
        for draw in draws:
            share = rng.exponential(size=int(group.max()) + 1)[group]
            draw[:] = self._solve(p, x, loss, weight * share / share.mean(), _STEPS).x
        return draws

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Loss in nats per token, (rows,); with ``return_std`` also the standard deviation of a newly trained run."""
        check_is_fitted(self, "p_")
        x = self._centred(law_inputs(X))
        mean = np.maximum(self.law_(self.p_, x), 1e-3)
        if not return_std:
            return mean
        spread = np.zeros(mean.size)
        if len(self.draws_):
            drawn = self.law_(self.draws_.T[:, :, None], {k: v[None, :] for k, v in x.items()})
            spread = ((drawn - mean) ** 2).mean(axis=0)
        return mean, np.sqrt(spread + (self.scatter_ * mean) ** 2)

    def _centred(self, raw: dict[str, Array]) -> dict[str, Array]:
        missing = [name for name in self.law_.reads if name not in raw]
        if missing:
            raise SpecError(f"the law '{self.form}' reads {', '.join(missing)}, which the table lacks or leaves empty")
        return {name: raw[name] - self.centre_[name] for name in self.law_.reads}

    def _start_from(self, x: dict[str, Array], loss: Array) -> None:
        """Level of the prior from the data: E at 60 % of the least loss, the terms share the rest.

        Forms with a data term coupled to shape (``**``) may have E < 0: they describe the rows, not the limit of training.
        """
        names = [p.name for p in self.law_.parameters]
        least, middle = float(loss.min()), float(np.median(loss))
        self._mean[0], self._std[0], self._high[0] = 0.6 * least, 0.3 * least, 0.999 * least
        if self.form.endswith("**"):
            self._low[0], self._std[0] = -2.0 * least, least
        rest = np.log(max(middle - self._mean[0], 1e-3))
        for name, share in (("ln A", 0.6), ("ln B", 0.3), ("ln C", 0.1), ("ln G", 0.3)):
            if name in names:
                self._mean[names.index(name)] = rest + np.log(share)

    def _solve(self, p0: Array, x: dict[str, Array], loss: Array, weight: Array, limit: int = 200) -> Any:
        log_loss, root = np.log(loss), np.sqrt(weight)
        inside = np.clip(p0, self._low + 1e-6, self._high - 1e-6)

        def scaled(p: Array) -> Array:
            return np.asarray(root * (np.log(np.maximum(self.law_(p, x), 1e-3)) - log_loss) / self.noise)

        def residual(p: Array) -> Array:
            return np.concatenate([_soft_l1(scaled(p))[0], (p - self._mean) / self._std])

        def jacobian(p: Array) -> Array:
            slope = _soft_l1(scaled(p))[1]
            return np.vstack([(slope * root / self.noise)[:, None] * self._log_slopes(p, x), np.diag(1.0 / self._std)])

        return least_squares(
            residual, inside, jac=jacobian, bounds=(self._low, self._high), x_scale=self._std, max_nfev=limit
        )

    def _log_slopes(self, p: Array, x: dict[str, Array]) -> Array:
        """d ln L / dp, (rows, parameters), by central differences: all parameters in one call of the law."""
        step = 1e-5 * np.maximum(1.0, np.abs(p))
        moved = p[:, None] + np.concatenate([np.diag(step), -np.diag(step)], axis=1)
        values = np.log(np.maximum(self.law_(moved[:, :, None], {k: v[None, :] for k, v in x.items()}), 1e-3))
        values = np.broadcast_to(values, (2 * p.size, next(iter(x.values())).size))
        return np.asarray(((values[: p.size] - values[p.size :]) / (2.0 * step[:, None])).T)


def _soft_l1(error: Array) -> tuple[Array, Array]:
    """r with r^2 = 2 (sqrt(1 + e^2) - 1), and dr/de: by hand rather than by `loss=`, so that the priors stay quadratic."""
    root = np.sqrt(1.0 + error**2)
    return error * np.sqrt(2.0 / (root + 1.0)), np.sqrt((root + 1.0) / 2.0) / root
