"""The torch decoder against transformers, given the same weights, on a tiny model of every family."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from codesign.architecture import Architecture  # noqa: E402
from codesign.errors import SpecError  # noqa: E402
from codesign.hf_config import config_dict  # noqa: E402
from codesign.models.decoder import Decoder, random_decoder  # noqa: E402
from codesign.models.features import features, weight_shapes  # noqa: E402
from codesign.models.transformers_names import from_transformers, to_transformers  # noqa: E402

BASE = Architecture(n_layers=3, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, vocab_size=101)
_EXPERTS = {"n_experts": 6, "n_active_experts": 2, "d_ff_expert": 48}
FAMILIES = {
    "llama": {},
    "llama-biases": {"family": "llama", "qkv_bias": True, "out_bias": True, "mlp_bias": True, "tied_embeddings": False},
    "qwen2": {"family": "qwen2", "qkv_bias": True},
    "qwen2-window": {"family": "qwen2", "qkv_bias": True, "window_tokens": 5, "n_window_layers": 2},
    "qwen3": {"family": "qwen3", "qk_norm": "head", "d_head": 32},
    "mistral": {"family": "mistral", "window_tokens": 4, "n_window_layers": 3, "tied_embeddings": False},
    "mixtral": {"family": "mixtral", **_EXPERTS, "d_ff": 0, "tied_embeddings": False},
    "mixtral-top1": {"family": "mixtral", **_EXPERTS, "n_active_experts": 1, "d_ff": 0},
    "qwen3_moe": {"family": "qwen3_moe", "qk_norm": "head", **_EXPERTS, "n_dense_layers": 1},
    "qwen3_moe-top1": {"family": "qwen3_moe", "qk_norm": "head", **_EXPERTS, "n_active_experts": 1, "d_ff": 0},
    "qwen2_moe": {
        "family": "qwen2_moe", "qkv_bias": True, **_EXPERTS, "d_ff": 0, "n_shared_experts": 1, "d_ff_shared": 80,
        "shared_expert_gate": True, "tied_embeddings": False,
    },
    "olmo2": {"family": "olmo2", "qk_norm": "full"},
    "phi3": {"family": "phi3", "tied_embeddings": False},
    "gemma": {"family": "gemma", "d_head": 32},
    "gemma3_text": {
        "family": "gemma3_text", "norms_per_layer": 4, "qk_norm": "head", "window_tokens": 4, "n_window_layers": 2,
    },
    "nemotron": {"family": "nemotron", "ffn_gated": False, "norm_bias": True, "tied_embeddings": False},
    "starcoder2": {
        "family": "starcoder2", "ffn_gated": False, "norm_bias": True, "qkv_bias": True, "out_bias": True,
        "mlp_bias": True,
    },
}  # fmt: skip


def reference(arch: Architecture):
    """transformers' model of an architecture with random weights, gains and biases included."""
    config = transformers.AutoConfig.for_model(**config_dict(arch, max_position_embeddings=512, dtype="float32"))
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.1)
            if name.endswith("norm.weight") and arch.family not in ("gemma", "gemma3_text", "nemotron"):
                parameter.add_(1.0)
    return model


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_equals_transformers_in_prefill_and_decode(changes) -> None:
    arch = BASE.evolve(**changes)
    theirs, ours = reference(arch), Decoder(arch).eval()
    ours.load_state_dict(from_transformers(arch, theirs.state_dict()))
    assert sum(p.numel() for p in ours.parameters()) == arch.params_total
    ids = torch.randint(0, arch.vocab_size, (2, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = theirs(ids, use_cache=False).logits
        whole, _ = ours(ids, last_only=False)
        torch.testing.assert_close(whole, wanted, atol=1e-5, rtol=1e-5)
        last, past = ours(ids[:, :7])
        torch.testing.assert_close(last[:, 0], wanted[:, 6], atol=1e-5, rtol=1e-5)
        several, past = ours(ids[:, 7:10], past=past, last_only=False)
        torch.testing.assert_close(several, wanted[:, 7:10], atol=1e-5, rtol=1e-5)
        for position in (10, 11):
            one, past = ours(ids[:, position : position + 1], past=past)
            torch.testing.assert_close(one[:, 0], wanted[:, position], atol=1e-5, rtol=1e-5)
    assert [tuple(tensor.shape) for tensor in past[0]] == [(2, arch.n_kv_heads, 12, arch.d_head)] * 2


@pytest.mark.parametrize("family", ["llama-biases", "qwen3", "mixtral", "qwen2_moe", "gemma3_text", "starcoder2"])
def test_checkpoint_loads_in_transformers(family, tmp_path) -> None:
    import json

    from safetensors.torch import save_file

    arch = BASE.evolve(**FAMILIES[family])
    ours = Decoder(arch).initialise(3).eval()
    state = {name: value.contiguous() for name, value in to_transformers(arch, ours.state_dict()).items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config_dict(arch, max_position_embeddings=64, dtype="float32")))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids, last_only=False)[0], theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_state_dict_has_the_documented_names_and_shapes() -> None:
    for changes in FAMILIES.values():
        arch = BASE.evolve(**changes)
        assert {name: tuple(p.shape) for name, p in Decoder(arch).state_dict().items()} == weight_shapes(arch)


def test_a_window_needs_only_its_own_cache() -> None:
    arch = BASE.evolve(family="mistral", window_tokens=4, n_window_layers=3)
    model = random_decoder(arch, seed=4)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        _, past = model(ids[:, :9])
        wanted, _ = model(ids[:, 9:], past=past)
        short = [(k[:, :, -3:], v[:, :, -3:]) for k, v in past]
        got, _ = model(ids[:, 9:], position_ids=torch.tensor([[9]]), past=short)
    torch.testing.assert_close(got, wanted)


def test_trains_and_every_weight_has_a_gradient() -> None:
    arch = BASE.evolve(**FAMILIES["qwen3_moe"])
    model = Decoder(arch).initialise(5)
    ids = torch.randint(0, arch.vocab_size, (8, 16), generator=torch.Generator().manual_seed(6))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        logits, _ = model(ids[:, :-1], last_only=False)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        losses.append(loss.item())
        assert [name for name, p in model.named_parameters() if p.grad is None and "experts" not in name] == []
        optimiser.step()
    assert losses[-1] < losses[0] - 0.3


def test_random_decoders_repeat_by_seed_and_stay_finite() -> None:
    first, again, other = (random_decoder(BASE, seed=seed, dtype=torch.bfloat16) for seed in (0, 0, 1))
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(first(ids)[0], again(ids)[0])
        assert not torch.equal(first(ids)[0], other(ids)[0])
        assert torch.isfinite(first(ids)[0]).all()


def test_windows_lie_where_the_config_puts_them() -> None:
    qwen = BASE.evolve(**FAMILIES["qwen2-window"])
    assert features(qwen).sliding == (False, True, True)
    spread = BASE.evolve(n_layers=6, window_tokens=8, n_window_layers=2)
    assert features(spread).sliding.count(True) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "gpt"}, "family 'gpt'"),
        ({"family": "gemma2", "norms_per_layer": 4}, "gemma2"),
        ({"norms_per_layer": 3}, "norms_per_layer 3"),
        ({"d_head": 15}, "d_head 15"),
    ],
)
def test_what_is_not_supported_is_named(changes, message) -> None:
    with pytest.raises(SpecError, match=message):
        Decoder(BASE.evolve(**changes))


def test_a_checkpoint_that_lacks_a_weight_is_refused() -> None:
    state = dict(reference(BASE).state_dict())
    del state["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(SpecError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        from_transformers(BASE, state)
    with pytest.raises(SpecError, match="shape"):
        from_transformers(BASE.evolve(d_model=32), reference(BASE).state_dict())
