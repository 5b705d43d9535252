"""One training run: which model, under which recipe, on which text, and the loss that came out.

A run that diverged or was stopped early is kept like any other; `status` and `reason` say so, and `loss` is None, so that it
cannot be taken for the loss of a finished model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

from codesign.architecture import Architecture
from codesign.errors import SchemaError, SpecError

__all__ = ["DTYPES", "STATUSES", "CurvePoint", "DType", "Recipe", "Status", "TrainingRun"]

DType = Literal["fp32", "bf16"]
DTYPES: tuple[DType, ...] = ("fp32", "bf16")
Status = Literal["finished", "stopped", "diverged", "running"]
#: finished: all steps done; stopped: given up as hopeless; diverged: the loss left all bounds; running: to be continued.
STATUSES: tuple[Status, ...] = ("finished", "stopped", "diverged", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is trained: AdamW, linear warm-up, cosine decay.

    Args:
        tokens: training tokens asked for; `steps * batch_tokens` are seen.
        batch_tokens: tokens of one step, a whole number of sequences; seq_len: tokens of one sequence.
        lr: peak learning rate; warmup_fraction: share of the steps in which it rises from 0; min_lr_ratio: the last
            step's learning rate over the peak.
        weight_decay, beta1, beta2: of AdamW; the decay is on matrices only.
        clip: largest L2 norm of the gradient; 0: not clipped.
        dtype: fp32, or bf16 products on fp32 weights (autocast).
        seed: of the initial weights and of the order of the data.

    Raises:
        SpecError: a value out of range, or a batch that is no whole number of sequences.

    Example:
        >>> Recipe(tokens=1_000_000, batch_tokens=4096, seq_len=256, lr=3e-3).steps
        245
    """

    tokens: int
    batch_tokens: int
    seq_len: int
    lr: float
    warmup_fraction: float = 0.02
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    dtype: DType = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("tokens", 1), ("batch_tokens", 1), ("seq_len", 2), ("seed", 0)):
            _whole(f"recipe: {name}", getattr(self, name), low)
        if self.seed >= 2**63:
            raise SpecError(f"recipe: seed is {self.seed}; allowed: below 2^63")
        if self.batch_tokens % self.seq_len:
            raise SpecError(
                f"recipe: batch_tokens {self.batch_tokens} is no whole number of sequences of {self.seq_len} tokens; "
                f"give a multiple, such as {max(1, round(self.batch_tokens / self.seq_len)) * self.seq_len}"
            )
        if self.tokens < self.batch_tokens:
            raise SpecError(f"recipe: tokens {self.tokens} are fewer than one batch of {self.batch_tokens}")
        _between("recipe: lr", self.lr, 0.0, 10.0, open_low=True)
        _between("recipe: warmup_fraction", self.warmup_fraction, 0.0, 1.0)
        _between("recipe: min_lr_ratio", self.min_lr_ratio, 0.0, 1.0)
        _between("recipe: weight_decay", self.weight_decay, 0.0, 10.0)
        _between("recipe: clip", self.clip, 0.0, 1e6)
        for name in ("beta1", "beta2"):
            _between(f"recipe: {name}", getattr(self, name), 0.0, 0.999999)
        if self.dtype not in DTYPES:
            raise SpecError(f"recipe: dtype is {self.dtype!r}; allowed: {', '.join(DTYPES)}")
        for name in ("lr", "warmup_fraction", "min_lr_ratio", "weight_decay", "beta1", "beta2", "clip"):
            object.__setattr__(self, name, float(getattr(self, name)))  # 0 and 0.0 are one recipe, with one digest

    @property
    def steps(self) -> int:
        """Optimizer steps: ceil(tokens / batch_tokens)."""
        return -(-self.tokens // self.batch_tokens)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, 1 to `steps`: linear to the peak, then half a cosine down to min_lr_ratio of it.

        Example:
            >>> r = Recipe(tokens=100, batch_tokens=2, seq_len=2, lr=1.0, warmup_fraction=0.1, min_lr_ratio=0.1)
            >>> [round(r.lr_at(step), 3) for step in (1, 5, 50)]
            [0.2, 1.0, 0.1]
        """
        warm = math.ceil(self.warmup_fraction * self.steps)
        if step < warm:
            return self.lr * step / warm
        if self.steps == warm:
            return self.lr
        done = (step - warm) / (self.steps - warm)
        return self.lr * (self.min_lr_ratio + (1 - self.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * done)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Build from `to_dict`'s output.

        Raises:
            SchemaError: an unknown or missing field.
            SpecError: a value that is not allowed.
        """
        _known(cls, "recipe", data)
        try:
            return cls(**data)
        except TypeError as error:
            raise SchemaError(f"incomplete recipe: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One point of a loss curve, after `step` steps.

    Args:
        step, tokens: steps done and tokens seen.
        train_loss: mean over the steps since the point before, nats per token; may be nan or infinite.
        valid_loss: on the fixed validation slice, nats per token; None where it was not evaluated here.
        lr: learning rate of the step; seconds: training so far, evaluations left out.
    """

    step: int
    tokens: int
    train_loss: float
    valid_loss: float | None = None
    lr: float
    seconds: float

    def __post_init__(self) -> None:
        _whole("curve: step", self.step, 0)
        _whole("curve: tokens", self.tokens, 0)
        for name in ("lr", "seconds"):
            _between(f"curve: {name}", getattr(self, name), 0.0, math.inf)
        for name in ("train_loss", "valid_loss"):
            value = getattr(self, name)
            if value is None and name == "valid_loss":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise SpecError(f"curve: {name} is {value!r}; allowed: a number")
            if math.isnan(value):  # one nan object, so that equal points compare equal
                object.__setattr__(self, name, math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON values: what is not finite is written "nan", "inf" or "-inf"."""
        data = asdict(self)
        for name in ("train_loss", "valid_loss"):
            if data[name] is not None and not math.isfinite(data[name]):
                data[name] = str(data[name])
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CurvePoint:
        """Build from `to_dict`'s output.

        Raises:
            SchemaError: an unknown or missing field.
            SpecError: a value that is not allowed.
        """
        _known(cls, "curve point", data)
        values = dict(data)
        for name in ("train_loss", "valid_loss"):
            if values.get(name) in ("nan", "inf", "-inf"):
                values[name] = float(values[name])
        try:
            return cls(**values)
        except TypeError as error:
            raise SchemaError(f"incomplete curve point: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One trained model and its loss curve.

    Args:
        architecture, recipe: the experiment, with the text and the tokenizer.
        status: one of `STATUSES`; reason: why it was stopped or diverged, else empty.
        curve: in the order of the steps.
        loss: final validation loss in nats per token, on more tokens than the curve's; None unless finished.
        tokens_seen, seconds: trained so far; seconds leave evaluations out.
        bytes_per_token: bytes of validation text per predicted token: loss / bytes_per_token is nats per byte.
        data, data_digest: the text's name, and the digest of its content and of its split.
        tokenizer: byte, or bpe-4096 and the like.
        torch_version, host: what trained it; host also holds device and threads.
        campaign: the campaign that asked for it; created_at: ISO 8601 in UTC.

    Raises:
        SpecError: a value out of range, or a loss that does not go with the status.
    """

    architecture: Architecture
    recipe: Recipe
    status: Status
    curve: tuple[CurvePoint, ...] = ()
    loss: float | None = None
    tokens_seen: int = 0
    seconds: float = 0.0
    bytes_per_token: float = 1.0
    data: str = ""
    data_digest: str
    tokenizer: str = "byte"
    torch_version: str = ""
    host: Mapping[str, str] = field(default_factory=dict, hash=False)
    campaign: str = ""
    created_at: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise SpecError(f"training run: status is {self.status!r}; allowed: {', '.join(STATUSES)}")
        if (self.loss is None) == (self.status == "finished"):
            raise SpecError(
                f"training run: loss is {self.loss} with status {self.status}; finished runs alone have one"
            )
        if self.loss is not None:
            _between("training run: loss", self.loss, 0.0, math.inf)
        _whole("training run: tokens_seen", self.tokens_seen, 0)
        _between("training run: seconds", self.seconds, 0.0, math.inf)
        _between("training run: bytes_per_token", self.bytes_per_token, 0.0, math.inf, open_low=True)
        if not self.data_digest or not self.tokenizer:
            raise SpecError("training run: data_digest and tokenizer must not be empty; losses compare by them")
        steps = [point.step for point in self.curve]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise SpecError("training run: the steps of the curve do not increase")

    @property
    def key(self) -> str:
        """Identity of the experiment (16 hex digits): architecture, recipe, text and tokenizer."""
        what = {
            "architecture": self.architecture.to_dict(),
            "recipe": self.recipe.to_dict(),
            "data_digest": self.data_digest,
            "tokenizer": self.tokenizer,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def valid_curve(self) -> tuple[CurvePoint, ...]:
        """The points at which the validation loss was evaluated."""
        return tuple(point for point in self.curve if point.valid_loss is not None)

    @property
    def loss_per_byte(self) -> float | None:
        """loss / bytes_per_token, nats per byte: compares across tokenizers on one text."""
        return None if self.loss is None else self.loss / self.bytes_per_token

    def label(self) -> str:
        """What was trained, in words.

        Example:
            >>> arch = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=256)
            >>> recipe = Recipe(tokens=1_000_000, batch_tokens=4096, seq_len=256, lr=3e-3)
            >>> TrainingRun(architecture=arch, recipe=recipe, status="running", data="stdlib", data_digest="0").label()
            '2 layers x 64, 1,000,000 tokens of stdlib (byte)'
        """
        a = self.architecture
        return f"{a.n_layers} layers x {a.d_model}, {self.recipe.tokens:,} tokens of {self.data} ({self.tokenizer})"

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON values; `from_dict` reads them back."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **data,
            "architecture": self.architecture.to_dict(),
            "recipe": self.recipe.to_dict(),
            "curve": [point.to_dict() for point in self.curve],
            "host": dict(self.host),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingRun:
        """Build from `to_dict`'s output.

        Raises:
            SchemaError: an unknown or missing field.
            SpecError: a value that is not allowed.
        """
        _known(cls, "training run", data)
        values = dict(data)
        try:
            values["architecture"] = Architecture.from_dict(dict(values["architecture"]))
            values["recipe"] = Recipe.from_dict(dict(values["recipe"]))
            values["curve"] = tuple(CurvePoint.from_dict(dict(point)) for point in values.get("curve", ()))
            return cls(**values)
        except SpecError:  # a ValueError too
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SchemaError(f"incomplete training run: {error}") from error


def _known(cls: type[Any], what: str, data: Mapping[str, Any]) -> None:
    if unknown := sorted(set(data) - {f.name for f in fields(cls)}):
        raise SchemaError(f"unknown {what} field(s) {', '.join(map(str, unknown))}; update codesign")


def _whole(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise SpecError(f"{name} is {value!r}; allowed: a whole number of at least {low}")


def _between(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (low < value if open_low else low <= value) or value > high:  # type: ignore[operator]
        least = f"{'above' if open_low else 'at least'} {low:g}"
        raise SpecError(f"{name} is {value!r}; allowed: {least}" + (f", up to {high:g}" if high < math.inf else ""))
