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
    from codesign.training.quantise import HEAD, Part, loss_of, parts_of, with_bits
    from codesign.training.trained import Tokens, Trained
except ImportError as error:
    raise MissingExtraError.of(error.name or "torch", "train", "measuring what bits cost") from error

__all__ = ["BitsSettings", "BitsStudy", "Policy", "study_bits"]

_SCHEMA, _VERSION = "codesign.bits", 1
_LEAST_GROUP = 8


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
    says, in nats; measured: as measured on other text; uniform: the bits that all parts have, or None. layer_bits, layer_bits_read: mean
    stored bits of the layers' weights, and of those of them that a token reads; head_bits: of the head.
    """

    bits: Mapping[str, int]
    mean_bits: float
    read_B: float
    stored_B: float
    added: float
    measured: float
    uniform: int | None
    layer_bits: float
    layer_bits_read: float
    head_bits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsStudy:
    """Losses in nats: base (unrounded, text of the parts; of the policies), by part and bits, and the policies by bytes."""

    parts: tuple[Part, ...]
    settings: BitsSettings
    base: float
    base_other: float
    loss: Mapping[str, Mapping[int, float]]
    policies: tuple[Policy, ...]


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
    if not np.isfinite([base, base_other]).all():
        raise SpecError(f"the model's loss is {base}: its weights hold numbers that are not finite")
    loss: dict[str, dict[int, float]] = {}
    done = 2
    for part in parts:
        loss[part.name] = {16: 0.0} if 16 in settings.bits else {}
        for bits in below:
            loss[part.name][bits] = measured(first, {part.name: bits}, "parts") - base
            done += 1
            if on_progress is not None:
                on_progress(done, total, f"{part.name} {bits} bits: {loss[part.name][bits]:+.4f} nats")
    read = np.array([[part.bits_read(b) / 8 for b in settings.bits] for part in parts])
    curve = allocate(read, monotone(np.array([[loss[part.name][b] for b in settings.bits] for part in parts])))
    policies = []
    for place, uniform in _chosen(curve, read, settings.bits):
        columns = curve.choices[place] if uniform is None else [settings.bits.index(uniform)] * len(parts)
        chosen = {part.name: settings.bits[c] for part, c in zip(parts, columns, strict=True)}
        after = measured(second, chosen, "policies") - base_other
        policies.append(_policy(parts, chosen, loss, after, trained.arch.tied_embeddings, uniform))
        if on_progress is not None:
            on_progress(total, total, f"policy of {policies[-1].mean_bits:.2f} bits: {after:+.4f} nats")
    return BitsStudy(
        parts=tuple(parts), settings=settings, base=base, base_other=base_other, loss=loss, policies=tuple(policies)
    )


def _chosen(curve: BitsCurve, read: npt.NDArray[np.float64], bits: tuple[int, ...]) -> list[tuple[int, int | None]]:
    """Points to measure: at the bytes of every uniform choice and halfway between two of them; and the uniform choices."""
    totals = read.sum(axis=0)
    budgets = sorted({*totals, *((totals[1:] + totals[:-1]) / 2)})
    places = dict.fromkeys(curve.within(budget) for budget in budgets)
    uniform = [(curve.within(total), b) for total, b in zip(totals, bits, strict=True)]
    return [*((place, None) for place in places if np.ptp(curve.choices[place])), *uniform]


def _policy(
    parts: Sequence[Part], bits: Mapping[str, int], loss: Mapping[str, Mapping[int, float]], measured: float, tied: bool, uniform: int | None
) -> Policy:  # fmt: skip
    read = sum(part.bits_read(bits[part.name]) for part in parts)
    layers, (head,) = [p for p in parts if p.name != HEAD], [p for p in parts if p.name == HEAD]
    stored = sum(part.bits_stored(bits[part.name]) for part in parts)
    embedding = head.weights * 16 if not tied or bits[HEAD] < 16 else 0  # a tied head of 16 bits is the embedding
    return Policy(
        bits=dict(bits), mean_bits=read / sum(part.read for part in parts), read_B=read / 8, stored_B=(stored + embedding) / 8,
        added=sum(loss[part.name].get(bits[part.name], 0.0) for part in parts), measured=measured, uniform=uniform,
        layer_bits=sum(p.bits_stored(bits[p.name]) for p in layers) / sum(p.weights for p in layers),
        layer_bits_read=sum(p.bits_read(bits[p.name]) for p in layers) / sum(p.read for p in layers),
        head_bits=head.bits_stored(bits[HEAD]) / head.weights,
    )  # fmt: skip


class _Measured:
    """Losses of the model under some bits, kept in a file."""

    def __init__(self, trained: Trained, settings: BitsSettings, parts: list[Part], path: Path) -> None:
        self.trained, self.settings, self.parts, self.path = trained, settings, parts, path
        head = {
            "schema": _SCHEMA, "version": _VERSION, "model": trained.digest, "group": settings.group, "tokens": settings.tokens,
        }  # fmt: skip
        self.known: dict[str, float] = {}
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
            self.known = {str(record["key"]): float(record["loss"]) for record in records}
        except (ValueError, KeyError, TypeError) as error:
            raise SchemaError(f"{path} cannot be read ({error}); delete it to begin again") from error
        if not same:
            raise SchemaError(f"{path} is of another model, text or settings; give another --out")

    def __call__(self, windows: Tokens, bits: Mapping[str, int], text: str) -> float:
        key = f"{text} " + " ".join(f"{name}={b}" for name, b in sorted(bits.items()) if b < 16)
        if key not in self.known:
            with with_bits(self.trained.model, self.parts, bits, self.settings.group):
                self.known[key] = loss_of(self.trained.model, windows)
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"key": key, "loss": self.known[key]}) + "\n")
        return self.known[key]
