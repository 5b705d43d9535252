"""Speculative decoding: a draft model proposes tokens one by one, the target verifies them in one step (arXiv 2211.17192).

With k drafted tokens, each accepted with probability a on its own, a step yields on average

    E = (1 - a^(k + 1)) / (1 - a)     tokens,      and takes      k * t_draft + t_verify(k + 1)     seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from codesign.architecture import Architecture
from codesign.errors import SpecError
from codesign.roofline.cost import RooflineModel
from codesign.workload import Precision, Workload

__all__ = ["Speculation", "expected_tokens", "speculate"]

_MOST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Costs of one step, and what follows for a token.

    tokens: expected in a step; draft_s: of all drafted tokens; verify_s: one pass over them; step_s: both; decode_s: per token;
    plain_s: per token of the target alone; speedup: plain_s / decode_s; prefill_s: of both models; memory_B: of both.
    """

    drafted: int
    acceptance: float
    tokens: float
    draft_s: float
    verify_s: float
    step_s: float
    decode_s: float
    plain_s: float
    speedup: float
    prefill_s: float
    memory_B: float


def expected_tokens(acceptance: float, drafted: int) -> float:
    """Mean tokens of a step: 1 + a + ... + a^k.

    Raises:
        SpecError: an acceptance outside 0 to 1, or a number of drafted tokens outside 1 to 64.

    Example:
        >>> expected_tokens(0.8, 4), expected_tokens(1.0, 4)
        (3.3616, 5.0)
    """
    if not 0 <= acceptance <= 1:
        raise SpecError(
            f"acceptance {acceptance} must lie between 0 and 1: the share of drafted tokens that the target keeps"
        )
    if isinstance(drafted, bool) or not isinstance(drafted, int) or not 1 <= drafted <= _MOST:
        raise SpecError(f"drafted tokens {drafted} must be a whole number from 1 to {_MOST}")
    return round(sum(acceptance**i for i in range(drafted + 1)), 12)


def speculate(
    cost: RooflineModel, target: Architecture, draft: Architecture, workload: Workload, precision: Precision, *, drafted: int,
    acceptance: float, draft_precision: Precision | None = None, draft_cost: RooflineModel | None = None,
) -> Speculation:  # fmt: skip
    """Latency of a target with a draft model on one device, all requests of a batch in step.

    Args:
        cost: of the target. target, draft: share a vocabulary. draft_precision, draft_cost: where the draft's are others.

    Raises:
        SpecError: vocabularies that differ, or see `expected_tokens`.
    """
    tokens = expected_tokens(acceptance, drafted)
    if target.vocab_size != draft.vocab_size:
        raise SpecError(
            f"the draft has a vocabulary of {draft.vocab_size} and the target {target.vocab_size}: a draft's tokens must be the "
            "target's; take a smaller model of the same family"
        )
    other, form = draft_cost or cost, draft_precision or precision
    verify = replace(workload, serving=replace(workload.serving, step_tokens=drafted + 1))
    plain, small = (
        cost.estimate(target, workload, precision, energy=False),
        other.estimate(draft, workload, form, energy=False),
    )
    verify_s = float(cost.phase(target, verify, precision, "decode", totals=False).seconds)
    draft_s = drafted * float(small.decode_s)
    step = draft_s + verify_s
    return Speculation(
        drafted=drafted, acceptance=acceptance, tokens=tokens, draft_s=draft_s, verify_s=verify_s, step_s=step, decode_s=step / tokens,
        plain_s=float(plain.decode_s), speedup=float(plain.decode_s) * tokens / step, prefill_s=float(plain.prefill_s + small.prefill_s),
        memory_B=float(plain.peak_memory_B + small.peak_memory_B),
    )  # fmt: skip
