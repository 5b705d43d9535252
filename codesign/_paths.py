"""Where codesign keeps what belongs to a person and not to one run: measurements, calibrated device files."""

from __future__ import annotations

import os
from pathlib import Path

from codesign.errors import SpecError

__all__ = ["user_folder"]


def user_folder() -> Path:
    """The data folder: $CODESIGN_HOME, else $XDG_DATA_HOME/codesign, else ~/.local/share/codesign. It is not created here.

    A relative $XDG_DATA_HOME counts as unset, as the XDG Base Directory Specification asks.

    Raises:
        SpecError: no home folder is known.
    """
    if home := os.environ.get("CODESIGN_HOME"):
        return Path(home).expanduser()
    xdg = Path(os.environ.get("XDG_DATA_HOME", ""))
    try:
        return (xdg if xdg.is_absolute() else Path.home() / ".local" / "share") / "codesign"
    except RuntimeError as error:
        raise SpecError("no home folder is known; set CODESIGN_HOME to a folder for codesign's data") from error
