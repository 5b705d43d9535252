"""No test reads or writes the folder of the person who runs the tests."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

_SAVED = pytest.StashKey[dict[str, "str | None"]]()


def pytest_configure(config: pytest.Config) -> None:
    """An empty data folder for the whole session, doctests and subprocesses included."""
    config.stash[_SAVED] = {name: os.environ.get(name) for name in ("CODESIGN_HOME", "CODESIGN_STORE")}
    os.environ["CODESIGN_HOME"] = tempfile.mkdtemp(prefix="codesign-tests-")
    os.environ.pop("CODESIGN_STORE", None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """As it was."""
    shutil.rmtree(os.environ["CODESIGN_HOME"], ignore_errors=True)
    for name, value in config.stash[_SAVED].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
