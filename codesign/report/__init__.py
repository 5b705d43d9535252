"""What people look at: run folders and plots."""

from codesign.report.run import frontier_csv, write_run

__all__ = ["frontier_csv", "write_run"]
