"""Losses of one's own runs as a loss law: what it predicts, how its file reads, what is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loss_rows import loss_of, shapes, write_rows

from codesign.architecture import Architecture, ArchitectureBatch
from codesign.errors import SchemaError, SpecError
from codesign.predictors import load_law
from codesign.predictors.fitted import SurrogateLaw
from codesign.predictors.fitted_file import surrogate_text
from codesign.predictors.fitted_fit import fit_surrogate
from codesign.predictors.fitted_model import FittedModel, rows_frame
from codesign.predictors.fitted_space import space_of, space_text
from codesign.predictors.loss_table import read_loss_table
from codesign.search import DesignSpace, load_space

NAMES = ("law", "law + gp", "gp", "stack")


def fitted(path: Path, predictors: Any = NAMES, **changes: Any) -> tuple[dict[str, Any], Any]:
    table = read_loss_table(path)
    return fit_surrogate(
        table, name="mine", dataset="made-up rows", command=["codesign", "fit"], source={"name": "mine"}, predictors=predictors, **changes
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any, SurrogateLaw]:
    folder = tmp_path_factory.mktemp("fitted")
    data, staged = fitted(write_rows(folder / "rows.csv", tokens=(2e6, 4e6, 8e6)))
    (folder / "mine.json").write_text(surrogate_text(data), encoding="utf-8")
    law = load_law(folder / "mine.json")
    assert isinstance(law, SurrogateLaw)
    return data, staged, law


def middle(**changes: Any) -> Architecture:
    base = Architecture(n_layers=6, d_model=128, n_heads=4, n_kv_heads=2, d_head=32, d_ff=512, vocab_size=4096)
    return base.evolve(**changes)


def test_recovers_the_law_that_made_the_rows(made: Any) -> None:
    """40 rows with 0.2 % noise: other shapes within 1 % each, 0.4 % on average, and the stated 90 % interval is honest."""
    _, _, law = made
    others = shapes(60, seed=9)
    mean, std = law.predict(ArchitectureBatch.of(others), 4e6, return_std=True)
    truth = np.array([loss_of(arch, 4e6) for arch in others])
    error = np.abs(mean / truth - 1)
    assert error.mean() < 0.004
    assert error.max() < 0.015
    assert (np.abs(mean - truth) < 1.645 * std).mean() > 0.75


def test_a_file_predicts_what_the_fit_did(made: Any) -> None:
    data, staged, law = made
    frame = rows_frame(data)
    np.testing.assert_allclose(FittedModel(data).mean(frame), staged.predict(frame), rtol=1e-9)
    mean, std = staged.predict(frame, return_std=True)
    np.testing.assert_allclose(np.stack(FittedModel(data).mean_std(frame)), np.stack([mean, std]), rtol=1e-7)
    assert law.summary().startswith("mine: ")
    assert law.training_tokens in (2e6, 4e6, 8e6)
    assert law.vocab_size == 4096


def test_a_stack_predicts_what_the_fit_did(made: Any) -> None:
    """With the stack in use, in place of whatever won."""
    data, staged, _ = made
    weights = {name: weight for name, weight in staged.weights_.items() if weight >= 0.05}
    stack = staged.members_["stack"]
    part = {"weights": weights, "scale": stack.correction_.scale, "drift": stack.drift_, "factors": {}}
    model = FittedModel({**data, "chosen": "stack", "chosen_beyond": "stack", "parts": {"stack": part}})
    frame = rows_frame(data)
    np.testing.assert_allclose(
        np.stack(model.mean_std(frame)), np.stack(stack.predict(frame, return_std=True)), rtol=1e-7
    )


def test_meshes_batches_and_single_models_agree(made: Any) -> None:
    _, _, law = made
    space = DesignSpace(axes={"precision": ("fp16",), "vocab_size": (4096,), "experts": ((0, 0),), "d_head": (32,), "n_kv_heads": (2,),
                              "n_layers": (2, 5, 9), "d_model": (64, 128, 192), "ffn_ratio": (2.75, 4.0)})  # fmt: skip
    (block,) = space.blocks()
    mesh, std = law.predict(block.arch, 4e6, return_std=True)
    assert mesh.shape == std.shape == block.shape
    for index in ((0, 1, 1), (2, 2, 0)):
        one = block.arch.pick(index)
        mean, own = law.predict(one, 4e6, return_std=True)
        np.testing.assert_allclose([mesh[index], std[index]], [mean, own], rtol=1e-9)
    twice = law.predict(middle(), np.array([2e6, 8e6]))
    assert twice.shape == (2,)
    assert twice[0] > twice[1]


def test_errors_move_together(made: Any) -> None:
    """Drawn errors have the stated spread; a difference is surer than two losses apart; a model differs from itself by nothing."""
    _, _, law = made
    archs = [middle(), middle(n_layers=7), middle(d_model=192, n_heads=6), middle(n_layers=30, d_model=384, n_heads=12)]
    batch = ArchitectureBatch.of(archs)
    errors = law.error_samples(batch, 4e6, 6000, np.random.default_rng(0))
    std = law.predict(batch, 4e6, return_std=True)[1]
    np.testing.assert_allclose(errors.std(axis=0), std, rtol=0.05)
    mean, spread = law.difference(archs[0], archs[1], 4e6)
    np.testing.assert_allclose(mean, law.predict(archs[0], 4e6) - law.predict(archs[1], 4e6))
    np.testing.assert_allclose(spread, (errors[:, 0] - errors[:, 1]).std(), rtol=0.05)
    assert spread < np.hypot(std[0], std[1]) * 1.0001
    assert [float(v) for v in law.difference(archs[0], archs[0], 4e6)] == [0.0, 0.0]


def test_what_lies_outside_is_said(made: Any) -> None:
    _, _, law = made
    assert not any(bool(flag) for flag in law.outside(middle(), 4e6).values())
    assert bool(law.outside(middle(), 1e10)["tokens"])
    assert bool(law.outside(middle(n_layers=40), 4e6)["n_layers"])
    mixture = middle(d_ff=0, n_experts=8, n_active_experts=2, d_ff_expert=256, family="mixtral")
    assert bool(law.outside(mixture, 4e6)["experts"])
    assert bool(law.priors(mixture)["moe"])
    assert not bool(law.priors(middle())["moe"])
    dense = middle(d_ff=512)
    mean, std = law.predict(mixture, 4e6, return_std=True)
    assert mean < law.predict(dense, 4e6)  # as many active parameters and more stored ones
    assert std > 0.03  # the transfer of the mixture prior alone is 0.036
    far, near = (law.predict(middle(n_layers=n), 4e6, return_std=True)[1] for n in (200, 12))
    assert far >= near * 0.9
    with pytest.raises(SpecError, match="tokens must be positive"):
        law.predict(middle(), 0)


def test_what_the_rows_do_not_vary_keeps_its_prior(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", 14)
    text = path.read_text().splitlines()
    head = text[0].split(",")
    rows = [dict(zip(head, line.split(","), strict=True)) for line in text[1:]]
    for row in rows:  # one head of half the width for the keys, so that the KV share is 1/2 everywhere
        row.update(head_dim="32", n_heads=str(int(row["d_model"]) // 32), n_kv_heads=str(int(row["d_model"]) / 64))
    path.write_text("\n".join([",".join(head), *(",".join(row[name] for name in head) for row in rows)]))
    data, _ = fitted(path, ["law"])
    assert {"kv", "d_head"} <= set(data["priors"])
    assert data["priors"]["kv"]["width_share"] == 0.5
    from codesign.predictors.fitted import surrogate_law

    law = surrogate_law(data)
    usual, narrow = middle(), middle(n_kv_heads=1)
    assert not bool(law.priors(usual)["kv"])
    assert bool(law.priors(narrow)["kv"])
    assert law.predict(usual, 4e6, True)[1] < law.predict(narrow, 4e6, True)[1]


def test_the_recipe_is_held_at_its_rule(made: Any) -> None:
    """Learning rates of 0.35 / width: the rule is found and the column is no feature; what is constant is held."""
    data, _, law = made
    assert "lr" not in data["columns"]
    rule = data["held"]["lr"]
    np.testing.assert_allclose(rule["coefficients"], [np.log(0.35), 0, 0, -1], atol=1e-6)
    _, columns = law._rows(middle(), 4e6)
    np.testing.assert_allclose(columns["lr"], 0.35 / 128)
    assert columns["batch_tokens"].tolist() == [2048.0]


def test_the_same_rows_give_the_same_file(made: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.csv", 16)
    first, again = (surrogate_text(fitted(path, ["law", "trees"])[0]) for _ in range(2))
    assert first == again
    data = made[0]
    assert json.loads(surrogate_text(data))["rows"]["d_model"] == data["rows"]["d_model"]


def test_pickled_for_other_processes(made: Any) -> None:
    _, _, law = made
    again = pickle.loads(pickle.dumps(law))
    assert again.predict(middle(), 4e6) == law.predict(middle(), 4e6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(version=2), "of version 2; this codesign reads up to 1"),
        (lambda d: d.update(version="1"), "no valid version"),
        (lambda d: d.pop("rows"), "lacks rows"),
        (lambda d: d["losses"].pop(), "does not have 39 values"),
        (lambda d: d["losses"].__setitem__(0, "low"), "'losses' holds a value that is no number"),
        (lambda d: d["rows"]["d_model"].__setitem__(0, "wide"), "'d_model' holds neither"),
        (lambda d: d.update(chosen="oracle"), "no settings of 'oracle'"),
        (lambda d: d["parts"][d["chosen"]].pop("scale"), "bad settings"),
        (lambda d: d["ranges"].update(n_layers=[9, 3]), "bad range of 'n_layers'"),
        (lambda d: d["held"]["lr"].update(coefficients=[1.0]), "bad rule of 'lr'"),
        (lambda d: d.update(columns=["n_layers", "colour"]), "no rows of column 'colour'"),
        (lambda d: d.update(groups=None), "'groups' is NoneType"),
    ],
)
def test_bad_files_are_one_clear_line(change: Any, text: str, made: Any, tmp_path: Path) -> None:
    data = json.loads(surrogate_text(made[0]))
    change(data)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SchemaError, match=text) as caught:
        load_law(path)
    assert "\n" not in str(caught.value)


def test_truncated_and_changed_files(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(surrogate_text(made[0])[:700], encoding="utf-8")
    with pytest.raises(SchemaError, match="not valid JSON"):
        load_law(path)
    data = json.loads(surrogate_text(made[0]))
    data["losses"] = [2 * v for v in data["losses"]]
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SchemaError, match="fit it again: codesign fit"):
        load_law(path).predict(middle(), 4e6)


def test_reading_a_file_imports_nothing_heavy(made: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(surrogate_text(made[0]), encoding="utf-8")
    code = f"import sys\nfrom codesign.predictors import load_law\nload_law({str(path)!r}).summary()\nprint([m for m in ('torch', 'sklearn', 'pandas', 'xgboost') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_rows_span_is_a_space(made: Any, tmp_path: Path) -> None:
    data, _, law = made
    space = space_of(data)
    assert space is not None
    path = tmp_path / "mine.space.toml"
    path.write_text(space_text(space, "mine.json"))
    designs = load_space(str(path), ["fp16"], 50304)
    assert designs.axes["vocab_size"] == (4096,)
    some = [designs.point(i)[1] for i in _possible(designs)]
    outside = law.outside(ArchitectureBatch.of(some), 4e6)
    shares = {name: float(np.mean(np.broadcast_to(flag, (len(some),)))) for name, flag in outside.items()}
    assert max(share for name, share in shares.items() if name not in ("aspect", "params_active")) == 0.0, shares


def _possible(designs: DesignSpace) -> list[int]:
    found = []
    for index in range(0, designs.size, 97):
        try:
            designs.point(index)
        except SpecError:
            continue
        found.append(index)
    return found


def test_rows_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    table = read_loss_table(write_rows(tmp_path / "rows.csv", 16))
    frame = table.frame.copy()
    for name in frame.columns:
        if name not in ("loss", "run_id"):
            frame[name] = frame[name].iloc[0]
    with pytest.raises(SpecError, match="no column of 'rows.csv'"):
        fit_surrogate(replace(table, frame=frame), name="x", dataset="x", command=[], source={}, predictors=["law"])
