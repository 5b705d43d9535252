"""`codesign export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from codesign.architecture import Architecture

__all__ = ["export"]


def export(
    model: Annotated[str, typer.Argument(help="A design's folder, a config.json, or a bundled name (qwen3-0.6b).")],
    onnx: Annotated[bool, typer.Option("--onnx", help="As an ONNX model: the default, and the only format.")] = True,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16, int8-dynamic, w4a32 (onnxruntime) or w4a16 (TensorRT).")
    ] = "fp32",
    flavour: Annotated[
        str, typer.Option(help="standard (opset 23), or decomposed (opset 17) for TensorRT 10.0 to 10.3 of JetPack 6.")
    ] = "standard",
    out: Annotated[
        str | None, typer.Option(help="File to write, or a folder; default: NAME-PRECISION.onnx here.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
) -> None:
    """Write the model of an architecture, with random weights, to be timed in any engine.

    Example: codesign export results/run/design-3 --onnx --precision fp16
    """
    from codesign.errors import MissingExtraError, SpecError
    from codesign.hf_config import read_config

    if seed < 0:
        raise SpecError(f"--seed must be 0 or more, not {seed}")
    arch = read_config(model)
    try:
        import onnx as onnx_package
    except ImportError as error:
        raise MissingExtraError.of("onnx", "profile", "codesign export --onnx") from error
    from codesign.models.onnx_graph import build_onnx, check_request

    check_request(arch, precision, flavour)
    path = _target(out, model, precision, flavour)
    _check_room(arch, precision, path)
    built = build_onnx(arch, precision, flavour=flavour, seed=seed)
    files = built.save(path)
    try:
        onnx_package.checker.check_model(str(path))
    except onnx_package.checker.ValidationError as error:
        raise SpecError(f"{path} was written but onnx's checker refuses it: {error}") from error
    _print(arch, built.proto, files, f"{precision}, {flavour} flavour", seed)


def _target(out: str | None, model: str, precision: str, flavour: str) -> Path:
    """Where to write; makes the folder.

    Raises:
        SpecError: the folder cannot be made or written.
    """
    import os

    from codesign.errors import SpecError

    source = Path(model)
    stem = source.resolve().parent.name if source.suffix == ".json" else source.resolve().name
    name = f"{stem}-{precision}{'' if flavour == 'standard' else '-' + flavour}.onnx"
    path = Path(out).expanduser() if out else Path(name)
    if path.is_dir() or (out and out.endswith(("/", os.sep))):
        path = path / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot make folder {path.parent}: {error.strerror or error}; give another --out") from error
    if not os.access(path.parent, os.W_OK):
        raise SpecError(f"cannot write to {path.parent}; give another --out")
    return path


def _check_room(arch: Architecture, precision: str, path: Path) -> None:
    """Refuse a model that the memory or the disk has no room for, before it is built.

    Raises:
        SpecError: not enough free memory, or not enough free space.
    """
    import shutil

    from codesign.errors import SpecError
    from codesign.models.onnx_model import OnnxModel
    from codesign.operators import weight_bytes
    from codesign.profilers.host_limits import memory_bytes
    from codesign.units import format_bytes
    from codesign.workload import PRECISIONS

    form = PRECISIONS[precision]
    size_B = float(weight_bytes(arch, form))
    needed_B, available_B = OnnxModel.save_memory_B(size_B), memory_bytes()[1]
    what = f"{path.name} has {arch.params_total:,} parameters, {format_bytes(size_B)} at {precision}"
    if available_B is not None and needed_B > available_B:
        raise SpecError(
            f"{what}; building it takes {format_bytes(needed_B)} of memory and {format_bytes(available_B)} are free; "
            "choose a smaller model or a precision of fewer bits"
        )
    free_B = shutil.disk_usage(path.parent).free
    if size_B > free_B:
        raise SpecError(f"{what}, and {path.parent} has {format_bytes(free_B)} free; give --out on another disk")


def _print(arch: Architecture, proto: Any, files: tuple[Path, ...], form: str, seed: int) -> None:
    from codesign.units import format_bytes

    for file in files:
        print(f"wrote {file} ({format_bytes(file.stat().st_size)})")
    print(f"{arch.params_total:,} parameters, {form}; random weights of seed {seed}: for timing, not for text")
    for label, values in (("inputs", proto.graph.input), ("outputs", proto.graph.output)):
        print(f"{label}:")
        cache = [value for value in values if value.name.endswith((".key", ".value"))]
        for value in values:
            if value not in cache or value in cache[:2]:
                print(f"  {_signature(value)}")
        if len(cache) > 2:
            print(f"  ... {len(cache) - 2} more, to {cache[-1].name}")


def _signature(value: Any) -> str:
    """Name, type and dimensions of a graph's input or output."""
    from onnx import TensorProto

    tensor = value.type.tensor_type
    dims = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    return f"{value.name}: {TensorProto.DataType.Name(tensor.elem_type).lower()} [{dims}]"
