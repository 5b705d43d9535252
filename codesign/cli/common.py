"""What commands share: options as people type them, and how numbers are shown."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from codesign.architecture import Architecture
    from codesign.workload import Workload

__all__ = ["architecture_text", "console", "parse_list", "perplexity", "workload_of"]


def console() -> Console:
    """Standard output: as wide as the terminal; plain and 120 wide where it is none; NO_COLOR is heard."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else 120
    return Console(highlight=False, no_color=True, width=width, soft_wrap=False)


def parse_list(values: list[str] | None) -> list[str]:
    """Repeated options and comma-separated values, flattened; doubles dropped."""
    parts = [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
    return list(dict.fromkeys(parts))


def workload_of(prompt: int, generate: int, batch: int) -> Workload:
    """The workload of three options.

    Raises:
        SpecError: a length out of range.
    """
    from codesign.workload import Workload

    return Workload(prompt_tokens=prompt, output_tokens=generate, batch_size=batch)


def perplexity(loss: float) -> float:
    """exp(loss)."""
    import math

    return math.exp(loss)


def architecture_text(arch: Architecture) -> str:
    """Depth x width, heads and FFN in short: `24L x 896, 14/2 heads, ffn 4864`."""
    ffn = f"{arch.n_experts}x{arch.d_ff_expert} top-{arch.n_active_experts}" if arch.n_experts else f"ffn {arch.d_ff}"
    return f"{arch.n_layers}L x {arch.d_model}, {arch.n_heads}/{arch.n_kv_heads} heads, {ffn}"


def json_default(value: Any) -> Any:
    """For json.dumps: numpy scalars as Python ones."""
    return value.item()
