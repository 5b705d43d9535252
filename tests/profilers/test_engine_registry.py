"""Engines by name: those of the package, plug-ins, and what is said when one is missing."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from synthetic import FakeEngine

from codesign.errors import MissingExtraError, SpecError, UnknownNameError
from codesign.profilers import engines
from codesign.profilers.engines import engine_names, open_engine


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that distributions with these entry points are installed."""

    def install(*names: str) -> None:
        found = [EntryPoint(name=n, value="synthetic:FakeEngine", group=engines.ENTRY_POINT_GROUP) for n in names]
        monkeypatch.setattr(engines, "entry_points", lambda group: found if group == "codesign.profilers" else [])
        engines._plugins.cache_clear()

    yield install
    engines._plugins.cache_clear()


def test_a_plug_in_opens_with_its_options(installed: Any) -> None:
    installed("spin")
    assert engine_names() == ["onnxruntime", "torch", "tensorrt", "spin"]
    engine = open_engine("spin", {"threads": "2"})
    assert isinstance(engine, FakeEngine) and engine.machine == {"threads": "2"}  # its first argument: the options


def test_an_unknown_engine_names_the_nearest(installed: Any) -> None:
    installed("spin")
    with pytest.raises(UnknownNameError, match="unknown engine 'onnx'; did you mean 'onnxruntime'"):
        open_engine("onnx")
    with pytest.raises(UnknownNameError, match="did you mean 'spin'"):
        open_engine("spinn")


@pytest.mark.parametrize("names", [("spin", "spin"), ("torch",)])
def test_two_engines_of_one_name_are_an_error(installed: Any, names: tuple[str, ...]) -> None:
    installed(*names)
    with pytest.raises(SpecError, match=f"two engines are called '{names[0]}'.*uninstall one"):
        open_engine("nothing")


@pytest.mark.parametrize(
    ("engine", "package", "extra"), [("onnxruntime", "onnxruntime", "profile"), ("torch", "torch", "torch")]
)
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, engine: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # import then fails as if it were not installed
    with pytest.raises(MissingExtraError, match=rf"--engine {engine}.* needs .*'{package}'.*codesign-llm\[{extra}\]"):
        open_engine(engine)


def test_a_plug_in_that_fails_is_named(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("spin")
    monkeypatch.setattr("synthetic.FakeEngine", lambda options: 1 / 0)
    with pytest.raises(SpecError, match="engine plug-in 'spin' of .* failed: ZeroDivisionError: division by zero"):
        open_engine("spin")
    monkeypatch.delattr("synthetic.FakeEngine")
    with pytest.raises(SpecError, match="'spin' of .* failed: AttributeError"):
        open_engine("spin")
