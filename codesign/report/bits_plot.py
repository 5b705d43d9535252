"""Picture of a study of bits: what each part loses at each width, and the policies beside equal bits."""

from __future__ import annotations

from pathlib import Path

from codesign.campaign.bits import BitsStudy

__all__ = ["plot_bits"]

_Z90 = 1.645
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
#: The least that is drawn on the logarithmic axes.
_LEAST = 1e-6


def plot_bits(study: BitsStudy, path: Path, name: str) -> None:
    """Left: added loss by part (rows) and bits (columns), a colour for each power of ten. Right: added loss, measured on other text,
    with its 90 % interval, against stored bits of a weight read per token; written as PNG. What lies within its own 90 % interval of 0 is
    noise, and drawn grey on the left."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    bits = [b for b in study.settings.bits if b < 16]
    table = np.array([[study.loss[part.name][b] for b in bits] for part in study.parts])
    noise = np.array([[_Z90 * study.error[part.name][b] for b in bits] for part in study.parts])
    told = np.ma.masked_where(table <= np.maximum(noise, _LEAST), table)
    height = max(4.8, 0.22 * len(study.parts) + 1.5)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, height), dpi=120, layout="constrained", width_ratios=(2, 3))
    low, high = (float(told.min()), float(told.max())) if told.count() else (_LEAST, 10 * _LEAST)
    left.set_facecolor("#d0d7de")
    image = left.imshow(told, norm=LogNorm(low, max(high, 1.01 * low)), cmap="cividis", aspect="auto")
    left.set_xticks(range(len(bits)), [str(b) for b in bits])
    left.set_yticks(
        range(len(study.parts)),
        [part.name.replace("sublayers.", "").replace("layers.", "") for part in study.parts],
        fontsize=8,
    )
    left.set_xlabel("bits of this part alone")
    left.set_title("what rounding one part adds to the loss (grey: within noise)", fontsize=10)
    figure.colorbar(image, ax=left, label="nats per token")
    own = sorted((p for p in study.policies if p.uniform is None), key=lambda p: p.mean_bits)
    alike = sorted((p for p in study.policies if p.uniform is not None), key=lambda p: p.mean_bits)
    for some, colour, marker, label in (
        (alike, _GREY, "s", "the same bits for all parts, measured"),
        (own, _BLUE, "o", "bits by sensitivity, measured"),
    ):
        half = [_Z90 * p.measured_error for p in some]
        y = [max(p.measured, _LEAST) for p in some]
        down = [min(h, v * 0.999) for h, v in zip(half, y, strict=True)]  # a bar of a logarithmic axis ends above 0
        right.errorbar(
            [p.mean_bits for p in some],
            y,
            yerr=[down, half],
            capsize=2,
            elinewidth=0.8,
            marker=marker,
            ms=5,
            lw=1.2,
            color=colour,
            label=label,
        )
    right.plot(
        [p.mean_bits for p in own],
        [max(p.added, _LEAST) for p in own],
        ls=":",
        lw=1.5,
        color=_ORANGE,
        label="bits by sensitivity, as the sum says",
    )
    right.set_yscale("log")
    right.set_xlabel("stored bits of a weight that a token reads, scales included")
    right.set_ylabel("loss added, nats per token, 90 % interval")
    shown = [p.measured for p in study.policies if p.measured > 0]
    noises = [_Z90 * p.measured_error for p in study.policies if p.measured_error > 0]
    if shown:
        right.set_ylim(0.5 * min([*(v for v in shown if v > _LEAST), *noises]), 1.5 * max(shown))
    right.grid(alpha=0.25, lw=0.5, which="both")
    right.legend(frameon=False, fontsize=8)
    right.set_title(f"{name}: whole policies on other held-out text", fontsize=10)
    figure.savefig(path)
    plt.close(figure)
