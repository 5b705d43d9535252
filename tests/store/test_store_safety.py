"""Several writers, killed writers, full disks, lost servers, foreign and newer stores: nothing recorded is lost."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import sqlalchemy
from store_records import record

from codesign.errors import CodesignError, MeasurementError, SchemaError
from codesign.store import Store, schema
from codesign.store import store as store_module

HERE = Path(__file__).parent
WRITER = """
import sys
sys.path.insert(0, {here!r})
from store_records import record
from codesign.store import Store
first, count = int(sys.argv[1]), int(sys.argv[2])
with Store({place!r}) as store:
    for number in range(first, first + count):
        store.add(record(number))
        print(number, flush=True)
"""


def writer(place: str, first: int, count: int, **options: object) -> subprocess.Popen[str]:
    script = WRITER.format(here=str(HERE), place=place)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(first), str(count)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )  # type: ignore[call-overload, no-any-return]  # fmt: skip


def test_several_processes_write_at_once(place: str) -> None:
    """They also all find no store and make it; the last two write the same records."""
    processes = [writer(place, first, 25) for first in (0, 100, 200, 200)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    with Store(place) as store:
        found = [round((m.wall_s[0] - 0.01) * 1e6) for m in store.find()]
    assert sorted(found) == [first + i for first in (0, 100, 200) for i in range(25)]
    for first in (0, 100, 200):
        own = [n for n in found if first <= n < first + 25]
        assert own == sorted(own)


def test_a_killed_process_loses_no_finished_record(place: str) -> None:
    for killed_after in (1, 7, 30):
        process = writer(place, 0, 100_000)
        assert process.stdout is not None
        printed = [int(process.stdout.readline()) for _ in range(killed_after)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        printed += [int(line) for line in rest.split("\n")[:-1]]
        assert process.returncode == -signal.SIGKILL
        with Store(place) as store:
            kept = {m.created_at for m in store.find()}
            assert {record(n).created_at for n in printed} <= kept
            store.add(record(900_000 + killed_after))
            assert store.count() == len(kept) + 1
    if "://" not in place:
        assert sqlite3.connect(place).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_sqlite_flushes_every_commit(tmp_path: Path) -> None:
    with Store(tmp_path / "m.sqlite") as store, store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def make_version_0(place: str, records: list[str]) -> None:
    """A store as it was before the first release."""
    engine = sqlalchemy.create_engine(place if "://" in place else f"sqlite:///{place}")
    if "://" not in place:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE codesign_schema (version INTEGER NOT NULL)")
        connection.exec_driver_sql("INSERT INTO codesign_schema VALUES (0)")
        connection.exec_driver_sql("CREATE TABLE codesign_measurements (id INTEGER PRIMARY KEY, record TEXT)")
        for number, text in enumerate(records, start=1):
            connection.execute(
                sqlalchemy.text("INSERT INTO codesign_measurements VALUES (:n, :t)"), {"n": number, "t": text}
            )
    engine.dispose()


def test_a_store_of_version_0_is_migrated(place: str) -> None:
    import json

    make_version_0(place, [json.dumps(record(n).to_dict()) for n in (3, 1, 3, 2)])
    with Store(place, create=False) as store:
        assert store.find() == [record(3), record(1), record(2)] == store.find(device="host")
        store.add(record(1))
        store.add(record(9))
        assert store.count() == 4
        with store._engine.begin() as connection:
            assert schema.read_version(connection) == schema.VERSION == 2


def test_a_migration_that_fails_changes_nothing(place: str) -> None:
    import json

    texts = [json.dumps(record(1).to_dict()), '{"phase": "decode"}']
    make_version_0(place, texts)
    with pytest.raises(SchemaError, match=r"record 2 cannot be read, so the store was left as it was: incomplete"):
        Store(place)
    engine = sqlalchemy.create_engine(place if "://" in place else f"sqlite:///{place}")
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT version FROM codesign_schema").scalar() == 0
        assert (
            connection.exec_driver_sql("SELECT record FROM codesign_measurements ORDER BY id").scalars().all() == texts
        )
    engine.dispose()


def test_a_newer_store_is_refused_untouched(place: str) -> None:
    with Store(place) as store:
        store.add(record())
        with store._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE codesign_schema SET version = 7")
    file = Path(place)
    before = hashlib.sha256(file.read_bytes()).digest() if file.exists() else b""
    for create in (True, False):
        with pytest.raises(SchemaError, match=r"schema has version 7; .*versions up to 2: update") as caught:
            Store(place, create=create)
        assert "\n" not in str(caught.value)
    if before:
        assert hashlib.sha256(file.read_bytes()).digest() == before


def test_what_is_not_a_store(tmp_path: Path) -> None:
    text, folder, foreign, broken = (tmp_path / name for name in ("a.txt", "folder", "b.db", "c.db"))
    text.write_text("not a database, but long enough to look at its header" * 20)
    folder.mkdir()
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE songs (title)")
    connection.commit()
    connection.close()
    with Store(broken) as store:
        store.add_all(record(n) for n in range(50))
    content = bytearray(broken.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    broken.write_bytes(content)
    for path, said in (
        (text, "not a database"),
        (folder, "not a file"),
        (foreign, "something else .tables: songs"),
        (broken, "malformed"),
    ):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(SchemaError, match=said) as caught, Store(path) as store:
            store.find()
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert not before or path.read_bytes() == before


def test_a_full_store(tmp_path: Path) -> None:
    """SQLite's own page limit gives the error of a full disk."""
    with Store(tmp_path / "m.sqlite") as store:
        with store._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 4}")
        kept = []
        with pytest.raises(MeasurementError, match="is full; free space there: what it holds is safe"):
            for number in range(1000):
                store.add(record(number))
                kept.append(record(number))
        assert len(kept) > 3 and store.find() == kept
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=100000")
        store.add(record(5000))
        assert store.count() == len(kept) + 1


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The operating system refuses to write more, in a real process."""
    place = str(tmp_path / "m.sqlite")
    Store(place).close()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    process = writer(place, 0, 100_000, preexec_fn=limit)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "MeasurementError: cannot write to the store" in errors
    with Store(place) as store:
        kept = store.find()
        assert [m.created_at for m in kept][: len(out.split())] == [record(int(n)).created_at for n in out.split()]
        assert len(out.split()) > 3
        store.add(record(500_000))


def test_a_place_that_cannot_be_written() -> None:
    """As a user who may not; root, who may, becomes nobody for the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.sqlite"
        with Store(path) as store:
            store.add(record())
        os.chmod(path, 0o444)
        os.chmod(folder, 0o555)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            for place in (path, Path(folder) / "new.sqlite", Path(folder) / "sub" / "new.sqlite"):
                with pytest.raises(
                    MeasurementError, match="give a writable place: --store or CODESIGN_STORE"
                ) as caught:
                    Store(place)
                assert str(place) in str(caught.value)
        finally:
            if root:
                os.seteuid(0)
            os.chmod(folder, 0o755)
        assert path.exists() and len(list(Path(folder).iterdir())) == 1
        with Store(path) as store:
            assert store.find() == [record()]


def test_a_busy_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path / "m.sqlite").close()
    other = sqlite3.connect(tmp_path / "m.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(store_module, "BUSY_S", 0.2)
    with Store(tmp_path / "m.sqlite", create=False) as store:
        assert store.find() == []  # readers do not wait
        with pytest.raises(MeasurementError, match="busy: another process"):
            store.add(record())
        other.execute("ROLLBACK")
        store.add(record())


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://ann:hunter2@127.0.0.1:1/fleet?sslpassword=hunter3"
    with pytest.raises(
        MeasurementError, match=r"postgresql://ann:\*\*\*@127.0.0.1:1/fleet: .*refused.*; check that"
    ) as caught:
        Store(url)
    assert "hunter" not in str(caught.value) and "\n" not in str(caught.value)


def on_server(place: str) -> sqlalchemy.Engine:
    if "://" not in place:
        pytest.skip("about a server")
    return sqlalchemy.create_engine(place, isolation_level="AUTOCOMMIT")


def test_a_wrong_password(place: str) -> None:
    on_server(place)
    wrong = sqlalchemy.make_url(place).set(password="hunter2").render_as_string(hide_password=False)
    with pytest.raises(MeasurementError, match="password authentication failed") as caught:
        Store(wrong)
    assert "hunter2" not in str(caught.value) and str(sqlalchemy.make_url(place).password) not in str(caught.value)


def test_a_connection_that_the_server_ends(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = on_server(place)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'"
    own = sqlalchemy.make_url(place).update_query_dict({"application_name": "victim"})
    monkeypatch.setattr(store_module, "RETRY_S", (0.01, 0.01))
    with Store(own.render_as_string(hide_password=False)) as store, admin.connect() as connection:
        store.add(record(0))
        connection.exec_driver_sql(end)
        store.add(record(1))  # between two records: a new connection is made

        insert, times = store._insert, []

        def ended(*arguments: object) -> object:
            times.append(1)
            result = insert(*arguments)  # type: ignore[arg-type]
            if len(times) < 3:
                connection.exec_driver_sql(end)  # in the middle of a transaction
            return result

        monkeypatch.setattr(store, "_insert", ended)
        store.add(record(2))
        assert len(times) == 3 and store.find() == [record(0), record(1), record(2)]
        times[:] = [1] * -100
        monkeypatch.setattr(store, "_insert", lambda c, r: (connection.exec_driver_sql(end), insert(c, r))[1])
        with pytest.raises(MeasurementError, match="check that the server runs"):
            store.add(record(3))
        assert store.count() == 3
    admin.dispose()


def test_a_team_database_with_other_tables(place: str) -> None:
    admin = on_server(place)
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE songs (title TEXT)")
    with Store(place, create=False) as store:
        assert not store.exists and store.find() == []
    with Store(place) as store:
        store.add(record())
    with Store(place, create=False) as store:
        assert store.exists and store.count() == 1
    admin.dispose()


def test_without_sqlalchemy(tmp_path: Path) -> None:
    (tmp_path / "sqlalchemy.py").write_text("raise ImportError('blocked for the test')")
    code = "from codesign.errors import MissingExtraError\ntry:\n    import codesign.store\nexcept MissingExtraError as e:\n    print(e)"
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True
    )  # fmt: skip
    assert "pip install 'codesign-llm[profile]'" in got.stdout
    assert issubclass(MeasurementError, CodesignError)
