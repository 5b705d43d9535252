"""Training of one small language model: the same curve and loss, whatever was killed on the way.

AdamW, linear warm-up and cosine; batches are a function of (seed, step) and nothing draws random numbers after the weights are
made, so a checkpoint of weights, optimizer and counters goes on bit for bit on the same machine with the same threads.

In `folder`: run.json (the result so far), curve.jsonl (as it goes), checkpoints while it is under way, then weights.pt (the
state_dict of `codesign.models.decoder.Decoder`), and a lock that is free as soon as its holder is dead.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from codesign.errors import MeasurementError, MissingExtraError, SchemaError, SpecError
from codesign.training.spec import RunSpec
from codesign.training.text import load_text
from codesign.training.tokenizer import TokenFile, encode_text, is_token_folder, open_tokens
from codesign.training_run import CurvePoint, TrainingRun

try:
    import torch
    import torch.nn.functional as F
    from filelock import FileLock, Timeout

    from codesign.training.batches import Batches, valid_windows
    from codesign.training.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint, write_whole
    from codesign.training.model import BALANCE, initial_model, optimizer_of, router_balance
except ImportError as error:
    raise MissingExtraError.of(error.name or "torch", "train", "training") from error

__all__ = ["prepare", "read_run", "train"]

_LOG = logging.getLogger(__name__)
_RUN, _CURVE, _WEIGHTS, _LOCK = "run.json", "curve.jsonl", "weights.pt", "train.lock"
#: Points of the curve that carry the training loss.
_LOG_POINTS = 100


def prepare(spec: RunSpec) -> TokenFile:
    """The encoded text of a run, from the cache or made now; `data` may also name a token folder.

    Raises:
        SpecError: no or too little text, or a tokenizer whose vocabulary does not fit the architecture.
    """
    if spec.data != "stdlib" and is_token_folder(Path(spec.data)):
        tokens = open_tokens(spec.data)
        if tokens.tokenizer != spec.tokenizer:
            raise SpecError(f"{spec.data} was encoded by '{tokens.tokenizer}', not by '{spec.tokenizer}'")
    else:
        text = load_text(spec.data, spec.suffixes, valid_share=spec.valid_share)
        tokens = encode_text(text, spec.tokenizer, spec.cache_folder)
    if tokens.vocab_size > spec.architecture.vocab_size:
        raise SpecError(
            f"vocab_size {spec.architecture.vocab_size} of the architecture is below the {tokens.vocab_size} of tokenizer "
            f"'{tokens.tokenizer}'; set vocab_size to {tokens.vocab_size} or more"
        )
    return tokens


def read_run(folder: str | Path) -> TrainingRun | None:
    """The result that `train` left in a folder; None where there is none yet.

    Raises:
        SchemaError: run.json cannot be read.
    """
    found = _read(Path(folder) / _RUN)
    return None if found is None else found[1]


def train(
    spec: RunSpec,
    folder: str | Path,
    *,
    until: float = 1.0,
    on_progress: Callable[[CurvePoint], None] | None = None,
    wait_s: float = 0.0,
) -> TrainingRun:
    """Train one model, from the checkpoint in `folder` where there is one.

    Args:
        spec: what to train.
        folder: of this run alone; it is made.
        until: share of the steps after which to stop with status "running", to be continued by a later call. A multiple
            of 1 / eval_points has a validation loss right there.
        on_progress: called with each new point of the curve.
        wait_s: how long to wait where another process trains in `folder`.

    Returns:
        The run: finished, running (stopped at `until`), or diverged with its curve and the reason. The training loss is
        not finite, or the validation loss lies above the best so far by half its distance to ln(vocabulary) and at
        least 1 nat: it diverged.

    Raises:
        SpecError: a bad value; a folder that holds another experiment or is in use.
        MeasurementError: out of memory.
    """
    if not 0 < until <= 1:
        raise SpecError(f"until is {until}; allowed: above 0, up to 1")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=wait_s), _threads(spec.threads):
            return _Training(spec, folder, on_progress).run(until)
    except Timeout:
        raise SpecError(f"another process trains in '{folder}'; wait for it, or give another folder") from None


class _Training:
    """One model under way. The lock is held; threads are set."""

    def __init__(self, spec: RunSpec, folder: Path, on_progress: Callable[[CurvePoint], None] | None) -> None:
        self.spec, self.folder, self.on_progress = spec, folder, on_progress
        self.recipe = spec.recipe
        self.tokens = prepare(spec)
        what = f"{spec.digest}/{self.tokens.digest}"
        self.identity = hashlib.sha256(what.encode()).hexdigest()[:16]
        steps, count = self.recipe.steps, spec.eval_points
        self.eval_steps = {math.ceil(i * steps / count) for i in range(1, count + 1)}
        self.log_steps = self.eval_steps | {math.ceil(i * steps / _LOG_POINTS) for i in range(1, _LOG_POINTS + 1)}
        self.device = _device(spec.device)
        self.step, self.seconds, self.logged = 0, 0.0, 0
        self.curve: list[CurvePoint] = []
        self.reason = ""

    def run(self, until: float) -> TrainingRun:
        kept = _read(self.folder / _RUN)
        if kept is not None:
            self._same(kept[0])
            if kept[1].status in ("finished", "diverged"):
                return kept[1]
        try:
            return self._run(math.ceil(until * self.recipe.steps - 1e-9))
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
                raise MeasurementError(
                    f"out of memory training {self.spec.architecture.params_total:,} parameters on {self.device}; give "
                    f"fewer micro_tokens than {self.spec.micro_tokens:,}, or a smaller model"
                ) from error
            raise

    def _run(self, last: int) -> TrainingRun:
        state = load_checkpoint(self.folder)
        if state is not None:
            self._same(state["identity"])
        self.batches = Batches(self.tokens, self.recipe)
        self.valid = valid_windows(self.tokens, self.recipe.seq_len, self.spec.eval_tokens)
        self.model = initial_model(self.spec.architecture, self.recipe.seed).to(self.device).train()
        self.optimizer = optimizer_of(self.model, self.recipe)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        if state is not None:
            self._restore(state)
        elif self.recipe.tokens > self.batches.epoch_tokens:
            _LOG.info(
                "%s: %d training tokens are read %.1f times",
                self.tokens.data, self.batches.epoch_tokens, self.recipe.tokens / self.batches.epoch_tokens,
            )  # fmt: skip
        lines = "".join(json.dumps(p.to_dict()) + "\n" for p in self.curve)
        write_whole(self.folder / _CURVE, lines.encode())
        started = saved = time.monotonic()
        fresh = self.step
        while self.step < last and not self.reason:
            self._one_step()
            if self.step in self.log_steps:
                self._point()
            if time.monotonic() - saved >= self.spec.checkpoint_s and self.step < last:
                self._save()
                saved = time.monotonic()
        _LOG.debug("%d steps in %.1f s", self.step - fresh, time.monotonic() - started)
        if self.step == self.recipe.steps or self.reason:
            return self._finish()
        if self.step > fresh or state is None:
            self._save()
        return self._write("running", None)

    def _one_step(self) -> None:
        begin = time.perf_counter()
        self.step += 1
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr_at(self.step)
        batch = self.batches.batch(self.step)
        rows = max(1, self.spec.micro_tokens // recipe.seq_len)
        for start in range(0, len(batch), rows):
            part = batch[start : start + rows]
            share = len(part) / len(batch)
            with router_balance(self.model) as balance:
                loss = self._loss(part)
            self.loss_sum += loss.detach() * share
            if balance:
                loss = loss + BALANCE * torch.stack(balance).mean()
            (loss * share).backward()
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seconds += time.perf_counter() - begin

    def _loss(self, windows: Any, reduction: str = "mean") -> Any:
        ids = torch.from_numpy(windows).to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.dtype == "bf16"):
            logits, _ = self.model(ids[:, :-1], last_only=False)
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction=reduction)

    def _evaluate(self, windows: Any) -> float:
        """Mean validation loss, nats per token."""
        rows = max(1, self.spec.micro_tokens // self.recipe.seq_len)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        self.model.eval()
        with torch.no_grad():
            for start in range(0, len(windows), rows):
                total += self._loss(windows[start : start + rows], "sum")
        self.model.train()
        return float(total) / (len(windows) * self.recipe.seq_len)

    def _point(self) -> None:
        """Add a point to the curve, and say in `reason` whether the run diverged."""
        train_loss = float(self.loss_sum) / (self.step - self.logged)
        self.loss_sum.zero_()
        self.logged = self.step
        valid_loss = None
        if not math.isfinite(train_loss):
            self.reason = f"the training loss is {train_loss} at step {self.step}"
        elif self.step in self.eval_steps:
            valid_loss = self._evaluate(self.valid)
            self.reason = self._diverged(valid_loss)
        point = CurvePoint(
            step=self.step,
            tokens=self.step * self.recipe.batch_tokens,
            train_loss=train_loss,
            valid_loss=valid_loss,
            lr=self.recipe.lr_at(self.step),
            seconds=self.seconds,
        )
        self.curve.append(point)
        with (self.folder / _CURVE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(point.to_dict()) + "\n")
        if self.on_progress is not None:
            self.on_progress(point)

    def _diverged(self, loss: float) -> str:
        if not math.isfinite(loss):
            return f"the validation loss is {loss} at step {self.step}"
        best = min((p.valid_loss for p in self.curve if p.valid_loss is not None), default=loss)
        uniform = math.log(self.spec.architecture.vocab_size)
        if loss > best + max(1.0, 0.5 * (uniform - best)):
            return f"the validation loss rose from {best:.3f} to {loss:.3f} at step {self.step}"
        return ""

    def _finish(self) -> TrainingRun:
        loss = None
        if not self.reason:
            loss = self._evaluate(valid_windows(self.tokens, self.recipe.seq_len, self.spec.final_eval_tokens))
            self.reason = self._diverged(loss)
        buffer = io.BytesIO()
        torch.save(self.model.state_dict(), buffer)
        write_whole(self.folder / _WEIGHTS, buffer.getvalue())
        run = self._write("diverged", None) if self.reason else self._write("finished", loss)
        remove_checkpoints(self.folder)
        return run

    def _write(self, status: Any, loss: float | None) -> TrainingRun:
        run = TrainingRun(
            architecture=self.spec.architecture,
            recipe=self.recipe,
            status=status,
            curve=tuple(self.curve),
            loss=loss,
            tokens_seen=self.step * self.recipe.batch_tokens,
            seconds=self.seconds,
            bytes_per_token=self.tokens.bytes_per_token,
            data=self.tokens.data,
            data_digest=self.tokens.digest,
            tokenizer=self.tokens.tokenizer,
            torch_version=str(torch.__version__),
            host=self._host(),
            campaign=self.spec.campaign,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            reason=self.reason,
        )
        record = {"identity": self.identity, "run": run.to_dict()}
        write_whole(self.folder / _RUN, json.dumps(record, allow_nan=False).encode())
        return run

    def _host(self) -> dict[str, str]:
        cuda = self.device.type == "cuda"
        return {
            "machine": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "threads": str(self.spec.threads),
        }

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.step,
            "logged": self.logged,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "curve": [asdict(point) for point in self.curve],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(self.folder, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss_sum = state["loss_sum"].to(self.device)
        self.step, self.logged, self.seconds = state["step"], state["logged"], state["seconds"]
        self.curve = [CurvePoint(**point) for point in state["curve"]]

    def _same(self, identity: str) -> None:
        if identity != self.identity:
            raise SpecError(
                f"'{self.folder}' holds another run (other architecture, recipe, text or evaluation); give another folder"
            )


def _read(path: Path) -> tuple[str, TrainingRun] | None:
    """Identity and run."""
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return str(record["identity"]), TrainingRun.from_dict(record["run"])
    except (ValueError, KeyError, TypeError, SchemaError) as error:
        raise SchemaError(f"{path} cannot be read ({error}); delete it to go on from the checkpoint") from error


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise SpecError("device is 'cuda', but torch finds no GPU; give cpu, or install a torch with CUDA")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
