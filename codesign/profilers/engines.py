"""Engines by name: those of this package, and plug-ins of the entry-point group `codesign.profilers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from codesign.errors import CodesignError, SpecError, UnknownNameError
from codesign.profilers.base import Engine

__all__ = ["engine_names", "open_engine"]

ENTRY_POINT_GROUP = "codesign.profilers"


def _onnxruntime(options: Mapping[str, str]) -> Engine:
    from codesign.profilers.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(options)


def _torch(options: Mapping[str, str]) -> Engine:
    from codesign.profilers.torch_engine import TorchEngine

    return TorchEngine(options)


def _tensorrt(options: Mapping[str, str]) -> Engine:
    from codesign.profilers.tensorrt_engine import TensorRTEngine

    return TensorRTEngine(options)


_ENGINES: dict[str, Callable[[Mapping[str, str]], Engine]] = {
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    "tensorrt": _tensorrt,
}


def _owner(entry: Any) -> str:
    return f"'{entry.dist.name}'" if entry.dist is not None else f"an unknown distribution ({entry.value})"


@cache
def _plugins() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in found or entry.name in _ENGINES:
            other = _owner(found[entry.name]) if entry.name in found else "codesign itself"
            raise SpecError(
                f"two engines are called '{entry.name}': of {other} and of {_owner(entry)}; uninstall one of them"
            )
        found[entry.name] = entry
    return found


def engine_names() -> list[str]:
    """All engines that can be named, plug-ins last.

    Example:
        >>> engine_names()[:3]
        ['onnxruntime', 'torch', 'tensorrt']
    """
    return [*_ENGINES, *_plugins()]


def open_engine(name: str, options: Mapping[str, str] | None = None) -> Engine:
    """Open an engine of this machine.

    Args:
        name: onnxruntime, torch, tensorrt, or a plug-in's (a callable that takes the options).
        options: text options of that engine, such as {"threads": "1"}.

    Raises:
        UnknownNameError: no such engine.
        MissingExtraError: its package is not installed.
        MeasurementError: its driver or device is not there.
        SpecError: an unknown option, or a plug-in that cannot be opened.
    """
    options = options or {}
    if name in _ENGINES:
        return _ENGINES[name](options)
    plugins = _plugins()
    if name not in plugins:
        raise UnknownNameError.near(
            "engine", name, engine_names(), "Engines that profile: see 'codesign profile --help'."
        )
    try:
        engine: Engine = plugins[name].load()(options)
    except CodesignError:
        raise
    except Exception as error:  # a plug-in may fail in any way; the user needs to know which one did
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise SpecError(f"engine plug-in '{name}' of {_owner(plugins[name])} failed: {why}") from error
    return engine
