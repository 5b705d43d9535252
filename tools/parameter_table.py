"""Parameter counts of public models: ours against transformers', on the meta device. Writes results/parameters.md.

python tools/parameter_table.py
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from codesign.hf_config import known_config, known_models, read_config  # noqa: E402
from codesign.report.words import arch_text, family_text  # noqa: E402

OUT = Path(__file__).parent.parent / "results" / "parameters.md"
#: model_type of configs whose code is not in transformers under that name, and the one that it is built like.
BUILT_LIKE = {"kimi_k2": "deepseek_v3"}


def theirs(name: str) -> int:
    """Parameters of the model that transformers builds from the bundled config, shared ones once."""
    import torch
    import transformers

    config = {k: v for k, v in known_config(name).items() if not k.startswith("_")}
    config["model_type"] = BUILT_LIKE.get(config["model_type"], config["model_type"])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())


def main() -> None:
    import transformers

    warnings.filterwarnings("ignore")
    lines, equal = [], 0
    families: Counter[str] = Counter()
    alone = [name for name in known_models() if "_counted_by" in known_config(name)]
    for name in known_models():
        if name in alone:
            continue
        arch, reference = read_config(name), theirs(name)
        same = arch.params_total == reference
        equal += same
        families[family_text(arch)] += 1
        lines.append(
            f"| {name} | {known_config(name)['model_type']} | {arch_text(arch)} | {arch.params_total:,} | {reference:,} | {'equal' if same else '**differs**'} |"
        )
    head = [
        "# Parameters of public models", "",
        f"Made by `python tools/parameter_table.py` with transformers {transformers.__version__}. Each config was transcribed from the published "
        "`config.json`; transformers builds the model on the meta device, and its parameters are counted, shared ones once.", "",
        f"**{equal} of {len(lines)} equal.** " + "; ".join(f"{kind} {count}" for kind, count in sorted(families.items())) + ".", "",
        "| model | model_type | architecture | ours | transformers | |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    tail = ["", "Bundled, but not in transformers, so that ours is the only count (the published sizes are 0.27B, 0.45B, 1.08B and 3.04B, arXiv "
            "2404.14619):", "", "| model | architecture | ours |", "|---|---|---|"]  # fmt: skip
    tail += [f"| {name} | {arch_text(read_config(name))} | {read_config(name).params_total:,} |" for name in alone]
    OUT.write_text("\n".join([*head, *lines, *tail, ""]), encoding="utf-8")
    print(f"{equal} of {len(lines)} equal; written: {OUT}")
    raise SystemExit(0 if equal == len(lines) else 1)


if __name__ == "__main__":
    main()
