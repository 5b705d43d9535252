"""The ONNX graph in onnxruntime against the torch decoder with the same weights."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from codesign.architecture import Architecture  # noqa: E402
from codesign.errors import CodesignError, SpecError  # noqa: E402
from codesign.models.decoder import Decoder  # noqa: E402
from codesign.models.onnx_graph import build_onnx  # noqa: E402
from codesign.models.weights import (  # noqa: E402
    dequantise_int4,
    dequantise_int8,
    quantise_int4,
    quantise_int8,
    unpack_int4,
)

BASE = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=32, d_ff=96, vocab_size=160)
_EXPERTS = {"n_experts": 6, "n_active_experts": 2, "d_ff_expert": 64}
SHAPES = {
    "tied": {},
    "untied-biases": {"tied_embeddings": False, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "qwen3": {"family": "qwen3", "qk_norm": "head", "n_kv_heads": 1},
    "windows": {"family": "qwen2", "qkv_bias": True, "n_layers": 3, "window_tokens": 5, "n_window_layers": 2},
    "olmo2": {"family": "olmo2", "qk_norm": "full", "n_kv_heads": 4},
    "mixtral": {"family": "mixtral", **_EXPERTS, "d_ff": 0, "tied_embeddings": False},
    "mixtral-top1": {"family": "mixtral", **_EXPERTS, "n_active_experts": 1, "d_ff": 0},
    "qwen2_moe": {
        "family": "qwen2_moe", "qkv_bias": True, **_EXPERTS, "n_dense_layers": 1, "n_shared_experts": 2,
        "d_ff_shared": 32, "shared_expert_gate": True,
    },
    "gemma3_text": {
        "family": "gemma3_text", "norms_per_layer": 4, "qk_norm": "head", "window_tokens": 4, "n_window_layers": 1,
    },
    "nemotron": {"family": "nemotron", "ffn_gated": False, "norm_bias": True},
    "starcoder2": {
        "family": "starcoder2", "ffn_gated": False, "norm_bias": True, "qkv_bias": True, "out_bias": True,
        "mlp_bias": True,
    },
}  # fmt: skip


def decoder(arch: Architecture, seed: int = 1, scale: float = 0.1) -> Decoder:
    """A torch decoder whose every weight is random, gains and biases included."""
    torch.manual_seed(seed)
    model = Decoder(arch).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, scale)
    return model


def weights(model: Decoder) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def check(built) -> None:
    """onnx's checker with shape inference, on a copy that holds its tensors."""
    proto = onnx.ModelProto()
    proto.CopyFrom(built.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in built.tensors:
            tensor.raw_data = built.tensors[tensor.name].tobytes()
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    onnx.checker.check_model(proto, full_check=True)


def session(model, optimised=None):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    keep = model.add_to(options)
    built = ort.InferenceSession(model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    del keep
    return built


class Runner:
    """A session that carries its cache from call to call."""

    def __init__(self, arch: Architecture, model, batch: int = 2, dtype=np.float32) -> None:
        self.arch, self.session = arch, session(model)
        self.past = {
            f"past_key_values.{i}.{part}": np.zeros((batch, arch.n_kv_heads, 0, arch.d_head), dtype)
            for i in range(arch.n_layers)
            for part in ("key", "value")
        }
        self.position = 0

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        positions = np.broadcast_to(np.arange(self.position, self.position + ids.shape[1]), ids.shape)
        feeds = {"input_ids": ids, "position_ids": np.ascontiguousarray(positions), **self.past}
        names = [output.name for output in self.session.get_outputs()]
        out = dict(zip(names, self.session.run(names, feeds), strict=True))
        self.past = {name: out[name.replace("past_key_values", "present")] for name in self.past}
        self.position += ids.shape[1]
        return out["logits"]


def run_both(arch: Architecture, model: Decoder, runner: Runner, steps=(7, 3, 1, 1)) -> float:
    """Largest difference of logits over a prefill, a second chunk and decode steps, and of the last cache."""
    ids = torch.randint(0, arch.vocab_size, (2, sum(steps)), generator=torch.Generator().manual_seed(3))
    past, start, worst = None, 0, 0.0
    with torch.no_grad():
        for n in steps:
            part = ids[:, start : start + n]
            wanted, past = model(part, past=past)
            got = runner(part.numpy())
            assert got.shape == (2, 1, arch.vocab_size)
            worst = max(worst, float(np.abs(got.astype(np.float32) - wanted.numpy()).max()))
            start += n
    for i, (key, value) in enumerate(past):
        for name, tensor in (("key", key), ("value", value)):
            got = runner.past[f"past_key_values.{i}.{name}"].astype(np.float32)
            worst = max(worst, float(np.abs(got - tensor.numpy()).max()))
    return worst


@pytest.mark.parametrize("flavour", ["standard", "decomposed"])
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_fp32_equals_torch(changes, flavour) -> None:
    arch = BASE.evolve(**changes)
    model = decoder(arch)
    built = build_onnx(arch, flavour=flavour, weights=weights(model))
    check(built)
    assert run_both(arch, model, Runner(arch, built)) < 1e-5


def test_random_shapes_equal_torch() -> None:
    rng = np.random.default_rng(5)
    for seed in range(6):
        kv, group, d_head = int(rng.integers(1, 4)), int(rng.integers(1, 4)), 2 * int(rng.integers(4, 20))
        arch = Architecture(
            n_layers=int(rng.integers(1, 4)), d_model=8 * int(rng.integers(2, 20)), n_heads=kv * group, n_kv_heads=kv,
            d_head=d_head, d_ff=int(rng.integers(10, 200)), vocab_size=int(rng.integers(20, 300)),
            tied_embeddings=bool(rng.integers(2)), ffn_gated=bool(rng.integers(2)),
        )  # fmt: skip
        model = decoder(arch, seed)
        flavour = ("standard", "decomposed")[seed % 2]
        runner = Runner(arch, build_onnx(arch, flavour=flavour, weights=weights(model)))
        assert run_both(arch, model, runner, steps=(1, 5, 1)) < 1e-5, arch


@pytest.mark.parametrize("flavour", ["standard", "decomposed"])
def test_fp16_is_close_to_torch(flavour) -> None:
    arch = BASE.evolve(**SHAPES["qwen2_moe"], tied_embeddings=False)
    model = decoder(arch, scale=0.05)
    built = build_onnx(arch, "fp16", flavour=flavour, weights=weights(model))
    # 11 bits of mantissa through two layers, on logits of about 0.5
    assert run_both(arch, model, Runner(arch, built, dtype=np.float16)) < 0.01


def quantised(model: Decoder, round_trip) -> Decoder:
    """The decoder with each quantised matrix replaced by the floats that its quantised form stands for; untied head."""
    arch = model.arch.evolve(tied_embeddings=False)
    out = Decoder(arch).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state.setdefault("lm_head.weight", state["embed_tokens.weight"].clone())
    for name, value in state.items():
        kept = value.dim() == 1 or "embed" in name or "router" in name or "shared_gate" in name
        if not kept:
            state[name] = torch.from_numpy(round_trip(value.numpy().T).T.copy())
    out.load_state_dict(state)
    return out


@pytest.mark.parametrize("shape", ["tied", "untied-biases", "qwen2_moe"])
def test_w4a32_equals_torch_with_the_dequantised_weights(shape) -> None:
    arch = BASE.evolve(**SHAPES[shape])
    model = decoder(arch)
    reference = quantised(model, lambda w: dequantise_int4(*quantise_int4(w, 32), w.shape[0]))
    built = build_onnx(arch, "w4a32", weights=weights(model))
    runner = Runner(arch, built)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # fp32 products
    keep = built.add_to(options)
    runner.session = ort.InferenceSession(built.proto.SerializeToString(), options)
    del keep
    assert run_both(arch, reference, runner) < 1e-4
    # Level 4, onnxruntime's default, quantises activations in blocks of 32: 7 bits.
    assert run_both(arch, reference, Runner(arch, built)) < 0.1


@pytest.mark.parametrize("flavour", ["standard", "decomposed"])
@pytest.mark.parametrize("shape", ["tied", "untied-biases", "qwen2_moe"])
def test_int8_dynamic_is_close_to_torch_with_the_dequantised_weights(shape, flavour) -> None:
    arch = BASE.evolve(**SHAPES[shape])
    model = decoder(arch)
    reference = quantised(model, lambda w: dequantise_int8(*quantise_int8(w)))
    built = build_onnx(arch, "int8-dynamic", flavour=flavour, weights=weights(model))
    # Activations have one 8-bit scale for the whole tensor; logits are of the order of 1.
    assert run_both(arch, reference, Runner(arch, built)) < 0.25


@pytest.mark.parametrize(
    ("precision", "kernels"),
    [
        ("fp32", {"MatMul": 14, "Gemm": 1}),
        ("int8-dynamic", {"MatMulIntegerToFloat": 10, "DynamicQuantizeMatMul": 5}),
        ("w4a32", {"MatMulNBits": 15}),
        ("w4a16", {"MatMulNBits": 14, "Gemm": 1}),
    ],
)
def test_onnxruntime_runs_the_kernels_that_are_meant(precision, kernels, tmp_path) -> None:
    if precision == "w4a16" and tuple(map(int, ort.__version__.split(".")[:2])) < (1, 24):
        pytest.skip("onnxruntime before 1.24 fuses no 16-bit block DequantizeLinear; w4a16 is for TensorRT")
    arch = BASE.evolve(d_model=128, n_heads=4, d_ff=256)
    session(build_onnx(arch, precision), tmp_path / "optimised.onnx")
    optimised = onnx.load(tmp_path / "optimised.onnx", load_external_data=False)
    counts = Counter(node.op_type for node in optimised.graph.node)
    matrices = {kind: n for kind, n in counts.items() if "MatMul" in kind or kind in ("Gemm", "DequantizeLinear")}
    assert matrices == kernels
    assert counts["Attention"] == 2 and counts["RotaryEmbedding"] == 4 and counts["RMSNormalization"] == 5


def test_older_onnxruntime_gets_4_bit_matrices_in_the_graph(tmp_path) -> None:
    class Options:
        """SessionOptions of onnxruntime 1.23: without add_external_initializers_from_files_in_memory."""

        def __init__(self) -> None:
            self.options = ort.SessionOptions()
            self.add_external_initializers = self.options.add_external_initializers

    ids = np.arange(10).reshape(2, 5)
    wanted = Runner(BASE, build_onnx(BASE, "w4a32"))(ids)
    built = build_onnx(BASE, "w4a32")
    runner, old = Runner(BASE, built), Options()
    keep = built.add_to(old)
    runner.session = ort.InferenceSession(built.proto.SerializeToString(), old.options)
    del keep
    assert np.array_equal(runner(ids), wanted)
    built.save(tmp_path / "model.onnx", external_above_B=0)  # still writes each tensor outside
    assert (tmp_path / "model.onnx").stat().st_size < 50_000


def test_many_experts_load_without_the_plan_of_buffer_reuse() -> None:
    arch = BASE.evolve(family="qwen3_moe", qk_norm="head", n_experts=100, n_active_experts=2, d_ff_expert=8, d_ff=0)
    options = ort.SessionOptions()
    built = build_onnx(arch)
    built.add_to(options)
    assert len(built.proto.graph.node) > 1000 and not options.enable_mem_reuse
    model = decoder(arch)
    assert run_both(arch, model, Runner(arch, build_onnx(arch, weights=weights(model)))) < 1e-5


def test_decomposed_uses_only_opset_17() -> None:
    for precision in ("fp32", "fp16", "bf16", "int8-dynamic"):
        built = build_onnx(BASE.evolve(**SHAPES["qwen2_moe"]), precision, flavour="decomposed")
        proto = built.proto
        assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
        assert not {node.op_type for node in proto.graph.node} & {"Attention", "RMSNormalization", "RotaryEmbedding"}
        check(built)


def test_bf16_graph_is_checked_and_holds_rounded_weights() -> None:
    model = decoder(BASE)
    built = build_onnx(BASE, "bf16", weights=weights(model))
    check(built)
    bits = built.tensors["layers.0.q_proj.weight"]
    floats = (bits.astype(np.uint32) << 16).view(np.float32)
    wanted = model.layers[0].q_proj.weight.detach().T.to(torch.bfloat16).float().numpy()
    assert np.array_equal(floats, wanted)


def test_a_window_layer_takes_a_short_cache() -> None:
    arch = BASE.evolve(**SHAPES["windows"])
    runner = Runner(arch, build_onnx(arch, weights=weights(decoder(arch))), batch=1)
    ids = np.arange(12)[None]
    runner(ids[:, :11])
    past = dict(runner.past)
    wanted = runner(ids[:, 11:])
    runner.past = {name: value[:, :, -4:] if ".0." not in name else value for name, value in past.items()}
    runner.position = 11
    assert np.allclose(runner(ids[:, 11:]), wanted, atol=1e-6)


def test_random_weights_repeat_by_seed_and_every_tensor_has_its_own_memory() -> None:
    for precision in ("fp32", "fp16", "bf16", "int8-dynamic", "w4a32"):
        first, again, other = (build_onnx(BASE, precision, seed=seed) for seed in (0, 0, 1))
        assert first.proto == again.proto
        assert all(np.array_equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
        assert any(not np.array_equal(first.tensors[name], other.tensors[name]) for name in first.tensors)
        spans = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in first.tensors.values())
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_random_logits_are_finite_in_half_precision() -> None:
    arch = BASE.evolve(n_layers=6)
    runner = Runner(arch, build_onnx(arch, "fp16"), dtype=np.float16)
    assert np.isfinite(runner(np.arange(40).reshape(2, 20) % arch.vocab_size)).all()


def test_stored_floats_are_all_the_parameters() -> None:
    for changes in SHAPES.values():
        arch = BASE.evolve(**changes)
        built = build_onnx(arch)
        stored = sum(int(np.prod(t.dims)) for t in built.proto.graph.initializer if not t.name.startswith("constant"))
        assert stored == arch.params_total


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8-dynamic", "w4a32"])
def test_saved_files_give_the_same_model(precision, tmp_path) -> None:
    built = build_onnx(BASE, precision)
    whole = built.save(tmp_path / "whole.onnx")
    parts = built.save(tmp_path / "parts.onnx", external_above_B=1000)
    assert [path.name for path in whole] == ["whole.onnx"]
    assert [path.name for path in parts] == ["parts.onnx", "parts.onnx.data"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts.onnx", "parts.onnx.data", "whole.onnx"]
    for path in (whole[0], parts[0]):
        onnx.checker.check_model(str(path))
    for tensor in onnx.load(parts[0]).graph.initializer:
        if tensor.name in built.tensors:
            assert tensor.raw_data == built.tensors[tensor.name].tobytes()
    if precision == "bf16":  # onnxruntime has no CPU kernels for it
        return
    ids = np.arange(10).reshape(2, 5)
    wanted = Runner(BASE, built)(ids)
    for path in (whole[0], parts[0]):
        runner = Runner(BASE, built)
        runner.session = ort.InferenceSession(str(path))
        assert np.array_equal(runner(ids), wanted)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    import errno
    import os

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "model.onnx").write_text("old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CodesignError, match=r"model\.onnx: No space left on device; the model needs 0\.00 GB"):
        build_onnx(BASE).save(tmp_path / "model.onnx")
    monkeypatch.undo()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("model.onnx", "old")]
    with pytest.raises(CodesignError, match="No such file or directory"):
        build_onnx(BASE).save(tmp_path / "missing" / "model.onnx")


def test_quantisation_by_hand() -> None:
    # Column 0: largest 12.7, scale 0.1. Column 1: largest 2.54, scale 0.02.
    q, scale = quantise_int8(np.array([[12.7, -2.54], [-0.1, 0.03]]))
    assert q.tolist() == [[127, -127], [-1, 2]]  # 0.03 / 0.02 = 1.5, to the even 2
    assert scale == pytest.approx([0.1, 0.02])
    # One block of two inputs, two columns: scales 0.7 / 7 and 7 / 7; row-major nibbles 7, -7 | -3, 1.
    packed, scale = quantise_int4(np.array([[0.7, -7.0], [-0.3, 1.0]]), 2)
    assert packed.tolist() == [7 | (9 << 4), 13 | (1 << 4)]
    assert unpack_int4(packed, (2, 2)).tolist() == [[7, -7], [-3, 1]]
    assert dequantise_int4(packed, scale, 2) == pytest.approx(np.array([[0.7, -7.0], [-0.3, 1.0]]))


@pytest.mark.parametrize(
    ("arch", "arguments", "message"),
    [
        (BASE, {"precision": "q4_k_m"}, "precision 'q4_k_m' has no ONNX graph; allowed: fp32, fp16"),
        (BASE, {"flavour": "tensorrt"}, "flavour 'tensorrt' is not one of standard, decomposed"),
        (BASE, {"precision": "w4a32", "flavour": "decomposed"}, "opset 21"),
        (BASE.evolve(d_ff=100), {"precision": "w4a32"}, "multiples of it, not 100"),
        (BASE.evolve(family="gemma2", norms_per_layer=4), {}, "gemma2"),
        (BASE, {"weights": {}}, r"weight 'embed_tokens\.weight' is missing"),
        (BASE, {"weights": {"embed_tokens.weight": np.zeros((3, 3))}}, r"shape \(3, 3\), not \(160, 64\)"),
    ],
)
def test_bad_input_is_refused(arch, arguments, message) -> None:
    with pytest.raises(SpecError, match=message):
        build_onnx(arch, **arguments)


def test_two_gigabytes_of_weights_make_a_small_proto() -> None:
    arch = Architecture(n_layers=12, d_model=256, n_heads=4, n_kv_heads=2, d_head=64, d_ff=512, vocab_size=1000)
    assert len(build_onnx(arch).proto.SerializeToString()) < 100_000
