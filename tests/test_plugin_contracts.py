"""The contract checks that plug-in authors run: our own engines, devices and laws pass them, and broken ones do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from synthetic import FakeEngine, FakeModel, Machine

from codesign.devices import load_device
from codesign.devices.catalogue import load_bundled, load_catalogue
from codesign.predictors import law_names, load_law
from codesign.profilers import measure
from codesign.profilers.base import Point
from codesign.profilers.engines import open_engine
from codesign.testing import check_device, check_engine, check_loss_model


@pytest.fixture(autouse=True)
def _no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a power meter would meter each pass for seconds."""
    monkeypatch.setattr(measure, "find_meter", lambda root, accelerator: None)


def test_onnxruntime_keeps_the_contract() -> None:
    pytest.importorskip("onnxruntime")
    check_engine(open_engine("onnxruntime"))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torch_keeps_the_contract(precision: str) -> None:
    pytest.importorskip("torch")
    check_engine(open_engine("torch"), precisions=[precision])


class RealTime(Machine):
    """The fake engine's passes take real time, so that they can be recorded."""

    def work(self, cpu_s: float) -> None:
        sum(range(2000))


def fake(**changes: Any) -> FakeEngine:
    return FakeEngine(RealTime(), **changes)


class Broken(FakeModel):
    def runner(self, point: Point) -> Any:
        run = super().runner(point)
        calls = []

        def twice() -> Any:
            calls.append(1)
            if len(calls) > 2:
                raise RuntimeError("a pass runs only twice")
            return run()

        return twice


class NoRefusal(FakeEngine):
    def load(self, arch: Any, precision: str, **options: Any) -> Any:
        return FakeModel(self, arch, "fp32")


class WrongRefusal(FakeEngine):
    def load(self, arch: Any, precision: str, **options: Any) -> Any:
        if precision not in self.precisions:
            raise KeyError(precision)
        return super().load(arch, precision, **options)


class Twice(FakeEngine):
    def load(self, arch: Any, precision: str, **options: Any) -> Any:
        model = super().load(arch, precision, **options)
        return Broken(self, arch, precision) if model else None


def test_a_good_engine_passes_and_is_closed() -> None:
    engine = fake()
    check_engine(engine)
    loads = [line for line in engine.log if line.startswith("load")]
    assert len(loads) == 3 == engine.log.count("close")
    check_engine(fake(clock="device", device_memory_B=1e9))


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (fake(version=""), "version is ''"), (fake(clock="sun"), "clock is 'sun'; the contract: one of wall, cpu, device"),
        (fake(options={"threads": 1}), "options are .*texts by name"), (fake(precisions=()), r"precisions are \(\)"),
        (fake(precisions=("fp33",)), "fp33"), (fake(device_memory_B=0.0), "device_memory_B is 0.0"),
        (NoRefusal(RealTime()), "unknown precision is not refused"), (WrongRefusal(RealTime()), "raises KeyError"),
    ],
    ids=lambda v: "" if isinstance(v, str) else type(v).__name__,
)  # fmt: skip
def test_a_broken_engine_is_told_what_is_wrong(engine: FakeEngine, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_engine(engine)


def test_an_engine_whose_passes_cannot_be_repeated_or_give_no_seconds() -> None:
    engine = Twice(RealTime())
    with pytest.raises(RuntimeError, match="only twice"):
        check_engine(engine)
    assert engine.log[-1] != "load"  # it was closed

    class Silent(FakeEngine):
        def load(self, arch: Any, precision: str, **options: Any) -> Any:
            model = super().load(arch, precision, **options)
            self.clock = "device"
            return (
                type("M", (), {"runner": lambda self, point: lambda: None, "close": lambda self: None})()
                if model
                else None
            )

    with pytest.raises(AssertionError, match="returned None; the contract: the accelerator's seconds"):
        check_engine(Silent(RealTime()))


@pytest.mark.parametrize("name", sorted(load_catalogue()))
def test_every_device_of_the_catalogue_keeps_the_contract(name: str) -> None:
    check_device(load_bundled(name))


def test_a_broken_device_is_told_what_is_wrong() -> None:
    orin = load_device("orin")
    check_device(load_device("orin", "15W"))
    with pytest.raises(AssertionError, match="sources lacks 'peak'"):
        check_device(replace(orin, sources={k: v for k, v in orin.sources.items() if k != "peak"}))
    with pytest.raises(AssertionError, match="cannot be read back: .*sources.blog"):
        check_device(replace(orin, sources={**orin.sources, "blog": "x"}))
    peaks = dict.fromkeys(orin.peak_flop_per_s, 9000000000000000.0)
    faster = tuple(replace(m, peak_flop_per_s=peaks) if m.name == "15W" else m for m in orin.power_modes)
    with pytest.raises(
        AssertionError, match="power mode 15W, with no more units, clock or bandwidth than MAXN, is faster"
    ):
        check_device(replace(orin, power_modes=faster))
    with pytest.raises(AssertionError, match="a str was given"):
        check_device("orin")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", law_names())
def test_every_bundled_law_keeps_the_contract(name: str) -> None:
    check_loss_model(load_law(name))


class Wrapped:
    """A law with one method replaced."""

    def __init__(self, **replaced: Any) -> None:
        self._law, self._replaced = load_law("gemstones"), replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name, getattr(self._law, name))


LAW = load_law("gemstones")


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (Wrapped(name=""), "name is ''"),
        (Wrapped(predict=lambda a, t, return_std=False: (np.full(3, np.nan), np.ones(3)) if return_std else 0), "losses are"),
        (Wrapped(predict=lambda a, t, return_std=False: (np.ones(3), np.zeros(3)) if return_std else np.ones(3)), "deviations are"),
        (Wrapped(predict=lambda a, t, return_std=False: (np.ones(2), np.ones(2))), r"a batch of 3 gives shapes \(2,\)"),
        (Wrapped(outside=lambda a, t: {"depth": np.array([1, 0, 0])}), r"outside\['depth'\]"),
        (Wrapped(difference=lambda a, b, t: (np.zeros(3), np.zeros(3))), "difference is not the difference"),
        (Wrapped(error_samples=lambda a, t, size, rng: rng.normal(size=(3, size))), r"shape \(3, 400\)"),
        (Wrapped(error_samples=lambda a, t, size, rng: np.random.normal(size=(size, 3))), "the generator decides"),
        (Wrapped(error_samples=lambda a, t, size, rng: 1e-3 * rng.normal(size=(size, 3))), "times the standard deviation"),
    ],
    ids=lambda v: v.replace("\\", "") if isinstance(v, str) else "",
)  # fmt: skip
def test_a_broken_law_is_told_what_is_wrong(law: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_loss_model(law)
