"""`SurrogateLaw`: predictors fitted to a user's own training runs, as the loss law of a search.

Made by `codesign fit`, read by `codesign.predictors.load_law`. The predictors themselves (scikit-learn, torch, xgboost) are fitted
again on the file's rows when the first loss is asked for; reading the file imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError
from codesign.predictors import priors as _priors
from codesign.predictors.law import LossLaw

__all__ = ["COMPUTED", "SurrogateLaw", "surrogate_law"]

Array = npt.NDArray[np.float64]

#: Columns of a table of runs that follow from an architecture; others that vary (the recipe's, operators) are held.
COMPUTED = (
    "arch", "n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "n_experts", "top_k", "d_ff_expert", "d_ff_shared",
    "n_dense_layers", "vocab", "params_total", "params_active", "params_nonembed_active", "tokens",
)  # fmt: skip
_SIZES = ("params_nonembed_active", "params_active", "params_total")
_STEP = 0.01  # in ln N, for the slope of the loss
_FIELDS = (
    "n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "ffn_gated", "n_experts", "n_active_experts",
    "d_ff_expert", "n_shared_experts", "d_ff_shared", "n_dense_layers",
)  # fmt: skip


@dataclass(frozen=True)
class SurrogateLaw(LossLaw):
    """The loss law of a file that `codesign fit` wrote; see `LossLaw` for what each method means.

    Far beyond the box of the rows (`conformal.FAR`) predictors that follow a law are in use, with an interval that widens with
    the distance. Dimensions that the rows do not vary keep the labelled priors of the shipped laws. The recipe (learning rate, batch,
    schedule) is held at that of the best rows: where these differ with size, by a power law in parameters and tokens.

    What predictions share: bootstrap draws of the law's parameters, the spread between a stack's members, the Gaussian process's
    posterior covariance (up to 600 designs at once), the drift beyond the data, and each prior's coefficient. The rest counts
    as independent, which overstates the spread of a difference rather than understating it.

    Attributes:
        data: Content of the file, see `codesign.predictors.fitted_file`.
    """

    data: Mapping[str, Any]

    @property
    def training_tokens(self) -> float | None:
        """Most common token count of the rows, where a search should be asked; None where the table has none."""
        tokens = self.data["tokens"]
        return None if tokens is None else float(tokens)

    @property
    def vocab_size(self) -> int | None:
        """Vocabulary of the rows; None where they do not say or differ."""
        vocab = self.meta["priors"]["vocab"]["data"]
        return None if vocab is None else int(vocab)

    def summary(self) -> str:
        """One line: name, predictors in use, data, left-out error."""
        used = next(score for score in self.data["held_out"] if score["name"] == self.data["chosen"])
        beyond = self.data["chosen_beyond"]
        form = self.data["chosen"] + (
            f" (beyond the data: {beyond})" if beyond and beyond != self.data["chosen"] else ""
        )
        return (
            f"{self.name}: {form} on {self.data['dataset']}; shapes left out: MAE {used['mae']:.4f}, "
            f"90 % interval holds {used['coverage90']:.0%}"
        )

    def predict(self, arch: Any, tokens: Any, return_std: bool = False) -> Any:
        """Mean loss; with ``return_std`` its standard deviation. Any open mesh or flat batch; the result has its full shape.

        Raises:
            SpecError: Tokens or parameters that are not positive.
            SchemaError: The stored rows no longer give the stored predictions (other versions of libraries).
        """
        shape, columns = self._rows(arch, tokens)
        model = self._model()
        shift: Any = sum((term.shift for term in self._terms(arch).values()), 0.0)
        if not return_std:
            return np.asarray(model.mean(columns).reshape(shape) + shift)
        mean, std = model.mean_std(columns)
        variance: Any = (std**2).reshape(shape)
        for spread in self._own_spreads(arch, tokens, shape).values():
            variance = variance + spread.reshape(shape) ** 2
        return np.asarray(mean.reshape(shape) + shift), np.sqrt(variance)

    def difference(self, arch_a: Any, arch_b: Any, tokens: Any) -> tuple[Array, Array]:
        """Mean and standard deviation of ``L(a) - L(b)`` at equal tokens, what both share cancelled; a design against itself
        is 0 +- 0.
        """
        shape = np.broadcast_shapes(self._rows(arch_a, tokens)[0], self._rows(arch_b, tokens)[0])
        (_, a), (_, b) = self._rows(arch_a, tokens, shape), self._rows(arch_b, tokens, shape)
        means = self._model().joint({name: np.concatenate([a[name], b[name]]) for name in a})
        n = means.mean.size // 2
        shared = means.shared * means.mean
        drift, own = means.drift * means.mean, (means.own * means.mean) ** 2
        variance = ((shared[:, :n] - shared[:, n:]) ** 2).sum(axis=0) + own[:n] + own[n:] + ((drift[:, :n] - drift[:, n:]) ** 2).sum(axis=0)  # fmt: skip
        spreads = [self._own_spreads(arch, tokens, shape) for arch in (arch_a, arch_b)]
        for name, spread in spreads[0].items():
            variance = variance + (spread - spreads[1][name]) ** 2
        same: Any = True
        for name in _FIELDS:
            same = same & (np.asarray(getattr(arch_a, name)) == np.asarray(getattr(arch_b, name)))
        variance = np.where(np.broadcast_to(same, shape).ravel(), 0.0, variance)
        shifts = [sum((term.shift for term in self._terms(arch).values()), 0.0) for arch in (arch_a, arch_b)]
        mean = (means.mean[:n] - means.mean[n:]).reshape(shape) + shifts[0] - shifts[1]
        return np.asarray(mean), np.sqrt(variance).reshape(shape)

    def error_samples(self, arch: Any, tokens: float, size: int, rng: np.random.Generator) -> Array:
        """Joint draws of the errors of a flat batch, (size, designs); variances are those of `predict`."""
        shape, columns = self._rows(arch, tokens)
        joint = self._model().joint(columns)
        errors = rng.standard_normal((size, len(joint.shared))) @ joint.shared
        errors = errors + rng.standard_normal((size, joint.mean.size)) * joint.own
        errors = (errors + rng.standard_normal((size, len(joint.drift))) @ joint.drift) * joint.mean
        for spread in self._own_spreads(arch, tokens, shape).values():
            errors = errors + rng.standard_normal((size, 1)) * spread
        return np.asarray(errors)

    def _model(self) -> Any:
        from codesign.predictors.fitted_model import refitted

        return refitted(self.data)

    def _experts(self, arch: Any) -> Any:
        return arch.n_experts if np.any(arch.n_experts) else 1.0

    def _rows(
        self, arch: Any, tokens: Any, shape: tuple[int, ...] | None = None
    ) -> tuple[tuple[int, ...], dict[str, Any]]:
        """The shape of the fields together, and the columns that the predictors read, each flat."""
        times = np.asarray(tokens, dtype=float)
        if not (times.size and times.min() > 0 and np.isfinite(times).all()):
            raise SpecError(f"training tokens must be positive, not {tokens!r}")
        active = np.asarray(arch.params_active_nonembedding, dtype=float)
        if not (active.size and active.min() > 0 and np.min(arch.n_layers) > 0 and np.min(arch.d_model) > 0):
            raise SpecError("an architecture of the batch has no layers, no width or no parameters")
        lift = np.exp(self._moe(arch).shift) if "moe" in self.meta["priors"] else 1.0
        values: dict[str, Any] = {}
        for name in self.data["rows"]:
            if name in COMPUTED:
                values[name] = self._column(name, arch, times, active, lift)
        if shape is None:
            fields = [
                np.shape(getattr(arch, field))
                for field in ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff")
            ]
            shape = np.broadcast_shapes(*fields, times.shape, active.shape, *(np.shape(v) for v in values.values()))
        flat = {name: np.broadcast_to(value, shape).ravel() for name, value in values.items()}
        count = int(np.prod(shape))
        size = next((np.log(flat[name]) for name in _SIZES if name in flat), np.zeros(count))
        for name, held in self.data["held"].items():
            if "value" in held:
                flat[name] = np.full(count, held["value"])
            else:
                logs = (
                    np.log(np.broadcast_to(np.asarray(v, dtype=float), shape).ravel()) for v in (times, arch.d_model)
                )
                flat[name] = _ruled(held, size, *logs)
        return shape, flat

    def _column(self, name: str, arch: Any, tokens: Array, active: Array, lift: Any) -> Any:
        dense_data = "moe" in self.meta["priors"]
        if name == "tokens":
            return tokens
        if name == "arch":
            return np.where(np.asarray(arch.n_experts) > 0, "moe", "dense")
        if name == "params_nonembed_active":
            return active * lift
        if name in ("params_active", "params_total"):
            count = arch.params_active if dense_data else getattr(arch, name)
            return np.asarray(count, dtype=float) * lift
        if name == "d_ff":
            return np.asarray(_priors.activated_width(arch) * 3.0 / self.data["ffn_matrices"], dtype=float)
        if name == "d_ff_shared":
            return np.multiply(arch.n_shared_experts, arch.d_ff_shared, dtype=float)
        fields = {
            "head_dim": "d_head", "top_k": "n_active_experts", "vocab": "vocab_size", "n_heads": "n_heads_mean", "n_kv_heads": "n_kv_heads_mean",
        }  # fmt: skip
        return np.asarray(getattr(arch, fields.get(name, name)), dtype=float)

    def _moe(self, arch: Any) -> _priors.Term:
        """``ln N_eff - ln N`` of mixtures under rows that have none, from the shipped laws' prior."""
        if not np.any(arch.n_experts):
            return _priors.Term(0.0, 0.0)
        prior = self.meta["priors"]["moe"]
        active = np.asarray(arch.params_active_nonembedding, dtype=float)
        count = _priors.equivalent_experts(arch, active, float(prior["fraction"]))
        return _priors.moe_term(np.log(active / 1e8), count, prior)

    def _own_spreads(self, arch: Any, tokens: Any, shape: tuple[int, ...]) -> dict[str, Array]:
        """Signed spread of each prior in loss, flat; the mixture's, which is in ln N, by the slope of the predicted loss."""
        spreads: dict[str, Any] = {name: term.spread for name, term in self._terms(arch).items()}
        if "moe" in self.meta["priors"]:
            prior, spread = self.meta["priors"]["moe"], self._moe(arch).spread
            slope: Any = 0.0
            if np.any(arch.n_experts):
                _, columns = self._rows(arch, tokens, shape)
                moved = {name: v * np.exp(_STEP) if name in _SIZES else v for name, v in columns.items()}
                slope = ((self._model().mean(moved) - self._model().mean(columns)) / _STEP).reshape(shape)
            spreads["moe"] = slope * spread
            spreads["moe_form"] = np.where(np.asarray(arch.n_experts) > 0, float(prior["std"]), 0.0)
        return {name: np.broadcast_to(np.asarray(value, dtype=float), shape).ravel() for name, value in spreads.items()}


def _ruled(held: Mapping[str, Any], size: Array, tokens: Array, width: Array) -> Array:
    """A recipe's number by its rule, ``exp(c0 + c1 ln N + c2 ln D + c3 ln d_model)``, within what the rows have."""
    c = held["coefficients"]
    return np.asarray(np.clip(np.exp(c[0] + c[1] * size + c[2] * tokens + c[3] * width), held["low"], held["high"]))


def surrogate_law(data: Mapping[str, Any], digest: str = "") -> SurrogateLaw:
    """The law of a checked file's content."""
    meta = {
        "dataset": data["dataset"], "source": str(data["source"].get("name", "")), "command": " ".join(data["command"]),
        "form": data["chosen"], "token_term": True, "ranges": data["ranges"], "priors": data["priors"], "digest": digest,
        "held_out": {"shapes left out": {**_scores(data), "n_train": len(data["losses"]), "n_test": len(data["losses"])}},
    }  # fmt: skip
    return SurrogateLaw(name=data["name"], meta=meta, core=None, data=data)


def _scores(data: Mapping[str, Any]) -> dict[str, float]:
    used = next(score for score in data["held_out"] if score["name"] == data["chosen"])
    return {"mae": used["mae"], "rel_err_pct": 100 * used["relative"], "spearman": used["spearman"],
            "coverage80": used["coverage80"], "coverage90": used["coverage90"]}  # fmt: skip
