"""The same tests run on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a test's own empty store goes: a file, or a schema of the server."""
    if request.param == "sqlite":
        yield str(tmp_path / "new folder" / "measurements.sqlite")
        return
    given = os.environ.get("CODESIGN_TEST_POSTGRESQL")
    if not given:
        pytest.skip("CODESIGN_TEST_POSTGRESQL is not set; run with: .ci/postgresql make test")
    url = sqlalchemy.make_url(given)
    name = f"test_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    own = url.update_query_dict({"options": f"-csearch_path={name}"})
    yield own.render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    engine.dispose()
