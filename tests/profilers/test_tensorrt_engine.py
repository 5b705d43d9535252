"""The running half by its contract: a fake TensorRT and a fake CUDA (made up after the Python API of TensorRT 10) that
note every call. They run nothing: what a real engine computes is not tested here."""

import ctypes
import gc
import sys
from types import SimpleNamespace

import pytest

from codesign.architecture import Architecture
from codesign.errors import MeasurementError, MissingExtraError, SpecError
from codesign.profilers import tensorrt_engine
from codesign.profilers.base import Point
from codesign.profilers.tensorrt_engine import TensorRTEngine
from codesign.profilers.tensorrt_layers import layer_profile

TINY = Architecture(n_layers=1, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
INPUTS = ["input_ids", "position_ids", "past_key_values.0.key", "past_key_values.0.value"]
OUTPUTS = ["logits", "present.0.key", "present.0.value"]


class FakeCuda:
    """Notes calls; memory, streams, events and graphs must all be given back."""

    name, compute_capability, integrated = "Fake GPU", (8, 7), False

    def __init__(self, fail_at=None):
        self.log, self.live, self.sizes, self.number, self.fail_at = [], set(), {}, 0, fail_at

    def _make(self, kind):
        self.number += 1
        handle = (kind, self.number)
        self.live.add(handle)
        return handle

    def _drop(self, handle):
        self.live.remove(handle)

    def free_memory_B(self):
        return 5e9

    def allocate(self, size_B):
        if self.fail_at == sum(kind == "memory" for kind, _ in self.live):
            raise MeasurementError("out of device memory")
        handle = self._make("memory")
        self.sizes[handle] = size_B
        return handle

    def upload(self, address, data):
        assert len(data) == self.sizes[address]

    def stream(self):
        return self._make("stream")

    def event(self):
        return self._make("event")

    free = destroy_stream = destroy_event = destroy_graph = _drop

    def synchronize(self, stream):
        assert stream in self.live

    def record(self, event, stream):
        assert {event, stream} <= self.live
        self.log.append("record")

    def elapsed_s(self, start, end):
        assert start != end
        self.log.append("elapsed")
        return 0.004

    def capture(self, stream, work):
        self.log.append("capture")
        work()
        return self._make("graph")

    def launch(self, graph, stream):
        assert {graph, stream} <= self.live
        self.log.append("launch")


class FakeContext:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses, self.profile, self.profiler = engine, {}, {}, None, None

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return True

    def set_input_shape(self, name, shape):
        assert self.profile is not None  # choosing a profile resets the shapes
        self.shapes[name] = shape
        return name not in self.engine.refuse

    def infer_shapes(self):
        return [name for name in INPUTS if name not in self.shapes]

    def get_tensor_shape(self, name):
        if name in self.shapes:
            return self.shapes[name]
        batch, heads, past, size = self.shapes["past_key_values.0.key"]
        return (batch, 1, 100) if name == "logits" else (batch, heads, past + self.shapes["input_ids"][1], size)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert set(self.addresses) == {*INPUTS, *OUTPUTS}
        self.engine.cuda.log.append("execute")
        if self.profiler is not None:
            for name, ms in (("fused", 3.0), ("head", 1.0)):
                self.profiler.report_layer_time(name, ms)
        return not self.engine.broken


class FakeEngine:
    num_io_tensors = len(INPUTS) + len(OUTPUTS)

    def __init__(self, cuda, refuse=(), broken=False):
        self.cuda, self.refuse, self.broken, self.contexts = cuda, refuse, broken, []

    def get_tensor_name(self, i):
        return [*INPUTS, *OUTPUTS][i]

    def get_tensor_mode(self, name):
        return "in" if name in INPUTS else "out"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="INT64" if name.endswith("ids") else "HALF")

    def create_execution_context(self):
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


def fake_trt(engine, version="10.3.0"):
    class Base:
        def __init__(self):
            pass

    class FakeLogger(Base):
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    class FakeRuntime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, plan):
            assert plan == b"plan"
            if engine is None:
                self.logger.log(1, "engine of another version")
            return engine

    return SimpleNamespace(
        __name__="tensorrt", __version__=version, ILogger=FakeLogger, IProfiler=Base, Runtime=FakeRuntime,
        TensorIOMode=SimpleNamespace(INPUT="in"),
    )  # fmt: skip


class Module(SimpleNamespace):
    """A hashable namespace, as modules are."""

    __hash__ = object.__hash__


@pytest.fixture
def built(monkeypatch):
    """Builds are counted and give b"plan"; the real building half has tests of its own."""
    pytest.importorskip("onnx")
    calls = []

    def fake_build(model, arch, ranges, **how):
        calls.append({"ranges": ranges, **how})
        return b"plan"

    monkeypatch.setattr(tensorrt_engine, "build_engine", fake_build)
    return calls


def loaded(cuda=None, options=(), *, version="10.3.0", max_tokens=64, precision="fp16", **engine):
    cuda = cuda or FakeCuda()
    fake = FakeEngine(cuda, **engine)
    trt = Module(**vars(fake_trt(fake, version)))
    model = TensorRTEngine(dict(options), trt=trt, cuda=cuda).load(TINY, precision, max_tokens=max_tokens)
    return model, fake, cuda


def test_decode_binds_a_cache_and_one_token_and_events_give_seconds(built):
    model, fake, cuda = loaded()
    run = model.runner(Point.decode(40))
    (context,) = fake.contexts
    assert context.profile == 1
    assert context.shapes == {
        "input_ids": (1, 1),
        "position_ids": (1, 1),
        "past_key_values.0.key": (1, 2, 40, 16),
        "past_key_values.0.value": (1, 2, 40, 16),
    }
    sizes = {name: cuda.sizes[address] for name, address in context.addresses.items()}
    assert sizes["past_key_values.0.key"] == 2 * 40 * 16 * 2 and sizes["present.0.key"] == 2 * 41 * 16 * 2
    assert sizes["input_ids"] == 8 and sizes["logits"] == 200
    assert len(set(context.addresses.values())) == 7  # no buffer serves two tensors
    assert (run(), run()) == (0.004, 0.004)
    assert cuda.log == ["record", "execute", "record", "elapsed"] * 2


def test_prefill_takes_the_other_profile_and_an_empty_cache(built):
    model, fake, cuda = loaded(options={"max_batch": "2"}.items())
    model.runner(Point.prefill(8, batch_size=2))
    (context,) = fake.contexts
    assert context.profile == 0 and context.shapes["past_key_values.0.key"] == (2, 2, 0, 16)
    assert cuda.sizes[context.addresses["past_key_values.0.key"]] == 0
    (call,) = built
    assert call["ranges"][0].batch == (1, 2, 2) and call["ranges"][0].tokens[2] == 64


def test_a_cuda_graph_is_captured_after_a_first_pass_and_then_launched(built):
    model, _, cuda = loaded(options={"cuda_graph": "true"}.items())
    run = model.runner(Point.decode(8))
    assert cuda.log == ["execute", "capture", "execute"]
    cuda.log.clear()
    assert run() == 0.004
    assert cuda.log == ["record", "launch", "record", "elapsed"]
    model.close()
    assert not cuda.live


def test_a_pass_frees_what_it_holds_when_it_goes_and_close_frees_the_rest(built):
    model, _, cuda = loaded()
    run = model.runner(Point.decode(8))
    assert len(cuda.live) == 7 + 1 + 2  # buffers, stream, events
    del run
    gc.collect()
    assert not cuda.live
    run = model.runner(Point.decode(8))
    model.close()
    assert not cuda.live
    with pytest.raises(MeasurementError, match="the model is closed"):
        run()
    with pytest.raises(MeasurementError, match="the model is closed"):
        model.runner(Point.decode(8))


@pytest.mark.parametrize("fail_at", [0, 3, 6])
def test_buffers_are_freed_when_memory_runs_out_midway(built, fail_at):
    model, _, cuda = loaded(FakeCuda(fail_at=fail_at))
    with pytest.raises(MeasurementError, match="out of device memory"):
        model.runner(Point.decode(8))
    assert not cuda.live


def test_a_refused_shape_and_a_failed_pass_are_errors_that_free(built):
    model, _, cuda = loaded(refuse=("position_ids",))
    with pytest.raises(MeasurementError, match=r"TensorRT refused shape \(1, 1\) of position_ids"):
        model.runner(Point.decode(8))
    assert not cuda.live
    model, _, cuda = loaded(broken=True)
    run = model.runner(Point.decode(8))
    with pytest.raises(MeasurementError, match="TensorRT failed in a pass: TensorRT gives no reason"):
        run()
    model.close()
    assert not cuda.live


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (Point.decode(8, batch_size=4), r"a batch of 4 is more than .* \(1\); give the option max_batch=4"),
        (Point.decode(65), "longer than the engine is built for"),
        (Point.prefill(65), "longer than the engine is built for"),
    ],
)
def test_passes_that_the_engine_is_not_built_for(built, point, message):
    model, fake, _ = loaded()
    with pytest.raises(SpecError, match=message):
        model.runner(point)
    assert not fake.contexts


def test_an_engine_that_does_not_load_gives_tensorrts_reason(built):
    trt = Module(**vars(fake_trt(None)))
    with pytest.raises(MeasurementError, match="TensorRT could not load the engine: engine of another version"):
        TensorRTEngine({}, trt=trt, cuda=FakeCuda()).load(TINY, "fp16", max_tokens=8)


def test_layers_are_profiled_in_passes_of_their_own_in_seconds(built):
    model, _, cuda = loaded(options={"cuda_graph": "true"}.items())
    fused, head = layer_profile(model, Point.decode(8), passes=4)
    assert (fused.name, fused.share) == ("fused", 0.75)
    assert (fused.time_s, fused.average_s, fused.median_s) == pytest.approx((0.012, 0.003, 0.003))
    assert head.average_s == pytest.approx(0.001)
    assert cuda.log.count("execute") == 5 and "capture" not in cuda.log  # one pass unprofiled, no graph
    gc.collect()
    assert not cuda.live


def test_the_engine_cache_spares_the_second_build_and_tells_models_apart(built, tmp_path):
    options = {"engine_cache": str(tmp_path / "cache")}.items()
    for expected, changes in (
        (1, {}),
        (1, {}),
        (2, {"precision": "bf16"}),
        (3, {"max_tokens": 32}),
        (4, {"version": "10.4.0"}),
    ):
        loaded(options=options, **changes)
        assert len(built) == expected
    assert built[0]["timing_cache"] == tmp_path / "cache" / "timing.cache"
    assert len(list((tmp_path / "cache").glob("*.engine"))) == 4
    (stored, *_) = (tmp_path / "cache").glob("*.engine")
    stored.unlink()
    stored.mkdir()
    with pytest.raises(MeasurementError, match="cannot read the engine"):
        for changes in ({}, {"precision": "bf16"}, {"max_tokens": 32}, {"version": "10.4.0"}):
            loaded(options=options, **changes)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(
        MeasurementError, match=r"cannot write the engine .*; give another engine_cache or leave it out"
    ):
        loaded(options={"engine_cache": str(blocked / "cache")}.items())


def test_flavour_and_precisions_follow_the_version(built):
    for version, flavour, precisions in (
        ("10.3.0", "decomposed", ("fp16", "bf16", "fp32")),
        ("10.16.2", "standard", ("fp16", "bf16", "fp32", "w4a16")),
    ):
        engine = TensorRTEngine({}, trt=Module(**vars(fake_trt(None, version))), cuda=FakeCuda())
        assert (engine.flavour, engine.precisions, engine.version) == (flavour, precisions, version)
        assert engine.clock == "device" and engine.device_memory_B == 5e9
        assert engine.options == {"module": "tensorrt", "flavour": flavour, "cuda_graph": "false", "max_batch": "1"}
    with pytest.raises(
        SpecError, match=r"tensorrt with the decomposed graph does not run 'w4a16'; allowed: fp16, bf16, fp32"
    ):
        loaded(precision="w4a16")


def test_fp32_is_built_decomposed(built, monkeypatch):
    graphs = []
    from codesign.models import onnx_graph

    monkeypatch.setattr(
        onnx_graph, "build_onnx", lambda arch, precision, **how: graphs.append((precision, how["flavour"]))
    )
    loaded(version="10.16.2", precision="fp32")
    loaded(version="10.16.2", precision="fp16")
    assert graphs == [("fp32", "decomposed"), ("fp16", "standard")]


def test_a_jetsons_memory_is_the_hosts():
    cuda = FakeCuda()
    cuda.integrated = True
    assert TensorRTEngine({}, trt=Module(**vars(fake_trt(None))), cuda=cuda).device_memory_B is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fp16": "true"},
            r"unknown option\(s\) fp16 of engine tensorrt; allowed: module, flavour, cuda_graph, max_batch, ",
        ),
        ({"cuda_graph": "yes"}, "option cuda_graph of engine tensorrt is 'yes'; allowed: false, true"),
        ({"max_batch": "0"}, "option max_batch of engine tensorrt is '0'; allowed: a whole number of at least 1"),
        ({"module": "trt"}, "option module of engine tensorrt is 'trt'; allowed: tensorrt, tensorrt_rtx"),
        ({"flavour": "small"}, "option flavour of engine tensorrt is 'small'; allowed: standard, decomposed"),
        ({"workspace": "2"}, "option workspace '2' has no unit"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(SpecError, match=message):
        TensorRTEngine(options, trt=Module(**vars(fake_trt(None))), cuda=FakeCuda())


def test_without_a_driver_the_driver_is_what_is_named():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(MeasurementError, match="no NVIDIA driver on this machine"):
            TensorRTEngine({"module": "tensorrt_rtx"})
    else:
        pytest.skip("this machine has an NVIDIA driver")


def test_without_tensorrt_the_message_says_where_it_comes_from(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'tensorrt'.*JetPack.*--system-site-packages"):
        TensorRTEngine({}, cuda=FakeCuda())
