"""Zamba2's shared blocks: logits equal transformers' with the same weights, with and without adapters of queries, keys and values."""

from __future__ import annotations

from typing import Any

import pytest

from codesign.errors import SpecError
from codesign.hf_config import architecture_from_config
from tests.test_hf_stacks import SMALL

torch = pytest.importorskip("torch")

from codesign.models.decoder import build_decoder  # noqa: E402


def _theirs(name: str, used: list[bool], blocks: int, state: dict[str, Any]) -> Any:
    """The weight of transformers that a weight of ours is."""
    part, *rest = name.split(".")
    hybrid = [i for i, u in enumerate(used) if u]
    if part in ("embed_tokens", "final_norm", "lm_head"):
        return state[
            {"embed_tokens": "model.embed_tokens", "final_norm": "model.final_layernorm", "lm_head": "lm_head"}[part]
            + ".weight"
        ]
    number, tail = int(rest[0]), ".".join(rest[1:])
    if part in ("norms", "layers"):
        at = f"model.layers.{number}" + (".mamba_decoder" if used[number] else "")
        return state[
            f"{at}.input_layernorm.weight" if part == "norms" else f"{at}.mamba." + tail.replace("conv.", "conv1d.")
        ]
    at = f"model.layers.{hybrid[number % blocks]}.shared_transformer"
    if part == "blocks":
        if tail in ("gate_proj.weight", "up_proj.weight"):
            return state[f"{at}.feed_forward.gate_up_proj.weight"].chunk(2)[tail.startswith("up")]
        named = {
            "down_proj.weight": "feed_forward.down_proj.weight", "norm.weight": "input_layernorm.weight", "ffn_norm.weight": "pre_ff_layernorm.weight",
        }  # fmt: skip
        return state[f"{at}." + named.get(tail, f"self_attn.{tail}")]
    if tail == "out_proj.weight":
        return state[f"model.layers.{hybrid[number]}.linear.weight"]
    kind, index, _ = tail.split(".")
    if kind == "ffn_adapter":
        return state[f"{at}.feed_forward.gate_up_proj_adapter_list.{number}.{index}.weight"]
    return state[f"{at}.self_attn.linear_{kind[0]}_adapter_list.{number}.{index}.weight"]


@pytest.mark.parametrize("family", ["zamba2", "zamba2-plain"])
def test_logits_equal_those_of_transformers(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = dict(SMALL[family])
    torch.manual_seed(5)
    reference = (
        transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config)).float().eval()
    )
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
            elif name.endswith(("dt_bias", "conv1d.bias")):
                parameter.normal_(0, 0.5)
    arch = architecture_from_config(config, family)
    model, state = build_decoder(arch).eval(), reference.state_dict()
    assert sum(p.numel() for p in model.parameters()) == arch.params_total
    model.load_state_dict({
        name: _theirs(name, model.used, arch.n_shared_blocks, state).reshape(value.shape) for name, value in model.state_dict().items()
    })  # fmt: skip
    ids = torch.randint(100, (2, 40), generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        wanted, (found, _) = reference(ids).logits, model(ids, last_only=False)
        assert torch.equal(model.final_norm(model._run(ids, None)[0]), model.hidden(ids))
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-3 * float(wanted.std()), rtol=1e-3)


def test_other_layouts_are_refused() -> None:
    arch = architecture_from_config(SMALL["zamba2"], "zamba2")
    assert sum(build_decoder(arch).used) == 2
    with pytest.raises(SpecError, match="only R and AFR have"):
        build_decoder(arch.evolve(layout=arch.layout.replace("AFR", "FAR", 1)))
