"""Tokenizers, and the encoded text that runs read: memory-mapped arrays, built once for all of them.

Every document ends with an end-of-text token. The byte tokenizer takes byte 0 for it, which no text holds (`text.load_text`
refuses it), so its vocabulary is exactly 256. The other is byte-level BPE (GPT-2's pre-tokenizer), trained with the `tokenizers`
library on the training split; its token 0 is the end of text, and a document that spells out that token's name is encoded as
plain text.

A token folder holds train.npy and valid.npy (uint16, or uint32 for large vocabularies), tokens.json and, for BPE,
tokenizer.json.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from codesign.errors import MissingExtraError, SchemaError, SpecError
from codesign.training.text import Text

__all__ = ["BPETokenizer", "ByteTokenizer", "TokenFile", "Tokenizer", "encode_text", "make_tokenizer", "open_tokens"]

_END = "<|endoftext|>"
_META = "tokens.json"
_SCHEMA = {"schema": "codesign.tokens", "version": 1}


class Tokenizer(Protocol):
    """Turns documents into tokens; token `END` ends each."""

    name: str
    vocab_size: int

    def encode(self, documents: Sequence[bytes]) -> npt.NDArray[np.unsignedinteger[Any]]:
        """All documents as one array, each followed by the end-of-text token."""

    def save(self, folder: Path) -> None:
        """Write what `load` needs, if anything."""


class ByteTokenizer:
    """Each byte is a token; 0 is the end of text.

    Example:
        >>> ByteTokenizer().encode([b"ab", b"c"]).tolist()
        [97, 98, 0, 99, 0]
    """

    name = "byte"
    vocab_size = 256

    def encode(self, documents: Sequence[bytes]) -> npt.NDArray[np.unsignedinteger[Any]]:
        """See `Tokenizer`."""
        return np.frombuffer(b"".join(data + b"\0" for data in documents), dtype=np.uint8).astype(np.uint16)

    def save(self, folder: Path) -> None:
        """Nothing to keep."""


class BPETokenizer:
    """Byte-level BPE of the `tokenizers` library.

    Args:
        inner: a `tokenizers.Tokenizer`; name: "bpe-" and the vocabulary that was asked for. A small text may give less.
    """

    def __init__(self, inner: Any, name: str) -> None:
        inner.encode_special_tokens = True  # the end token's name, spelt out in a document, is text
        self.inner, self.name, self.vocab_size = inner, name, int(inner.get_vocab_size())

    @classmethod
    def train(cls, documents: Sequence[bytes], vocab_size: int) -> BPETokenizer:
        """Learn the merges; the same documents give the same tokenizer.

        Raises:
            MissingExtraError: `tokenizers` is not installed.
        """
        tokenizers = _library()
        inner = tokenizers.Tokenizer(tokenizers.models.BPE())
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[_END],
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator((data.decode("utf-8") for data in documents), trainer)
        return cls(inner, f"bpe-{vocab_size}")

    @classmethod
    def load(cls, folder: Path, name: str) -> BPETokenizer:
        """Read what `save` wrote.

        Raises:
            SchemaError: the file is missing or corrupt.
            MissingExtraError: `tokenizers` is not installed.
        """
        tokenizers = _library()
        path = folder / "tokenizer.json"
        try:
            return cls(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")), name)
        except Exception as error:  # the library raises bare Exception
            raise SchemaError(f"{path}: no tokenizer can be read from it ({error}); delete the folder") from error

    def encode(self, documents: Sequence[bytes]) -> npt.NDArray[np.unsignedinteger[Any]]:
        """See `Tokenizer`."""
        dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32
        parts = []
        for start in range(0, len(documents), 256):  # in groups: the library encodes them in parallel
            group = [data.decode("utf-8") for data in documents[start : start + 256]]
            for encoding in self.inner.encode_batch_fast(group, add_special_tokens=False):
                parts.append(np.array([*encoding.ids, 0], dtype=dtype))
        return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        (folder / "tokenizer.json").write_text(self.inner.to_str(), encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """An encoded text on disk.

    folder: where; data: the text's name; digest: of its content and split; tokenizer: its name; vocab_size: tokens are
    below it; bytes_per_token: validation bytes over validation tokens, so that nats per byte = loss / bytes_per_token.
    """

    folder: Path
    data: str
    digest: str
    tokenizer: str
    vocab_size: int
    bytes_per_token: float
    train_tokens: int
    valid_tokens: int

    def tokens(self, split: str) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The memory-mapped tokens of "train" or "valid"."""
        array: npt.NDArray[np.unsignedinteger[Any]] = np.load(self.folder / f"{split}.npy", mmap_mode="r")
        return array


def bpe_size(name: str) -> int:
    """Vocabulary asked for by "bpe-4096"; 256 for "byte".

    Raises:
        SpecError: another name, or a vocabulary that cannot hold all bytes and the end of text.

    Example:
        >>> bpe_size("bpe-4096")
        4096
    """
    if name == "byte":
        return 256
    kind, _, size = name.partition("-")
    if kind != "bpe" or not size.isdecimal():
        raise SpecError(f"unknown tokenizer '{name}'; allowed: byte, or bpe- and a vocabulary, such as bpe-4096")
    if not 257 <= int(size) <= 2**20:
        raise SpecError(f"tokenizer '{name}': a vocabulary of {size}; allowed: 257 (all bytes and the end) to {2**20}")
    return int(size)


def make_tokenizer(name: str, documents: Sequence[bytes]) -> Tokenizer:
    """The tokenizer of a name, trained on `documents` where it has to be.

    Raises:
        SpecError: an unknown name; MissingExtraError: `tokenizers` is not installed.
    """
    size = bpe_size(name)
    return ByteTokenizer() if name == "byte" else BPETokenizer.train(documents, size)


def encode_text(text: Text, tokenizer: str, cache_folder: str | os.PathLike[str]) -> TokenFile:
    """The text's tokens, from the cache or made now.

    The folder is made under another name and renamed when it is whole: processes that do so at once each get a whole one.

    Raises:
        SpecError: an unknown tokenizer; MissingExtraError: `tokenizers` is not installed.
        SchemaError: what lies in the cache is corrupt.
    """
    bpe_size(tokenizer)
    cache = Path(cache_folder)
    final = cache / f"{text.digest}-{tokenizer}"
    if final.is_dir():
        return open_tokens(final)
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=cache))
    try:
        made = make_tokenizer(tokenizer, text.train)
        train, valid = made.encode(text.train), made.encode(text.valid)
        np.save(part / "train.npy", train)
        np.save(part / "valid.npy", valid)
        made.save(part)
        meta = {
            **_SCHEMA,
            "data": text.name,
            "digest": text.digest,
            "tokenizer": tokenizer,
            "vocab_size": made.vocab_size,
            "bytes_per_token": text.valid_B / len(valid),
            "train_tokens": len(train),
            "valid_tokens": len(valid),
        }
        (part / _META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        os.chmod(part, 0o755)  # mkdtemp makes it private
        try:
            os.rename(part, final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return open_tokens(final)


def is_token_folder(path: Path) -> bool:
    """Whether `path` is what `encode_text` makes."""
    return (path / _META).is_file()


def open_tokens(folder: str | os.PathLike[str]) -> TokenFile:
    """A token folder.

    Raises:
        SchemaError: it is incomplete, corrupt or from a newer version.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        if meta.pop("schema") != _SCHEMA["schema"] or meta.pop("version") > _SCHEMA["version"]:
            raise SchemaError(f"{folder / _META} is no token folder that this codesign knows; update codesign")
        opened = TokenFile(folder=folder.resolve(), **meta)
        for split, count in (("train", opened.train_tokens), ("valid", opened.valid_tokens)):
            if (found := len(opened.tokens(split))) != count:
                raise SchemaError(f"{folder}: {split}.npy holds {found} tokens, not {count}; delete the folder")
        return opened
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{folder}: its tokens cannot be read ({error}); delete the folder") from error


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError.of("tokenizers", "train", "a BPE tokenizer") from error
    return tokenizers
