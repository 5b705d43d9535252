"""`LossLaw`: predicted loss of architectures, its interval, and where it must not be trusted.

A law is read from a small JSON in ``codesign/predictors/laws`` (or a path) and never refitted. The mean is written by
broadcasting: on an open mesh every sub-expression keeps its small shape, and at one token count the GP is a sum over
the data's unique shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from codesign.errors import SpecError
from codesign.predictors import priors as _priors
from codesign.predictors.core import Core, flat
from codesign.predictors.scaling import Logs, paper_eq2

__all__ = ["DIMENSIONS", "SLACK", "LossLaw"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: What `LossLaw.outside` reports on.
DIMENSIONS = (
    "params_active", "n_layers", "d_model", "aspect", "tokens", "ffn_ratio", "n_kv", "d_head", "vocab", "experts",
)  # fmt: skip
#: A range edge may be passed by 10 %: data sets stop at 11B tokens where a user types 10B.
SLACK = 1.1
_FIELDS = (
    "n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "ffn_gated", "n_experts", "n_active_experts",
    "d_ff_expert", "n_shared_experts", "d_ff_shared", "n_dense_layers", "window_tokens", "n_window_layers", "recurrence",
    "n_recurrent_layers", "n_state_heads", "d_state_value", "d_state_key", "extra_ffn_layers", "kv_rank", "n_kv_shared_layers",
    "n_loops", "n_looped_layers", "n_shared_blocks",
)  # fmt: skip


def _float(value: Any) -> Array:
    return np.asarray(value, dtype=float)


@dataclass(frozen=True)
class LossLaw:
    """A fitted law of training loss (nats per token of its data set's tokenizer and held-out text).

    Losses of different laws do not compare with each other, nor across vocabularies.

    Attributes:
        name: Such as ``gemstones``.
        meta: The JSON without the fitted core: dataset, source, command, ranges, priors, held_out.
        core: The fitted law, or None for the published Eq. 2.
        compares_vocabularies: Always False: no public data at hand gives losses per byte for several vocabularies, so
            a search must keep the vocabulary fixed (or say that it did not).

    Example:
        >>> from codesign.predictors import load_law
        >>> load_law("paper").range("n_layers")
        (4.0, 32.0)
    """

    name: str
    meta: dict[str, Any]
    core: Core | None
    compares_vocabularies: bool = field(default=False, init=False)

    @property
    def held_out(self) -> dict[str, dict[str, float]]:
        """Split -> mae (nats), rel_err_pct, spearman, coverage80, coverage90, n_train, n_test."""
        return dict(self.meta["held_out"])

    def summary(self) -> str:
        """One line: name, data, form, left-out error."""
        line = f"{self.name}: {self.meta['form']} on {self.meta['dataset']}"
        for split, scores in self.held_out.items():
            return line + f"; {split}: MAE {scores['mae']:.4f} nats, 90 % interval holds {scores['coverage90']:.0%}"
        return line

    def range(self, dimension: str) -> tuple[float, float]:
        """Range of a dimension that the law may be used in; (-inf, inf) where the law does not read it.

        Raises:
            SpecError: An unknown dimension.
        """
        if dimension not in DIMENSIONS:
            raise SpecError(f"unknown dimension '{dimension}'; known: {', '.join(DIMENSIONS)}")
        edges = self.meta["ranges"].get(dimension)
        return (float(edges[0]), float(edges[1])) if edges else (-np.inf, np.inf)

    def outside(self, arch: Any, tokens: Any) -> dict[str, Mask]:
        """Per dimension, whether a design lies outside the range (with 10 % slack on each edge).

        ``ffn_ratio`` is the activated one of a gated FFN; mixtures have a range of their own (fine-grained experts).
        ``tokens`` is also outside where tokens per parameter leave the data's range, in sets that tie both, and always
        for a law without a token term.
        """
        values = {
            "params_active": _float(arch.params_active_nonembedding),
            "n_layers": _float(arch.n_layers),
            "d_model": _float(arch.d_model),
            "aspect": _float(arch.d_model) / _float(arch.n_layers),
            "tokens": _float(tokens),
            "ffn_ratio": _priors.activated_width(arch) / _float(arch.d_model),
            "n_kv": _float(arch.n_kv_heads_mean),
            "d_head": _float(arch.d_head),
            "vocab": _float(arch.vocab_size),
            "experts": np.maximum(_float(self._experts(arch)), 1.0),
        }
        flags = {}
        for name, value in values.items():
            low, high = self.range(name)
            flag = np.asarray((value < low / SLACK) | (value > high * SLACK))
            moe = self.meta["ranges"].get("ffn_ratio_moe") if name == "ffn_ratio" else None
            if moe and np.any(arch.n_experts):
                other = (value < moe[0] / SLACK) | (value > moe[1] * SLACK)
                flag = np.where(np.asarray(arch.n_experts) > 0, other, flag)
            flags[name] = flag
        if np.any(arch.n_recurrent_layers):  # heads say nothing of a stack without attention
            for name in ("n_kv", "d_head"):
                flags[name] = flags[name] & (np.asarray(arch.n_attention_layers) > 0)
        ties = self.meta["ranges"].get("tokens_per_param")
        if ties:
            ratio = values["tokens"] / values["params_active"]
            flags["tokens"] = flags["tokens"] | (ratio < ties[0] / SLACK) | (ratio > ties[1] * SLACK)
        if self.meta["token_term"] is False:
            flags["tokens"] = np.ones_like(flags["tokens"], dtype=bool)
        return flags

    def priors(self, arch: Any) -> dict[str, Mask]:
        """Which labelled prior terms act: dimensions that the data does not vary and where the design differs."""
        found: dict[str, Mask] = {}
        for name, term in self._terms(arch).items():
            found[name] = np.asarray(np.abs(_float(term.shift)) + np.abs(_float(term.spread)) > 1e-9)
        own = self.meta["priors"].get("vocab", {}).get("data")
        vocab = _float(arch.vocab_size)
        found["vocab"] = np.asarray(vocab != own) if own else np.ones_like(vocab, dtype=bool)
        if "ffn_ratio" in self.meta["priors"]:  # mixtures too: their spread is in the mixture's term
            low, high = self.meta["priors"]["ffn_ratio"]["data"]
            ratio = _priors.activated_width(arch) / _float(arch.d_model)
            found["ffn_ratio"] = np.asarray((ratio < low / SLACK) | (ratio > high * SLACK))
        if "moe" in self.meta["priors"]:
            found["moe"] = np.asarray(_float(arch.n_experts) > 0)
        if np.any(arch.n_recurrent_layers):
            found["mixer"] = np.asarray(arch.n_recurrent_layers) > 0
        if np.any(arch.n_window_layers):
            found["window"] = np.asarray(arch.n_window_layers) > 0
        return found

    def predict(self, arch: Any, tokens: Any, return_std: bool = False) -> Any:
        """Mean loss in nats per token; with ``return_std`` also its standard deviation.

        ``mean +- 1.645 std`` holds about 90 % of newly trained models (calibrated on left-out shapes). The mean has
        the broadcast shape of the fields and of tokens.

        Raises:
            SpecError: Tokens or parameters that are not positive.
        """
        x = self._logs(arch, tokens)
        mean = self._mean(arch, x)
        if not return_std:
            return mean
        return mean, np.sqrt(self._variance(arch, x)).reshape(mean.shape)

    def difference(self, arch_a: Any, arch_b: Any, tokens: Any) -> tuple[Array, Array]:
        """Mean and standard deviation of ``L(a) - L(b)`` at equal tokens, what both share cancelled.

        Shared: the law's parameters, the GP where shapes are close, and each prior's one coefficient. A design
        against itself is 0 +- 0.
        """
        xa, xb = self._logs(arch_a, tokens), self._logs(arch_b, tokens)
        mean_a, mean_b = self._mean(arch_a, xa), self._mean(arch_b, xb)
        mean = np.asarray(mean_a - mean_b)
        same: Any = True
        for name in _FIELDS:
            same = same & (np.asarray(getattr(arch_a, name)) == np.asarray(getattr(arch_b, name)))
        same = np.broadcast_to(same, mean.shape).ravel()
        if self.core is None:
            paper = self.meta["paper"]
            own = np.where(same, 0.0, 2.0 * paper["std"] ** 2)
            variance = own + (paper["overstated"] * mean.ravel()) ** 2
        else:
            shape = mean.shape
            a, b = (flat(Logs(*(np.broadcast_to(v, shape) for v in x))) for x in (xa, xb))
            variance = self.core.difference_variance(a, b, same)
        spreads_a, spreads_b = self._spreads(arch_a, xa), self._spreads(arch_b, xb)
        for name in {**spreads_a, **spreads_b}:  # a term that one of them has not is 0 there
            gap = _float(spreads_a.get(name, 0.0)) - _float(spreads_b.get(name, 0.0))
            variance = variance + np.broadcast_to(gap**2, mean.shape).ravel()
        return mean, np.sqrt(variance).reshape(mean.shape)

    def error_samples(self, arch: Any, tokens: float, size: int, rng: np.random.Generator) -> Array:
        """Joint draws of the errors of many designs at one token count: (size, designs).

        Variances are those of `predict`, and what designs share (parameters, the GP where shapes are close, each prior's one
        coefficient) moves together. `arch` is a flat batch.
        """
        x = self._logs(arch, tokens)
        mean = self._mean(arch, x).ravel()
        if self.core is None:
            paper = self.meta["paper"]
            common = rng.standard_normal((size, 1)) * (paper["overstated"] * (mean - mean.mean()))
            return np.asarray(common + rng.standard_normal((size, mean.size)) * paper["std"])
        errors = self.core.error_samples(flat(Logs(*(np.broadcast_to(v, mean.shape) for v in x))), size, rng)
        for spread in self._spreads(arch, x).values():
            errors = errors + rng.standard_normal((size, 1)) * np.broadcast_to(spread, mean.shape)
        return errors

    def _experts(self, arch: Any) -> Any:
        if not np.any(arch.n_experts):
            return 1.0
        if self.core is None:
            return arch.n_experts
        fraction = float(self.meta["priors"]["moe"]["fraction"])
        return _priors.equivalent_experts(arch, _float(arch.params_active_nonembedding), fraction)

    def _logs(self, arch: Any, tokens: Any) -> Logs:
        times = _float(tokens)
        depth, width = _float(arch.n_layers), _float(arch.d_model)
        if not (times.size and times.min() > 0 and np.isfinite(times).all()):
            raise SpecError(f"training tokens must be positive, not {tokens!r}")
        active = _float(arch.params_active_nonembedding)
        if active.size and not (active.min() > 0 and depth.min() > 0 and width.min() > 0):
            raise SpecError("an architecture of the batch has no layers, no width or no parameters")
        n, log_l, log_w = np.log(active / 1e8), np.log(depth / 16), np.log(width / 1024)
        log_t = np.log(times / 1e10)
        if self.core is None:
            return Logs(n, log_t, log_l, log_w)
        experts: Any = 0.0
        if np.any(arch.n_experts):
            count = self._experts(arch)
            if self.core.form.name == "moe":
                experts = np.log(count)
            else:
                n = n + _priors.moe_term(n, count, self.meta["priors"]["moe"]).shift
        if not self.core.form.uses_n:
            # Depth and width stand for the parameters: what N has beyond the data's own recipe at this depth and width
            # goes to the width (N ~ width^2).
            usual = float(self.meta["params_per_layer_width2"])
            log_w = log_w + 0.5 * (n - np.log(usual * depth * width**2 / 1e8))
        return Logs(n, log_t, log_l, log_w, experts)

    def _mean(self, arch: Any, x: Logs) -> Array:
        if self.core is None:
            rho: Any = 1.0
            if np.any(arch.n_experts):
                mixed = np.asarray(arch.n_experts) > 0
                rho = np.where(mixed, _float(arch.n_active_experts) / np.maximum(_float(arch.n_experts), 1.0), 1.0)
            kv = np.multiply(arch.d_head, arch.n_kv_heads_mean, dtype=float)
            ratio = _priors.activated_width(arch) / _float(arch.d_model)
            mean = paper_eq2(self.meta["paper"]["parameters"], arch.n_layers, arch.d_model, kv, ratio, rho)
        else:
            mean = self.core.mean(x)
        for name, term in self._terms(arch).items():
            if name != "moe":
                mean = mean + term.shift
        shape = np.broadcast_shapes(np.shape(mean), np.shape(x.n), np.shape(x.t))
        return np.asarray(mean if np.shape(mean) == shape else np.broadcast_to(mean, shape))

    def _variance(self, arch: Any, x: Logs) -> Array:
        shape = np.broadcast_shapes(*(np.shape(v) for v in x))
        if self.core is None:
            total: Any = np.full(int(np.prod(shape)), float(self.meta["paper"]["std"]) ** 2)
        else:
            total = self.core.variance(flat(x))
        full = np.broadcast_shapes(shape, np.shape(self._mean(arch, x)))
        total = np.broadcast_to(np.reshape(total, shape), full).ravel() if full != shape else total
        for spread in self._spreads(arch, x).values():
            total = total + np.broadcast_to(spread**2, full).ravel()
        return np.asarray(total)

    def _spreads(self, arch: Any, x: Logs) -> dict[str, Array]:
        """Signed spread of each prior, in nats; the mixture's, which is in ln N, by the law's slope."""
        spreads = {name: _float(term.spread) for name, term in self._terms(arch).items() if name != "moe"}
        if self.core is None or "moe" not in self.meta["priors"] or self.core.form.name == "moe":
            return spreads
        prior = self.meta["priors"]["moe"]
        n = np.log(_float(arch.params_active_nonembedding) / 1e8)
        spread = _float(_priors.moe_term(n, self._experts(arch), prior).spread)
        half = 0.5 if not self.core.form.uses_n else 0.0
        step = 0.01
        moved = self.core.law(x._replace(n=x.n + step, w=x.w + half * step))
        slope = (moved - self.core.law(x)) / step
        spreads["moe"] = _float(slope * spread)
        # What is wrong with the transfer whatever the gain; one unknown for all mixtures, so it cancels between two.
        spreads["moe_form"] = np.where(np.asarray(arch.n_experts) > 0, float(prior["std"]), 0.0)
        return spreads

    def _terms(self, arch: Any) -> dict[str, _priors.Term]:
        terms: dict[str, _priors.Term] = {}
        for name, prior in self.meta["priors"].items():
            if name == "kv":
                terms[name] = _priors.kv_term(arch, prior)
            elif name == "d_head":
                terms[name] = _priors.d_head_term(arch, prior)
            elif name == "ffn_ratio":
                terms[name] = _priors.ffn_ratio_term(arch, prior)
        if np.any(arch.n_recurrent_layers):
            share = _float(arch.n_attention_layers) / _float(arch.n_layers)  # these are terms of attention layers
            for name in {"kv", "d_head"} & set(terms):
                terms[name] = _priors.Term(share * terms[name].shift, share * terms[name].spread)
            terms["mixer"] = _priors.mixer_term(arch, np.log(_float(arch.params_active_nonembedding) / 1e8))
        if arch.is_uneven:
            terms["uneven"] = _priors.uneven_term(arch)
        return terms
