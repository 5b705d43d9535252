"""A built ONNX model: the small graph and its large tensors apart, so that an engine loads it without touching a disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from codesign.errors import CodesignError

__all__ = ["OnnxModel", "external_tensor"]

_ALIGN_B = 4096  # a page, so that a reader can map tensors
_EXTERNAL_ABOVE_B = 500_000_000  # protobuf ends at 2 GiB, and is held twice more while it is written
_MANY_NODES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """An ONNX model.

    proto: the graph; its large tensors are external initializers, each in a file of its own name that need not exist.
    tensors: those tensors by name, in the layout of the graph. bfloat16 is held as its bits (uint16), 4-bit matrices as
    bytes of two values.
    """

    proto: onnx.ModelProto
    tensors: dict[str, NDArray[Any]]

    @property
    def weight_B(self) -> int:
        """Bytes of the large tensors."""
        return sum(array.nbytes for array in self.tensors.values())

    @staticmethod
    def save_memory_B(weight_B: float) -> float:
        """Memory that building and saving a model takes, from the bytes of its weights."""
        return weight_B + 2 * weight_B * (weight_B <= _EXTERNAL_ABOVE_B)

    def add_to(self, options: Any) -> list[Any]:
        """Hand the tensors to an `onnxruntime.SessionOptions`, without a copy and without a file.

        4-bit matrices are the exception where onnxruntime is older than 1.24: those go into the graph itself.

        In a graph of many nodes (many experts) onnxruntime's plan of which buffers to reuse is left out: it takes time that
        is quadratic in the nodes (minutes for 10,000) and gains nothing there.

        Then `InferenceSession(model.proto.SerializeToString(), options)` builds the model. Keep the returned objects until
        the session exists; afterwards they and this model may go (where onnxruntime packed a matrix, that frees it).
        """
        import onnxruntime as ort

        if len(self.proto.graph.node) > _MANY_NODES:
            options.enable_mem_reuse = False
        names, values, files, buffers = [], [], [], []
        for tensor in self.proto.graph.initializer:
            if tensor.name not in self.tensors:
                continue
            array = self.tensors[tensor.name]
            if tensor.data_type == TensorProto.INT4:  # no OrtValue has a packed type's logical shape
                files.append(tensor.name)
                buffers.append(array)
                continue
            names.append(tensor.name)
            if tensor.data_type == TensorProto.BFLOAT16:
                values.append(ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, TensorProto.BFLOAT16))
            else:
                values.append(ort.OrtValue.ortvalue_from_numpy(array))
        if names:
            options.add_external_initializers(names, values)
        if files and hasattr(options, "add_external_initializers_from_files_in_memory"):
            options.add_external_initializers_from_files_in_memory(files, buffers, [b.nbytes for b in buffers])
        elif files:  # onnxruntime before 1.24
            for tensor in self.proto.graph.initializer:
                if tensor.data_type == TensorProto.INT4 and tensor.name in self.tensors:
                    _inline(tensor, self.tensors[tensor.name])
        return [*values, *buffers]

    def save(self, path: Path, *, external_above_B: int = _EXTERNAL_ABOVE_B) -> tuple[Path, ...]:
        """Write `path`, and `path`.data beside it where the tensors take more than `external_above_B` bytes.

        Each file is written under a temporary name and renamed, the data first: what bears the name is whole.

        Returns:
            The files written.

        Raises:
            CodesignError: the disk is full, or the folder cannot be written.
        """
        path = Path(path)
        total = self.weight_B
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        try:
            if total <= external_above_B:
                for tensor in proto.graph.initializer:
                    if tensor.name in self.tensors:
                        _inline(tensor, self.tensors[tensor.name])
                with _replacing(path) as file:
                    file.write(proto.SerializeToString())
                return (path,)
            data = path.with_name(path.name + ".data")
            offset = 0
            with _replacing(data) as file:
                for tensor in proto.graph.initializer:
                    if tensor.name not in self.tensors:
                        continue
                    array = self.tensors[tensor.name]
                    offset = -(-offset // _ALIGN_B) * _ALIGN_B
                    file.seek(offset)
                    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
                    _point(tensor, data.name, offset, array.nbytes)
                    offset += array.nbytes
            with _replacing(path) as file:
                file.write(proto.SerializeToString())
            return (path, data)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CodesignError(f"cannot write {path}: {reason}; the model needs {total / 1e9:.2f} GB there") from error


def external_tensor(name: str, onnx_type: int, shape: tuple[int, ...], size_B: int) -> TensorProto:
    """The initializer of a tensor that is held outside the graph."""
    tensor = TensorProto(name=name, data_type=onnx_type, dims=shape)
    _point(tensor, name, 0, size_B)
    return tensor


def _inline(tensor: TensorProto, array: NDArray[Any]) -> None:
    """Put a tensor's data into the graph."""
    tensor.raw_data = array.tobytes()
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")


def _point(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Say where a tensor's data lies."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("external_data")
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A file beside `path` that takes its name once it is whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
