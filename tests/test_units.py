"""Units at the edge: GB is 1e9, a number without a unit is refused, what is shown reads back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.errors import SpecError
from codesign.units import (
    format_bytes,
    format_count,
    format_energy,
    format_power,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_energy,
    parse_power,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_seconds, "20ms", 0.020),
        (parse_seconds, " 1.5 s ", 1.5),
        (parse_seconds, "250us", 250e-6),
        (parse_seconds, "250µs", 250e-6),  # the micro sign
        (parse_seconds, "250μs", 250e-6),  # the Greek letter
        (parse_seconds, "7ns", 7e-9),
        (parse_seconds, "2min", 120.0),
        (parse_seconds, ".5s", 0.5),
        (parse_seconds, "1e-3s", 1e-3),
        (parse_bytes, "8GB", 8e9),
        (parse_bytes, "8gb", 8e9),
        (parse_bytes, "8GiB", 8 * 2**30),
        (parse_bytes, "1,024 B", 1024.0),
        (parse_power, "15W", 15.0),
        (parse_power, "1.2kW", 1200.0),
        (parse_power, "5mW", 0.005),
        (parse_power, "5MW", 5e6),  # not 5 mW
        (parse_energy, "250mJ", 0.25),
        (parse_energy, "1MJ", 1e6),
        (parse_energy, "3 J", 3.0),
        (parse_count, "10B", 1e10),
        (parse_count, "350M", 3.5e8),
        (parse_count, "1_000_000", 1e6),
        (parse_count, "1.5e9", 1.5e9),
        (parse_count, "2T", 2e12),
    ],
)
def test_parse(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_seconds, "20"), (parse_seconds, "20 parsecs"), (parse_seconds, ""), (parse_seconds, "ms"),
        (parse_seconds, "-1ms"), (parse_seconds, "0s"), (parse_seconds, "1e400s"), (parse_seconds, "nan s"),
        (parse_seconds, "inf s"), (parse_seconds, "1.2.3s"), (parse_seconds, "5m"), (parse_seconds, "1,2s"),
        (parse_bytes, "8"), (parse_bytes, "8GHz"), (parse_power, "15"), (parse_power, "15 watts"),
        (parse_energy, "1Wh"), (parse_count, "ten"), (parse_count, "10X"), (parse_count, "-5"), (parse_count, "1e-400"),
    ],
)  # fmt: skip
def test_what_is_refused_says_what_is_allowed(parse: Callable[..., float], text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text, "--option")
    line = str(caught.value)
    assert line.startswith(f"--option '{text}'") and "write for example" in line and "\n" not in line


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (format_seconds, 0.0193, "19.3 ms"),
        (format_seconds, 1.0, "1 s"),
        (format_seconds, 1234.5, "1234 s"),
        (format_seconds, 2.5e-9, "0.0025 us"),
        (format_seconds, 0.0, "0 us"),
        (format_seconds, float("nan"), "-"),
        (format_bytes, 8e9, "8 GB"),
        (format_bytes, 2**30, "1.07 GB"),
        (format_bytes, 999.0, "999 B"),
        (format_count, 494032768, "494M"),
        (format_count, 12, "12"),
        (format_energy, 0.42, "420 mJ"),
        (format_power, 450.0, "450 W"),
    ],
)
def test_format(show: Callable[[float], str], value: float, text: str) -> None:
    assert show(value) == text


PAIRS = [
    (format_seconds, parse_seconds), (format_bytes, parse_bytes), (format_count, parse_count),
    (format_energy, parse_energy), (format_power, parse_power),
]  # fmt: skip


@pytest.mark.parametrize(("show", "parse"), PAIRS)
@given(value=st.floats(1e-5, 1e13))
def test_what_is_shown_reads_back(show: Callable[..., str], parse: Callable[[str], float], value: float) -> None:
    assert parse(show(value, 4)) == pytest.approx(value, rel=5.1e-4)


@given(text=st.text(max_size=12))
def test_any_text_is_a_number_or_a_clear_error(text: str) -> None:
    for parse in (parse_seconds, parse_bytes, parse_power, parse_energy, parse_count):
        with contextlib.suppress(SpecError):
            assert parse(text) > 0
