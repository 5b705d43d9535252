"""From observations of one device to its calibration, with cross-validated errors and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial

import numpy as np

from codesign.architecture import mixer_kind
from codesign.devices import DeviceFit, PhaseTerms, ResidualFit
from codesign.errors import SpecError
from codesign.measurement import FLAGS, Observation
from codesign.operators import Phase
from codesign.roofline.device_fit import Array, PassRow, Prior, fit_terms, pass_rows, predict_log
from codesign.roofline.residual import fit_hybrid

__all__ = ["PhaseReport", "calibrate_device", "calibrate_phase", "conformal_log", "cross_validate", "largest_out"]

FOLDS = 10
FEW = 8  # architectures below which no error can be cross-validated with any meaning
FEW_SHAPES = 5
_UNKNOWN_LOG = 0.5  # interval where cross-validation is impossible: times or divided by 1.65
NOISY = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReport:
    """What a calibration of one phase found: its terms and, in words, what speaks against trusting it."""

    terms: PhaseTerms
    warnings: tuple[str, ...]


def conformal_log(errors_log: Array, level: float = 0.9) -> float:
    """Half-width that held-out errors stay within: the ceil((n + 1) level)-th smallest |error| (Vovk et al.; the largest
    where n is too small for the level).
    """
    n = len(errors_log)
    rank = min(math.ceil((n + 1) * level), n)
    return float(np.sort(np.abs(errors_log))[rank - 1])


def _mape(errors_log: Array) -> float:
    """Mean of |predicted / measured - 1| in percent; errors_log = ln(predicted / measured)."""
    return float(100 * np.mean(np.abs(np.expm1(errors_log))))


Predictor = Callable[[Sequence[PassRow]], Array]


def _terms(rows: Sequence[PassRow], prior: Prior, hybrid: bool) -> tuple[dict[str, float], ResidualFit | None]:
    if not hybrid:
        return fit_terms(rows, prior)[0], None
    seconds_per, _, residual = fit_hybrid(rows, prior)
    return seconds_per, residual


def _fit(rows: Sequence[PassRow], prior: Prior, hybrid: bool) -> Predictor:
    seconds_per, residual = _terms(rows, prior, hybrid)
    return lambda others: predict_log(others, seconds_per, residual)


def cross_validate(rows: Sequence[PassRow], fit: Callable[[Sequence[PassRow]], Predictor], seed: int = 0) -> Array:
    """ln(predicted / measured) of every row, its shape left out at all depths: grouped folds, in the rows' order."""
    groups = sorted({row.shape for row in rows})
    order = np.random.default_rng(seed).permutation(len(groups))
    fold_of = {groups[g]: int(k) % FOLDS for k, g in enumerate(order)}
    errors = np.zeros(len(rows))
    for fold in range(min(FOLDS, len(groups))):
        inside = [i for i, row in enumerate(rows) if fold_of[row.shape] == fold]
        predict = fit([row for row in rows if fold_of[row.shape] != fold])
        held = [rows[i] for i in inside]
        errors[inside] = predict(held) - np.log([row.seconds for row in held])
    return errors


def largest_out(rows: Sequence[PassRow], fit: Callable[[Sequence[PassRow]], Predictor], share: float = 1 / 3) -> Array:
    """ln(predicted / measured) of the largest `share` of the architectures, fitted on the smaller ones only."""
    sizes: dict[str, float] = {}
    for row in rows:
        sizes[row.shape] = max(sizes.get(row.shape, 0.0), row.params_active)
    ordered = sorted(sizes, key=sizes.__getitem__)
    large = set(ordered[len(ordered) - max(1, round(share * len(ordered))) :])
    held = [row for row in rows if row.shape in large]
    predict = fit([row for row in rows if row.shape not in large])
    return predict(held) - np.log([row.seconds for row in held])


def calibrate_phase(rows: Sequence[PassRow], prior: Prior, guess_log: float = _UNKNOWN_LOG) -> PhaseReport:
    """Fit one phase. The residual's correction is kept only where it lowers the cross-validated error and does not raise
    the error on the largest models. `guess_log`: interval where too few architectures were measured to cross-validate.

    Raises:
        SpecError: no rows.
    """
    if not rows:
        raise SpecError("no measurements of this phase")
    architectures, shapes = len({row.group for row in rows}), len({row.shape for row in rows})
    warnings = []
    again = [row.again_log for row in rows if math.isfinite(row.again_log)]
    if not again:
        warnings.append("each pass was visited once: how well the times repeat is unknown; profile again to see")
    elif float(np.median(again)) > NOISY:
        warnings.append(
            f"noisy: a second visit differs by {100 * math.expm1(float(np.median(again))):.0f} % (median); quiet the machine, "
            "fix its clocks, or give more --visits"
        )
    for flag in ("throttled", "unsteady"):
        if marked := sum(flag in row.flags for row in rows):
            warnings.append(f"{marked} of {len(rows)} passes have no visit without the mark '{flag}' ({FLAGS[flag]})")
    held: dict[str, float] = {}
    hybrid, interval, beyond = False, guess_log, 2 * guess_log
    if architectures < FEW or shapes < FEW_SHAPES:
        warnings.append(
            f"little: {architectures} architectures of {shapes} shapes; the error cannot be cross-validated below {FEW} of {FEW_SHAPES}, and the interval "
            f"(times or divided by {math.exp(guess_log):.2f}) is a guess: profile more"
        )
    else:
        fits = {k: partial(_fit, prior=prior, hybrid=k) for k in (False, True)}
        errors = {k: cross_validate(rows, fit) for k, fit in fits.items()}
        outside = {k: largest_out(rows, fit) for k, fit in fits.items()}
        hybrid = _mape(errors[True]) < _mape(errors[False]) and _mape(outside[True]) <= 1.02 * _mape(outside[False])
        interval = conformal_log(errors[hybrid])
        beyond = max(interval, conformal_log(outside[hybrid]))
        held = {
            "roofline_mape_pct": _mape(errors[False]), "hybrid_mape_pct": _mape(errors[True]),
            "roofline_largest_out_mape_pct": _mape(outside[False]), "hybrid_largest_out_mape_pct": _mape(outside[True]),
        }  # fmt: skip
    seconds_per, residual = _terms(rows, prior, hybrid)
    sizes = [row.params_active for row in rows]
    lengths = [row.features[-1] for row in rows]
    terms = PhaseTerms(
        seconds_per=seconds_per,  # terms that no row has stand at their prior
        residual=residual,
        interval_log=interval,
        interval_beyond_log=beyond,
        span_params=(min(sizes), max(sizes)),
        span_tokens=(min(lengths), max(lengths)),
        batches=tuple(sorted({row.workload.batch_size for row in rows})),
        mixtures=any(row.arch.n_experts for row in rows),
        mixers=tuple(sorted({mixer_kind(row.arch) for row in rows})),
        n_rows=len(rows),
        n_architectures=architectures,
        held_out={name: round(value, 3) for name, value in held.items()},
    )
    return PhaseReport(terms=terms, warnings=tuple(warnings))


def calibrate_device(
    observations: Sequence[Observation],
    priors: Mapping[Phase, Prior],
    *,
    source: str,
    machine: str = "",
    guess_log: float = _UNKNOWN_LOG,
) -> tuple[DeviceFit, dict[str, PhaseReport]]:
    """The calibration of one engine, precision, options and power mode.

    Args:
        observations: all of one device, engine, precision, options and power mode.
        priors: by phase. source, machine: written into the result. guess_log: see `calibrate_phase`.

    Raises:
        SpecError: nothing to fit, or observations that do not belong together.
    """
    if not observations:
        raise SpecError("no measurements to calibrate on; run codesign profile first, or give --from FILE")
    firsts = [o.first for o in observations]
    cells = {(m.device, m.power_mode, m.engine, m.precision, repr(sorted(m.options.items())), m.clock) for m in firsts}
    if len(cells) > 1:
        raise SpecError(
            f"the measurements mix {len(cells)} combinations of device, mode, engine, precision and options"
        )
    reports: dict[str, PhaseReport] = {}
    phases: tuple[Phase, ...] = ("prefill", "decode")
    for phase in phases:
        rows = pass_rows(observations, phase)
        if rows:
            reports[phase] = calibrate_phase(rows, priors[phase], guess_log)
    if not reports:
        raise SpecError("no measurement can be used: all are prefills on a filled cache")
    first = firsts[0]
    versions = sorted({m.engine_version for m in firsts})
    fit = DeviceFit(
        engine=first.engine,
        engine_version=", ".join(versions),
        precision=first.precision,
        options=dict(first.options),
        power_mode=first.power_mode,
        machine=machine,
        fitted_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        source=source,
        prefill=reports["prefill"].terms if "prefill" in reports else None,
        decode=reports["decode"].terms if "decode" in reports else None,
    )
    return fit, reports
