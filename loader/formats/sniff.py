"""Which format a file has, and the table of all formats that are one file.

Guarantees: content decides, never the name; a file that no format recognises is refused with a sentence that says what
it is. A format is one file and one `register` below; its reader is imported when such a file is met. Readers of other
distributions (entry point group ``loader.formats``, see `Reader`) are looked up only for a file that no built-in format
recognises: they never replace one, and whatever goes wrong in them is refused with the distribution's name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CheckpointError, LoaderError
from ..files.path import shown_path
from ..text.lines import Fix, line, typed
from ..text.wording import phrases, safe_text
from . import signatures

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from ..files.file import CheckpointFile
    from .opened import OpenedFile
    from .tree import Container, TensorEntry
    from .zip import Archive

log = logging.getLogger(__name__)

GROUP = "loader.formats"
"""The entry points of other distributions' readers."""
_HEAD = 4096
_TAIL = 64 << 10
_OF_TORCH = frozenset((signatures.TORCH_ZIP, signatures.TORCH_LEGACY, signatures.TORCH_TAR, signatures.TORCHSCRIPT))
_ENDINGS = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), _OF_TORCH),
    ".safetensors": {signatures.SAFETENSORS},
    ".pt2": {signatures.TORCH_EXPORT},
    **{f".{name}": {name} for name in (signatures.GGUF, signatures.NPZ, signatures.NPY)},
    **{ending: {signatures.PICKLE, *_OF_TORCH} for ending in (".pkl", ".pickle")},
}
"""The formats that a name promises; a file of another one is logged."""


class Reader(Protocol):
    """What an entry point of another distribution names: a module or an object with these two functions."""

    def recognises(self, file: CheckpointFile, head: bytes) -> bool:
        """Whether a file is of the format; `head` is its beginning, up to 4096 bytes."""

    def read(self, file: CheckpointFile) -> Container:
        """Everything in it, with `tree.stored` for each tensor; what is wrong is raised as `file.damaged(what)`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a format is recognised by."""

    file: CheckpointFile
    head: bytes
    """Its beginning, up to 4096 bytes."""
    archive: Archive | None
    """Its table of contents, if it is a zip archive."""


@dataclass(frozen=True, slots=True)
class Format:
    """A built-in format, as `register` takes it."""

    name: str
    recognises: Callable[[Sample], bool]
    reader: str


@dataclass(frozen=True, slots=True)
class Recognised:
    """A file whose format is known."""

    format: str
    open: Callable[[str], OpenedFile]
    """Reads its index; takes `checkpoint.check`."""


_formats: list[Format] = []


def register(name: str, recognises: Callable[[Sample], bool], reader: str) -> None:
    """Adds a built-in format.

    Args:
        name: Its name in configs and reports; two readers may share one.
        recognises: Whether a file is of it; formats are asked in the order in which they were added.
        reader: ``module:Class`` below `loader.formats`; called with the file, or the archive if it is a zip archive,
            and with ``checkpoint.check``.
    """
    _formats.append(Format(name, recognises, reader))


def _begins(check: Callable[[bytes], bool]) -> Callable[[Sample], bool]:
    return lambda sample: sample.archive is None and check(sample.head)


def _holds(check: Callable[[Any], bool]) -> Callable[[Sample], bool]:
    return lambda sample: sample.archive is not None and check(sample.archive.members)


def _is_plain_pickle(sample: Sample) -> bool:
    """Whether a file is a pickle that none of the known frameworks wrote."""
    if sample.archive is not None or not signatures.is_pickle(sample.head):
        return False
    from .frameworks import OLD_PICKLE, PICKLE, name_pickle  # noqa: PLC0415  # pickles alone

    tail = sample.file.pread(max(0, sample.file.size - _TAIL), min(_TAIL, sample.file.size))
    return name_pickle(sample.head, tail) in (OLD_PICKLE, PICKLE)


register(signatures.TORCH_ZIP, _holds(signatures.is_torch_zip), "torch_zip:TorchZip")
register(signatures.TORCH_ZIP, _holds(signatures.is_policy_zip), "torch_zip:PolicyZip")
register(signatures.TORCH_LEGACY, _begins(signatures.is_torch_legacy), "torch_legacy:TorchLegacy")
register(signatures.SAFETENSORS, _begins(signatures.is_safetensors), "safetensors:SafeTensors")
register(signatures.TORCH_TAR, _begins(signatures.is_torch_tar), "torch_legacy:TorchTar")
register(signatures.TORCHSCRIPT, _holds(signatures.is_torchscript), "torch_programs:TorchScript")
register(signatures.TORCH_EXPORT, _holds(signatures.is_export), "torch_programs:ExportedProgram")
register(signatures.GGUF, _begins(signatures.is_gguf), "gguf:Gguf")
register(signatures.NPZ, _holds(signatures.is_npz), "numpy:Npz")
register(signatures.NPY, _begins(signatures.is_npy), "numpy:Npy")
register(signatures.PICKLE, _is_plain_pickle, "numpy:PickledFile")

FOLDERS = {signatures.DCP: "dcp:find_dcp", signatures.DEEPSPEED: "deepspeed:find_zero"}
"""Formats that are a folder, each with the function that recognises one, given its path, the names in it and a stack
that closes files."""

FORMATS = (*dict.fromkeys(format.name for format in _formats), *signatures.INDEXED, *FOLDERS)
"""The names of everything that is read without another distribution."""


def known_formats(wanted: str) -> tuple[str, ...]:
    """What `checkpoint.format` may be; other distributions are looked at only if it is none of the built-in names."""
    own = ("auto", *FORMATS)
    return own if wanted in own else (*own, *(point.name for point in _foreign_readers()))


def recognise(file: CheckpointFile, format: str = "auto") -> Recognised:
    """Finds out what a file is.

    Args:
        file: The opened file.
        format: `checkpoint.format`, which chooses where several other distributions recognise the file.

    Raises:
        CheckpointError: It is empty, or nothing that is read.
    """
    head = file.pread(0, min(_HEAD, file.size))
    if not head:
        raise CheckpointError(
            f"{shown_path(file.path)} is empty (0 bytes)",
            Fix(note="copy or download the file again; it may also still be being written"),
        )
    sample = Sample(file, head, _archive(file) if signatures.is_zip(head) else None)
    found = _built_in(sample) or _foreign(sample, format)
    if found is None:
        from .foreign import refusal  # noqa: PLC0415  # only what is refused needs it

        raise refusal(file, head, sample.archive)
    expected = _ENDINGS.get(file.path.suffix.lower())
    if expected is not None and found.format not in expected:
        log.warning("%s is a %s file, whatever its name says", shown_path(file.path), found.format)
    return found


def _archive(file: CheckpointFile) -> Archive:
    from .zip import Archive, UnfinishedError  # noqa: PLC0415  # this kind alone

    try:
        return Archive(file)
    except UnfinishedError as error:
        from .torch_zip import declared_bytes  # noqa: PLC0415  # a broken file alone

        declared = declared_bytes(file)
        raise (file.ends_early(declared) if declared > file.size else error) from error


def _built_in(sample: Sample) -> Recognised | None:
    for format in _formats:
        if format.recognises(sample):
            module, _, name = format.reader.partition(":")
            reader = getattr(import_module(f".{module}", __package__), name)
            return Recognised(format.name, partial(reader, sample.archive or sample.file))
    if sample.archive is None and signatures.is_damaged_safetensors(sample.head):
        raise sample.file.damaged(
            "it is a safetensors file, and its first 8 bytes are not the length of its header: they say "
            f"{int.from_bytes(sample.head[:8], 'little'):,}"
        )
    return None


def _foreign_readers() -> Sequence[EntryPoint]:
    """The readers of other distributions, by name; one that has a built-in format's name is never asked."""
    from importlib.metadata import entry_points  # noqa: PLC0415  # slow, and only unknown formats need it

    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    return [point for point in points if point.name not in {"auto", *FORMATS}]


def _foreign(sample: Sample, wanted: str) -> Recognised | None:
    found: list[tuple[EntryPoint, Reader]] = []
    for point in _foreign_readers():
        if wanted not in {"auto", point.name}:
            continue
        with _blamed(point, sample.file):
            reader: Reader = point.load()
            if reader.recognises(sample.file, sample.head):
                found.append((point, reader))
    if len(found) > 1:
        raise CheckpointError(
            f"{shown_path(sample.file.path)} is recognised by several readers: "
            f"{phrases(_called(point) for point, _ in found)}",
            *(line("checkpoint.format", point.name) for point, _ in found),
        )
    return Recognised(found[0][0].name, partial(_read, sample.file, *found[0])) if found else None


def _read(file: CheckpointFile, point: EntryPoint, reader: Reader, check: str) -> OpenedFile:
    from .opened import OpenedFile  # noqa: PLC0415  # readers of other distributions alone need it
    from .tree import Container, TensorEntry  # noqa: PLC0415

    with _blamed(point, file):
        root = reader.read(file)
        if not isinstance(root, Container):
            raise TypeError(f"expected a Container, got {type(root).__name__}")
        for prefix, container in root.walk():
            for key, node in container.children.items():
                if isinstance(node, TensorEntry) and (fault := _fault(node, file)):
                    raise ValueError(f"invalid tensor '{f'{prefix}.{key}'.lstrip('.')}': {fault}")
        return OpenedFile(file, point.name, root, check)


def _fault(entry: TensorEntry, file: CheckpointFile) -> str:
    """What is wrong with an entry that the code of others made; empty if nothing is."""
    from .limits import LARGEST_NUMBER, MOST_DIMENSIONS  # noqa: PLC0415  # readers of other distributions alone need them
    from .tree import ITEMSIZE  # noqa: PLC0415

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


@contextmanager
def _blamed(point: EntryPoint, file: CheckpointFile) -> Iterator[None]:
    """Whatever another distribution's reader raises is refused with its name; the loader's own refusals pass."""
    try:
        yield
    except LoaderError:
        raise
    except (Exception, SystemExit) as error:  # the code of others may raise anything
        raise CheckpointError(
            f"{shown_path(file.path)}: {_called(point)} failed with {type(error).__name__}: {safe_text(error, 200)}",
            typed("pip", "install", "--upgrade", point.dist.name if point.dist else "", note="or uninstall it"),
        ) from error


def _called(point: EntryPoint) -> str:
    owner = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"the reader '{safe_text(point.name)}'{safe_text(owner)} ({safe_text(point.value)})"
