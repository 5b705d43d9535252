"""Peak memory of a block."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from platform_trees import put

from codesign.profilers import memory
from codesign.profilers.memory import PeakMemory


def test_reads_the_high_water_mark_after_setting_it_back(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/clear_refs", "")
    put(tmp_path, "proc/self/status", "Name:\tpython3\nVmHWM:\t  204800 kB\n")
    with PeakMemory(tmp_path) as peak:
        assert (tmp_path / "proc/self/clear_refs").read_text() == "5"
        assert peak.peak_B() == 204800 * 1024
        put(tmp_path, "proc/self/status", "Name:\tpython3\nVmHWM:\t  409600 kB\n")
    put(tmp_path, "proc/self/status", "VmHWM:\t  999999 kB\n")
    assert peak.peak_B() == 409600 * 1024
    assert peak.note == ""


def test_falls_back_to_the_life_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = iter([1e9, 1e9, 3e9])
    monkeypatch.setattr(memory, "_life_peak_B", lambda: next(life))
    with PeakMemory(tmp_path) as peak:  # no clear_refs there
        assert peak.peak_B() == 1e9
        assert "earlier peak" in peak.note
    assert peak.peak_B() == 3e9
    assert peak.note == ""


def test_unknown_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_life_peak_B", lambda: None)
    with PeakMemory(tmp_path) as peak:
        pass
    assert peak.peak_B() is None
    assert "does not tell" in peak.note


@pytest.mark.skipif(sys.platform != "linux", reason="the block's own peak needs /proc/self/clear_refs")
def test_this_machine_sees_a_block_come_and_go() -> None:
    size = 80 * 2**20
    with PeakMemory() as large:
        block = bytearray(size)
        del block
    with PeakMemory() as small:
        pass
    first, second = large.peak_B(), small.peak_B()
    assert first is not None and second is not None
    if not large.note and not small.note:  # clear_refs may be forbidden in a sandbox
        assert first - second > 0.8 * size
