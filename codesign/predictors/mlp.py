"""`MLPEnsemble`: small networks (torch), trained all at once, each leaving out a fifth of the groups.

A deep ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474): members differ in their first weights and in the groups that
they leave out. All end at the step at which the error over all left-out rows is least: the groups that one member leaves
out are too few to stop it by. Their mean predicts; the standard deviation has the same two parts as that of `codesign.predictors.trees`:

    std(x)^2 = variance of the members at x + mean squared error of left-out rows

The output layer starts at zero, so that a member begins as the mean of its rows: where nothing can be learned (a residual that
is noise) the first step is the best one, and the ensemble adds nothing.

All members are one batched matrix product a layer, (members, rows, in) x (members, in, out): five members of 400 rows train in
about two seconds on one core. **A network alone does not extrapolate** any better than chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import MissingExtraError, SpecError
from codesign.predictors.matrix import Scale, checked_features, checked_rows, grouped_parts

try:
    import torch
    from sklearn.base import BaseEstimator, RegressorMixin
except ImportError as error:
    raise MissingExtraError.of(error.name or "torch", "predictors", "the MLP ensemble") from error

__all__ = ["MLPEnsemble"]

Array = npt.NDArray[np.float64]

_MIN_ROWS = 8
_PARTS = 5
_CHECK = 10  # steps between two looks at the left-out rows
_CLIP = 6.0  # standard deviations; beyond, inputs say no more than "far away"


class MLPEnsemble(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is Any to mypy
    """Ensemble of multilayer perceptrons with intervals from left-out groups.

    Args:
        members: a multiple of 5: how many times five.
        hidden: units of each hidden layer (SiLU).
        learning_rate: first of a cosine, AdamW on full batches. weight_decay: of AdamW, on weights, not on biases.
        max_steps: at most; patience: steps without improvement after which training stops.
        random_state: of the splits and of the first weights.

    Attributes:
        weights_: matrices and biases, one pair a layer, members first. step_: where training ended.
        left_out_error_: root mean squared error of left-out rows, in units of y.

    Example:
        >>> x = np.linspace(-1, 1, 60)[:, None]
        >>> model = MLPEnsemble().fit(x, x[:, 0] ** 2)
        >>> bool(abs(model.predict([[0.5]])[0] - 0.25) < 0.05)
        True
    """

    def __init__(
        self,
        *,
        members: int = 5,
        hidden: Sequence[int] = (48, 48),
        learning_rate: float = 0.01,
        weight_decay: float = 0.02,
        max_steps: int = 400,
        patience: int = 100,
        random_state: int = 0,
    ) -> None:
        self.members = members
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_steps = max_steps
        self.patience = patience
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> MLPEnsemble:
        """Fit to X (rows, features) and y (rows,).

        Args:
            X: numbers. y: numbers. sample_weight: of each row (rows,).
            groups: label of each row (rows,); groups are left out whole. Without groups each row is its own.

        Raises:
            SpecError: NaN, fewer than 8 rows, one group only, or members that are no multiple of 5.
        """
        rows = checked_rows(self, X, y, sample_weight, groups, _MIN_ROWS)
        if self.members < _PARTS or self.members % _PARTS:
            raise SpecError(f"MLPEnsemble: members is {self.members}; allowed: multiples of {_PARTS}")
        if not self.hidden or min(self.hidden) < 1:
            raise SpecError(
                f"MLPEnsemble: hidden is {tuple(self.hidden)}; allowed: one or more layers of at least 1 unit"
            )
        if rows.codes is not None and len(rows.labels) < 2:
            raise SpecError(
                "MLPEnsemble: all rows are of one group, so none can be left out; give more groups, or groups=None where "
                "rows are independent"
            )
        rng = np.random.default_rng(self.random_state)
        self.x_scale_, self.y_scale_ = Scale.of(rows.x), Scale.of(rows.y, rows.weight)
        masks: list[Any] = []
        for _ in range(self.members // _PARTS):
            part = grouped_parts(rows.codes, len(rows.y), _PARTS, rng)
            masks += [part == number for number in range(int(part.max()) + 1)]
        out = np.array(masks)
        target = self.y_scale_(rows.y)
        with _OneThread():
            left_out = self._train(self._inputs(rows.x), target, rows.weight, out, int(rng.integers(2**31)))
        # A row is left out by one member of each round.
        mean = (left_out * out).sum(axis=0) / out.sum(axis=0)
        error = np.average((mean - target) ** 2, weights=rows.weight)
        self.left_out_error_ = float(self.y_scale_.std * math.sqrt(error))
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Mean (rows,) and, with ``return_std``, the standard deviation of a new measurement.

        Raises:
            SpecError: NaN, or another number of columns than at the fit.
        """
        inputs = self._inputs(checked_features(self, X))
        with _OneThread(), torch.no_grad():
            each = _forward([torch.as_tensor(w) for w in self.weights_], inputs).numpy().astype(np.float64)
        mean = self.y_scale_.mean + self.y_scale_.std * each.mean(axis=0)
        if not return_std:
            return mean
        return mean, np.hypot(self.y_scale_.std * each.std(axis=0), self.left_out_error_)

    def _inputs(self, x: Array) -> Any:
        return torch.as_tensor(np.clip(self.x_scale_(x), -_CLIP, _CLIP), dtype=torch.float32)

    def _train(self, inputs: Any, target: Array, weight: Array, out: Any, seed: int) -> Array:
        """Train all members; sets ``weights_`` and ``step_``, returns their outputs (members, rows)."""
        count, generator = len(out), torch.Generator().manual_seed(seed)
        widths = [inputs.shape[1], *self.hidden, 1]
        weights = self._first_weights(widths, count, generator)
        y = torch.as_tensor(target, dtype=torch.float32)
        share = torch.as_tensor(weight, dtype=torch.float32)
        held = torch.as_tensor(out, dtype=torch.float32) * share
        train = share - held
        train = train / train.sum(1, keepdim=True)
        for tensor in weights:
            tensor.requires_grad_(True)
        decayed = [
            {"params": weights[::2], "weight_decay": self.weight_decay},
            {"params": weights[1::2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(decayed, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_steps)
        best, kept, kept_outputs, self.step_ = math.inf, weights, y, 0
        for step in range(self.max_steps + 1):
            outputs = _forward(weights, inputs)
            squared = (outputs - y) ** 2
            if step % _CHECK == 0 or step == self.max_steps:
                error = float((held * squared.detach()).sum())
                if error < best:
                    best, kept_outputs, self.step_ = error, outputs.detach(), step
                    kept = [tensor.detach().clone() for tensor in weights]
                elif step - self.step_ >= self.patience:
                    break
            optimizer.zero_grad(set_to_none=True)
            (train * squared).sum().backward()
            optimizer.step()
            schedule.step()
        self.weights_ = [tensor.numpy() for tensor in kept]
        return np.asarray(kept_outputs.numpy(), dtype=np.float64)

    def _first_weights(self, widths: Sequence[int], count: int, generator: Any) -> list[Any]:
        """Matrix and bias of each layer, members first; the output layer is zero."""
        weights: list[Any] = []
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            scale = 0.0 if layer == len(widths) - 2 else math.sqrt(2.0 / fan_in)
            weights.append(scale * torch.randn(count, fan_in, fan_out, generator=generator))
            bias = torch.randn(count, 1, fan_out, generator=generator) if layer == 0 else None
            weights.append(torch.zeros(count, 1, fan_out) if bias is None else 0.5 * bias)
        return weights


def _forward(weights: Sequence[Any], inputs: Any) -> Any:
    """The first output (members, rows) of inputs (rows, features)."""
    return _outputs(weights, inputs)[..., 0]


def _outputs(weights: Sequence[Any], inputs: Any) -> Any:
    """All outputs (members, rows, outputs)."""
    hidden = inputs.expand(weights[0].shape[0], *inputs.shape)
    for layer in range(0, len(weights), 2):
        hidden = torch.baddbmm(weights[layer + 1], hidden, weights[layer])
        if layer < len(weights) - 2:
            hidden = torch.nn.functional.silu(hidden)
    return hidden


class _OneThread:
    """One thread of torch: the same sums on every machine, and no waiting of threads for each other on small matrices."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *error: Any) -> None:
        torch.set_num_threads(self._before)
