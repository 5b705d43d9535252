"""The store of measurements: SQLite by default, PostgreSQL by URL. Import it where it is used: it needs SQLAlchemy."""

from codesign.errors import MissingExtraError

try:
    import sqlalchemy  # noqa: F401
except ImportError as error:
    raise MissingExtraError.of("sqlalchemy", "profile", "the store of measurements") from error

from codesign.store.export import measurements_csv
from codesign.store.jsonl import read_jsonl, to_jsonl
from codesign.store.store import CampaignSummary, Store

__all__ = ["CampaignSummary", "Store", "measurements_csv", "read_jsonl", "to_jsonl"]
