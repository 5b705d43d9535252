"""Where a store is: a file (SQLite) or a PostgreSQL server; and its name without passwords, for messages."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from codesign._paths import user_folder
from codesign.errors import MissingExtraError, SpecError

__all__ = ["Place", "find_place"]

_ALLOWED = "a path, sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """url: for SQLAlchemy; path: of the file, None for a server; name: to show, without passwords; secrets: never shown."""

    url: URL
    path: Path | None
    name: str
    secrets: tuple[str, ...] = ()

    def hide(self, text: str) -> str:
        """`text` on one line, without this place's passwords."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())


def find_place(url_or_path: str | os.PathLike[str] | None = None) -> Place:
    """Resolve a URL or path; without one, $CODESIGN_STORE, else measurements.sqlite in `user_folder()`.

    Raises:
        SpecError: a URL of another kind, or one that cannot be read.
        MissingExtraError: PostgreSQL without its driver.

    Example:
        >>> find_place("postgresql://ann:secret@lab/fleet").name
        'postgresql://ann:***@lab/fleet'
    """
    given = os.fspath(url_or_path if url_or_path is not None else os.environ.get("CODESIGN_STORE") or "")
    if not given:
        if url_or_path is not None:
            raise SpecError(f"the store's place is empty; give {_ALLOWED}")
        return _file(user_folder() / "measurements.sqlite")
    if "://" not in given:
        return _file(Path(given))
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):  # its message may quote the password
        raise SpecError(f"the store's URL cannot be read; allowed: {_ALLOWED}") from None
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if not url.database or url.database == ":memory:" or url.query:
            raise SpecError("a SQLite store is a file, without options; write sqlite:///PATH or just the path")
        return _file(Path(url.database))
    if url.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise SpecError(f"a store cannot be of kind '{url.drivername}'; allowed: {_ALLOWED}")
    if "@" in (url.host or ""):
        raise SpecError("the store's URL has two '@'; write an '@' in the password as %40")
    return _server(url)


def _file(path: Path) -> Place:
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise SpecError(f"{path}: that home folder is not known; give a full path") from error
    return Place(url=URL.create("sqlite+pysqlite", database=str(path)), path=path, name=str(path))


def _server(url: URL) -> Place:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of("psycopg", "postgresql", "a PostgreSQL store") from error
    hidden = {key: value for key, value in url.query.items() if "password" in key.lower()}
    secrets = [text for value in hidden.values() for text in ((value,) if isinstance(value, str) else value)]
    shown = url.set(drivername="postgresql", query={k: v for k, v in url.query.items() if k not in hidden})
    if url.password:
        secrets.append(url.password)
    return Place(
        url=url.set(drivername="postgresql+psycopg"),
        path=None,
        name=shown.render_as_string(hide_password=True),
        secrets=tuple(secrets),
    )
