"""What every test starts from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loader import redaction


@pytest.fixture(autouse=True)
def no_secrets() -> Iterator[None]:
    """Forgets the secrets of URLs that a test has named: a password such as ``pass`` hides the word from then on."""
    yield
    redaction._hidden.clear()
    redaction._pattern.cache_clear()
