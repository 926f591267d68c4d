"""Which format a file has.

Guarantees: content decides, never the name; what is recognised and not read, and what is not recognised, is refused
with a sentence of its own. A new format is one file with a class like the others, and one line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loader.errors import CheckpointError
from loader.formats import safetensors, torch_legacy, torch_zip
from loader.formats.file import CheckpointFile
from loader.formats.foreign import TORCHSCRIPT, Foreign, name_foreign, name_zip
from loader.formats.opened import OpenedFile
from loader.formats.path import shown_path
from loader.formats.zip import LOCAL_SIGNATURE, Archive

_HEAD = 4096
_EMPTY_ZIP = b"PK\x05\x06"

READERS: Mapping[str, Callable[[CheckpointFile, str], OpenedFile]] = {
    torch_zip.FORMAT: torch_zip.TorchZip,
    torch_legacy.FORMAT: torch_legacy.TorchLegacy,
    safetensors.FORMAT: safetensors.SafeTensors,
}
"""What opens a file, by the name of its format."""


def sniff(file: CheckpointFile) -> str:
    """Names the format of a file.

    Returns:
        One of the names in `READERS`.

    Raises:
        CheckpointError: It is empty, or something else than those.
    """
    head = file.pread(0, min(_HEAD, file.size))
    if not head:
        raise CheckpointError(
            f"{shown_path(file.path)} is empty (0 bytes)",
            "copy or download the file again; it may also still be being written",
        )
    if head.startswith((LOCAL_SIGNATURE, _EMPTY_ZIP)):
        return _sniff_zip(file)
    if torch_legacy.is_legacy(head):
        return torch_legacy.FORMAT
    if safetensors.is_safetensors(head):
        return safetensors.FORMAT
    raise _refused(file, name_foreign(head))


def _sniff_zip(file: CheckpointFile) -> str:
    names = list(Archive(file).members)
    folder = torch_zip.torch_folder(names)
    if folder is None:
        raise _refused(file, name_zip(names))
    if f"{folder}constants.pkl" in names:
        raise _refused(file, TORCHSCRIPT)
    return torch_zip.FORMAT


def _refused(file: CheckpointFile, foreign: Foreign) -> CheckpointError:
    return CheckpointError(
        f"{shown_path(file.path)} is {foreign.what}", foreign.hint.replace("{file}", shown_path(file.path))
    )
