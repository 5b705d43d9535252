"""The decoder as a torch module: what profilers run and training trains.

Its parameters are named as in `codesign.models.features`, and it computes what the family's model in transformers computes,
given the same weights (`codesign.models.transformers_names`). Grouped-query attention runs through
`scaled_dot_product_attention`; a cache is a list of (key, value), each (batch, n_kv_heads, past, d_head), keys rotated.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.architecture import Architecture
from codesign.models.blocks import (
    Attention,
    CacheSpec,
    RMSNorm,
    add_feed_forward,
    feed_forward,
    norm_of,
    rotary_angles,
    set_weights,
)
from codesign.models.features import Features, features, is_mixture, is_stack
from codesign.models.shared_stack import SharedStack
from codesign.models.stack import Stack
from codesign.models.weights import STD, RandomWeights

__all__ = ["Cache", "Decoder", "build_decoder", "random_decoder"]

Cache = list[tuple[Tensor, Tensor]]


class Layer(Attention):
    """Attention and FFN (dense or a mixture), each added to the residual stream."""

    def __init__(self, arch: Architecture, has: Features, index: int) -> None:
        super().__init__(arch, has, has.sliding[index])
        if has.pre_norm:
            self.attention_norm, self.ffn_norm = norm_of(arch, has.norm_eps), norm_of(arch, has.norm_eps)
        if has.post_norm:
            self.attention_post_norm, self.ffn_post_norm = norm_of(arch, has.norm_eps), norm_of(arch, has.norm_eps)
        add_feed_forward(self, arch, has, is_mixture(arch, index))

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.attention_norm(x) if self.has.pre_norm else x
        y, present = self.attend(y, angles, past)
        x = x + (self.attention_post_norm(y) if self.has.post_norm else y)
        y = self.ffn_norm(x) if self.has.pre_norm else x
        y = feed_forward(self, y)
        return x + (self.ffn_post_norm(y) if self.has.post_norm else y), present


class Decoder(nn.Module):  # type: ignore[misc]  # torch is Any to mypy
    """A decoder-only language model.

    Args:
        arch: its architecture; the parameters add up to `arch.params_total`.

    Raises:
        SpecError: a field that no runnable model is written for.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch, self.has = arch, features(arch)
        self.embed_tokens = nn.Embedding(arch.vocab_size, arch.d_model)
        self.layers = nn.ModuleList(Layer(arch, self.has, i) for i in range(arch.n_layers))
        eps = self.has.norm_eps
        self.final_norm = nn.LayerNorm(arch.d_model, eps=eps) if arch.norm_bias else RMSNorm(arch.d_model, eps)
        self.lm_head = None if arch.tied_embeddings else nn.Linear(arch.d_model, arch.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        past: Cache | None = None,
        last_only: bool = True,
    ) -> tuple[Tensor, Cache]:
        """Logits and the cache with the new positions.

        Args:
            input_ids: (batch, sequence); position_ids: the same shape, consecutive; None continues the cache.
            past: the cache, which ends right before the first new position; None is empty. Layers with a sliding window
                may be given the last window_tokens - 1 positions only (then give position_ids).
            last_only: logits of the last position only (batch, 1, vocab), as serving needs them; else of all.
        """
        if position_ids is None:
            start = past[0][0].shape[2] if past else 0
            position_ids = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)[None]
        x = self.embed_tokens(input_ids)
        if self.has.embedding_scale != 1:
            x = x * self.has.embedding_scale
        angles = {
            sliding: rotary_angles(position_ids, self.has.rotary_dim, self.has.rope_theta[sliding], x.dtype)
            for sliding in sorted(set(self.has.sliding))
        }
        present: Cache = []
        for i, layer in enumerate(self.layers):
            x, kept = layer(x, angles[self.has.sliding[i]], past[i] if past else None)
            present.append(kept)
        x = self.final_norm(x[:, -1:] if last_only else x)
        return F.linear(x, self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight), present

    def cache_spec(self, batch: int, past: int, dtype: torch.dtype) -> list[CacheSpec]:
        """Each layer's cache after `past` tokens; layers with a window keep its last ones, as serving does."""
        arch, window = self.arch, max(self.arch.window_tokens - 1, 0)
        lengths = [min(past, window) if sliding else past for sliding in self.has.sliding]
        return [[((batch, arch.n_kv_heads, length, arch.d_head), dtype)] * 2 for length in lengths]

    def initialise(self, seed: int) -> Decoder:
        """Weights to start training from: normal with standard deviation 0.02, gains 1, biases 0, as transformers does."""
        set_weights(self, seed)
        return self


def build_decoder(arch: Architecture) -> Any:
    """The module of an architecture: a `Decoder`, or a `codesign.models.stack.Stack` where its layers are of several kinds.

    Raises:
        SpecError: a field that no runnable model is written for.
    """
    if arch.n_shared_blocks:
        return SharedStack(arch)
    return Stack(arch) if is_stack(arch) else Decoder(arch)


def random_decoder(
    arch: Architecture, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: Any = "cpu"
) -> Any:
    """A decoder with random weights to be timed, made at the speed of a copy (to train, use `Decoder.initialise`).

    On a GPU they are drawn there, with the generator of its own that torch has for it.
    """
    with torch.device("meta"):
        model = build_decoder(arch)
    model.to(dtype).to_empty(device=device)
    random, generator = RandomWeights(seed), torch.Generator(device=device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif parameter.device.type != "cpu":
                parameter.normal_(0.0, STD, generator=generator)
            else:
                parameter.copy_(torch.from_numpy(random.normal(tuple(parameter.shape), "float32")))
    model.eval()
    return model
