"""Design spaces by name and from TOML."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from codesign.errors import CodesignError, SpecError
from codesign.search import DesignSpace, default_space, load_space, paper_space


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_named_spaces() -> None:
    """Default: 9 expert settings x 2 head sizes x 5 KV counts x 77 depths x 45 widths x 13 ratios."""
    assert load_space("default", ["fp16", "int8"], 32000).size == 2 * 9 * 2 * 5 * 77 * 45 * 13
    assert load_space("paper", ["fp16"], 32000) == paper_space(["fp16"], 32000)
    paper = paper_space()
    assert paper.size == 2 * 5 * 5 * 8 * 9 * 5
    assert default_space().size == 4_054_050


def test_a_file_overrides_axes_and_options(tmp_path: Path) -> None:
    text = """
    ff_multiple = 128
    tied_embeddings = false
    [axes]
    n_layers = { from = 4, to = 12, step = 4 }
    d_model = [512, 768]
    ffn_ratio = { from = 2.5, to = 3.0, step = 0.25 }
    experts = ["dense", "8x2"]
    precision = ["half", "q4_k_m"]
    """
    space = load_space(write(tmp_path, text), ["int8"], 1000)
    assert space.axes["n_layers"] == (4, 8, 12) and space.axes["ffn_ratio"] == (2.5, 2.75, 3.0)
    assert space.axes["experts"] == ((0, 0), (8, 2)) and space.axes["precision"] == ("fp16", "q4_k_m")
    assert space.axes["vocab_size"] == (1000,) and space.axes["d_head"] == default_space().axes["d_head"]
    assert (space.name, space.ff_multiple, space.tied_embeddings) == ("mine", 128, False)
    assert all(not arch.tied_embeddings and arch.d_ff % 128 == 0 for _, arch in [space.point(0)])


def test_one_value_is_a_list_of_one_and_plain_ffns_are_nemotron(tmp_path: Path) -> None:
    space = load_space(
        write(tmp_path, 'ffn_gated = false\n[axes]\nexperts = "dense"\nn_layers = 12\nd_head = 64\n'), ["fp16"], 100
    )
    arch = space.point(space.linear([0] * 9))[1]
    assert (arch.n_layers, arch.family, arch.ffn_gated) == (12, "nemotron", False)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no \\[axes\\] table"),
        ("axes = 3", "no \\[axes\\] table"),
        ("[axes", "cannot read the design space"),
        ("[axes]\nn_layer = [3]", "unknown axis 'n_layer'; did you mean 'n_layers'"),
        ("ff_multiples = 3\n[axes]", "unknown option 'ff_multiples'; did you mean 'ff_multiple'"),
        ("ff_multiple = 0\n[axes]", "ff_multiple is 0"),
        ("ff_multiple = true\n[axes]", "ff_multiple is True"),
        ("tied_embeddings = 1\n[axes]", "tied_embeddings is 1; allowed: a bool"),
        ("[axes]\nn_layers = []", "no values for 'n_layers'"),
        ("[axes]\nn_layers = [4, 4]", "holds a value twice"),
        ("[axes]\nn_layers = [[4, 8]]", "not a whole number"),
        ("[axes]\nn_layers = [4.5]", "4.5 is not a whole number"),
        ("[axes]\nn_layers = '12'", "'12' is not a whole number"),
        ("[axes]\nn_layers = [true]", "True is not a whole number"),
        ("[axes]\nn_layers = [0]", "0 is not a whole number of at least 1"),
        ("[axes]\nd_model = [10000000000]", "at most 1e\\+09"),
        ("[axes]\nffn_ratio = [nan]", "nan is not a number above zero"),
        ("[axes]\nffn_ratio = [inf]", "inf is not a number above zero"),
        ("[axes]\nffn_ratio = [1e300]", "at most 1e\\+09"),
        ("[axes]\nffn_ratio = [true]", "True is not a number"),
        ("[axes]\nffn_ratio = ['4']", "'4' is not a number"),
        ("[axes]\nn_layers = {from = 1, to = inf}", "must be numbers"),
        ("[axes]\nn_layers = {from = 1, to = 9, step = nan}", "must be numbers"),
        ("[axes]\nn_layers = {from = 1, to = 9, step = 0}", "step above zero"),
        ("[axes]\nn_layers = {from = 1, to = '9'}", "must be numbers"),
        ("[axes]\nn_layers = {from = 9, to = 1}", "values; allowed: 1 to 100000"),
        ("[axes]\nn_layers = {from = 1, to = 1000000}", "1000000 values; allowed: 1 to 100000"),
        ("[axes]\nn_layers = {from = 1}", "from = .., to = .."),
        ("[axes]\nn_layers = {from = 1, to = 3, by = 1}", "from = .., to = .."),
        ("[axes]\nexperts = [8]", "neither dense nor ExK"),
        ("[axes]\nexperts = ['8x9']", "8x9 is not E experts"),
        ("[axes]\nexperts = ['8x2', '8X2']", "holds a value twice"),
        ("ffn_gated = false\n[axes]", "no known model family"),
        ("[axes]\nprecision = ['fp17']", "unknown precision 'fp17'; did you mean 'fp16'"),
        ("[axes]\nprecision = ['fp16', 'half']", "holds a value twice"),
        (
            "[axes]\n" + "\n".join(f"{a} = {{from = 1, to = 90000}}" for a in ("n_layers", "d_model", "d_head", "n_kv_heads")),
            "points; at most",
        ),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_one_line(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(CodesignError, match=fault) as caught:
        load_space(write(tmp_path, text), ["fp16"], 50304)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("nowhere", str(tmp_path), "defaults"):
        with pytest.raises(SpecError, match="no design space"):
            load_space(name, ["fp16"], 50304)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="cannot read"):
        load_space(str(tmp_path / "bytes.toml"), ["fp16"], 50304)


def test_sizes_are_products_whatever_their_size() -> None:
    axes = dict(default_space().axes) | {
        "d_model": tuple(range(64, 64_064, 2)),
        "ffn_ratio": tuple(1 + i / 1e4 for i in range(50_000)),
    }
    space = DesignSpace(axes=axes)
    assert space.size == math.prod(space.lengths) > 1e12
    assert space.linear(space.indices(space.size - 1)) == space.size - 1
    assert space.coarser(1e6).size <= 1e6
