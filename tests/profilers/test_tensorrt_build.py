"""The building half, for real: TensorRT-RTX parses and builds for an Ampere GPU on a machine without one."""

import shutil
from types import SimpleNamespace

import pytest

from codesign.architecture import Architecture
from codesign.errors import MeasurementError, SpecError
from codesign.models.features import features
from codesign.models.inputs import input_shape
from codesign.profilers.base import Point
from codesign.profilers.tensorrt_build import build_engine, flavour_of, input_values, logger_of, profiles

ARCH = Architecture(n_layers=2, d_model=256, n_heads=4, n_kv_heads=2, d_head=64, d_ff=512, vocab_size=1000)
QWEN3 = ARCH.evolve(n_layers=1, qk_norm="head", tied_embeddings=False, family="qwen3")
WINDOWS = ARCH.evolve(window_tokens=33, n_window_layers=1, family="gemma3_text", qk_norm="head", norms_per_layer=4)


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip(
        "tensorrt_rtx", reason="tensorrt-rtx-cu13 builds engines without a GPU; it is not installed"
    )


def build(trt, arch, precision, flavour, **options):
    pytest.importorskip("onnx")
    from codesign.models.onnx_graph import build_onnx

    model = build_onnx(arch, precision, flavour=flavour)
    return build_engine(model, arch, profiles(256, 2), trt=trt, compute_capability="SM86", **options)


@pytest.mark.parametrize(
    ("arch", "precision", "flavour"),
    [
        (ARCH, "fp16", "standard"),
        (ARCH, "fp16", "decomposed"),
        (ARCH, "bf16", "standard"),
        (ARCH, "fp32", "decomposed"),
        (ARCH, "w4a16", "standard"),
        (QWEN3, "fp16", "standard"),
        (WINDOWS, "fp16", "standard"),
        (WINDOWS, "fp16", "decomposed"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.family,
)
def test_prefill_and_decode_of_a_decoder_build_into_one_engine(trt, arch, precision, flavour):
    plan = build(trt, arch, precision, flavour, workspace_B=2e8)
    weights_B = arch.params_total * {"fp16": 2, "bf16": 2, "fp32": 4, "w4a16": 0.5}[precision]
    assert weights_B < len(plan) < 4 * weights_B + 8e6  # the weights once, not once a profile, and the kernels


def test_a_graph_that_the_parser_cannot_read_gives_all_its_reasons(trt):
    with pytest.raises(MeasurementError) as caught:
        build(trt, ARCH.evolve(n_layers=1), "int8-dynamic", "standard")
    text = str(caught.value)
    assert text.startswith(f"TensorRT {trt.__version__} cannot read the graph: In node")
    assert text.count("DynamicQuantizeLinear (check") > 1 and text.count("MatMulInteger (check") > 1  # each node
    assert "\n" not in text


def test_a_graph_that_the_builder_refuses_gives_its_reason(trt):
    with pytest.raises(MeasurementError, match=r"cannot build the engine: .*Attention operation was not supported"):
        build(trt, ARCH.evolve(n_layers=1), "fp32", "standard")
    build(trt, ARCH.evolve(n_layers=1), "fp16", "standard")  # and the next build is not disturbed


def test_unknown_targets_name_the_known(trt):
    with pytest.raises(SpecError, match=r"capability 'SM87'; allowed: SM120, .*SM86, SM89"):
        pytest.importorskip("onnx")
        from codesign.models.onnx_graph import build_onnx

        build_engine(build_onnx(QWEN3, "fp16"), QWEN3, profiles(8), trt=trt, compute_capability="SM87")


@pytest.mark.parametrize(
    ("name", "version", "flavour"),
    [
        ("tensorrt", "10.3.0.30", "decomposed"),
        ("tensorrt", "10.14.1.48", "decomposed"),
        ("tensorrt", "10.15.1.29", "standard"),
        ("tensorrt", "11.1.0.106", "standard"),
        ("tensorrt_rtx", "1.7.1.116", "standard"),
    ],
)
def test_flavour_by_version(name, version, flavour):
    assert flavour_of(SimpleNamespace(__name__=name, __version__=version)) == flavour


def test_tensorrt_8_is_refused():
    with pytest.raises(SpecError, match=r"TensorRT 8.6.1 is too old; codesign needs 10.0 or later"):
        flavour_of(SimpleNamespace(__name__="tensorrt", __version__="8.6.1"))


def test_shapes_follow_the_graph_and_windows_keep_their_window():
    onnx_graph = pytest.importorskip("codesign.models.onnx_graph")
    for arch in (ARCH, WINDOWS):
        for given in onnx_graph.build_onnx(arch, "fp16").proto.graph.input:
            dims = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
            shape = input_shape(given.name, arch, batch=2, tokens=3, past=100)
            assert len(shape) == len(dims)
            sizes = {"batch": 2, "sequence": 3, "past": 100, "past_window": 32}
            assert list(shape) == [sizes.get(d, d) for d in dims], given.name
    assert sum(features(WINDOWS).sliding) == 1


def test_input_values():
    np = pytest.importorskip("numpy")
    point = Point(phase="prefill", batch_size=2, tokens=3, context_tokens=5)
    ids = np.frombuffer(input_values("input_ids", (2, 3), "INT64", ARCH, point), np.int64)
    assert ids.size == 6 and ids.min() >= 0 and ids.max() < 1000
    positions = np.frombuffer(input_values("position_ids", (2, 3), "INT64", ARCH, point), np.int64)
    assert positions.tolist() == [5, 6, 7, 5, 6, 7]
    keys, others = (
        np.frombuffer(input_values(f"past_key_values.{i}.key", (2, 2, 5, 64), "HALF", ARCH, point), np.float16)
        for i in range(2)
    )
    assert keys.size == 2 * 2 * 5 * 64 and 0.015 < keys.std() < 0.025 and (keys != others).any()
    bits = np.frombuffer(input_values("past_key_values.0.key", (2, 2, 5, 64), "BF16", ARCH, point), np.uint16)
    bf16 = (bits.astype(np.uint32) << 16).view(np.float32)
    assert np.allclose(bf16, keys.astype(np.float32), rtol=1e-2, atol=1e-6)
    assert input_values("past_key_values.0.key", (2, 2, 0, 64), "HALF", ARCH, point) == b""
    long = input_values("past_key_values.0.key", (1, 1, 20000, 64), "HALF", ARCH, point)
    assert len(long) == 20000 * 64 * 2


class FakeConfig:
    """A builder's configuration with a timing cache, made up after TensorRT's Python interface."""

    def __init__(self):
        self.given = None

    def create_timing_cache(self, data):
        return SimpleNamespace(data=data)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.given = cache.data

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: self.given + b"+new")


def test_the_timing_cache_grows_from_build_to_build(tmp_path):
    from codesign.profilers import tensorrt_build

    path = tmp_path / "folder" / "timing.cache"
    for expected in (b"+new", b"+new+new"):
        config = FakeConfig()
        assert tensorrt_build._load_timing_cache(config, path) is not None
        tensorrt_build._save_timing_cache(config, path)
        assert path.read_bytes() == expected
    assert [p.name for p in path.parent.iterdir()] == ["timing.cache"]
    shutil.rmtree(path.parent)
    path.parent.write_text("a file where a folder should be")
    with pytest.raises(SpecError, match=r"cannot write the timing cache .*timing.cache"):
        tensorrt_build._save_timing_cache(FakeConfig(), path)


def test_the_logger_keeps_errors_for_one_message(trt):
    logger = logger_of(trt)
    assert logger is logger_of(trt)
    logger.take()
    logger.log(trt.ILogger.Severity.WARNING, "only a warning")
    assert logger.take() == "TensorRT gives no reason"
    for message in ("first\nline", "second", "second"):
        logger.log(trt.ILogger.Severity.ERROR, message)
    assert logger.take() == "first line; second"
    assert logger.take() == "TensorRT gives no reason"
