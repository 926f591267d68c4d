"""Which format a file has.

Guarantees: content decides, never the name; what is recognised and not read, and what is not recognised, is refused
with a sentence of its own. A new format is one file with a class like the others, its name in `FORMATS`, and a line in
`recognise`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from loader.errors import CheckpointError
from loader.formats import (
    exported,
    gguf,
    gguf_header,
    npy,
    npz,
    safetensors,
    torch_legacy,
    torch_tar,
    torch_zip,
    torchscript,
)
from loader.formats.archived import torch_folder
from loader.formats.file import CheckpointFile
from loader.formats.foreign import Foreign, name_foreign, name_zip
from loader.formats.opened import OpenedFile
from loader.formats.path import shown_path
from loader.formats.zip import LOCAL_SIGNATURE, Archive

_HEAD = 4096
_EMPTY_ZIP = b"PK\x05\x06"

FORMATS = (
    torch_zip.FORMAT,
    torch_legacy.FORMAT,
    torch_tar.FORMAT,
    torchscript.FORMAT,
    exported.FORMAT,
    safetensors.FORMAT,
    gguf.FORMAT,
    npz.FORMAT,
    npy.FORMAT,
)
"""The names of what is read."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """A file whose format is known."""

    format: str
    open: Callable[[str], OpenedFile]
    """Reads its index; takes `checkpoint.check`."""


def recognise(file: CheckpointFile) -> Recognised:
    """Finds out what a file is.

    Raises:
        CheckpointError: It is empty, or nothing that is read.
    """
    head = file.pread(0, min(_HEAD, file.size))
    if not head:
        raise CheckpointError(
            f"{shown_path(file.path)} is empty (0 bytes)",
            "copy or download the file again; it may also still be being written",
        )
    if head.startswith((LOCAL_SIGNATURE, _EMPTY_ZIP)):
        return _recognise_zip(Archive(file))
    if torch_legacy.is_legacy(head):
        return Recognised(torch_legacy.FORMAT, partial(torch_legacy.TorchLegacy, file))
    if safetensors.is_safetensors(head):
        return Recognised(safetensors.FORMAT, partial(safetensors.SafeTensors, file))
    if torch_tar.is_old_tar(head):
        return Recognised(torch_tar.FORMAT, partial(torch_tar.TorchTar, file))
    if head.startswith(gguf_header.MAGIC):
        return Recognised(gguf.FORMAT, partial(gguf.Gguf, file))
    if head.startswith(npy.MAGIC):
        return Recognised(npy.FORMAT, partial(npy.Npy, file))
    raise _refused(file, name_foreign(head))


def _recognise_zip(archive: Archive) -> Recognised:
    exported_in = exported.export_folder(archive)
    if exported_in is not None:
        return Recognised(exported.FORMAT, partial(exported.ExportedProgram, archive, exported_in))
    if npz.is_npz(archive):
        return Recognised(npz.FORMAT, partial(npz.Npz, archive))
    if torch_folder(archive.members) is None:
        raise _refused(archive.file, name_zip(list(archive.members)))
    if torchscript.is_torchscript(archive):
        return Recognised(torchscript.FORMAT, partial(torchscript.TorchScript, archive))
    return Recognised(torch_zip.FORMAT, partial(torch_zip.TorchZip, archive))


def _refused(file: CheckpointFile, foreign: Foreign) -> CheckpointError:
    path = shown_path(file.path)
    return CheckpointError(f"{path} is {foreign.what}", foreign.hint.replace("{file}", path))
