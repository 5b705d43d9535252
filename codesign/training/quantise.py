"""Rounding the weights of a trained model part by part, and what that costs in loss, measured.

Weights are rounded to the nearest of 2^b levels between the least and the greatest of each group of consecutive inputs (asymmetric,
scale in fp16, zero a level): the plainest quantiser there is. GPTQ, AWQ and the like lose less at the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.architecture import Architecture
from codesign.errors import SpecError

__all__ = ["HEAD", "Part", "parts_of", "rounded", "window_losses", "with_bits"]

HEAD = "head"
_KEPT = (".router", ".shared_gate")  # a few numbers a row, which decide which experts run
_FFN = (".ffn.", ".experts.", ".shared_expert.")


@dataclass(frozen=True, slots=True)
class Part:
    """What takes one bit width: a layer's mixer, its FFN, or the head.

    weights, groups: numbers and scales stored; read, groups_read: those that one token at batch 1 reads (of experts, those that are active).
    """

    name: str
    weights: int
    groups: int
    read: float
    groups_read: float
    modules: tuple[str, ...] = field(repr=False)

    def bits_stored(self, bits: float) -> float:
        """All bits of the part: b a weight, and a 16-bit scale and a zero of b bits a group; 16 stay as they are."""
        return self.weights * bits + (self.groups * (16 + bits) if bits < 16 else 0)

    def bits_read(self, bits: float) -> float:
        """Those that one token reads."""
        return self.read * bits + (self.groups_read * (16 + bits) if bits < 16 else 0)


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """A matrix (outputs, inputs) as it is after rounding; a last group may be shorter.

    Raises:
        SpecError: bits outside 2 to 8, or a group below 2.
    """
    if not 2 <= bits <= 8 or group < 2:
        raise SpecError(f"{bits} bits in groups of {group}; allowed: 2 to 8 bits, groups of at least 2")
    rows, columns = weight.shape
    width = min(group, columns)
    short = -columns % width
    w = F.pad(weight.float(), (0, short), mode="replicate") if short else weight.float()
    w = w.view(rows, -1, width)
    levels = 2**bits - 1
    low = w.amin(-1, keepdim=True).clamp(max=0)
    high = w.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / levels).clamp(min=2.0**-24).half().float()
    zero = torch.round(-low / scale).clamp(0, levels)
    q = torch.clamp(torch.round(w / scale) + zero, 0, levels)
    return ((q - zero) * scale).view(rows, -1)[:, :columns].to(weight.dtype)


def parts_of(model: Any, group: int) -> list[Part]:
    """The parts of a Decoder or a Stack, in order, the head last. Embeddings, norms, routers and convolutions stay as they are.

    Args:
        group: weights of a row that share a scale; a row's last group may be shorter.

    Raises:
        SpecError: shared blocks, which no part of one layer is.
    """
    arch: Architecture = model.arch
    if arch.n_shared_blocks:
        raise SpecError(
            f"family '{arch.family}' shares blocks between layers; only models whose layers have their own weights have parts"
        )
    active = arch.n_active_experts / arch.n_experts if arch.n_experts else 1.0
    found: dict[str, list[tuple[str, int, int, float]]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name == "lm_head" or any(kept in name for kept in _KEPT):
            continue
        stack, layer, rest = name.split(".", 2)
        kind = "ffn" if any(text in f".{rest}" for text in _FFN) else "mixer"
        share = (active if ".experts." in f".{rest}" else 1.0) * _uses(model, int(layer))
        rows, columns = module.weight.shape
        found.setdefault(f"{stack}.{layer}.{kind}", []).append(
            (name, rows * columns, rows * -(-columns // group), share)
        )
    parts = [
        Part(
            name, sum(n for _, n, _, _ in some), sum(g for _, _, g, _ in some), sum(n * share for _, n, _, share in some),
            sum(g * share for _, _, g, share in some), tuple(module for module, *_ in some),
        )
        for name, some in found.items()
    ]  # fmt: skip
    table, groups = arch.vocab_size * arch.d_model, arch.vocab_size * -(-arch.d_model // group)
    return [*parts, Part(HEAD, table, groups, float(table), float(groups), ())]


def _uses(model: Any, layer: int) -> int:
    """How often a sublayer runs for one token: more than once in looped models."""
    order = getattr(model, "order", None)
    return 1 if order is None else order.count(layer)


@contextmanager
def with_bits(model: Any, parts: list[Part], bits: Mapping[str, int], group: int) -> Iterator[None]:
    """The model with some parts rounded (16: as they are), restored afterwards. A tied head gets a rounded copy of its own."""
    before: dict[str, Tensor] = {}
    head = model.lm_head
    modules = dict(model.named_modules())
    try:
        with torch.no_grad():
            for part in parts:
                wanted = bits.get(part.name, 16)
                if wanted >= 16:
                    continue
                if part.name == HEAD:
                    source = model.embed_tokens.weight if head is None else head.weight
                    model.lm_head = nn.Linear(source.shape[1], source.shape[0], bias=False, device="meta")
                    model.lm_head.weight = nn.Parameter(rounded(source.detach(), wanted, group), requires_grad=False)
                for name in part.modules:
                    weight = modules[name].weight
                    before[name] = weight.detach().clone()
                    weight.copy_(rounded(weight, wanted, group))
        yield
    finally:
        model.lm_head = head
        with torch.no_grad():
            for name, weight in before.items():
                modules[name].weight.copy_(weight)


def window_losses(model: Any, windows: npt.NDArray[np.int64], batch_tokens: int = 8192) -> npt.NDArray[np.float64]:
    """Mean next-token loss of each window of (n, length + 1), nats per token, (n,)."""
    device = model.embed_tokens.weight.device
    rows = max(1, batch_tokens // (windows.shape[1] - 1))
    found = np.empty(len(windows))
    with torch.inference_mode():
        for start in range(0, len(windows), rows):
            ids = torch.from_numpy(windows[start : start + rows]).to(device)
            logits, _ = model(ids[:, :-1], last_only=False)
            each = F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
            found[start : start + rows] = each.double().mean(dim=1).cpu().numpy()
    return found
