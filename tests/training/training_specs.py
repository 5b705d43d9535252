"""Small runs that the tests share: real text, seconds of training."""

from __future__ import annotations

from pathlib import Path

from codesign.architecture import Architecture
from codesign.training.spec import RunSpec
from codesign.training_run import Recipe

TINY = Architecture(n_layers=2, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_ff=64, vocab_size=256)
MIXTURE = TINY.evolve(d_ff=0, n_experts=4, n_active_experts=2, d_ff_expert=32, family="mixtral")


def write_corpus(folder: Path, documents: int = 120) -> Path:
    """Documents of arithmetic that a model can learn in seconds; each differs."""
    folder.mkdir(parents=True, exist_ok=True)
    for d in range(documents):
        lines = [f"{a} plus {b} is {a + b}.\n" for a in range(d, d + 6) for b in range(5)]
        (folder / f"doc{d:03}.txt").write_text("".join(lines))
    return folder


def tiny_spec(data: Path, cache: Path, architecture: Architecture = TINY, **changes) -> RunSpec:
    """120 steps of 256 tokens; keywords of Recipe or RunSpec change it."""
    recipe = {"tokens": 120 * 256, "batch_tokens": 256, "seq_len": 64, "lr": 1e-2}
    recipe.update({k: changes.pop(k) for k in list(changes) if k in Recipe.__dataclass_fields__})
    values = {"eval_points": 12, "eval_tokens": 1024, "final_eval_tokens": 4096, "device": "cpu", "cache": str(cache)}
    return RunSpec(architecture=architecture, recipe=Recipe(**recipe), data=str(data), **{**values, **changes})
