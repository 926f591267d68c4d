"""What is no checkpoint that this loader reads, told by its content.

Guarantees: looks at the first bytes alone and decides nothing by the file's name; whatever it meets, it answers with
one sentence that says what the file is, and what to do with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from loader.wording import safe_text

_READ = "files of torch.save and safetensors are read"
_AGAIN = "download the file again, from its raw link and with the access it needs"
_UNPACK = "unpack it, then give the path of the checkpoint inside: checkpoint.path=FILE"
_FROM_KERAS = (
    "load it with Keras, and save its weights: "
    "safetensors.numpy.save_file({w.path: w.numpy() for w in model.weights}, 'new.safetensors')"
)
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of file that is recognised and not read."""

    what: str
    """Completes the sentence "FILE is …"."""
    hint: str
    """What to do; `{file}` stands for its path."""


_MAGIC: tuple[tuple[int, bytes, Foreign], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", Foreign(
        "a Git LFS pointer: the note that stands in for a large file, not the file", "git lfs pull")),
    (0, b"\x1f\x8b", Foreign("a gzip archive", _UNPACK)),
    (0, b"BZh", Foreign("a bzip2 archive", _UNPACK)),
    (0, b"\xfd7zXZ\x00", Foreign("an xz archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Foreign("a Zstandard archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Foreign("a 7-Zip archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", Foreign("a RAR archive", _UNPACK)),
    (257, b"ustar", Foreign("a tar archive", _UNPACK)),
    (0, b"\x89HDF\r\n\x1a\n", Foreign(
        f"an HDF5 file, as Keras writes them; {_READ}",
        _FROM_KERAS)),
    (0, b"PAR1", Foreign(f"a Parquet table; {_READ}", "checkpoint.path=FILE")),
    (0, b"%PDF", Foreign("a PDF document", _AGAIN)),
    (0, b"\x7fELF", Foreign("a program", "checkpoint.path=FILE")),
    (0, b"\x89PNG", Foreign("a PNG image", "checkpoint.path=FILE")),
    (0, b"\xff\xd8\xff", Foreign("a JPEG image", "checkpoint.path=FILE")),
)  # fmt: skip
"""Offset, bytes, and what a file with these bytes there is."""

_PYTHON_PICKLE = Foreign(
    "a pickle that torch.save did not write (joblib, pickle.dump and others write such files)",
    "load it where you trust it, and save the weights: torch.save(state_dict, 'new.pt')",
)
_INDEX = Foreign(
    "the index of a checkpoint in several files, not a checkpoint", "checkpoint.path=FILE   # one of those it names"
)
_JSON = Foreign("a JSON text, perhaps an error message or a config", _AGAIN)
_PAGE = Foreign("a web page, as a failed download leaves them", _AGAIN)
_ONNX = Foreign(
    f"an ONNX model; {_READ}",
    "save its initializers: {i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in model.graph.initializer}",
)
_ZEROS = Foreign("nothing but zero bytes at its start: a download or copy that never finished", _AGAIN)


def name_foreign(head: bytes) -> Foreign:
    """Says what a file is that begins like this.

    Args:
        head: Its first bytes, not empty.
    """
    for offset, magic, foreign in _MAGIC:
        if head.startswith(magic, offset):
            return foreign
    if head[:2] in {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}:
        return _PYTHON_PICKLE
    if not head.strip(b"\0"):
        return _ZEROS
    if _is_onnx(head):
        return _ONNX
    return _name_text(head) or Foreign(
        f"of no known format (it begins with the bytes {head[:8].hex(' ')}); {_READ}", "checkpoint.path=FILE"
    )


def _is_onnx(head: bytes) -> bool:
    # Field 1 of its protocol buffer is a small version number, field 2 the name of a program.
    return bool(re.match(rb"\x08[\x01-\x20]\x12[\x01-\x40][\x20-\x7e]{2,}", head))


def _name_text(head: bytes) -> Foreign | None:
    text = head.decode("utf-8", "ignore").lstrip("\ufeff \t\r\n")
    if len(text.encode()) + 8 < len(head.strip()) or any(c < " " and c not in "\t\r\n\f\x1b" for c in text):
        return None
    if re.match(r"<(!doctype|html|head|\?xml)", text, re.IGNORECASE):
        return _PAGE
    if '"weight_map"' in text:
        return _INDEX
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
        return Foreign(
            f"a Keras model; {_READ}",
            _FROM_KERAS,
        )
    if "archive_format" in folders or "archive_format" in names:
        return Foreign(
            "a package of compiled code (.pt2, as AOTInductor writes it), without weights of its own",
            "give the file of torch.export.save or the checkpoint that it was compiled from: checkpoint.path=FILE",
        )
    inside = next((name for name in names if name.endswith((".pt", ".pth", ".ckpt", ".bin", ".safetensors"))), "")
    held = f"; it holds {safe_text(inside)}" if inside else ""
    return Foreign(f"a zip archive that torch.save did not write{held}", _UNPACK)
