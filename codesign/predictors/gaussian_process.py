"""`GaussianProcess`: an exact Gaussian process with priors that keep 25 rows from overfitting (gpytorch).

On standardised X and y, with z the numeric columns, c the categorical ones, g the row's group and w its weight:

    k = v_f K(z, z') H(c, c') + v_l z.z' + v_g (g == g') + (v_n / w) (row == row')

K is Matern 5/2 or RBF with one length scale a column; H = exp(-mean_j (c_j != c'_j) / s_j). The group term is what one
trained shape has of its own and shares over its checkpoints: without it ten checkpoints of one model are ten
witnesses. Hyper-parameters maximise the marginal likelihood times their priors (L-BFGS on their logs).

Sources: priors of length scales that grow with the dimension, ln s ~ N(sqrt 2 + ln(d) / 2, sqrt 3) for inputs in [0, 1]
(Hvarfner et al. 2024, arXiv:2402.02229, as in BoTorch), moved to standardised inputs (a uniform column has the standard
deviation 1/sqrt 12), and of the noise, ln v_n ~ N(-4, 1); the Hamming kernel is BoTorch's for categories. On the
language-model sets of ``../shared/data`` a wider prior of the noise gave intervals that held 56 to 70 % instead of 90 %.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import MissingExtraError, SpecError
from codesign.predictors.matrix import Rows, Scale, checked_features, checked_rows, group_codes

try:
    import gpytorch
    import torch
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import Kernel, LinearKernel, MaternKernel, RBFKernel, ScaleKernel
    from gpytorch.likelihoods.noise_models import HomoskedasticNoise
    from gpytorch.priors import LogNormalPrior
    from linear_operator.operators import DiagLinearOperator
    from linear_operator.utils.cholesky import psd_safe_cholesky
    from sklearn.base import BaseEstimator, RegressorMixin
except ImportError as error:
    raise MissingExtraError.of(error.name or "gpytorch", "predictors", "the Gaussian process") from error

__all__ = ["GaussianProcess"]

Array = npt.NDArray[np.float64]

_MIN_ROWS = 4
_CHUNK = 4096  # rows predicted at once: (chunk, training rows) doubles
_UNSEEN = -1.0
_FIRST_NOISE = 0.05  # from a noise near zero the optimiser ends where every wiggle of y is signal


class GaussianProcess(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is Any to mypy
    """Exact Gaussian process regression.

    Args:
        kernel: "matern" (5/2) or "rbf".
        linear: add a linear kernel, so that trends go on outside the data.
        categorical: columns whose values are labels (any numbers); compared as equal or not.
        centred: the mean is a constant that is fitted; False: zero, for y that is what a mean function leaves over: far from the
            rows nothing is added to it.
        group_effect: rows of one group share an offset of their own; needs ``groups`` in `fit`.
        noise_floor: least noise variance, in variances of y.
        hyper_rows: rows whose marginal likelihood fits the hyper-parameters (at random, if there are more); all rows are
            conditioned on. None: all.
        max_iter: of L-BFGS. restarts: further starts drawn from the priors; the best is kept.
        random_state: of the restarts and of the choice of rows.

    Attributes:
        hyper_: fitted variances (in variances of y) and length scales (in standard deviations of the columns).
        widened_: factor on the standard deviations from left-out groups (rows, without groups), at least 1.
        n_iter_: iterations of the best start.

    Example:
        >>> x = np.linspace(0, 1, 12)[:, None]
        >>> model = GaussianProcess().fit(x, np.sin(4 * x[:, 0]))
        >>> mean, std = model.predict(np.array([[0.5], [9.0]]), return_std=True)
        >>> bool(abs(mean[0] - np.sin(2.0)) < 0.01), bool(std[1] > 10 * std[0])
        (True, True)
    """

    def __init__(
        self,
        *,
        kernel: str = "matern",
        linear: bool = False,
        categorical: Sequence[int] | None = None,
        centred: bool = True,
        group_effect: bool = False,
        noise_floor: float = 1e-6,
        hyper_rows: int | None = 1000,
        max_iter: int = 200,
        restarts: int = 0,
        random_state: int = 0,
    ) -> None:
        self.kernel = kernel
        self.linear = linear
        self.categorical = categorical
        self.centred = centred
        self.group_effect = group_effect
        self.noise_floor = noise_floor
        self.hyper_rows = hyper_rows
        self.max_iter = max_iter
        self.restarts = restarts
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> GaussianProcess:
        """Fit to X (rows, features) and y (rows,).

        Args:
            X: numbers. y: numbers.
            sample_weight: a row's noise variance is divided by it (rows,).
            groups: label of each row (rows,), read where ``group_effect`` is set.

        Raises:
            SpecError: NaN, fewer than 4 rows, an unknown kernel or column, ``group_effect`` without groups.
        """
        rows = checked_rows(self, X, y, sample_weight, groups, _MIN_ROWS)
        self._check_options(rows)
        numeric = [i for i in range(self.n_features_in_) if i not in self._categories()]
        self.x_scale_ = Scale.of(rows.x[:, numeric]) if numeric else None
        self.y_scale_ = Scale.of(rows.y, rows.weight, centred=self.centred)
        self.labels_ = rows.labels if self.group_effect else None
        inputs = self._inputs(rows.x, rows.codes if self.group_effect else None)
        target = torch.as_tensor(self.y_scale_(rows.y))
        self._fit_hyper(inputs, target, torch.as_tensor(1.0 / rows.weight))
        with torch.no_grad(), _quiet():
            covariance = self.kernel_(inputs).to_dense()
            covariance = covariance + torch.diag(self.hyper_["noise"] / torch.as_tensor(rows.weight))
            self.chol_ = psd_safe_cholesky(covariance)
            centred = (target - self.hyper_["mean"])[:, None]
            self.alpha_ = torch.cholesky_solve(centred, self.chol_)[:, 0]
            self.widened_ = max(1.0, math.sqrt(self._left_out(rows.codes)))
        self.train_ = inputs
        return self

    def predict(self, X: Any, return_std: bool = False, groups: Any = None) -> Any:
        """Mean (rows,) and, with ``return_std``, the standard deviation of a new measurement (noise included).

        Args:
            X: (rows, features).
            groups: labels (rows,); a row of a group that was trained gets that group's offset. Rows of other groups, and
                all rows without ``groups``, carry the variance of an unknown offset.

        Raises:
            SpecError: NaN, or another number of columns than at the fit.
        """
        x = checked_features(self, X)
        codes = None
        if groups is not None and self.labels_ is not None:
            labels, given = group_codes(groups, len(x), type(self).__name__)
            place = np.clip(np.searchsorted(self.labels_, labels), 0, len(self.labels_) - 1)
            codes = np.where(self.labels_[place] == labels, place, _UNSEEN)[given]
        inputs = self._inputs(x, codes)
        mean, variance = np.empty(len(x)), np.empty(len(x))
        with torch.no_grad(), _quiet():
            for low in range(0, len(x), _CHUNK):
                part = inputs[low : low + _CHUNK]
                cross = self.kernel_(part, self.train_).to_dense()
                mean[low : low + _CHUNK] = (cross @ self.alpha_).numpy()
                if return_std:
                    half = torch.linalg.solve_triangular(self.chol_, cross.T, upper=False)
                    own = self.kernel_(part, diag=True)
                    variance[low : low + _CHUNK] = (own - half.square().sum(0)).clamp_min(0.0).numpy()
        mean = self.y_scale_.mean + self.y_scale_.std * (mean + self.hyper_["mean"])
        if not return_std:
            return mean
        return mean, self.y_scale_.std * self.widened_ * np.sqrt(variance + self.hyper_["noise"])

    def _left_out(self, codes: Any) -> float:
        """Mean squared standardised error of each group (row, without groups) predicted from all others.

        In closed form from the inverse P of the covariance (Rasmussen and Williams 2006, eq. 5.12, in blocks): the errors of
        the rows G are P_GG^-1 alpha_G, their covariance P_GG^-1. Fitted hyper-parameters make a small data set look easier
        than it is; this shows some of it.
        """
        precision = torch.cholesky_inverse(self.chol_)
        if codes is None:
            return float((self.alpha_.square() / precision.diagonal()).mean())
        total = 0.0
        for group in np.unique(codes):
            rows = torch.as_tensor(np.flatnonzero(codes == group))
            covariance = torch.linalg.inv(precision[rows[:, None], rows])
            total += float(((covariance @ self.alpha_[rows]).square() / covariance.diagonal()).sum())
        return total / len(codes)

    def _categories(self) -> list[int]:
        return sorted({int(i) % self.n_features_in_ for i in self.categorical or ()})

    def _check_options(self, rows: Rows) -> None:
        if self.kernel not in ("matern", "rbf"):
            raise SpecError(f"GaussianProcess: unknown kernel '{self.kernel}'; known: matern, rbf")
        for column in self.categorical or ():
            if not -self.n_features_in_ <= column < self.n_features_in_:
                raise SpecError(
                    f"GaussianProcess: categorical column {column} does not exist; X has {self.n_features_in_} columns"
                )
        if self.group_effect and rows.codes is None:
            raise SpecError("GaussianProcess: group_effect needs groups: fit(X, y, groups=labels), one label a row")

    def _inputs(self, x: Array, codes: Any) -> Any:
        """Standardised numeric columns, categorical columns as they are, group code (rows, features + 1)."""
        inputs = np.concatenate([x, np.full((len(x), 1), _UNSEEN)], axis=1)
        numeric = [i for i in range(self.n_features_in_) if i not in self._categories()]
        if self.x_scale_ is not None:
            inputs[:, numeric] = self.x_scale_(x[:, numeric])
        if codes is not None:
            inputs[:, -1] = codes
        return torch.as_tensor(inputs)

    def _build(self) -> Any:
        labels = self._categories()
        numeric = [i for i in range(self.n_features_in_) if i not in labels]
        signal: Any = None
        if numeric:
            count = len(numeric)
            options = {"ard_num_dims": count, "active_dims": tuple(numeric), "lengthscale_constraint": _above(1e-3)}
            options["lengthscale_prior"] = _prior(math.sqrt(2) + 0.5 * math.log(12 * count), math.sqrt(3))
            signal = MaternKernel(nu=2.5, **options) if self.kernel == "matern" else RBFKernel(**options)
        if labels:
            hamming = _Hamming(labels)
            signal = hamming if signal is None else signal * hamming
        total = ScaleKernel(signal, outputscale_prior=_prior(0.0, 1.0), outputscale_constraint=_above(1e-6))
        if self.linear and numeric:
            total = total + LinearKernel(
                active_dims=tuple(numeric), variance_prior=_prior(-1.0, 1.5), variance_constraint=_above(1e-6)
            )
        if self.group_effect:
            total = total + ScaleKernel(
                _Equal(active_dims=(self.n_features_in_,)),
                outputscale_prior=_prior(-4.0, 2.0),
                outputscale_constraint=_above(1e-9),
            )
        return total.double()

    def _fit_hyper(self, inputs: Any, target: Any, noise_shares: Any) -> None:
        from scipy.optimize import minimize  # type: ignore[import-untyped,unused-ignore]
        from torch.nn.utils import parameters_to_vector, vector_to_parameters

        rng = np.random.default_rng(self.random_state)
        if self.hyper_rows is not None and len(target) > self.hyper_rows:
            chosen = np.sort(rng.choice(len(target), self.hyper_rows, replace=False))
            inputs, target, noise_shares = inputs[chosen], target[chosen], noise_shares[chosen]
        noise = _SharedNoise(noise_shares, self.noise_floor)
        model = _Model(
            inputs,
            target,
            gpytorch.likelihoods.gaussian_likelihood._GaussianLikelihoodBase(noise),
            self._build(),
            self.centred,
        )
        model = model.double()
        objective = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)

        def loss(values: Array) -> tuple[float, Array]:
            vector_to_parameters(torch.as_tensor(values), model.parameters())
            model.zero_grad()
            value = -objective(model(inputs), target)
            value.backward()
            return value.item(), parameters_to_vector([p.grad for p in model.parameters()]).numpy()

        model.train()
        best: Any = None
        with _quiet():
            for start in range(self.restarts + 1):
                for _, module, prior, _, write in model.named_priors():
                    middle = prior.mode if start == 0 else prior.loc.exp() * math.exp(rng.normal(0.0, 1.0))
                    write(module, middle)
                if start == 0:
                    noise.initialize(noise=_FIRST_NOISE + self.noise_floor)
                first = parameters_to_vector(model.parameters()).detach().numpy().copy()
                # A line search may try variances at which the covariance is singular in doubles: keep it within e^9.
                box = [(value - 9.0, value + 9.0) for value in first]
                found = minimize(
                    loss, first, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": self.max_iter}
                )
                if best is None or found.fun < best.fun:
                    best = found
        vector_to_parameters(torch.as_tensor(best.x), model.parameters())
        self.kernel_, self.n_iter_ = model.covar_module.requires_grad_(False), max(1, int(best.nit))
        self.hyper_ = {"mean": model.mean_module.constant.item() if self.centred else 0.0, "noise": noise.noise.item()}
        for name, _, constraint in model.covar_module.named_parameters_and_constraints():
            raw = dict(model.covar_module.named_parameters())[name]
            self.hyper_[name.replace("raw_", "")] = constraint.transform(raw).reshape(-1).tolist()


class _quiet:
    """gpytorch's exact algebra by Cholesky, without its warnings about jitter."""

    def __enter__(self) -> None:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("ignore", category=gpytorch.utils.warnings.NumericalWarning)
        self._fast = gpytorch.settings.fast_computations(covar_root_decomposition=False, log_prob=False, solves=False)
        self._fast.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._fast.__exit__(*error)
        self._caught.__exit__(*error)


def _above(low: float) -> Any:
    """value = low + exp(raw): the optimiser moves in logs."""
    return GreaterThan(low, transform=torch.exp, inv_transform=torch.log)


def _prior(loc: float, scale: float) -> Any:
    return LogNormalPrior(loc, scale)


class _Model(gpytorch.models.ExactGP):  # type: ignore[misc]  # gpytorch is Any to mypy
    def __init__(self, inputs: Any, target: Any, likelihood: Any, kernel: Any, centred: bool) -> None:
        super().__init__(inputs, target, likelihood)
        self.mean_module = gpytorch.means.ConstantMean() if centred else gpytorch.means.ZeroMean()
        self.covar_module = kernel

    def forward(self, x: Any) -> Any:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


class _SharedNoise(HomoskedasticNoise):  # type: ignore[misc]
    """One noise variance times each row's share (1 / weight)."""

    def __init__(self, shares: Any, floor: float) -> None:
        super().__init__(noise_prior=_prior(-4.0, 1.0), noise_constraint=_above(floor))
        self.shares = shares

    def forward(self, *params: Any, shape: Any = None, **options: Any) -> Any:
        return DiagLinearOperator(self.noise * self.shares)


class _Hamming(Kernel):  # type: ignore[misc]
    """exp(-mean_j (c_j != c'_j) / s_j) over label columns."""

    has_lengthscale = True

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__(
            ard_num_dims=len(columns),
            active_dims=tuple(columns),
            lengthscale_prior=_prior(0.0, 1.0),
            lengthscale_constraint=_above(1e-3),
        )

    def forward(self, x1: Any, x2: Any, diag: bool = False, **options: Any) -> Any:
        differ = (x1 != x2) if diag else (x1.unsqueeze(-2) != x2.unsqueeze(-3))
        scale = self.lengthscale.squeeze(-2) if diag else self.lengthscale
        return torch.exp(-(differ / scale).mean(-1))


class _Equal(Kernel):  # type: ignore[misc]
    """1 where two rows have the same group code, else 0; a row with itself is 1, also in a group not seen."""

    def forward(self, x1: Any, x2: Any, diag: bool = False, **options: Any) -> Any:
        same = (x1 == x2) if diag else (x1.unsqueeze(-2) == x2.unsqueeze(-3))
        return same.all(-1).to(x1.dtype)
