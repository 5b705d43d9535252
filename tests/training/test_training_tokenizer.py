"""Tokenizers: what goes in comes out, the same text gives the same tokens, and the cache is never half a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_specs import write_corpus

from codesign.errors import SchemaError, SpecError
from codesign.training.text import load_text
from codesign.training.tokenizer import BPETokenizer, ByteTokenizer, bpe_size, encode_text, open_tokens

TEXTS = st.lists(
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=60), max_size=4
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return load_text(write_corpus(tmp_path_factory.mktemp("tokens") / "corpus"))


@pytest.fixture(scope="module")
def bpe(text) -> BPETokenizer:
    pytest.importorskip("tokenizers")
    return BPETokenizer.train(text.train, 300)


@given(TEXTS)
def test_bytes_round_trip(texts: list[str]) -> None:
    documents = [t.encode() for t in texts]
    tokens = ByteTokenizer().encode(documents)
    assert bytes(tokens.astype(np.uint8)) == b"".join(d + b"\0" for d in documents)
    assert (tokens < 256).all()


@settings(max_examples=50)
@given(texts=TEXTS)
def test_bpe_round_trip(bpe: BPETokenizer, texts: list[str]) -> None:
    tokens = bpe.encode([t.encode() for t in [*texts, "<|endoftext|> spelt out"]])
    assert (tokens < bpe.vocab_size).all()
    ends = np.flatnonzero(tokens == 0)
    assert len(ends) == len(texts) + 1, "one end of text a document, though one spells its name"
    parts = np.split(tokens, ends + 1)[:-1]
    assert [bpe.inner.decode(part[:-1].tolist()) for part in parts] == [*texts, "<|endoftext|> spelt out"]


def test_bpe_is_deterministic_and_shorter(text, bpe, tmp_path: Path) -> None:
    again = BPETokenizer.train(text.train, 300)
    assert again.inner.to_str() == bpe.inner.to_str() and bpe.vocab_size <= 300
    assert len(bpe.encode(text.valid)) < 0.7 * text.valid_B
    bpe.save(tmp_path)
    back = BPETokenizer.load(tmp_path, "bpe-300")
    assert np.array_equal(back.encode(text.valid), bpe.encode(text.valid))


@pytest.mark.parametrize("name", ["byte", "bpe-300"])
def test_the_cache(text, tmp_path: Path, name: str) -> None:
    pytest.importorskip("tokenizers")
    first = encode_text(text, name, tmp_path)
    stamp = (first.folder / "train.npy").stat().st_mtime_ns
    assert encode_text(text, name, tmp_path) == first == open_tokens(first.folder)
    assert (first.folder / "train.npy").stat().st_mtime_ns == stamp
    assert first.bytes_per_token == pytest.approx(text.valid_B / len(first.tokens("valid")))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_corrupt_cache(text, tmp_path: Path) -> None:
    tokens = encode_text(text, "byte", tmp_path)
    whole = (tokens.folder / "valid.npy").read_bytes()
    (tokens.folder / "valid.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SchemaError, match="cannot be read .*delete the folder"):
        encode_text(text, "byte", tmp_path)
    (tokens.folder / "valid.npy").write_bytes(whole)
    meta = json.loads((tokens.folder / "tokens.json").read_text())
    (tokens.folder / "tokens.json").write_text(json.dumps({**meta, "version": 99}))
    with pytest.raises(SchemaError, match="update codesign"):
        open_tokens(tokens.folder)


@pytest.mark.parametrize("name", ["word", "bpe", "bpe-x", "bpe-256", "bpe-99999999", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(SpecError, match="allowed"):
        bpe_size(name)
