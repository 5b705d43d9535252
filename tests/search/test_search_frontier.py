"""frontier.jsonl, its JSON Schema, and the run's folder."""

from __future__ import annotations

import copy
import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from search_problems import problem, space

from codesign.errors import SchemaError, SpecError
from codesign.hf_config import read_config
from codesign.report import check_folder, run, write_run
from codesign.search import Frontier, read_frontier, search
from codesign.search.frontier import frontier_schema


@pytest.fixture(scope="module")
def frontier() -> Frontier:
    model = read_config("qwen2.5-0.5b")
    p = problem(space(vocab_size=(model.vocab_size,)))
    return search(p, baselines={"qwen2.5-0.5b": model}, provenance={"engine": "vllm", "codesign": "0"})


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(frontier_schema())
    return jsonschema.Draft202012Validator(frontier_schema())


def test_round_trip(frontier: Frontier, tmp_path: Path) -> None:
    text = frontier.to_jsonl()
    again = Frontier.from_jsonl(text)
    assert again == frontier and again.to_jsonl() == text
    (tmp_path / "frontier.jsonl").write_text(text)
    assert read_frontier(tmp_path) == read_frontier(tmp_path / "frontier.jsonl") == frontier
    head = json.loads(text.splitlines()[0])
    assert (head["schema"], head["version"]) == ("codesign.frontier", 1)


def test_files_that_are_no_frontier(frontier: Frontier, tmp_path: Path) -> None:
    lines = frontier.to_jsonl().splitlines()
    head = json.loads(lines[0])
    cut = json.loads(lines[2])
    del cut["architecture"]["d_model"]
    bad = copy.deepcopy(json.loads(lines[3]))
    bad["architecture"]["n_kv_heads"] = 5
    for text, fault in (
        ("", "is not a codesign.frontier file"),
        ("hello", "line 1 is not JSON"),
        ("[]", "is not a codesign.frontier file"),
        (json.dumps(head | {"schema": "codesign.other"}), "is not a codesign.frontier file"),
        (json.dumps(head | {"version": 2}), "version 2, this codesign reads 1; update"),
        ("\n".join([*lines[:2], "{", *lines[3:]]), "corrupt in line 3"),
        ("\n".join([*lines[:2], json.dumps(cut)]), "corrupt in line 3.*d_model"),
        ("\n".join([*lines[:3], json.dumps(bad)]), "corrupt in line 4.*n_kv_heads"),
        ("\n".join([lines[0], "3"]), "corrupt in line 2"),
        (json.dumps(head | {"baselines": [{}]}), "corrupt in line 1"),
    ):
        with pytest.raises(SchemaError, match=fault) as caught:
            Frontier.from_jsonl(text, "f.jsonl")
        assert "f.jsonl" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(SchemaError, match="cannot read the frontier"):
        read_frontier(tmp_path / "nothing")
    (tmp_path / "frontier.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SchemaError, match="cannot read the frontier"):
        read_frontier(tmp_path)


def test_every_line_of_a_run_meets_the_schema(frontier: Frontier, validator: jsonschema.Draft202012Validator) -> None:
    other = [
        search(problem(objectives=("loss", "latency", "energy"), latency_s=0.02, energy_J=0.5, confidence=0.9)),
        search(problem(tokens=1e9, allow_extrapolation=True), solver="heuristic", evaluations=200),
    ]
    for f in (frontier, *other):
        header, *candidates = (json.loads(line) for line in f.to_jsonl().splitlines())
        validator.validate(header)
        assert candidates
        for line in candidates:
            validator.validate(line)


MUTATIONS: list[tuple[str, Any]] = [
    ("name", 3), ("loss", "low"), ("loss_std", -1), ("p_front", 1.5), ("p_budget", None), ("marks", ["strange"]),
    ("marks", "prior:kv"), ("values", {}), ("intervals", {"loss": [1]}), ("intervals", {}), ("architecture", {}),
    ("extra", 1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), MUTATIONS)
def test_a_changed_candidate_does_not(
    key: str, value: Any, frontier: Frontier, validator: jsonschema.Draft202012Validator
) -> None:
    line = frontier.candidates[0].to_json()
    assert validator.is_valid(line)
    assert not validator.is_valid(line | {key: value})
    if key != "extra":
        assert not validator.is_valid({k: v for k, v in line.items() if k != key})


@pytest.mark.parametrize(
    ("key", "value"),
    [("schema", "x"), ("version", 2), ("seed", -1), ("objectives", ["loss"]), ("budget", {"confidence": 0.5}),
     ("certificate", "sure"), ("rates", {}), ("device", {}), ("baselines", [{}]), ("tokens", 0)],
)  # fmt: skip
def test_a_changed_header_does_not(
    key: str, value: Any, frontier: Frontier, validator: jsonschema.Draft202012Validator
) -> None:
    head = json.loads(frontier.to_jsonl().splitlines()[0])
    assert validator.is_valid(head)
    assert not validator.is_valid(head | {key: value})
    assert not validator.is_valid({k: v for k, v in head.items() if k != key})


# ---- the folder


def test_the_folder_has_every_file(frontier: Frontier, tmp_path: Path) -> None:
    folder = write_run(frontier, tmp_path / "a" / "run")
    names = {f"design-{i}" for i in range(1, len(frontier.candidates) + 1)}
    assert {p.name for p in folder.iterdir()} == names | {"frontier.jsonl", "frontier.csv", "pareto.png"}
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG") and (
        folder / "pareto.png"
    ).stat().st_size > 20_000
    assert read_frontier(folder) == frontier
    rows = list(csv.DictReader(io.StringIO((folder / "frontier.csv").read_text())))
    assert len(rows) == len(frontier.candidates)
    for row, c in zip(rows, frontier.candidates, strict=True):
        assert row["name"] == c.name and float(row["loss"]) == c.loss
        assert int(row["n_layers"]) == c.architecture.n_layers
        assert float(row["latency_s"]) == c.values["latency_s"]
        assert (float(row["latency_s_low90"]), float(row["latency_s_high90"])) == c.intervals["latency_s"]
        assert row["marks"].split() == list(c.marks)
        assert read_config(str(folder / c.name)) == c.architecture
    assert [p.name for p in folder.parent.iterdir()] == ["run"]


def test_a_run_replaces_a_run_and_nothing_else(frontier: Frontier, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_run(frontier, folder, plot=False)
    mine = (folder / "report.html", folder / "design-1" / "model.onnx", folder / "notes" / "deep" / "a.txt")
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("keep")
    (folder / "design-1" / "config.json").write_text("{}")
    told: list[Path] = []
    write_run(frontier, folder, plot=False, on_kept=told.append)
    assert all(path.read_text() == "keep" for path in mine) and not told and not (folder / "pareto.png").exists()
    assert read_config(str(folder / "design-1")) == frontier.candidates[0].architecture
    fewer = replace(frontier, candidates=frontier.candidates[:2])
    for k in (1, 2):
        write_run(fewer if k == 1 else frontier, folder, plot=False, on_kept=told.append)
        assert told[-1] == tmp_path / f"run.old-{k}" and not mine[0].exists()
    assert (tmp_path / "run.old-1" / "design-1" / "model.onnx").read_text() == "keep"
    assert read_frontier(folder) == frontier and read_frontier(told[1]) == fewer and not list(tmp_path.glob(".*"))
    (tmp_path / "empty").mkdir()
    write_run(frontier, tmp_path / "empty", plot=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for place in (tmp_path / "mine", tmp_path / "file", tmp_path / "file" / "below", Path("/"), Path(), Path("..")):
        for act in (lambda f: write_run(frontier, f, plot=False), check_folder):
            with pytest.raises(SpecError, match="give a"):
                act(place)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "keep"


@pytest.mark.parametrize("error", [RuntimeError("drawing"), KeyboardInterrupt(), OSError("disk full")])
def test_an_interrupted_write_leaves_nothing(
    frontier: Frontier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(run, "plot_frontier", fail)
    with pytest.raises(SpecError if isinstance(error, OSError) else type(error)):
        write_run(frontier, tmp_path / "new")
    assert not list(tmp_path.iterdir())
    write_run(frontier, tmp_path / "old", plot=False)
    before = (tmp_path / "old" / "frontier.jsonl").read_bytes()
    with pytest.raises(SpecError if isinstance(error, OSError) else type(error)):
        write_run(frontier, tmp_path / "old")
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "frontier.jsonl").read_bytes() == before


def test_a_frontier_without_the_command_lines_provenance_is_written(tmp_path: Path) -> None:
    write_run(search(problem()), tmp_path / "run")
    assert (tmp_path / "run" / "pareto.png").is_file()


def test_configs_build_models_of_exactly_the_predicted_parameters(tmp_path: Path) -> None:
    """transformers, on the meta device: nothing is allocated."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    frontier = search(problem(objectives=("loss", "latency", "memory")))
    folder = write_run(frontier, tmp_path / "run", plot=False)
    dense = [c for c in frontier.candidates if not c.architecture.n_experts]
    mixtures = [c for c in frontier.candidates if c.architecture.n_experts]
    assert len(dense) >= 4 and len(mixtures) >= 4
    for c in (*dense[:: len(dense) // 4][:4], *mixtures[:: len(mixtures) // 4][:4]):
        config = transformers.AutoConfig.from_pretrained(folder / c.name)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        assert sum(p.numel() for p in model.parameters()) == c.values["params"], c.name
    for path in folder.glob("design-*/config.json"):
        transformers.AutoConfig.from_pretrained(path.parent)
