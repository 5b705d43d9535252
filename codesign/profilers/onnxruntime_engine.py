"""onnxruntime: the CPU, CUDA and TensorRT execution providers, weights handed over in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from codesign.architecture import Architecture
from codesign.errors import MeasurementError, MissingExtraError, SpecError
from codesign.measurement import Clock
from codesign.models.inputs import input_shape
from codesign.profilers.base import Point, first_line
from codesign.profilers.onnxruntime_layers import node_times, profiled_options
from codesign.trtexec_files import LayerTime
from codesign.workload import PRECISIONS

__all__ = ["OnnxRuntimeEngine"]

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_PRECISIONS = {
    "cpu": ("fp32", "int8-dynamic", "w4a32"),
    "cuda": ("fp32", "fp16", "bf16"),
    "tensorrt": ("fp16", "bf16"),
}
_OPTIONS = ("threads", "provider")


class OnnxRuntimeEngine:
    """See `Engine`. Options: threads (default 1), provider (cpu, cuda, tensorrt; default cpu).

    On the CPU fp16 graphs only gain casts, so fp16 is not offered there. With one CPU thread process CPU time counts,
    else wall time.
    """

    name = "onnxruntime"

    def __init__(self, options: Mapping[str, str]) -> None:
        for package in ("onnxruntime", "onnx"):  # onnx writes the graphs
            try:
                import_module(package)
            except ImportError as error:
                raise MissingExtraError.of(package, "profile", "--engine onnxruntime") from error
        import onnxruntime

        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise SpecError(
                f"unknown option(s) {', '.join(unknown)} of engine onnxruntime; allowed: {', '.join(_OPTIONS)}"
            )
        self._ort: Any = onnxruntime
        self.provider = options.get("provider", "cpu")
        if self.provider not in _PROVIDERS:
            raise SpecError(f"unknown provider '{self.provider}'; allowed: {', '.join(_PROVIDERS)}")
        if _PROVIDERS[self.provider] not in onnxruntime.get_available_providers():
            there = [name for name, long in _PROVIDERS.items() if long in onnxruntime.get_available_providers()]
            raise MeasurementError(
                f"this onnxruntime has no provider '{self.provider}' (it has: {', '.join(there)}); install onnxruntime-gpu"
            )
        self.threads = _threads(options.get("threads", "1"))
        self.version = str(onnxruntime.__version__)
        self.options: Mapping[str, str] = {"threads": str(self.threads), "provider": self.provider}
        self.clock: Clock = "cpu" if self.provider == "cpu" and self.threads == 1 else "wall"
        self.precisions = _PRECISIONS[self.provider]
        self.device_memory_B: float | None = None

    def load(self, arch: Architecture, precision: str, *, max_tokens: int, seed: int = 0) -> OnnxRuntimeModel:
        """See `Engine.load`; the graph is written in memory and its weights are never copied to disk."""
        return self._load(arch, precision, seed, self._session_options())

    def layer_profile(self, arch: Architecture, precision: str, point: Point, passes: int = 10) -> list[LayerTime]:
        """See `Engine.layer_profile`: by node of the optimised graph."""
        import tempfile

        with tempfile.TemporaryDirectory(prefix="codesign-profile-") as folder:
            model = self._load(arch, precision, 0, profiled_options(self._session_options(), Path(folder)))
            run = model.runner(point)
            for _ in range(passes + 1):
                run()
            path = Path(model.end_profiling())
            times = node_times(path, passes + 1, skip=1)
            model.close()
        return times

    def _session_options(self) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
        return options

    def _load(self, arch: Architecture, precision: str, seed: int, options: Any) -> OnnxRuntimeModel:
        if precision not in self.precisions:
            raise SpecError(
                f"onnxruntime on {self.provider} does not run '{precision}'; allowed: {', '.join(self.precisions)}"
            )
        from codesign.models.onnx_graph import build_onnx

        model = build_onnx(arch, precision, seed=seed)
        providers = list(dict.fromkeys((_PROVIDERS[self.provider], _PROVIDERS["cpu"])))
        try:
            held = model.add_to(options)
            session = self._ort.InferenceSession(model.proto.SerializeToString(), options, providers=providers)
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise MeasurementError(f"onnxruntime could not load the model: {first_line(error)}") from error
        del held  # the session has them, or its own packed copies
        return OnnxRuntimeModel(self._ort, session, arch, precision, "cuda" if self.provider != "cpu" else "cpu")


def _threads(text: str) -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdigit() or not 1 <= int(text) <= allowed:
        raise SpecError(f"threads is '{text}'; allowed: 1 to {allowed}, the CPUs that this process may use")
    return int(text)


class OnnxRuntimeModel:
    """A session with inputs and outputs bound, so that a pass copies nothing but what the graph does."""

    def __init__(self, ort: Any, session: Any, arch: Architecture, precision: str, place: str) -> None:
        self._ort, self._session, self._arch, self._place = ort, session, arch, place
        self._dtype: Any = np.float16 if PRECISIONS[precision].activation_bits == 16 else np.float32
        self._bf16 = precision == "bf16"

    def _value(self, array: np.ndarray[Any, Any]) -> Any:
        if self._bf16 and array.dtype == np.float16:
            import onnx

            return self._ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                array.view(np.uint16), onnx.TensorProto.BFLOAT16
            )
        return self._ort.OrtValue.ortvalue_from_numpy(array, self._place, 0)

    def runner(self, point: Point) -> Callable[[], None]:
        """Bind one pass; the cache is not grown between repeats."""
        rng = np.random.default_rng(0)
        arch, batch, past = self._arch, point.batch_size, point.context_tokens
        ids = rng.integers(0, arch.vocab_size, (batch, point.tokens), dtype=np.int64)
        positions = np.tile(np.arange(past, past + point.tokens, dtype=np.int64), (batch, 1))
        binding = self._session.io_binding()
        held = []
        for given in self._session.get_inputs():
            if given.name == "input_ids":
                value = self._value(ids)
            elif given.name == "position_ids":
                value = self._value(positions)
            else:  # each layer has a cache of its own, as in a real model
                shape = input_shape(given.name, arch, batch=batch, tokens=point.tokens, past=past)
                value = self._value((rng.standard_normal(shape, dtype=np.float32) * 0.02).astype(self._dtype))
            held.append(value)
            binding.bind_ortvalue_input(given.name, value)
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self._place)
        session, run_options = self._session, self._ort.RunOptions()

        def run(held: list[Any] = held) -> None:
            try:
                session.run_with_iobinding(binding, run_options)
                binding.synchronize_outputs()
            except Exception as error:
                raise MeasurementError(f"onnxruntime failed in a pass: {first_line(error)}") from error

        return run

    def end_profiling(self) -> str:
        """Path of the profile, where the session was made with one."""
        return str(self._session.end_profiling())

    def close(self) -> None:
        """Drop the session, and with it the weights."""
        self._session = None
