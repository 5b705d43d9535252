"""Weights as the ONNX graph stores them: random (fast), or given and quantised.

Layouts: int8 by column, `w = scale[n] * q[k, n]`; 4 bit in blocks along the inputs, `w = scale[k // block, n] * q[k, n]`,
q in [-8, 7], two to a byte, the even element in the low half (ONNX INT4). Both are symmetric.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.errors import SpecError

__all__ = [
    "RandomWeights",
    "check_block",
    "dequantise_int4",
    "dequantise_int8",
    "quantise_int4",
    "quantise_int8",
    "unpack_int4",
]

_POOL = (1 << 20) + 7  # not a multiple of any row, so that rows differ
STD = 0.02  # the usual initialisation; keeps every activation far inside the range of fp16


class RandomWeights:
    """Random tensors at the speed of a copy: each is tiled from a pool of random numbers, at an offset of its own.

    Latency does not depend on the values, but on memory: every tensor has its own.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._pools: dict[str, NDArray[Any]] = {}

    def normal(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Normal numbers of standard deviation 0.02."""
        return self._tile("normal", shape, dtype, lambda r: (r.standard_normal(_POOL, np.float32) * STD).astype(dtype))

    def int8(self, inputs: int, outputs: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """An int8 matrix (inputs, outputs) and its scales by column."""
        q = self._tile("int8", (inputs, outputs), np.int8,
                       lambda r: np.clip(np.rint(r.standard_normal(_POOL) * 32), -127, 127).astype(np.int8))  # fmt: skip
        return q, self._scales((outputs,), STD / 32)

    def int4(self, inputs: int, outputs: int, block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """A packed 4-bit matrix (inputs * outputs / 2 bytes, rounded up) and its scales by block and column."""
        q = self._tile("int4", ((inputs * outputs + 1) // 2,), np.uint8, lambda r: r.integers(0, 256, _POOL, np.uint8))
        return q, self._scales((-(-inputs // block), outputs), STD / 4.6)  # 4.6: standard deviation of -8 .. 7

    def _scales(self, shape: tuple[int, ...], mean: float) -> NDArray[np.float32]:
        return self._tile(f"scale{mean}", shape, np.float32,
                          lambda r: (mean * r.uniform(0.9, 1.1, _POOL)).astype(np.float32))  # fmt: skip

    def _tile(self, kind: str, shape: tuple[int, ...], dtype: Any, make: Any) -> NDArray[Any]:
        key = f"{kind} {np.dtype(dtype).name}"
        if key not in self._pools:
            self._pools[key] = make(self._rng)
        pool, out = self._pools[key], np.empty(shape, dtype)
        flat, start = out.reshape(-1), int(self._rng.integers(_POOL))
        done = 0
        while done < flat.size:
            part = pool[start : start + flat.size - done]
            flat[done : done + part.size] = part
            done, start = done + part.size, 0
        return out


def quantise_int8(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise (inputs, outputs) by column: scale = max |w| / 127."""
    w = np.asarray(weight, np.float32)
    scale = np.maximum(np.abs(w).max(axis=0), 1e-12) / np.float32(127)
    return np.rint(w / scale).astype(np.int8), scale.astype(np.float32)


def dequantise_int8(q: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.float32]:
    """The floats that an int8 matrix stands for."""
    return np.asarray(q.astype(np.float32) * scale, np.float32)


def quantise_int4(weight: NDArray[Any], block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantise (inputs, outputs) in blocks of inputs: scale = max |w| / 7; the packed bytes and the scales.

    Raises:
        SpecError: inputs that are no multiple of the block.
    """
    w = np.asarray(weight, np.float32)
    inputs, outputs = w.shape
    check_block(inputs, block)
    grouped = w.reshape(inputs // block, block, outputs)
    scale = np.maximum(np.abs(grouped).max(axis=1), 1e-12) / np.float32(7)
    q = np.rint(grouped / scale[:, None]).astype(np.int8).reshape(-1).view(np.uint8) & 15
    if q.size % 2:
        q = np.append(q, np.uint8(0))
    return q[0::2] | (q[1::2] << 4), scale.astype(np.float32)


def unpack_int4(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.int8]:
    """The values -8 .. 7 of a packed matrix."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[: int(np.prod(shape))].astype(np.int8)
    return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8).reshape(shape)


def dequantise_int4(packed: NDArray[np.uint8], scale: NDArray[Any], inputs: int) -> NDArray[np.float32]:
    """The floats that a packed 4-bit matrix (inputs, outputs) stands for."""
    q = unpack_int4(packed, (inputs, scale.shape[1]))
    return np.asarray(q * np.repeat(scale.astype(np.float32), inputs // scale.shape[0], axis=0), np.float32)


def check_block(inputs: int, block: int) -> None:
    """Refuse a matrix that blocks do not divide.

    Raises:
        SpecError: inputs that are no multiple of the block.
    """
    if inputs % block:
        raise SpecError(f"4-bit weights in blocks of {block} need widths that are multiples of it, not {inputs}")
