"""Training runs of the store as a table to fit: which runs compare with each other, and which do not."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from codesign.errors import SpecError, UnknownNameError

if TYPE_CHECKING:
    from codesign.predictors.loss_table import LossTable
    from codesign.training_run import TrainingRun

__all__ = ["runs_table", "stored_table"]

#: Parts of a recipe that no predictor reads; runs that differ in one have losses that do not compare.
_FIXED = ("seq_len", "warmup_fraction", "min_lr_ratio", "weight_decay", "beta1", "beta2", "clip")
_SHAPE = ("arch", "n_layers", "d_model", "d_ff", "n_experts", "d_ff_expert")
_LEAST = 12
_FILL = "train some: codesign train --plan 40 --data stdlib"


def stored_table(
    store: str | None,
    campaigns: Sequence[str],
    data: str | None,
    tokenizer: str | None,
    where: Sequence[str],
    group: Sequence[str],
) -> tuple[LossTable, dict[str, Any]]:
    """The finished runs that are asked for, and their provenance.

    Raises:
        SpecError: no runs, too few, or runs whose losses do not compare.
        UnknownNameError: an unknown campaign or column.
    """
    from codesign.store import Store

    with Store(store, create=False) as opened:
        if store is not None and not opened.exists:
            raise SpecError(f"no store at {opened.name}; {_FILL}")
        known = sorted({row.campaign for row in opened.run_sets()})
        for name in campaigns:
            if name not in known:
                if not known:
                    raise SpecError(f"no training runs yet in {opened.name}; {_FILL}")
                raise UnknownNameError.near("campaign", name, known, "See 'codesign train --list'.")
        runs = opened.find_runs(campaign=campaigns or None, tokenizer=tokenizer)
        place = opened.name
    if data is not None:  # the standard library's text carries its version: stdlib is python-3.12.1-stdlib
        runs = [run for run in runs if run.data == data or run.data.endswith(f"-{data}")]
    for condition in where:
        runs = [run for run in runs if _meets(run, condition)]
    if not runs:
        asked = " ".join(f"{o} {v}" for o, v in (("--data", data), ("--tokenizer", tokenizer), ("--where", " ".join(where))) if v)  # fmt: skip
        raise SpecError(
            f"no training runs{' with ' + asked if asked else ''} in {place}; see 'codesign train --list', or {_FILL}"
        )
    finished = [run for run in runs if run.status == "finished"]
    excluded = {
        f"marked {kind}": count for kind, count in sorted(Counter(r.status for r in runs).items()) if kind != "finished"
    }
    if finished:
        _comparable(finished)
    told = f" ({sum(excluded.values())} others did not finish)" if excluded else ""
    if len(finished) < _LEAST:
        raise SpecError(
            f"{len(finished)} finished runs{told} are too few to fit; at least {_LEAST} are needed, {_LEAST - len(finished)} more: "
            f"codesign train --plan {_LEAST - len(finished)} --data {runs[0].data or 'FILE'} --seed 1"
        )
    return runs_table(finished, excluded, group), _source(finished, campaigns, excluded)


def _value(run: TrainingRun, column: str) -> Any:
    """What a run has in a column of the table of runs, or in a field of its recipe."""
    from codesign.store import RUN_COLUMNS, run_rows

    recipe = asdict(run.recipe)
    if column in recipe:
        return recipe[column]
    if column not in RUN_COLUMNS:
        raise UnknownNameError.near("column of training runs", column, sorted({*RUN_COLUMNS, *recipe}), "")
    return run_rows([run])[0][column]


def _meets(run: TrainingRun, condition: str) -> bool:
    column, sign, text = condition.partition("=")
    if not sign:
        raise SpecError(f"--where '{condition}' is no condition; write COLUMN=VALUE, such as seq_len=256")
    value, wanted = str(_value(run, column.strip())), text.strip()
    if value == wanted:
        return True
    try:
        return float(value) == float(wanted)
    except ValueError:
        return False


def _comparable(runs: Sequence[TrainingRun]) -> None:
    """Refuse a mixture of texts, tokenizers or recipes.

    Raises:
        SpecError: which they are, and how to choose one.
    """
    tokenizers = Counter(run.tokenizer for run in runs)
    texts = Counter(run.data for run in runs)
    digests = Counter(run.data_digest for run in runs)
    options = {"--data": texts, "--tokenizer": tokenizers}
    for option, found in options.items():
        if len(found) > 1:
            what = "texts" if option == "--data" else "tokenizers"
            raise SpecError(f"the runs have {len(found)} {what} ({_counts(found)}): their losses do not compare; choose one: {option} {found.most_common(1)[0][0]}")  # fmt: skip
    if len(digests) > 1:
        raise SpecError(
            f"the runs were trained on {len(digests)} versions of the text '{runs[0].data}' ({_counts(digests)} runs): their losses do not "
            f"compare; choose one: --where data_digest={digests.most_common(1)[0][0]}"
        )
    for name in _FIXED:
        values = Counter(getattr(run.recipe, name) for run in runs)
        if len(values) > 1:
            raise SpecError(
                f"the runs have {len(values)} recipes that differ in {name} ({_counts(values)} runs): their losses do not compare; "
                f"choose one: --where {name}={values.most_common(1)[0][0]}, or --campaign NAME"
            )


def _counts(found: Counter[Any]) -> str:
    shown = ", ".join(f"{value}: {count}" for value, count in found.most_common(4))
    return shown + (", ..." if len(found) > 4 else "")


def runs_table(runs: Sequence[TrainingRun], excluded: dict[str, int], group: Sequence[str] = ()) -> LossTable:
    """Finished runs as a table, in the order of their keys."""
    import pandas as pd

    from codesign.predictors.loss_table import LossTable
    from codesign.store import runs_csv

    ordered = sorted(runs, key=lambda run: run.key)  # whatever the order in which they ended
    frame = pd.read_csv(io.StringIO(runs_csv(ordered)), low_memory=False)
    for column in group:
        if column not in frame.columns:
            raise UnknownNameError.near("column of training runs", column, list(frame.columns), "")
    return LossTable("training runs", frame, "loss", tuple(group) or _SHAPE, excluded, "params_nonembed_active")


def _source(runs: Sequence[TrainingRun], campaigns: Sequence[str], excluded: dict[str, int]) -> dict[str, Any]:
    losses = "".join(sorted(f"{run.key} {run.loss!r}\n" for run in runs))
    first, own = runs[0], sorted({run.campaign for run in runs})
    return {
        "name": "-".join(campaigns) or (own[0] if len(own) == 1 and own[0] else f"{first.data or 'runs'}-{first.tokenizer}"),
        "text": first.data, "data_digest": first.data_digest, "tokenizer": first.tokenizer, "campaigns": own,
        "runs": len(runs), "sha256": hashlib.sha256(losses.encode()).hexdigest(), "excluded": excluded,
    }  # fmt: skip
