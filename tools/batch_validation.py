"""Batches and lengths that a calibration never saw: what one of single requests says of them, on this machine's CPU.

    python tools/batch_validation.py --measure results/batch_measurements.jsonl.gz   # about six minutes on one core
    python tools/batch_validation.py results/batch_measurements.jsonl.gz             # the report, seconds

Measures small dense models at batch 1 and, beyond it, at batches of 4 and 16 and at four times the length. The additive roofline of
`codesign calibrate` is fitted to the passes of batch 1 and predicts the others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from family_validation import HOST, PLACES, SHORT, additive, architectures, kept_in, records_of, run  # noqa: E402

from codesign.campaign.run import Campaign  # noqa: E402
from codesign.campaign.setup import phase_priors  # noqa: E402
from codesign.measurement import Measurement, machine_name, observe  # noqa: E402
from codesign.profilers import Point  # noqa: E402
from codesign.profilers.engines import open_engine  # noqa: E402
from codesign.profilers.host import detect_host  # noqa: E402
from codesign.roofline.device_fit import Array, pass_rows  # noqa: E402

ENGINES = ("onnxruntime", "torch")
MEASURED = (Point.prefill(128), Point.prefill(512), Point.decode(128), Point.decode(575))
#: What the calibration does not see, by name.
OTHERS = {
    "batch 4": (Point.prefill(128, 4), Point.decode(575, 4)),
    "batch 16": (Point.prefill(128, 16), Point.decode(575, 16)),
    "four times as long": (Point.prefill(2048), Point.decode(2300)),
}


def measure(target: Path, visits: int) -> None:
    """A stopped run goes on."""
    points = (*MEASURED, *(point for more in OTHERS.values() for point in more))
    with kept_in(target) as records:
        for name in ENGINES:
            engine = open_engine(name, {"threads": "1"})
            campaign = Campaign(
                name=f"batches, {name}", architectures=architectures(PLACES["host"])["dense"], precision="fp32", engine=name,
                engine_options=dict(engine.options), engine_version=engine.version, device="host",
                machine=machine_name(detect_host().summary()), points=points, visits=visits, settings=SHORT, energy=False,
            )  # fmt: skip
            run(campaign, records, engine, phase_priors(HOST, name, "fp32"))


def report(path: Path) -> None:
    """Errors of each kind of pass, as factors: `codesign.roofline.rates.UNSEEN_PASS_LOG`."""
    records = records_of(path)
    lines = ["# Batches and lengths that a calibration never saw", "",
             f"Made by `python tools/batch_validation.py results/{path.name}`; measured by the same tool with `--measure`. "
             f"{len({m.architecture for m in records})} dense models of 13M to 60M parameters, fp32, one thread of a shared two-core virtual machine. "
             "The additive roofline is fitted to single requests (prompts of 128 and 512 tokens, decode at contexts of 128 and 575) and predicts the others. "
             "Predicted over measured, the median and the factor that 90 % of the passes lie within.", "",
             "| engine | phase | passes | median of predicted / measured | 90 % within |", "|---|---|---|---|---|"]  # fmt: skip
    every: dict[str, list[Array]] = {"prefill": [], "decode": []}
    for engine in ENGINES:
        for phase in ("prefill", "decode"):
            rows = {
                kind: pass_rows(observe([m for m in records if m.engine == engine and _kind(m) == kind]), phase)  # type: ignore[arg-type]
                for kind in ("", *OTHERS)
            }
            predict = additive(phase_priors(HOST, engine, "fp32")[phase])(rows[""])  # type: ignore[index]
            for kind, held in rows.items():
                error = predict(held) - np.log([row.seconds for row in held])
                if kind:
                    every[phase].append(np.abs(error))
                lines.append(
                    f"| {engine} | {phase}, {kind or 'as fitted'} | {len(held)} | {np.exp(np.median(error)):.2f} | {np.exp(np.quantile(np.abs(error), 0.9)):.2f} |"
                )
    pooled = {phase: np.concatenate(errors) for phase, errors in every.items()}
    told = ", ".join(f"{phase} within a factor {np.exp(np.quantile(e, 0.9)):.2f}" for phase, e in pooled.items())
    lines += ["", f"**All {sum(e.size for e in pooled.values())} passes of other batches and lengths, 90 %: {told}.** Passes of a batch or length that a device's "
              "calibration did not measure get at least this interval. None was measured on a GPU.", ""]  # fmt: skip
    path.with_name("batches_unseen.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def _kind(m: Measurement) -> str:
    """Name in `OTHERS`; empty: a pass that the calibration sees."""
    point = Point(phase=m.phase, batch_size=m.batch_size, tokens=m.tokens, context_tokens=m.context_tokens)
    return next((name for name, points in OTHERS.items() if point in points), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--visits", type=int, default=1)
    options = parser.parse_args()
    if options.measure:
        measure(options.file, options.visits)
    report(options.file)


if __name__ == "__main__":
    main()
