"""`codesign export` as a user types it."""

from __future__ import annotations

import json

import pytest

onnx = pytest.importorskip("onnx")

from codesign.architecture import Architecture  # noqa: E402
from codesign.cli import main  # noqa: E402
from codesign.hf_config import config_dict  # noqa: E402

TINY = Architecture(n_layers=3, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=160)


@pytest.fixture
def design(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run" / "design-3"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_dict(TINY, max_position_embeddings=64)))
    return folder


def test_writes_a_design(design, tmp_path, capsys) -> None:
    assert main(["export", str(design), "--onnx"]) == 0
    out = capsys.readouterr().out
    assert "wrote design-3-fp32.onnx (" in out
    assert f"{TINY.params_total:,} parameters, fp32, standard flavour; random weights of seed 0" in out
    assert "  input_ids: int64 [batch, sequence]\n" in out
    assert "  past_key_values.0.key: float [batch, 2, past, 16]\n" in out
    assert "  ... 4 more, to past_key_values.2.value\n" in out
    assert "  logits: float [batch, 1, 160]\n" in out
    proto = onnx.load(tmp_path / "design-3-fp32.onnx")
    assert proto.opset_import[0].version == 23


def test_other_precision_flavour_seed_and_place(design, tmp_path, capsys) -> None:
    arguments = ["export", str(design / "config.json"), "--precision", "fp16", "--flavour", "decomposed"]
    assert main([*arguments, "--out", "models/"]) == 0
    first = tmp_path / "models" / "design-3-fp16-decomposed.onnx"
    assert onnx.load(first).opset_import[0].version == 17
    assert main([*arguments, "--out", "again.onnx"]) == 0
    assert main([*arguments, "--out", "other.onnx", "--seed", "7"]) == 0
    assert (tmp_path / "again.onnx").read_bytes() == first.read_bytes()
    assert (tmp_path / "other.onnx").read_bytes() != first.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "q4_k_m"], "precision 'q4_k_m' has no ONNX graph; allowed: fp32"),
        (["--flavour", "old"], "flavour 'old' is not one of standard, decomposed"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--precision", "w4a16"], "multiples of it, not 64"),
        (["--out", "run/design-3/config.json/x.onnx"], "cannot make folder run/design-3/config.json"),
    ],
)
def test_bad_options_are_refused_and_write_nothing(design, tmp_path, capsys, arguments, message) -> None:
    assert main(["export", str(design), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_unknown_model_is_refused(capsys) -> None:
    assert main(["export", "qwen3-0.66b"]) == 2
    assert "did you mean 'qwen3-0.6b'?" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_before_it_is_built(tmp_path, monkeypatch, capsys) -> None:
    import shutil

    import codesign.models.onnx_graph as graph
    import codesign.profilers.host_limits as limits

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(graph, "build_onnx", lambda *_, **__: pytest.fail("it was built"))
    monkeypatch.setattr(limits, "memory_bytes", lambda: (8e9, 4e9))
    assert main(["export", "llama-3.1-8b"]) == 2
    error = capsys.readouterr().err
    assert "8,030,261,248 parameters, 32.1 GB at fp32" in error and "4 GB are free" in error
    monkeypatch.setattr(limits, "memory_bytes", lambda: (8e12, 4e12))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert main(["export", "llama-3.1-8b", "--precision", "w4a32"]) == 2
    assert "has 1 kB free; give --out on another disk" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8-dynamic", "w4a32"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_size_it_checks_is_the_size_it_writes(precision, tied, tmp_path, monkeypatch) -> None:
    import shutil

    from codesign.cli import export as command

    arch = TINY.evolve(d_model=256, d_ff=512, vocab_size=2000, tied_embeddings=tied)
    (tmp_path / "config.json").write_text(json.dumps(config_dict(arch, max_position_embeddings=64)))
    usage, path = shutil.disk_usage(tmp_path), tmp_path / "model.onnx"
    assert main(["export", str(tmp_path), "--precision", precision, "--out", str(path)]) == 0
    size_B = path.stat().st_size
    from codesign.errors import SpecError

    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(size_B * 0.93)))
    with pytest.raises(SpecError, match="give --out on another disk"):
        command._check_room(arch, precision, path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(size_B * 1.02)))
    command._check_room(arch, precision, path)


def test_a_missing_package_names_its_extra(design, monkeypatch, capsys) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(design)]) == 2
    assert "pip install 'codesign-llm[profile]'" in capsys.readouterr().err
