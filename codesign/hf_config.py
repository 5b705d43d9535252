"""Hugging Face `config.json`: read any supported model as an `Architecture`, and write a design as a config.json."""

from __future__ import annotations

import functools
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from codesign._hf_families import FAMILIES, Family
from codesign._hf_reader import Reader
from codesign._hf_stacks import STACKS
from codesign._hf_write import config_dict
from codesign.architecture import Architecture
from codesign.errors import SpecError, UnknownNameError

__all__ = ["architecture_from_config", "config_dict", "known_config", "known_models", "read_config"]

_MAX_LAYERS = 100_000
_MAX_FILE_B = 10_000_000
#: Formats that models are trained and published in; the config is that of the unquantised shape.
_NATIVE = ("fp8", "mxfp4")
_ALIASES = {
    "gemma3": "gemma3_text",
    "kimi_k2": "deepseek_v3",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
_HINT = "Give one of the bundled names, a config.json, or a directory that holds one."


def read_config(path_or_name: str | os.PathLike[str]) -> Architecture:
    """The architecture of a bundled name, of a config.json, or of a directory that holds one.

    A path that exists wins over a bundled name, as in transformers. Names ignore case and take `_` for `-`; the
    repository ids of the bundled models work too.

    Raises:
        SpecError: no such file, not JSON, an unsupported family, or a field that is missing or out of range.
        UnknownNameError: neither a path nor a known name.

    Example:
        >>> read_config("qwen2.5-0.5b").params_total, read_config("Qwen/Qwen3-0.6B").n_layers
        (494032768, 28)
    """
    given = os.fspath(path_or_name).strip()
    path = Path(given).expanduser()
    try:
        if path.is_dir() and (path / "config.json").is_file():
            path = path / "config.json"
        if given and path.is_file():
            return architecture_from_config(_load(path), str(path))
        is_dir = bool(given) and path.is_dir()
    except (OSError, ValueError) as error:  # a name that no file system takes
        raise SpecError(f"cannot read {given[:200]!r}: {error}") from error
    name = _names().get(_normal(given))
    if name is not None:
        return architecture_from_config(known_config(name), f"model '{name}'")
    if is_dir:
        raise SpecError(f"directory {given} holds no config.json; give the model's folder or the file itself")
    if isinstance(path_or_name, Path) or given.endswith(".json") or given.startswith(("/", "./", "../", "~")):
        raise SpecError(f"no such file: {given}; {_HINT[0].lower()}{_HINT[1:]}")
    raise UnknownNameError.near("model", given, known_models(), _HINT)


def known_models() -> tuple[str, ...]:
    """Names of the bundled configs, sorted.

    Example:
        >>> "qwen3-0.6b" in known_models()
        True
    """
    return tuple(sorted(_bundled()))


def known_config(name: str) -> dict[str, Any]:
    """The bundled config.json of a name; keys that start with `_` are ours (source, repository ids).

    Raises:
        UnknownNameError: no such name.
    """
    key = _names().get(_normal(name))
    if key is None:
        raise UnknownNameError.near("model", name, known_models(), _HINT)
    return dict(_bundled()[key])


def architecture_from_config(config: dict[str, Any], where: str) -> Architecture:
    """The architecture that a config.json describes; the language model of a multimodal one.

    Absent fields have the defaults of transformers' configuration class. Vision and audio towers are not counted.

    Args:
        config: the parsed config.json.
        where: what error messages call it, usually its path.

    Raises:
        SpecError: unsupported family, quantised weights, or a field that is missing, of the wrong type or out of range.
    """
    config, name = _text_config(config, where)
    read = Reader(config, where)
    if config.get("use_bidirectional_attention"):
        raise SpecError(f"{where}: use_bidirectional_attention is set; only causal decoders are supported")
    try:
        if name in STACKS:
            return STACKS[name](read, name)
        return _plain(read, FAMILIES[name], name)
    except SpecError as error:
        text = str(error)
        raise error if text.startswith(f"{where}: ") else SpecError(f"{where}: {text}") from error


def _plain(read: Reader, family: Family, name: str) -> Architecture:
    """A stack of attention and FFN whose fields `FAMILIES` names."""
    where = read.where
    layers = read.required("num_hidden_layers", family.extra, high=_MAX_LAYERS)
    d_model, heads = read.required("hidden_size", family.extra), read.required("num_attention_heads", family.extra)
    if (kv_heads := read.count("num_key_value_heads", family.kv_heads, 1)) == 0:
        kv_heads = heads
    if (d_head := read.count("head_dim", family.head_dim, 1)) == 0:
        if d_model % heads:
            raise SpecError(f"{where}: hidden_size {d_model} is not a multiple of num_attention_heads {heads}; "
                            "give head_dim")  # fmt: skip
        d_head = d_model // heads
    window, n_window = _window(read, family, layers)
    bias = read.flag(family.bias_key, family.bias_default)
    return Architecture(
        n_layers=layers, d_model=d_model, n_heads=heads, n_kv_heads=kv_heads, d_head=d_head,
        vocab_size=read.required("vocab_size", family.extra),
        tied_embeddings=read.flag("tie_word_embeddings", family.tied),
        **_ffn(read, family, layers),
        window_tokens=window, n_window_layers=n_window, ffn_gated=family.gated,
        norms_per_layer=family.norms_per_layer, norm_bias=family.norm_bias, qk_norm=family.qk_norm,
        qkv_bias=bias, out_bias=bias and family.bias_out,
        mlp_bias=bool(family.mlp_bias_key) and read.flag(family.mlp_bias_key, family.bias_default),
        family=name,
    )  # fmt: skip


def _text_config(config: Any, where: str) -> tuple[dict[str, Any], str]:
    """The language model's own config and its family."""
    if not isinstance(config, dict):
        raise SpecError(f"{where}: holds a JSON {type(config).__name__}, not the object of a config.json")
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown method") if isinstance(quantised, dict) else quantised
        if method not in _NATIVE:
            raise SpecError(f"{where}: describes quantised weights ({str(method)[:40]}); give the config.json of the "
                        "unquantised model and choose a precision instead")  # fmt: skip
    text = config.get("text_config")
    if isinstance(text, dict) and text:
        tied = {"tie_word_embeddings": config["tie_word_embeddings"]} if "tie_word_embeddings" in config else {}
        config = {"model_type": config.get("model_type"), **tied, **text}
    name = config.get("model_type")
    name = _ALIASES.get(name, name) if isinstance(name, str) else name
    families = sorted({*FAMILIES, *STACKS})
    supported = f"supported: {', '.join(families)}"
    if isinstance(name, str) and name in families:
        return config, name
    if "hidden_size" not in config and ("vision_config" in config or "image_size" in config):
        raise SpecError(f"{where}: a vision model ({str(name)[:60]}) without a language model; {supported}")
    if name is None:
        raise SpecError(f"{where}: missing field model_type; {supported}")
    raise SpecError(f"{where}: model_type {str(name)[:60]!r} is not supported; {supported}; "
                    "set model_type to the family that the model is built like")  # fmt: skip


def _window(read: Reader, family: Family, layers: int) -> tuple[int, int]:
    """Tokens of the sliding window, and how many layers have it."""
    if family.window == "none" or (family.window_switch and not read.flag("use_sliding_window", False)):
        return 0, 0
    window = read.count("sliding_window", family.window_default, 0)
    types = read.config.get("layer_types")
    if window == 0:
        return 0, 0
    if family.window == "all":
        n_window = layers
    elif types is not None:
        if not isinstance(types, list) or len(types) != layers:
            raise SpecError(f"{read.where}: layer_types must list one type for each of the {layers} layers")
        if other := [t for t in types if t not in ("full_attention", "sliding_attention")]:
            raise SpecError(f"{read.where}: layer type {str(other[0])[:60]!r} is not supported; "
                            "supported: full_attention, sliding_attention")  # fmt: skip
        n_window = types.count("sliding_attention")
    elif family.window == "pattern":
        n_window = layers - layers // (read.count("sliding_window_pattern", 6, 1) or 6)
    elif family.window == "tail":
        n_window = max(0, layers - read.count("max_window_layers", 28, 0))
    else:  # layers 0, 2, 4, ...: of all layers (gemma2), or of the first max_window_layers (qwen2_moe)
        first = min(layers, read.count("max_window_layers", 28, 0)) if family.window_switch else layers
        n_window = (first + 1) // 2
    return (window, n_window) if n_window else (0, 0)


def _ffn(read: Reader, family: Family, layers: int) -> dict[str, Any]:
    """The fields of the dense FFN and of the mixture."""
    if not family.experts:
        return {"d_ff": read.required("intermediate_size", family.extra)}
    defaults = family.expert_defaults
    n_active = read.count("num_experts_per_tok", defaults["num_experts_per_tok"], 1)
    if family.experts == "mixtral":
        n_experts, d_expert = _n_experts(read, family, 1), read.required("intermediate_size", family.extra)
        return {"d_ff": 0, "n_experts": n_experts, "n_active_experts": n_active, "d_ff_expert": d_expert}
    n_experts = _n_experts(read, family, 0)
    dense = _dense_layers(read, layers) if n_experts else layers
    if dense == layers:
        return {"d_ff": read.required("intermediate_size", family.extra)}
    key, shared = "shared_expert_intermediate_size", 0
    if family.shared:
        shared = read.count(key, defaults[key], 0)
    return {
        "d_ff": read.required("intermediate_size", family.extra) if dense else 0,
        "n_experts": n_experts,
        "n_active_experts": n_active,
        "d_ff_expert": read.count("moe_intermediate_size", defaults["moe_intermediate_size"], 1),
        "n_dense_layers": dense,
        "n_shared_experts": int(shared > 0),
        "d_ff_shared": shared,
        "shared_expert_gate": family.shared,
    }


def _n_experts(read: Reader, family: Family, low: int) -> int:
    """Number of routed experts; both spellings of the field are in use."""
    default = family.expert_defaults.get("num_experts", family.expert_defaults.get("num_local_experts", 0))
    present = [key for key in ("num_experts", "num_local_experts") if read.config.get(key) is not None]
    return read.count(present[0], default, low) if present else default


def _dense_layers(read: Reader, layers: int) -> int:
    """Layers with a dense FFN: those in mlp_only_layers, and those that decoder_sparse_step skips."""
    listed = read.config.get("mlp_only_layers") or []
    if not isinstance(listed, list):
        raise SpecError(f"{read.where}: mlp_only_layers must be a list of layer numbers, not {str(listed)[:60]!r}")
    dense = {read.check("mlp_only_layers", layer, 0) for layer in listed}
    step = read.count("decoder_sparse_step", 1, 1) or 1
    return sum(layer in dense or (layer + 1) % step != 0 for layer in range(layers))


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_FILE_B:
            raise SpecError(f"{path} is larger than {_MAX_FILE_B // 10**6} MB: not a config.json")
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, SpecError):
            raise
        reason = str(error).splitlines()[0] if isinstance(error, json.JSONDecodeError) else "no JSON text"
        raise SpecError(f"{path} is not JSON: {reason}; give a model's config.json") from error


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


@functools.cache
def _bundled() -> dict[str, dict[str, Any]]:
    folder = resources.files("codesign").joinpath("known_models")
    files = [item for item in folder.iterdir() if item.name.endswith(".json")]
    return {item.name.removesuffix(".json"): json.loads(item.read_text(encoding="utf-8")) for item in files}


@functools.cache
def _names() -> dict[str, str]:
    """Every spelling of a bundled name: the name, its repository ids, and those without the organisation."""
    names = {_normal(repo): name for name, config in _bundled().items() for repo in config["_repo_ids"]}
    names |= {repo.partition("/")[2]: name for repo, name in names.items()}
    return names | {name: name for name in _bundled()}
