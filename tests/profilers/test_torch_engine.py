"""The torch engine: real passes on the CPU; CUDA timing on a fake `torch.cuda`."""

import gc
import shutil
import sys
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from codesign.architecture import Architecture
from codesign.errors import EngineLostError, MeasurementError, MissingExtraError, SpecError
from codesign.profilers.base import Point
from codesign.profilers.torch_engine import TorchEngine, _captured, _timed_cuda

torch = pytest.importorskip("torch")

TINY = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
MOE = TINY.evolve(n_experts=4, n_active_experts=2, d_ff_expert=32, family="mixtral")
WINDOWS = TINY.evolve(window_tokens=9, n_window_layers=2, family="mistral")


class Recording:
    """A module that notes what it is called with and what it gives back."""

    def __init__(self, module):
        self.module, self.calls = module, []
        self.cache_spec = module.cache_spec

    def __call__(self, ids, positions, past, last_only):
        logits, present = self.module(ids, positions, past, last_only=last_only)
        self.calls.append((ids, positions, past, logits, present))
        return logits, present


def recorded(engine_options, arch, precision, point):
    model = TorchEngine(engine_options).load(arch, precision, max_tokens=64)
    model._module = Recording(model._module)
    run = model.runner(point)
    assert run() is None and run() is None  # the CPU has no clock of its own
    return model._module.calls


@pytest.mark.parametrize("arch", [TINY, MOE], ids=["dense", "mixture"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_passes_run_in_the_asked_precision(arch, precision):
    for ids, positions, past, logits, _ in recorded({}, arch, precision, Point.prefill(8, batch_size=2)):
        assert past is None
        assert ids.shape == positions.shape == (2, 8) and positions[1].tolist() == list(range(8))
        assert logits.shape == (2, 1, 100)
        assert (
            str(logits.dtype) == {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}[precision]
        )
        assert torch.isfinite(logits).all()


def test_decode_attends_to_the_whole_cache_and_never_grows_it():
    calls = recorded({}, TINY, "fp32", Point.decode(40))
    assert len(calls) == 2
    for ids, positions, past, _, present in calls:
        assert ids.shape == (1, 1) and positions.tolist() == [[40]]
        assert [k.shape[2] for k, _ in past] == [40, 40]
        assert [v.shape[2] for _, v in present] == [41, 41]
    assert calls[0][2][0][0].data_ptr() != calls[0][2][1][0].data_ptr()  # each layer has memory of its own


def test_layers_with_a_window_keep_only_the_window():
    (_, positions, past, logits, _), _ = recorded({}, WINDOWS, "fp32", Point.decode(40))
    assert [k.shape[2] for k, _ in past] == [8, 8] and positions.tolist() == [[40]]
    assert torch.isfinite(logits).all()


def test_prefill_behind_a_cache_continues_its_positions():
    (ids, positions, past, _, _), _ = recorded({}, TINY, "fp32", Point(phase="prefill", tokens=3, context_tokens=5))
    assert ids.shape == (1, 3) and positions.tolist() == [[5, 6, 7]] and past[0][0].shape[2] == 5


def test_the_same_seed_gives_the_same_weights():
    first, again, other = (
        TorchEngine({}).load(TINY, "fp32", max_tokens=8, seed=seed)._module.embed_tokens.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_clock_and_options_say_what_changes_speed():
    one = TorchEngine({})
    assert (one.name, one.clock, one.device_memory_B) == ("torch", "cpu", None)
    assert one.options == {"provider": "cpu", "compile": "false", "threads": "1"}
    assert one.version == torch.__version__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thread": "1"}, r"unknown option\(s\) thread of engine torch; allowed: provider, threads, compile"),
        ({"provider": "tpu"}, "option provider of engine torch is 'tpu'; allowed: cpu, cuda"),
        ({"compile": "yes"}, "option compile of engine torch is 'yes'; allowed: false, true"),
        ({"threads": "0"}, "threads is '0'; allowed: 1 to"),
        ({"threads": "many"}, "threads is 'many'; allowed: 1 to"),
        ({"provider": "cuda", "threads": "1"}, "threads goes with provider=cpu"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(SpecError, match=message):
        TorchEngine(options)


def test_cuda_without_a_device_is_one_clear_line():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(MeasurementError, match=r"torch .* take provider=cpu or install a CUDA build"):
        TorchEngine({"provider": "cuda"})


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'codesign-llm\[torch\]'"):
        TorchEngine({})


def test_unknown_precision_names_the_known():
    with pytest.raises(SpecError, match="torch does not run 'w4a16'; allowed: fp32, fp16, bf16"):
        TorchEngine({}).load(TINY, "w4a16", max_tokens=8)


def test_errors_in_a_pass_are_one_line_and_a_closed_model_refuses():
    model = TorchEngine({}).load(TINY, "fp32", max_tokens=8)

    def fails(*_, **__):
        raise RuntimeError("not enough memory\nwith a long\ntrace")

    fails.cache_spec = model._module.cache_spec
    model._module = fails
    with pytest.raises(MeasurementError, match="^torch failed in a pass: not enough memory$"):
        model.runner(Point.prefill(4))()
    model.close()
    with pytest.raises(MeasurementError, match="closed"):
        model.runner(Point.prefill(4))


def test_cuda_events_enclose_the_pass_and_milliseconds_become_seconds():
    order = []

    class FakeEvent:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            order.append("record")

        def synchronize(self):
            order.append("synchronize")

        def elapsed_time(self, end):
            assert end is not self
            return 12.5

    fake_torch = SimpleNamespace(
        cuda=SimpleNamespace(Event=FakeEvent, is_initialized=lambda: True, synchronize=lambda: None)
    )
    assert _timed_cuda(fake_torch, lambda: order.append("pass"))() == pytest.approx(0.0125)
    assert order == ["record", "pass", "record", "synchronize"]


@pytest.mark.parametrize("lost", [False, True])
def test_an_error_that_cuda_does_not_get_over_is_told_from_one_that_it_does(lost):
    """Out of memory fails a model; after an assertion on the device every later call fails with the same error."""

    def synchronize():
        if lost:
            raise RuntimeError("CUDA error: device-side assert triggered")

    def once():
        raise RuntimeError(
            "CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA"
            if lost
            else "CUDA out of memory."
        )

    event = SimpleNamespace(record=lambda: None)
    cuda = SimpleNamespace(Event=lambda enable_timing: event, is_initialized=lambda: True, synchronize=synchronize)
    with pytest.raises(MeasurementError, match="^torch failed in a pass: CUDA") as caught:
        _timed_cuda(SimpleNamespace(cuda=cuda), once)()
    assert isinstance(caught.value, EngineLostError) == lost
    assert ("runs nothing more in this process: give the same command again" in str(caught.value)) == lost


def test_a_graph_is_captured_after_passes_on_a_stream_of_its_own():
    log = []

    @contextmanager
    def noted(what):
        log.append(f"{what} (")
        yield
        log.append(")")

    class Graph:
        def replay(self):
            log.append("replay")

    stream = SimpleNamespace(wait_stream=lambda other: log.append("wait"))
    cuda = SimpleNamespace(
        Stream=lambda: stream, current_stream=lambda: stream, stream=lambda s: noted("stream"), CUDAGraph=Graph,
        graph=lambda g: noted("capture"),
    )  # fmt: skip

    def once():
        log.append("pass")

    inputs = weakref.ref(once)
    replay = _captured(SimpleNamespace(cuda=cuda), once)
    del once
    gc.collect()
    assert inputs() is not None, "a graph reads its inputs' memory: it must be kept"
    replay()
    assert log == ["wait", "stream (", "pass", "pass", "pass", ")", "wait", "capture (", "pass", ")", "replay"]


@pytest.mark.parametrize("options", [{"graph": "true"}, {"provider": "cuda", "graph": "true", "compile": "true"}])
def test_graphs_are_for_cuda_alone(options, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8e9, 8e9))
    with pytest.raises(SpecError, match="option graph=true goes with provider=cuda and without compile=true"):
        TorchEngine(options)
    engine = TorchEngine({"provider": "cuda", "graph": "true"})
    assert engine.options == {"provider": "cuda", "compile": "false", "graph": "true"}
    with pytest.raises(SpecError, match="graph=true: the host reads which experts torch routes to"):
        engine.load(MOE, "fp16", max_tokens=8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
@pytest.mark.parametrize("options", [{}, {"graph": "true"}, {"compile": "true"}], ids=["eager", "graph", "compiled"])
def test_passes_run_on_a_gpu_and_give_the_seconds_of_its_events(options):
    engine = TorchEngine({"provider": "cuda", **options})
    model = engine.load(TINY, "fp16", max_tokens=64)
    points = (Point.prefill(32), Point.decode(32), Point.decode(32, batch_size=4))
    runs = [model.runner(point) for point in points]
    torch.cuda.empty_cache()
    torch.full((10**8,), 10**6, dtype=torch.int32, device="cuda")  # what was freed by mistake is overwritten
    for run in runs:
        run()  # the first loads kernels
        assert 0 < run() < 1
    torch.cuda.synchronize()
    model.close()
    with pytest.raises(MeasurementError, match="closed"):
        model.runner(Point.prefill(4))


@pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"
)
def test_compiled_passes_run_and_are_compiled_before_they_are_timed(monkeypatch):
    compiled = []
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **how: compiled.append(how) or real(module, **how))
    model = TorchEngine({"compile": "true"}).load(TINY.evolve(n_layers=1), "fp32", max_tokens=16)
    run = model.runner(Point.decode(16))
    assert compiled == [{"dynamic": False, "mode": "default"}]
    counters = torch._dynamo.utils.counters["stats"]
    graphs = counters["unique_graphs"]
    assert graphs >= 1
    assert run() is None
    assert counters["unique_graphs"] == graphs
    model.close()
