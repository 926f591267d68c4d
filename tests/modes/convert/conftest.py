"""A checkpoint to convert, and where to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs import save
from tests.models import Two, filled


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(filled(Two()).state_dict(), tmp_path / "source.pt")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"
