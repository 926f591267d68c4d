"""Files and folders that are not read: what they are, and how their weights get into a file that is.

Guarantees: decided by the first and last bytes and the names of members, and by a file's own name only where those say
nothing; nothing in a folder is opened but the short text in which Megatron names its newest iteration. The answer is
one sentence that says what it is, and a fix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import called, path_override, shown_path
from ..text.lines import Fix, python_text
from ..text.wording import counted, listing, safe_text
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
from .limits import LONGEST_ITERATION
from .tar import contents, in_zip
from .zip import Archive

_AGAIN = Fix(note="download the file again, from its raw link and with the access it needs")
_SHOWN = 60
_TAIL = 64 << 10
_HEAD = 4096

_MAGIC: tuple[tuple[int, bytes, Foreign], ...] = (
    (0, b"version https://git-lfs.github.com/spec/", Foreign(
        "a Git LFS pointer: a placeholder for a large file, not the file itself", Fix("git lfs pull"))),
    (0, b"\x1f\x8b", Foreign("a gzip archive", UNPACK)),
    (0, b"BZh", Foreign("a bzip2 archive", UNPACK)),
    (0, b"\xfd7zXZ\x00", Foreign("an xz archive", UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Foreign("a Zstandard archive", UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Foreign("a 7-Zip archive", UNPACK)),
    (0, b"Rar!\x1a\x07", Foreign("a RAR archive", UNPACK)),
    (257, b"ustar", Foreign("a tar archive", UNPACK)),
    (0, b"PAR1", Foreign(f"a Parquet table; {READ}", Fix("checkpoint.path=FILE"))),
    (0, b"%PDF", Foreign("a PDF document", _AGAIN)),
    (0, b"\x7fELF", Foreign("a program", Fix("checkpoint.path=FILE"))),
    (0, b"\x89PNG", Foreign("a PNG image", Fix("checkpoint.path=FILE"))),
    (0, b"\xff\xd8\xff", Foreign("a JPEG image", Fix("checkpoint.path=FILE"))),
    *MAGIC,
)  # fmt: skip
"""Offset, the bytes there, and the kind of file."""

_INDEX = Foreign(
    "the index of a checkpoint in several files, not a checkpoint", Fix("checkpoint.path=FILE", "one of those it names")
)
_JSON = Foreign("a JSON text, perhaps an error message or a config", _AGAIN)
_PAGE = Foreign("a web page, as a failed download leaves them", _AGAIN)
_ZEROS = Foreign("nothing but zero bytes at its start: a download or copy that never finished", _AGAIN)


def refusal(file: CheckpointFile, head: bytes, archive: Archive | None) -> CheckpointError:
    """Returns the refusal of a file of an unsupported format.

    Args:
        file: The file.
        head: Its first bytes, not empty.
        archive: Its table of contents, if it is a zip archive.
    """
    if archive is None:
        tail = file.pread(max(0, file.size - _TAIL), min(_TAIL, file.size))
        foreign = name_foreign(head, tail, file.path.name)
    else:
        foreign = name_zip(list(archive.members))
    path = shown_path(file.path)
    if UNPACK in foreign.fixes:
        found = contents(file, head) if archive is None else in_zip(file.path, list(archive.members))
        if found is not None:
            return CheckpointError(f"{path} is {foreign.what}{found.listed}", *found.fixes)
    places = {"file": path, "folder": shown_path(file.path.parent), "prefix": shown_path(_prefix(file.path))}
    return CheckpointError(f"{path} is {foreign.what}", *foreign.advice(**places))


def _prefix(path: Path) -> Path:
    """The name of a TensorFlow checkpoint: that of its files without their endings."""
    return path.with_name(re.sub(r"\.(index|data-\d{5}-of-\d{5})\Z", "", path.name))


def name_foreign(head: bytes, tail: bytes, name: str) -> Foreign:
    """Names the kind of a file.

    Args:
        head: Its first bytes, not empty.
        tail: Its last bytes.
        name: Its name, used only if the content decides nothing.
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
        f"of no known format (it begins with the bytes {head[:8].hex(' ')}); {READ}", Fix("checkpoint.path=FILE")
    )


def page_in(head: bytes) -> Foreign | None:
    """The description of a download that is a web page; None if it is something else."""
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
    """Names the kind of a zip archive without a file of torch.save.

    Args:
        names: Its members.
    """
    folders = {name.partition("/")[2].partition("/")[0] for name in names}
    if "model.weights.h5" in names:
        return KERAS
    if "archive_format" in folders or "archive_format" in names:
        return Foreign(
            "a package of compiled code (.pt2, as AOTInductor writes it), without weights of its own",
            Fix("checkpoint.path=FILE", "the file of torch.export.save or the checkpoint that it was compiled from"),
        )
    if "model.json" in names or any(name.endswith("/model.json") for name in names):
        return OLD_TORCHSCRIPT
    if any(name.endswith(".data/extern_modules") for name in names):
        return PACKAGE
    return Foreign("a zip archive that torch.save did not write", UNPACK)


_ORBAX = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
_NEWEST = "latest_checkpointed_iteration.txt"
_ITERATION = re.compile(r"iter_\d{7}|release")
_RANK = re.compile(r"mp_rank_\d+(_\d+)*")
_SAVED = "'new.safetensors')"

_BY_NAME: tuple[tuple[str, Foreign], ...] = (
    ("saved_model.pb", Foreign(
        "a TensorFlow SavedModel",
        Fix("safetensors.numpy.save_file({v.name: v.numpy() for v in "
            "tensorflow.saved_model.load('{file}').variables}, " + _SAVED, "saves its variables"))),
    ("flax_model.msgpack", Foreign(
        "a model saved by Flax (flax_model.msgpack)",
        Fix("AutoModel.from_pretrained('{file}', from_flax=True).save_pretrained('new')", "with transformers 4"))),
    ("flax_model.msgpack.index.json", Foreign(
        "a model saved by Flax (flax_model.msgpack.index.json)",
        Fix("AutoModel.from_pretrained('{file}', from_flax=True).save_pretrained('new')", "with transformers 4"))),
    ("tf_model.h5", Foreign(
        "a model saved by TensorFlow (tf_model.h5)",
        Fix("AutoModel.from_pretrained('{file}', from_tf=True).save_pretrained('new')", "with transformers 4"))),
    *((name, Foreign(
        f"an Orbax checkpoint, as JAX and Flax write them ({name})",
        Fix("safetensors.numpy.save_file(flax.traverse_util.flatten_dict("
            "orbax.checkpoint.PyTreeCheckpointer().restore('{file}'), sep='.'), " + _SAVED,
            "loads it with Orbax, and saves it"))) for name in _ORBAX),
)  # fmt: skip
"""Names that a tool always gives, and the kind of the folder."""


def name_folder(folder: Path, names: Sequence[str]) -> Foreign | None:
    """Names the kind of a folder without a supported checkpoint; None if it is unknown.

    Args:
        folder: Where it is.
        names: The names in it.
    """
    for name, foreign in _BY_NAME:
        if name in names:
            return foreign
    return _tensorflow(names) or _megatron(folder, names) or _onnx(folder, names) or _pipeline(folder, names)


def _tensorflow(names: Sequence[str]) -> Foreign | None:
    """Checkpoints of TensorFlow: NAME.index next to NAME.data-00000-of-00001."""
    stems = [
        name.removesuffix(".index")
        for name in names
        if name.endswith(".index") and any(other.startswith(f"{name[:-6]}.data-") for other in names)
    ]
    if not stems:
        return None
    newest = python_text(f"/{stems[-1]}") or "'/NAME'"
    return Foreign(
        f"a folder of TensorFlow checkpoints ({listing(stems)})",
        Fix(
            f"r = tensorflow.train.load_checkpoint('{{file}}' + {newest}); "
            "safetensors.numpy.save_file({k: r.get_tensor(k) for k in r.get_variable_to_shape_map()}, " + _SAVED,
            "loads one with TensorFlow, and saves it",
        ),
    )


def _megatron(folder: Path, names: Sequence[str]) -> Foreign | None:
    """Iterations of Megatron-LM, or one of them: a folder per rank of the model, or a torch.distributed.checkpoint."""
    if _NEWEST in names:
        iteration = _newest(folder, names)
        return _iteration(folder / iteration, f"a Megatron-LM run with {iteration}, which") if iteration else None
    ranks = [name for name in names if _RANK.fullmatch(name)]
    return _iteration(folder, "a Megatron-LM checkpoint that") if ranks else None


def _newest(folder: Path, names: Sequence[str]) -> str:
    iterations = [name for name in names if _ITERATION.fullmatch(name)]
    if (folder / _NEWEST).is_symlink() or not (folder / _NEWEST).is_file():
        return iterations[-1] if iterations else ""
    file = CheckpointFile(folder / _NEWEST)
    try:
        text = file.pread(0, min(file.size, LONGEST_ITERATION)).decode("utf-8", "replace").strip()
    finally:
        file.close()
    named = f"iter_{int(text):07}" if text.isdecimal() else text
    return named if named in iterations else (iterations[-1] if iterations else "")


def _iteration(folder: Path, what: str) -> Foreign:
    below = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    ranks = [name for name in below if _RANK.fullmatch(name)]
    if len(ranks) > 1:
        return Foreign(
            f"{what} is split among {counted(len(ranks), 'rank')} ({listing(ranks)})",
            Fix(
                "python tools/checkpoint/convert.py --target-tensor-parallel-size 1 "
                "--target-pipeline-parallel-size 1 …",
                "in Megatron-LM, then give the path of the one file",
            ),
        )
    if ranks:
        inside = folder / ranks[0] / "model_optim_rng.pt"
        return Foreign(f"{what} has one rank, whose file is read", path_override(inside))
    return Foreign(f"{what} is a checkpoint folder itself", path_override(folder))


def _onnx(folder: Path, names: Sequence[str]) -> Foreign | None:
    models = [name for name in names if name.endswith(".onnx")]
    if not models:
        return None
    return Foreign(
        f"a folder with {counted(len(models), 'ONNX model')} ({listing(models)})",
        Fix(note="get the weights they were exported from"),
        Fix(
            f"m = onnx.load({python_text(called(folder / models[0]))}); torch.save("
            "{i.name: torch.tensor(onnx.numpy_helper.to_array(i)) for i in m.graph.initializer}, 'new.pt')",
            "saves their initializers",
        ),
    )


def _pipeline(folder: Path, names: Sequence[str]) -> Foreign | None:
    """Pipelines of diffusers: several models, each in a folder of its own."""
    if "model_index.json" not in names:
        return None
    models = [name for name in names if (folder / name / "config.json").is_file()]
    return Foreign(
        f"a pipeline of several models ({listing(models)}); one was expected",
        *([path_override(folder / name) for name in models[:5]] or [Fix("checkpoint.path=FOLDER")]),
    )
