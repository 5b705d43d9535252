"""Fake machines for the platform's tests: trees of /proc and /sys from data_platform, and a fake NVML."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

DATA = Path(__file__).with_name("data_platform")


def build_tree(name: str, folder: Path) -> Path:
    """Write data_platform/<name>.tree under a folder and return it."""
    text = (DATA / f"{name}.tree").read_text(encoding="utf-8")
    for block in text.split("\n=== ")[1:]:
        path, _, content = block.partition("\n")
        put(folder, path, content.rstrip("\n").replace("\\0", "\0") + "\n")
    return folder


def put(root: Path, path: str, content: object) -> None:
    """Write one file of a tree."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(str(content), encoding="utf-8")


def hide_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nvidia-ml-py were not installed, so that a GPU of the test machine does not show."""
    monkeypatch.setitem(sys.modules, "pynvml", None)


class FakeNvml(ModuleType):
    """A fake pynvml: made up after nvml.h and nvidia-ml-py, nothing recorded. `answers` maps functions to values."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        """Base of the library's errors."""

    def __init__(self, answers: dict[str, Any], *, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.answers, self.driver = answers, driver
        self.asked: list[object] = []

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        self.asked.append(index)
        return "handle"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        self.asked.append(uuid)
        return "handle"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def call(_handle: object, *_args: object) -> Any:
            answer = self.__dict__["answers"].get(name)
            if answer is None:
                raise self.NVMLError("Not Supported")
            return answer() if callable(answer) else answer

        return call


def fake_nvml(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], *, driver: bool = True) -> FakeNvml:
    """Put a fake pynvml in place of the real one."""
    module = FakeNvml(answers, driver=driver)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module


def memory(total_B: float) -> SimpleNamespace:
    """What nvmlDeviceGetMemoryInfo gives."""
    return SimpleNamespace(total=total_B, free=total_B, used=0)
