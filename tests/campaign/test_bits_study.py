"""Bits by sensitivity on trained models: resumed, consistent, and reading what codesign train and transformers write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("filelock")

from codesign.architecture import Architecture  # noqa: E402
from codesign.campaign import bits as study_module  # noqa: E402
from codesign.campaign.bits import BitsSettings, study_bits  # noqa: E402
from codesign.errors import SchemaError, SpecError  # noqa: E402
from codesign.training.loop import train  # noqa: E402
from codesign.training.quantise import parts_of, with_bits  # noqa: E402
from codesign.training.spec import RunSpec  # noqa: E402
from codesign.training.trained import Trained, open_trained  # noqa: E402
from codesign.training_run import Recipe  # noqa: E402

ARCH = Architecture(
    n_layers=2, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_ff=64, vocab_size=256, family="qwen3", qk_norm="head"
)
SETTINGS = BitsSettings(bits=(2, 4, 8, 16), group=16, tokens=2048)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("".join(f"The square of {i} is {i * i}, and its half is {i / 2}.\n" for i in range(6000)))
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = Recipe(tokens=40_960, batch_tokens=1024, seq_len=64, lr=1e-2)
    train(
        RunSpec(architecture=ARCH, recipe=recipe, data=str(text), cache=str(folder / "texts"), final_eval_tokens=2048),
        folder / "run",
    )
    return folder / "run"


def test_a_study_chooses_what_measures_better(run: Path, text: Path, tmp_path: Path) -> None:
    trained = open_trained(run, str(text), SETTINGS.tokens, cache=tmp_path / "texts")
    assert trained.arch == ARCH and trained.windows.shape[1] == 65
    study = study_bits(trained, SETTINGS, tmp_path / "m.jsonl")
    assert [p.name for p in study.parts] == ["layers.0.mixer", "layers.0.ffn", "layers.1.mixer", "layers.1.ffn", "head"]
    assert study.loss["head"][16] == 0 and all(losses[2] > losses[8] for losses in study.loss.values())
    uniform = {p.uniform: p for p in study.policies if p.uniform}
    assert set(uniform) == {2, 4, 8, 16} and uniform[16].measured == 0 and uniform[16].mean_bits == 16
    assert uniform[4].mean_bits == pytest.approx(4 + 20 / 16)
    for policy in study.policies:
        if policy.uniform is None:
            assert len(set(policy.bits.values())) > 1
            cheaper = [u for u in uniform.values() if u.read_B <= policy.read_B]
            assert all(policy.added <= u.added + 1e-9 or policy.added < 1e-3 for u in cheaper)
            if policy.rival is not None:
                rival = uniform[policy.rival]
                assert policy.read_B <= rival.read_B and policy.gain == pytest.approx(
                    rival.measured - policy.measured, abs=1e-9
                )
                assert 0 < (policy.gain_error or 0) <= policy.measured_error + rival.measured_error + 1e-12
    assert {p.rival for p in study.policies} - {None} and uniform[16].measured_error == 0
    by_hand = window_losses_of(trained, {"layers.0.ffn": 2}) - window_losses_of(trained, {})
    assert study.loss["layers.0.ffn"][2] == pytest.approx(by_hand.mean(), abs=2e-6)
    assert study.error["layers.0.ffn"][2] == pytest.approx(by_hand.std(ddof=1) / len(by_hand) ** 0.5, abs=2e-6)
    assert study.tokens == len(by_hand) * 64
    head = next(p for p in study.parts if p.name == "head")
    assert uniform[4].stored_B == pytest.approx(
        sum(p.weights for p in study.parts) * 5.25 / 8 + 2 * head.weights
    )  # tied: a copy


def window_losses_of(trained: Trained, bits: dict[str, int]) -> Any:
    parts = parts_of(trained.model, SETTINGS.group)
    with with_bits(trained.model, parts, bits, SETTINGS.group):
        return study_module.window_losses(trained.model, trained.windows[::2])


def test_a_cut_study_goes_on(run: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, path = open_trained(run, str(text), SETTINGS.tokens, cache=tmp_path / "texts"), tmp_path / "m.jsonl"
    whole = study_bits(trained, SETTINGS, path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:6], lines[6][:20]]))
    calls = []

    def counted(*given: Any) -> Any:
        calls.append(given)
        return window_losses(*given)

    window_losses = study_module.window_losses
    monkeypatch.setattr(study_module, "window_losses", counted)
    assert study_bits(trained, SETTINGS, path) == whole
    assert len(calls) == len(lines) - 6 and path.read_text().splitlines() == lines
    study_bits(trained, SETTINGS, path)
    assert len(calls) == len(lines) - 6
    with pytest.raises(SchemaError, match="of another model, text or settings; give another --out"):
        study_bits(trained, BitsSettings(bits=(2, 4, 8, 16), group=32, tokens=2048), path)
    path.write_text(lines[0] + "\n{}\n")
    with pytest.raises(SchemaError, match="cannot be read"):
        study_bits(trained, SETTINGS, path)
    path.write_bytes(b"\xff\xfe\x00bad\n")
    with pytest.raises(SchemaError, match="cannot be read"):
        study_bits(trained, SETTINGS, path)
    path.write_text(lines[0])  # cut right behind the header
    assert study_bits(trained, SETTINGS, path) == whole and path.read_text().splitlines() == lines
    path.write_text("x")
    with pytest.raises(SchemaError, match="delete it to begin again"):
        study_bits(trained, SETTINGS, path)


def test_a_checkpoint_of_transformers_gives_its_loss(run: Path, text: Path, tmp_path: Path) -> None:
    transformers, safetensors = pytest.importorskip("transformers"), pytest.importorskip("safetensors.torch")
    from codesign.hf_config import config_dict
    from codesign.training.text import load_text
    from codesign.training.tokenizer import BPETokenizer

    tokenizer = BPETokenizer.train(load_text(str(text)).train, 300)
    arch = ARCH.evolve(vocab_size=tokenizer.vocab_size)
    torch.manual_seed(5)
    config = config_dict(arch, max_position_embeddings=1024, dtype="float32")
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config)).eval()
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.save_file(
        {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"},
        folder / "model.safetensors",
    )
    with pytest.raises(SpecError, match=r"has no tokenizer\.json"):
        open_trained(folder, str(text), SETTINGS.tokens, cache=tmp_path / "texts")
    tokenizer.save(folder)
    trained = open_trained(folder, str(text), SETTINGS.tokens, cache=tmp_path / "texts")
    ids = torch.from_numpy(trained.windows[:4])
    with torch.inference_mode():
        logits = model(ids[:, :-1]).logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert study_module.window_losses(trained.model, trained.windows[:4]).mean() == pytest.approx(
        float(theirs), rel=1e-5
    )
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(SchemaError, match="cannot be read"):
        open_trained(folder, str(text), SETTINGS.tokens, cache=tmp_path / "texts")


def test_what_is_no_model_is_refused(run: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds neither run\.json"):
        open_trained(tmp_path, str(text), SETTINGS.tokens, cache=tmp_path / "texts")
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    with pytest.raises(SpecError, match="holds no finished run"):
        open_trained(tmp_path, str(text), SETTINGS.tokens, cache=tmp_path / "texts")
    (tmp_path / "weights.pt").write_bytes(b"no")
    with pytest.raises(SchemaError, match="train the model again"):
        open_trained(tmp_path, str(text), SETTINGS.tokens, cache=tmp_path / "texts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"bits": (4,)}, "two or more"), ({"bits": (8, 4)}, "ascending"), ({"bits": (4, 9)}, "of 2 to 8 and 16"), ({"group": 1}, "group 1"),
     ({"tokens": 0}, "tokens 0")],
)  # fmt: skip
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BitsSettings(**changes)


def test_what_a_token_reads_and_what_is_stored_are_told_apart(text: Path, tmp_path: Path) -> None:
    """Of 4 experts one is read: mixers at 8 bits and experts at 2 read far more bits a weight than they store."""
    import dataclasses

    from codesign.models.decoder import random_decoder

    arch = ARCH.evolve(
        family="qwen3_moe", d_ff=0, n_experts=4, n_active_experts=1, d_ff_expert=64, tied_embeddings=False
    )
    model = random_decoder(arch)
    windows = torch.randint(256, (8, 33), generator=torch.Generator().manual_seed(1)).numpy()
    trained = Trained(model=model, arch=arch, windows=windows, name="x", digest="x")
    study = study_bits(trained, BitsSettings(bits=(2, 16), group=16, tokens=64), tmp_path / "m.jsonl")
    by_uniform = {p.uniform: p for p in study.policies if p.uniform}
    table = 256 * 32 * 2
    assert (
        by_uniform[16].stored_B == sum(p.weights for p in study.parts) * 2 + table
    )  # an untied model has the embedding beside the head
    assert by_uniform[16].layer_bits == by_uniform[16].layer_bits_read == 16
    own = [p for p in study.policies if p.uniform is None]
    layers = [p for p in study.parts if p.name != "head"]
    for policy in own:
        read = sum(p.bits_read(policy.bits[p.name]) for p in layers) / sum(p.read for p in layers)
        assert policy.layer_bits_read == pytest.approx(read)
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
    with pytest.raises(SpecError, match="loss is nan: its weights hold numbers that are not finite"):
        study_bits(
            dataclasses.replace(trained, digest="y"),
            BitsSettings(bits=(2, 16), group=16, tokens=64),
            tmp_path / "n.jsonl",
        )


def test_a_checkpoint_of_a_stack_is_refused_by_name(text: Path, tmp_path: Path) -> None:
    from codesign.hf_config import known_config

    (tmp_path / "config.json").write_text(json.dumps(known_config("openelm-270m")))
    pytest.importorskip("safetensors.torch").save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(SpecError, match=r"checkpoints of a stack of mixed layers \(family 'openelm'\) are not read"):
        open_trained(tmp_path, str(text), SETTINGS.tokens, cache=tmp_path / "texts")
