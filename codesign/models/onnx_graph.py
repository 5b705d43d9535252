"""The decoder as an ONNX graph, written node by node.

One graph with dynamic axes serves prefill and decode. Inputs: input_ids and position_ids int64 (batch, sequence), and for
each layer past_key_values.{i}.key and .value (batch, n_kv_heads, past, d_head). Outputs: logits (batch, 1, vocab) of the
last position, which is all that serving computes, and present.{i}.key and .value (batch, n_kv_heads, past + sequence,
d_head), keys already rotated. Positions of a request are consecutive, and its cache ends right before them. Layers with a
sliding window may be given a cache of only the last window_tokens - 1 positions (their own `past_window` axis).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from codesign.architecture import Architecture
from codesign.errors import SpecError
from codesign.models.features import Features, features, is_mixture
from codesign.models.onnx_builder import FLAVOURS, FORMATS, Builder, Format
from codesign.models.onnx_ffn import ffn, mixture
from codesign.models.onnx_model import OnnxModel
from codesign.models.weights import check_block

__all__ = ["OnnxModel", "build_onnx", "check_request"]

_IR_VERSION = {"standard": 11, "decomposed": 8}  # the oldest that its opset came with


def build_onnx(
    arch: Architecture,
    precision: str = "fp32",
    *,
    flavour: str = "standard",
    seed: int = 0,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> OnnxModel:
    """Build the graph of an architecture.

    Args:
        arch: the decoder.
        precision: fp32, fp16, bf16 (the type of the whole graph; norms are computed in fp32); int8-dynamic (int8 weights by
            column, activations quantised at run time); w4a32, w4a16 (4-bit blocks of 32 or 128 inputs). The router of a
            mixture stays in the float type.
        flavour: "standard", operators of opset 23 (RMSNormalization, RotaryEmbedding, Attention); "decomposed", opset 17
            and elementary operators, for parsers that are older (TensorRT 10.0 to 10.3).
        seed: of the random weights.
        weights: use these instead: names and layout of `codesign.models.features`; quantised here where the precision
            says so.

    Raises:
        SpecError: an unknown precision or flavour, a field that no runnable model is written for, or weights that are
            missing or of the wrong shape.
    """
    form = check_request(arch, precision, flavour)
    return _Decoder(arch, Builder(form, flavour, seed, weights)).build(flavour)


def check_request(arch: Architecture, precision: str, flavour: str) -> Format:
    """The format of a precision; refuses, before anything is built, what `build_onnx` cannot build.

    Raises:
        SpecError: as `build_onnx`.
    """
    if precision not in FORMATS:
        raise SpecError(f"precision '{precision}' has no ONNX graph; allowed: {', '.join(FORMATS)}")
    if flavour not in FLAVOURS:
        raise SpecError(f"flavour '{flavour}' is not one of {', '.join(FLAVOURS)}")
    form = FORMATS[precision]
    if form.bits == 4 and flavour == "decomposed":
        raise SpecError(
            f"precision '{precision}' needs the block DequantizeLinear of opset 21, which the decomposed flavour "
            "(opset 17) lacks; choose flavour 'standard', or fp16 or int8-dynamic"
        )
    features(arch)
    if form.bits == 4:
        for width in _input_widths(arch):
            check_block(width, form.block)
    return form


def _input_widths(arch: Architecture) -> set[int]:
    """Widths that quantised matrices read from."""
    widths = {arch.d_model, arch.d_query, arch.d_ff * (arch.n_dense_ffn_layers > 0)}
    if arch.n_moe_layers:
        widths |= {arch.d_ff_expert, arch.n_shared_experts * arch.d_ff_shared}
    return widths - {0}


class _Decoder:
    """Writes the layers of one model into a builder."""

    def __init__(self, arch: Architecture, builder: Builder) -> None:
        self.arch, self.b = arch, builder
        self.has: Features = features(arch)
        self.masks: dict[bool, str] = {}
        self.rotary: dict[float, tuple[str, str]] = {}

    def build(self, flavour: str) -> OnnxModel:
        b, arch = self.b, self.arch
        b.scope = "embedding/"
        table = b.matrix("embed_tokens.weight", (arch.vocab_size, arch.d_model))
        x = b.op("Gather", table, "input_ids")
        if self.has.embedding_scale != 1:
            x = b.op("Mul", x, b.scalar(self.has.embedding_scale))
        for layer in range(arch.n_layers):
            x = self._block(x, layer, "attention")
            x = self._block(x, layer, "ffn")
        b.scope = "head/"
        last = b.op("Gather", x, b.constant(-1), axis=1)
        last = self._norm(last, "final_norm")
        logits = self._head(last, table)
        b.nodes.append(helper.make_node("Unsqueeze", [logits, b.constant([1])], ["logits"], name=f"{b.scope}Unsqueeze"))
        inputs, outputs = self._signature()
        graph = helper.make_graph(b.nodes, "decoder", inputs, outputs, b.initializers)
        proto: ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", FLAVOURS[flavour])],
            ir_version=_IR_VERSION[flavour],
            producer_name="codesign",
        )
        return OnnxModel(proto=proto, tensors=b.tensors)

    def _signature(self) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
        arch, floats = self.arch, self.b.form.floats
        info = helper.make_tensor_value_info
        inputs = [info(name, TensorProto.INT64, ["batch", "sequence"]) for name in ("input_ids", "position_ids")]
        outputs = [info("logits", floats, ["batch", 1, arch.vocab_size])]
        for i, sliding in enumerate(self.has.sliding):
            past, total = ("past_window", "total_window") if sliding else ("past", "total")
            for part in ("key", "value"):
                shape = ["batch", arch.n_kv_heads, past, arch.d_head]
                inputs.append(info(f"past_key_values.{i}.{part}", floats, shape))
                shape = ["batch", arch.n_kv_heads, total, arch.d_head]
                outputs.append(info(f"present.{i}.{part}", floats, shape))
        return inputs, outputs

    def _norm(self, x: str, name: str) -> str:
        return self.b.norm(x, name, self.arch.d_model, self.has.norm_eps, bias=self.arch.norm_bias)

    def _head(self, last: str, table: str) -> str:
        """Logits of (batch, d). A tied head reads the embedding's own table; a quantised one has its own."""
        arch, b = self.arch, self.b
        if arch.tied_embeddings and not b.form.head_bits:
            return b.op("Gemm", last, table, transB=1)
        source = "embed_tokens" if arch.tied_embeddings and b.given is not None else "lm_head"
        return b.linear(last, source, arch.d_model, arch.vocab_size, bits=b.form.head_bits)

    def _block(self, x: str, layer: int, block: str) -> str:
        """x + block(x), with the norms before or after it."""
        at = f"layers.{layer}"
        self.b.scope = f"{at}.{block}/"
        y = self._norm(x, f"{at}.{block}_norm") if self.has.pre_norm else x
        if block == "attention":
            y = self._attention(y, layer)
        elif is_mixture(self.arch, layer):
            y = mixture(self.b, self.arch, self.has, y, at)
        else:
            y = ffn(self.b, self.arch, self.has, y, f"{at}.ffn", self.arch.d_ff, bias=self.arch.mlp_bias)
        if self.has.post_norm:
            y = self._norm(y, f"{at}.{block}_post_norm")
        return self.b.op("Add", x, y)

    def _attention(self, x: str, layer: int) -> str:
        arch, b, at = self.arch, self.b, f"layers.{layer}"
        sliding = self.has.sliding[layer]
        heads = {"q": arch.n_heads, "k": arch.n_kv_heads, "v": arch.n_kv_heads}
        parts: dict[str, str] = {}
        for part, n in heads.items():
            y = b.linear(x, f"{at}.{part}_proj", arch.d_model, n * arch.d_head, bias=arch.qkv_bias)
            if arch.qk_norm == "full" and part != "v":
                y = b.norm(y, f"{at}.{part}_norm", n * arch.d_head, self.has.norm_eps)
            y = b.shape(y, [0, 0, n, arch.d_head])
            if arch.qk_norm == "head" and part != "v":
                y = b.norm(y, f"{at}.{part}_norm", arch.d_head, self.has.norm_eps)
            y = b.op("Transpose", y, perm=[0, 2, 1, 3])
            parts[part] = y if part == "v" else self._rotate(y, self.has.rope_theta[sliding], n)
        cache = {}
        for part, name in (("k", "key"), ("v", "value")):
            cache[part] = f"present.{layer}.{name}"
            b.nodes.append(
                helper.make_node(
                    "Concat",
                    [f"past_key_values.{layer}.{name}", parts[part]],
                    [cache[part]],
                    name=f"{b.scope}Concat_{name}",
                    axis=2,
                )
            )
        mask = self._mask(layer)
        y = self._scores(parts["q"], cache["k"], cache["v"], mask)
        y = b.shape(b.op("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, arch.d_query])
        return b.linear(y, f"{at}.o_proj", arch.d_query, arch.d_model, bias=arch.out_bias)

    def _scores(self, q: str, k: str, v: str, mask: str) -> str:
        """softmax(q k^T / sqrt(d_head), where the mask allows) v; (batch, n_heads, sequence, d_head)."""
        arch, b = self.arch, self.b
        scale = arch.d_head**-0.5
        if b.standard:
            return b.op("Attention", q, k, v, mask, scale=scale)
        n_kv, group = arch.n_kv_heads, arch.n_heads // arch.n_kv_heads
        q = b.shape(b.op("Mul", q, b.scalar(scale)), [0, n_kv, -1, arch.d_head])  # the queries that share a key head
        scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
        grouped = b.op("Concat", b.constant([0, n_kv, group, -1]), self._total(k), axis=0)
        scores = b.op("Add", b.op("Reshape", scores, grouped), mask)
        joined = b.op("Concat", b.constant([0, n_kv, -1]), self._total(k), axis=0)
        y = b.op("MatMul", b.op("Reshape", b.op("Softmax", scores, axis=-1), joined), v)
        return b.shape(y, [0, arch.n_heads, -1, arch.d_head])

    def _total(self, keys: str) -> str:
        """Length of a cache, (1,)."""
        return self.b.op("Shape", keys, start=2, end=3)

    def _rotate(self, x: str, theta: float, heads: int) -> str:
        """Rotary embedding of (batch, heads, sequence, d_head), in halves as transformers does it."""
        b, width = self.b, self.has.rotary_dim
        cos, sin = self._angles(theta)
        partial = width != self.arch.d_head
        if b.standard:
            # onnxruntime 1.23 asks for num_heads where only a part is rotated
            some = {"rotary_embedding_dim": width, "num_heads": heads} if partial else {}
            return b.op("RotaryEmbedding", x, cos, sin, **some)
        half = width // 2
        sizes = [half, half, self.arch.d_head - width] if partial else [half, half]
        first, second, *rest = b.ops("Split", len(sizes), x, b.constant(sizes), axis=-1)
        left = b.op("Sub", b.op("Mul", first, cos), b.op("Mul", second, sin))
        right = b.op("Add", b.op("Mul", second, cos), b.op("Mul", first, sin))
        return b.op("Concat", left, right, *rest, axis=-1)

    def _angles(self, theta: float) -> tuple[str, str]:
        """Cosine and sine of position * theta^(-2 i / rotary_dim), once for all layers of one theta."""
        if theta not in self.rotary:
            b, width = self.b, self.has.rotary_dim
            frequencies = (theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)).astype(np.float32)
            positions = b.op("Cast", b.op("Unsqueeze", "position_ids", b.constant([2])), to=TensorProto.FLOAT)
            angles = b.op("Mul", positions, b.constant(frequencies, np.float32))
            pair = [b.op(kind, angles) for kind in ("Cos", "Sin")]
            pair = [b.floats(value) for value in pair] if b.half else pair
            if not b.standard:
                pair = [b.op("Unsqueeze", value, b.constant([1])) for value in pair]
            self.rotary[theta] = (pair[0], pair[1])
        return self.rotary[theta]

    def _mask(self, layer: int) -> str:
        """Which cached position each query sees, once for all layers with, and all without, a window.

        Boolean (batch, 1, sequence, total); decomposed: 0 or the lowest float, (batch, 1, 1, sequence, total).
        """
        sliding, b = self.has.sliding[layer], self.b
        if sliding in self.masks:
            return self.masks[sliding]
        total = b.op("Squeeze", self._total(f"present.{layer}.key"))
        last = b.op("Slice", "position_ids", b.constant([-1]), b.constant([2**62]), b.constant([1]))
        offsets = b.op("Range", b.op("Sub", b.constant(1), total), b.constant(1), b.constant(1))
        key = b.op("Unsqueeze", b.op("Add", last, offsets), b.constant([1, 2]))
        query = b.op("Unsqueeze", "position_ids", b.constant([1, 3]))
        mask = b.op("LessOrEqual", key, query)
        if sliding:
            near = b.op("Less", b.op("Sub", query, key), b.constant(self.arch.window_tokens))
            mask = b.op("And", mask, near)
        if not b.standard:
            low = -65504.0 if b.form.floats == TensorProto.FLOAT16 else -3e38
            mask = b.op("Where", b.op("Unsqueeze", mask, b.constant([1])), b.scalar(0.0), b.scalar(low))
        self.masks[sliding] = mask
        return mask
