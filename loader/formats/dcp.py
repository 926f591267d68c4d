"""Folders of `torch.distributed.checkpoint`: one `.metadata`, and files into which each process wrote its items.

Guarantees: opening one reads the metadata and no tensor. Every item lies inside its file and none overlaps another, so
that no more can be declared than is there. An item is one `torch.save` stream, read with that format's guarantees, and
refused if it is not what the metadata says. A split tensor is assembled on demand, from the pieces it needs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import leads_out, natural, shown_path
from ..text.lines import Fix
from ..text.wording import safe_text
from .boxes import rebuilt
from .dcp_metadata import Chunk, Metadata, Place, Whole, read_metadata
from .find import DCP_ENDING as ENDING
from .find import DCP_METADATA as METADATA
from .limits import LARGEST_OBJECT, MOST_OBJECTS
from .opened import OpenedFile
from .several import SeveralFiles, digest_of, each, opened, refuse_links, refuse_missing
from .signatures import DCP as FORMAT
from .signatures import ZIP_MEMBER
from .torch_zip import TorchZip
from .tree import Container, Kind, Leaf, Node, Piece, Storage, TensorEntry, assembled, contiguous
from .zip import Archive

_AGAIN = Fix(note="copy or download the whole folder again; the save may also be unfinished")


def find_dcp(path: Path, names: Sequence[str], stack: ExitStack) -> DistributedFolder | None:
    """Reads the metadata of a folder with these files; None if it is not of this format."""
    ours = METADATA in names or any(name.endswith(ENDING) for name in names)
    return DistributedFolder(path, stack) if ours else None


class DistributedFolder:
    """A folder of this format, its metadata read and its files opened.

    Args:
        path: The folder.
        stack: Closes the files when it unwinds.

    Raises:
        CheckpointError: The metadata is invalid, or a file is missing, outside the folder or too short.
    """

    format = FORMAT

    def __init__(self, path: Path, stack: ExitStack) -> None:
        index = path / METADATA
        if not index.exists():
            raise CheckpointError(
                f"{shown_path(path)} holds files of a torch.distributed.checkpoint folder (*{ENDING}), but no "
                f"{METADATA}, which is written last",
                _AGAIN,
            )
        _refuse_outside(path, {METADATA: index})
        self.path = path
        self.index = opened(index, stack)
        self.metadata = read_metadata(self.index)
        places = list(self.metadata.places())
        paths = {name: path / name for name in sorted({place.path for place in places}, key=natural)}
        _refuse_outside(path, paths)
        refuse_missing(index, paths, lambda _missing: _AGAIN)
        self.files = each(paths, lambda file: opened(file, stack))
        _check_places(self.files, places)

    def sha256(self) -> str:
        """Returns the digest of the metadata and, in natural order, of the files that it names."""
        return digest_of({METADATA: self.index, **self.files})

    def open(self, check: str) -> SeveralFiles:
        """Builds the tree and reads the small objects; with `full`, checks all items."""
        return DistributedCheckpoint(self, check)


class DistributedCheckpoint(SeveralFiles):
    """An opened folder.

    Args:
        found: The folder.
        check: As in configs.
    """

    def __init__(self, found: DistributedFolder, check: str) -> None:
        self._check = check
        self._items: dict[tuple[int, int], TensorEntry] = {}
        members = {name: _Items(file, check) for name, file in found.files.items()}
        root = _tree(found, self._objects(found))
        super().__init__(found.path, FORMAT, root, members, {METADATA: found.index})
        if check == "full":
            for place in found.metadata.places():
                _stream(found.files[place.path], place, check)

    def located(self, entry: TensorEntry) -> TensorEntry:
        """Returns the entry with the positions of its elements inside the items, which are opened only now."""
        return rebuilt(entry, self._item)

    def _item(self, declared: TensorEntry) -> TensorEntry:
        storage = declared.storage
        if storage is None or storage.file is None or storage.memory is not None or storage.fetch is not None:
            return declared
        known = self._items.get((id(storage.file), storage.offset))
        if known is None:
            known = self._looked_into(declared, storage, storage.file)
            self._items[id(storage.file), storage.offset] = known
        return known

    def _looked_into(self, declared: TensorEntry, item: Storage, file: CheckpointFile) -> TensorEntry:
        stream = _stream(file, Place(file.path.name, item.offset, item.nbytes), self._check)
        found = stream.root.children.get("")
        alike = isinstance(found, TensorEntry) and (found.dtype, found.shape) == (declared.dtype, declared.shape)
        if not alike or not isinstance(found, TensorEntry) or found.layout != "strided" or found.storage is None:
            what = f"{found.dtype} {list(found.shape)}" if isinstance(found, TensorEntry) else "not a tensor"
            raise file.damaged(
                f"the item at byte {item.offset:,} is {safe_text(what)}, but '{safe_text(item.key)}', "
                f"{declared.dtype} {safe_text(list(declared.shape))}, in the metadata"
            )
        if found.storage.packed is not None or found.storage.data is not None:
            raise file.damaged(f"'{safe_text(item.key)}' is compressed, which torch.save never does")
        return dataclasses.replace(found, storage=dataclasses.replace(found.storage, key=item.key))

    def _objects(self, found: DistributedFolder) -> dict[str, Node]:
        objects: dict[str, Node] = {}
        for name, place in found.metadata.objects.items():
            small = place.length <= LARGEST_OBJECT and len(objects) < MOST_OBJECTS
            objects[name] = _object(found.files[place.path], place, self._check) if small else _unread(place)
        return objects


class _Items(OpenedFile):
    """A file of items, whose checksums are compared like those of any other file."""

    def __init__(self, file: CheckpointFile, check: str) -> None:
        super().__init__(file, FORMAT, Container("dict", FORMAT), check)

    def tensors_in(self, damaged: Sequence[Storage]) -> list[str]:
        """Returns the names of the items, which are those of their tensors."""
        return list(dict.fromkeys(storage.key for storage in damaged))


def _stream(file: CheckpointFile, place: Place, check: str) -> TorchZip:
    return TorchZip(Archive(file, place.offset, place.offset + place.length), check)


def _object(file: CheckpointFile, place: Place, check: str) -> Node:
    """The content of a pickled object; for one that torch.save did not write, only its size."""
    if file.pread(place.offset, min(place.length, len(ZIP_MEMBER))) != ZIP_MEMBER:
        return _unread(place)
    root = _stream(file, place, check).root
    return root.children[""] if list(root.children) == [""] else root


def _unread(place: Place) -> Leaf:
    return Leaf("bytes", f"{place.length:,} bytes")


def _tree(found: DistributedFolder, objects: Mapping[str, Node]) -> Container:
    metadata, root = found.metadata, Container("dict", FORMAT)
    nodes: dict[str, Node] = {name: _entry(name, whole, found.files) for name, whole in metadata.tensors.items()}
    nodes |= objects
    nodes |= {name: Leaf("torch.Tensor", kind) for name, kind in metadata.strange.items()}
    for name, node in nodes.items():
        _put(root, metadata, name, node, found.index)
    return root


def _put(root: Container, metadata: Metadata, name: str, node: Node, index: CheckpointFile) -> None:
    """Puts an entry where it was before its state dict was flattened."""
    steps: Sequence[str | int] = metadata.paths.get(name, (name,))
    at = root
    for step, following in itertools.pairwise(steps):
        kind: Kind = "list" if type(following) is int else "dict"
        below = at.children.setdefault(str(step), Container(kind, kind))
        if not isinstance(below, Container):
            raise index.damaged(f"'{safe_text(name)}' lies below '{safe_text(step)}', which is an entry itself")
        at = below
    if str(steps[-1]) in at.children:
        raise index.damaged(f"two entries under the nested key of '{safe_text(name)}'")
    at.children[str(steps[-1])] = node


def _entry(name: str, whole: Whole, files: Mapping[str, CheckpointFile]) -> TensorEntry:
    pieces = [_piece(name, whole, chunk, files[chunk.place.path]) for chunk in whole.chunks]
    return assembled(name, whole.dtype, whole.shape, pieces)


def _piece(name: str, whole: Whole, chunk: Chunk, file: CheckpointFile) -> Piece:
    label = name if len(whole.chunks) == 1 else f"{name} at {list(chunk.start)}"
    item = Storage(label, chunk.place.offset, chunk.place.length, file=file)
    entry = TensorEntry(whole.dtype, chunk.shape, contiguous(chunk.shape), storage=item)
    if entry.nbytes > item.nbytes:
        raise file.damaged(f"'{safe_text(label)}' needs {safe_text(entry.nbytes)} bytes, its item has {item.nbytes:,}")
    return Piece(entry, chunk.start)


def _refuse_outside(folder: Path, paths: Mapping[str, Path]) -> None:
    outside = {name: real for name, file in paths.items() if (real := leads_out(file, folder))}
    refuse_links(outside, shown_path(folder))


def _check_places(files: Mapping[str, CheckpointFile], places: Sequence[Place]) -> None:
    """Refuses items that overlap, or that end after their file."""
    by_file: dict[str, list[tuple[int, int]]] = {name: [] for name in files}
    for place in places:
        by_file[place.path].append((place.offset, place.offset + place.length))

    def check(name: str) -> None:
        end = 0
        for start, stop in sorted(by_file[name]):
            if start < end:
                raise files[name].damaged(f"two items overlap at byte {start:,}")
            end = stop
        if end > files[name].size:
            raise files[name].ends_early(end)

    each({name: name for name in files}, check)
