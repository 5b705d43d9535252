"""Text to train on: any file or folder, split into training and validation, the same way on every machine.

A document is a file. Skipped and counted: files that are not UTF-8, hold a NUL byte (binary), are empty, cannot be read, or
equal an earlier one byte for byte. Names that begin with a dot, and `__pycache__`, are not looked at.

A document belongs to the validation split where the hash of its relative path says so. Where that would hold out less than half
or more than twice the share that was asked for (few documents, or one that is huge), each document gives its last part instead;
a single file therefore always does. The splits never overlap.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codesign.errors import SpecError

__all__ = ["STDLIB", "Text", "load_text"]

_LOG = logging.getLogger(__name__)

STDLIB = "stdlib"
#: Below this, a validation loss says nothing.
LEAST_BYTES = 20_000
# Test suites are separate packages on some systems; without them the text is nearly the same on all. Character tables are
# near-copies of each other, which would lie on both sides of the split; pydoc_data is one huge generated file.
_STDLIB_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Documents by split, in the order of their paths.

    name: what people call it; digest: of content and split (16 hex digits); skipped: how many files, by reason;
    by_document: the split is by document, else each document's last part is held out.
    """

    name: str
    train: tuple[bytes, ...]
    valid: tuple[bytes, ...]
    digest: str
    skipped: Mapping[str, int]
    by_document: bool

    @property
    def train_B(self) -> int:
        """Bytes of the training split."""
        return sum(map(len, self.train))

    @property
    def valid_B(self) -> int:
        """Bytes of the validation split."""
        return sum(map(len, self.valid))


def load_text(
    path: str | os.PathLike[str], suffixes: Sequence[str] | None = None, *, valid_share: float = 0.05
) -> Text:
    """Read a file or a folder; "stdlib" is the Python standard library's source (*.py, without its tests).

    Args:
        path: a file, a folder, or "stdlib" (a folder of that name is "./stdlib").
        suffixes: which files of a folder count, such as [".py", ".txt"]; None or empty: all.
        valid_share: share of the bytes to hold out, above 0 and below 0.5.

    Raises:
        SpecError: nothing there, or too little text.

    Example:
        >>> text = load_text("stdlib")
        >>> text.name.startswith("python-3"), text.by_document, text.valid_B < text.train_B
        (True, True, True)
    """
    skipped: Counter[str] = Counter()
    if os.fspath(path) == STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        name = f"python-{platform.python_version()}-stdlib"
        found = list(_documents(root, (".py",), _STDLIB_LEFT_OUT, skipped))
    else:
        root = Path(path).expanduser()
        name = root.resolve().name
        if root.is_dir():
            found = list(_documents(root, tuple(suffixes or ()), frozenset(), skipped))
        elif root.is_file():
            data = _text(root, skipped)
            found = [] if data is None else [(root.name, data)]
        else:
            raise SpecError(f"no text at '{path}'; give a file, a folder, or '{STDLIB}' for Python's own source")
    documents = _distinct(found, skipped)
    total = sum(len(data) for _, data in documents)
    counted = "".join(f", {count} skipped ({why})" for why, count in sorted(skipped.items()))
    if total < LEAST_BYTES:
        only = f" with suffix {', '.join(suffixes)}" if suffixes else ""
        raise SpecError(
            f"'{path}' holds {total:,} bytes of text{only} in {len(documents)} file(s){counted}; "
            f"training needs at least {LEAST_BYTES:,}"
        )
    _LOG.info("%s: %d documents, %d bytes%s", name, len(documents), total, counted)
    held = [_position(where) < valid_share for where, _ in documents]
    share = sum(len(data) for (_, data), out in zip(documents, held, strict=True) if out) / total
    by_document = valid_share / 2 <= share <= valid_share * 2
    if by_document:
        train = tuple(data for (_, data), out in zip(documents, held, strict=True) if not out)
        valid = tuple(data for (_, data), out in zip(documents, held, strict=True) if out)
    else:
        parts = [_cut(data, valid_share) for _, data in documents]
        train = tuple(head for head, _ in parts if head)
        valid = tuple(tail for _, tail in parts if tail)
    return Text(
        name=name,
        train=train,
        valid=valid,
        digest=_digest(train, valid),
        skipped=dict(sorted(skipped.items())),
        by_document=by_document,
    )


def _documents(
    root: Path, suffixes: tuple[str, ...], left_out: frozenset[str], skipped: Counter[str]
) -> Iterator[tuple[str, bytes]]:
    """Relative path (with /) and content of each text file; links are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__" and f not in left_out)
        for file in sorted(files):
            if file.startswith(".") or (suffixes and not file.endswith(suffixes)):
                continue
            path = Path(folder, file)
            if (data := _text(path, skipped)) is not None:
                yield path.relative_to(root).as_posix(), data


def _text(path: Path, skipped: Counter[str]) -> bytes | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            skipped["no regular file"] += 1
            return None
        data = path.read_bytes()
    except OSError:
        skipped["cannot be read"] += 1
        return None
    if not data:
        skipped["empty"] += 1
        return None
    if b"\0" in data:
        skipped["binary"] += 1
        return None
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        skipped["not UTF-8"] += 1
        return None
    return data


def _distinct(documents: list[tuple[str, bytes]], skipped: Counter[str]) -> list[tuple[str, bytes]]:
    """In the order of paths, each content once: a copy in both splits would be a leak."""
    seen: set[bytes] = set()
    out = []
    for where, data in sorted(documents):
        content = hashlib.sha256(data).digest()
        if content in seen:
            skipped["duplicate"] += 1
            continue
        seen.add(content)
        out.append((where, data))
    return out


def _position(path: str) -> float:
    """A place in [0, 1) that only the relative path decides."""
    return int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


def _cut(data: bytes, valid_share: float) -> tuple[bytes, bytes]:
    """The first part and the last, cut after a line's end where there is one in the first part, never within a character."""
    at = int(len(data) * (1 - valid_share))
    line = data.rfind(b"\n", 0, at) + 1
    if line > at // 2:
        at = line
    while at < len(data) and data[at] & 0xC0 == 0x80:  # a byte that continues a character
        at += 1
    return data[:at], data[at:]


def _digest(train: tuple[bytes, ...], valid: tuple[bytes, ...]) -> str:
    whole = hashlib.sha256()
    for split in (train, valid):
        whole.update(len(split).to_bytes(8, "big"))
        for data in split:
            whole.update(hashlib.sha256(data).digest())
    return whole.hexdigest()[:16]
