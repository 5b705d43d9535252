"""`codesign fit` as it is typed: runs of the store or a CSV, what is refused, and the search that follows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import codesign

sys.path.insert(0, str(Path(__file__).parents[1] / "predictors"))
from loss_rows import loss_of, shapes, write_rows

from codesign.cli import main
from codesign.store import Store
from codesign.training_run import CurvePoint, Recipe, TrainingRun

LAW = ("--predictors", "law")


def runs(count: int = 16, **changes: Any) -> list[TrainingRun]:
    """Finished runs of a campaign `first`; keywords change the recipe or the run."""
    recipe = {"tokens": 4_000_000, "batch_tokens": 2048, "seq_len": 128}
    recipe.update({k: changes.pop(k) for k in list(changes) if k in Recipe.__dataclass_fields__})
    made = []
    for arch in shapes(count, changes.pop("shape_seed", 0)):
        r = Recipe(**{"lr": 0.35 / arch.d_model, **recipe})
        point = CurvePoint(step=r.steps, tokens=r.tokens, train_loss=2.0, valid_loss=2.0, lr=r.lr, seconds=1.0)
        values = {"architecture": arch, "recipe": r, "status": "finished", "loss": loss_of(arch, r.tokens), "curve": (point,),
                  "tokens_seen": r.tokens, "seconds": 1.0, "data": "python-3.11-stdlib", "data_digest": "d1", "tokenizer": "bpe-4096",
                  "campaign": "first"}  # fmt: skip
        made.append(TrainingRun(**{**values, **changes}))
    return made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODESIGN_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("CODESIGN_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(*groups: list[TrainingRun]) -> None:
    with Store() as store:
        for group in groups:
            store.add_runs(group)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of an error."""
    assert main(["fit", *arguments]) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.count("\n") == 1
    return told.err


def test_runs_of_the_store(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = runs(2, status="diverged", loss=None, reason="loss is nan", shape_seed=5)
    stopped = runs(1, status="stopped", loss=None, shape_seed=6)
    stored(runs(), lost, stopped)
    assert main(["fit", "--campaign", "first", *LAW]) == 0
    told = " ".join(capsys.readouterr().out.split())  # it wraps to the width of the screen
    assert (
        "16 runs on python-3.11-stdlib (bpe-4096), 15 shapes; 2 left out: marked diverged; 1 left out: marked stopped"
        in told
    )
    assert "parameters alone" in told
    assert (
        "next: codesign search --device orin --latency 20ms --allow-extrapolation --loss-law loss-first.json --space loss-first.space.toml"
        in told
    )
    data = json.loads((home / "loss-first.json").read_text())
    assert data["schema"] == "codesign.loss_surrogate"
    assert data["source"]["excluded"] == {"marked diverged": 2, "marked stopped": 1}
    first = (home / "loss-first.json").read_bytes()
    assert main(["fit", "--data", "stdlib", "--campaign", "first", *LAW, "--out", "loss-first.json", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == "codesign.fit"
    assert shown["chosen"] == "law"
    assert (home / "loss-first.json").read_bytes() == first
    assert not list(home.glob(".*part*"))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"data": "novels", "data_digest": "d2"}, "2 texts (python-3.11-stdlib: 16, novels: 3): their losses do not compare; choose one: --data python-3.11-stdlib"),
        ({"data_digest": "d2"}, "2 versions of the text 'python-3.11-stdlib' (d1: 16, d2: 3 runs): their losses do not compare; choose one: --where data_digest=d1"),
        ({"tokenizer": "byte"}, "2 tokenizers (bpe-4096: 16, byte: 3): their losses do not compare; choose one: --tokenizer bpe-4096"),
        ({"seq_len": 256}, "2 recipes that differ in seq_len (128: 16, 256: 3 runs): their losses do not compare; choose one: --where seq_len=128"),
        ({"weight_decay": 0.3}, "differ in weight_decay"),
    ],
)  # fmt: skip
def test_runs_that_do_not_compare_are_refused(
    more: dict[str, Any], text: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(runs(), runs(3, campaign="second", shape_seed=1, **more))
    assert text in refused(capsys, *LAW)
    name = next(iter(more))
    kept = {
        "data": ["--data", "stdlib"],
        "tokenizer": ["--tokenizer", "bpe-4096"],
        "data_digest": ["--where", "data_digest=d1"],
    }
    kept |= {"seq_len": ["--where", "seq_len=128"], "weight_decay": ["--where", "weight_decay=0.1"]}
    assert main(["fit", *kept[name], *LAW, "--out", "x.json"]) == 0
    assert main(["fit", "--campaign", "first", *LAW, "--out", "y.json"]) == 0


def test_too_few_or_no_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no training runs in" in refused(capsys)
    assert "no training runs yet in" in refused(capsys, "--campaign", "first")
    assert "no store at" in refused(capsys, "--store", "nowhere.sqlite")
    stored(runs(7), runs(2, status="stopped", loss=None, shape_seed=6))
    assert "7 finished runs (2 others did not finish) are too few to fit; at least 12 are needed, 5 more: codesign train --plan 5" in refused(capsys)  # fmt: skip
    assert "unknown campaign 'fist'; did you mean 'first'?" in refused(capsys, "--campaign", "fist")
    assert "unknown column of training runs 'seqlen'; did you mean 'seq_len'?" in refused(capsys, "--where", "seqlen=3")
    assert "no training runs with --where seq_len=3" in refused(capsys, "--where", "seq_len=3")
    assert "'seq_len' is no condition" in refused(capsys, "--where", "seq_len")


def test_bad_tables_and_options(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_rows(home / "rows.csv", 14))
    assert "no file 'nowhere.csv'" in refused(capsys, "--from", "nowhere.csv")
    assert "unknown column of 'rows.csv' 'los'" in refused(capsys, "--from", path, "--target", "los")
    assert "unknown column of 'rows.csv' 'colour'" in refused(capsys, "--from", path, "--group", "colour")
    assert "did you mean 'law + gp'?" in refused(capsys, "--from", path, "--predictors", "law + gb")
    assert "must end in .json" in refused(capsys, "--from", path, *LAW, "--out", "law.txt")
    assert "no folder nowhere" in refused(capsys, "--from", path, *LAW, "--out", "nowhere/law.json")
    assert "--campaign chooses among runs of the store" in refused(capsys, "--from", path, "--campaign", "first")
    assert "--target goes with --from" in refused(capsys, "--target", "accuracy")
    assert "5 usable rows; at least 12 are needed, 7 more" in refused(
        capsys, "--from", str(write_rows(home / "few.csv", 5))
    )
    text = (home / "rows.csv").read_text().replace("made-up", "other", 3)
    (home / "mixed.csv").write_text(text)
    assert "mixes 2 values of 'dataset_id'" in refused(capsys, "--from", "mixed.csv")


def test_from_a_table_to_a_frontier(tmp_path: Path) -> None:
    """Fit, search and predict in processes of their own: the law's own tokens and vocabulary are the defaults."""
    write_rows(tmp_path / "rows.csv", 24)
    done = codesign(tmp_path, "fit", "--from", "rows.csv", "--predictors", "law", "--out", "mine.json", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "24 rows of rows.csv, 22 shapes" in done.stdout
    (tmp_path / "space.toml").write_text(
        '[axes]\nvocab_size = 4096\nd_head = [32]\nn_kv_heads = [1, 2]\nn_layers = [2, 4, 8]\nd_model = [64, 128, 192]\n'
        'ffn_ratio = [2.75, 4.0]\nexperts = ["dense"]\n'
    )  # fmt: skip
    searched = codesign(
        tmp_path, "search", "--device", "orin", "--latency", "5ms", "--loss-law", "mine.json", "--space", "space.toml",
        "--allow-extrapolation", "--no-plot", "--json", "--out", "run",
    )  # fmt: skip
    assert searched.returncode == 0, searched.stderr
    head, *rows = (json.loads(line) for line in searched.stdout.splitlines())
    law = json.loads((tmp_path / "mine.json").read_text())
    assert head["law"]["name"] == "mine"
    assert head["tokens"] == law["tokens"]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses == sorted(losses, reverse=True)
    assert 2.0 < min(losses) < 3.5
    beyond = codesign(tmp_path, "search", "--device", "orin", "--latency", "5ms", "--loss-law", "mine.json", "--tokens", "10B",
                      "--space", "space.toml")  # fmt: skip
    assert beyond.returncode == 2
    assert "no design of the space is possible and lies inside the range that the loss law 'mine'" in beyond.stderr
    design = next((tmp_path / "run").glob("design-*/config.json"))
    predicted = codesign(
        tmp_path, "predict", str(design), "--device", "orin", "--tokens", "4M", "--loss-law", "mine.json", "--json"
    )
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(predicted.stdout)["law"] == "mine"


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    done = codesign(tmp_path, "fit", "--help")
    assert done.returncode == 0
    assert "--best-recipes" in done.stdout
