"""What is asked of a model: the workload's lengths and the numeric precision it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from codesign.errors import SpecError, UnknownNameError
from codesign.serving import Serving

__all__ = ["PRECISIONS", "Precision", "Workload", "parse_precision"]


_MAX_LENGTH = 10**9  # far beyond any use, and small enough that no count of FLOP or bytes overflows


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One request: `prompt_tokens` in, `output_tokens` out, `batch_size` requests at once, and how it is served.

    Raises:
        SpecError: a length that is not a whole number of at least 1 (prompt: 0 for an empty cache), or beyond 1e9.

    Example:
        >>> Workload().mean_context_tokens
        1088.5
    """

    prompt_tokens: int = 1024
    output_tokens: int = 128
    batch_size: int = 1
    serving: Serving = Serving()

    def __post_init__(self) -> None:
        for name, low in (("prompt_tokens", 0), ("output_tokens", 1), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise SpecError(f"{name} must be a whole number of at least {low}, not {value!r}")
            if value > _MAX_LENGTH:
                raise SpecError(f"{name} must be a whole number of at most {_MAX_LENGTH}, not a larger one")

    @property
    def mean_context_tokens(self) -> float:
        """Mean of S_in + t over t = 1 .. S_out, as in arXiv 2602.10377: S_in + (S_out + 1) / 2."""
        return self.prompt_tokens + (self.output_tokens + 1) / 2

    @property
    def max_context_tokens(self) -> int:
        """Longest cache that the request needs: S_in + S_out."""
        return self.prompt_tokens + self.output_tokens

    def to_dict(self) -> dict[str, Any]:
        """Lengths, and the serving options that differ from their defaults, as JSON values.

        Example:
            >>> Workload(prompt_tokens=8, serving=Serving(sparse_tokens=4)).to_dict()["serving"]
            {'sparse_tokens': 4}
        """
        lengths: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens, "output_tokens": self.output_tokens, "batch_size": self.batch_size,
        }  # fmt: skip
        serving = self.serving.changes()
        return {**lengths, "serving": serving} if serving else lengths

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Workload:
        """The inverse of `to_dict`.

        Raises:
            SpecError, TypeError: a field that is unknown or out of range.
        """
        return cls(**{**data, "serving": Serving(**data.get("serving", {}))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Bits of each tensor class, and the data type that matrix units compute in.

    Args:
        weight_bits: stored bits of a block weight (before group scales).
        scale_bits: bits of scale and zero point that each group of `group_size` weights adds (0: none).
        activation_bits, kv_bits, state_bits: of activations, of the KV cache and of a recurrence's matrix state.
        lm_head_bits, embedding_bits: stored bits (scales included) of the output head and the input embedding.
        compute: data type of the matrix units: a key of `Device.peak_flop_per_s`.
        weight_only: weights are unpacked to `compute` before the product (its kernels have rates of their own).
        ternary: weights are trained as -1, 0 and 1 (BitNet b1.58, arXiv 2402.17764), not rounded afterwards.
        changed: tensor classes whose bits were chosen beside the format's own (`parse_precision`).
        sources: where the format's layout is written down.
    """

    name: str
    weight_bits: float
    activation_bits: float = 16
    kv_bits: float = 16
    state_bits: float = 32
    group_size: int = 0
    scale_bits: float = 0
    lm_head_bits: float = 16
    embedding_bits: float = 16
    compute: str = "fp16"
    weight_only: bool = False
    ternary: bool = False
    changed: tuple[str, ...] = ()
    source: str = ""

    @property
    def weight_bits_stored(self) -> float:
        """Bits a block weight takes with its share of the group's scale and zero point."""
        return self.weight_bits + (self.scale_bits / self.group_size if self.group_size else 0.0)

    @property
    def kind(self) -> str:
        """Class of kernels, the unit of calibration.

        fp32, fp16 (any 16-bit), int8 and fp8 (8-bit weights and activations), fp4 (both in 4 bits), w8 and w4 (weight-only: 8-bit class above
        6 bits, 4-bit class from 6 bits down).
        """
        if self.weight_only:
            return "w8" if self.weight_bits > 6 else "w4"
        if self.weight_bits > 16:
            return "fp32"
        return "fp16" if self.weight_bits > 8 else self.compute


def _gguf(name: str, bits: float, head: float, source: str) -> Precision:
    return Precision(
        name=name, weight_bits=bits, lm_head_bits=head, embedding_bits=head, weight_only=True, source=source
    )


_GGML = "block layouts of ggml-common.h in llama.cpp: bytes per block over weights per block"
_MIX = "; the _M and _S mixes give part of attention-value and FFN-down tensors more bits: mean over Llama-3.1-8B files"

#: Tensor classes whose bits a name may change, and the field of each.
_CLASSES = {"kv": "kv_bits", "head": "lm_head_bits", "emb": "embedding_bits", "state": "state_bits"}
_BITS = (3, 4, 5, 6, 8, 16, 32)


class _Precisions(dict[str, Precision]):
    """Precisions by name; `w4a16+kv8+head4` is w4a16 with a KV cache of 8 bits and an output head of 4."""

    def __missing__(self, name: str) -> Precision:
        base, *changes = name.split("+")
        if not changes or base not in self:
            raise KeyError(name)
        bits: dict[str, float] = {}
        for change in changes:
            kind = change.rstrip("0123456789")
            if (
                kind not in _CLASSES
                or not change[len(kind) :]
                or int(change[len(kind) :]) not in _BITS
                or _CLASSES[kind] in bits
            ):
                raise KeyError(name)
            bits[_CLASSES[kind]] = float(change[len(kind) :])
        fewer = tuple(field for field in bits if bits[field] < getattr(self[base], field))
        return replace(self[base], name=name, changed=fewer, **bits)  # type: ignore[arg-type]  # fields of bits are floats


PRECISIONS: dict[str, Precision] = _Precisions({
    p.name: p
    for p in (
        Precision(name="fp32", weight_bits=32, activation_bits=32, kv_bits=32, lm_head_bits=32, embedding_bits=32,
                  compute="fp32", source="IEEE 754 binary32"),
        Precision(name="fp16", weight_bits=16, source="IEEE 754 binary16"),
        Precision(name="bf16", weight_bits=16, compute="bf16", source="bfloat16"),
        Precision(name="int8", weight_bits=8, activation_bits=8, compute="int8",
                  source="W8A8: SmoothQuant, arXiv 2211.10438 (per-channel scales, 16-bit head and KV)"),
        Precision(name="fp8", weight_bits=8, activation_bits=8, compute="fp8",
                  source="FP8 formats, arXiv 2209.05433 (per-tensor scales, 16-bit head and KV)"),
        Precision(name="int8-dynamic", weight_bits=8, activation_bits=32, kv_bits=32, lm_head_bits=8, embedding_bits=32,
                  compute="int8",
                  source="onnxruntime on CPUs: int8 weights by column, activations quantised at run time, fp32 between"),
        Precision(name="w4a32", weight_bits=4, activation_bits=32, kv_bits=32, group_size=32, scale_bits=32,
                  lm_head_bits=5, embedding_bits=32, compute="fp32", weight_only=True,
                  source="onnxruntime on CPUs, MatMulNBits: 4-bit blocks of 32 with an fp32 scale, head too; fp32 else"),
        Precision(name="w8a16", weight_bits=8, group_size=128, scale_bits=16, weight_only=True,
                  source="weight-only int8, group 128, 16-bit scales, 16-bit head"),
        Precision(name="w4a16", weight_bits=4, group_size=128, scale_bits=20, weight_only=True,
                  source="AWQ / GPTQ group 128: 16-bit scale and 4-bit zero, 16-bit head (arXiv 2306.00978)"),
        Precision(name="q4f16", weight_bits=4, group_size=32, scale_bits=16, lm_head_bits=4.5, embedding_bits=4.5,
                  weight_only=True, source="MLC-LLM q4f16_1: group 32, 16-bit scale, head and embedding quantised"),
        Precision(name="nvfp4", weight_bits=4, group_size=16, scale_bits=8, weight_only=True,
                  source="NVFP4: groups of 16 with an FP8 scale; computed here at 16 bits (weight-only)"),
        Precision(name="mxfp4", weight_bits=4, group_size=32, scale_bits=8, weight_only=True,
                  source="OCP MX v1.0: groups of 32 with an E8M0 scale; 16-bit head"),
        _gguf("q8_0", 8.5, 8.5, _GGML),
        _gguf("q6_k", 6.5625, 6.5625, _GGML),
        _gguf("q5_k_m", 5.70, 6.5625, _GGML + _MIX),
        _gguf("q4_k_m", 4.81, 6.5625, _GGML + _MIX),
        _gguf("q4_k_s", 4.56, 6.5625, _GGML + _MIX),
        _gguf("q4_0", 4.5, 6.5625, _GGML),
        _gguf("iq4_xs", 4.32, 6.5625, _GGML + _MIX),
        _gguf("q3_k_m", 3.82, 6.5625, _GGML + _MIX),
        _gguf("q2_k", 2.96, 6.5625, _GGML + _MIX),
        Precision(name="tq2_0", weight_bits=2.0625, weight_only=True, ternary=True,
                  source=_GGML + "; ternary, 2 bits each and a 16-bit scale for 256; 16-bit head and embedding as BitNet b1.58 has"),
        Precision(name="tq1_0", weight_bits=1.6875, weight_only=True, ternary=True,
                  source=_GGML + "; ternary, five to a byte and a 16-bit scale for 256; 16-bit head and embedding as BitNet b1.58 has"),
        Precision(name="nvfp4-w4a4", weight_bits=4, group_size=16, scale_bits=8, compute="fp4",
                  source="NVFP4 weights and inputs of products, groups of 16 with an FP8 scale; 16 bits between operators, head and KV"),
        Precision(name="mxfp4-w4a4", weight_bits=4, group_size=32, scale_bits=8, compute="fp4",
                  source="OCP MX v1.0, MXFP4 weights and inputs of products; 16 bits between operators, head and KV"),
    )
})  # fmt: skip

_ALIASES = {
    "f16": "fp16", "float16": "fp16", "half": "fp16", "fp16/bf16": "fp16", "bfloat16": "bf16", "float32": "fp32",
    "f32": "fp32", "w8a8": "int8", "int4": "w4a16", "int4-awq": "w4a16", "awq": "w4a16", "gptq": "w4a16",
    "int4 weight-only": "w4a16", "w4a16 (int4-awq)": "w4a16", "q4f16_1": "q4f16", "q4f16_ft": "q4f16",
    "int4 (q4f16_ft)": "q4f16", "fp4": "nvfp4", "ternary": "tq2_0", "bitnet": "tq2_0", "w1.58a8": "tq2_0", "int8 weight-only": "w8a16", "q4_1": "q4_0",
}  # fmt: skip


def parse_precision(text: str) -> Precision:
    """The precision of a name, tolerant of the spellings that published tables use.

    A name may change the bits of tensor classes: `w4a16+kv8+head4` (kv, head, emb, state; 3 to 32 bits).

    Raises:
        UnknownNameError: no such precision. SpecError: a class or bits that cannot be changed.

    Example:
        >>> parse_precision("q4_k_m (presumed)").name, parse_precision("int4-awq").name
        ('q4_k_m', 'w4a16')
    """
    name = text.strip().lower().replace("(presumed)", "").strip()
    name = _ALIASES.get(name, name)
    base, plus, changes = name.partition("+")
    base = _ALIASES.get(base.strip(), base.strip())
    if base not in PRECISIONS:
        raise UnknownNameError.near("precision", text, PRECISIONS, "See 'codesign search --help'.")
    if not plus:
        return PRECISIONS[base]
    parts = sorted(part.strip() for part in changes.split("+"))
    try:
        return PRECISIONS["+".join([base, *parts])]
    except KeyError:
        raise SpecError(
            f"precision '{text}': '+{changes}' must be one or more of {', '.join('+' + kind for kind in _CLASSES)}, each once, with "
            f"{', '.join(map(str, _BITS))} bits, such as {base}+kv8+head4"
        ) from None
