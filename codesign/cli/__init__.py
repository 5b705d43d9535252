"""The command line: thin; one file a command."""

from codesign.cli.main import main

__all__ = ["main"]
