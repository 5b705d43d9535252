"""Measurements: what is refused, what comes back, which visits are folded together, and the statistic."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import TINY, record

from codesign.errors import MeasurementError, SchemaError
from codesign.measurement import CLOCKS, FLAGS, Measurement, observe
from codesign.profilers.base import Point

seconds = st.floats(1e-9, 1e6)
times = st.lists(seconds, min_size=1, max_size=5).map(tuple)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
facts = st.dictionaries(
    texts, st.one_of(texts, st.floats(allow_nan=False, allow_infinity=False), st.none()), max_size=3
)


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    phase = draw(st.sampled_from(["prefill", "decode"]))
    maybe = st.none() | st.floats(1e-6, 1e12)
    wall_s, clock = draw(times), draw(st.sampled_from(CLOCKS))
    epochs = draw(st.sampled_from([(), (len(wall_s),), (1,) * len(wall_s)]))
    return Measurement(
        architecture=TINY.evolve(n_layers=draw(st.integers(1, 99)), qkv_bias=draw(st.booleans())),
        precision=draw(st.sampled_from(["fp32", "w4a32"])), engine=draw(texts), engine_version=draw(texts),
        options=draw(st.dictionaries(texts, texts, max_size=3)), phase=phase, batch_size=draw(st.integers(1, 64)),
        tokens=draw(st.integers(1, 10**6)), context_tokens=draw(st.integers(0, 10**6)), device=draw(texts),
        power_mode=draw(st.none() | texts), clock=clock, wall_s=wall_s, cpu_s=wall_s[::-1],
        device_s=wall_s, epochs=epochs, peak_memory_B=draw(maybe), energy_J=draw(maybe), power_W=draw(maybe),
        state={"before": draw(facts)}, host=draw(st.dictionaries(texts, texts, max_size=2)),
        flags=tuple(draw(st.sets(st.sampled_from(sorted(FLAGS))))), campaign=draw(texts), created_at=draw(texts),
        source=draw(texts),
    )  # fmt: skip


@given(measurements())
@settings(max_examples=60, deadline=None)
def test_a_measurement_comes_back_from_json_as_it_was(m: Measurement) -> None:
    back = Measurement.from_dict(json.loads(json.dumps(m.to_dict(), allow_nan=False)))
    assert back == m and back.key == m.key and back.times == m.times


@pytest.mark.parametrize("name", ["wall_s", "cpu_s", "device_s"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1e-9, "0.1", None])
def test_times_that_cannot_be_are_refused(name: str, bad: Any) -> None:
    """Also of a clock that does not count: it stands in the record."""
    with pytest.raises(MeasurementError, match=name) as caught:
        record(**{name: (0.1, bad)})
    assert "decode at context 64, 2 layers x 64" in str(caught.value) and repr(bad) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": "train"}, "allowed: prefill, decode"), ({"clock": "sun"}, "allowed: wall, cpu, device"),
        ({"clock": "device"}, "no device times"), ({"cpu_s": ()}, "no cpu times"), ({"tokens": 0}, "tokens is 0"),
        ({"tokens": True}, "tokens is True"), ({"batch_size": 1.0}, "batch_size is 1.0"),
        ({"context_tokens": -1}, "context_tokens is -1"), ({"energy_J": 0.0}, "energy_J is 0.0"),
        ({"peak_memory_B": math.nan}, "peak_memory_B is nan"), ({"power_W": -3.0}, "power_W is -3.0"),
        ({"flags": ("odd", "few")}, "unknown flag.* odd; allowed: unsteady"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_measurement_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MeasurementError, match=said):
        record(**changes)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda d: d.pop("phase"), SchemaError, "phase"),
        (lambda d: d.update(spin=1), SchemaError, "unknown measurement field.* spin; update"),
        (lambda d: d.update(architecture=None), SchemaError, "incomplete"),
        (lambda d: d.update(wall_s=None), SchemaError, "incomplete"),
        (lambda d: d.update(cpu_s=[0.1, math.nan]), MeasurementError, "nan"),
    ],
)
def test_a_foreign_dictionary_is_refused(change: Any, error: type[Exception], said: str) -> None:
    data = record().to_dict()
    change(data)
    with pytest.raises(error, match=said):
        Measurement.from_dict(data)


def test_the_key_holds_what_decides_the_time_and_nothing_else() -> None:
    key = record().key
    same = [
        {"seconds": 9.0}, {"campaign": "x"}, {"created_at": "2026-01-01"}, {"flags": ("few",)}, {"host": {"a": "b"}},
        {"state": {"x": 1}}, {"energy_J": 1.0}, {"architecture": TINY.evolve(family="qwen3")}, {"arch": TINY},
    ]  # fmt: skip
    other = [
        {"engine": "torch"}, {"engine_version": "2"}, {"options": {"threads": "2"}}, {"options": {}}, {"device": "orin"},
        {"power_mode": "15W"}, {"precision": "w4a32"}, {"source": "llama-bench"}, {"clock": "wall"}, {"arch": TINY.evolve(d_ff=64)},
        {"point": Point.decode(65)}, {"point": Point.decode(64, 2)}, {"point": Point.prefill(64)},
        {"point": Point(phase="prefill", tokens=1, context_tokens=64)},
    ]  # fmt: skip
    assert {record(**c).key for c in same} == {key}  # type: ignore[arg-type]
    assert len({record(**c).key for c in other} | {key}) == len(other) + 1  # type: ignore[arg-type]
    assert record(options={"a": "1", "b": "2"}).key == record(options={"b": "2", "a": "1"}).key


def test_observe_folds_the_visits_of_a_pass() -> None:
    other = record(TINY, Point.prefill(8), 0.5)
    visits = [
        record(seconds=0.012, energy_J=3.0, peak_memory_B=5.0, flags=("drift",)), other,
        record(cpu_s=(0.01, 0.03, 0.008), peak_memory_B=9.0),  # median 0.010, though it holds the shortest time too
        record(seconds=0.011, energy_J=1.0, flags=("few",)),
    ]  # fmt: skip
    decode, prefill = observe(visits)
    assert (decode.first, decode.seconds, decode.visits) == (visits[0], 0.01, 3)
    assert decode.again_log == pytest.approx(math.log(1.1)) and decode.flags == ()  # those of the visit that counts
    assert decode.energy_J == 2.0 and decode.peak_memory_B == 9.0
    assert prefill.first is other and prefill.visits == 1 and math.isnan(prefill.again_log)
    assert prefill.energy_J is None and prefill.peak_memory_B is None
    assert observe([]) == []


def test_the_smallest_epoch_counts() -> None:
    """Two epochs: medians 0.03 and 0.02; the median of all five would be 0.025."""
    m = record(cpu_s=(0.03, 0.04, 0.025, 0.02, 0.02), epochs=(3, 2))
    assert m.seconds == 0.02 and observe([m])[0].seconds == 0.02
    assert record(cpu_s=m.cpu_s).seconds == 0.025
    for bad in ((3, 3), (5, 0), (6, -1), (4,), (3.0, 2.0), ("5",)):
        with pytest.raises(MeasurementError, match="do not add up to 5 cpu times"):
            record(cpu_s=m.cpu_s, epochs=bad)


@given(st.lists(times, min_size=2, max_size=6), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_statistic_does_not_depend_on_the_order_of_visits(found: list[tuple[float, ...]], random: Any) -> None:
    visits = [record(cpu_s=cpu_s) for cpu_s in found]
    one = observe(visits)[0]
    random.shuffle(visits)
    again = observe(visits)[0]
    assert (one.seconds, one.again_log) == (again.seconds, again.again_log)
    assert one.seconds == min(m.seconds for m in visits) and one.again_log >= 0
