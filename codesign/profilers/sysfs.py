"""Reading /proc and /sys under a root folder: what cannot be read is None, never an error."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_real_root", "read_number", "read_table", "read_text"]


def is_real_root(root: str | Path) -> bool:
    """Whether `root` is this machine's own, so that commands and system calls speak of the same machine."""
    return Path(root) == Path("/")


def read_text(*parts: str | Path) -> str | None:
    """Content of a file without surrounding blanks and NUL; None where it is absent or cannot be read.

    A sensor that is switched off answers with EAGAIN, one without permission with EACCES: both are None.
    """
    try:
        return Path(*parts).read_text(encoding="utf-8", errors="replace").strip("\0 \t\r\n")
    except OSError:
        return None


def read_number(*parts: str | Path) -> float | None:
    """A file with one number, or None."""
    text = read_text(*parts)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def read_table(*parts: str | Path) -> dict[str, str]:
    """Lines of ``name: value`` (first of each name), as in /proc/meminfo and /proc/self/status."""
    table: dict[str, str] = {}
    for line in (read_text(*parts) or "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            table.setdefault(name.strip(), value.strip())
    return table
