"""The FFN in the ONNX graph, dense or a mixture of experts.

In a mixture the tokens are sorted by expert, each expert's FFN runs on its slice, and the rows go back to their places. Each token's row is repeated K times, the rows are sorted by expert and split into E slices, most of them empty in a decode
step: an expert without tokens costs a few calls on empty tensors and reads none of its weights.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from codesign.architecture import Architecture
from codesign.models.features import Features
from codesign.models.onnx_builder import Builder

__all__ = ["ffn", "mixture"]


def ffn(b: Builder, arch: Architecture, has: Features, x: str, name: str, width: int, *, bias: bool = False) -> str:
    """down(act(gate(x)) * up(x)), or down(act(up(x))) where the FFN is not gated."""
    up = b.linear(x, f"{name}.up_proj", arch.d_model, width, bias=bias)
    if arch.ffn_gated:
        gate = b.linear(x, f"{name}.gate_proj", arch.d_model, width, bias=bias)
        hidden = b.op("Mul", b.activation(gate, has.activation), up)
    else:
        hidden = b.activation(up, has.activation)
    return b.linear(hidden, f"{name}.down_proj", width, arch.d_model, bias=bias)


def mixture(b: Builder, arch: Architecture, has: Features, x: str, at: str) -> str:
    """The routed experts' weighted sum, plus the shared expert, of x (batch, sequence, d).

    The router's softmax runs over all experts in fp32; the K largest are kept, and divided by their sum where the family
    does so (Mixtral, arXiv 2401.04088; Qwen's norm_topk_prob).
    """
    k = arch.n_active_experts
    rows = b.shape(x, [-1, arch.d_model])
    chosen, share = _route(b, arch, has, rows, at)
    order, inverse, counts = _sort(b, arch, chosen)
    token = order if k == 1 else b.op("Div", order, b.constant(k))
    slices = b.ops("Split", arch.n_experts, b.op("Gather", rows, token), counts, axis=0)
    outputs = [ffn(b, arch, has, part, f"{at}.experts.{e}", arch.d_ff_expert) for e, part in enumerate(slices)]
    joined = b.op("Concat", *outputs, axis=0) if len(outputs) > 1 else outputs[0]
    back = b.shape(b.op("Gather", joined, inverse), [-1, k, arch.d_model])
    weighted = b.op("Mul", back, b.op("Unsqueeze", share, b.constant([2])))
    routed = b.op("ReduceSum", weighted, b.constant([1]), keepdims=0)
    if arch.n_shared_experts and arch.d_ff_shared:
        shared = ffn(b, arch, has, rows, f"{at}.shared_expert", arch.n_shared_experts * arch.d_ff_shared)
        if arch.shared_expert_gate:
            gate = b.op("Sigmoid", b.linear(rows, f"{at}.shared_gate", arch.d_model, 1, bits=0))
            shared = b.op("Mul", shared, gate)
        routed = b.op("Add", routed, shared)
    return b.op("Reshape", routed, b.op("Shape", x))


def _route(b: Builder, arch: Architecture, has: Features, rows: str, at: str) -> tuple[str, str]:
    """Indices and weights of the chosen experts, (tokens, K)."""
    scores = b.linear(rows, f"{at}.router", arch.d_model, arch.n_experts, bits=0)
    scores = b.op("Cast", scores, to=TensorProto.FLOAT) if b.half else scores
    shares = b.op("Softmax", scores, axis=-1)
    top, chosen = b.ops("TopK", 2, shares, b.constant([arch.n_active_experts]), axis=-1)
    if has.normalise_routing:
        top = b.op("Div", top, b.op("ReduceSum", top, b.constant([-1]), keepdims=1))
    return chosen, b.floats(top) if b.half else top


def _sort(b: Builder, arch: Architecture, chosen: str) -> tuple[str, str, str]:
    """The order that sorts the (token, choice) pairs by expert, its inverse, and how many pairs each expert has."""
    flat = b.shape(chosen, [-1])
    pairs = b.op("Shape", flat)
    _, order = b.ops("TopK", 2, flat, pairs, axis=0, largest=0, sorted=1)
    _, inverse = b.ops("TopK", 2, order, pairs, axis=0, largest=0, sorted=1)
    experts = b.constant(np.arange(arch.n_experts)[:, None])
    hits = b.op("Cast", b.op("Equal", experts, b.op("Unsqueeze", flat, b.constant([0]))), to=TensorProto.INT64)
    return order, inverse, b.op("ReduceSum", hits, b.constant([1]), keepdims=0)
