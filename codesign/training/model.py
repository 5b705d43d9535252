"""The model and its optimizer as training starts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from codesign.architecture import Architecture
from codesign.models.decoder import build_decoder
from codesign.training_run import Recipe

__all__ = ["BALANCE", "initial_model", "optimizer_of", "router_balance"]

#: Weight of the load-balancing loss of mixtures (Switch Transformers, arXiv 2101.03961, section 2.2).
BALANCE = 0.01


def initial_model(arch: Architecture, seed: int) -> Any:
    """Random weights scaled to the width, so that one recipe fits tiny and small models.

    Normal with standard deviation d_model^-0.5 for embedding and head, 0.5 * inputs^-0.5 for the matrices of the layers,
    and that divided by sqrt(2 L) for what is added to the residual stream (GPT-2, section 2.3). At widths of 600 to 1000 that
    is near the customary 0.02 for layers; below, 0.02 is too small to start from: with 2 layers of width 64 and 0.5 M
    bytes of Python the loss ends at 1.86 against 2.10 at the best learning rate of each.
    """
    model = build_decoder(arch).initialise(seed)  # standard deviation 0.02; gains 1, biases 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                continue
            inputs = parameter[0].numel()
            std = inputs**-0.5 if name in ("embed_tokens.weight", "lm_head.weight") else 0.5 * inputs**-0.5
            if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
                std /= (2 * arch.n_layers) ** 0.5
            parameter.mul_(std / 0.02)
    return model


def optimizer_of(model: Any, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with decay on matrices (the embedding included), none on gains and biases."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=1e-8,
        fused=True,
    )


@contextmanager
def router_balance(model: Any) -> Iterator[list[Tensor]]:
    """Collects the load-balancing loss of each router while the model runs forward; empty for a dense model.

    Per router E * sum_e f_e P_e, where f_e is the share of (token, choice) pairs that go to expert e and P_e its mean
    probability: 1 where tokens are spread evenly, E at worst.
    """
    found: list[Tensor] = []
    active = model.arch.n_active_experts

    def note(_module: Any, _inputs: Any, logits: Tensor) -> None:
        probabilities = logits.float().softmax(-1)
        experts = logits.shape[-1]
        chosen = probabilities.detach().topk(active, dim=-1).indices.flatten()
        share = torch.zeros(experts, device=logits.device).scatter_add_(
            0, chosen, torch.full((chosen.numel(),), 1 / chosen.numel(), device=logits.device)
        )
        found.append(experts * (share * probabilities.mean(0)).sum())

    routers = [module.router for module in model.modules() if getattr(module, "mixture", False)]
    hooks = [router.register_forward_hook(note) for router in routers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
