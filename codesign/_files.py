"""Files that no reader sees half of: written beside, then renamed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from codesign.errors import SpecError

__all__ = ["write_text"]


def write_text(path: str | os.PathLike[str], text: str, option: str = "--out") -> None:
    """Write a text file in UTF-8 with the text's own line ends.

    Args:
        path: The file; one that is there is replaced. text: Its content. option: What the user can change where it cannot be written.

    Raises:
        SpecError: It cannot be written.
    """
    out = Path(path)
    part = out.parent / f".{out.name}.part-{os.getpid()}"
    try:
        part.write_text(text, encoding="utf-8", newline="")
        os.replace(part, out)
    except OSError as error:
        raise SpecError(f"cannot write {out}: {error.strerror or error}; give a writable {option}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
