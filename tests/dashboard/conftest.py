"""Needs Flask; a dashboard on an empty folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flask", reason="the extra 'dashboard' is not installed")

from dashboard_pages import Browser  # noqa: E402


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Nothing is there yet: neither results nor a store."""
    opened = Browser(tmp_path)
    yield opened
    opened.jobs.close()
