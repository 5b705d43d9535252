"""How long a step takes on this machine: a few steps are timed, and nothing is kept."""

from __future__ import annotations

import time
from typing import Any

from codesign.errors import MissingExtraError
from codesign.training.spec import RunSpec

__all__ = ["step_seconds"]


def step_seconds(spec: RunSpec, budget_s: float = 0.5) -> float:
    """Seconds of one optimizer step on random tokens, the fastest of as many as fit `budget_s` (two at least).

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        import torch
        import torch.nn.functional as F

        from codesign.training.model import initial_model, optimizer_of
    except ImportError as error:
        raise MissingExtraError.of(error.name or "torch", "train", "training") from error
    recipe = spec.recipe
    cuda = spec.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    model = initial_model(spec.architecture, recipe.seed).to(device).train()
    optimizer = optimizer_of(model, recipe)
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.batch_tokens // recipe.seq_len, recipe.seq_len + 1)
    ids = torch.randint(spec.architecture.vocab_size, shape, generator=generator).to(device)
    rows = max(1, spec.micro_tokens // recipe.seq_len)

    def step() -> float:
        begin = time.perf_counter()
        for start in range(0, len(ids), rows):
            part: Any = ids[start : start + rows]
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.dtype == "bf16"):
                logits, _ = model(part[:, :-1], last_only=False)
            (F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten()) * (len(part) / len(ids))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    before = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    try:
        begin, times = time.perf_counter(), [step(), step()][1:]  # the first also allocates
        while time.perf_counter() - begin < budget_s:
            times.append(step())
        return min(times)
    finally:
        torch.set_num_threads(before)
