"""Notes what is unpacked out of archives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loader.formats.archived import Records
from loader.formats.tree import Storage


def note_unpacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the records that are unpacked from now on, as often as they are."""
    unpacked: list[str] = []
    inflate = Records.inflate

    def noted(self: Records, storage: Storage) -> Iterator[bytes]:
        unpacked.append(storage.key)
        return inflate(self, storage)

    monkeypatch.setattr(Records, "inflate", noted)
    return unpacked
