"""Which format a file has.

Guarantees: content decides, never the name; what is recognised and not read, and what is not recognised, is refused
with a sentence of its own. A new format is one file with a class like the others, its name in `FORMATS`, and a line in
`_recognise` or `_recognise_zip`; only the readers that most runs need are imported at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from loader.errors import CheckpointError
from loader.formats import names, safetensors
from loader.formats.archives.archived import torch_folder
from loader.formats.archives.zip import LOCAL_SIGNATURE, Archive, UnfinishedError
from loader.formats.file import CheckpointFile
from loader.formats.opened import OpenedFile
from loader.formats.path import shown_path
from loader.formats.torch_files import torch_legacy, torch_zip

log = logging.getLogger(__name__)

_HEAD = 4096
_EMPTY_ZIP = b"PK\x05\x06"

FORMATS = (torch_zip.FORMAT, torch_legacy.FORMAT, safetensors.FORMAT, *names.RARE)
"""The names of what is read."""
_OF_TORCH = frozenset((torch_zip.FORMAT, torch_legacy.FORMAT, names.TORCH_TAR, names.TORCHSCRIPT))
_ENDINGS = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin"), _OF_TORCH),
    ".safetensors": {safetensors.FORMAT},
    ".pt2": {names.TORCH_EXPORT},
    **{f".{name}": {name} for name in (names.GGUF, names.NPZ, names.NPY)},
}
"""What a name promises; it is told where the content is something else."""


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
    archive = _archive(file) if head.startswith((LOCAL_SIGNATURE, _EMPTY_ZIP)) else None
    found = _recognise(file, head) if archive is None else _recognise_zip(archive)
    if found is None:
        from loader.formats.foreign.files import refusal  # noqa: PLC0415  # only what is refused needs it

        raise refusal(file, head, archive)
    expected = _ENDINGS.get(file.path.suffix.lower())
    if expected is not None and found.format not in expected:
        log.warning("%s is a %s file, whatever its name says", shown_path(file.path), found.format)
    return found


def _archive(file: CheckpointFile) -> Archive:
    try:
        return Archive(file)
    except UnfinishedError as error:
        declared = torch_zip.declared_bytes(file)
        raise (file.ends_early(declared) if declared > file.size else error) from error


def _recognise(file: CheckpointFile, head: bytes) -> Recognised | None:
    if torch_legacy.is_legacy(head):
        return Recognised(torch_legacy.FORMAT, partial(torch_legacy.TorchLegacy, file))
    if safetensors.is_safetensors(head):
        return Recognised(safetensors.FORMAT, partial(safetensors.SafeTensors, file))
    from loader.formats import npy  # noqa: PLC0415  # few files are any of these
    from loader.formats.gguf import reader as gguf  # noqa: PLC0415  # few files are any of these
    from loader.formats.torch_files import torch_tar  # noqa: PLC0415  # few files are any of these

    if torch_tar.is_old_tar(head):
        return Recognised(names.TORCH_TAR, partial(torch_tar.TorchTar, file))
    if gguf.is_gguf(head):
        return Recognised(names.GGUF, partial(gguf.Gguf, file))
    return Recognised(names.NPY, partial(npy.Npy, file)) if npy.is_npy(head) else None


def _recognise_zip(archive: Archive) -> Recognised | None:
    folder = torch_folder(archive.members)
    if folder is not None and f"{folder}constants.pkl" not in archive.members:
        return Recognised(torch_zip.FORMAT, partial(torch_zip.TorchZip, archive))
    from loader.formats import npz  # noqa: PLC0415  # few files are any of these
    from loader.formats.torch_files import exported, torchscript  # noqa: PLC0415  # few files are any of these

    if folder is not None:
        return Recognised(names.TORCHSCRIPT, partial(torchscript.TorchScript, archive))
    exported_in = exported.export_folder(archive)
    if exported_in is not None:
        return Recognised(names.TORCH_EXPORT, partial(exported.ExportedProgram, archive, exported_in))
    return Recognised(names.NPZ, partial(npz.Npz, archive)) if npz.is_npz(archive) else None
