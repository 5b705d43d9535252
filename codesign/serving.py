"""How a model is served: choices that change cache bytes and operators, but no parameter of the model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from codesign.errors import SpecError

__all__ = ["Serving"]

_MAX = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The default serves every model as it is.

    Args:
        latent: form of multi-head latent attention in decode. absorbed: scores against the compressed vectors, of which
            kv_rank + d_rope numbers a token are cached (DeepSeek-V2, arXiv 2405.04434). expanded: keys and values of all
            heads are cached.
        kv_budget_tokens: after the prompt each layer's cache keeps this many of its tokens (0: all) and those generated since;
            evicting needs one more scoring of the prompt's keys by kv_observers queries (SnapKV, arXiv 2404.14469;
            LookaheadKV, arXiv 2603.10899).
        sparse_tokens: each query attends to this many cached tokens (0: all), chosen by an indexer of index_heads heads of
            d_index, one key of index_bits a number cached for each token (DeepSeek-V3.2). index_share: layers that share one
            index, its scores computed in the first of them (IndexCache, arXiv 2603.12201).
        step_tokens: new tokens of each request in one decode step: 1, or 1 + the drafted ones that a step verifies.

    Raises:
        SpecError: a value out of range.

    Example:
        >>> Serving(kv_budget_tokens=512).kept_tokens(4096)
        512
    """

    latent: Literal["absorbed", "expanded"] = "absorbed"
    kv_budget_tokens: int = 0
    kv_observers: int = 32
    sparse_tokens: int = 0
    index_heads: int = 64
    d_index: int = 128
    index_bits: int = 8
    index_share: int = 1
    step_tokens: int = 1

    def __post_init__(self) -> None:
        if self.latent not in ("absorbed", "expanded"):
            raise SpecError(f"latent '{self.latent}' is not one of absorbed, expanded")
        lows = {
            "kv_budget_tokens": 0, "kv_observers": 1, "sparse_tokens": 0, "index_heads": 1, "d_index": 1, "index_bits": 1,
            "index_share": 1, "step_tokens": 1,
        }  # fmt: skip
        for name, low in lows.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= _MAX:
                raise SpecError(f"{name} must be a whole number from {low} to {_MAX:g}, not {value!r}")

    def changes(self) -> dict[str, Any]:
        """The options that are not at their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def check(self, *, latent: bool, attention: bool, whose: str) -> None:
        """Refuse options that change nothing.

        Args:
            latent, attention: whether there are layers of these. whose: such as "this model".

        Raises:
            SpecError: an option for layers that there are not, or one that only goes with another.
        """
        given = self.changes()
        for name, goes_with in (("kv_observers", "kv_budget_tokens"), ("index_heads", "sparse_tokens"), ("d_index", "sparse_tokens"),
                                ("index_bits", "sparse_tokens"), ("index_share", "sparse_tokens")):  # fmt: skip
            if name in given and goes_with not in given:
                raise SpecError(
                    f"--serving {_option(name)} does nothing without {_option(goes_with)}; give both, or leave it out"
                )
        for name, has, what in (("latent", latent, "latent attention"), ("kv_budget_tokens", attention, "attention"), ("sparse_tokens", attention, "attention")):  # fmt: skip
            if name in given and not has:
                raise SpecError(
                    f"--serving {_option(name)}={given[name]} does nothing: {whose} has no {what}; leave it out"
                )

    def kept_tokens(self, prompt: int) -> int:
        """Tokens of a prompt that stay in the cache of a layer without a window."""
        return min(prompt, self.kv_budget_tokens) if self.kv_budget_tokens else prompt

    def attended(self, context: float) -> float:
        """Cached tokens that one query reads, of those there are."""
        return min(context, float(self.sparse_tokens)) if self.sparse_tokens else context


def _option(name: str) -> str:
    return name.replace("_", "-")
