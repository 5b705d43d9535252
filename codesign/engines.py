"""Inference engines: canonical names, the spellings found in the wild, and what each does to weights."""

from __future__ import annotations

from codesign.devices import Device
from codesign.errors import UnknownNameError
from codesign.workload import Precision

__all__ = ["ENGINES", "canonical_engine", "default_engine", "has_unpack_roof", "resolve_engine", "runs_format"]

ENGINES: dict[str, str] = {
    "vllm": "vLLM",
    "llama.cpp": "llama.cpp (CUDA, Metal or CPU back end)",
    "ollama": "Ollama (llama.cpp inside)",
    "mlc-llm": "MLC-LLM",
    "tinychat": "TinyChat (AWQ kernels)",
    "transformers": "PyTorch with Hugging Face transformers",
    "tensorrt-llm": "TensorRT-LLM",
    "tensorrt-edge-llm": "TensorRT Edge-LLM",
    "exllamav2": "ExLlamaV2",
    "onnxruntime": "ONNX Runtime",
    "torch": "PyTorch, codesign's own decoder",
    "tensorrt": "TensorRT, engine built from ONNX",
}

# Fragments of engine strings in published tables, most specific first.
_SPELLINGS = (
    ("ollama", "ollama"),
    ("llama.cpp", "llama.cpp"),
    ("llama-bench", "llama.cpp"),
    ("llamacpp", "llama.cpp"),
    ("edge-llm", "tensorrt-edge-llm"),
    ("edge_llm", "tensorrt-edge-llm"),
    ("tensorrt", "tensorrt-llm"),
    ("trt-llm", "tensorrt-llm"),
    ("trtllm", "tensorrt-llm"),
    ("vllm", "vllm"),
    ("mlc", "mlc-llm"),
    ("tinychat", "tinychat"),
    ("exllama", "exllamav2"),
    ("hugging", "transformers"),
    ("transformers", "transformers"),
    ("hf", "transformers"),
    ("pytorch", "transformers"),
)


def canonical_engine(text: str) -> str:
    """The engine of a free-text name; what no spelling matches is returned lower-case (and is uncalibrated), '-' for '/'.

    A canonical name stays what it is.

    Example:
        >>> canonical_engine("Ollama / llama.cpp"), canonical_engine("TinyChat (AWQ)"), canonical_engine("newrt 1.0")
        ('ollama', 'tinychat', 'newrt 1.0')
    """
    lower = text.strip().lower()
    if lower in ENGINES:
        return lower
    return next((name for fragment, name in _SPELLINGS if fragment in lower), lower.replace("/", "-"))


def resolve_engine(name: str, device: Device) -> str:
    """The engine that a user named: one that is known, or that the device's own calibration was made with.

    Raises:
        UnknownNameError: no such engine.
    """
    calibrated = {fit.engine for fit in device.fits}
    if name in calibrated:
        return name
    engine = canonical_engine(name)
    if engine not in ENGINES:
        raise UnknownNameError.near("engine", name, {*ENGINES, *calibrated}, "See 'codesign search --help'.")
    return engine


def has_unpack_roof(engine: str, weight_only: bool) -> bool:
    """Whether decode is also bound by unpacking weights on the SMs: measured for llama.cpp's quantised formats.

    On AGX Orin llama.cpp moves about 6 weight bytes per clock and SM at every power mode, so a mode with half the SM
    clock halves decode although the DRAM runs at full speed; 16-bit weights do not show it.
    """
    return weight_only and engine in ("llama.cpp", "ollama")


_FAMILY_DEFAULT = {"apple": "llama.cpp", "cpu-arm": "llama.cpp", "cpu-x86": "llama.cpp", "npu": "llama.cpp"}
_NO_VLLM = ("maxwell", "pascal")  # vLLM needs compute capability 7.0
_GGUF = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "q4_0", "iq4_xs", "q3_k_m", "q2_k")


def runs_format(engine: str, precision: Precision) -> bool:
    """Whether an engine reads a weight format: GGUF is llama.cpp's, q4f16 is MLC's, other quantised formats neither's."""
    if precision.name in _GGUF:
        return engine in ("llama.cpp", "ollama")
    if precision.name == "q4f16":
        return engine == "mlc-llm"
    return precision.weight_bits >= 16 or engine not in ("llama.cpp", "ollama", "mlc-llm")


def default_engine(device: Device, precision: Precision) -> str:
    """The engine assumed where none is named: the one whose format it is, else llama.cpp on Apple, CPUs and NVIDIA GPUs too
    old for vLLM, else vLLM.
    """
    if precision.name in _GGUF:
        return "llama.cpp"
    if precision.name == "q4f16":
        return "mlc-llm"
    if device.generation.startswith(_NO_VLLM):
        return "llama.cpp"
    return _FAMILY_DEFAULT.get(device.family, "vllm")
