"""The store of measurements and training runs: SQLite by default, PostgreSQL by URL. Import it where it is used: it needs
SQLAlchemy."""

from codesign.errors import MissingExtraError

try:
    import sqlalchemy  # noqa: F401
except ImportError as error:
    raise MissingExtraError.of("sqlalchemy", "profile", "the store of measurements") from error

from codesign.store.export import measurements_csv
from codesign.store.jsonl import read_jsonl, read_runs_jsonl, runs_to_jsonl, to_jsonl
from codesign.store.run_table import RUN_COLUMNS, run_rows, runs_csv
from codesign.store.runs import RunSet
from codesign.store.store import CampaignSummary, Store

__all__ = [
    "RUN_COLUMNS",
    "CampaignSummary",
    "RunSet",
    "Store",
    "measurements_csv",
    "read_jsonl",
    "read_runs_jsonl",
    "run_rows",
    "runs_csv",
    "runs_to_jsonl",
    "to_jsonl",
]
