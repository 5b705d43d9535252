"""The additive roofline of a device that was measured itself: seconds per unit of each class of work.

    t = sum over classes c of  FLOP_c * f_c + bytes_c * b_c  +  sum over kinds k of layers  n_k * s_k  +  step   [s]

with every coefficient at least 0. Mixers of different kinds have overheads of their own: they launch different numbers of
kernels (results/families_h100.md). Where `codesign.roofline.rates` takes the larger of moving and computing, this adds
them: on a CPU core loads and arithmetic share the pipeline, and adding fits measurements better (results/host_cpu.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign._mixers import CHUNK_TOKENS, RECURRENCES
from codesign.architecture import ArchitectureLike
from codesign.devices.fit import ResidualFit
from codesign.operators import Operator, Phase, lower
from codesign.workload import Precision, Workload

__all__ = [
    "CHUNKED",
    "FEATURES",
    "RECURRENT",
    "TERMS",
    "layer_terms",
    "operator_terms",
    "pass_features",
    "pass_terms",
    "residual_log",
]

#: Kinds of recurrent layers, and those whose prompts are scanned in chunks of more than one token.
RECURRENT = tuple(kind for kind in RECURRENCES if kind != "none")
CHUNKED = tuple(kind for kind in RECURRENT if CHUNK_TOKENS.get(kind, 0) > 1)

#: Term to the unit that its coefficient is per.
TERMS: dict[str, str] = {
    "matmul_flop": "FLOP of projections and dense FFN",
    "matmul_B": "bytes of their weights",
    "head_flop": "FLOP of the output head",
    "head_B": "bytes of the output head's weights",
    "attention_flop": "FLOP of scores and weighted values",
    "attention_B": "bytes of queries and KV cache",
    "latent_flop": "FLOP of scores and weighted values of latent attention",
    "latent_B": "bytes of its queries, and of its latents or what they are expanded to",
    "activation_B": "bytes of activations between operators",
    "scan_flop": "FLOP of recurrences",
    "scan_B": "bytes of recurrent states and of what goes in and out",
    "experts_flop": "FLOP of routed experts",
    "experts_B": "bytes of the routed experts' weights that are visited",
    "expert": "routed experts of all layers, visited or not",
    "attention_layer": "layers of attention",
    "kv_layer": "layers of attention with keys and values of their own",
    "qk_norm": "layers of attention with norms of queries and keys",
    "latent": "layers of latent attention",
    **{f"{kind}_layer": f"{kind} layers" for kind in RECURRENT},
    **{f"{kind}_chunk": f"chunks that {kind} layers go through one after another (prompts)" for kind in CHUNKED},
    "layer": "layers",
    "step": "passes",
}

#: What stands for a term that a calibration of an earlier version does not have.
_STANDS_FOR = {
    "scan_flop": "attention_flop", "scan_B": "attention_B", "latent_flop": "attention_flop", "latent_B": "attention_B",
}  # fmt: skip

#: What the residual is a function of, beside the pass's lengths; each is taken as ln.
FEATURES = ("n_layers", "d_model", "d_ffn", "d_query", "d_kv", "tokens")


def operator_terms(operator: Operator) -> dict[str, Any]:
    """Work of one occurrence of an operator by term: FLOP and bytes."""
    moved = operator.read_B + operator.write_B
    if operator.kind in ("attention", "scan"):
        scores = "latent" if operator.name == "latent_attention" else operator.kind
        return {f"{scores}_flop": operator.flop, f"{scores}_B": moved}
    if operator.kind != "gemm":
        return {"activation_B": moved}
    if operator.name == "lm_head":
        return {"head_flop": operator.flop, "head_B": operator.weight_B}
    group = "experts" if operator.name.startswith("experts") else "matmul"
    return {f"{group}_flop": operator.flop, f"{group}_B": operator.weight_B, "activation_B": moved}


def pass_terms(arch: ArchitectureLike, workload: Workload, precision: Precision, phase: Phase) -> dict[str, Any]:
    """Work of one pass by term, over all layers; numbers or arrays."""
    totals: dict[str, Any] = {}
    for operator in lower(arch, workload, precision, phase):
        for term, amount in operator_terms(operator).items():
            totals[term] = totals.get(term, 0.0) + operator.count * amount
    return {**totals, **{term: count for _, term, count in layer_terms(arch, workload, phase)}}


def layer_terms(arch: ArchitectureLike, workload: Workload, phase: Phase) -> list[tuple[str, str, Any]]:
    """What is not an operator's time: its name, its term, and how often a pass has it."""
    loops = arch.loop_factor
    found: list[tuple[str, str, Any]] = [
        ("layer overhead", "layer", arch.n_layers * loops if np.any(arch.n_looped_layers) else arch.n_layers),
        ("step overhead", "step", 1.0),
    ]
    if np.any(arch.n_experts):
        found.append(("expert overhead", "expert", arch.n_experts * arch.n_moe_layers * loops))
    if np.any(arch.n_recurrent_layers):
        kind, layers = arch.recurrence, arch.n_recurrent_layers * loops
        found.append(("recurrence overhead", f"{kind}_layer", layers))
        if phase == "prefill" and kind in CHUNKED:
            chunks = math.ceil(workload.prompt_tokens / CHUNK_TOKENS[kind])
            found.append(("chunk overhead", f"{kind}_chunk", layers * chunks))
    if np.any(arch.n_attention_layers):
        found.append(("attention overhead", "attention_layer", arch.n_attention_layers * loops))
        own = arch.n_attention_layers - arch.n_kv_shared_layers
        found.append(("keys and values overhead", "kv_layer", own * loops))
        if arch.qk_norm != "none":
            found.append(("QK norm overhead", "qk_norm", arch.n_attention_layers * loops))
    if np.any(arch.kv_rank):
        found.append(("latent overhead", "latent", arch.n_attention_layers * loops * (np.asarray(arch.kv_rank) > 0)))
    return found


def operator_seconds(operator: Operator, seconds_per: Mapping[str, float]) -> Any:
    """Time of one occurrence, without the overheads of layer, expert and pass."""
    seconds: Any = 0.0
    for term, amount in operator_terms(operator).items():
        each = seconds_per.get(term, seconds_per.get(_STANDS_FOR.get(term, ""), 0.0))
        if each:
            seconds = seconds + amount * each
    return seconds


def pass_features(arch: ArchitectureLike, workload: Workload, phase: Phase) -> list[Any]:
    """`FEATURES` of a pass, each an array or a number (not yet ln).

    d_ffn is the activated width; tokens those of the prompt in prefill, of the mean context in decode.
    """
    width = arch.d_ff_mean + arch.n_active_experts * arch.d_ff_expert
    tokens = workload.prompt_tokens if phase == "prefill" else workload.mean_context_tokens
    return [arch.n_layers, arch.d_model, np.maximum(width, 1), arch.d_query, arch.d_kv, tokens]


def residual_log(fit: ResidualFit, features: list[Any]) -> NDArray[np.float64]:
    """ln(measured / roofline) that the Gaussian process expects; broadcasts over the features' shapes."""
    shape = np.broadcast_shapes(*(np.shape(f) for f in features))
    columns = [
        np.broadcast_to((np.log(np.asarray(f, dtype=np.float64)) - c) / s, shape).reshape(-1)
        for f, c, s in zip(features, fit.center, fit.scale, strict=True)
    ]
    x = np.stack(columns, axis=1)
    points, alpha = np.asarray(fit.points), np.asarray(fit.alpha)
    norms = 0.5 * (points * points).sum(axis=1)
    out = np.empty(len(x))
    for start in range(0, len(x), 65536):  # bounded memory: 65,536 x points
        part = x[start : start + 65536]
        inner = part @ points.T - norms
        inner -= 0.5 * (part * part).sum(axis=1, keepdims=True)
        out[start : start + 65536] = np.exp(inner, out=inner) @ alpha
    return fit.amplitude * out.reshape(shape)
