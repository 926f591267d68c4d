"""What all checkpoints that are one file have in common.

Guarantees: a tensor's bytes are touched only when that tensor is asked for; checksums are compared over exactly the
bytes that the wanted tensors need, in pieces, so that memory stays flat.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from loader.errors import CheckpointError
from loader.formats.base import Container, Storage, TensorEntry
from loader.formats.checksums import Read, differing
from loader.formats.file import CheckpointFile
from loader.formats.path import shown_path
from loader.wording import counted, listing, safe_text

if TYPE_CHECKING:
    import torch


@functools.cache
def _tensor_of() -> Callable[..., torch.Tensor]:
    from loader.formats.materialise import tensor_of  # noqa: PLC0415  # an index alone needs no torch

    return tensor_of


class OpenedFile:
    """A checkpoint that is one file.

    Args:
        file: The opened file; closed by `close`.
        format: What was recognised in its content.
        root: Everything in it.
        check: `structure` leaves the checksums alone, `crc` compares those of what is used, `full` all of them.
    """

    def __init__(
        self,
        file: CheckpointFile,
        format: str,
        root: Container,
        check: str,
    ) -> None:
        self.file = file
        self.check = check
        self.path = file.path
        self.format = format
        self.root = root
        self.nbytes = file.size
        self._digest: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def read(self, entry: TensorEntry, *, mmap: bool = True) -> torch.Tensor:
        """One tensor on the CPU, in the file's dtype, shape and strides.

        Args:
            entry: One of this file's tensors.
            mmap: Whether it may look into the file's private mapping; otherwise it owns its memory.

        Raises:
            CheckpointError: Its bytes cannot be read, or contradict its layout.
        """
        return _tensor_of()(entry, self.unpack, mmap=mmap)

    def verify(self, entries: Iterable[TensorEntry], *, mmap: bool = True) -> None:
        """Compares the checksums of the bytes that these tensors need.

        Args:
            entries: Tensors of this file.
            mmap: Whether to go through the mapping, which also brings its pages in, or to read beside it.

        Raises:
            CheckpointError: Some bytes are not what was written; all damaged storages are named.
        """
        if self.check != "crc":  # not wanted, or done for all of them when the file was opened
            return
        storages = {(s.offset, s.nbytes): s for entry in entries for s in entry.storages() if s.crc32 is not None}
        self.verify_storages([storages[place] for place in sorted(storages)], mmap=mmap)

    def verify_storages(self, storages: Sequence[Storage], *, mmap: bool) -> None:
        """Compares the checksums of these storages, which must have one."""
        if not storages:
            return
        read: Read = self.file.pread
        if mmap:
            view = memoryview(self.file.mapping)
            read = lambda offset, length: view[offset : offset + length]  # noqa: E731  # called a hundred thousand times
        damaged = differing(storages, read, self.inflate)
        if damaged:
            raise CheckpointError(
                f"{shown_path(self.path)} is damaged: {counted(len(damaged), 'record')} of {len(storages):,} read "
                f"differ from what was written: {listing(s.key for s in damaged)}; damaged with them: "
                f"{listing(self._tensors_in(damaged)) or 'no tensor'}",
                "copy or download the file again",
            )

    def release(self, entry: TensorEntry) -> None:
        """Says that a mapped tensor is not looked at any more, and was not written to: its pages may leave memory."""
        for storage in entry.storages():
            if storage.data is None and storage.packed is None:
                self.file.release(storage.offset, storage.nbytes)

    def will_need(self, entries: Sequence[TensorEntry]) -> None:
        """Tells the system which bytes come next, so that it reads ahead."""
        self.file.will_need((s.offset, s.packed or s.nbytes) for e in entries for s in e.storages() if s.data is None)

    def check_unchanged(self) -> None:
        """Raises CheckpointError where the file changed since it was opened."""
        self.file.check_unchanged()

    def sha256(self) -> str:
        """Digest of the file, as 64 hexadecimal digits; computed once."""
        if self._digest is None:
            self._digest = self.file.sha256()
        return self._digest

    def close(self) -> None:
        """Closes the file; tensors that were handed out stay valid."""
        self.file.close()

    def unpack(self, storage: Storage) -> bytes:
        """Reads a whole deflated storage."""
        return b"".join(self.inflate(storage))

    def inflate(self, storage: Storage) -> Iterator[bytes]:
        """Unpacks a deflated storage piece by piece; only formats that deflate have any."""
        raise CheckpointError(f"the storage '{safe_text(storage.key)}' cannot be unpacked", "load it again")

    def _tensors_in(self, damaged: Sequence[Storage]) -> list[str]:
        places = {storage.offset for storage in damaged}
        return [
            f"{prefix}.{key}" if prefix else key
            for prefix, container in self.root.walk()
            for key, entry in container.tensors().items()
            if any(storage.offset in places for storage in entry.storages())
        ]
