"""Training runs as rows, and how far each campaign is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codesign.dashboard.tables import Column
from codesign.training_run import STATUSES, TrainingRun
from codesign.units import format_count

__all__ = ["COLUMNS", "CampaignRow", "campaign_rows", "last_loss", "share_done"]


def share_done(run: TrainingRun) -> float:
    """Tokens seen over tokens asked for, 0 to 1.

    Whole batches are seen, so a finished run may have seen more than was asked for.
    """
    return min(1.0, run.tokens_seen / run.recipe.tokens)


def last_loss(run: TrainingRun) -> float | None:
    """The last validation loss on the curve of a run without a final loss, nats per token."""
    return run.valid_curve[-1].valid_loss if run.valid_curve else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignRow:
    """How many runs of a campaign have each status, its best final loss, and the tokens of those under way."""

    name: str
    counts: dict[str, int]
    best: float | None
    tokens_seen: int
    tokens_asked: int
    last: str

    @property
    def under_way(self) -> bool:
        """Whether a run of it is recorded as running."""
        return self.counts["running"] > 0

    @property
    def share(self) -> float:
        """Tokens seen over tokens asked for, of the recorded runs that were not given up."""
        return min(1.0, self.tokens_seen / self.tokens_asked) if self.tokens_asked else 0.0


def campaign_rows(runs: Iterable[TrainingRun]) -> list[CampaignRow]:
    """One row a campaign, in the order of first records."""
    groups: dict[str, list[TrainingRun]] = {}
    for run in runs:
        groups.setdefault(run.campaign, []).append(run)
    return [_campaign(name, members) for name, members in groups.items()]


def _campaign(name: str, runs: Sequence[TrainingRun]) -> CampaignRow:
    going = [run for run in runs if run.status in ("running", "finished")]
    losses = [run.loss for run in runs if run.loss is not None]
    return CampaignRow(
        name=name,
        counts={status: sum(run.status == status for run in runs) for status in STATUSES},
        best=min(losses) if losses else None,
        tokens_seen=sum(min(run.tokens_seen, run.recipe.tokens) for run in going),
        tokens_asked=sum(run.recipe.tokens for run in going),
        last=max(run.created_at for run in runs),
    )


def _loss(run: TrainingRun) -> str:
    if run.loss is not None:
        return f"{run.loss:.4f}"
    last = last_loss(run)
    return "–" if last is None else f"({last:.4f})"


def _minutes(run: TrainingRun) -> str:
    return f"{run.seconds / 60:,.1f} min" if run.seconds >= 60 else f"{run.seconds:.1f} s"


COLUMNS: tuple[Column[TrainingRun], ...] = (
    Column(key="campaign", title="Campaign", text=lambda r: r.campaign or "–", order=lambda r: r.campaign),
    Column(key="model", title="Model", text=lambda r: f"{r.architecture.n_layers} × {r.architecture.d_model}",
           more=lambda r: f"{format_count(r.architecture.params_total)} parameters",
           order=lambda r: r.architecture.params_total),
    Column(key="data", title="Data", text=lambda r: r.data or r.data_digest, more=lambda r: r.tokenizer,
           order=lambda r: (r.data, r.tokenizer)),
    Column(key="tokens", title="Tokens", text=lambda r: format_count(r.recipe.tokens), order=lambda r: r.recipe.tokens,
           more=lambda r: "" if r.status == "finished" else f"{share_done(r):.0%} seen", number=True),
    Column(key="lr", title="Peak rate", text=lambda r: f"{r.recipe.lr:.2g}", order=lambda r: r.recipe.lr, number=True),
    Column(key="status", title="Status", text=lambda r: r.status, more=lambda r: r.reason,
           order=lambda r: STATUSES.index(r.status)),
    Column(key="loss", title="Loss", text=_loss, order=lambda r: r.loss if r.loss is not None else last_loss(r),
           more=lambda r: "" if r.loss_per_byte is None else f"{r.loss_per_byte:.4f} a byte", number=True),
    Column(key="time", title="Trained for", text=_minutes, order=lambda r: r.seconds, number=True),
    Column(key="date", title="Last", text=lambda r: r.created_at[:16].replace("T", " ") or "–",
           order=lambda r: r.created_at or None),
)  # fmt: skip
