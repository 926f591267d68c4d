"""Which format a file has.

Guarantees: content decides, never the name; what is recognised and not read, and what is not recognised, is refused
with a sentence of its own. A new format is one file with a class like the others, its name in `names`, its first bytes
in `signatures`, and a branch in `_recognise` or `_recognise_zip`; a reader is imported when such a file is met.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import shown_path
from ..text.lines import Fix
from . import signatures
from .opened import OpenedFile

if TYPE_CHECKING:
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
            Fix(note="copy or download the file again; it may also still be being written"),
        )
    archive = _archive(file) if signatures.is_zip(head) else None
    found = _recognise(file, head) if archive is None else _recognise_zip(archive)
    if found is None:
        from .foreign import refusal  # noqa: PLC0415  # only what is refused needs it

        raise refusal(file, head, archive)
    expected = _ENDINGS.get(file.path.suffix.lower())
    if expected is not None and found.format not in expected:
        log.warning("%s is a %s file, whatever its name says", shown_path(file.path), found.format)
    return found


def _archive(file: CheckpointFile) -> Archive:
    from .zip import Archive, UnfinishedError  # noqa: PLC0415  # this kind alone

    try:
        return Archive(file)
    except UnfinishedError as error:
        from .torch_files.torch_zip import declared_bytes  # noqa: PLC0415  # a broken file alone

        declared = declared_bytes(file)
        raise (file.ends_early(declared) if declared > file.size else error) from error


def _recognise(file: CheckpointFile, head: bytes) -> Recognised | None:
    if signatures.is_torch_legacy(head):
        from .torch_files.torch_legacy import TorchLegacy  # noqa: PLC0415  # this format alone

        return Recognised(signatures.TORCH_LEGACY, partial(TorchLegacy, file))
    if signatures.is_safetensors(head):
        from .safetensors import SafeTensors  # noqa: PLC0415  # this format alone

        return Recognised(signatures.SAFETENSORS, partial(SafeTensors, file))
    if signatures.is_torch_tar(head):
        from .torch_files.torch_legacy import TorchTar  # noqa: PLC0415  # this format alone

        return Recognised(signatures.TORCH_TAR, partial(TorchTar, file))
    if signatures.is_gguf(head):
        from .gguf import Gguf  # noqa: PLC0415  # this format alone

        return Recognised(signatures.GGUF, partial(Gguf, file))
    if signatures.is_npy(head):
        from .numpy import Npy  # noqa: PLC0415  # this format alone

        return Recognised(signatures.NPY, partial(Npy, file))
    if signatures.is_pickle(head) and _is_nobodys(file, head):
        from .numpy import PickledFile  # noqa: PLC0415  # this format alone

        return Recognised(signatures.PICKLE, partial(PickledFile, file))
    if signatures.is_damaged_safetensors(head):
        raise file.damaged(
            "it is a safetensors file, and its first 8 bytes are not the length of its header: they say "
            f"{int.from_bytes(head[:8], 'little'):,}"
        )
    return None


def _is_nobodys(file: CheckpointFile, head: bytes) -> bool:
    """Whether a pickle is of no framework that is named instead."""
    from .frameworks import OLD_PICKLE, PICKLE, name_pickle  # noqa: PLC0415  # pickles alone

    tail = file.pread(max(0, file.size - _TAIL), min(_TAIL, file.size))
    return name_pickle(head, tail) in (OLD_PICKLE, PICKLE)


def _recognise_zip(archive: Archive) -> Recognised | None:
    from .archived import torch_folder  # noqa: PLC0415  # archives alone

    folder = torch_folder(archive.members)
    if folder is not None and f"{folder}constants.pkl" not in archive.members:
        from .torch_files.torch_zip import TorchZip  # noqa: PLC0415  # this format alone

        return Recognised(signatures.TORCH_ZIP, partial(TorchZip, archive))
    from .torch_files import torch_zip  # noqa: PLC0415  # archives of torch alone

    if torch_zip.holds_policy(archive):
        return Recognised(signatures.TORCH_ZIP, partial(torch_zip.PolicyZip, archive))
    from . import numpy  # noqa: PLC0415  # few archives are any of these
    from .torch_files import programs  # noqa: PLC0415  # few archives are any of these

    if folder is not None:
        return Recognised(signatures.TORCHSCRIPT, partial(programs.TorchScript, archive))
    exported_in = programs.export_folder(archive)
    if exported_in is not None:
        return Recognised(signatures.TORCH_EXPORT, partial(programs.ExportedProgram, archive, exported_in))
    return Recognised(signatures.NPZ, partial(numpy.Npz, archive)) if numpy.is_npz(archive) else None
