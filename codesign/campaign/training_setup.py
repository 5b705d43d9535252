"""From what a user asks to a training campaign: text, architectures, recipes. A plan is kept, so that it is the same again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from codesign._paths import user_folder
from codesign.architecture import Architecture
from codesign.campaign.training_campaign import Experiment, Judge, TrainingCampaign
from codesign.campaign.training_plan import Known, plan_training, tiny_space, training_flop, training_pool
from codesign.errors import SchemaError, SpecError
from codesign.hf_config import read_config
from codesign.search.spaces import load_space
from codesign.training.defaults import default_lr, eval_tokens, final_eval_tokens
from codesign.training.spec import RunSpec
from codesign.training.text import load_text
from codesign.training.tokenizer import TokenFile, encode_text, is_token_folder, open_tokens
from codesign.training.whole_file import write_whole
from codesign.training_run import DType, Recipe, TrainingRun

__all__ = ["Choice", "KnownRuns", "TrainingSetup", "build_training", "default_folder"]

_PLAN_SCHEMA = {"schema": "codesign.training_plan", "version": 1}


class KnownRuns(Protocol):
    """What planning needs of a store (`codesign.store.Store` has it)."""

    def find_runs(self, *, data_digest: str, tokenizer: str, status: str) -> Sequence[TrainingRun]:
        """The finished runs on a text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which architectures: the `plan` that teach most, `random` ones (both of a space, by size), or `configs`.

    Raises:
        SpecError: none or several ways, a number below 1, or sizes that cannot be.
    """

    plan: int | None = None
    random: int | None = None
    configs: Sequence[str] = ()
    space: str | None = None
    min_params: float = 30e3
    max_params: float = 1e6
    seed: int = 0

    def __post_init__(self) -> None:
        ways = (("--plan", self.plan), ("--random", self.random), ("--config", self.configs or None))
        given = [name for name, value in ways if value is not None]
        if len(given) != 1:
            raise SpecError(
                f"give one of --plan N, --random N and --config FILE, not {' and '.join(given) or 'none'}: which models are to be "
                "trained? For example --plan 40"
            )
        for name, count in ways[:2]:
            if count is not None and count < 1:
                raise SpecError(f"{name} {count} must be at least 1")
        if not 0 < self.min_params < self.max_params:
            raise SpecError(f"--min-params {self.min_params:g} must be below --max-params {self.max_params:g}")

    @property
    def count(self) -> int:
        """How many architectures are asked for."""
        return self.plan or self.random or len(self.configs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """A campaign that can run, its encoded text, and how many finished runs on that text the plan was made with.

    continued: the plan was made earlier, by the same command.
    """

    campaign: TrainingCampaign
    tokens: TokenFile
    known: int
    continued: bool
    recipe: Mapping[str, Any] = field(hash=False)


def default_folder() -> Path:
    """Where runs keep their checkpoints: $CODESIGN_HOME/training."""
    return user_folder() / "training"


def build_training(
    choice: Choice,
    records: KnownRuns,
    *,
    data: str,
    suffixes: Sequence[str] = (),
    tokenizer: str = "byte",
    tokens: Sequence[int],
    batch_tokens: int,
    seq_len: int,
    lr: float | None = None,
    dtype: DType = "fp32",
    device: str = "auto",
    threads: int = 1,
    name: str | None = None,
    folder: Path | None = None,
    rungs: Sequence[float] = (),
    judge: Judge | None = None,
) -> TrainingSetup:
    """Everything that a campaign needs, or the reason why it cannot run, before anything is trained.

    Args:
        choice: which architectures; records: of which finished runs on the same text are known.
        data, suffixes, tokenizer: the text. It is encoded once, in `folder`, where all workers read it.
        tokens: training tokens; a plan gives each model one of them, other choices are trained on each.
        lr: peak learning rate; None: by width (`codesign.training.defaults.default_lr`).
        name: of the campaign; None: from all that decides it. folder: of checkpoints; None: `default_folder`.

    Raises:
        CodesignError: a text, tokenizer, space, model or recipe that is not possible; a name used for another plan.
    """
    folder = (folder if folder is not None else default_folder()).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"cannot write checkpoints to {folder}: {error.strerror or error}; give another --checkpoints"
        ) from error
    encoded = _encoded(data, suffixes, tokenizer, folder)
    fixed: dict[str, Any] = {"batch_tokens": batch_tokens, "seq_len": seq_len, "dtype": dtype, "seed": choice.seed}
    for count in tokens:  # say what is wrong with the recipe before the search for architectures
        Recipe(tokens=count, lr=lr if lr is not None else 1e-3, **fixed)
    what = {
        **{k: getattr(choice, k) for k in ("plan", "random", "space", "min_params", "max_params", "seed")},
        "text": encoded.digest, "tokenizer": encoded.tokenizer, "tokens": list(tokens), "lr": lr, **fixed,
    }  # fmt: skip
    archs = [read_config(config) for config in choice.configs]
    what["configs"] = [arch.to_dict() for arch in archs]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    name = name or f"{encoded.data}-{encoded.tokenizer}-{digest}"
    place = folder / "plans" / f"{_file_name(name)}.json"
    kept = _read_plan(place, name, digest)
    if kept is not None:
        pairs, known = kept
    else:
        pairs, known = _chosen(choice, archs, encoded, records, tokens, batch_tokens, seq_len)
    experiments = []
    for arch, count in pairs:
        recipe = Recipe(tokens=count, lr=lr if lr is not None else default_lr(arch), **fixed)
        spec = RunSpec(
            architecture=arch, recipe=recipe, data=str(encoded.folder), tokenizer=encoded.tokenizer, device=device,
            threads=threads, eval_tokens=eval_tokens(count), final_eval_tokens=final_eval_tokens(count), cache=str(folder / "texts"), campaign=name,
        )  # fmt: skip
        _check_vocabulary(arch, encoded)
        experiments.append(
            Experiment(
                key=_key(spec, encoded), spec=spec, flop=training_flop(arch, recipe.steps * batch_tokens, seq_len)
            )
        )
    if kept is None:
        _write_plan(place, digest, pairs, known)
    campaign = TrainingCampaign(
        name=name, experiments=tuple({e.key: e for e in experiments}.values()), folder=folder / "runs", rungs=tuple(rungs), judge=judge
    )  # fmt: skip
    return TrainingSetup(
        campaign=campaign, tokens=encoded, known=known, continued=kept is not None, recipe={**fixed, "lr": lr}
    )


def _encoded(data: str, suffixes: Sequence[str], tokenizer: str, folder: Path) -> TokenFile:
    if data != "stdlib" and is_token_folder(Path(data)):
        found = open_tokens(data)
        if found.tokenizer != tokenizer:
            raise SpecError(f"{data} was encoded by '{found.tokenizer}', not by '{tokenizer}'")
        return found
    return encode_text(load_text(data, suffixes), tokenizer, folder / "texts")


def _chosen(
    choice: Choice, archs: Sequence[Architecture], text: TokenFile, records: KnownRuns, tokens: Sequence[int],
    batch_tokens: int, seq_len: int,
) -> tuple[list[tuple[Architecture, int]], int]:  # fmt: skip
    """(architecture, tokens) of each run, and how many finished runs were known."""
    if archs:
        return [(arch, count) for arch in archs for count in tokens], 0
    low, high = choice.min_params, choice.max_params
    space = (
        tiny_space(low, high, text.vocab_size)
        if choice.space is None
        else load_space(choice.space, ["fp32"], text.vocab_size)
    )
    rng = np.random.default_rng(choice.seed)
    pool = training_pool(space, low, high, rng)
    if choice.random is not None:
        picked = [pool[int(i)] for i in rng.permutation(len(pool))[: choice.random]]
        return [(arch, count) for arch in picked for count in tokens], 0
    finished = records.find_runs(data_digest=text.digest, tokenizer=text.tokenizer, status="finished")
    known = [
        Known(architecture=run.architecture, tokens=run.recipe.tokens, loss=run.loss)
        for run in finished
        if run.loss is not None
        and run.architecture.n_experts == 0
        and (run.recipe.batch_tokens, run.recipe.seq_len) == (batch_tokens, seq_len)
    ]
    planned = plan_training(pool, tokens, choice.count, seq_len=seq_len, known=known)
    return [(one.architecture, one.tokens) for one in planned], len(known)


def _check_vocabulary(arch: Architecture, text: TokenFile) -> None:
    if text.vocab_size > arch.vocab_size:
        raise SpecError(
            f"vocab_size {arch.vocab_size} of the model is below the {text.vocab_size} of tokenizer '{text.tokenizer}'; "
            "set vocab_size in its config.json, or give another --tokenizer"
        )


def _key(spec: RunSpec, text: TokenFile) -> str:
    run = TrainingRun(
        architecture=spec.architecture, recipe=spec.recipe, status="running", data_digest=text.digest, tokenizer=text.tokenizer
    )  # fmt: skip
    return run.key


def _file_name(name: str) -> str:
    """A name that any file system takes: letters, digits, dots, dashes; made unique by a digest where something else is."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:80].lstrip(".")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _read_plan(path: Path, name: str, digest: str) -> tuple[list[tuple[Architecture, int]], int] | None:
    """The plan that a campaign of this name was begun with."""
    if not path.is_file():
        return None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        same = plan["digest"] == digest
        pairs = [(Architecture.from_dict(one["architecture"]), int(one["tokens"])) for one in plan["runs"]]
        known = int(plan["known"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchemaError(f"the plan {path} cannot be read ({error}); delete it to plan again") from error
    if not same:
        raise SpecError(
            f"campaign '{name}' was begun with other options (text, models, tokens, recipe or seed); give those again to go on, or "
            "another --name"
        )
    return pairs, known


def _write_plan(path: Path, digest: str, pairs: Sequence[tuple[Architecture, int]], known: int) -> None:
    runs = [{"architecture": arch.to_dict(), "tokens": count} for arch, count in pairs]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps({**_PLAN_SCHEMA, "digest": digest, "known": known, "runs": runs}) + "\n").encode())
