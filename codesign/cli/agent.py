"""`codesign agent` (hidden): what `codesign profile --on` starts on a board."""

from __future__ import annotations

import typer

__all__ = ["agent"]


def agent() -> None:
    """Run the tasks that come on standard input; `codesign profile --on user@host` starts this over ssh."""
    from codesign.campaign.agent import run_agent

    raise typer.Exit(run_agent())
