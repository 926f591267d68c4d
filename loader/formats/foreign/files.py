"""What is no checkpoint that this loader reads, told by its content.

Guarantees: looks at the first and last bytes alone, and at the name only where those tell nothing; whatever it meets,
it answers with one sentence that says what the file is, and what to do with it.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import CheckpointError
from ...files.file import CheckpointFile
from ...files.path import shown_path
from ...text.wording import safe_text
from ..archives.zip import Archive
from .frameworks import (
    KERAS,
    MAGIC,
    OLD_TORCHSCRIPT,
    PACKAGE,
    READ,
    UNPACK,
    Foreign,
    name_binary,
    name_by_name,
    name_pickle,
    name_text,
)
from .packed import contents, in_zip

_AGAIN = "download the file again, from its raw link and with the access it needs"
_SHOWN = 60
_TAIL = 64 << 10
_HEAD = 4096

_MAGIC: tuple[tuple[int, bytes, Foreign], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", Foreign(
        "a Git LFS pointer: the note that stands in for a large file, not the file", "git lfs pull")),
    (0, b"\x1f\x8b", Foreign("a gzip archive", UNPACK)),
    (0, b"BZh", Foreign("a bzip2 archive", UNPACK)),
    (0, b"\xfd7zXZ\x00", Foreign("an xz archive", UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Foreign("a Zstandard archive", UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Foreign("a 7-Zip archive", UNPACK)),
    (0, b"Rar!\x1a\x07", Foreign("a RAR archive", UNPACK)),
    (257, b"ustar", Foreign("a tar archive", UNPACK)),
    (0, b"PAR1", Foreign(f"a Parquet table; {READ}", "checkpoint.path=FILE")),
    (0, b"%PDF", Foreign("a PDF document", _AGAIN)),
    (0, b"\x7fELF", Foreign("a program", "checkpoint.path=FILE")),
    (0, b"\x89PNG", Foreign("a PNG image", "checkpoint.path=FILE")),
    (0, b"\xff\xd8\xff", Foreign("a JPEG image", "checkpoint.path=FILE")),
    *MAGIC,
)  # fmt: skip
"""Offset, bytes, and what a file with these bytes there is."""

_INDEX = Foreign(
    "the index of a checkpoint in several files, not a checkpoint", "checkpoint.path=FILE   # one of those it names"
)
_JSON = Foreign("a JSON text, perhaps an error message or a config", _AGAIN)
_PAGE = Foreign("a web page, as a failed download leaves them", _AGAIN)
_ZEROS = Foreign("nothing but zero bytes at its start: a download or copy that never finished", _AGAIN)


def refusal(file: CheckpointFile, head: bytes, archive: Archive | None) -> CheckpointError:
    """Says what a file is that is not read.

    Args:
        file: The file.
        head: Its first bytes, not empty.
        archive: Its table of contents, where it is a zip archive.
    """
    if archive is None:
        tail = file.pread(max(0, file.size - _TAIL), min(_TAIL, file.size))
        foreign = name_foreign(head, tail, file.path.name)
    else:
        foreign = name_zip(list(archive.members))
    path = shown_path(file.path)
    if foreign.hint is UNPACK:
        found = contents(file, head) if archive is None else in_zip(file.path, list(archive.members))
        if found is not None:
            return CheckpointError(f"{path} is {foreign.what}{found.told}", found.hint)
    places = {"file": path, "folder": shown_path(file.path.parent), "prefix": shown_path(_prefix(file.path))}
    return CheckpointError(f"{path} is {foreign.what}", foreign.advice(**places))


def _prefix(path: Path) -> Path:
    """What TensorFlow calls a checkpoint: its files' name without their endings."""
    return path.with_name(re.sub(r"\.(index|data-\d{5}-of-\d{5})\Z", "", path.name))


def name_foreign(head: bytes, tail: bytes, name: str) -> Foreign:
    """Says what a file is.

    Args:
        head: Its first bytes, not empty.
        tail: Its last bytes.
        name: Its name, for what nothing else tells.
    """
    for offset, magic, foreign in _MAGIC:
        if head.startswith(magic, offset):
            return foreign
    known = name_pickle(head, tail) or name_binary(head, tail) or name_by_name(name)
    if known is not None:
        return known
    if not head.strip(b"\0"):
        return _ZEROS
    return _name_text(head) or Foreign(
        f"of no known format (it begins with the bytes {head[:8].hex(' ')}); {READ}", "checkpoint.path=FILE"
    )


def page_in(head: bytes) -> Foreign | None:
    """What to say of a download that begins like this, where it is a web page."""
    found = _name_text(head[:_HEAD]) if head else None
    return found if found is _PAGE else None


def _name_text(head: bytes) -> Foreign | None:
    text = head.decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")
    if len(text.encode()) + 8 < len(head.strip()) or any(c < " " and c not in "\t\r\n\f\x1b" for c in text):
        return None
    if re.match(r"<(!doctype|html|head|\?xml)", text, re.IGNORECASE):
        return _PAGE
    if '"weight_map"' in text:
        return _INDEX
    known = name_text(text)
    if known is not None:
        return known
    if text[:1] in {"{", "["}:
        return _JSON
    return Foreign(f'text that begins with "{safe_text(text.partition(chr(10))[0], _SHOWN)}"', _AGAIN)


def name_zip(names: list[str]) -> Foreign:
    """Says what a zip archive is that holds no torch.save file.

    Args:
        names: Its members.
    """
    folders = {name.partition("/")[2].partition("/")[0] for name in names}
    if "model.weights.h5" in names:
        return KERAS
    if "archive_format" in folders or "archive_format" in names:
        return Foreign(
            "a package of compiled code (.pt2, as AOTInductor writes it), without weights of its own",
            "give the file of torch.export.save or the checkpoint that it was compiled from: checkpoint.path=FILE",
        )
    if "model.json" in names or any(name.endswith("/model.json") for name in names):
        return OLD_TORCHSCRIPT
    if any(name.endswith(".data/extern_modules") for name in names):
        return PACKAGE
    return Foreign("a zip archive that torch.save did not write", UNPACK)
