"""The form of an inspection: what `report.json` holds of each file.

Guarantees: plain numbers, strings, lists and mappings; nothing is folded or cut here but values of entries that are no
tensors. A field that says nothing (no sharing, no details) is left out of its row.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict, final


class StorageRow(TypedDict):
    """The run of bytes that a tensor looks into."""

    id: int
    """Counts the storages of one file, or of all its shards."""
    bytes: int
    offset: int
    """Elements between its start and the tensor's first one."""
    stride: list[int]
    """In elements, one per dimension."""


class ComponentRow(TypedDict):
    """One of the dense tensors that a sparse or quantized one is made of."""

    shape: list[int]
    dtype: str
    storage: StorageRow | None


class PieceRow(TypedDict):
    """One of the pieces of a tensor that was split among files or processes."""

    shape: list[int]
    start: list[int]
    """Where it begins in the whole: a number per dimension, or one in the flattened tensor."""
    file: str
    storage: StorageRow | None


@final
class TensorRow(TypedDict):
    """One tensor."""

    key: str
    """Dotted, from the selected nested key; empty where the file is a single tensor."""
    shape: list[int]
    dtype: str
    bytes: int
    """Of its elements, whatever it shares."""
    device: str
    """Where it was when it was saved."""
    layout: str
    storage: StorageRow | None
    """None where it is put together from components or pieces, or its data is not in the file."""
    file: NotRequired[str]
    """The file it stands in, where the checkpoint has several."""
    pieces: NotRequired[list[PieceRow]]
    same_as: NotRequired[str]
    """An earlier tensor with the very same elements."""
    shares: NotRequired[str]
    """The first tensor that looks into the same storage, where it is not all the same."""
    components: NotRequired[dict[str, ComponentRow]]
    details: NotRequired[dict[str, Any]]


class ModuleRow(TypedDict):
    """A container, or the common beginning of some keys, with the sum of what is below it."""

    key: str
    kind: str
    """``dict``, ``list``, ``module`` (a pickled one), ``object``, or ``prefix`` where only the dotted names say it."""
    type: str
    """A container's type as the file names it."""
    tensors: int
    elements: int
    bytes: int
    entries: int
    """How many of those below are no tensors."""
    same_as: NotRequired[str]
    """Where the same object stands already; what is below it is listed there."""


@final
class EntryRow(TypedDict):
    """Something that is no tensor and holds none."""

    key: str
    type: str
    value: Any
    """Plain numbers and texts as they are, everything else described; long texts are cut."""


class PrefixRow(TypedDict):
    """Something in front of, or inside, names of tensors that a model may not have."""

    prefix: str
    tensors: int
    """How many names have it."""
    rule: str
    """The override that takes it off."""


class CandidateRow(TypedDict):
    """A nested key that may hold what one is looking for, the likeliest first."""

    key: str
    role: str
    """``weights``, ``model`` (a whole pickled one), ``average`` (of weights), ``optimizer`` or ``tensors``."""
    type: str
    tensors: int
    parameters: int
    """Number of elements of all its tensors, what is shared once."""
    bytes: int
    why: str
    prefixes: list[PrefixRow]
    rules: list[str]
    """The overrides for what is certainly a wrapper's."""
    globals: list[str]
    """What rebuilding a pickled model would import."""


class GlobalRow(TypedDict):
    """A name that rebuilding all objects of the file would import; loading weights needs none of them."""

    name: str
    hostile: bool
    """Whether no model needs it and an attack would."""


class DtypeRow(TypedDict):
    """The tensors of one dtype."""

    tensors: int
    elements: int
    bytes: int


class TotalsRow(TypedDict):
    """Sums over the selected part of a file; tensors that are the same count once in all but `tensors`."""

    tensors: int
    elements: int
    bytes: int
    stored_bytes: int
    """Of all storages that they look into."""
    entries: int
    dtypes: dict[str, DtypeRow]
    devices: dict[str, int]


class ShardRow(TypedDict):
    """One file of several."""

    name: str
    tensors: int
    """Those of which at least a piece is in it."""
    bytes: int
    """Of the storages that they look into there."""


class FileRow(TypedDict):
    """One part's file."""

    part: str
    path: str
    format: str
    key: str | None
    bytes: int
    """Of the file, or all its files."""
    totals: TotalsRow
    files: list[ShardRow]
    """Empty where it is one file."""
    candidates: list[CandidateRow]
    modules: list[ModuleRow]
    tensors: list[TensorRow]
    entries: list[EntryRow]
    notes: dict[str, Any]
    """What a safetensors header says beside its tensors."""
    globals: list[GlobalRow]
    next: list[str]
    """What to type next."""
    tree: list[str]
    """What is in it as text, siblings that are alike folded."""
    depth: int | None
    filter: list[str]
