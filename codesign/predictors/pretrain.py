"""`PretrainedEnsemble`: networks that first learn what is free to know of many architectures, then the few losses.

FLOPs, parameters and latencies need no training run. A network that predicts them has learned how choices combine into size and
cost; its hidden layers are the start of the ensemble that is then fitted to the losses (FBNetV3, Dai et al. 2020, arXiv 2006.02049,
Section 3.2: "pretrain the embedding to predict statistics", there with accuracy as the next target).

Whether it helps depends on the space, so no selection uses it unasked: `tools/questions_validation.py --part pretrain` sets it beside
the same ensemble without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError
from codesign.predictors.matrix import Scale
from codesign.predictors.mlp import _CLIP, MLPEnsemble, _OneThread, _outputs

try:
    import torch
except ImportError as error:
    from codesign.errors import MissingExtraError

    raise MissingExtraError.of("torch", "predictors", "pre-training on free statistics") from error

__all__ = ["PretrainedEnsemble"]

Array = npt.NDArray[np.float64]
_BATCH = 256
_MIN_ROWS = 32


class PretrainedEnsemble(MLPEnsemble):
    """`MLPEnsemble` whose hidden layers start from a network that predicts free statistics.

    Args:
        unlabelled: features (rows, features) of architectures; the space, or a sample of it.
        statistics: what is known of them (rows, statistics), such as ln parameters, ln FLOPs, ln latency.
        pretrain_steps: steps of 256 rows.
        pretrain_rate: learning rate of the first training, cosine to zero.

    Others: see `MLPEnsemble`.

    Attributes:
        pretrain_error_: root mean squared error of the statistics over the last steps, in their standard deviations.
    """

    def __init__(
        self,
        unlabelled: Any = None,
        statistics: Any = None,
        *,
        pretrain_steps: int = 600,
        pretrain_rate: float = 0.003,
        members: int = 5,
        hidden: Sequence[int] = (48, 48),
        learning_rate: float = 0.01,
        weight_decay: float = 0.02,
        max_steps: int = 600,
        patience: int = 150,
        random_state: int = 0,
    ) -> None:
        super().__init__(
            members=members, hidden=hidden, learning_rate=learning_rate, weight_decay=weight_decay, max_steps=max_steps,
            patience=patience, random_state=random_state,
        )  # fmt: skip
        self.unlabelled = unlabelled
        self.statistics = statistics
        self.pretrain_steps = pretrain_steps
        self.pretrain_rate = pretrain_rate

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> PretrainedEnsemble:
        """See `MLPEnsemble.fit`.

        Raises:
            SpecError: No statistics, of another number of rows, not finite, or too few; features of another number of columns.
        """
        rows, facts = (np.asarray(v, dtype=float) for v in (self.unlabelled, self.statistics))
        if rows.ndim != 2 or facts.ndim != 2 or len(rows) != len(facts):
            raise SpecError(
                f"PretrainedEnsemble: unlabelled has shape {rows.shape} and statistics {facts.shape}; allowed: a table of features and "
                "one of statistics, as many rows each"
            )
        if len(rows) < _MIN_ROWS or not (np.isfinite(rows).all() and np.isfinite(facts).all()):
            raise SpecError(
                f"PretrainedEnsemble: statistics of at least {_MIN_ROWS} rows, all finite, are needed; given: {len(rows)}"
            )
        if rows.shape[1] != np.asarray(X).shape[1]:
            raise SpecError(
                f"PretrainedEnsemble: unlabelled rows have {rows.shape[1]} features and X has {np.asarray(X).shape[1]}"
            )
        self.unlabelled_scale_ = Scale.of(rows)
        super().fit(X, y, sample_weight, groups)
        return self

    def _inputs(self, x: Array) -> Any:
        """Standardised over the unlabelled rows: a few labelled ones are a poor measure of a column's spread."""
        return torch.as_tensor(np.clip(self.unlabelled_scale_(x), -_CLIP, _CLIP), dtype=torch.float32)

    def _first_weights(self, widths: Sequence[int], count: int, generator: Any) -> list[Any]:
        """The hidden layers of `count` networks trained on the statistics, each from weights of its own; the output layer zero."""
        facts = np.asarray(self.statistics, dtype=float)
        inputs = self._inputs(np.asarray(self.unlabelled, dtype=float))
        target = torch.as_tensor(Scale.of(facts)(facts), dtype=torch.float32)
        weights = super()._first_weights([*widths[:-1], facts.shape[1]], count, generator)
        for tensor in weights:
            tensor.requires_grad_(True)
        optimizer = torch.optim.Adam(weights, lr=self.pretrain_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.pretrain_steps, 1))
        errors = []
        with _OneThread():
            for _ in range(self.pretrain_steps):
                chosen = torch.randint(len(target), (min(_BATCH, len(target)),), generator=generator)
                squared = ((_outputs(weights, inputs[chosen]) - target[chosen]) ** 2).mean()
                optimizer.zero_grad(set_to_none=True)
                squared.backward()
                optimizer.step()
                schedule.step()
                errors.append(float(squared.detach()))
        self.pretrain_error_ = float(np.sqrt(np.mean(errors[-20:]))) if errors else float("nan")
        out = [tensor.detach().clone() for tensor in weights[:-2]]
        return [*out, torch.zeros(count, widths[-2], widths[-1]), torch.zeros(count, 1, widths[-1])]
