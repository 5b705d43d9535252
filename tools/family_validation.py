"""Predicted against measured latency of every family of mixers, on this machine's CPU.

    python tools/family_validation.py --measure results/family_measurements.jsonl.gz   # about 40 minutes on one core
    python tools/family_validation.py results/family_measurements.jsonl.gz             # the report, seconds

Measures 8 architectures of each family with torch (eager, fp32, one thread), drawn at random from spaces of small
models. The additive roofline of `codesign calibrate` is fitted once for all families; its errors are cross-validated with whole
shapes left out, and with whole families left out.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from codesign.architecture import Architecture  # noqa: E402
from codesign.campaign.local import run_here  # noqa: E402
from codesign.campaign.plan import candidate_pool  # noqa: E402
from codesign.campaign.run import Campaign, run_campaign  # noqa: E402
from codesign.campaign.setup import phase_priors, points_of  # noqa: E402
from codesign.campaign.target import host_device  # noqa: E402
from codesign.measurement import machine_name  # noqa: E402
from codesign.profilers.engines import open_engine  # noqa: E402
from codesign.profilers.host import detect_host  # noqa: E402
from codesign.search.space import DesignSpace  # noqa: E402
from codesign.store import Store, to_jsonl  # noqa: E402
from codesign.workload import Workload  # noqa: E402

FAMILIES: dict[str, dict[str, tuple[object, ...]]] = {
    "dense": {"mixer": ("full",)},
    "experts": {"mixer": ("full",), "experts": ((4, 1), (8, 2))},
    "window": {"mixer": ("window:128:4", "window:128:6")},
    "latent attention": {"mixer": ("mla:64", "mla:128")},
    "shared keys and values": {"mixer": ("shared:2", "shared:4")},
    "looped": {"mixer": ("loop:2", "loop:3")},
    "Mamba-2 hybrid": {"mixer": ("mamba2:4", "mamba2:8")},
    "Mamba-2 alone": {"mixer": ("mamba2:0",)},
    "gated delta hybrid": {"mixer": ("gdn:4",)},
    "mLSTM hybrid": {"mixer": ("mlstm:4",)},
    "mLSTM alone": {"mixer": ("mlstm:0",)},
    "short convolution hybrid": {"mixer": ("conv:3",)},
}
EACH = 8
MOST_PARAMS = 60e6
WORKLOAD = Workload(prompt_tokens=512, output_tokens=128)
SEED = 3


def space(axes: dict[str, tuple[object, ...]]) -> DesignSpace:
    """Small models: 2 to 16 layers, 256 to 1024 wide."""
    return DesignSpace(
        axes={
            "precision": ("fp32",), "vocab_size": (32000, 50304), "experts": ((0, 0),), "d_head": (64, 128),
            "n_kv_heads": (1, 2, 4), "n_layers": (4, 6, 8, 12, 16), "d_model": (256, 384, 512, 640, 768, 1024),
            "ffn_ratio": (2.0, 2.75, 4.0), **axes,
        }
    )  # fmt: skip


def architectures() -> dict[str, list[Architecture]]:
    """Those that are measured, by family."""
    found = {}
    for i, (name, axes) in enumerate(FAMILIES.items()):
        rng = np.random.default_rng([SEED, i])
        pool = candidate_pool(space(axes), "fp32", points_of(WORKLOAD), memory_B=8e9, max_params=MOST_PARAMS, rng=rng)
        found[name] = [pool[int(k)] for k in rng.permutation(len(pool))[:EACH]]
    return found


def family_of(arch: Architecture) -> str:
    """The family that a measured architecture belongs to."""
    alone = arch.n_recurrent_layers == arch.n_layers
    if arch.recurrence != "none":
        kind = {"mamba2": "Mamba-2", "gdn": "gated delta", "mlstm": "mLSTM", "conv": "short convolution"}[
            arch.recurrence
        ]
        return f"{kind} {'alone' if alone else 'hybrid'}"
    for name, has in (
        ("latent attention", arch.kv_rank), ("shared keys and values", arch.n_kv_shared_layers), ("looped", arch.n_looped_layers),
        ("window", arch.n_window_layers), ("experts", arch.n_experts),
    ):  # fmt: skip
        if has:
            return name
    return "dense"


def measure(target: Path, visits: int) -> None:
    groups = list(architectures().values())
    turns = [group[i] for i in range(EACH) for group in groups if i < len(group)]  # families in turn, against drift
    engine = open_engine("torch", {"threads": "1"})
    device = host_device(1)
    campaign = Campaign(
        name="families", architectures=turns, precision="fp32", engine="torch", engine_options=dict(engine.options),
        engine_version=engine.version, device="host", machine=machine_name(detect_host().summary()), points=points_of(WORKLOAD),
        visits=visits,
    )  # fmt: skip
    with Store(
        str(target.with_name(target.name.removesuffix(".jsonl.gz") + ".sqlite"))
    ) as records:  # a stopped campaign goes on
        outcome = run_campaign(campaign, records, run_here(engine), priors=phase_priors(device, "torch", "fp32"),
                               on_progress=lambda p: print(f"{p.done:.0f} of {p.total:.0f}: {p.label}", flush=True))  # fmt: skip
        target.write_bytes(gzip.compress("".join(f"{line}\n" for line in to_jsonl(records.find())).encode(), mtime=0))
    for arch, why in outcome.failed:
        print(f"failed: {family_of(arch)} {arch.n_layers} x {arch.d_model}: {why}")
    print(f"written: {target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--visits", type=int, default=3)
    options = parser.parse_args()
    if options.measure:
        measure(options.file, options.visits)
        return
    report(options.file)


def report(path: Path) -> None:
    raise SystemExit("not yet")


if __name__ == "__main__":
    main()
