"""Stacks of mixed sublayers as a torch module: attention, latent attention, recurrences, FFNs and mixtures in any order.

Sublayers follow `codesign._layout.sublayers`, each with a norm before it and added to the residual stream. Looped layers run
again with a cache of their own (and the embedding added to what goes in, as in Parcae, arXiv 2604.12946, without its gains).
Mixtures route by softmax. bamba, gpt_oss (but for its stretched rotation), jamba, lfm2, mamba, nemotron_h, qwen3_5_text, xlstm (but for its
capped logits) and youtu compute what
transformers computes, given the same weights; other families have the same sizes and operators.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign._layout import sublayers
from codesign.architecture import Architecture
from codesign.models.blocks import Attention, CacheSpec, FeedForwardBlock, RMSNorm, rotary_angles, set_weights
from codesign.models.features import features
from codesign.models.mixers import RECURRENT, LatentAttention, Recurrent

__all__ = ["Stack"]

Cache = list[tuple[Tensor, ...]]
#: Letters of sublayers that are numbered together.
_ALIKE = {"A": "AW", "W": "AW"}


class Sublayer(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """A norm and a mixer or FFN; `index` counts the sublayers of its kind."""

    def __init__(self, arch: Architecture, letter: str, index: int, shares: bool) -> None:
        super().__init__()
        has = features(arch)
        if arch.is_uneven:
            arch = arch.sublayer(letter, index)
        self.letter, self.norm = letter, RMSNorm(arch.d_model, has.norm_eps)
        if letter in "FE":
            self.block: Any = FeedForwardBlock(arch, has, letter == "E")
        elif letter == "R":
            self.block = RECURRENT[arch.recurrence](arch, has.norm_eps)
        elif arch.kv_rank:
            self.block = LatentAttention(arch, has.norm_eps)
        else:
            self.block = Attention(arch, has, letter == "W", shares)


class Stack(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """A decoder of mixed sublayers; interface and cache order as `codesign.models.decoder.Decoder`.

    The cache has an entry for each mixer that runs and keeps one: (keys, values), (latents, rotated keys), or the inputs of the
    convolution and the states of a recurrence.

    Raises:
        SpecError: a field that no runnable model is written for.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch, self.has = arch, features(arch)
        letters = sublayers(arch)
        self.sources = _sources(letters, arch.n_kv_shared_layers)
        self.order = _order(letters, arch)
        self.embed_tokens = nn.Embedding(arch.vocab_size, arch.d_model)
        self.sublayers = nn.ModuleList(
            Sublayer(arch, c, sum(other in _ALIKE.get(c, c) for other in letters[:i]), i in self.sources)
            for i, c in enumerate(letters)
        )
        self.final_norm = RMSNorm(arch.d_model, self.has.norm_eps)
        self.lm_head = None if arch.tied_embeddings else nn.Linear(arch.d_model, arch.vocab_size, bias=False)

    def cache_spec(self, batch: int, past: int, dtype: torch.dtype) -> list[CacheSpec]:
        """Each entry of the cache after `past` tokens; layers with a window keep its last ones."""
        arch = self.arch
        spec: list[CacheSpec] = []
        for index in self.order:
            layer = self.sublayers[index] if index >= 0 else None
            if layer is None or layer.letter in "FE" or index in self.sources:
                continue
            if isinstance(layer.block, Attention):
                kept = min(past, arch.window_tokens - 1) if layer.letter == "W" else past
                spec.append([((batch, layer.block.arch.n_kv_heads, kept, arch.d_head), dtype)] * 2)
            else:
                spec.append(layer.block.cache_spec(batch, past, dtype))
        return spec

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        past: Cache | None = None,
        last_only: bool = True,
    ) -> tuple[Tensor, Cache]:
        """Logits and the cache with the new positions; see `Decoder.forward`. Without position_ids the cache's length continues."""
        x, present = self._run(input_ids, position_ids, past)
        x = self.final_norm(x[:, -1:] if last_only else x)
        return F.linear(x, self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight), present

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Hidden states after the last norm, (batch, sequence, d_model)."""
        return self.final_norm(self._run(input_ids, None, None)[0])

    def _run(self, input_ids: Tensor, position_ids: Tensor | None, past: Cache | None) -> tuple[Tensor, Cache]:
        if position_ids is None:
            start = self._length(past) if past else 0
            position_ids = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)[None]
        embedded = x = self.embed_tokens(input_ids)
        angles = rotary_angles(position_ids, self.has.rotary_dim, self.has.rope_theta[False], x.dtype)
        present: Cache = []
        kept: dict[int, Any] = {}
        for index in self.order:
            if index < 0:  # the loop begins again
                x = x + embedded
                continue
            layer = self.sublayers[index]
            y = layer.norm(x)
            if layer.letter in "FE":
                y = layer.block(y)
            elif index in self.sources:
                y, _ = layer.block.attend(y, angles, None, kept[self.sources[index]])
            else:
                before = past[len(present)] if past else None
                if isinstance(layer.block, Recurrent):
                    y, after = layer.block(y, before)
                elif isinstance(layer.block, LatentAttention):
                    y, after = layer.block(y, angles, before)
                else:
                    y, after = layer.block.attend(y, angles, before)
                kept[index] = after
                present.append(after)
            x = x + y
        return x, present

    def _length(self, past: Cache) -> int:
        """Tokens in the cache, by the first layer that keeps all of them."""
        slot = 0
        for index in self.order:
            layer = self.sublayers[index] if index >= 0 else None
            if layer is None or layer.letter in "FE" or index in self.sources:
                continue
            if layer.letter == "A":
                return int(past[slot][0].shape[1 if self.arch.kv_rank else 2])
            slot += 1
        return 0  # no layer reads positions

    def initialise(self, seed: int) -> Stack:
        """Weights to start training from: matrices normal with standard deviation 0.02, gains 1, and what recurrences need."""
        set_weights(self, seed)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, Recurrent):
                    module.initialise()
        return self


def _sources(letters: str, shared: int) -> dict[int, int]:
    """For each attention sublayer without keys and values of its own, the one whose it uses: the last earlier one of its kind."""
    attention = [i for i, c in enumerate(letters) if c in "AW"]
    own, sources = attention[: len(attention) - shared], {}
    for index in attention[len(attention) - shared :]:
        alike = [i for i in own if letters[i] == letters[index]]
        sources[index] = (alike or own)[-1]
    return sources


def _order(letters: str, arch: Architecture) -> list[int]:
    """Sublayers in the order in which they run; -1 where a loop begins again."""
    whole = list(range(len(letters)))
    if arch.n_loops == 1:
        return whole
    if arch.n_looped_layers == arch.n_layers:
        low, high = 0, len(letters)
    else:  # all layers are alike: a mixer and an FFN each
        first = (arch.n_layers - arch.n_looped_layers) // 2
        low, high = 2 * first, 2 * (first + arch.n_looped_layers)
    loop = whole[low:high]
    return whole[:low] + loop + [-1, *loop] * (arch.n_loops - 1) + whole[high:]
