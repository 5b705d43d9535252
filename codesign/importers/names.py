"""What other tools call a device, a model and a weight format, as codesign's names; unknown rather than guessed."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from codesign.architecture import Architecture
from codesign.devices import device_names, load_device
from codesign.errors import CodesignError, SpecError
from codesign.hf_config import architecture_from_config, known_config, known_models, read_config
from codesign.workload import PRECISIONS, Precision, parse_precision

__all__ = [
    "Where",
    "cpu_device",
    "gguf_format",
    "gguf_model",
    "given_precision",
    "gpu_device",
    "known_architecture",
    "place",
]

#: CUDA calls every module of a family the same, so these names do not say which board it was.
_FAMILIES = {"orin", "xavier", "thor", "jetson", "tegra"}
_NOISE = {"nvidia", "geforce", "tesla", "amd", "instinct", "intel", "generation", "hbm2", "hbm2e", "hbm3", "hbm3e",
    "blackwell", "workstation",
          "edition"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Where:
    """A device's catalogue name (or host), its power mode, whether it is a cpu, gpu or npu, and what was assumed."""

    device: str
    power_mode: str | None
    kind: str
    note: str = ""


def place(device: str, power_mode: str | None) -> Where:
    """The device that the user or a file named.

    Raises:
        CodesignError: no such device or power mode.
    """
    if device == "host":
        return Where("host", power_mode, "cpu")
    found = load_device(device, power_mode)
    assumed = power_mode is None and len(found.power_modes) > 1
    note = (
        f"power mode of {found.name} not stated: {found.power_mode} assumed; --power-mode names another"
        if assumed
        else ""
    )
    return Where(found.name, found.power_mode, found.kind, note)


def gpu_device(text: str) -> str | None:
    """The catalogue's name of a GPU as CUDA, Metal and ROCm write it; None where none or several could be meant.

    Example:
        >>> gpu_device("NVIDIA GeForce RTX 3090"), gpu_device("NVIDIA A100 80GB PCIe"), gpu_device("Orin")
        ('rtx_3090', 'a100_pcie_80gb', None)
        >>> gpu_device("NVIDIA GeForce RTX 4090 Laptop GPU") is None
        True
    """
    words = _words(text)
    if not words or words & _FAMILIES:
        return None
    shorter = frozenset(re.sub(r"^sxm\d$", "sxm", word) for word in words)
    return _devices_by_words().get(words) or _devices_by_words().get(shorter)


def _words(text: str) -> frozenset[str]:
    plain = re.sub(r"\(.*?\)", " ", text.lower())
    return frozenset(re.findall(r"[a-z0-9]+", plain)) - _NOISE


@functools.cache
def _devices_by_words() -> dict[frozenset[str], str]:
    devices = [load_device(name) for name in device_names()]
    found = {_words(alias): d.name for d in devices if d.kind == "gpu" for alias in d.aliases}
    return found | {_words(d.name): d.name for d in devices if d.kind == "gpu"}


def cpu_device(text: str) -> str | None:
    """The catalogue's name of a CPU as the operating system writes it, or None.

    Example:
        >>> cpu_device("12th Gen Intel(R) Core(TM) i5-1235U"), cpu_device("Cortex-A76")
        ('i5_1235u', None)
    """
    flat = re.sub(r"[^a-z0-9]+", "", re.sub(r"\((r|tm)\)", "", text.lower()))
    return next(
        (name for name in device_names() if name.replace("_", "") in flat and load_device(name).kind == "cpu"), None
    )


def given_precision(name: str | None) -> Precision | None:
    """The precision that the user named, or None.

    Raises:
        UnknownNameError: no such precision.
    """
    return parse_precision(name) if name else None


def known_architecture(model_id: str) -> Architecture | None:
    """The bundled model of a repository id (never a file), or None.

    Example:
        >>> known_architecture("Qwen/Qwen2.5-0.5B-Instruct").n_layers, known_architecture("/etc/passwd")
        (24, None)
    """
    try:
        return architecture_from_config(known_config(model_id), f"model '{model_id[:80]}'")
    except CodesignError:
        return None


#: `general.architecture` of a GGUF file (LLM_ARCH_NAMES in llama.cpp's src/llama-arch.cpp) to families here.
_GGUF_FAMILIES = {
    "llama": ("llama", "mistral", "mixtral"), "qwen2": ("qwen2",), "qwen2moe": ("qwen2_moe",), "qwen3": ("qwen3",),
    "qwen3moe": ("qwen3_moe",), "gemma2": ("gemma2",), "gemma3": ("gemma3_text",), "phi3": ("phi3",), "olmo2": ("olmo2",),
}  # fmt: skip
_BY_NAME, _BY_SIZE = 0.03, 0.01


def gguf_format(model_type: str) -> str | None:
    """The weight format in llama.cpp's description of a model, as a name of `PRECISIONS`; None where there is none.

    Names are those of `llama_ftype_name` in llama.cpp's src/llama-model-loader.cpp, before 2024 with "mostly".

    Example:
        >>> gguf_format("qwen2 1B Q4_K - Medium"), gguf_format("llama 7B mostly Q4_0"), gguf_format("gemma3 1B all F32")
        ('q4_k_m', 'q4_0', 'fp32')
        >>> gguf_format("llama 8B IQ4_XS - 4.25 bpw"), gguf_format("llama 8B Q5_K - Small") is None
        ('iq4_xs', True)
    """
    text = model_type.lower().replace("(guessed)", " ").replace("mostly", " ")
    text = re.sub(r" - [\d.]+ bpw.*$", "", text).strip()
    text = re.sub(r" - (s|m|l)(?:mall|edium|arge)$", r"_\1", text)
    last = text.split()[-1] if text.split() else ""
    name = {"f32": "fp32", "f16": "fp16", "q2_k_m": "q2_k"}.get(last, last)
    return (
        name
        if name in PRECISIONS and (name in ("fp32", "fp16", "bf16") or PRECISIONS[name].source.startswith("block"))
        else None
    )


def gguf_model(model_type: str, file_name: str, n_params: float | None, given: str | None) -> tuple[str, Architecture]:
    """The model of a llama-bench row: `given`, else the bundled model of its file name or of its family and size.

    Tied models count once or twice (a GGUF file may hold the output head as a tensor of its own). A file's name needs
    parameters within 3 %, the family alone within 1 %, --model within 3 %.

    Raises:
        SpecError: none fits; the reason and what to give.
    """
    shown = f"{model_type or file_name or 'the row'}" + (f" of {n_params / 1e9:.4g}B parameters" if n_params else "")
    if given is not None:
        arch = read_config(given)
        if n_params and _off(arch, n_params) > _BY_NAME:
            raise SpecError(f"{shown} is not --model {given}, which has {arch.params_total / 1e9:.4g}B parameters")
        return given, arch
    families = _GGUF_FAMILIES.get(model_type.split()[0].lower() if model_type.split() else "")
    known = _bundled()
    if families is not None:
        known = {name: arch for name, arch in known.items() if arch.family in families}
    stem = _flat(re.split(r"[/\\]", file_name)[-1])
    named = [name for name in known if any(_flat(spelling) in stem for spelling in _spellings(name))] if stem else []
    for name in sorted(named, key=len, reverse=True):
        if n_params is None or _off(known[name], n_params) <= _BY_NAME:
            return name, known[name]
    if n_params and families is not None:
        name, off = min(((n, _off(a, n_params)) for n, a in known.items()), key=lambda pair: pair[1])
        if off <= _BY_SIZE:
            return name, known[name]
    raise SpecError(f"no bundled model is {shown}; give --model with its config.json")


@functools.cache
def _bundled() -> dict[str, Architecture]:
    return {name: architecture_from_config(known_config(name), name) for name in known_models()}


def _off(arch: Architecture, n_params: float) -> float:
    """Relative gap of the parameter counts, with a tied table counted once or twice."""
    counts = [arch.params_total] + (
        [arch.params_total + arch.vocab_size * arch.d_model] if arch.tied_embeddings else []
    )
    return float(min(abs(n_params / count - 1) for count in counts))


def _flat(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text.lower())


def _spellings(name: str) -> list[str]:
    return [name, *(repo.partition("/")[2] for repo in known_config(name)["_repo_ids"])]
