"""Stacks of mixed layers: equal to transformers with the same weights, steps equal to chunks, FLOPs equal to the operators'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from codesign._layout import sublayers
from codesign.architecture import Architecture
from codesign.cache import cache_bytes
from codesign.errors import SpecError
from codesign.hf_config import architecture_from_config
from codesign.operators import lower
from codesign.serving import Serving
from codesign.workload import PRECISIONS, Workload
from tests.test_hf_stacks import SMALL

torch = pytest.importorskip("torch")

from codesign.models.decoder import build_decoder, random_decoder  # noqa: E402
from codesign.models.features import weight_shapes  # noqa: E402
from codesign.models.stack import Stack  # noqa: E402

BASE: dict[str, Any] = {
    "n_layers": 4,
    "d_model": 64,
    "n_heads": 4,
    "n_kv_heads": 2,
    "d_head": 16,
    "d_ff": 96,
    "vocab_size": 100,
}
_RECURRENT = {"n_recurrent_layers": 3, "n_state_heads": 8, "d_state_value": 16, "d_state_key": 8}
#: One architecture of each mixer, as the design space makes them, and other stacks.
STACKS = {
    "mamba2": Architecture(**BASE, **_RECURRENT, recurrence="mamba2", n_state_groups=2, d_conv=4, state_norm=True, family="bamba"),
    "mamba1": Architecture(**BASE, recurrence="mamba1", n_recurrent_layers=3, n_state_heads=128, d_state_value=1, d_state_key=8, d_conv=4, dt_rank=4,
                           family="codesign"),
    "mamba1-norms": Architecture(**BASE, recurrence="mamba1", n_recurrent_layers=3, n_state_heads=128, d_state_value=1, d_state_key=8, d_conv=4,
                                 dt_rank=4, state_norm=True, family="jamba"),
    "gdn": Architecture(**BASE, **_RECURRENT, recurrence="gdn", n_state_groups=4, d_conv=4, attention_gate=True, qk_norm="head", family="qwen3_5_text"),
    "mlstm": Architecture(**BASE, **_RECURRENT, recurrence="mlstm", qk_norm="head", family="codesign"),
    "conv": Architecture(**BASE, recurrence="conv", n_recurrent_layers=3, n_state_heads=64, d_state_value=1, d_conv=3, qk_norm="head", family="lfm2"),
    "mla": Architecture(**{**BASE, "n_kv_heads": 4}, kv_rank=24, d_rope=8, d_value=12, family="youtu"),
    "mla-q": Architecture(**{**BASE, "n_kv_heads": 4}, kv_rank=24, q_rank=32, d_rope=8, family="youtu"),
    "shared": Architecture(**BASE, n_kv_shared_layers=2, qk_norm="head", family="codesign"),
    "shared-window": Architecture(**BASE, n_kv_shared_layers=2, n_window_layers=2, window_tokens=5, family="codesign"),
    "looped": Architecture(**BASE, n_loops=3, n_looped_layers=2, family="codesign"),
    "blocks": Architecture(**BASE, **_RECURRENT, recurrence="mamba2", n_state_groups=1, d_conv=4, extra_ffn_layers=-2, family="codesign"),
    "uneven": Architecture(**{**BASE, "n_heads": 8, "n_kv_heads": 4}, ffn_widths=(32, 48, 64, 96), layer_heads=(4, 6, 8, 8),
                           layer_kv_heads=(2, 2, 4, 4), qk_norm="full", family="codesign"),
    "uneven-window": Architecture(**BASE, ffn_widths=(96, 64, 64, 32), n_window_layers=2, window_tokens=5, family="codesign"),
    "uneven-hybrid": Architecture(**BASE, **_RECURRENT, recurrence="mamba2", n_state_groups=2, d_conv=4, ffn_widths=(32, 48, 64, 96),
                                  family="codesign"),
    "sinks": Architecture(**{**BASE, "d_ff": 0}, n_experts=4, n_active_experts=2, d_ff_expert=40, expert_bias=True, attention_sinks=True, qkv_bias=True,
                          out_bias=True, n_window_layers=2, window_tokens=5, family="gpt_oss"),
    "shared-blocks": Architecture(**{**BASE, "n_layers": 6, "n_kv_heads": 4, "d_head": 32}, **{**_RECURRENT, "n_recurrent_layers": 4}, recurrence="mamba2",
                                  n_state_groups=2, d_conv=4, state_norm=True, extra_ffn_layers=-4, layout="RAFRRAFR", n_shared_blocks=1,
                                  adapter_rank=6, attention_adapters=True, family="zamba2"),
    "experts": Architecture(**{**BASE, "d_ff": 0}, **_RECURRENT, recurrence="mamba2", n_state_groups=1, d_conv=4, n_experts=4,
                            n_active_experts=2, d_ff_expert=40, n_shared_experts=1, d_ff_shared=48, family="granitemoehybrid"),
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_parameters_are_those_of_the_architecture(name: str) -> None:
    arch = STACKS[name]
    assert sum(p.numel() for p in build_decoder(arch).parameters()) == arch.params_total


@pytest.mark.parametrize("name", STACKS)
def test_tokens_one_by_one_give_what_the_prompt_gives(name: str) -> None:
    """The scan in chunks (two whole ones and a rest), the step, and the cache between them agree."""
    arch = STACKS[name]
    model = build_decoder(arch).initialise(1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    tokens = {"mamba2": 520}.get(arch.recurrence, 133)
    ids = torch.randint(arch.vocab_size, (2, tokens), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        whole, _ = model(ids, last_only=False)
        _, cache = model(ids[:, : tokens - 7])
        middle, cache = model(ids[:, tokens - 7 : tokens - 3], past=cache, last_only=False)
        steps = []
        for t in range(tokens - 3, tokens):
            out, cache = model(ids[:, t : t + 1], past=cache)
            steps.append(out)
    found = torch.cat([middle, *steps], dim=1)
    assert whole.std() > 0.02
    torch.testing.assert_close(found, whole[:, tokens - 7 :], atol=2e-4, rtol=2e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
@pytest.mark.parametrize("name", STACKS)
def test_a_gpu_computes_what_the_cpu_does(name: str) -> None:
    """A prompt and a token after it, fp32."""
    arch = STACKS[name]
    model = build_decoder(arch).initialise(1).eval()
    ids = torch.randint(arch.vocab_size, (2, 70), generator=torch.Generator().manual_seed(2))
    found = []
    for device in ("cpu", "cuda"):
        on = model.to(device)
        with torch.inference_mode():
            whole, cache = on(ids[:, :-1].to(device), last_only=False)
            step, _ = on(ids[:, -1:].to(device), past=cache)
        found.append((whole.cpu(), step.cpu()))
    for cpu, gpu in zip(*found, strict=True):
        torch.testing.assert_close(gpu, cpu, atol=2e-4, rtol=2e-3)


def test_chunks_equal_the_recurrence_token_by_token() -> None:
    """Each scan against its own step, from a state that is not zero."""
    from codesign.models import scans

    torch.manual_seed(3)
    b, h, t, n, p = 2, 4, 150, 8, 6
    q, k, v = (
        torch.randn(b, h, t, n),
        torch.nn.functional.normalize(torch.randn(b, h, t, n), dim=-1),
        torch.randn(b, h, t, p),
    )
    decay, beta = -torch.rand(b, h, t) * 0.3, torch.rand(b, h, t)
    state = torch.randn(b, h, n, p)
    norm, top = torch.randn(b, h, n), torch.randn(b, h)
    cases: dict[str, tuple[Any, Any, tuple[Any, ...], tuple[Any, ...]]] = {
        "ssd": (scans.ssd_chunks, scans.ssd_step, (v, decay, k, q), (state,)),
        "delta": (scans.delta_chunks, scans.delta_step, (q, k, v, decay, beta), (state,)),
        "mlstm": (scans.mlstm_chunks, scans.mlstm_step, (q, k, v, decay, torch.randn(b, h, t)), (state, norm, top)),
    }
    for chunks, step, inputs, begin in cases.values():
        whole, end = scans.chunked(chunks, inputs, begin, 64)
        held, outputs = begin, []
        for i in range(t):
            y, held = step(*(x[:, :, i] for x in inputs), *held)
            outputs.append(y)
        torch.testing.assert_close(whole, torch.stack(outputs, dim=2), atol=2e-3, rtol=2e-3)
        for a, e in zip(end, held, strict=True):
            torch.testing.assert_close(a, e, atol=2e-3, rtol=2e-3)


# --- against transformers ---------------------------------------------------------------------------------------------


def _interleave(weight: Any, heads: int, rope: int) -> Any:
    """Rows of rotated dimensions from pairs (0, 1), (2, 3), ... to halves, as our rotation has them."""
    rows = weight.view(heads, -1, weight.shape[-1])
    rest, rotated = rows[:, : rows.shape[1] - rope], rows[:, rows.shape[1] - rope :]
    return torch.cat([rest, rotated[:, 0::2], rotated[:, 1::2]], dim=1).reshape(weight.shape)


def _copied(
    model: Stack, theirs: dict[str, Any], prefix: str, blocks: Iterator[dict[str, str]], one: bool = False
) -> None:
    """Our weights from theirs: for each sublayer the names of ours, beside those of all models."""
    ours = model.state_dict()
    gain = 1.0 if one else 0.0
    names = {"embed_tokens.weight": f"{prefix}.weight"}
    for i, block in enumerate(blocks):
        names |= {f"sublayers.{i}.{our}": their for our, their in block.items()}
    for our in ours:
        if our == "lm_head.weight":
            value = theirs["lm_head.weight"]
        elif our == "final_norm.weight":
            value = theirs[names.pop("final", "final")] if "final" in names else None
        else:
            parts = [theirs[name] for name in names[our].split("+")]
            value = torch.cat(parts) if len(parts) > 1 else parts[0]
        if value is None:
            continue
        if gain and our.endswith(("norm.weight", "q_norm.weight", "k_norm.weight")) and "block.norm" not in our:
            value = value + gain
        ours[our] = value.reshape(ours[our].shape)
    model.load_state_dict(ours)


def _bamba(i: int, letter: str) -> dict[str, str]:
    at = f"model.layers.{i}"
    if letter == "R":
        return {"norm.weight": f"{at}.input_layernorm.weight", "block.A_log": f"{at}.mamba.A_log", "block.D": f"{at}.mamba.D",
                "block.dt_bias": f"{at}.mamba.dt_bias", "block.in_proj.weight": f"{at}.mamba.in_proj.weight",
                "block.conv.weight": f"{at}.mamba.conv1d.weight", "block.conv.bias": f"{at}.mamba.conv1d.bias",
                "block.out_proj.weight": f"{at}.mamba.out_proj.weight", "block.norm.weight": f"{at}.mamba.norm.weight"}  # fmt: skip
    if letter == "A":
        return {"norm.weight": f"{at}.input_layernorm.weight"} | {
            f"block.{p}_proj.weight": f"{at}.self_attn.{p}_proj.weight" for p in "qkvo"}  # fmt: skip
    return {"norm.weight": f"{at}.pre_ff_layernorm.weight"} | {
        f"block.ffn.{p}_proj.weight": f"{at}.feed_forward.{p}_proj.weight" for p in ("gate", "up", "down")}  # fmt: skip


def _mamba(i: int, letter: str) -> dict[str, str]:
    at = f"backbone.layers.{i}"
    return {"norm.weight": f"{at}.norm.weight"} | {
        f"block.{ours}": f"{at}.mixer.{theirs}"
        for ours, theirs in (
            ("A_log", "A_log"), ("D", "D"), ("in_proj.weight", "in_proj.weight"), ("conv.weight", "conv1d.weight"), ("conv.bias", "conv1d.bias"),
            ("x_proj.weight", "x_proj.weight"), ("dt_proj.weight", "dt_proj.weight"), ("dt_proj.bias", "dt_proj.bias"),
            ("out_proj.weight", "out_proj.weight"),
        )
    }  # fmt: skip


def _jamba(i: int, letter: str) -> dict[str, str]:
    at = f"model.layers.{i}"
    if letter == "R":
        norms = {f"block.{p}_norm.weight": f"{at}.mamba.{p}_layernorm.weight" for p in ("dt", "b", "c")}
        inner = {
            our: their.replace(f"backbone.layers.{i}.mixer", f"{at}.mamba") for our, their in _mamba(i, "R").items()
        }
        return inner | norms | {"norm.weight": f"{at}.input_layernorm.weight"}
    if letter == "A":
        return _bamba(i, "A")
    return {"norm.weight": f"{at}.pre_ff_layernorm.weight"} | {
        f"block.ffn.{p}_proj.weight": f"{at}.feed_forward.{p}_proj.weight" for p in ("gate", "up", "down")}  # fmt: skip


def _nemotron(i: int, letter: str) -> dict[str, str]:
    at, norm = f"model.layers.{i}.mixer", {"norm.weight": f"model.layers.{i}.norm.weight"}
    if letter == "R":
        return norm | {
            our: their.replace(f"model.layers.{i}.mamba", at)
            for our, their in _bamba(i, "R").items()
            if our != "norm.weight"
        }
    if letter == "A":
        return norm | {f"block.{p}_proj.weight": f"{at}.{p}_proj.weight" for p in "qkvo"}
    return norm | {f"block.ffn.{p}_proj.weight": f"{at}.{p}_proj.weight" for p in ("up", "down")}


def _qwen(i: int, letter: str) -> dict[str, str]:
    at = f"model.layers.{i}"
    if letter == "R":
        inner = f"{at}.linear_attn"
        return {"norm.weight": f"{at}.input_layernorm.weight", "block.A_log": f"{inner}.A_log", "block.dt_bias": f"{inner}.dt_bias",
                "block.in_proj.weight": "+".join(f"{inner}.in_proj_{p}.weight" for p in ("qkv", "z", "b", "a")),
                "block.conv.weight": f"{inner}.conv1d.weight", "block.out_proj.weight": f"{inner}.out_proj.weight",
                "block.norm.weight": f"{inner}.norm.weight"}  # fmt: skip
    if letter == "A":
        return _bamba(i, "A") | {f"block.{p}_norm.weight": f"{at}.self_attn.{p}_norm.weight" for p in "qk"}
    return {"norm.weight": f"{at}.post_attention_layernorm.weight"} | {
        f"block.ffn.{p}_proj.weight": f"{at}.mlp.{p}_proj.weight" for p in ("gate", "up", "down")}  # fmt: skip


def _xlstm(i: int, letter: str) -> dict[str, str]:
    at = f"backbone.blocks.{i}"
    inner = f"{at}.mlstm_layer"
    if letter == "R":
        gates = ("igate_preact", "fgate_preact")
        return {"norm.weight": f"{at}.norm_mlstm.weight",
                "block.in_proj.weight": "+".join(f"{inner}.{p}.weight" for p in ("q", "k", "v", "ogate_preact", *gates)),
                "block.gate_bias": "+".join(f"{inner}.{p}.bias" for p in gates), "block.norm": f"{inner}.multihead_norm.weight",
                "block.out_proj.weight": f"{inner}.out_proj.weight"}  # fmt: skip
    return {"norm.weight": f"{at}.norm_ffn.weight", "block.ffn.gate_proj.weight": f"{at}.ffn.proj_up_gate.weight",
            "block.ffn.up_proj.weight": f"{at}.ffn.proj_up.weight", "block.ffn.down_proj.weight": f"{at}.ffn.proj_down.weight"}  # fmt: skip


def _lfm2(i: int, letter: str) -> dict[str, str]:
    at = f"model.layers.{i}"
    if letter == "R":
        return {"norm.weight": f"{at}.operator_norm.weight", "block.in_proj.weight": f"{at}.conv.in_proj.weight",
                "block.conv.weight": f"{at}.conv.conv.weight", "block.out_proj.weight": f"{at}.conv.out_proj.weight"}  # fmt: skip
    if letter == "A":
        return {"norm.weight": f"{at}.operator_norm.weight", "block.o_proj.weight": f"{at}.self_attn.out_proj.weight",
                **{f"block.{p}_proj.weight": f"{at}.self_attn.{p}_proj.weight" for p in "qkv"},
                **{f"block.{p}_norm.weight": f"{at}.self_attn.{p}_layernorm.weight" for p in "qk"}}  # fmt: skip
    return {"norm.weight": f"{at}.ffn_norm.weight", "block.ffn.gate_proj.weight": f"{at}.feed_forward.w1.weight",
            "block.ffn.up_proj.weight": f"{at}.feed_forward.w3.weight", "block.ffn.down_proj.weight": f"{at}.feed_forward.w2.weight"}  # fmt: skip


def _youtu(i: int, letter: str) -> dict[str, str]:
    at = f"model.layers.{i}"
    if letter == "A":
        inner = f"{at}.self_attn"
        return {"norm.weight": f"{at}.input_layernorm.weight", "block.q_down.weight": f"{inner}.q_a_proj.weight",
                "block.q_norm.weight": f"{inner}.q_a_layernorm.weight", "block.q_up.weight": f"{inner}.q_b_proj.weight",
                "block.kv_down.weight": f"{inner}.kv_a_proj_with_mqa.weight", "block.kv_norm.weight": f"{inner}.kv_a_layernorm.weight",
                "block.kv_up.weight": f"{inner}.kv_b_proj.weight", "block.o_proj.weight": f"{inner}.o_proj.weight"}  # fmt: skip
    return _qwen(i, "F")


def _gpt_oss(i: int, letter: str) -> dict[str, str]:
    at = f"model.layers.{i}"
    if letter in "AW":
        inner = f"{at}.self_attn"
        return {"norm.weight": f"{at}.input_layernorm.weight", "block.sinks": f"{inner}.sinks"} | {
            f"block.{p}_proj.{kind}": f"{inner}.{p}_proj.{kind}" for p in "qkvo" for kind in ("weight", "bias")}  # fmt: skip
    experts = {
        f"block.experts.{e}.{part}_proj.{kind}": f"expert.{i}.{e}.{part}.{kind}"
        for e in range(4) for part in ("gate", "up", "down") for kind in ("weight", "bias")
    }  # fmt: skip
    return {"norm.weight": f"{at}.post_attention_layernorm.weight", "block.router.weight": f"{at}.mlp.router.weight",
            "block.router.bias": f"{at}.mlp.router.bias", **experts}  # fmt: skip


def _apart(state: dict[str, Any]) -> dict[str, Any]:
    """gpt-oss: each expert's matrices (outputs, inputs) from stacked ones, gates and values in turn."""
    out = dict(state)
    for name, value in state.items():
        if ".experts." in name:
            layer, kind = name.split(".")[2], "bias" if name.endswith("bias") else "weight"
            for e, each in enumerate(value):
                matrix = each.T if each.dim() == 2 else each
                if "gate_up" in name:
                    out[f"expert.{layer}.{e}.gate.{kind}"], out[f"expert.{layer}.{e}.up.{kind}"] = (
                        matrix[::2],
                        matrix[1::2],
                    )
                else:
                    out[f"expert.{layer}.{e}.down.{kind}"] = matrix
    return out


_FINAL = {"gpt_oss": "model.norm.weight", "mamba": "backbone.norm_f.weight", "jamba": "model.final_layernorm.weight", "bamba": "model.final_layernorm.weight", "nemotron_h": "model.norm_f.weight", "qwen3_5_text": "model.norm.weight",
          "xlstm": "backbone.out_norm.weight", "lfm2": "model.embedding_norm.weight", "youtu": "model.norm.weight"}  # fmt: skip
_NAMES = {
    "gpt_oss": _gpt_oss,
    "mamba": _mamba,
    "jamba": _jamba,
    "bamba": _bamba,
    "nemotron_h": _nemotron,
    "qwen3_5_text": _qwen,
    "xlstm": _xlstm,
    "lfm2": _lfm2,
    "youtu": _youtu,
}


@pytest.mark.parametrize("family", _NAMES)
def test_logits_equal_those_of_transformers(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = dict(SMALL["jamba-dense" if family == "jamba" else family])
    if family == "lfm2":
        config |= {"layer_types": ["full_attention" if i in (1, 4) else "conv" for i in range(6)]}
    if family == "gpt_oss":
        config |= {"rope_parameters": {"rope_type": "default", "rope_theta": 150000.0}}
    if family == "qwen3_5_text":
        config |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25}}
    if family == "xlstm":
        config |= {
            "output_logit_soft_cap": 1e6,
            "autocast_kernel_dtype": "float32",
            "chunkwise_kernel": "chunkwise--native_autograd",
        }
    torch.manual_seed(5)
    reference = (
        transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config)).float().eval()
    )
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
            elif name.endswith(
                ("dt_bias", "conv1d.bias", "dt_proj.bias", "preact.bias", "sinks", "proj_bias", "proj.bias")
            ):
                parameter.normal_(0, 0.5)
    arch = architecture_from_config(config, family)
    model = Stack(arch).eval()
    state = _apart(reference.state_dict())
    letters = sublayers(arch)
    single = family in ("nemotron_h", "mamba")
    blocks = (_NAMES[family](i if single else i // 2, c) for i, c in enumerate(letters))
    embed = next(
        name for name in state if "embed" in name and name.endswith(".weight") and "norm" not in name
    ).removesuffix(".weight")
    _copied(model, state, embed, blocks, one=family == "qwen3_5_text")
    final = state[_FINAL[family]]
    with torch.no_grad():
        model.final_norm.weight.copy_(final + (family == "qwen3_5_text"))
        if family == "youtu":
            for layer in model.sublayers:
                if layer.letter == "A":
                    layer.block.q_up.weight.copy_(_interleave(layer.block.q_up.weight, arch.n_heads, arch.d_rope))
                    layer.block.kv_down.weight.copy_(_interleave(layer.block.kv_down.weight, 1, arch.d_rope))
    ids = torch.randint(100, (2, 70), generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        wanted = reference(ids).logits
        found, _ = model(ids, last_only=False)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=2e-3 * float(wanted.std()), rtol=1e-3)


# --- FLOPs and bytes ---------------------------------------------------------------------------------------------------


def _counted(model: Any, run: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # the CPU's fused kernel is not counted
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), math:
        run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", STACKS)
def test_flops_of_a_step_equal_those_that_torch_counts(name: str) -> None:
    """All matrix products of a decode step. torch does not count the outer products of states (written as broadcasts) nor the
    one-token convolution; the operators' scan is compared with what torch counts of it: reading the state, 2 H P N, or 4 H P N of gdn.
    """
    arch = STACKS[name]
    model, batch, past = random_decoder(arch), 2, 24
    cache = [
        tuple(torch.randn(shape) * 0.1 for shape, _ in parts) for parts in model.cache_spec(batch, past, torch.float32)
    ]
    ids, positions = torch.zeros(batch, 1, dtype=torch.long), torch.full((batch, 1), past)
    counted = _counted(model, lambda: model(ids, positions, cache))
    workload = Workload(prompt_tokens=past, output_tokens=1, batch_size=batch)
    ops = lower(arch, workload, PRECISIONS["fp32"], "decode")
    expected = 0.0
    for op in ops:
        share = 1.0
        if op.kind == "scan":
            share = 4 / 6 if arch.recurrence == "gdn" else 2 / 4
        expected += float(op.flop) * float(op.count) * share
    assert counted == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", STACKS)
def test_the_cache_has_the_bytes_that_the_cost_model_says(name: str, precision: str) -> None:
    arch, past, dtype = STACKS[name], 40, {"fp32": torch.float32, "fp16": torch.float16}[precision]
    spec = build_decoder(arch).cache_spec(3, past, dtype)
    held = sum(kind.itemsize * int(torch.Size(shape).numel()) for parts in spec for shape, kind in parts)
    workload = Workload(prompt_tokens=past - 1, output_tokens=1, batch_size=3)
    if arch.n_window_layers:  # a layer with a window of 5 keeps the 4 positions that the next token reads beside itself
        held += 3 * 2 * dtype.itemsize * arch.d_kv * sum(parts[0][0][2] == 4 for parts in spec)
    assert held == float(cache_bytes(arch, workload, PRECISIONS[precision]))


def test_the_expanded_form_of_latent_attention_caches_all_heads() -> None:
    arch = STACKS["mla"]
    absorbed, expanded = (
        Workload(prompt_tokens=99, output_tokens=1, serving=Serving(latent=form))
        for form in ("absorbed", "expanded")  # type: ignore[arg-type]
    )
    form = PRECISIONS["fp16"]
    assert float(cache_bytes(arch, absorbed, form)) == 100 * 4 * (24 + 8) * 2
    assert float(cache_bytes(arch, expanded, form)) == 100 * 4 * 4 * (16 + 12) * 2


# --- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"norm_bias": True}, "norm_bias True has no runnable model"), ({"norms_per_layer": 4}, "norms_per_layer 4 has no runnable model"),
     ({"family": "llama4"}, "family 'llama4' has no runnable model")],
)  # fmt: skip
def test_what_no_module_is_written_for_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_decoder(STACKS["mamba2"].evolve(**changes))


@pytest.mark.parametrize("name", SMALL)
def test_every_family_that_is_read_runs(name: str) -> None:
    arch = architecture_from_config(SMALL[name], name)
    model = random_decoder(arch)
    assert sum(p.numel() for p in model.parameters()) == arch.params_total
    with torch.inference_mode():
        logits, cache = model(torch.randint(arch.vocab_size, (1, 9)))
        again, _ = model(torch.randint(arch.vocab_size, (1, 1)), past=cache)
    assert logits.shape == again.shape == (1, 1, arch.vocab_size) and bool(logits.isfinite().all())


def test_graphs_of_stacks_are_refused() -> None:
    with pytest.raises(SpecError, match="runs with --engine torch"):
        weight_shapes(STACKS["gdn"])
