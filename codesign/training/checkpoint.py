"""Checkpoints that survive kill -9: written beside, flushed, renamed; the one before is kept until the new one is whole.

A file is its SHA-256 (64 hex digits and a newline) and what `torch.save` writes, so that a truncated or altered one is known.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

from codesign.training.whole_file import flush_folder, write_whole

__all__ = ["load_checkpoint", "remove_checkpoints", "save_checkpoint", "write_whole"]

_LOG = logging.getLogger(__name__)
_CURRENT, _PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Keep `state` (tensors and plain values) as the current checkpoint."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    part = folder / f".{_CURRENT}.part"
    with part.open("wb") as file:
        file.write(hashlib.sha256(data).hexdigest().encode() + b"\n")
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if (folder / _CURRENT).exists():
        os.replace(folder / _CURRENT, folder / _PREVIOUS)
    os.replace(part, folder / _CURRENT)
    flush_folder(folder)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint, on the CPU; None where there is none. A corrupt one is left out with a warning."""
    for name in (_CURRENT, _PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        head, _, data = path.read_bytes().partition(b"\n")
        if hashlib.sha256(data).hexdigest().encode() == head:
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return state
        _LOG.warning("%s is corrupt; going on from the one before it, or from the start", path)
        path.unlink()  # else the next one would push the whole one out
    return None


def remove_checkpoints(folder: Path) -> None:
    """Once the result is written they are of no use."""
    for name in (_CURRENT, _PREVIOUS, f".{_CURRENT}.part"):
        (folder / name).unlink(missing_ok=True)
