"""From an ONNX graph to a TensorRT engine: the half that needs no GPU where TensorRT-RTX does it.

Every network is strongly typed: the graph's own types are what runs. One engine holds one copy of the weights and two
optimization profiles, because kernels are chosen for a profile's `opt` shapes: prefill (many tokens, usually no cache)
and decode (one token on a cache). Engines of fixed shapes would be tuned closer, but each pass would need a build of
minutes on a Jetson.

TensorRT's network, builder and parser: docs.nvidia.com/deeplearning/tensorrt, Python API 10 and 11.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from codesign.architecture import Architecture
from codesign.errors import MeasurementError, SpecError
from codesign.models.inputs import input_shape
from codesign.profilers.base import Point

__all__ = [
    "Flavour",
    "Range",
    "ShapeRange",
    "build_engine",
    "flavour_of",
    "input_values",
    "logger_of",
    "profiles",
    "version_of",
]

_log = logging.getLogger(__name__)

Flavour = Literal["standard", "decomposed"]
Range = tuple[int, int, int]
_STD = 0.02  # of a cache's random numbers: far inside the range of fp16
_POOL = (1 << 20) + 7  # long caches repeat it


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """One optimization profile: least, usual and most of each length."""

    batch: Range
    tokens: Range
    past: Range

    def shapes(self, name: str, arch: Architecture) -> list[tuple[int, ...]]:
        """The least, usual and most shape of an input."""
        return [
            input_shape(name, arch, batch=b, tokens=t, past=p)
            for b, t, p in zip(self.batch, self.tokens, self.past, strict=True)
        ]


def profiles(max_tokens: int, max_batch: int = 1) -> tuple[ShapeRange, ShapeRange]:
    """The profiles of prefill (index 0) and decode (index 1) for contexts of up to `max_tokens`.

    Example:
        >>> prefill, decode = profiles(512)
        >>> prefill.tokens, decode.tokens, decode.past
        ((1, 512, 512), (1, 1, 1), (0, 256, 512))
    """
    batch = (1, max_batch, max_batch)
    return (
        ShapeRange(batch=batch, tokens=(1, max_tokens, max_tokens), past=(0, 0, max_tokens)),
        ShapeRange(batch=batch, tokens=(1, 1, 1), past=(0, max(max_tokens // 2, 1), max_tokens)),
    )


def input_values(name: str, shape: tuple[int, ...], kind: str, arch: Architecture, point: Point) -> bytes:
    """Bytes of an input: random token ids, positions behind the cache, or a cache of small random numbers.

    kind: TensorRT's name of the type.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name == "input_ids":
        return rng.integers(0, arch.vocab_size, shape, dtype=np.int64).tobytes()
    if name == "position_ids":
        start = point.context_tokens
        return np.tile(np.arange(start, start + point.tokens, dtype=np.int64), (point.batch_size, 1)).tobytes()
    size = int(np.prod(shape, dtype=np.int64))
    pool: np.ndarray[Any, Any] = rng.standard_normal(min(size, _POOL), dtype=np.float32) * np.float32(_STD)
    if kind == "HALF":
        pool = pool.astype(np.float16)
    elif kind == "BF16":  # numpy has no bfloat16: the upper half of a float32
        pool = (pool.view(np.uint32) >> 16).astype(np.uint16)
    return np.resize(pool, size).tobytes()


def version_of(trt: Any) -> tuple[int, ...]:
    """Version of a TensorRT module as numbers.

    Example:
        >>> from types import SimpleNamespace
        >>> version_of(SimpleNamespace(__version__="10.3.0.30"))
        (10, 3, 0, 30)
    """
    return tuple(int(part) for part in re.findall(r"\d+", str(trt.__version__)))


def flavour_of(trt: Any) -> Flavour:
    """Which graph the module's parser reads: Attention came in TensorRT 10.14, RMSNormalization and RoPE in 10.15.

    TensorRT-RTX counts its versions from 1 and has had them since 1.2.

    Raises:
        SpecError: older than TensorRT 10, which has no strongly typed int64 networks.
    """
    version = version_of(trt)
    if trt.__name__ == "tensorrt_rtx":
        return "standard"
    if version < (10,):
        raise SpecError(f"TensorRT {trt.__version__} is too old; codesign needs 10.0 or later (JetPack 6.1 or later)")
    return "standard" if version >= (10, 15) else "decomposed"


@cache
def logger_of(trt: Any) -> Any:
    """The one logger of a TensorRT module (it accepts no second): errors are kept for our messages, the rest is logged."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message.strip())
                _log.debug("TensorRT error: %s", message)
            elif severity == trt.ILogger.Severity.WARNING:
                _log.debug("TensorRT warning: %s", message)

        def take(self) -> str:
            """The errors since the last call, in one line."""
            text = "; ".join(dict.fromkeys(" ".join(e.split()) for e in self.errors)) or "TensorRT gives no reason"
            self.errors.clear()
            return text

    return Logger()


def build_engine(
    model: Any,
    arch: Architecture,
    ranges: tuple[ShapeRange, ...],
    *,
    trt: Any,
    workspace_B: float | None = None,
    timing_cache: Path | None = None,
    compute_capability: str | None = None,
) -> bytes:
    """Build an engine, in the form that a runtime loads.

    Args:
        model: an `OnnxModel`: its `save(path)` writes graph and weights.
        arch: the architecture of the graph, for the shapes of its inputs.
        ranges: the optimization profiles.
        trt: the module `tensorrt` or `tensorrt_rtx`.
        workspace_B: limit of scratch memory (default: all the device has).
        timing_cache: file of measured kernel times, read and written, that makes later builds faster. Not for
            TensorRT-RTX, which chooses its kernels when it runs.
        compute_capability: such as "SM86": build for that GPU without having one (TensorRT-RTX only).

    Raises:
        MeasurementError: the parser or the builder refused, with all its reasons.
        SpecError: compute_capability where TensorRT builds for its own GPU only, or an unknown one.
    """
    logger = logger_of(trt)
    logger.errors.clear()
    builder = trt.Builder(logger)
    if builder is None:
        raise MeasurementError(f"TensorRT has no builder: {logger.take()}")
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    with tempfile.TemporaryDirectory(prefix="codesign-trt-") as folder:
        path = Path(folder) / "model.onnx"
        model.save(path)  # by file: weights beside the graph are found, whatever their size, in every version
        parsed = parser.parse_from_file(str(path))
        if not parsed or parser.num_errors:
            reasons = "; ".join(" ".join(str(parser.get_error(i)).split()) for i in range(parser.num_errors))
            raise MeasurementError(f"TensorRT {trt.__version__} cannot read the graph: {reasons or logger.take()}")
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means binary32; TensorRT would round products to 10 bits
        if workspace_B is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace_B))
        if compute_capability is not None:
            _set_capability(trt, config, compute_capability)
        for ranged in ranges:
            config.add_optimization_profile(_profile(builder, network, arch, ranged))
        known = _load_timing_cache(config, timing_cache)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            reason = logger.take()
            hint = "; the graph of flavour=decomposed needs no fused attention" if "Attention" in reason else ""
            raise MeasurementError(f"TensorRT {trt.__version__} cannot build the engine: {reason}{hint}")
        if known is not None and timing_cache is not None:
            _save_timing_cache(config, timing_cache)
    return bytes(plan)


def _network_flags(trt: Any) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # 11.x: always so, the flag may go
    return 0 if flag is None else 1 << int(flag)


def _set_capability(trt: Any, config: Any, name: str) -> None:
    known: Mapping[str, Any] = {
        n: v for n, v in vars(getattr(trt, "ComputeCapability", object)).items() if n[:2] == "SM"
    }
    if name not in known:
        raise SpecError(
            f"cannot build for compute capability '{name}'; allowed: "
            + (", ".join(sorted(known)) or "none, this TensorRT builds for its own GPU")
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[name], 0)


def _profile(builder: Any, network: Any, arch: Architecture, ranged: ShapeRange) -> Any:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        name = network.get_input(i).name
        profile.set_shape(name, *ranged.shapes(name, arch))
    return profile


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    try:
        stored = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise SpecError(f"cannot read the timing cache {path}: {error.strerror or error}") from error
    known = config.create_timing_cache(stored)
    config.set_timing_cache(known, False)
    return known


def _save_timing_cache(config: Any, path: Path) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(bytes(config.get_timing_cache().serialize()))
        partial.replace(path)
    except OSError as error:
        raise SpecError(f"cannot write the timing cache {path}: {error.strerror or error}") from error
