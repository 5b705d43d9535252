"""Picture of a study of bits: what each part loses at each width, and the policies beside equal bits."""

from __future__ import annotations

from pathlib import Path

from codesign.campaign.bits import BitsStudy

__all__ = ["plot_bits"]

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
#: Losses below this are shown alike: they are noise of the held-out text.
_FLOOR = 1e-5


def plot_bits(study: BitsStudy, path: Path, name: str) -> None:
    """Left: added loss by part (rows) and bits (columns), a colour for each power of ten. Right: added loss, measured on other text,
    against stored bits of a weight read per token; written as PNG."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    bits = [b for b in study.settings.bits if b < 16]
    table = np.array([[max(study.loss[part.name][b], _FLOOR) for b in bits] for part in study.parts])
    height = max(4.8, 0.22 * len(study.parts) + 1.5)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, height), dpi=120, layout="constrained", width_ratios=(2, 3))
    image = left.imshow(table, norm=LogNorm(_FLOOR, max(table.max(), 10 * _FLOOR)), cmap="cividis", aspect="auto")
    left.set_xticks(range(len(bits)), [str(b) for b in bits])
    left.set_yticks(
        range(len(study.parts)),
        [part.name.replace("sublayers.", "").replace("layers.", "") for part in study.parts],
        fontsize=8,
    )
    left.set_xlabel("bits of this part alone")
    left.set_title("what rounding one part adds to the loss", fontsize=10)
    figure.colorbar(image, ax=left, label="nats per token")
    own = sorted((p for p in study.policies if p.uniform is None), key=lambda p: p.mean_bits)
    alike = sorted((p for p in study.policies if p.uniform is not None), key=lambda p: p.mean_bits)
    for some, colour, marker, label in (
        (alike, _GREY, "s", "the same bits for all parts, measured"),
        (own, _BLUE, "o", "bits by sensitivity, measured"),
    ):
        right.plot(
            [p.mean_bits for p in some],
            [max(p.measured, _FLOOR) for p in some],
            marker=marker,
            ms=5,
            lw=1.2,
            color=colour,
            label=label,
        )
    right.plot(
        [p.mean_bits for p in own],
        [max(p.added, _FLOOR) for p in own],
        ls=":",
        lw=1.5,
        color=_ORANGE,
        label="bits by sensitivity, as the sum says",
    )
    right.set_yscale("log")
    right.set_xlabel("stored bits of a weight that a token reads, scales included")
    right.set_ylabel(f"loss added, nats per token (below {_FLOOR:g}: noise)")
    right.grid(alpha=0.25, lw=0.5, which="both")
    right.legend(frameon=False, fontsize=8)
    right.set_title(f"{name}: whole policies on other held-out text", fontsize=10)
    figure.savefig(path)
    plt.close(figure)
