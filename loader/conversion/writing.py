"""Writes safetensors files that are there as a whole or not at all.

Guarantees: one tensor at a time is made compact and brought to the CPU, so that writing costs no more memory than the
largest of them; all files are complete on disk under names of their own before the first one takes its place, and an
error, an interruption by the user or a scheduler's signal to end leaves none of them behind.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from loader.errors import ConfigError
from loader.formats.path import shown_path
from loader.formats.safetensors import DTYPES
from loader.termination import terminable
from loader.wants import dtype_name

NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The format's own name of a dtype, by torch's."""
METADATA = "__metadata__"
"""Where a header keeps its notes: no tensor can be called so."""

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
_CHUNK = 64 << 20
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)

Write = Callable[[bytes | memoryview], None]


class Drafts:
    """Files that are being written, until they take their places together."""

    def __init__(self) -> None:
        self._drafts: dict[Path, Path] = {}
        self._placed: list[Path] = []

    def write(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        """Writes a file in full beside where it will stand.

        Raises:
            ConfigError: The disk is full, or the folder does not take it.
        """
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(draft, _FLAGS, 0o666)
            self._drafts[path] = draft
            try:
                for piece in pieces:
                    _write(descriptor, piece)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _not_written(path, error) from error

    def settle(self, first: Iterable[Path], last: Iterable[Path]) -> None:
        """Puts every file in its place, in the order in which they were written.

        Args:
            first: What has to be gone before, so that no reader takes half of the old and half of the new for a whole.
            last: What is to be gone afterwards.

        Raises:
            ConfigError: The folder does not take it.
        """
        _remove(first)
        for path, draft in self._drafts.items():
            try:
                draft.replace(path)
            except OSError as error:
                raise _not_written(path, error) from error
            self._placed.append(path)
        self._placed.clear()
        _remove(last)
        for folder in {path.parent for path in self._drafts}:
            _sync(folder)

    def discard(self) -> None:
        """Takes away everything that was written, unless all of it is in its place."""
        for path in (*self._drafts.values(), *self._placed):
            path.unlink(missing_ok=True)


@contextmanager
def drafts() -> Iterator[Drafts]:
    """Files to be written; whatever goes wrong before the end leaves none of them."""
    made = Drafts()
    with _terminable():
        try:
            yield made
        except BaseException:
            made.discard()
            raise


def _terminable() -> AbstractContextManager[None]:
    """Lets a process that a scheduler ends meanwhile tidy up; who has a handler already decides for itself."""
    return terminable() if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else nullcontext()


def pieces(tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file, piece by piece.

    Args:
        tensors: By name; each has a dtype of `NAMES` and is dense, on any device, with any strides.
        notes: Text that goes into the header.
    """
    # The widest elements first: without gaps between them, which the format forbids, each tensor is aligned.
    ordered = sorted(tensors, key=lambda name: -tensors[name].element_size())
    places, end = {}, 0
    for name in ordered:
        places[name] = (end, end := end + nbytes(tensors[name]))
    header = {METADATA: dict(notes)} | {
        name: {"dtype": NAMES[dtype_name(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": places[name]}
        for name, tensor in tensors.items()
    }
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    yield _LENGTH.pack(len(raw)) + raw
    for name in ordered:
        if tensors[name].numel():
            yield _elements(tensors[name])


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements when it is compact."""
    return tensor.numel() * tensor.element_size()


def _elements(tensor: torch.Tensor) -> memoryview:
    compact = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    return compact.reshape(-1).view(torch.uint8).numpy().data


def _write(descriptor: int, piece: bytes | memoryview) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest[:_CHUNK]) :]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{shown_path(path)}, of an earlier conversion, cannot be removed: {error.strerror}",
                f"rm {shlex.quote(shown_path(path))}",
            ) from error


def _sync(folder: Path) -> None:
    """Makes the new names last; a folder that cannot be synced (Windows, some network disks) keeps them anyway."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _not_written(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{shown_path(path)} cannot be written: {error.strerror or error}; nothing of it was left behind",
        "convert.path=FILE   # on a disk with room for it, in a folder that takes it",
    )
