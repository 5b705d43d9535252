"""Verification steps of speculative decoding: predicted against measured on this machine's CPU.

    python tools/speculative_validation.py      # two minutes, one core; writes results/speculative_host.md

A step that verifies k drafted tokens runs the target on k + 1 new tokens at once, logits of all of them. The additive roofline is that of
results/families_host.md, fitted to steps of one token; it never saw a longer one. torch, eager, fp32, one thread; median of 10
passes of CPU time at a context of 512.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import family_validation as families

from codesign.architecture import Architecture
from codesign.models.decoder import random_decoder
from codesign.roofline.device_fit import fit_terms
from codesign.roofline.terms import pass_terms
from codesign.serving import Serving
from codesign.workload import PRECISIONS, Workload

RESULTS = Path(__file__).parent.parent / "results"
CONTEXT, STEPS, PASSES, EACH = 512, (1, 2, 3, 5, 9), 10, 4


def measured(arch: Architecture) -> dict[int, float]:
    """Seconds by new tokens."""
    model = random_decoder(arch)
    spec = model.cache_spec(1, CONTEXT, torch.float32)
    cache = [tuple(torch.randn(shape) * 0.02 for shape, _ in parts) for parts in spec]
    found = {}
    for step in STEPS:
        ids, positions = torch.randint(arch.vocab_size, (1, step)), torch.arange(CONTEXT, CONTEXT + step)[None]
        times = []
        with torch.inference_mode():
            for _ in range(PASSES + 2):  # the first two warm up
                begin = time.process_time()
                model(ids, positions, cache, last_only=False)
                times.append(time.process_time() - begin)
        found[step] = float(np.median(times[2:]))
    return found


def predicted(arch: Architecture, seconds_per: dict[str, float]) -> dict[int, float]:
    found = {}
    for step in STEPS:
        workload = Workload(prompt_tokens=CONTEXT, output_tokens=1, serving=Serving(step_tokens=step))
        terms = pass_terms(arch, workload, PRECISIONS["fp32"], "decode")
        found[step] = sum(float(amount) * seconds_per.get(term, 0.0) for term, amount in terms.items())
    return found


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    rows = families.rows_of(RESULTS / "family_measurements.jsonl.gz")["decode"]
    host = families.PLACES["host"]
    seconds_per = fit_terms(rows, host.prior()["decode"])[0]
    tried = {name: families.architectures(host)[name][:EACH] for name in ("dense", "experts")}
    sizes = [arch.params_total for archs in tried.values() for arch in archs]
    lines = [
        "# Verification steps of speculative decoding on a host CPU", "",
        "Made by `python tools/speculative_validation.py`. " + " ".join(__doc__.split("\n\n")[2].split()), "",
        f"Medians of {EACH} dense models and {EACH} mixtures of {min(sizes) / 1e6:.0f}M to {max(sizes) / 1e6:.0f}M parameters (least to most):", "",
        "| new tokens in a step | " + " | ".join(map(str, STEPS)) + " |", "|---|" + "---|" * len(STEPS),
    ]  # fmt: skip
    for name, archs in tried.items():
        ratios: dict[int, list[float]] = {step: [] for step in STEPS}
        cost: dict[int, list[float]] = {step: [] for step in STEPS}
        for arch in archs:
            seen, said = measured(arch), predicted(arch, dict(seconds_per))
            for step in STEPS:
                ratios[step].append(said[step] / seen[step])
                cost[step].append(seen[step] / seen[1])
        lines.append(
            f"| {name}, predicted over measured | "
            + " | ".join(f"{np.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios.values())
            + " |"
        )
        lines.append(
            f"| {name}, measured over one token's step | "
            + " | ".join(f"{np.median(c):.2f}" for c in cost.values())
            + " |"
        )
    lines += ["", "A step of one token runs matrix-vector kernels here, a longer one matrix-matrix kernels that pack the weights first: from one token to two the "
              "time rises by more than from two to nine. The cost model has one rate for both, so that on this machine it makes verification too cheap, most "
              "for two or three tokens. Whether a GPU's kernels jump alike was not measured.", ""]  # fmt: skip
    (RESULTS / "speculative_host.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines[6:]))


if __name__ == "__main__":
    main()
