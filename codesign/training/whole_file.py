"""Files that are whole whenever the machine stops: written beside, flushed, renamed."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["flush_folder", "write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that, whenever the machine stops, it holds the old bytes or the new ones."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """A rename is safe only once the folder is on disk; Windows cannot open one, and keeps its own journal."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
