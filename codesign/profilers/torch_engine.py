"""torch, eager or compiled, on the CPU or on CUDA: `codesign.models.decoder.Decoder` with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from codesign.architecture import Architecture
from codesign.errors import EngineLostError, MeasurementError, MissingExtraError, SpecError
from codesign.measurement import Clock
from codesign.profilers.base import Point, first_line

__all__ = ["TorchEngine", "TorchModel"]

_PRECISIONS = ("fp32", "fp16", "bf16")
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_OPTIONS = ("provider", "threads", "compile", "graph")
_STD = 0.02  # of the cache's random numbers: far inside the range of fp16


class TorchEngine:
    """See `Engine`. Options: provider (cpu, cuda; default cpu), threads (default 1, CPU only), compile, graph (default false).

    compile=true runs `torch.compile` anew for every pass with its shapes fixed, on CUDA with CUDA graphs (mode
    reduce-overhead); it compiles when a pass is prepared, which takes seconds to minutes. graph=true (CUDA only) captures the
    eager pass as a CUDA graph and times its replays, in less than a second: Python and the launches of kernels, which bound
    eager decoding on a fast GPU, are left out as serving engines leave them out. On CUDA the seconds of CUDA events count, with
    one CPU thread process CPU time, else wall time. fp16 and bf16 on a CPU are run as asked: without instructions for them they
    are slower than fp32.
    """

    name = "torch"

    def __init__(self, options: Mapping[str, str]) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingExtraError.of("torch", "torch", "--engine torch") from error
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise SpecError(f"unknown option(s) {', '.join(unknown)} of engine torch; allowed: {', '.join(_OPTIONS)}")
        self._torch: Any = torch
        self.provider = _one_of(options, "provider", ("cpu", "cuda"))
        self.compiled = _one_of(options, "compile", ("false", "true")) == "true"
        self.version = str(torch.__version__)
        self.precisions: tuple[str, ...] = _PRECISIONS
        self.graph = _one_of(options, "graph", ("false", "true")) == "true"
        self.options: Mapping[str, str] = {"provider": self.provider, "compile": str(self.compiled).lower()}
        if self.graph and (self.provider != "cuda" or self.compiled):
            raise SpecError(
                "option graph=true goes with provider=cuda and without compile=true, which has CUDA graphs already"
            )
        if self.graph:  # only where it is on: records of before have no such option
            self.options = {**self.options, "graph": "true"}
        self.device_memory_B: float | None = None
        if self.provider == "cuda":
            if "threads" in options:
                raise SpecError("option threads goes with provider=cpu; leave it out with provider=cuda")
            if not torch.cuda.is_available():
                built = torch.version.cuda
                why = f"is built for CUDA {built} and sees no device or driver" if built else "is built without CUDA"
                raise MeasurementError(f"torch {torch.__version__} {why}; take provider=cpu or install a CUDA build")
            self.clock: Clock = "device"
            self.device_memory_B = float(torch.cuda.mem_get_info()[0])
        else:
            threads = _threads(options.get("threads", "1"))
            self.options = {**self.options, "threads": str(threads)}
            self.clock = "cpu" if threads == 1 else "wall"
            self._threads = threads

    def load(self, arch: Architecture, precision: str, *, max_tokens: int, seed: int = 0) -> TorchModel:
        """See `Engine.load`; the weights are random, made at the speed of a copy."""
        if precision not in self.precisions:
            raise SpecError(f"torch does not run '{precision}'; allowed: {', '.join(self.precisions)}")
        if self.graph and arch.n_experts:
            raise SpecError(
                "option graph=true: the host reads which experts torch routes to, so a mixture's pass is no CUDA graph; leave it out"
            )
        from codesign.models.decoder import random_decoder

        torch = self._torch
        if self.provider == "cpu":
            torch.set_num_threads(self._threads)
        dtype = getattr(torch, _DTYPES[precision])
        try:
            module = random_decoder(arch, seed=seed, dtype=dtype, device=self.provider)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            raise _failed(torch, "torch could not build the model", error) from error
        return TorchModel(torch, module, arch, dtype, self.provider, compiled=self.compiled, graph=self.graph)


class TorchModel:
    """A decoder with random weights; see `LoadedModel`."""

    def __init__(
        self, torch: Any, module: Any, arch: Architecture, dtype: Any, device: str, *, compiled: bool, graph: bool
    ) -> None:
        self._torch, self._module, self._arch = torch, module, arch
        self._dtype, self._device, self._compiled, self._graph = dtype, device, compiled, graph

    def runner(self, point: Point) -> Callable[[], float | None]:
        """Prepare inputs and cache; a pass computes the last token's logits and the new cache, and drops both."""
        torch, arch, batch, past = self._torch, self._arch, point.batch_size, point.context_tokens
        if self._module is None:
            raise MeasurementError("the model is closed; load it again")
        rng = torch.Generator().manual_seed(0)
        try:
            ids = torch.randint(arch.vocab_size, (batch, point.tokens), generator=rng).to(self._device)
            positions = torch.arange(past, past + point.tokens).expand(batch, -1).contiguous().to(self._device)
            # each layer has a cache of its own, as in a real model
            spec = self._module.cache_spec(batch, past, self._dtype)
            cache = [tuple(self._tensor(shape, dtype, rng) for shape, dtype in parts) for parts in spec]
        except RuntimeError as error:
            raise _failed(torch, "torch could not prepare the pass", error) from error
        forward = self._forward()

        def once() -> None:
            with torch.inference_mode():
                forward(ids, positions, cache if past else None, last_only=True)

        if self._graph:
            with _one_line(torch):
                once = _captured(torch, once)
        run = _timed_cuda(torch, once) if self._device == "cuda" else _plain(torch, once)
        if self._compiled:  # the first passes compile, and on CUDA capture graphs: no part of any timing
            for _ in range(3 if self._device == "cuda" else 1):
                run()
        return run

    def _forward(self) -> Any:
        if not self._compiled:
            return self._module
        # compiled code is kept by code object and torch falls back to eager after eight shapes: begin anew
        self._torch.compiler.reset()
        mode = "reduce-overhead" if self._device == "cuda" else "default"
        return self._torch.compile(self._module, dynamic=False, mode=mode)

    def _tensor(self, shape: tuple[int, ...], dtype: Any, rng: Any) -> Any:
        return (self._torch.randn(shape, generator=rng) * _STD).to(dtype).to(self._device)

    def close(self) -> None:
        """Drop the weights, on CUDA give their memory back to the device."""
        self._module = None
        if self._compiled:
            self._torch.compiler.reset()
        if self._device == "cuda":
            self._torch.cuda.empty_cache()


def _plain(torch: Any, once: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with _one_line(torch):
            once()

    return run


def _timed_cuda(torch: Any, once: Callable[[], None]) -> Callable[[], float]:
    def run() -> float:
        with _one_line(torch):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            once()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e-3  # torch gives milliseconds

    return run


def _captured(torch: Any, once: Callable[[], None]) -> Callable[[], None]:
    """The replay of a pass captured as a CUDA graph, after passes on a stream of their own as torch's notes on CUDA graphs ask."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()

    def replay(_kept: Callable[[], None] = once) -> None:  # the graph reads the memory of the pass's inputs and cache
        graph.replay()

    return replay


@contextmanager
def _one_line(torch: Any) -> Iterator[None]:
    """Turn torch's errors in a pass (compiler missing, out of memory, no kernel for a type) into one line."""
    try:
        yield
    except Exception as error:  # torch raises many kinds
        raise _failed(torch, "torch failed in a pass", error) from error


def _failed(torch: Any, what: str, error: BaseException) -> MeasurementError:
    """The error of a model; of the whole engine where CUDA answers nothing more in this process."""
    text = f"{what}: {first_line(error)}"
    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:  # an assertion on the device or an illegal address stays until the process ends
            return EngineLostError(
                f"{text}; CUDA runs nothing more in this process: give the same command again to go on, and if it ends at the same model, "
                "another --seed or --models without it"
            )
    return MeasurementError(text)


def _one_of(options: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """The value of an option; the first allowed one is the default."""
    value = options.get(name, allowed[0])
    if value not in allowed:
        raise SpecError(f"option {name} of engine torch is '{value}'; allowed: {', '.join(allowed)}")
    return value


def _threads(text: str) -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdigit() or not 1 <= int(text) <= allowed:
        raise SpecError(f"threads is '{text}'; allowed: 1 to {allowed}, the CPUs that this process may use")
    return int(text)
