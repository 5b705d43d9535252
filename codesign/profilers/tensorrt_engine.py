"""TensorRT: an engine built from the ONNX graph and run with device buffers of its own, timed by CUDA events."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from codesign.architecture import Architecture
from codesign.errors import MeasurementError, MissingExtraError, SpecError
from codesign.measurement import Clock
from codesign.models.inputs import input_shape
from codesign.profilers.base import Point
from codesign.profilers.tensorrt_build import build_engine, flavour_of, input_values, logger_of, profiles
from codesign.profilers.tensorrt_cuda import Cuda
from codesign.trtexec_files import LayerTime
from codesign.units import parse_bytes

__all__ = ["TensorRTEngine", "TensorRTModel"]

_OPTIONS = ("module", "flavour", "cuda_graph", "max_batch", "workspace", "engine_cache")
_PRECISIONS = {"standard": ("fp16", "bf16", "fp32", "w4a16"), "decomposed": ("fp16", "bf16", "fp32")}
_SIZE_B = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT64": 8, "INT32": 4}


class TensorRTEngine:
    """See `Engine`. Options, all optional:

    module: tensorrt (default) or tensorrt_rtx. flavour: standard or decomposed graph (default: what the version reads;
    fp32 is always decomposed, as fused causal attention has no fp32 kernels). cuda_graph: true launches a pass as one
    CUDA graph, as deployed servers do (default false, as in TensorRT 10). max_batch: largest batch of the engine
    (default 1). workspace: limit of scratch memory while building, such as 2GB. engine_cache: folder of built engines
    and kernel times; with it the second visit to a model does not build.

    The seconds of CUDA events around a pass count. On a GPU that shares the CPU's memory (Jetson) device_memory_B is None:
    the host's free memory is what counts there.
    """

    name = "tensorrt"

    def __init__(self, options: Mapping[str, str], *, trt: Any = None, cuda: Any = None) -> None:
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise SpecError(
                f"unknown option(s) {', '.join(unknown)} of engine tensorrt; allowed: {', '.join(_OPTIONS)}"
            )
        module = _one_of(options, "module", ("tensorrt", "tensorrt_rtx"))
        self.cuda_graph = _one_of(options, "cuda_graph", ("false", "true")) == "true"
        self.max_batch = _whole(options.get("max_batch", "1"), "max_batch")
        self._workspace_B = parse_bytes(options["workspace"], "option workspace") if "workspace" in options else None
        self._cache = Path(options["engine_cache"]).expanduser() if "engine_cache" in options else None
        # the driver first: without one, loading some of TensorRT's libraries ends the process
        self._cuda: Any = cuda or Cuda()
        self._trt: Any = trt or _import(module)
        given = options.get("flavour")
        self.flavour = flavour_of(self._trt) if given is None else _one_of(options, "flavour", tuple(_PRECISIONS))
        self.version = str(self._trt.__version__)
        self.clock: Clock = "device"
        self.precisions: tuple[str, ...] = _PRECISIONS[self.flavour]
        self.device_memory_B: float | None = None if self._cuda.integrated else self._cuda.free_memory_B()
        self.options: Mapping[str, str] = {  # only what changes speed: the folder and the limit do not identify a pass
            "module": module,
            "flavour": self.flavour,
            "cuda_graph": str(self.cuda_graph).lower(),
            "max_batch": str(self.max_batch),
        } | ({"workspace": options["workspace"]} if "workspace" in options else {})

    def layer_profile(self, arch: Architecture, precision: str, point: Point, passes: int = 10) -> list[LayerTime]:
        """See `Engine.layer_profile`: by TensorRT's layers, most of them fusions of several operators."""
        from codesign.profilers.tensorrt_layers import layer_profile

        model = self.load(arch, precision, max_tokens=point.context_tokens + point.tokens)
        try:
            return layer_profile(model, point, passes)
        finally:
            model.close()

    def load(self, arch: Architecture, precision: str, *, max_tokens: int, seed: int = 0) -> TensorRTModel:
        """See `Engine.load`; building takes seconds to minutes, loading a cached engine seconds."""
        if precision not in self.precisions:
            raise SpecError(
                f"tensorrt with the {self.flavour} graph does not run '{precision}'; allowed: {', '.join(self.precisions)}"
            )
        trt, plan = self._trt, self._plan(arch, precision, max_tokens, seed)
        runtime = trt.Runtime(logger := logger_of(trt))
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            again = f"; empty {self._cache} to build it anew" if self._cache else ""
            raise MeasurementError(f"TensorRT could not load the engine: {logger.take()}{again}")
        return TensorRTModel(
            trt, self._cuda, (runtime, engine), arch,
            max_batch=self.max_batch, max_tokens=max_tokens, cuda_graph=self.cuda_graph,
        )  # fmt: skip

    def _plan(self, arch: Architecture, precision: str, max_tokens: int, seed: int) -> bytes:
        """The built engine, of the cache where it is there."""
        trt, cached = self._trt, None
        flavour = "decomposed" if precision == "fp32" else self.flavour
        if self._cache is not None:
            what = {
                "architecture": arch.to_dict(), "precision": precision, "flavour": flavour, "max_tokens": max_tokens,
                "seed": seed, "options": dict(self.options), "version": self.version, "gpu": self._cuda.name,
                "capability": self._cuda.compute_capability,
            }  # fmt: skip
            key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
            cached = self._cache / f"{key}.engine"
            if cached.exists():
                try:
                    return cached.read_bytes()
                except OSError as error:
                    raise MeasurementError(f"cannot read the engine {cached}: {error.strerror or error}") from error
        from codesign.models.onnx_graph import build_onnx

        plan = build_engine(
            build_onnx(arch, precision, flavour=flavour, seed=seed), arch, profiles(max_tokens, self.max_batch), trt=trt,
            workspace_B=self._workspace_B,
            timing_cache=self._cache / "timing.cache" if self._cache is not None and not _is_rtx(trt) else None,
        )  # fmt: skip
        if cached is not None:
            _store(cached, plan)
        return plan


class TensorRTModel:
    """An engine on the device; see `LoadedModel`. A pass's buffers go with its function, at the latest by `close`."""

    def __init__(
        self, trt: Any, cuda: Any, loaded: tuple[Any, Any], arch: Architecture, *, max_batch: int, max_tokens: int,
        cuda_graph: bool,
    ) -> None:  # fmt: skip
        self.trt, self._cuda, self._loaded, self._arch = trt, cuda, loaded, arch
        self._max_batch, self._max_tokens, self._cuda_graph = max_batch, max_tokens, cuda_graph
        self._finalizers: list[weakref.finalize[Any, Any]] = []

    def runner(self, point: Point) -> Callable[[], float]:
        """Prepare a pass: a context with its shapes, buffers and stream. The function runs it and gives its seconds."""
        run = self.prepare(point, cuda_graph=self._cuda_graph)
        if self._cuda_graph and not _is_rtx(self.trt):
            run.capture()
        return run

    def prepare(self, point: Point, *, cuda_graph: bool) -> _Pass:
        """A pass before any graph is captured."""
        if not self._loaded:
            raise MeasurementError("the model is closed; load it again")
        if point.batch_size > self._max_batch:
            raise SpecError(
                f"a batch of {point.batch_size} is more than the engine is built for ({self._max_batch}); "
                f"give the option max_batch={point.batch_size}"
            )
        if point.context_tokens > self._max_tokens or point.tokens > self._max_tokens:
            raise SpecError(f"{point} is longer than the engine is built for ({self._max_tokens} tokens)")
        held = ExitStack()
        try:
            run = _Pass(self.trt, self._cuda, self._loaded[1], self._arch, point, held, cuda_graph)
        except BaseException:
            held.close()
            raise
        self._finalizers = [f for f in self._finalizers if f.alive]
        self._finalizers.append(weakref.finalize(run, held.close))
        return run

    def close(self) -> None:
        """Free the passes' buffers, then the engine."""
        for finalizer in self._finalizers:
            finalizer()
        self._loaded = ()  # type: ignore[assignment]


class _Pass:
    """One prepared pass. What it holds on the device is given back by `held`, last taken first."""

    def __init__(
        self, trt: Any, cuda: Any, engine: Any, arch: Architecture, point: Point, held: ExitStack, cuda_graph: bool
    ) -> None:
        self._cuda, self._logger, self._held = cuda, logger_of(trt), held
        context = _context(trt, engine, cuda_graph)
        if context is None:
            raise MeasurementError(f"TensorRT made no execution context: {self._logger.take()}")
        self.context: Any = context
        self._stream = cuda.stream()
        held.callback(cuda.destroy_stream, self._stream)
        if not context.set_optimization_profile_async(0 if point.phase == "prefill" else 1, self._stream):
            raise MeasurementError(f"TensorRT refused the profile of {point.phase}: {self._logger.take()}")
        cuda.synchronize(self._stream)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        for name in inputs:
            shape = input_shape(name, arch, batch=point.batch_size, tokens=point.tokens, past=point.context_tokens)
            if not context.set_input_shape(name, shape):
                raise MeasurementError(f"TensorRT refused shape {shape} of {name}: {self._logger.take()}")
        if missing := context.infer_shapes():
            raise MeasurementError(f"TensorRT misses the shape of {', '.join(missing)}")
        for name in names:
            shape, kind = tuple(context.get_tensor_shape(name)), engine.get_tensor_dtype(name).name
            if kind not in _SIZE_B:
                raise MeasurementError(f"{name} of the engine has type {kind}; expected: {', '.join(_SIZE_B)}")
            address = cuda.allocate(int(np.prod(shape, dtype=np.int64)) * _SIZE_B[kind])
            held.callback(cuda.free, address)
            if name in inputs:
                cuda.upload(address, input_values(name, shape, kind, arch, point))
            if not context.set_tensor_address(name, address):
                raise MeasurementError(f"TensorRT refused the buffer of {name}: {self._logger.take()}")
        self._start, self._end = (self._event() for _ in range(2))
        self._graph: int | None = None
        held.callback(cuda.synchronize, self._stream)  # before anything is freed
        self._open = [True]
        held.callback(self._open.clear)

    def _event(self) -> Any:
        event = self._cuda.event()
        self._held.callback(self._cuda.destroy_event, event)
        return event

    def capture(self) -> None:
        """Make the pass one CUDA graph; the pass before it lets TensorRT finish what it does once for its shapes."""
        self._enqueue()
        self._cuda.synchronize(self._stream)
        self._graph = self._cuda.capture(self._stream, self._enqueue)
        self._held.callback(self._cuda.destroy_graph, self._graph)

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self._stream):
            raise MeasurementError(f"TensorRT failed in a pass: {self._logger.take()}")

    def __call__(self) -> float:
        if not self._open:
            raise MeasurementError("the model is closed; load it again")
        cuda = self._cuda
        cuda.record(self._start, self._stream)
        if self._graph is None:
            self._enqueue()
        else:
            cuda.launch(self._graph, self._stream)
        cuda.record(self._end, self._stream)
        return float(cuda.elapsed_s(self._start, self._end))


def _is_rtx(trt: Any) -> bool:
    return bool(trt.__name__ == "tensorrt_rtx")


def _context(trt: Any, engine: Any, cuda_graph: bool) -> Any:
    """An execution context. TensorRT-RTX compiles kernels as it runs and captures graphs itself: let it do so at once."""
    if not _is_rtx(trt):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    graphs = trt.CudaGraphStrategy
    config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if cuda_graph else graphs.DISABLED
    return engine.create_execution_context(config)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        where = (
            "on a Jetson it comes with JetPack: make the virtual environment with --system-site-packages; elsewhere pip "
            "install tensorrt"
            if module == "tensorrt"
            else "pip install tensorrt-rtx-cu13"
        )
        raise MissingExtraError(
            f"--engine tensorrt needs the package '{module}', which cannot be imported ({error}); {where}"
        ) from error


def _store(path: Path, plan: bytes) -> None:
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path.write_bytes(plan)
        partial_path.replace(path)
    except OSError as error:
        raise MeasurementError(
            f"cannot write the engine {path}: {error.strerror or error}; give another engine_cache or leave it out"
        ) from error


def _one_of(options: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> Any:
    """The value of an option; the first allowed one is the default."""
    value = options.get(name, allowed[0])
    if value not in allowed:
        raise SpecError(f"option {name} of engine tensorrt is '{value}'; allowed: {', '.join(allowed)}")
    return value


def _whole(text: str, name: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise SpecError(f"option {name} of engine tensorrt is '{text}'; allowed: a whole number of at least 1")
    return int(text)
