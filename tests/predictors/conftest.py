from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from loss_arch import Arch


@pytest.fixture
def arch() -> Arch:
    return Arch()
