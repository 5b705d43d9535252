"""Observations as a tidy CSV table, with the columns that published latencies are written in where they apply."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from typing import Any

from codesign.architecture import Architecture
from codesign.measurement import Observation
from codesign.store.tables import architecture_key

__all__ = ["measurements_csv"]


def measurements_csv(observations: Iterable[Observation]) -> str:
    """One row an observation: what ran, its time, and the architecture.

    The table serves `codesign predict --table FILE --archs FILE` as both files: it has the columns that they need. Cells
    that do not apply are empty. `seconds` is the time of the pass; prefill_ms or decode_ms_per_step repeats it in ms.
    """
    rows = [_row(o) for o in observations]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _row(o: Observation) -> dict[str, Any]:
    m = o.first
    prefill = m.phase == "prefill"
    per_second = 1 / o.seconds
    return {
        "row_id": m.key,
        "source_id": m.campaign,
        "device_id": m.device,
        "power_mode": m.power_mode or "",
        "arch_id": f"{m.architecture.family}-{architecture_key(m.architecture)}",
        "weight_precision": m.precision,
        "engine": m.engine,
        "engine_version": m.engine_version,
        "options": " ".join(f"{key}={value}" for key, value in sorted(m.options.items())),
        "batch": m.batch_size,
        "prompt_tokens": m.tokens if prefill else "",
        "kv_start_tokens": m.context_tokens,
        "gen_tokens": "" if prefill else m.tokens,
        "prefill_ms": o.seconds * 1e3 if prefill else "",
        "prefill_tok_s": m.batch_size * m.tokens * per_second if prefill else "",
        "decode_tok_s": "" if prefill else m.batch_size * m.tokens * per_second,
        "decode_ms_per_step": "" if prefill else o.seconds * 1e3,
        "power_w": "" if m.power_W is None else m.power_W,
        "phase": m.phase,
        "tokens": m.tokens,
        "seconds": o.seconds,
        "clock": m.clock,
        "visits": o.visits,
        "again_log": "" if math.isnan(o.again_log) else o.again_log,
        "energy_J": "" if o.energy_J is None else o.energy_J,
        "peak_memory_B": "" if o.peak_memory_B is None else o.peak_memory_B,
        "flags": " ".join(o.flags),
        "source": m.source,
        "created_at": m.created_at,
        **_arch_columns(m.architecture),
    }


def _arch_columns(a: Architecture) -> dict[str, Any]:
    mixture = a.n_experts > 0
    kind = f"moe{a.n_experts}x{a.n_active_experts}" if mixture else "dense"
    more = {
        "shared": a.n_shared_experts,
        "dense": a.n_dense_layers,
        "window": a.n_window_layers,
        a.recurrence: a.n_recurrent_layers,
        "latent": a.kv_rank,
        "sharedkv": a.n_kv_shared_layers,
        "looped": a.n_looped_layers,
        "uneven": int(a.is_uneven),
    }
    kind = "+".join([kind, *(name for name, count in more.items() if count)])  # what the columns here do not describe
    return {
        "layers": a.n_layers,
        "hidden": a.d_model,
        "ffn_hidden": a.d_ff_expert if mixture else a.d_ff,
        "n_heads": a.n_heads,
        "n_kv_heads": a.n_kv_heads,
        "head_dim": a.d_head,
        "vocab": a.vocab_size,
        "tied_embeddings": int(a.tied_embeddings),
        "ffn_matrices": 3 if a.ffn_gated else 2,
        "qk_norm": a.qk_norm,
        "kind": kind,
        "params_total": a.params_total,
        "params_active": a.params_active,
    }


_COLUMNS = (
    "row_id", "source_id", "device_id", "power_mode", "arch_id", "weight_precision", "engine", "engine_version", "options",
    "batch", "prompt_tokens", "kv_start_tokens", "gen_tokens", "prefill_ms", "prefill_tok_s", "decode_tok_s",
    "decode_ms_per_step", "power_w", "phase", "tokens", "seconds", "clock", "visits", "again_log", "energy_J",
    "peak_memory_B", "flags", "source", "created_at", "layers", "hidden", "ffn_hidden", "n_heads", "n_kv_heads", "head_dim",
    "vocab", "tied_embeddings", "ffn_matrices", "qk_norm", "kind", "params_total", "params_active",
)  # fmt: skip
