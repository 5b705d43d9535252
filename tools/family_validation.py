"""Predicted against measured latency of every family of mixers, on this machine's CPU or its GPU.

    python tools/family_validation.py --measure results/family_measurements.jsonl.gz   # about 45 minutes on one core; what is missing
    python tools/family_validation.py results/family_measurements.jsonl.gz             # the report, seconds
    python tools/family_validation.py --place h100 --measure results/family_measurements_h100.jsonl.gz    # about 10 minutes on an H100
    python tools/family_validation.py --place h100 results/family_measurements_h100.jsonl.gz
    python tools/family_validation.py --unseen results     # both files: what a calibration on dense layers says of other mixers

Measures 8 architectures of each family with torch, drawn at random from spaces of small models: on the CPU eager, fp32, one
thread; on the GPU fp16, eager and as CUDA graphs. The additive roofline of `codesign calibrate` is fitted once for all families;
its errors are cross-validated with whole shapes left out, and with whole families left out.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from codesign.architecture import Architecture  # noqa: E402
from codesign.campaign.local import run_here  # noqa: E402
from codesign.campaign.plan import candidate_pool  # noqa: E402
from codesign.campaign.run import Campaign, run_campaign  # noqa: E402
from codesign.campaign.setup import phase_priors, points_of  # noqa: E402
from codesign.campaign.target import host_device  # noqa: E402
from codesign.devices import Device, load_device  # noqa: E402
from codesign.measurement import Measurement, machine_name, observe  # noqa: E402
from codesign.operators import Phase  # noqa: E402
from codesign.profilers import Engine, TimingSettings  # noqa: E402
from codesign.profilers.engines import open_engine  # noqa: E402
from codesign.profilers.host import detect_host  # noqa: E402
from codesign.roofline.device_calibration import Predictor, cross_validate  # noqa: E402
from codesign.roofline.device_fit import Array, PassRow, Prior, fit_terms, pass_rows, predict_log  # noqa: E402
from codesign.roofline.residual import fit_hybrid  # noqa: E402
from codesign.search.space import DesignSpace  # noqa: E402
from codesign.store import Store, read_jsonl, to_jsonl  # noqa: E402
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
    "uneven layers": {"mixer": ("taper:4", "taper:8")},
}
EACH = 8
SEED = 3
#: The measured machine's peaks, probed when it was measured: they are the prior, which the measurements overrule.
HOST = Device(
    name="host", title="AMD EPYC (1 thread)", vendor="AMD", generation="x86", family="cpu-x86", kind="cpu",
    peak_flop_per_s={"fp32": 1.27e11}, bandwidth_Bps=3.9e10, memory_B=25e9, sources={"spec": "the measurements", "peak": "probed"},
)  # fmt: skip


#: Short enough for a hundred models in minutes.
SHORT = TimingSettings(min_repeats=3, max_repeats=30, min_time_s=0.05, max_time_s=5.0, max_epochs=2)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where families are measured, and how large the models are there.

    modes: options of torch by the name of the mode; only: the modes that a family is measured in, where not in all; remarks: on
    modes that are no part of the aim.
    """

    device: str
    precision: str
    most_params: float
    workload: Workload
    shapes: Mapping[str, tuple[object, ...]]
    families: Mapping[str, Mapping[str, tuple[object, ...]]] = field(default_factory=dict)
    modes: Mapping[str, Mapping[str, str]]
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: TimingSettings = TimingSettings()
    remarks: Mapping[str, str] = field(default_factory=dict)
    report: str
    title: str
    how: str

    def prior(self) -> Mapping[str, Prior]:
        """What `codesign calibrate` believes before it sees a measurement, by phase."""
        device = HOST if self.device == "host" else load_device(self.device)
        return phase_priors(device, "torch", self.precision)


PLACES = {
    "host": Place(
        device="host", precision="fp32", most_params=60e6, workload=Workload(prompt_tokens=512, output_tokens=128),
        shapes={
            "vocab_size": (32000, 50304), "d_head": (64, 128), "n_kv_heads": (1, 2, 4), "n_layers": (4, 6, 8, 12, 16),
            "d_model": (256, 384, 512, 640, 768, 1024), "ffn_ratio": (2.0, 2.75, 4.0),
        },
        modes={"eager": {"threads": "1"}}, report="families_host.md", title="a host CPU",
        how="fp32, one thread of a shared two-core virtual machine",
    ),
    "h100": Place(
        device="h100_sxm_80gb", precision="fp16", most_params=1.5e9, workload=Workload(prompt_tokens=2048, output_tokens=128),
        shapes={
            "vocab_size": (50304, 128256), "d_head": (64, 128), "n_kv_heads": (1, 2, 4, 8), "n_layers": (8, 12, 16, 24, 32),
            "d_model": (768, 1024, 1536, 2048, 2560), "ffn_ratio": (2.0, 2.75, 4.0),
        },
        families={
            "experts": {"mixer": ("full",), "experts": ((8, 2), (16, 4))}, "window": {"mixer": ("window:512:4", "window:512:6")},
            "latent attention": {"mixer": ("mla:256", "mla:512")},
        },
        modes={"CUDA graph": {"provider": "cuda", "graph": "true"}, "eager": {"provider": "cuda"}}, only={"experts": ("eager",)},
        settings=SHORT,
        remarks={"eager": "No part of the aim: here Python and the launches of kernels take the time, on a shared machine's CPU that does not "
                          "repeat, and each pass was visited once. Mixtures run eagerly only: the host reads which experts torch routes to."},
        report="families_h100.md", title="an NVIDIA H100", how="fp16, NVIDIA H100 80GB HBM3",
    ),
}  # fmt: skip


def space(place: Place, family: str) -> DesignSpace:
    """Shapes of a place with the axes of a family."""
    axes = {**FAMILIES[family], **place.families.get(family, {})}
    return DesignSpace(axes={"precision": (place.precision,), "experts": ((0, 0),), **place.shapes, **axes})


def architectures(place: Place) -> dict[str, list[Architecture]]:
    """Those that are measured, by family."""
    found = {}
    for i, name in enumerate(FAMILIES):
        rng, points = np.random.default_rng([SEED, i]), points_of(place.workload)
        pool = candidate_pool(space(place, name), place.precision, points, memory_B=8e9, max_params=place.most_params, rng=rng)  # fmt: skip
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
        ("window", arch.n_window_layers), ("experts", arch.n_experts), ("uneven layers", arch.is_uneven),
    ):  # fmt: skip
        if has:
            return name
    return "dense"


@contextmanager
def kept_in(target: Path) -> Iterator[Store]:
    """A store that begins with the file's records, so that a stopped or widened campaign goes on, and ends as the file."""
    with Store(str(target.with_name(target.name.removesuffix(".jsonl.gz") + ".sqlite"))) as records:
        if target.exists():
            records.add_all(records_of(target))
        try:
            yield records
        finally:
            target.write_bytes(
                gzip.compress("".join(f"{line}\n" for line in to_jsonl(records.find())).encode(), mtime=0)
            )
            print(f"written: {target}")


def run(campaign: Campaign, records: Store, engine: Engine, priors: Mapping[Phase, Prior]) -> None:
    """Run a campaign here and say how far it is and what failed."""
    outcome = run_campaign(campaign, records, run_here(engine), priors=priors,
                           on_progress=lambda p: print(f"{p.done:.0f} of {p.total:.0f}: {p.label}", flush=True))  # fmt: skip
    for arch, why in outcome.failed:
        print(f"failed: {family_of(arch)} {arch.n_layers} x {arch.d_model}: {why}")


def measure(place: Place, target: Path, visits: int, modes: Sequence[str]) -> None:
    by_family, cpu = architectures(place), place.device == "host"
    with kept_in(target) as records:
        for mode in modes:
            groups = [archs for name, archs in by_family.items() if mode in place.only.get(name, place.modes)]
            turns = [
                group[i] for i in range(EACH) for group in groups if i < len(group)
            ]  # families in turn, against drift
            engine = open_engine("torch", place.modes[mode])
            campaign = Campaign(
                name="families" if cpu else f"families, {mode}", architectures=turns, precision=place.precision, engine="torch",
                engine_options=dict(engine.options), engine_version=engine.version, device=place.device,
                machine=machine_name(detect_host().summary()) if cpu else "", points=points_of(place.workload), visits=visits,
                settings=place.settings, energy=False,
            )  # fmt: skip
            run(campaign, records, engine, phase_priors(host_device(1), "torch", "fp32") if cpu else place.prior())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--unseen", action="store_true", help="FILE is the folder of both places' measurements")
    parser.add_argument("--place", choices=sorted(PLACES), default="host")
    parser.add_argument("--visits", type=int, default=3)
    parser.add_argument("--modes", help="with --measure: only these, separated by commas")
    options = parser.parse_args()
    place = PLACES[options.place]
    if options.unseen:
        unseen(options.file)
        return
    if options.measure:
        measure(place, options.file, options.visits, options.modes.split(",") if options.modes else tuple(place.modes))
        return
    report(place, options.file)


def records_of(path: Path) -> list[Measurement]:
    """The file's records."""
    return list(read_jsonl(gzip.decompress(path.read_bytes()).decode().splitlines(), str(path)))


def rows_of(path: Path, mode: str = "eager") -> dict[str, list[PassRow]]:
    """Rows by phase, from the file's records of a mode."""
    records = [m for m in records_of(path) if (m.options.get("graph") == "true") == (mode == "CUDA graph")]
    observations = observe(records)
    return {phase: pass_rows(observations, phase) for phase in ("prefill", "decode")}  # type: ignore[arg-type]


def additive(prior: Prior) -> Callable[[Sequence[PassRow]], Predictor]:
    """The additive roofline alone."""

    def fit(rows: Sequence[PassRow]) -> Predictor:
        seconds_per, _ = fit_terms(rows, prior)
        return lambda others: predict_log(others, seconds_per)

    return fit


def hybrid(prior: Prior) -> Callable[[Sequence[PassRow]], Predictor]:
    """With the Gaussian process on its residual."""

    def fit(rows: Sequence[PassRow]) -> Predictor:
        seconds_per, _, residual = fit_hybrid(rows, prior)
        return lambda others: predict_log(others, seconds_per, residual)

    return fit


def mape(errors: Array) -> float:
    return float(100 * np.mean(np.abs(np.expm1(errors))))


def report(place: Place, path: Path) -> None:
    version = records_of(path)[0].engine_version.split("+")[0]
    prompt = points_of(place.workload)
    lines = [
        f"# Families on {place.title}: predicted against measured", "",
        f"Made by `python tools/family_validation.py {'' if place.device == 'host' else '--place h100 '}results/{path.name}`; measured by the same "
        "tool with `--measure`.", "",
        f"torch {version}, {place.how}: prompts of {prompt[0].tokens} and {prompt[1].tokens} tokens, decode at contexts of "
        f"{prompt[2].context_tokens} and {prompt[3].context_tokens}. One additive roofline for all families is fitted and cross-validated with whole shapes left out (10 folds); the last column leaves "
        "the whole family out, so that terms which only it has stay at their prior.", "",
        "Aim: at most 12 % a family.", "",
    ]  # fmt: skip
    worst: dict[str, float] = {}
    body: list[str] = []
    for mode in place.modes:
        several = f"{mode}, " if len(place.modes) > 1 else ""
        for phase, rows in rows_of(path, mode).items():
            text, by_family = section(rows, place.prior()[phase], f"{several}{phase}")  # type: ignore[index]
            body += text
            if mode not in place.remarks:
                worst |= {f"{several}{phase}, {family}": value for family, value in by_family.items()}
        body += [place.remarks[mode], ""] if mode in place.remarks else []
    over = {name: value for name, value in worst.items() if value > 12}
    text = f"**{len(worst) - len(over)} of {len(worst)} within 12 %**" + (
        ": over it " + ", ".join(f"{k} {v:.1f} %" for k, v in over.items()) if over else "."
    )
    out_file = path.with_name(place.report)
    out_file.write_text("\n".join([*lines, text, "", *body]), encoding="utf-8")
    for name, value in worst.items():
        print(f"  {name}: {value:.1f} %")
    print(f"{text}\nwritten: {out_file}")


#: Families that a calibration on attention and dense FFNs has measured, and the kinds of layers that it has not.
MEASURED = ("dense", "window", "uneven layers")
KINDS = {
    "experts": ("experts",), "latent attention": ("latent attention",), "Mamba-2": ("Mamba-2 hybrid", "Mamba-2 alone"),
    "gated delta": ("gated delta hybrid",), "mLSTM": ("mLSTM hybrid", "mLSTM alone"), "short convolution": ("short convolution hybrid",),
}  # fmt: skip


def unseen(folder: Path) -> None:
    """Errors where an additive roofline of dense layers alone meets other kinds: `codesign.roofline.rates.UNSEEN_KIND_LOG`."""
    lines = ["# Kinds of layers that a calibration never saw", "",
             "Made by `python tools/family_validation.py --unseen results`: the additive roofline is fitted to dense models, windows and uneven layers, "
             "and predicts the others; what it lacks stands at its prior. Errors as a factor: 90 % of the passes lie within it.", "",
             "| kind | " + " | ".join(f"{place.title}, {phase}" for place in PLACES.values() for phase in ("prefill", "decode")) + " |",
             "|---|---|---|---|---|"]  # fmt: skip
    found: dict[tuple[str, str, str], Array] = {}
    for name, place in PLACES.items():
        path = folder / ("family_measurements.jsonl.gz" if name == "host" else f"family_measurements_{name}.jsonl.gz")
        for phase, rows in rows_of(path, next(iter(place.modes))).items():
            families = [family_of(row.arch) for row in rows]
            predict = additive(place.prior()[phase])([r for r, f in zip(rows, families, strict=True) if f in MEASURED])  # type: ignore[index]
            for kind, names in KINDS.items():
                held = [r for r, f in zip(rows, families, strict=True) if f in names]
                if held:
                    found[kind, name, phase] = np.abs(predict(held) - np.log([r.seconds for r in held]))
    for kind in KINDS:
        cells = [found.get((kind, name, phase)) for name in PLACES for phase in ("prefill", "decode")]
        lines.append(
            f"| {kind} | "
            + " | ".join("–" if e is None else f"{np.exp(np.quantile(e, 0.9)):.2f}" for e in cells)
            + " |"
        )
    every = np.concatenate(list(found.values()))
    lines += ["", f"**All {len(every)} passes: 90 % within a factor {np.exp(np.quantile(every, 0.9)):.2f}** (80 %: {np.exp(np.quantile(every, 0.8)):.2f}). "
              "Designs with marks X and M get at least this interval.", ""]  # fmt: skip
    (folder / "families_unseen.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def section(rows: Sequence[PassRow], prior: Prior, title: str) -> tuple[list[str], dict[str, float]]:
    """Lines on one phase in one mode, and the error of each family with whole shapes left out."""
    families = [family_of(row.arch) for row in rows]
    fits = {"additive": additive(prior), "hybrid": hybrid(prior)}
    errors = {name: cross_validate(rows, fit) for name, fit in fits.items()}
    chosen = min(errors, key=lambda name: mape(errors[name]))
    twice = sum(np.isfinite(r.again_log) for r in rows)
    lines = [f"## {title}: {mape(errors[chosen]):.1f} % over all ({chosen} roofline)", "",
             f"{len({r.group for r in rows})} architectures, {len(rows)} passes, {twice} of them visited twice or more, minutes apart.", "",
             "| family | passes | times, ms | additive | with residual | 90th percentile | repeats | family left out |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    found: dict[str, float] = {}
    for family in FAMILIES:
        inside = np.array([f == family for f in families])
        if not inside.any():
            continue
        held = [r for r, keep in zip(rows, inside, strict=True) if keep]
        predict = fits["additive"]([r for r, keep in zip(rows, inside, strict=True) if not keep])
        out = predict(held) - np.log([r.seconds for r in held])
        again = [r.again_log for r in held if np.isfinite(r.again_log)]
        best, times = errors[chosen][inside], [1e3 * r.seconds for r in held]
        found[family] = mape(best)
        repeats = f"{100 * np.expm1(np.median(again)):.1f} %" if again else "–"
        lines.append(
            f"| {family} | {int(inside.sum())} | {min(times):.1f} to {max(times):.0f} | {mape(errors['additive'][inside]):.1f} % | {mape(errors['hybrid'][inside]):.1f} % | "
            f"{100 * np.expm1(np.quantile(np.abs(best), 0.9)):.0f} % | {repeats} | {mape(out):.0f} % |"
        )
    seconds_per, _ = fit_terms(rows, prior)
    used = [f"{term} {value:.2e} s" for term, value in seconds_per.items() if any(term in r.terms for r in rows)]
    print(f"{title}: {mape(errors['additive']):.1f} % additive, {mape(errors['hybrid']):.1f} % with the residual")
    return [*lines, "", f"Coefficients: {', '.join(used)}.", ""], found


if __name__ == "__main__":
    main()
