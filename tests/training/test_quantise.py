"""Rounding: its error, its parts, and that a model is as before afterwards."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from codesign.architecture import Architecture  # noqa: E402
from codesign.errors import SpecError  # noqa: E402
from codesign.models.decoder import random_decoder  # noqa: E402
from codesign.training.quantise import HEAD, parts_of, rounded, window_losses, with_bits  # noqa: E402

DENSE = Architecture(
    n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, vocab_size=100, family="qwen3", qk_norm="head"
)
STACK = Architecture(
    n_layers=4, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, vocab_size=100, recurrence="mamba2", n_recurrent_layers=3,
    n_state_heads=8, d_state_value=16, d_state_key=8, n_state_groups=2, d_conv=4, state_norm=True, family="bamba",
)  # fmt: skip
MIXTURE = Architecture(
    n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=0, vocab_size=100, n_experts=4, n_active_experts=1, d_ff_expert=48,
    family="qwen3_moe", qk_norm="head", tied_embeddings=False,
)  # fmt: skip
LOOPED = Architecture(n_layers=4, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, vocab_size=100, n_loops=3, n_looped_layers=2,
                      family="codesign")  # fmt: skip


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [7, 32, 128])
def test_each_weight_is_within_half_a_step(bits: int, group: int) -> None:
    w = torch.randn(5, 96, generator=torch.Generator().manual_seed(bits))
    found = rounded(w, bits, group)
    for start in range(0, 96, group):
        part, after = w[:, start : start + group], found[:, start : start + group]
        low, high = part.amin(1, keepdim=True).clamp(max=0), part.amax(1, keepdim=True).clamp(min=0)
        step = (high - low) / (2**bits - 1)
        assert (
            (part - after).abs() <= 1.01 * step
        ).all()  # half for rounding, half for the zero, a little for the fp16 scale
        assert max(len(row.unique()) for row in after) <= 2**bits


def test_values_on_a_grid_and_zeros_stay() -> None:
    grid = torch.tensor([[0.0, 0.25, 0.5, 0.75]])
    assert torch.equal(rounded(grid, 2, 4), grid)
    assert torch.equal(rounded(torch.zeros(2, 8), 4, 4), torch.zeros(2, 8))
    with pytest.raises(SpecError, match="1 bits in groups of 4"):
        rounded(grid, 1, 4)


@pytest.mark.parametrize("arch", [DENSE, STACK, MIXTURE, LOOPED], ids=["dense", "stack", "mixture", "looped"])
def test_parts_hold_every_matrix_but_routers_and_embedding(arch: Architecture) -> None:
    model = random_decoder(arch)
    parts = parts_of(model, 32)
    assert parts[-1].name == HEAD and len({p.name for p in parts}) == len(parts)
    matrices = sum(
        m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"
    )
    routers = arch.n_moe_layers * arch.d_model * arch.n_experts
    assert sum(p.weights for p in parts[:-1]) == matrices - routers
    read = sum(p.read for p in parts)
    if arch is MIXTURE:
        assert read == sum(p.weights for p in parts) - 3 / 4 * 2 * 4 * 3 * 64 * 48
    elif arch is LOOPED:
        assert read - parts[-1].read == 2 * (sum(p.weights for p in parts) - parts[-1].weights)  # 2 + 2 * 3 of 4 layers
    else:
        assert read == sum(p.weights for p in parts)


@pytest.mark.parametrize("arch", [DENSE, STACK, MIXTURE], ids=["dense", "stack", "mixture"])
def test_a_model_is_as_before_and_each_part_matters(arch: Architecture) -> None:
    model = random_decoder(arch, seed=3)
    ids = torch.randint(arch.vocab_size, (6, 33), generator=torch.Generator().manual_seed(1)).numpy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    base, parts = window_losses(model, ids), parts_of(model, 32)
    assert base.shape == (6,) and base == pytest.approx(window_losses(model, ids, batch_tokens=32), rel=1e-6)
    for part in parts:
        with with_bits(model, parts, {part.name: 2}, 32):
            assert (window_losses(model, ids) != base).any()
            if part.name == HEAD:
                assert torch.equal(model.embed_tokens.weight, before["embed_tokens.weight"])
    with pytest.raises(ZeroDivisionError), with_bits(model, parts, {p.name: 3 for p in parts}, 32):
        raise ZeroDivisionError
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert (window_losses(model, ids) == base).all()


def test_stored_bits_count_every_scale() -> None:
    """Rows of 64 and 96 in groups of 40 have 2 and 3 scales, and one each in groups of 128: not 64 / 128 of one."""
    model = random_decoder(DENSE)
    for group, scales in ((40, (2, 3)), (128, (1, 1))):
        mixer, ffn = parts_of(model, group)[:2]
        assert mixer.groups == (64 + 32 + 32 + 64) * scales[0] and ffn.groups == 2 * 96 * scales[0] + 64 * scales[1]
        assert mixer.bits_stored(4) == mixer.weights * 4 + mixer.groups * 20 == mixer.bits_read(4)
        assert mixer.bits_stored(16) == mixer.weights * 16
