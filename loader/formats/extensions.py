"""Readers of other distributions, by the entry point group ``loader.formats``.

Guarantees: they are asked only about a file that no built-in format recognizes, and never replace one. Whatever goes
wrong in one is refused with its distribution's name, and keeps no other reader from being asked. A result is checked
before it is used: every key is text, and every tensor lies in the file.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from ..errors import CheckpointError, blamed
from ..files.file import CheckpointFile
from ..files.path import shown_path
from ..text.lines import NO_FIX, Fix, line, typed
from ..text.wording import phrases, safe_text
from .limits import LARGEST_NUMBER, MOST_DIMENSIONS
from .opened import OpenedFile
from .tree import ITEMSIZE, Container, Leaf, TensorEntry

log = logging.getLogger(__name__)

GROUP = "loader.formats"
"""The entry points of other distributions' readers."""

Found = tuple[str, Callable[[str], OpenedFile]]
"""A format's name, and the function that reads the file's index; it takes `checkpoint.check`."""


class Reader(Protocol):
    """What an entry point of another distribution names: a module or an object with these two functions."""

    def recognises(self, file: CheckpointFile, head: bytes) -> bool:
        """Whether a file is of the format; `head` is its beginning, up to 4096 bytes."""

    def read(self, file: CheckpointFile) -> Container:
        """Everything in it, with `tree.stored` for each tensor; what is wrong is raised as `file.damaged(what)`."""


def installed(taken: Collection[str], *, log_others: bool = False) -> list[EntryPoint]:
    """Returns the readers of other distributions, by name.

    Args:
        taken: The names that none of them can have; a reader that has one, or no name, is never asked.
        log_others: Whether to log those.
    """
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    for point in points if log_others else ():
        if point.name in taken:
            log.warning("%s is never asked: a built-in format has that name", _called(point))
        elif not point.name:
            log.warning("%s is never asked: it has no name", _called(point))
    return [point for point in points if point.name and point.name not in taken]


def find(
    file: CheckpointFile, head: bytes, wanted: str, taken: Collection[str]
) -> tuple[Found | None, Sequence[CheckpointError]]:
    """Asks the readers of other distributions about a file.

    Args:
        file: The opened file.
        head: Its beginning.
        wanted: `checkpoint.format`; ``auto`` asks all of them.
        taken: The names that none of them can have.

    Returns:
        The one that recognizes the file, if any; and otherwise the refusals of those that failed.

    Raises:
        CheckpointError: Several recognize it.
    """
    found: list[tuple[EntryPoint, Reader]] = []
    broken: list[CheckpointError] = []
    for point in installed(taken, log_others=True):
        if wanted in {"auto", point.name}:
            try:
                with _blamed(point, file):
                    reader = _loaded(point)
                    if reader.recognises(file, head):
                        found.append((point, reader))
            except CheckpointError as error:
                broken.append(error)
    if len(found) > 1:
        points = [point for point, _ in found]
        several = f"{shown_path(file.path)} is recognized by several readers: {phrases(map(_called, points))}"
        raise CheckpointError(several, *_choices(points))
    if not found:
        return None, broken
    for failure in broken:
        log.warning("%s", failure.message)
    return (found[0][0].name, partial(_read, file, *found[0])), ()


def _choices(points: Sequence[EntryPoint]) -> list[Fix]:
    """Returns a line for each reader, which chooses it; of those that share a name, the line that removes it."""
    names = Counter(point.name for point in points)
    return [
        line("checkpoint.format", point.name)
        if names[point.name] == 1
        else (typed("pip", "uninstall", owner) if (owner := _owner(point)) else NO_FIX)
        for point in points
    ]


def _loaded(point: EntryPoint) -> Reader:
    if not EntryPoint.pattern.match(point.value):
        raise ValueError("invalid entry point, expected a module, or module:object")
    reader: Reader = point.load()
    return reader


def _read(file: CheckpointFile, point: EntryPoint, reader: Reader, check: str) -> OpenedFile:
    with _blamed(point, file):
        root = reader.read(file)
        if not isinstance(root, Container):
            raise TypeError(f"expected a Container, got {type(root).__name__}")
        for prefix, container in root.walk():
            for key, node in container.children.items():
                _refuse_invalid(f"{prefix}.{key}".lstrip("."), key, node, file)
        try:
            file.pread(0, 1)
        except CheckpointError as error:
            raise ValueError(f"it left the file unreadable: {error.message}") from error
        return OpenedFile(file, point.name, root, check)


def _refuse_invalid(where: str, key: object, node: object, file: CheckpointFile) -> None:
    if not isinstance(key, str):
        raise TypeError(f"invalid key '{where}': expected text, got {type(key).__name__}")
    if not isinstance(node, Container | TensorEntry | Leaf):
        raise TypeError(
            f"invalid entry '{where}': expected a Container, TensorEntry or Leaf, got {type(node).__name__}"
        )
    if isinstance(node, TensorEntry) and (fault := _fault(node, file)):
        raise ValueError(f"invalid tensor '{where}': {fault}")


def _fault(entry: TensorEntry, file: CheckpointFile) -> str:
    """Returns the fault of an entry that the code of others made; empty if it has none."""
    storage, numbers = entry.storage, (*entry.shape, *entry.stride, entry.offset)
    if entry.layout != "strided" or entry.components or entry.pieces or storage is None:
        return "expected a strided tensor with one storage"
    if entry.dtype not in ITEMSIZE:
        return f"unknown dtype {entry.dtype}"
    if len(entry.shape) != len(entry.stride) or len(entry.shape) > MOST_DIMENSIONS:
        return "shape and stride must have the same length"
    if not all(type(number) is int and 0 <= number < LARGEST_NUMBER for number in numbers):
        return "shape, stride and offset must be non-negative integers"
    last = entry.offset + sum((size - 1) * step for size, step in zip(entry.shape, entry.stride, strict=True))
    if 0 not in entry.shape and (last + 1) * ITEMSIZE[entry.dtype] > storage.nbytes:
        return "it reaches beyond its storage"
    if storage.data is not None:
        return "" if len(storage.data) == storage.nbytes else "its storage has another size than its bytes"
    inside = storage.file is file and 0 <= storage.offset <= storage.offset + storage.nbytes <= file.size
    return "" if inside and storage.packed is None else "its storage is not in the file"


def _blamed(point: EntryPoint, file: CheckpointFile) -> AbstractContextManager[None]:
    """Refuses whatever another distribution's reader raises with its name; the loader's own refusals pass."""
    owner = _owner(point)
    upgrade = typed("pip", "install", "--upgrade", owner, note="or uninstall it") if owner else NO_FIX
    code = f"{shown_path(file.path)}: {_called(point)}"
    return blamed(code, CheckpointError, upgrade or Fix(note="reinstall or remove that package"))


def _called(point: EntryPoint) -> str:
    """Names a reader with its distribution."""
    name, value = safe_text(point.name), safe_text(point.value)
    if owner := _owner(point):
        return f"the reader '{name}' of {safe_text(owner)} {safe_text(point.dist and point.dist.version)} ({value})"
    folder = f" in {point.dist.locate_file('')}" if point.dist else ""
    return f"the reader '{name}' of a package without metadata{safe_text(folder, 400)} ({value})"


def _owner(point: EntryPoint) -> str:
    """Returns the name of the distribution that a reader comes from; empty if its metadata is absent."""
    try:
        return (point.dist.name if point.dist else "") or ""
    except (KeyError, TypeError, OSError):  # as the version of Python has it
        return ""
