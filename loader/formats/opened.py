"""Opened checkpoints, and those that are one file.

Guarantees: a tensor's bytes are touched only when that tensor is asked for; checksums are compared over exactly the
bytes that the wanted tensors need, in pieces, so that memory stays flat.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..errors import CheckpointError
from ..files.file import CheckpointFile, read_ahead
from ..files.path import shown_path
from ..text.lines import Fix
from ..text.wording import counted, listing, safe_text
from .boxes import mapped
from .checksums import Read, differing
from .tree import Container, Storage, TensorEntry

if TYPE_CHECKING:
    import torch

    from .pickle.records import Global


@functools.cache
def tensor_maker() -> Callable[..., torch.Tensor]:
    """`tensor.tensor_of`, which makes the tensor of an entry."""
    from .tensor import tensor_of  # noqa: PLC0415  # an index alone needs no torch

    return tensor_of


class Combination(Protocol):
    """How the files of a list became one checkpoint."""

    @property
    def listed(self) -> Sequence[Checkpoint]:
        """The files, in the order of the list."""
        ...

    def check(self, container: Container) -> None:
        """Raises FitError if the files differ in what a container of the checkpoint holds."""
        ...

    def described(self, container: Container, *, digests: bool) -> dict[str, Any]:
        """Describes it for the report, where a container is loaded; computes the files' digests if it is to."""
        ...

    def remark(self, container: Container) -> str:
        """What is to be known of a container that is loaded; empty if there is nothing."""
        ...


class Checkpoint(ABC):
    """An opened checkpoint: its index, and one tensor's data on demand.

    Args:
        path: The file or folder that was given, absolute.
        format: ``torch-zip``, ``safetensors-sharded`` and so on.
        root: Everything in it. A file whose root is a single tensor has it under the key ``""``.
        nbytes: Size of all its files.
    """

    place: Path
    """The file in that folder, the index of several files, or the folder itself if it is read as a whole."""
    note: str
    """The decision taken where there was a choice, for the report; empty where there was none."""
    in_memory: bool = False
    """Whether its values are the caller's own objects."""
    combination: Combination | None = None
    """How it was made of several files; None for any other."""

    def __init__(self, path: Path, format: str, root: Container, nbytes: int) -> None:
        self.path = self.place = path
        self.format = format
        self.root = root
        self.nbytes = nbytes
        self.note = ""
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
            entry: One of this checkpoint's tensors.
            mmap: Whether it may be a view of the file's private copy-on-write mapping; otherwise it owns its memory.

        Raises:
            CheckpointError: Its bytes cannot be read, or contradict its layout.
        """
        return tensor_maker()(self.located(entry), self.unpack, mmap=mmap)

    def located(self, entry: TensorEntry) -> TensorEntry:
        """The entry with the location of its bytes, for formats that look for it only when asked."""
        return entry

    def unpack(self, storage: Storage) -> bytes:
        """Reads a whole deflated storage."""
        return b"".join(self.inflate(storage))

    def inflate(self, storage: Storage) -> Iterator[bytes]:
        """Unpacks a deflated storage piece by piece, to exactly the size it declares."""
        raise CheckpointError(f"the storage '{safe_text(storage.key)}' cannot be unpacked", Fix(note="load it again"))

    @abstractmethod
    def verify(self, entries: Iterable[TensorEntry], *, mmap: bool = True) -> None:
        """Compares the checksums of the bytes that these tensors need.

        Args:
            entries: Tensors of this checkpoint.
            mmap: Whether to read through the mapping, which also loads its pages; if not, a file that is cut short
                meanwhile cannot end the process.

        Raises:
            CheckpointError: A checksum differs; everything damaged is named.
        """

    def release(self, entry: TensorEntry) -> None:
        """Drops the cached pages of a mapped tensor that is no longer needed and was never written."""
        for file, start, length in mapped(self.located(entry)):
            file.release(start, length)

    @abstractmethod
    def will_need(self, entries: Sequence[TensorEntry]) -> None:
        """Makes the system read ahead the bytes of these tensors."""

    @abstractmethod
    def check_unchanged(self) -> None:
        """Raises CheckpointError if a file changed since it was opened."""

    def sha256(self) -> str:
        """Digest of all its files, as 64 hexadecimal digits; computed once."""
        if self._digest is None:
            self._digest = self.digest()
        return self._digest

    @abstractmethod
    def digest(self) -> str:
        """Reads the files for `sha256`."""

    def titled(self, name: Callable[[Path], str]) -> str:
        """Names it, as it is recorded next to what is made of it.

        Args:
            name: Names one file.
        """
        return name(self.path)

    @property
    def label(self) -> str:
        """Its name in messages."""
        return shown_path(self.path)

    @property
    def places(self) -> Sequence[Path]:
        """The `place` of each checkpoint that is read."""
        return (self.place,)

    @property
    @abstractmethod
    def files(self) -> Sequence[CheckpointFile]:
        """The opened files, the indexes of several first; none for what is in memory."""

    @property
    def named(self) -> Mapping[str, Global]:
        """Every global that its pickles name, whether it is used or not, by full name."""
        return {name: found for file in self.files for name, found in file.named.items()}

    @abstractmethod
    def close(self) -> None:
        """Closes the files; tensors that were handed out stay valid."""


class Found(Protocol):
    """A recognized file or folder whose index is not read yet."""

    @property
    def format(self) -> str:
        """``torch-zip``, ``safetensors-sharded`` and so on."""
        ...

    def open(self, check: str) -> Checkpoint:
        """Reads its index; takes ``checkpoint.check``."""
        ...

    def sha256(self) -> str:
        """Digest of the file, or of all its files, as 64 hexadecimal digits."""
        ...


class OpenedFile(Checkpoint):
    """A checkpoint that is one file.

    Args:
        file: The opened file; closed by `close`.
        format: Its name in reports.
        root: Everything in it.
        check: `structure` compares no checksums, `crc` those of the tensors in use, `full` all of them.
    """

    def __init__(
        self,
        file: CheckpointFile,
        format: str,
        root: Container,
        check: str,
    ) -> None:
        super().__init__(file.path, format, root, file.size)
        self.file = file
        self.check = check

    def verify(self, entries: Iterable[TensorEntry], *, mmap: bool = True) -> None:
        """Compares the checksums of the bytes of this file that these tensors need."""
        if self.check != "crc":  # not requested, or done when the file was opened
            return
        file = self.file
        own = (s for entry in entries for s in entry.storages() if s.crc32 is not None and s.file is file)
        storages = {(s.offset, s.nbytes): s for s in own}
        self.verify_storages([storages[place] for place in sorted(storages)], mmap=mmap)

    def verify_storages(self, storages: Sequence[Storage], *, mmap: bool) -> None:
        """Compares the checksums of these storages, which must have one."""
        if not storages:
            return
        read: Read = self.file.pread
        if mmap:
            view = memoryview(self.file.mapping)
            read = lambda offset, length: view[offset : offset + length]  # noqa: E731  # called a hundred thousand times
        damaged = differing(storages, read, self.inflate, f"checking {self.path.name}")
        if damaged:
            raise CheckpointError(
                f"{shown_path(self.path)} is damaged: checksum mismatch in {counted(len(damaged), 'record')} of "
                f"{len(storages):,} read: {listing(s.key for s in damaged)}; damaged with them: "
                f"{listing(self.tensors_in(damaged)) or 'no tensor'}",
                Fix(note="copy or download the file again"),
            )

    def will_need(self, entries: Sequence[TensorEntry]) -> None:
        """Makes the system read ahead the bytes of these tensors."""
        read_ahead([(self.file, self.ranges(entries))])

    def ranges(self, entries: Iterable[TensorEntry]) -> Iterator[tuple[int, int]]:
        """Offsets and lengths of the bytes of these tensors in this file."""
        file = self.file
        for entry in entries:
            for storage in entry.storages():
                if storage.file is file:
                    yield storage.offset, storage.nbytes if storage.packed is None else storage.packed

    def check_unchanged(self) -> None:
        """Raises CheckpointError if the file changed since it was opened."""
        self.file.check_unchanged()

    def digest(self) -> str:
        """The file's own digest."""
        return self.file.sha256()

    @property
    def files(self) -> Sequence[CheckpointFile]:
        """The file."""
        return (self.file,)

    def close(self) -> None:
        """Closes the file; tensors that were handed out stay valid."""
        self.file.close()

    def tensors_in(self, damaged: Sequence[Storage]) -> list[str]:
        """The names of the tensors in these storages."""
        places = {storage.offset for storage in damaged}
        return [
            f"{prefix}.{key}" if prefix else key
            for prefix, container in self.root.walk()
            for key, entry in container.tensors().items()
            if any(storage.offset in places for storage in entry.storages())
        ]
