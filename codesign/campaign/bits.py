"""Bits by sensitivity: what rounding each part of a trained model costs, which bits follow from it, and whether that holds.

Each (part, bits) is one evaluation of the held-out text; losses are taken to add up over the parts, and the bits that are best
under that (`codesign.search.bits.allocate`) are then measured as a whole, on other text, beside the same bits for all parts.
Every measurement is a line of a JSON Lines file, so that a study that was cut goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codesign.errors import MissingExtraError, SchemaError, SpecError
from codesign.search.bits import BitsCurve, allocate, monotone

try:
    from codesign.training.quantise import HEAD, Part, parts_of, window_losses, with_bits
    from codesign.training.trained import Tokens, Trained
except ImportError as error:
    raise MissingExtraError.of(error.name or "torch", "train", "measuring what bits cost") from error

__all__ = ["BitsSettings", "BitsStudy", "Policy", "study_bits"]

_SCHEMA, _VERSION = "codesign.bits", 2
_LEAST_GROUP = 8
_DIGITS = 6  # of the losses in the file, nats: far below their noise


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsSettings:
    """What is tried.

    Args:
        bits: of 2 to 8, and 16 (as it is), ascending. group: weights that share a scale. tokens: of held-out text for the parts, and
            as many other ones for the whole policies.

    Raises:
        SpecError: a value out of range.
    """

    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    group: int = 128
    tokens: int = 32_768

    def __post_init__(self) -> None:
        if len(self.bits) < 2 or list(self.bits) != sorted(set(self.bits)) or set(self.bits) - {*range(2, 9), 16}:
            raise SpecError(
                f"bits {', '.join(map(str, self.bits))}; give two or more different ones of 2 to 8 and 16, ascending"
            )
        if self.group < _LEAST_GROUP:
            raise SpecError(
                f"group {self.group} must be at least {_LEAST_GROUP}: scales would take more than the weights"
            )
        if self.tokens < 1:
            raise SpecError(f"tokens {self.tokens} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Bits of every part, and what they cost.

    mean_bits: stored bits of a weight that a token reads, scales included; read_B: bytes of weights read per token at batch 1; stored_B:
    of all these parts' weights and the embedding (which a tied head of 16 bits is). added: loss over the unrounded model as the parts' sum
    says, in nats; measured: as measured on other text, with its standard error over the windows of the text (paired with the unrounded model);
    uniform: the bits that all parts have, or None. rival: where the bits were chosen to read no more than these bits everywhere would, those;
    gain: what they would add beyond this policy, in nats, with its standard error (paired). layer_bits, layer_bits_read: mean
    stored bits of the layers' weights, and of those of them that a token reads; head_bits: of the head.
    """

    bits: Mapping[str, int]
    mean_bits: float
    read_B: float
    stored_B: float
    added: float
    measured: float
    measured_error: float
    uniform: int | None
    rival: int | None
    gain: float | None
    gain_error: float | None
    layer_bits: float
    layer_bits_read: float
    head_bits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsStudy:
    """Losses in nats: base (unrounded, text of the parts; of the policies), by part and bits with their standard errors, and the policies by
    bytes. tokens, tokens_other: judged, of each text.
    """

    parts: tuple[Part, ...]
    settings: BitsSettings
    base: float
    base_other: float
    loss: Mapping[str, Mapping[int, float]]
    error: Mapping[str, Mapping[int, float]]
    policies: tuple[Policy, ...]
    tokens: int
    tokens_other: int


def study_bits(
    trained: Trained, settings: BitsSettings, path: Path, *, on_progress: Callable[[int, int, str], None] | None = None
) -> BitsStudy:
    """Measure, choose, and measure what was chosen.

    Args:
        path: JSON Lines file of the measurements; what it holds is not measured again. on_progress: done, total, what.

    Raises:
        SchemaError: the file is of another model, text or settings, or corrupt.
    """
    parts = parts_of(trained.model, settings.group)
    measured = _Measured(trained, settings, parts, path)
    first, second = trained.windows[::2], trained.windows[1::2]
    below = [b for b in settings.bits if b < 16]
    total = 2 + len(parts) * len(below)
    base, base_other = measured(first, {}, "parts"), measured(second, {}, "policies")
    if not (np.isfinite(base).all() and np.isfinite(base_other).all()):
        raise SpecError(f"the model's loss is {base.mean()}: its weights hold numbers that are not finite")
    loss: dict[str, dict[int, float]] = {}
    error: dict[str, dict[int, float]] = {}
    done = 2
    for part in parts:
        loss[part.name] = {16: 0.0} if 16 in settings.bits else {}
        error[part.name] = dict(loss[part.name])
        for bits in below:
            mean, sd = _mean_error(measured(first, {part.name: bits}, "parts") - base)
            loss[part.name][bits], error[part.name][bits] = mean, sd
            done += 1
            if on_progress is not None:
                on_progress(done, total, f"{part.name} {bits} bits: {mean:+.4f} nats")
    read = np.array([[part.bits_read(b) / 8 for b in settings.bits] for part in parts])
    curve = allocate(read, monotone(np.array([[loss[part.name][b] for b in settings.bits] for part in parts])))
    policies = []
    alike = {
        b: measured(second, {part.name: b for part in parts}, "policies") for b in settings.bits
    }  # the same bits for all
    total += len(chosen := _chosen(curve, read, settings.bits))
    for place, uniform, rival in chosen:
        columns = curve.choices[place] if uniform is None else [settings.bits.index(uniform)] * len(parts)
        bits_of = {part.name: settings.bits[c] for part, c in zip(parts, columns, strict=True)}
        after = measured(second, bits_of, "policies")
        gain = _mean_error(alike[rival] - after) if rival is not None else (None, None)
        policies.append(
            _policy(
                parts,
                bits_of,
                loss,
                trained.arch.tied_embeddings,
                uniform,
                rival,
                _mean_error(after - base_other),
                gain,
            )
        )
        done += 1
        if on_progress is not None:
            on_progress(done, total, f"policy of {policies[-1].mean_bits:.2f} bits: {policies[-1].measured:+.4f} nats")
    return BitsStudy(
        parts=tuple(parts), settings=settings, base=float(base.mean()), base_other=float(base_other.mean()), loss=loss, error=error,
        policies=tuple(policies), tokens=int(first[:, 1:].size), tokens_other=int(second[:, 1:].size),
    )  # fmt: skip


def _mean_error(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean over the windows and its standard error; nan where there is one window."""
    n = len(differences)
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


def _chosen(
    curve: BitsCurve, read: npt.NDArray[np.float64], bits: tuple[int, ...]
) -> list[tuple[int, int | None, int | None]]:
    """Points to measure: at the bytes of every uniform choice (its rival) and halfway between two of them; and the uniform choices."""
    totals = read.sum(axis=0)
    places = {
        curve.within(total): b % 16 for total, b in zip(totals, bits, strict=True)
    }  # unrounded weights are no rival
    for half in (totals[1:] + totals[:-1]) / 2:
        places.setdefault(curve.within(half), 0)
    own = [(place, None, rival or None) for place, rival in sorted(places.items()) if np.ptp(curve.choices[place])]
    return [*own, *((curve.within(total), b, None) for total, b in zip(totals, bits, strict=True))]


def _policy(
    parts: Sequence[Part], bits: Mapping[str, int], loss: Mapping[str, Mapping[int, float]], tied: bool, uniform: int | None,
    rival: int | None, measured: tuple[float, float], gain: tuple[float, float] | tuple[None, None],
) -> Policy:  # fmt: skip
    read = sum(part.bits_read(bits[part.name]) for part in parts)
    layers, (head,) = [p for p in parts if p.name != HEAD], [p for p in parts if p.name == HEAD]
    stored = sum(part.bits_stored(bits[part.name]) for part in parts)
    embedding = head.weights * 16 if not tied or bits[HEAD] < 16 else 0  # a tied head of 16 bits is the embedding
    return Policy(
        bits=dict(bits), mean_bits=read / sum(part.read for part in parts), read_B=read / 8, stored_B=(stored + embedding) / 8,
        added=sum(loss[part.name].get(bits[part.name], 0.0) for part in parts), measured=measured[0], measured_error=measured[1],
        uniform=uniform, rival=rival, gain=gain[0], gain_error=gain[1],
        layer_bits=sum(p.bits_stored(bits[p.name]) for p in layers) / sum(p.weights for p in layers),
        layer_bits_read=sum(p.bits_read(bits[p.name]) for p in layers) / sum(p.read for p in layers),
        head_bits=head.bits_stored(bits[HEAD]) / head.weights,
    )  # fmt: skip


class _Measured:
    """Losses of every window of the model under some bits, kept in a file."""

    def __init__(self, trained: Trained, settings: BitsSettings, parts: list[Part], path: Path) -> None:
        self.trained, self.settings, self.parts, self.path = trained, settings, parts, path
        head = {
            "schema": _SCHEMA, "version": _VERSION, "model": trained.digest, "group": settings.group, "tokens": settings.tokens,
        }  # fmt: skip
        self.known: dict[str, npt.NDArray[np.float64]] = {}
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")
            return
        try:
            first, *lines = path.read_text(encoding="utf-8").split("\n")
            if not lines:  # cut before the first record
                path.write_text(first + "\n", encoding="utf-8")
            same = json.loads(first) == head
            if lines and lines[-1]:  # cut in the middle of a line
                lines.pop()
                path.write_text("\n".join([first, *lines, ""]), encoding="utf-8")
            records = [json.loads(line) for line in lines if line]
            self.known = {str(record["key"]): np.asarray(record["losses"], dtype=float) for record in records}
        except (ValueError, KeyError, TypeError) as error:
            raise SchemaError(f"{path} cannot be read ({error}); delete it to begin again") from error
        if not same:
            raise SchemaError(f"{path} is of another model, text or settings; give another --out")

    def __call__(self, windows: Tokens, bits: Mapping[str, int], text: str) -> npt.NDArray[np.float64]:
        key = f"{text} " + " ".join(f"{name}={b}" for name, b in sorted(bits.items()) if b < 16)
        if key not in self.known:
            with with_bits(self.trained.model, self.parts, bits, self.settings.group):
                found = window_losses(self.trained.model, windows)
            self.known[key] = np.round(found, _DIGITS)
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"key": key, "losses": self.known[key].tolist()}) + "\n")
        if self.known[key].shape != (len(windows),):
            raise SchemaError(
                f"{self.path} cannot be read (losses of '{key}' are not {len(windows)}); delete it to begin again"
            )
        return self.known[key]
