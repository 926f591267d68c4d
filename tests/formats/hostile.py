"""Writes torch files that say whatever a test wants them to say."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch


class Call:
    """Pickles as a call of a function, optionally with a state; nothing is called here."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.function, self.args, self.state = function, args, state

    def __reduce__(self) -> Any:
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


class StorageOf:
    """Pickles as a reference to a storage."""

    def __init__(self, key: Any, count: Any, kind: Any = torch.FloatStorage, location: Any = "cpu") -> None:
        self.pid = ("storage", kind, key, location, count)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, StorageOf) else None


def pickled(found: Any) -> bytes:
    """Pickles as torch does."""
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(found)
    return stream.getvalue()


def torch_zip(path: Path, found: Any, **storages: bytes) -> Path:
    """Writes an archive like torch's with this object, or these bytes, as its pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", found if isinstance(found, bytes) else pickled(found))
        archive.writestr("archive/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key.lstrip('_')}", content)
        archive.writestr("archive/version", "3\n")
    return path


def view(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Call:
    """A dense tensor."""
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, None, *more)
