"""onnxruntime on this machine's CPU, for real, with tiny models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import TINY

from codesign.errors import MeasurementError, SpecError
from codesign.profilers.base import Point, Task, TimingSettings
from codesign.profilers.engines import open_engine
from codesign.profilers.measure import run_task

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

TINY = TINY.evolve(d_model=128, n_heads=4, d_head=32)
POINTS = (
    Point.prefill(16, 2),
    Point.decode(16),
    Point.decode(5, 3),
    Point(phase="prefill", tokens=4, context_tokens=7),
)


def outputs(model: Any, point: Point) -> dict[str, np.ndarray[Any, Any]]:
    """What a pass computes: run it, and read the bound outputs."""
    seen: list[Any] = []

    class Spy:
        def __init__(self, session: Any) -> None:
            self.session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            self.session.run_with_iobinding(binding, options)
            seen.append(binding)

    session, model._session = model._session, Spy(model._session)
    try:
        run = model.runner(point)
        assert run() is None and run() is None
    finally:
        model._session = session
    names = [o.name for o in session.get_outputs()]
    first, again = ({n: v.numpy() for n, v in zip(names, b.get_outputs(), strict=True)} for b in seen)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])  # a repeat does the same work
    return first


@pytest.mark.parametrize("precision", ["fp32", "int8-dynamic", "w4a32"])
def test_passes_run_at_each_precision(precision: str) -> None:
    engine = open_engine("onnxruntime")
    model = engine.load(TINY, precision, max_tokens=32)
    for point in POINTS:
        got = outputs(model, point)
        logits = got.pop("logits")
        assert logits.shape[0] == point.batch_size and logits.shape[-1] == 100 and np.isfinite(logits).all()
        total = point.tokens + point.context_tokens  # the cache grows by the new tokens, in each layer
        assert {v.shape for v in got.values()} == {(point.batch_size, 2, total, 32)} and len(got) == 4
    model.close()


def test_the_engine_says_what_it_is() -> None:
    engine = open_engine("onnxruntime", {"threads": "1"})
    assert (engine.name, engine.version, engine.clock) == ("onnxruntime", ort.__version__, "cpu")
    assert engine.options == {"threads": "1", "provider": "cpu"} and engine.device_memory_B is None
    assert open_engine("onnxruntime", engine.options).options == engine.options
    if len(os.sched_getaffinity(0)) > 1:
        assert open_engine("onnxruntime", {"threads": "2"}).clock == "wall"  # CPU time of two threads is no latency


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"thread": "1"}, SpecError, "unknown option.* thread of engine onnxruntime; allowed: threads, provider"),
        ({"threads": "0"}, SpecError, "threads is '0'; allowed: 1 to "), ({"threads": "two"}, SpecError, "threads is 'two'"),
        ({"threads": "9999"}, SpecError, "the CPUs that this process may use"),
        ({"provider": "npu"}, SpecError, "unknown provider 'npu'; allowed: cpu, cuda, tensorrt"),
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        open_engine("onnxruntime", options)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there(provider: str) -> None:
    with pytest.raises(MeasurementError, match=rf"no provider '{provider}' \(it has: cpu\); install onnxruntime-gpu"):
        open_engine("onnxruntime", {"provider": provider})


@pytest.mark.parametrize("precision", ["fp16", "q4_k_m", "nonsense"])
def test_a_precision_that_it_does_not_run(precision: str) -> None:
    with pytest.raises(SpecError, match=f"on cpu does not run '{precision}'; allowed: fp32, int8-dynamic, w4a32"):
        open_engine("onnxruntime").load(TINY, precision, max_tokens=8)


def test_a_model_that_does_not_load_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(ort, "InferenceSession", fails)
    with pytest.raises(MeasurementError, match="could not load the model: no kernel"):
        open_engine("onnxruntime").load(TINY, "fp32", max_tokens=8)


def test_a_pass_that_fails_is_an_error_of_ours() -> None:
    model = open_engine("onnxruntime").load(TINY, "fp32", max_tokens=8)
    run = model.runner(Point.decode(4))
    session = model._session  # type: ignore[attr-defined]
    binding = session.io_binding()

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def run_with_iobinding(self, *_: Any) -> None:
            session.run_with_iobinding(binding)  # nothing is bound

    model._session = Broken()  # type: ignore[attr-defined]
    with pytest.raises(MeasurementError, match="onnxruntime failed in a pass"):
        model.runner(Point.decode(4))()
    assert run() is None


def test_a_visit(tmp_path: Path) -> None:
    """Nothing tight about times: more work takes longer, and whole records come back."""
    points = (Point.prefill(8), Point.prefill(256), Point.decode(16))
    of = Task(
        architecture=TINY, precision="fp32", engine="onnxruntime", engine_options={"threads": "1"}, points=points,
        device="host", settings=TimingSettings(min_time_s=0.01),
    )  # fmt: skip
    short, long, step = run_task(of, root=str(tmp_path))
    assert long.seconds > short.seconds > 0 and step.seconds > 0 and short.clock == "cpu"
    assert short.options == {"threads": "1", "provider": "cpu"} and len(short.cpu_s) >= 5
