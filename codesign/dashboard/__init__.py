"""The dashboard: the runs of a results folder and the records of a store, on localhost (Flask, imported when it starts)."""

from codesign.dashboard.serve import Settings, serve

__all__ = ["Settings", "serve"]
