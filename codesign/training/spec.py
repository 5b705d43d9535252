"""What one training run is asked to do: everything that `codesign.training.loop.train` reads, in plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from codesign._paths import user_folder
from codesign.architecture import Architecture
from codesign.errors import SchemaError, SpecError
from codesign.training_run import Recipe

__all__ = ["DEVICES", "RunSpec"]

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One run. Picklable; paths are strings, so that it travels to other machines.

    Args:
        architecture, recipe: the experiment; the vocabulary must hold the tokenizer's.
        data: a file or a folder of text, or "stdlib": the Python standard library's source.
        suffixes: files of the folder that count, such as (".py",); empty: all that are text.
        tokenizer: "byte", or "bpe-4096" and the like.
        valid_share: share of the text held out.
        eval_points: how often the validation loss is taken, evenly spaced, the last step included.
        eval_tokens, final_eval_tokens: validation tokens read then, and at the end; fewer where the text has fewer.
        device: auto (a GPU where there is one), cpu or cuda; threads: of the CPU.
        micro_tokens: most tokens of one forward pass: larger batches accumulate gradients.
        checkpoint_s: seconds between checkpoints.
        cache: folder of encoded texts and tokenizers, shared by runs; empty: $CODESIGN_HOME/texts.
        campaign: name put into the result.

    Raises:
        SpecError: a value out of range.
    """

    architecture: Architecture
    recipe: Recipe
    data: str
    suffixes: tuple[str, ...] = ()
    tokenizer: str = "byte"
    valid_share: float = 0.05
    eval_points: int = 20
    eval_tokens: int = 65_536
    final_eval_tokens: int = 524_288
    device: str = "auto"
    threads: int = 1
    micro_tokens: int = 8_192
    checkpoint_s: float = 30.0
    cache: str = ""
    campaign: str = ""

    def __post_init__(self) -> None:
        if not self.data:
            raise SpecError("no text to train on; give a file, a folder, or 'stdlib'")
        object.__setattr__(self, "data", str(self.data))
        object.__setattr__(self, "cache", str(self.cache))
        object.__setattr__(self, "suffixes", tuple(self.suffixes))
        for suffix in self.suffixes:
            if not suffix.startswith("."):
                raise SpecError(f"suffix '{suffix}' does not begin with a dot; give for example .py")
        for name in ("eval_points", "eval_tokens", "final_eval_tokens", "threads", "micro_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpecError(f"{name} is {value!r}; allowed: a whole number of at least 1")
        if not 0 < self.valid_share < 0.5:
            raise SpecError(f"valid_share is {self.valid_share}; allowed: above 0, below 0.5")
        if not self.checkpoint_s > 0:
            raise SpecError(f"checkpoint_s is {self.checkpoint_s}; allowed: seconds above 0")
        if self.device not in DEVICES:
            raise SpecError(f"device is '{self.device}'; allowed: {', '.join(DEVICES)}")

    @property
    def cache_folder(self) -> Path:
        """Where encoded texts are kept."""
        return Path(self.cache) if self.cache else user_folder() / "texts"

    @property
    def digest(self) -> str:
        """Identity of what a checkpoint holds (16 hex digits): all but where, how fast and for whom it is trained.

        The text itself is told apart by its content, when it is read.
        """
        what = {k: v for k, v in self.to_dict().items() if k not in _NOT_IDENTITY}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **data,
            "architecture": self.architecture.to_dict(),
            "recipe": self.recipe.to_dict(),
            "suffixes": list(self.suffixes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunSpec:
        """Build from `to_dict`'s output.

        Raises:
            SchemaError: an unknown or missing field.
            SpecError: a value that is not allowed.
        """
        if unknown := sorted(set(data) - {f.name for f in fields(cls)}):
            raise SchemaError(f"unknown run field(s) {', '.join(map(str, unknown))}; update codesign")
        values = dict(data)
        try:
            values["architecture"] = Architecture.from_dict(dict(values["architecture"]))
            values["recipe"] = Recipe.from_dict(dict(values["recipe"]))
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise SchemaError(f"incomplete run: {error}") from error


_NOT_IDENTITY = ("data", "device", "threads", "checkpoint_s", "cache", "campaign")
