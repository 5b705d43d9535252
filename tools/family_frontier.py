"""The frontier on Jetson AGX Orin by family of architectures at 20 ms: results/families_orin.md and .png.

    python tools/family_frontier.py

Every family is searched exactly over the default space (fp16, vLLM, batch 1, 10B tokens), once for the usual request and once
for a long prompt, where what a model caches decides. Families whose loss no data tells are not searched: the designs of the dense
frontier are costed with their mixers at the same shape, and drawn hollow at the dense design's loss.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from codesign.budget import Budget  # noqa: E402
from codesign.devices import load_device  # noqa: E402
from codesign.predictors import load_law  # noqa: E402
from codesign.report.words import arch_text  # noqa: E402
from codesign.search import build_problem, load_space, search  # noqa: E402
from codesign.search.frontier import Frontier  # noqa: E402
from codesign.search.mixers import family_axes, parse_mixer, with_mixer  # noqa: E402
from codesign.search.problem import Problem  # noqa: E402
from codesign.workload import PRECISIONS, Workload  # noqa: E402

OUT = Path(__file__).parent.parent / "results"
PROMPTS = (1024, 16384)
BUDGET = Budget(latency_s=0.02)
PRICED = {
    "dense": ["dense"], "mixture of experts": ["moe"], "windows (512 or 1024, 5 of 6)": ["window"],
    "hybrids (Mamba-2, gated delta, mLSTM)": ["hybrid"], "recurrent alone (Mamba-2, mLSTM)": ["recurrent"],
}  # fmt: skip
COST_ONLY = {
    "latent attention of 256": "mla:256", "keys and values shared by 2": "shared:2", "middle half run twice": "loop:2",
    "short convolutions, 2 of 3": "conv:3",
}  # fmt: skip
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6e7781", "#1b1f24", "#8c6d31")
MARKERS = ("o", "D", "s", "^", "P", "X", "v", "<", ">")


def problem(families: Sequence[str], prompt: int) -> Problem:
    """The search of some families on Orin."""
    space = load_space("default", ["fp16"], 50304)
    experts, mixers = family_axes(list(families), space.axes["experts"])
    space = space.with_axis("experts", experts).with_axis("mixer", mixers)
    return build_problem(
        device=load_device("orin"), engine="vllm", space=space, workload=Workload(prompt_tokens=prompt, output_tokens=128),
        budget=BUDGET, law=load_law("gemstones"), tokens=10e9,
    )  # fmt: skip


def shaped_alike(frontier: Frontier, mixer: str, prompt: int) -> list[tuple[float, float, float]]:
    """Time per token, time to first token, memory of the frontier's shapes with another mixer (nan where it is not possible)."""
    base = problem(["dense"], prompt)
    found = []
    for c in frontier.candidates:
        a = c.architecture
        fields = {name: getattr(a, name) for name in ("n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_ff", "vocab_size",
                  "tied_embeddings", "ffn_gated", "n_experts", "n_active_experts", "d_ff_expert", "qk_norm", "norm_bias")}  # fmt: skip
        changed, possible = with_mixer(fields, parse_mixer(mixer), {"n_kv_heads": np.True_, "d_head": np.True_})
        if not bool(np.all(possible)):
            found.append((float("nan"),) * 3)
            continue
        changed = {k: int(v) if isinstance(v, (float, np.floating, np.integer)) else v for k, v in changed.items()}
        arch = replace(a, **changed)
        cost = base.models["fp16"].estimate(arch, base.workload, PRECISIONS["fp16"])
        found.append((float(cost.decode_s), float(cost.prefill_s), float(cost.peak_memory_B)))
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    lines = [
        "# The frontier on Orin by family", "",
        "Made by `python tools/family_frontier.py`. Jetson AGX Orin 64 GB at MAXN, vLLM, fp16, batch 1, 128 tokens out, 20 ms a token at most, "
        "10B training tokens, law gemstones. Each family is searched exactly over the default space with its mixers.", "",
        "![frontiers](families_orin.png)", "",
        "What is known of these losses: experts and recurrences are priors from other data sets (README, marks E and R); mLSTM's gap to "
        "attention was measured at 8k and 16k tokens and is taken as 0.12 of it at the law's 2k; Mamba-2 and gated delta nets are taken as "
        "attention's loss at equal parameters, within that gap; windows have no term. No latency of a recurrent, latent or looped model was "
        "measured on Orin: their operators run at the rates of attention and of matrix products there.", "",
    ]  # fmt: skip
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 6.2), dpi=120, layout="constrained", sharey=True)
    for panel, prompt in zip(axes, PROMPTS, strict=True):
        lines += [f"## Prompt of {prompt:,} tokens", "", "| family | designs | evaluated | lowest loss at 20 ms | design | 90 % of the loss | time to first token | cache and state |",
                  "|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for k, (name, families) in enumerate(PRICED.items()):
            frontier = search(problem(families, prompt), seed=1)
            designs = frontier.candidates
            best = min(designs, key=lambda c: c.loss)
            panel.plot([1e3 * c.values["latency_s"] for c in designs], [c.loss for c in designs], color=COLOURS[k], lw=1.4,
                       drawstyle="steps-post", marker=MARKERS[k], ms=3, markevery=max(1, len(designs) // 14), label=name)  # fmt: skip
            evaluated = frontier.provenance["certificate"].removeprefix("exact: ").split(" evaluated")[0]
            lines.append(
                f"| {name} | {len(designs)} | {evaluated} | {best.loss:.3f} | {arch_text(best.architecture)} | "
                f"{best.intervals['loss'][0]:.3f} to {best.intervals['loss'][1]:.3f} | {1e3 * best.values['ttft_s']:.0f} ms | {best.values['kv_B'] / 1e6:.1f} MB |"
            )
            print(f"prompt {prompt}: {name}: {frontier.provenance['certificate']}; lowest loss {best.loss:.3f}")
            if name == "dense":
                dense = frontier
        lines += ["", "Families without a predicted loss, at the shapes of the dense frontier (medians of time and memory against the dense design):", "",
                  "| family | time per token | time to first token | peak memory | shapes |", "|---|---|---|---|---|"]  # fmt: skip
        for k, (name, mixer) in enumerate(COST_ONLY.items(), start=len(PRICED)):
            costs = np.array(shaped_alike(dense, mixer, prompt))
            own = np.array(
                [(c.values["latency_s"], c.values["ttft_s"], c.values["memory_B"]) for c in dense.candidates]
            )
            ratio = np.nanmedian(costs / own, axis=0)
            panel.plot(1e3 * costs[:, 0], [c.loss for c in dense.candidates], color=COLOURS[k], lw=0.8, ls=":", marker=MARKERS[k], mfc="none",
                       ms=4.5, markevery=max(1, len(costs) // 10), label=f"{name}: loss not predicted, drawn at the dense design's")  # fmt: skip
            lines.append(
                f"| {name} | {ratio[0]:.2f} | {ratio[1]:.2f} | {ratio[2]:.2f} | {int(np.isfinite(costs[:, 0]).sum())} |"
            )
        lines.append("")
        panel.set_title(f"{prompt:,} tokens in, 128 out", fontsize=10)
        panel.set_xlabel("time per generated token, ms")
        panel.set_xlim(0, 22)
        panel.axvline(20, color="#6e7781", ls="--", lw=1)
        panel.grid(alpha=0.25, lw=0.5)
    axes[0].set_ylabel("predicted training loss after 10B tokens, nats per token")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle("Jetson AGX Orin 64 GB, vLLM, fp16: frontier by family, budget 20 ms a token", fontsize=11)
    figure.savefig(OUT / "families_orin.png")
    (OUT / "families_orin.md").write_text("\n".join(lines), encoding="utf-8")
    print(f"written: {OUT / 'families_orin.md'}, families_orin.png")


if __name__ == "__main__":
    main()
