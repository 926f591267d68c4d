"""The `.metadata` of a `torch.distributed.checkpoint` folder: its tensors, their pieces, and where the pieces are.

Guarantees: the pickle is read as inert records; nothing it names is imported. The pieces of every tensor cover it
exactly once, each has a place, and every place is a plain path below the folder. That is checked by arithmetic on the
corners of the pieces, in time proportional to their number for the layouts of parallel training; other layouts are
refused. Whether the places hold what the metadata says is checked by `dcp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import shown_path
from ..runtime import collector_paused
from ..text.lines import Fix
from ..text.wording import counted, listing, phrases, safe_text
from .index import fault_of_name
from .limits import LARGEST_METADATA, LARGEST_NUMBER, MOST_LEVELS
from .pickle.reader import unpickle
from .pickle.records import PickledDict, Reduced
from .pickle.storages import dtype_name, shape_of
from .pickle.tensors import BUILDERS
from .tree import ITEMSIZE

_PACKAGE = "torch.distributed."
_UNSAFE = Fix(
    note="do not load this checkpoint; ask whoever made it to save it again with torch.distributed.checkpoint"
)


@dataclass(frozen=True, slots=True)
class Place:
    """The position of an item."""

    path: str
    """Relative to the folder."""
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor as the metadata describes it."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(slots=True)
class Metadata:
    """The content of a folder, according to its metadata."""

    tensors: dict[str, Whole] = field(default_factory=dict)
    objects: dict[str, Place] = field(default_factory=dict)
    """Objects that are not tensors, each pickled by itself."""
    strange: dict[str, str] = field(default_factory=dict)
    """Tensors of an unsupported type: name → type."""
    paths: dict[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Flattened name → nested keys, if they were recorded."""

    def places(self) -> Iterator[Place]:
        """Yields the positions of all items."""
        for tensor in self.tensors.values():
            for chunk in tensor.chunks:
                yield chunk.place
        yield from self.objects.values()


@collector_paused()
def read_metadata(file: CheckpointFile) -> Metadata:
    """Reads and checks the metadata of a folder.

    Args:
        file: The opened `.metadata`.

    Raises:
        CheckpointError: It is damaged, something else, or contradicts itself.
    """
    if not 0 < file.size <= LARGEST_METADATA:
        raise file.damaged(f"{file.size:,} bytes (expected 1 to {LARGEST_METADATA:,})")
    found = unpickle(file.pread(0, file.size), builders=BUILDERS, where=shown_path(file.path))
    file.note(found.globals)
    return _Reader(file).read(found.root)


class _Reader:
    def __init__(self, file: CheckpointFile) -> None:
        self.file = file
        self.places: dict[tuple[str, tuple[int, ...] | None], Place] = {}
        self.faults: list[str] = []

    def read(self, root: object) -> Metadata:
        fields = self.fields(root, "Metadata")
        declared, stored = fields.get("state_dict_metadata"), fields.get("storage_data")
        if not isinstance(declared, PickledDict) or not isinstance(stored, PickledDict):
            raise self.file.damaged("state_dict_metadata or storage_data is missing")
        self.read_places(stored)
        metadata = Metadata()
        for name, entry in declared.pairs():
            self.add(metadata, self.text(name, "a tensor's name"), entry)
        if self.faults:
            raise CheckpointError(
                f"{shown_path(self.file.path)} contradicts itself: {phrases(self.faults)}",
                Fix(note="copy or download the whole folder again; the save may also be unfinished"),
            )
        metadata.paths = self.nested(fields.get("planner_data"), metadata)
        return metadata

    def add(self, metadata: Metadata, name: str, entry: object) -> None:
        if name in metadata.tensors or name in metadata.objects or name in metadata.strange:
            raise self.file.damaged(f"duplicate name '{safe_text(name)}'")
        kind = entry.type.rpartition(".")[2] if isinstance(entry, Reduced) else ""
        if kind == "BytesStorageMetadata":
            place = self.places.get((name, None))
            if place is None:
                self.faults.append(f"no file is recorded for {safe_text(name)}")
            else:
                metadata.objects[name] = place
            return
        fields = self.fields(entry, "TensorStorageMetadata")
        dtype = self.dtype(fields.get("properties"))
        if dtype not in ITEMSIZE:
            metadata.strange[name] = dtype
            return
        metadata.tensors[name] = self.tensor(name, dtype, fields)

    def tensor(self, name: str, dtype: str, fields: PickledDict) -> Whole:
        shape, chunks = shape_of(fields.get("size")), []
        for chunk in self.listed(fields.get("chunks"), "the pieces of a tensor"):
            box = self.fields(chunk, "ChunkStorageMetadata")
            start, size = shape_of(box.get("offsets")), shape_of(box.get("sizes"))
            if 0 in size:
                continue  # a process without a part of the tensor
            place = self.places.get((name, start))
            if place is None:
                self.faults.append(f"no file is recorded for the piece of {safe_text(name)} at {list(start)}")
                continue
            chunks.append(Chunk(start, size, place))
        fault = fault_of_cover(shape, [(chunk.start, chunk.shape) for chunk in chunks])
        if fault and not self.faults:
            self.faults.append(f"the pieces of {safe_text(name)} {fault}")
        return Whole(dtype, shape, tuple(chunks))

    def read_places(self, stored: PickledDict) -> None:
        unsafe: dict[str, str] = {}
        extended: set[str] = set()
        for key, value in stored.pairs():
            index, info = self.fields(key, "MetadataIndex"), self.fields(value, "_StorageInfo")
            name, offsets = self.text(index.get("fqn"), "a tensor's name"), index.get("offset")
            path = self.text(info.get("relative_path"), "a file's name")
            fault = fault_of_name(path)
            if fault:
                unsafe[path] = fault
            extended.update(map(str, self.listed(info.get("transform_descriptors") or [], "extensions")))
            offset, length = (self.number(info.get(what)) for what in ("offset", "length"))
            where = (name, None if offsets is None else shape_of(offsets))
            if where in self.places:
                raise self.file.damaged(f"two places for '{safe_text(name)}' at {safe_text(where[1])}")
            self.places[where] = Place(path, offset, length)
        self.refuse(unsafe, extended)

    def refuse(self, unsafe: dict[str, str], extended: set[str]) -> None:
        if unsafe:
            found = phrases(f"'{safe_text(path)}' {fault}" for path, fault in unsafe.items())
            raise CheckpointError(
                f"{shown_path(self.file.path)} names {counted(len(unsafe), 'file')} that must not be opened: {found}; "
                "expected names of files below its own folder",
                _UNSAFE,
            )
        if extended:
            raise CheckpointError(
                f"{shown_path(self.file.path)}: its tensors were written through an unsupported extension "
                f"({listing(sorted(extended))})",
                Fix(note="save it again without extensions, where torch can read it"),
            )

    def nested(self, planner: object, metadata: Metadata) -> dict[str, tuple[str | int, ...]]:
        if not isinstance(planner, PickledDict):
            return {}  # a state dict that was not flattened, or the data of another planner
        paths: dict[str, tuple[str | int, ...]] = {}
        for name, path in planner.pairs():
            steps = path if isinstance(path, tuple) else ()
            plain = all(type(step) is str or (type(step) is int and 0 <= step < LARGEST_NUMBER) for step in steps)
            if type(name) is not str or not steps or not plain or len(steps) > MOST_LEVELS:
                raise self.file.damaged("invalid nested keys in planner_data")
            paths[name] = steps
        return {
            name: paths[name] for name in (*metadata.tensors, *metadata.objects, *metadata.strange) if name in paths
        }

    def fields(self, record: object, kind: str) -> PickledDict:
        """The attributes of an object of one of torch's classes, whose modules have changed over the years."""
        known = isinstance(record, Reduced) and record.type.startswith(_PACKAGE)
        if not known or not isinstance(record, Reduced) or record.type.rpartition(".")[2] != kind:
            found = record.type if isinstance(record, Reduced | PickledDict) else type(record).__name__
            raise CheckpointError(
                f"{shown_path(self.file.path)} is not what torch.distributed.checkpoint writes: found "
                f"{safe_text(found)}, expected a {kind}",
                Fix("checkpoint.path=FILE", "the checkpoint itself"),
            )
        return record.state if isinstance(record.state, PickledDict) else PickledDict()

    def dtype(self, properties: object) -> str:
        state = properties.state if isinstance(properties, Reduced) else None
        first = state[0] if isinstance(state, tuple) and state else None
        found = state.get("dtype") if isinstance(state, PickledDict) else first
        return dtype_name(found) or "of an unknown type"

    def text(self, value: object, what: str) -> str:
        if type(value) is not str:
            raise self.file.damaged(f"{what} is not text")
        return value

    def number(self, value: object) -> int:
        if type(value) is not int or not 0 <= value < LARGEST_NUMBER:
            raise self.file.damaged("invalid offset or length of an item")
        return value

    def listed(self, value: object, what: str) -> list[object]:
        if not isinstance(value, list | tuple):
            raise self.file.damaged(f"{what} are not a list")
        return list(value)


Box = tuple[tuple[int, ...], tuple[int, ...]]
"""The position of its first element, and its shape."""
_STEPS_PER_BOX = 64
"""A grid takes one per dimension; the rest is for grids whose lines are not aligned."""


def fault_of_cover(shape: tuple[int, ...], boxes: Sequence[Box]) -> str:
    """Returns what is wrong with the pieces of a tensor; empty if they cover it exactly once.

    Args:
        shape: The tensor's shape.
        boxes: The pieces, none of them empty.
    """
    if 0 in shape:
        return "exceed the tensor, which is empty" if boxes else ""
    for start, size in boxes:
        if len(start) != len(shape) or len(size) != len(shape):
            return "differ from the tensor in the number of dimensions"
        if any(first + length > whole for first, length, whole in zip(start, size, shape, strict=True)):
            return f"exceed its shape {list(shape)}"
    if len(boxes) == 1 and boxes[0][1] == shape:
        return ""
    return _Sweep(shape, _STEPS_PER_BOX * (len(boxes) + len(shape))).fault(list(boxes), 0)


class _Sweep:
    """Cuts along one dimension after the other wherever a box begins or ends."""

    def __init__(self, shape: tuple[int, ...], steps: int) -> None:
        self.shape = shape
        self.steps = steps

    def fault(self, boxes: list[Box], dimension: int) -> str:
        """Returns what is wrong with the boxes of one slice, from a dimension on."""
        if len(boxes) != 1 and (not boxes or dimension == len(self.shape)):
            return "overlap" if boxes else "leave a gap"
        if dimension == len(self.shape):
            return ""
        boxes.sort(key=lambda box: box[0][dimension])
        cuts = sorted({0, self.shape[dimension], *(end for b in boxes for end in _ends(b, dimension))})
        waiting, active = iter(boxes), list[Box]()
        following = next(waiting, None)
        for cut in cuts[:-1]:
            active = [box for box in active if _ends(box, dimension)[1] > cut]
            while following is not None and following[0][dimension] <= cut:
                active.append(following)
                following = next(waiting, None)
            self.steps -= max(1, len(active))
            if self.steps < 0:
                return "are laid out in a more complex way than parallel training splits tensors"
            fault = self.fault(list(active), dimension + 1)
            if fault:
                return fault
        return ""


def _ends(box: Box, dimension: int) -> tuple[int, int]:
    return box[0][dimension], box[0][dimension] + box[1][dimension]
