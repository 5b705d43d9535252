"""A trained model and held-out text to judge it by: from a run of `codesign train`, or from a model's own folder."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from codesign.architecture import Architecture
from codesign.errors import MissingExtraError, SchemaError, SpecError
from codesign.hf_config import read_config
from codesign.models.decoder import build_decoder
from codesign.models.features import is_stack
from codesign.models.transformers_names import from_transformers
from codesign.training.batches import spread_windows, valid_windows
from codesign.training.loop import read_run
from codesign.training.text import load_text
from codesign.training.tokenizer import BPETokenizer, encode_text

__all__ = ["Tokens", "Trained", "open_trained"]

Tokens = npt.NDArray[np.int64]
_LENGTH = 512  # tokens of a window for a model whose training sequences are not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model and the text to judge it by.

    windows: held-out windows (n, length + 1); name: for people; digest: of weights and windows.
    """

    model: Any
    arch: Architecture
    windows: Tokens
    name: str
    digest: str


def open_trained(
    path: Path, data: str, tokens: int, *, suffixes: Sequence[str] = (), cache: Path, device: str = "cpu"
) -> Trained:
    """A folder that `codesign train` left (run.json, weights.pt), or a model's own (config.json, *.safetensors, tokenizer.json).

    Args:
        data: text whose held-out part judges; suffixes: files of it that count. tokens: of each half of the windows.

    Raises:
        SpecError: neither; or another text than a run with a BPE tokenizer was trained on.
    """
    if (path / "run.json").is_file():
        model, arch, windows = _from_run(path, data, tokens, suffixes, cache)
    elif (path / "config.json").is_file() and sorted(path.glob("*.safetensors")):
        model, arch, windows = _from_checkpoint(path, data, tokens, suffixes)
    else:
        runs = sorted(file.parent.name for file in path.glob("*/run.json"))
        if runs:
            shown = ", ".join(runs[:8]) + (f" and {len(runs) - 8} more" if len(runs) > 8 else "")
            raise SpecError(f"{path} holds runs, not one: give {path}/ID, ID one of {shown}")
        raise SpecError(
            f"{path} holds neither run.json and weights.pt (codesign train --checkpoints) nor config.json, *.safetensors and tokenizer.json"
        )
    if len(windows) < 4:
        raise SpecError(
            f"'{data}' gives {len(windows)} held-out windows of {windows.shape[1] - 1} tokens; at least 4 are needed: give more text"
        )
    whole = hashlib.sha256(windows.tobytes())
    for parameter in model.parameters():
        whole.update(parameter.detach().float().numpy().tobytes())
    return Trained(
        model=model.to(device).eval(),
        arch=arch,
        windows=windows,
        name=path.resolve().name,
        digest=whole.hexdigest()[:16],
    )


def _from_run(
    path: Path, data: str, tokens: int, suffixes: Sequence[str], cache: Path
) -> tuple[Any, Architecture, Tokens]:
    run = read_run(path)
    if run is None or run.status != "finished" or not (path / "weights.pt").is_file():
        raise SpecError(f"{path} holds no finished run; let codesign train finish it")
    text = encode_text(load_text(data, suffixes), run.tokenizer, cache)
    if run.tokenizer != "byte" and text.digest != run.data_digest:
        raise SpecError(
            f"'{data}' is not the text that the run's {run.tokenizer} was learnt from ({run.data}); give that text"
        )
    model = build_decoder(run.architecture)
    try:
        model.load_state_dict(torch.load(path / "weights.pt", map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0][:100]
        raise SchemaError(f"{path / 'weights.pt'} cannot be read ({why}); train the model again") from error
    return (
        model,
        run.architecture,
        valid_windows(text, run.recipe.seq_len, 2 * max(tokens, run.recipe.seq_len)),
    )


def _from_checkpoint(path: Path, data: str, tokens: int, suffixes: Sequence[str]) -> tuple[Any, Architecture, Tokens]:

    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtraError.of("safetensors", "train", "reading a checkpoint") from error
    arch = read_config(path)
    if is_stack(arch):
        raise SpecError(
            f"{path}: checkpoints of a stack of mixed layers (family '{arch.family}') are not read; those of attention and FFN in turn are, and "
            "runs of codesign train of any"
        )
    state: dict[str, Any] = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            state |= load_file(file)
        except Exception as error:  # the library raises its own, which it does not export
            raise SchemaError(f"{file} cannot be read ({error})") from error
    with torch.device("meta"):
        model = build_decoder(arch)
    weights = {name: value.float() for name, value in from_transformers(arch, state).items()}
    model.load_state_dict(weights, assign=True)
    if not (path / "tokenizer.json").is_file():
        raise SpecError(f"{path} has no tokenizer.json; put the model's own there")
    ids = BPETokenizer.load(path, "own").encode(load_text(data, suffixes).valid)
    if len(ids) <= 2 * _LENGTH:
        raise SpecError(
            f"'{data}' gives {len(ids):,} held-out tokens; at least {2 * _LENGTH + 1:,} are needed: give more text"
        )
    if int(ids.max()) >= arch.vocab_size:
        raise SpecError(
            f"tokenizer.json gives token {int(ids.max())}, but vocab_size is {arch.vocab_size}: it belongs to another model"
        )
    return model, arch, spread_windows(ids, data, _LENGTH, 2 * max(tokens, _LENGTH))
