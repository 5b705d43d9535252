"""Add and find, on SQLite and PostgreSQL."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from store_records import TINY, record

from codesign.errors import MeasurementError, SpecError
from codesign.measurement import Measurement
from codesign.store import CampaignSummary, Store
from codesign.store.place import find_place
from codesign.store.tables import row_of


def test_a_record_comes_back_as_it_was(place: str) -> None:
    with Store(place) as store:
        number = store.add(record())
    with Store(place, create=False) as store:
        assert store.find() == [record()] and store.count() == 1 and number == 1
        assert store.find()[0].cpu_s[1] == 0.1 + 0.2  # to the last bit


def test_every_filter(place: str) -> None:
    wide = TINY.evolve(d_model=128)
    kinds = [
        record(0),
        record(1, device="orin", power_mode="30W"),
        record(2, engine="onnxruntime", precision="w4a32"),
        record(3, phase="prefill", tokens=64, context_tokens=0),
        record(4, campaign="", source="trtexec", created_at=""),
        record(5, architecture=wide, flags=("drift", "few"), created_at="2026-11-23T01:00:00+02:00"),
    ]
    with Store(place) as store:
        for m in kinds:
            store.add(m)

        def found(**conditions: object) -> list[int]:
            return [kinds.index(m) for m in store.find(**conditions)]  # type: ignore[arg-type]

        assert found() == [0, 1, 2, 3, 4, 5] and found(limit=2) == [0, 1]
        assert found(device="orin") == [1] and found(device=["orin", "host"], limit=3) == [0, 1, 2]
        assert found(engine="onnxruntime") == found(precision="w4a32") == [2] and found(device=[]) == []
        assert found(phase="prefill") == [3] and found(campaign="") == found(source="trtexec") == [4]
        assert found(architecture=wide) == found(flagged=True) == [5] and found(flagged=False) == [0, 1, 2, 3, 4]
        assert found(architecture=replace(wide, family="qwen2")) == [5]
        assert found(key=kinds[0].key) == [0] and len({m.key for m in kinds}) == 6
        assert found(since="2026-11-22T10:00:00.000002Z") == [2, 3, 5] and found(since="2026-11-22T23:00:00+00:00") == [
            5
        ]
        assert found(device="host", phase="decode", flagged=False, precision="fp32") == [0, 4]
        assert (
            store.count(device="host") == 5 and store.count(campaign="none") == 0 and store.count(key=kinds[0].key) == 1
        )
        for bad in ({"since": "yesterday"}, {"limit": 0}):
            with pytest.raises(SpecError, match="yesterday|at least 1"):
                store.find(**bad)  # type: ignore[arg-type]


def test_the_same_record_is_kept_once(place: str) -> None:
    with Store(place) as store:
        numbers = [store.add(record(n)) for n in (0, 1, 0)]
        assert numbers[2] == numbers[0] != numbers[1]
        assert store.add_all([record(1), record(2), record(2), Measurement.from_dict(record(0).to_dict())]) == 1
        assert store.find() == [record(0), record(1), record(2)]
        store.add(record(0, state={"clock_Hz": 1.0}))  # anything else that differs makes it another record
        assert store.count() == 4


def test_add_all_adds_all_or_none(place: str) -> None:
    with Store(place) as store:
        with pytest.raises(MeasurementError, match="cannot be recorded"):
            store.add_all([record(0), record(1, state={"temperature": math.nan})])
        assert store.count() == 0


@pytest.mark.parametrize(
    "changes",
    [{"state": {"x": math.inf}}, {"state": {"x": object()}}, {"device": "a\0b"}, {"campaign": "\ud800"}, {"created_at": "noon"}],
    ids=lambda value: next(iter(value)),
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_before_the_store_is_asked(place: str, changes: dict[str, object]) -> None:
    with Store(place) as store:
        with pytest.raises(MeasurementError, match="cannot be recorded") as caught:
            store.add(record(0, **changes))
        assert str(caught.value).isprintable()
        store.add(record(0, state={"odd": "\0\ud800"}))  # but in free text JSON can hold it
        assert store.find()[0].state == {"odd": "\0\ud800"}


def test_the_digest_does_not_count_defaults() -> None:
    """So that a field that a later version adds, at its default, leaves records of before as they are."""
    assert row_of(record(0, flags=(), power_mode=None))["digest"] == row_of(record())["digest"]
    assert row_of(record(0, power_mode="30W"))["digest"] != row_of(record())["digest"]
    assert row_of(record(0, architecture=TINY.evolve(family="qwen2")))["digest"] != row_of(record())["digest"]


def test_campaigns(place: str) -> None:
    with Store(place) as store:
        assert store.campaigns() == []
        store.add_all(
            [record(0), record(1), record(2, campaign="second", created_at=""), record(3, engine="onnxruntime")]
        )
        shared = {"device": "host", "precision": "fp32"}
        day = "2026-11-22T10:00:00."
        assert store.campaigns() == [
            CampaignSummary(campaign="first", engine="torch", records=2, first=f"{day}000000Z", last=f"{day}000001Z", **shared),
            CampaignSummary(campaign="second", engine="torch", records=1, first=None, last=None, **shared),
            CampaignSummary(campaign="first", engine="onnxruntime", records=1, first=f"{day}000003Z", last=f"{day}000003Z", **shared),
        ]  # fmt: skip


def test_where_a_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CODESIGN_STORE", "CODESIGN_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_place().path == tmp_path / ".local/share/codesign/measurements.sqlite"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert find_place().path == tmp_path / ".local/share/codesign/measurements.sqlite"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert find_place().path == tmp_path / "xdg/codesign/measurements.sqlite"
    monkeypatch.setenv("CODESIGN_HOME", "~/home")
    assert find_place().path == tmp_path / "home/measurements.sqlite"
    monkeypatch.setenv("CODESIGN_STORE", "sqlite:///" + str(tmp_path / "a.db"))
    assert find_place().path == tmp_path / "a.db" and find_place("b.db").path == Path("b.db")
    monkeypatch.setenv("CODESIGN_STORE", "postgresql://ann@lab/fleet")
    assert find_place().path is None and find_place().url.drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    "given",
    ["mysql://u:hunter2@h/d", "postgresql+asyncpg://u:hunter2@h/d", "sqlite://", "sqlite:///:memory:", "sqlite:///a?mode=ro",
     "postgresql://u:hunter2@x@h/d", "postgresql://u:1@h:hunter2/d", "://hunter2", ""],
)  # fmt: skip
def test_a_place_that_makes_no_sense(given: str) -> None:
    with pytest.raises(SpecError, match="store") as caught:
        Store(given)
    assert "hunter2" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_missing_store_is_empty_and_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none" / "m.sqlite"
    with Store(path, create=False) as store:
        assert not store.exists and store.find() == [] and store.count() == 0 and store.campaigns() == []
        with pytest.raises(MeasurementError, match="no store"):
            store.add(record())
    assert not path.parent.exists()
