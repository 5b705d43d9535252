"""Reading a table of candidates: what counts, what is dropped and told, and what becomes a feature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codesign.errors import CodesignError
from codesign.search.table import CandidateTable, parse_bound, parse_goal, read_candidates
from codesign.search.table_features import cell_features, features_of, parse_cell

TEXT = """name,depth,lat,acc
a,1,2.0,50
b,2,nan,
c,3,4.0,nan
d,4,,60
e,5,0.1,10
f,6,6.0,
"""


def read(
    tmp_path: Path, text: str = TEXT, quality: str = "acc:max", cost: str = "lat", **bounds: str
) -> CandidateTable:
    file = tmp_path / "t.csv"
    file.write_text(text)
    made = [parse_bound(value, least=kind == "least") for kind, value in bounds.items()]
    return read_candidates(file, parse_goal(quality, "--quality"), [parse_goal(cost, "--cost", "min")], made)


def test_what_counts_and_what_is_dropped(tmp_path: Path) -> None:
    table = read(tmp_path, least="lat=0.5")
    assert table.dropped == {"no number in lat": 2, "lat below 0.5": 1}
    assert table.line.tolist() == [1, 3, 6]
    assert table.cost[:, 0].tolist() == [2.0, 4.0, 6.0]
    assert table.asked.tolist() == [True, True, False]  # nan: trained, came to nothing
    assert table.value[0] == -50.0 and np.isnan(table.value[1:]).all()  # max is negated


def test_a_bound_on_the_quality_drops_no_row(tmp_path: Path) -> None:
    table = read(tmp_path, least="acc=20")
    assert len(table) == 4 and table.allowed(table.value).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("changes", "told"),
    {
        "misspelt quality": ({"quality": "ac:max"}, "unknown column of 't.csv' 'ac'; did you mean 'acc'?"),
        "misspelt cost": ({"cost": "latt"}, "did you mean 'lat'?"),
        "misspelt bound": ({"least": "latt=1"}, "did you mean 'lat'?"),
        "no direction": ({"quality": "acc"}, "--quality 'acc' needs a direction"),
        "unknown direction": ({"quality": "acc:up"}, "--quality 'acc:up' needs a direction"),
        "no bound": ({"least": "lat>1"}, "--min 'lat>1' is not COLUMN=NUMBER"),
        "quality as cost": ({"cost": "acc"}, "both quality and cost"),
        "nothing usable": ({"least": "lat=100"}, "has no usable row"),
        "no rows": ({"text": "a,b\n"}, "has no rows"),
        "ragged": ({"text": "acc,lat\n1,2\n3\n"}, "row 2 has 1 cells, the header 2"),
        "twice": ({"text": "acc,lat,lat\n1,2,3\n"}, "has the column 'lat' twice"),
        "words": ({"text": "acc,lat\nhigh,2\n"}, "row 1: acc is 'high'; allowed: a number"),
    }.values(),
)
def test_bad_tables(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    with pytest.raises(CodesignError) as caught:
        read(tmp_path, **changes)
    assert told in str(caught.value)


def test_features_leave_out_names_constants_and_gaps(tmp_path: Path) -> None:
    text = "id,name,same,gap,kind,depth,lat,acc\n" + "".join(
        f"{i},m{i},1,{'' if i == 4 else i},{'ab'[i % 2]},{i % 3},{i},\n" for i in range(1, 9)
    )
    found = features_of(read(tmp_path, text), ignore=["lat"])
    assert found.number_names == ("depth",) and found.label_names == ("kind",)
    assert found.left_out == {
        "id": "a number of rows", "name": "a name of rows", "same": "constant", "gap": "1 empty cells"
    }  # fmt: skip
    with pytest.raises(CodesignError, match="column 'gap' cannot be a feature: 1 empty cells"):
        features_of(read(tmp_path, text), ["gap"])
    with pytest.raises(CodesignError, match="did you mean 'depth'"):
        features_of(read(tmp_path, text), ["dept"])
    assert features_of(read(tmp_path, text), ["dep*"], labels=["depth"]).label_names == ("depth",)


def test_counts_along_the_paths_of_a_cell_by_hand() -> None:
    """Nodes 0 to 3, operations n (none), s (skip), a and b (layers).

    Row 1: e01 a, e02 n, e12 b, e03 s, e13 n, e23 a: paths 0-3 (s) and 0-1-2-3 (a b a) live.
    Row 2: e01 a, e02 n, e12 n, e03 n, e13 n, e23 a: none lives, so its layers do nothing.
    Row 3: e01 a, e02 b, e12 n, e03 n, e13 s, e23 s: 0-1-3 (a s) and 0-2-3 (b s).
    """
    edges = {"e01": "aaa", "e02": "nnb", "e12": "bnn", "e03": "snn", "e13": "nns", "e23": "aas"}
    found = cell_features({name: list(text) for name, text in edges.items()}, parse_cell("none=n,layers=a+b"))
    expected = {
        "paths": [2, 0, 2], "longest": [3, 0, 2], "paths_0_layers": [1, 0, 0], "paths_1_layers": [0, 0, 2],
        "paths_3_layers": [1, 0, 0], "layers_most": [3, 0, 1], "layers_sum": [3, 0, 2], "a_edges": [2, 0, 1], "b_edges": [1, 0, 1],
        "s_edges": [1, 0, 2], "a_most": [2, 0, 1], "a_paths": [1, 0, 1], "s_paths": [1, 0, 2], "s_only": [1, 0, 0],
    }  # fmt: skip
    assert {name: found[f"cell:{name}"].astype(int).tolist() for name in expected} == expected


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("none=0", "is not none=OPERATION,layers="),
        ("none=n,layers=z", "no edge has the operation 'z'"),
    ],
)
def test_bad_cells(cell: str, told: str) -> None:
    with pytest.raises(CodesignError, match=told):
        cell_features({"e01": ["a", "n"]}, parse_cell(cell))


def test_a_cell_needs_edges(tmp_path: Path) -> None:
    with pytest.raises(CodesignError, match="no columns named eij"):
        features_of(read(tmp_path), cell=parse_cell("none=0,layers=1"))
