"""Reading text: what is skipped, how it is split, and that the same text gives the same digest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_specs import write_corpus

from codesign.errors import SpecError
from codesign.training.text import _cut, load_text


def test_what_is_skipped(tmp_path: Path) -> None:
    write_corpus(tmp_path, 60)
    (tmp_path / "binary.txt").write_bytes(b"a\0b" * 10)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 10)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "zz_copy.txt").write_bytes((tmp_path / "doc000.txt").read_bytes())
    (tmp_path / ".hidden.txt").write_text("hidden")
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    (cache / "x.txt").write_text("cached")
    os.mkfifo(tmp_path / "pipe.txt")  # reading it would wait for ever
    (tmp_path / "loop").symlink_to(tmp_path)
    text = load_text(tmp_path)
    assert text.skipped == {"binary": 1, "duplicate": 1, "empty": 1, "no regular file": 1, "not UTF-8": 1}
    whole = b"".join(text.train + text.valid)
    assert b"hidden" not in whole and b"cached" not in whole


def test_split_by_document(tmp_path: Path) -> None:
    text = load_text(write_corpus(tmp_path, 200))
    assert text.by_document and not set(text.train) & set(text.valid)
    assert len(text.train) + len(text.valid) == 200 and 2 <= len(text.valid) <= 20
    again = load_text(tmp_path)
    assert again.digest == text.digest and again.valid == text.valid
    (tmp_path / "doc000.txt").write_text("other")
    assert load_text(tmp_path).digest != text.digest


def test_a_document_stays_in_its_split_when_others_come(tmp_path: Path) -> None:
    before = load_text(write_corpus(tmp_path, 100))
    write_corpus(tmp_path, 200)
    assert set(before.valid) <= set(load_text(tmp_path).valid)


def test_a_single_file_gives_its_end(tmp_path: Path) -> None:
    lines = [f"line {i} of the file\n" for i in range(2000)]
    path = tmp_path / "one.txt"
    path.write_text("".join(lines))
    text = load_text(path)
    assert not text.by_document and text.name == "one.txt"
    (head,), (tail,) = text.train, text.valid
    assert head + tail == path.read_bytes() and head.endswith(b"\n")
    assert 0.04 < text.valid_B / (text.train_B + text.valid_B) < 0.06


def test_suffixes(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    (tmp_path / "x.py").write_text("print()\n" * 5000)
    assert load_text(tmp_path, [".py"]).train_B < 50_000
    with pytest.raises(SpecError, match=r"0 bytes of text with suffix .md in 0 file\(s\)"):
        load_text(tmp_path, [".md"])


def test_too_little_and_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(SpecError, match="holds 5 bytes of text in 1 file.*at least 20,000"):
        load_text(tmp_path)
    with pytest.raises(SpecError, match="no text at '/nowhere'; give a file, a folder, or 'stdlib'"):
        load_text("/nowhere")


@given(st.text(min_size=1, max_size=300), st.floats(0.01, 0.49))
def test_a_cut_keeps_every_byte_and_no_broken_character(text: str, share: float) -> None:
    head, tail = _cut(text.encode(), share)
    assert (head.decode() + tail.decode()) == text
