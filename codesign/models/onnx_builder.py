"""Nodes and weights of a graph under construction, and the operators that differ between precisions and flavours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from codesign.errors import SpecError
from codesign.models.onnx_model import external_tensor
from codesign.models.weights import RandomWeights, check_block, quantise_int4, quantise_int8

__all__ = ["FLAVOURS", "FORMATS", "Builder", "Format"]

#: Opset and what it is for.
FLAVOURS = {"standard": 23, "decomposed": 17}
_INLINE_B = 256  # smaller tensors live in the graph: shape inference and constant folding read them there


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a precision is stored: the float type, the bits of matrices (0: floats), block of 4 bit, and the head's bits."""

    floats: int
    bits: int = 0
    block: int = 0
    head_bits: int = 0


FORMATS = {
    "fp32": Format(floats=TensorProto.FLOAT),
    "fp16": Format(floats=TensorProto.FLOAT16),
    "bf16": Format(floats=TensorProto.BFLOAT16),
    "int8-dynamic": Format(floats=TensorProto.FLOAT, bits=8, head_bits=8),
    "w4a32": Format(floats=TensorProto.FLOAT, bits=4, block=32, head_bits=4),
    "w4a16": Format(floats=TensorProto.FLOAT16, bits=4, block=128),
}


class Builder:
    """Collects nodes, initializers and tensors.

    Values are named by the node that makes them. `weights` (torch layout) or, where None, random ones of `seed`.
    """

    def __init__(self, form: Format, flavour: str, seed: int, weights: Mapping[str, NDArray[Any]] | None) -> None:
        self.form, self.standard, self.given = form, flavour == "standard", weights
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self._random = RandomWeights(seed)
        self._constants: dict[tuple[Any, ...], str] = {}
        self._quantised: dict[str, list[str]] = {}
        self._count = 0
        self.scope = ""  # begins the names of nodes: what part of the model they are

    # Nodes

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output and return its name."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs."""
        self._count += 1
        name = f"{self.scope}{kind}_{self._count}"
        names = [name] if outputs == 1 else [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names

    def name_output(self, value: str, name: str) -> None:
        """Call a value by the name of a graph output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"Identity_{name}"))

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A small constant; equal ones are one initializer."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = name
            self.initializers.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def scalar(self, value: float) -> str:
        """A constant of the graph's float type."""
        return self.floats(self.constant(value, np.float32)) if self.half else self.constant(value, np.float32)

    @property
    def half(self) -> bool:
        """Whether activations have 16 bits."""
        return bool(self.form.floats != TensorProto.FLOAT)

    def floats(self, value: str) -> str:
        """Cast to the graph's float type; the same value is cast once."""
        key = ("cast", value)
        if key not in self._constants:
            self._constants[key] = self.op("Cast", value, to=self.form.floats)
        return self._constants[key]

    def shape(self, value: str, dims: list[int]) -> str:
        """Reshape; 0 keeps a dimension, -1 is inferred."""
        return self.op("Reshape", value, self.constant(dims))

    # Weights

    def tensor(self, name: str, array: NDArray[Any], onnx_type: int, shape: tuple[int, ...] | None = None) -> str:
        """Register a tensor as an initializer: external, unless tiny."""
        array = np.ascontiguousarray(array)
        shape = array.shape if shape is None else shape
        if array.nbytes <= _INLINE_B:
            raw = array.tobytes()
            self.initializers.append(helper.make_tensor(name, onnx_type, shape, raw, raw=True))
        else:
            self.tensors[name] = array
            self.initializers.append(external_tensor(name, onnx_type, shape, array.nbytes))
        return name

    def vector(self, name: str, size: int, *, gain: bool = False) -> str:
        """A gain (random: 1) or a bias in the graph's float type."""
        if self.given is not None:
            array = self._take(name, (size,))
        elif gain:
            array = np.ones(size, np.float32)
        else:
            array = self._random.normal((size,), np.float32)
        return self.tensor(name, _stored(array, self.form.floats), self.form.floats)

    def matrix(self, name: str, shape: tuple[int, int]) -> str:
        """A float matrix of (rows, columns) as it is given."""
        return self.tensor(name, self._floats_of(name, shape, transpose=False), self.form.floats)

    def linear(
        self, x: str, name: str, inputs: int, outputs: int, *, bias: bool = False, bits: int | None = None
    ) -> str:
        """x (..., inputs) times the matrix `name`.weight, plus its bias; `bits` other than the format's: 0 is float."""
        bits = self.form.bits if bits is None else bits
        if bits == 8:
            y = self._int8(x, f"{name}.weight", inputs, outputs)
        elif bits == 4:
            y = self.op("MatMul", x, self._int4(f"{name}.weight", inputs, outputs))
        else:
            array = self._floats_of(f"{name}.weight", (inputs, outputs), transpose=True)
            y = self.op("MatMul", x, self.tensor(f"{name}.weight", array, self.form.floats))
        return self.op("Add", y, self.vector(f"{name}.bias", outputs)) if bias else y

    def _int8(self, x: str, name: str, inputs: int, outputs: int) -> str:
        """Activations quantised at run time, one scale for the tensor: onnxruntime's dynamic quantisation."""
        if x not in self._quantised:
            self._quantised[x] = self.ops("DynamicQuantizeLinear", 3, x)
        qx, scale_x, zero_x = self._quantised[x]
        if self.given is None:
            q, scale = self._random.int8(inputs, outputs)
        else:
            q, scale = quantise_int8(self._take(name, (outputs, inputs)).T)
        weight = self.tensor(f"{name}_q", q, TensorProto.INT8)
        scale_w = self.tensor(f"{name}_scale", scale, TensorProto.FLOAT)
        product = self.op("Cast", self.op("MatMulInteger", qx, weight, zero_x), to=TensorProto.FLOAT)
        return self.op("Mul", product, self.op("Mul", scale_x, scale_w))

    def _int4(self, name: str, inputs: int, outputs: int) -> str:
        """A block-dequantised matrix; onnxruntime fuses it with its MatMul to MatMulNBits."""
        block = self.form.block
        check_block(inputs, block)
        if self.given is None:
            q, scale = self._random.int4(inputs, outputs, block)
        else:
            q, scale = quantise_int4(self._take(name, (outputs, inputs)).T, block)
        weight = self.tensor(f"{name}_q", q, TensorProto.INT4, (inputs, outputs))
        scales = self.tensor(f"{name}_scale", _stored(scale, self.form.floats), self.form.floats)
        return self.op("DequantizeLinear", weight, scales, axis=0, block_size=block)

    def _floats_of(self, name: str, shape: tuple[int, int], *, transpose: bool) -> NDArray[Any]:
        if self.given is None:
            if self.form.floats == TensorProto.BFLOAT16:
                return _stored(self._random.normal(shape, np.float32), TensorProto.BFLOAT16)
            return self._random.normal(shape, np.float16 if self.half else np.float32)
        array = self._take(name, shape[::-1] if transpose else shape)
        return _stored(array.T if transpose else array, self.form.floats)

    def _take(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        assert self.given is not None
        if name not in self.given:
            raise SpecError(f"weight '{name}' is missing; see codesign.models.features for the names")
        array = np.asarray(self.given[name])
        if array.shape != shape:
            raise SpecError(f"weight '{name}' has shape {array.shape}, not {shape}")
        return array

    # Operators that differ between flavours

    def norm(self, x: str, name: str, size: int, eps: float, *, bias: bool = False) -> str:
        """RMSNorm x / sqrt(mean(x^2) + eps) * gain over the last axis, computed in fp32; LayerNorm where it has a bias."""
        gain = self.vector(f"{name}.weight", size, gain=True)
        if bias:
            return self.op("LayerNormalization", x, gain, self.vector(f"{name}.bias", size), axis=-1, epsilon=eps)
        if self.standard:
            return self.op("RMSNormalization", x, gain, axis=-1, epsilon=eps)
        x = self.op("Cast", x, to=TensorProto.FLOAT) if self.half else x
        mean = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1], keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, self.constant(eps, np.float32)))
        x = self.op("Div", x, root)
        return self.op("Mul", self.op("Cast", x, to=self.form.floats) if self.half else x, gain)

    def activation(self, x: str, kind: str) -> str:
        """silu x * sigmoid(x), relu2 max(x, 0)^2, or gelu by its tanh approximation."""
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if kind == "relu2":
            positive = self.op("Relu", x)
            return self.op("Mul", positive, positive)
        if self.standard:
            return self.op("Gelu", x, approximate="tanh")
        cube = self.op("Mul", self.op("Mul", x, x), self.op("Mul", x, self.scalar(0.044715)))
        inner = self.op("Mul", self.op("Add", x, cube), self.scalar((2 / np.pi) ** 0.5))
        return self.op(
            "Mul", self.op("Mul", x, self.scalar(0.5)), self.op("Add", self.op("Tanh", inner), self.scalar(1))
        )


def _stored(array: NDArray[Any], onnx_type: int) -> NDArray[Any]:
    """Floats in the type of the graph; bfloat16 as its bits, rounded to nearest even."""
    array = np.ascontiguousarray(array, np.float32)
    if onnx_type == TensorProto.FLOAT16:
        return array.astype(np.float16)
    if onnx_type == TensorProto.BFLOAT16:
        bits = array.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return array
