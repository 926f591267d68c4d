"""Remote files of which only the header is read.

Guarantees: bytes are requested in ranges and kept once read; all ranges are of the same version; tensors' data is never
fetched this way.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..formats.index import is_index_name
from ..formats.signatures import is_safetensors
from ..text.lines import Fix
from .download import refuse_page
from .transport import Answer, Interrupted, Transport, Version, with_retries
from .urls import Url, changed_meanwhile

_FIRST = 256 << 10
"""Long enough for most headers, so that one request suffices."""


class RemoteHeader(CheckpointFile):
    """A remote file that is read in ranges.

    Args:
        url: The file.
        path: Its name in messages; no such file exists.
        transport: Closed with this file.
        head: The first bytes.
        version: Their version, with a known size.
        sibling: Opens another file of the folder.
    """

    remote = True

    def __init__(
        self,
        url: Url,
        path: Path,
        transport: Transport,
        head: bytes,
        version: Version,
        sibling: Callable[[str], CheckpointFile],
    ) -> None:
        self.path = path
        self._sibling = sibling
        self.size = version.size or 0
        self._url, self._transport, self._version = url, transport, version
        self._pieces = {0: head}
        self._mapping = None

    def sibling(self, name: str) -> CheckpointFile:
        """Opens another file of the same folder in the same way."""
        return self._sibling(name)

    @property
    def mapping(self) -> mmap.mmap:
        """Raises CheckpointError: no data is here."""
        self._refuse_data()

    def fill(self, target: memoryview, offset: int) -> None:  # noqa: ARG002  # as files take it
        """Raises CheckpointError: no data is here."""
        self._refuse_data()

    def release(self, offset: int, length: int) -> None:
        """Does nothing: the file is not mapped."""

    def open_again(self) -> int:
        """Raises CheckpointError: no data is here to read."""
        self._refuse_data()

    def check_unchanged(self) -> None:
        """Does nothing: all ranges were of the same version."""

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def _read_once(self, offset: int, length: int) -> bytes:
        for start, piece in self._pieces.items():
            if start <= offset < start + len(piece):
                return piece[offset - start : offset - start + length]
        end = min(self.size, offset + max(length, _FIRST))
        ask = partial(_read_range, self._url, self._transport, offset, end, self._version)
        self._pieces[offset] = piece = with_retries(self._url, ask)
        return piece[:length]

    def _refuse_data(self) -> NoReturn:
        raise CheckpointError(
            f"{self._url.shown} was opened for its header only; its tensors were not downloaded", Fix("mode=load")
        )


def try_header(
    url: Url, path: Path, transport: Transport, sibling: Callable[[str], CheckpointFile]
) -> RemoteHeader | None:
    """Opens a remote file for its header; None if that needs the whole file.

    It does if the server supports no ranges or declares no size, and for formats whose index is not at the start.

    Raises:
        CheckpointError: The file cannot be read.
    """
    begun = with_retries(url, lambda: _begin(url, transport))
    if begun is None:
        return None
    head, version = begun
    readable = len(head) > 8 and is_safetensors(head)
    if not readable and not is_index_name(url.name):
        return None
    return RemoteHeader(url, path, transport, head, version, sibling)


def _begin(url: Url, transport: Transport) -> tuple[bytes, Version] | None:
    with transport.open(url, 0, _FIRST) as answer:
        size = answer.version.size
        if size is None or not (answer.partial or size <= _FIRST):
            return None
        head = _exactly(answer, min(_FIRST, size))
        refuse_page(url, head, answer.said)
        return head, answer.version


def _read_range(url: Url, transport: Transport, start: int, end: int, version: Version) -> bytes:
    with transport.open(url, start, end, version.tag) as answer:
        if answer.start != start or not answer.partial or answer.version != version:
            raise changed_meanwhile(url)
        return _exactly(answer, end - start)


def _exactly(answer: Answer, length: int) -> bytes:
    """Returns this many bytes; raises Interrupted for a shorter answer, and ignores the rest of a longer one."""
    pieces, there = [], 0
    chunks = answer.chunks()
    while there < length:
        piece = next(chunks, b"")
        if not piece:
            raise Interrupted(f"was interrupted: {there:,} of {length:,} bytes received", Fix(note="try again later"))
        pieces.append(piece)
        there += len(piece)
    return b"".join(pieces)[:length]
