"""Builds the tree of a file's content from the records of its pickle.

Guarantees: walks without recursion and once per object, so that cycles, shared objects and deep nesting cost nothing;
a duplicate key in a dict is refused; an object is a container only if it holds tensors. The text of a leaf is short and
harmless whatever the file holds, and takes time proportional to the entry; nothing is converted, hashed or compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ...errors import CheckpointError
from ...text.lines import Fix
from ...text.wording import counted, safe_text, shape
from ..limits import LONGEST_KEY, MOST_BITS, MOST_LEVELS
from ..tree import Container, Kind, Leaf, Node, TensorEntry
from .objects import ModuleReader, module_tables, wrapped_tensor
from .records import Global, PersistentId, PickledDict, PickledSet, Reduced
from .storages import is_array, objects_of, pickled_array

_NOT_METADATA = "assign_to_params_buffers"
"""A switch of torch's that a file must not be able to set."""


def build_tree(root: object) -> Container:
    """Builds the tree of a file's root object.

    Raises:
        CheckpointError: A dict has a duplicate key.
    """
    return _Tree().grow(root)


class _Tree:
    def __init__(self) -> None:
        self.known: dict[int, Container] = {}
        self.pending: deque[tuple[Container, int]] = deque()
        self.parents: dict[int, list[Container]] = {}
        self.modules = ModuleReader()
        self.tensors: dict[int, TensorEntry] = {}

    def grow(self, record: object) -> Container:
        record = _unwrapped(record)
        top = self.node(record, 0)
        root = top if isinstance(top, Container) else Container("dict", type_of(record), {"": top}, record=record)
        while self.pending:
            container, level = self.pending.popleft()
            self.fill(container, level)
        self.prune(root)
        return root

    def node(self, record: object, level: int) -> Node:
        if isinstance(record, Reduced):
            record = _unwrapped(record)
        if isinstance(record, TensorEntry):
            return record
        if isinstance(record, PLAIN):
            return leaf(record)
        known = self.known.get(id(record)) or self.tensors.get(id(record))
        if known is not None:
            return known
        entry = _tensor(record)
        if entry is not None:
            return self.tensors.setdefault(id(record), entry)
        kind = _kind(record)
        if kind is None or (kind == "list" and _is_plain(record)):
            return leaf(record)
        if level > MOST_LEVELS:
            return Leaf(type_of(record), f"nested deeper than {MOST_LEVELS} levels", record)
        container = Container(kind, type_of(record), record=record)
        self.known[id(record)] = container
        self.pending.append((container, level))
        return container

    def fill(self, container: Container, level: int) -> None:
        children = container.children
        invented: set[str] = set()
        for key, value in self.entries(container):
            name = key if type(key) is str and len(key) < LONGEST_KEY else key_of(key, len(children))
            if name in children:
                if type(key) is str and name not in invented:
                    raise _twice(name)
                name = f"{name} ({len(children)})"
                if name in children:
                    raise _twice(name)
            if name is not key:
                invented.add(name)
            try:
                child = value if type(value) is TensorEntry else self.node(value, level + 1)
            except CheckpointError as error:
                error.locate(key=name)
                raise
            children[name] = child
            if type(child) is Container:
                self.parents.setdefault(id(child), []).append(container)
        if isinstance(container.record, PickledDict):
            container.metadata = _metadata(container.record.state)

    def entries(self, container: Container) -> Iterable[tuple[object, object]]:
        record = container.record
        if isinstance(record, PickledDict):
            return record.pairs()
        if isinstance(record, list | tuple):
            return enumerate(record)
        if not isinstance(record, Reduced):
            return ()
        array = objects_of(record)
        if array is not None:
            return enumerate(array[1])
        if container.kind == "module":
            return self.modules.state_dict(record).items()
        if record.flat is not None:
            return zip(record.flat[::2], record.flat[1::2], strict=True)
        return _attributes(record) if record.items is None else enumerate(record.items)

    def prune(self, root: Container) -> None:
        """Turns objects that hold no tensor into leaves."""
        holding: set[int] = set()
        rising = [c for c in self.known.values() if c.kind == "module" or any(map(_is_tensor, c.children.values()))]
        while rising:
            container = rising.pop()
            if id(container) not in holding:
                holding.add(id(container))
                rising.extend(self.parents.get(id(container), ()))
        for container in (root, *self.known.values()):
            for key, child in container.children.items():
                if type(child) is Container and child.kind == "object" and id(child) not in holding:
                    container.children[key] = leaf(child.record)


def _tensor(record: object) -> TensorEntry | None:
    """The tensor that an array, or an object of a class that wraps tensors, represents."""
    array = pickled_array(record)
    return wrapped_tensor(record) if array is None else array.entry()


def _is_tensor(node: Node) -> bool:
    return isinstance(node, TensorEntry)


def _kind(record: object) -> Kind | None:
    if isinstance(record, PickledDict):
        return "dict"
    if isinstance(record, list | tuple):
        return "list"
    if not isinstance(record, Reduced):
        return None
    if objects_of(record) is not None:
        return "list"
    if module_tables(record) is not None:
        return "module"
    if record.flat is not None:
        return "dict"
    return "list" if record.items is not None else "object"


def _unwrapped(record: object) -> object:
    """The one object in a 0-d object array, which is how `numpy.save` writes a dict."""
    for _ in range(MOST_LEVELS):
        array = objects_of(record)
        if array is None or array[0] or len(array[1]) != 1:
            break
        record = array[1][0]
    return record


def _is_plain(record: object) -> bool:
    array = objects_of(record)
    items = array[1] if array is not None else record.items if isinstance(record, Reduced) else record
    return isinstance(items, list | tuple) and all(isinstance(item, PLAIN) for item in items)


def _twice(name: str) -> CheckpointError:
    return CheckpointError(
        f"duplicate key '{safe_text(name)}' in a dict",
        Fix(note="do not load this file; save it again with one value per key"),
    )


def _attributes(record: Reduced) -> Iterable[tuple[object, object]]:
    """An object's attributes and slots; if it has none, its constructor's arguments."""
    states = record.state if isinstance(record.state, tuple) else (record.state,)
    found = [pair for state in states if isinstance(state, PickledDict) for pair in state.pairs()]
    return found or enumerate(record.args if isinstance(record.args, tuple) else ())


def _metadata(state: object) -> dict[str, dict[str, object]]:
    """Torch's notes on the module versions of a state dict: plain values only."""
    notes = state.get("_metadata") if isinstance(state, PickledDict) else None
    if not isinstance(notes, PickledDict):
        return {}
    return {
        prefix: {
            name: value
            for name, value in note.pairs()
            if type(name) is str and name != _NOT_METADATA and isinstance(value, PLAIN)
        }
        for prefix, note in notes.pairs()
        if type(prefix) is str and isinstance(note, PickledDict)
    }


_LONGEST_TEXT = 80
_SHOWN_ITEMS = 8
PLAIN = (type(None), bool, int, float, str, bytes, bytearray)


def leaf(record: object) -> Leaf:
    """Describes an entry that is neither a tensor nor holds any."""
    return Leaf(type_of(record), text_of(record), record)


def key_of(key: object, index: int) -> str:
    """Names a child whose key is not text, or is too long to be part of a path."""
    if type(key) is str:
        return f"{key[:LONGEST_KEY]}… ({index})"
    return text_of(key) if isinstance(key, PLAIN) else f"<{type_of(key)} {index}>"


def type_of(record: object) -> str:
    """Returns the type of an entry, as the file names it."""
    if isinstance(record, Reduced | PickledDict):
        return "numpy.ndarray" if is_array(record) else record.type
    if isinstance(record, Global):
        return "global"
    if isinstance(record, PickledSet):
        return "frozenset" if record.frozen else "set"
    if isinstance(record, PersistentId):
        return "persistent id"
    if isinstance(record, TensorEntry):
        return "torch.Tensor"
    return type(record).__name__ if isinstance(record, (*PLAIN, list, tuple)) else "storage"


def text_of(record: object) -> str:
    """Returns the value of a plain entry, or the size of a compound one."""
    if isinstance(record, str):
        return _short(record)
    if isinstance(record, int) and record.bit_length() > MOST_BITS:
        return f"a number of {record.bit_length():,} bits"
    if isinstance(record, bool | int | float) or record is None:
        return str(record)
    if isinstance(record, bytes | bytearray):
        return counted(len(record), "byte")
    if isinstance(record, Global):
        return _short(record.full_name)
    if isinstance(record, list | tuple):
        return _items(record)
    if isinstance(record, PickledSet):
        return _items(record.items)
    return _object(record)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT and text.isprintable() else safe_text(text, _LONGEST_TEXT)


def _items(items: list[object] | tuple[object, ...]) -> str:
    if len(items) <= _SHOWN_ITEMS and all(isinstance(item, PLAIN) for item in items):
        return _short(f"[{', '.join(map(text_of, items))}]")
    return counted(len(items), "value")


def _object(record: object) -> str:
    array = pickled_array(record)
    if array is not None:
        return f"{shape(array.shape)} {array.dtype}"
    if isinstance(record, Reduced):
        if isinstance(record.state, PickledDict):
            return counted(len(record.state.flat) // 2, "attribute")
        if isinstance(record.args, tuple) and len(record.args) == 1 and record.type.startswith("torch."):
            return text_of(record.args[0])
    return ""
