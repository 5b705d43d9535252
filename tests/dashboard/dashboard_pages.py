"""A results folder with a real run, a store with records, and a browser of tests: cookies and tokens as a person's has them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from codesign.architecture import Architecture
from codesign.dashboard import Settings
from codesign.dashboard.app import make_app
from codesign.measurement import Measurement
from codesign.store import Store
from codesign.training_run import CurvePoint, Recipe, TrainingRun

EXAMPLE = Path(__file__).parents[2] / "results" / "example"
#: A name that would run if it were taken for markup.
MARKUP = "<img src=x onerror=alert(1)>"
SECRET = "the secret of another folder"
TINY = Architecture(n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, vocab_size=100)
RECIPE = Recipe(tokens=4096, batch_tokens=512, seq_len=64, lr=3e-3)


def add_run(results: Path, name: str = "orin-20ms", *, changes: tuple[tuple[str, str], ...] = ()) -> Path:
    """A copy of the example run; `changes` are made in the text of its frontier."""
    folder = results / name
    folder.mkdir(parents=True)
    text = (EXAMPLE / "frontier.jsonl").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "frontier.jsonl").write_text(text, encoding="utf-8")
    shutil.copy(EXAMPLE / "frontier.csv", folder)
    shutil.copy(EXAMPLE / "pareto.png", folder)
    (folder / "design-1").mkdir()
    shutil.copy(EXAMPLE / "design-1" / "config.json", folder / "design-1")
    return folder


def measured(number: int = 0, **changes: Any) -> Measurement:
    """A decode step; each number has times of its own."""
    values: dict[str, Any] = {
        "architecture": TINY, "precision": "fp32", "engine": "torch", "phase": "decode", "tokens": 1, "context_tokens": 256,
        "device": "host", "wall_s": (0.010 + number * 1e-3, 0.012 + number * 1e-3), "campaign": "first",
        "created_at": f"2026-11-22T10:00:0{number}+00:00",
    }  # fmt: skip
    return Measurement(**{**values, **changes})


def trained(steps: int = 8, *, width: int = 64, **changes: Any) -> TrainingRun:
    """Finished after 8 steps, running before, unless said otherwise."""
    curve = tuple(
        CurvePoint(step=k, tokens=512 * k, train_loss=5.0 / k, valid_loss=5.1 / k if k % 2 == 0 else None,
                   lr=RECIPE.lr_at(k), seconds=0.1 * k) for k in range(1, steps + 1)
    )  # fmt: skip
    done = steps == RECIPE.steps
    values: dict[str, Any] = {
        "architecture": TINY.evolve(d_model=width), "recipe": RECIPE, "status": "finished" if done else "running", "curve": curve,
        "loss": 2.345678 if done else None, "tokens_seen": 512 * steps, "seconds": 0.1 * steps, "data": "stdlib",
        "data_digest": "d1", "campaign": "first", "created_at": "2026-11-22T10:00:00+00:00",
    }  # fmt: skip
    return TrainingRun(**{**values, **changes})


def fill_store(path: Path) -> None:
    """Two passes, one of them visited twice; a finished, a running and a diverged run."""
    with Store(path) as store:
        prefill = measured(2, phase="prefill", tokens=64, context_tokens=0, engine="onnxruntime", flags=("drift",))
        store.add_all([measured(0), measured(1), prefill])
        store.add_runs(
            [trained(), trained(4, width=128), trained(2, width=192, status="diverged", reason="loss is nan")]
        )


class Browser:
    """Flask's test client at a folder; `.get` and `.post` give the answer, `.token` is that of its session."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        self.results = folder / "results"
        settings = Settings(results=self.results, store=str(folder / "store.sqlite"), host=host)
        self.app = make_app(settings)
        self.client = self.app.test_client()
        self.jobs = self.app.extensions["codesign"].jobs
        self.base = "http://127.0.0.1:8750"

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, base_url=self.base, **more)

    def text(self, path: str, code: int = 200) -> str:
        answer = self.get(path)
        assert answer.status_code == code, (answer.status_code, answer.get_data(as_text=True)[:2000])
        return str(answer.get_data(as_text=True))

    @property
    def token(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.text("/search"))
        assert found is not None
        return found[1]

    def post(self, path: str, data: dict[str, str], *, token: str | None = None, **more: Any) -> Any:
        sent = {**data, "csrf": self.token if token is None else token}
        return self.client.post(path, data=sent, base_url=self.base, **more)
