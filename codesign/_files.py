"""Files: written beside, then renamed, so that no reader sees half of one; read compressed or not."""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from pathlib import Path

from codesign.errors import SpecError

__all__ = ["read_unzipped", "write_text"]


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


def read_unzipped(path: str | os.PathLike[str], wanted: str) -> str:
    """The text of a file in UTF-8, gzip or not.

    Args:
        path: The file. wanted: What to give instead where it cannot be read.

    Raises:
        SpecError: It cannot be read.
    """
    try:
        data = Path(path).read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {error}; give {wanted}") from error
