"""Contract checks for plug-ins: engines, devices and loss models of other packages. Call them in your own tests.

Each raises AssertionError with what is wrong, what was found and what the contract is. No test framework is needed:

    from codesign.testing import check_device, check_engine, check_loss_model

    def test_contract():
        check_engine(MyEngine({}))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from codesign.architecture import Architecture, ArchitectureBatch
from codesign.devices import Device
from codesign.devices.schema import parse_device
from codesign.devices.write import device_dict
from codesign.errors import CodesignError, SpecError
from codesign.measurement import CLOCKS, Measurement
from codesign.profilers.base import Engine, LoadedModel, Point, Task, TimingSettings
from codesign.profilers.measure import run_task
from codesign.roofline.calibration import load_calibration
from codesign.roofline.cost import RooflineModel
from codesign.search.problem import LossModel
from codesign.workload import PRECISIONS, Workload

__all__ = ["check_device", "check_engine", "check_loss_model"]

_TINY = Architecture(n_layers=2, d_model=128, n_heads=4, n_kv_heads=2, d_head=32, d_ff=256, vocab_size=500)
_POINTS = (Point.prefill(16), Point.prefill(8, 2), Point.decode(16), Point.decode(31, 2))


def check_engine(engine: Engine, *, precisions: Sequence[str] | None = None) -> None:
    """An engine loads a tiny model at each precision, runs and repeats its passes, and refuses what it cannot do.

    Args:
        engine: open. precisions: check these only (default: all that it names).

    Raises:
        AssertionError: it breaks the contract of `codesign.profilers.base.Engine`.
    """
    _check_facts(engine)
    _refuses(lambda: engine.load(_TINY, "no-such-precision", max_tokens=32), "load with an unknown precision")
    for precision in precisions or engine.precisions:
        for _ in range(2):  # a model can be loaded again after it was closed
            model = engine.load(_TINY, precision, max_tokens=33)
            try:
                _check_passes(model, engine, precision)
            finally:
                model.close()
        _check_records(engine, precision)


def _check_facts(engine: Engine) -> None:
    for name in ("name", "version"):
        value = getattr(engine, name)
        _expect(isinstance(value, str) and bool(value), f"{name} is {value!r}", "a text that is not empty")
    _expect(engine.clock in CLOCKS, f"clock is {engine.clock!r}", f"one of {', '.join(CLOCKS)}")
    texts = [*engine.options, *engine.options.values()]
    _expect(all(isinstance(text, str) for text in texts), f"options are {dict(engine.options)!r}", "texts by name")
    known = bool(engine.precisions) and set(engine.precisions) <= set(PRECISIONS)
    _expect(known, f"precisions are {engine.precisions!r}", f"one or more of {', '.join(PRECISIONS)}")
    memory = engine.device_memory_B
    _expect(memory is None or 0 < memory < math.inf, f"device_memory_B is {memory!r}", "bytes above zero, or None")


def _check_passes(model: LoadedModel, engine: Engine, precision: str) -> None:
    """Every pass runs three times; runners do not disturb each other."""
    runs = [(point, model.runner(point)) for point in _POINTS]
    for _ in range(3):
        for point, run in runs:
            own = run()
            where = f"a pass ({point}) at {precision} returned {own!r}"
            if engine.clock == "device":
                good = isinstance(own, float) and 0 < own < math.inf
                _expect(good, where, "the accelerator's seconds, as the engine's clock is 'device'")
            else:
                _expect(own is None or 0 < own < math.inf, where, "None, or the accelerator's seconds")


def _check_records(engine: Engine, precision: str) -> None:
    """A visit makes one record a pass, with the engine's name, version, options and clock."""
    task = Task(
        architecture=_TINY, precision=precision, engine=engine.name, engine_options=dict(engine.options), points=_POINTS[1:3],
        device="host", settings=TimingSettings(min_repeats=2, max_repeats=2, min_time_s=0.0),
    )  # fmt: skip
    records = run_task(task, engine=engine)
    passes = [
        Point(phase=m.phase, batch_size=m.batch_size, tokens=m.tokens, context_tokens=m.context_tokens) for m in records
    ]
    _expect(tuple(passes) == task.points, f"a visit recorded {passes}", f"one record of each of {task.points}")
    for m in records:
        same = (m.engine_version, m.clock) == (engine.version, engine.clock)
        same = same and dict(engine.options).items() <= dict(m.options).items()  # a board adds its mode's own name
        _expect(same, f"a record holds {m.engine_version}, {m.options}, {m.clock}", "the engine's own facts")
        _expect(Measurement.from_dict(m.to_dict()) == m, "a record changes when it is stored", "plain values")


def check_device(device: Device) -> None:
    """A device can be written and read, each of its power modes is usable, and costs on it are possible.

    Raises:
        AssertionError: it breaks the contract of `codesign.devices.Device`.
    """
    _expect(isinstance(device, Device), f"a {type(device).__name__} was given", "a codesign.devices.Device")
    _expect(device.name.strip() == device.name != "", f"name is {device.name!r}", "a name without space around it")
    for key in ("spec", "peak", "memory_reserved"):
        _expect(bool(device.sources.get(key)), f"sources lacks {key!r}", "where these numbers come from")
    data = device_dict(device)
    try:
        back = parse_device(data, "the device")
    except CodesignError as error:
        _fail(f"its device file cannot be read back: {error}", "a device that a device file can hold")
    nominal = device if back.power_mode == device.power_mode else device.with_power_mode("default")
    _expect(
        back == nominal, "it comes back from a device file as another device", "a device that a device file can hold"
    )
    full = _times(back)
    for mode in device.power_modes:
        less = all((a or 0) <= (b or math.inf) for a, b in ((mode.n_sm, back.n_sm), (mode.clock_Hz, back.clock_Hz)))
        slow = _times(device.with_power_mode(mode.name))
        if less and mode.bandwidth_Bps <= back.bandwidth_Bps:
            where = f"power mode {mode.name}, with no more units, clock or bandwidth than {back.power_mode}, is faster"
            _expect(bool(np.all(slow >= 0.999 * full)), where, "peaks follow from units and clock")


def _times(device: Device) -> Any:
    """Seconds of the ideal roofline for a model of some size, by phase and precision; the catalogue's rates are tried too."""
    arch = Architecture(n_layers=24, d_model=1024, n_heads=16, n_kv_heads=4, d_head=64, d_ff=4096, vocab_size=32000)
    found = []
    for name in ("fp32", "fp16", "int8", "w4a16"):
        form = PRECISIONS[name]
        for rates in (None, load_calibration().rates(device, "onnxruntime", form)):
            model = RooflineModel(device=device) if rates is None else RooflineModel.of(device, rates)
            cost = model.estimate(arch, Workload(), form)
            pair = [float(cost.prefill_s), float(cost.decode_s)]
            _expect(
                all(0 < t < math.inf for t in pair), f"at {name} it takes {pair} seconds", "finite seconds above zero"
            )
            found += pair if rates is None else []
    return np.array(found)


def check_loss_model(law: LossModel, *, tokens: float = 10e9) -> None:
    """A loss model predicts possible losses with intervals, the same for one design and for a batch.

    Args:
        tokens: training tokens to ask for, inside what the model knows.

    Raises:
        AssertionError: it breaks the contract of `codesign.search.problem.LossModel`.
    """
    _expect(isinstance(law.name, str) and bool(law.name), f"name is {law.name!r}", "a text that is not empty")
    designs = [
        Architecture(
            n_layers=l, d_model=64 * h, n_heads=h, n_kv_heads=h // 4, d_head=64, d_ff=256 * h, vocab_size=50304
        )
        for l, h in ((8, 8), (12, 12), (24, 16))
    ]
    batch = ArchitectureBatch.of(designs)
    mean, std = (np.asarray(v, dtype=float) for v in law.predict(batch, tokens, return_std=True))
    _expect(mean.shape == std.shape == (3,), f"a batch of 3 gives shapes {mean.shape} and {std.shape}", "(3,) and (3,)")
    _expect(bool(np.all(np.isfinite(mean) & (mean > 0))), f"losses are {mean}", "finite nats per token above zero")
    _expect(bool(np.all(np.isfinite(std) & (std > 0))), f"standard deviations are {std}", "finite and above zero")
    _same(law.predict(batch, tokens), mean, "predict without return_std differs from predict with it")
    for i, design in enumerate(designs):
        _same(law.predict(design, tokens), mean[i], "one design differs from the same in a batch")
    for name, flags in (("outside", law.outside(batch, tokens)), ("priors", law.priors(batch))):
        _expect(isinstance(flags, Mapping), f"{name} gives a {type(flags).__name__}", "masks by name")
        for key, mask in flags.items():
            fits = np.asarray(mask).dtype == bool and np.broadcast_shapes(np.shape(mask), (3,)) == (3,)
            _expect(fits, f"{name}[{key!r}] is {mask!r}", "a mask that broadcasts to the designs")
    shifted = ArchitectureBatch.of(designs[::-1])
    gap, gap_std = (np.asarray(v, dtype=float) for v in law.difference(batch, shifted, tokens))
    _same(gap, mean - mean[::-1], "difference is not the difference of the predictions")
    _expect(
        bool(np.all(np.isfinite(gap_std) & (gap_std >= 0))),
        f"difference has standard deviations {gap_std}",
        "0 or more",
    )
    draws = law.error_samples(batch, tokens, 400, np.random.default_rng(0))
    _expect(np.shape(draws) == (400, 3), f"error_samples gives shape {np.shape(draws)}", "(size, designs): (400, 3)")
    again = law.error_samples(batch, tokens, 400, np.random.default_rng(0))
    _expect(bool(np.array_equal(draws, again)), "error_samples differs for the same generator", "the generator decides")
    ratio = np.std(draws, axis=0) / std
    _expect(
        bool(np.all(ratio > 0.5)), f"error_samples spreads {ratio} times the standard deviation", "no less than about 1"
    )


def _same(found: Any, wanted: Any, what: str) -> None:
    close = np.allclose(np.asarray(found, dtype=float), wanted, rtol=1e-9, atol=1e-12)
    _expect(bool(close), f"{what}: {found} against {wanted}", "equal values")


def _refuses(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except SpecError:
        return
    except Exception as error:
        _fail(f"{what} raises {type(error).__name__}: {error}", "a SpecError that says what is allowed")
    _fail(f"{what} is not refused", "a SpecError that says what is allowed")


def _expect(holds: bool, found: str, contract: str) -> None:
    if not holds:
        _fail(found, contract)


def _fail(found: str, contract: str) -> NoReturn:
    raise AssertionError(f"{found}; the contract: {contract}")
