"""Training runs as a tidy table, with the columns in which published losses are kept and a few of its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from codesign.training_run import TrainingRun

__all__ = ["RUN_COLUMNS", "run_rows", "runs_csv"]

#: The first thirty are those of published losses (codesign fit --from FILE reads both); then what a run of ours adds.
RUN_COLUMNS = (
    "dataset_id", "run_id", "arch", "n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "n_experts", "top_k",
    "d_ff_expert", "d_ff_shared", "n_dense_layers", "vocab", "seq_len", "tokens", "params_total", "params_active",
    "params_nonembed_active", "lr", "batch_tokens", "schedule", "loss", "loss_kind", "train_data", "source_repo",
    "source_path", "source_commit", "licence", "ffn_matrices", "tied_embeddings", "seed", "status", "reason", "tokens_seen",
    "last_valid_loss", "seconds", "bytes_per_token", "tokenizer", "data_digest", "campaign", "created_at",
)  # fmt: skip


def runs_csv(runs: Iterable[TrainingRun]) -> str:
    """One row a run, in `RUN_COLUMNS`; cells that do not apply are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=RUN_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(run_rows(runs))
    return out.getvalue()


def run_rows(runs: Iterable[TrainingRun]) -> list[dict[str, str]]:
    """The same as dictionaries of text, as `csv.DictReader` would read them.

    `loss` is empty for a run without a final loss, and nan for one that diverged; `status` says which.
    """
    return [{name: _text(value) for name, value in {**dict.fromkeys(RUN_COLUMNS, ""), **_row(run)}.items()} for run in runs]  # fmt: skip


def _text(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _row(run: TrainingRun) -> dict[str, Any]:
    a, r = run.architecture, run.recipe
    mixture = a.n_experts > 0
    valid = run.valid_curve
    return {
        "dataset_id": f"{run.data}-{run.tokenizer}",
        "run_id": run.key,
        "arch": "moe" if mixture else "dense",
        "n_layers": a.n_layers,
        "d_model": a.d_model,
        "n_heads": a.n_heads_mean,
        "n_kv_heads": a.n_kv_heads_mean,
        "head_dim": a.d_head,
        "d_ff": a.d_ff_mean or None,
        "n_experts": a.n_experts or None,
        "top_k": a.n_active_experts or None,
        "d_ff_expert": a.d_ff_expert or None,
        "d_ff_shared": a.d_ff_shared or None,
        "n_dense_layers": a.n_dense_layers if mixture else None,
        "vocab": a.vocab_size,
        "seq_len": r.seq_len,
        "tokens": r.tokens,
        "params_total": a.params_total,
        "params_active": a.params_active,
        "params_nonembed_active": a.params_active_nonembedding,
        "lr": r.lr,
        "batch_tokens": r.batch_tokens,
        "schedule": f"warmup{r.warmup_fraction:g}_cosine{r.min_lr_ratio:g}",
        "loss": "nan" if run.status == "diverged" else run.loss,
        "loss_kind": "validation, nats per token",
        "train_data": run.data,
        "ffn_matrices": 3 if a.ffn_gated else 2,
        "tied_embeddings": int(a.tied_embeddings),
        "seed": r.seed,
        "status": run.status,
        "reason": run.reason,
        "tokens_seen": run.tokens_seen,
        "last_valid_loss": valid[-1].valid_loss if valid else None,
        "seconds": run.seconds,
        "bytes_per_token": run.bytes_per_token,
        "tokenizer": run.tokenizer,
        "data_digest": run.data_digest,
        "campaign": run.campaign,
        "created_at": run.created_at,
    }
