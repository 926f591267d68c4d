"""Which format a file has, and the table of all formats that are one file.

Guarantees: content decides, never the name; a file that no format recognizes is refused with a sentence that says what
it is. A format is one file and one `register` below; its reader is imported when such a file is met. Readers of other
distributions (`extensions`) are looked up only for a file that no built-in format recognizes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..files.path import shown_path
from ..text.lines import Fix
from . import signatures

if TYPE_CHECKING:
    from ..files.file import CheckpointFile
    from .opened import OpenedFile
    from .zip import Archive

log = logging.getLogger(__name__)

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


@dataclass(frozen=True, slots=True)
class Sample:
    """What a format is recognized by."""

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
"""Formats that are a folder, each with the function that recognizes one, given its path, the names in it and a stack
that closes files."""

FORMATS = (*dict.fromkeys(format.name for format in _formats), *signatures.INDEXED, *FOLDERS)
"""The names of everything that is read without another distribution."""

_TAKEN = ("auto", *FORMATS)
"""The names that no reader of another distribution can have."""


def known_formats(wanted: str) -> tuple[str, ...]:
    """What `checkpoint.format` may be; other distributions are looked at only if it is none of the built-in names."""
    if wanted in _TAKEN:
        return _TAKEN
    from .extensions import installed  # noqa: PLC0415  # slow, and only unknown formats need it

    return (*_TAKEN, *dict.fromkeys(point.name for point in installed(_TAKEN)))


def recognise(file: CheckpointFile, format: str = "auto") -> Recognised:
    """Finds out what a file is.

    Args:
        file: The opened file.
        format: `checkpoint.format`, which chooses where several other distributions recognize the file.

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
    expected = _ENDINGS.get(file.path.suffix.lower())
    if expected is not None and found.format not in expected:
        log.warning("%s is in the %s format, despite its name", shown_path(file.path), found.format)
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


def _foreign(sample: Sample, wanted: str) -> Recognised:
    """Asks the readers of other distributions; raises the refusal of a file that none of them recognizes."""
    from .extensions import find  # noqa: PLC0415  # a file of no built-in format alone

    found, broken = find(sample.file, sample.head, wanted, _TAKEN)
    if found is not None:
        return Recognised(*found)
    from .foreign import refusal  # noqa: PLC0415  # only what is refused needs it

    refused = [*broken, refusal(sample.file, sample.head, sample.archive)]
    raise CheckpointError("; ".join(one.message for one in refused), *(fix for one in refused for fix in one.fixes))
