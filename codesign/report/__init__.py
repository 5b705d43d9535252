"""What people look at: run folders and plots."""

from codesign.report.run import check_folder, frontier_csv, write_run

__all__ = ["check_folder", "frontier_csv", "write_run"]
