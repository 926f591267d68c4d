"""The schema of an inspection in `report.json`.

Guarantees: plain numbers, strings, lists and mappings; only the values of entries that are not tensors are cut. A field
without information (no sharing, no details) is left out of its row.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict, final

from ...keys.candidates import Role


class StorageRow(TypedDict):
    """The run of bytes that a tensor is a view of."""

    id: int
    """Counts the storages of one file, or of all its shards."""
    bytes: int
    offset: int
    """Elements between its start and the tensor's first one."""
    stride: list[int]
    """In elements, one per dimension."""


class ComponentRow(TypedDict):
    """One of the dense tensors of a sparse or quantized one."""

    shape: list[int]
    dtype: str
    storage: StorageRow | None


class PieceRow(TypedDict):
    """One of the pieces of a tensor that was split among files or processes."""

    shape: list[int]
    start: list[int]
    """Its first element in the whole tensor: a number per dimension, or one in the flattened tensor."""
    file: str
    storage: StorageRow | None


@final
class TensorRow(TypedDict):
    """One tensor."""

    key: str
    """Dotted, from the selected nested key; empty if the file is a single tensor."""
    shape: list[int]
    dtype: str
    bytes: int
    """Of its elements, shared or not."""
    device: str
    """The device it was saved on."""
    layout: str
    storage: StorageRow | None
    """None if it is assembled from components or pieces, or its data is not in the file."""
    file: NotRequired[str]
    """Its file, if the checkpoint has several."""
    pieces: NotRequired[list[PieceRow]]
    made_of: NotRequired[int]
    """Number of tensors that it is computed from, if several files were combined."""
    same_as: NotRequired[str]
    """An earlier tensor with the very same elements."""
    shares: NotRequired[str]
    """The first tensor in the same storage, if the elements are not all the same."""
    components: NotRequired[dict[str, ComponentRow]]
    details: NotRequired[dict[str, Any]]


class ModuleRow(TypedDict):
    """A container, or the common prefix of some keys, with the sums of everything below."""

    key: str
    kind: str
    """``dict``, ``list``, ``module`` (a pickled one), ``object``, or ``prefix`` if only the dotted names say so."""
    type: str
    """A container's type as the file names it."""
    tensors: int
    elements: int
    bytes: int
    entries: int
    """Number of entries below that are not tensors."""
    same_as: NotRequired[str]
    """The first key of the same object; its contents are listed there."""


@final
class EntryRow(TypedDict):
    """An entry that is not a tensor and holds none."""

    key: str
    type: str
    value: Any
    """A plain number or text as it is, anything else as a description; long texts are cut."""


class PrefixRow(TypedDict):
    """A prefix or segment in the names of tensors that a model may not have."""

    prefix: str
    tensors: int
    """Number of names that have it."""
    rule: str
    """The override that removes it."""


class CandidateRow(TypedDict):
    """A nested key that may hold the weights."""

    key: str
    role: Role
    type: str
    tensors: int
    parameters: int
    """Number of elements of all its tensors; shared ones count once."""
    bytes: int
    why: str
    prefixes: list[PrefixRow]
    rules: list[str]
    """The overrides that remove what certainly belongs to a wrapper."""
    globals: list[str]
    """The names that rebuilding a pickled model would import."""


class GlobalRow(TypedDict):
    """A name that rebuilding all objects of the file would import; loading weights needs none."""

    name: str
    hostile: bool
    """Whether only an attack needs it."""


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
    """Of all their storages."""
    entries: int
    dtypes: dict[str, DtypeRow]
    devices: dict[str, int]


class ShardRow(TypedDict):
    """One file of several."""

    name: str
    tensors: int
    """Number of tensors with at least a piece in it."""
    bytes: int
    """Of their storages in it."""


class FileRow(TypedDict):
    """One part's file."""

    part: str
    path: str
    combined: NotRequired[dict[str, Any]]
    """How several files became one, as in `parts.*.combined`; `path` is then the last of them."""
    format: str
    key: str | None
    bytes: int
    """Of the file, or all its files."""
    totals: TotalsRow
    files: list[ShardRow]
    """Empty for a single file."""
    candidates: list[CandidateRow]
    modules: list[ModuleRow]
    tensors: list[TensorRow]
    entries: list[EntryRow]
    notes: dict[str, Any]
    """The notes in a safetensors header; of the folder of a PEFT adapter, what its config says, too."""
    globals: list[GlobalRow]
    next: list[str]
    """The lines to type next."""
    tree: list[str]
    """Its contents as text, with equal siblings folded."""
    depth: int | None
    filter: list[str]
    fingerprint: NotRequired[str | None]
    """With ``inspect.fingerprint``: the identity of the tensors at the nested key itself, whatever the filter; None if
    there are none."""
