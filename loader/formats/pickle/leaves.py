"""How entries that are no tensors are named and shown.

Guarantees: the text is short and harmless whatever the file holds, and making it takes no more time than the entry is
long; nothing is converted, hashed or compared to write it.
"""

from __future__ import annotations

from ...text.wording import counted, safe_text, shape
from ..tree import Leaf, TensorEntry
from .arrays import is_array, pickled_array
from .records import Global, PersistentId, PickledDict, PickledSet, Reduced

_LONGEST_KEY = 200
_LONGEST_TEXT = 80
_MOST_BITS = 256
_SHOWN_ITEMS = 8
PLAIN = (type(None), bool, int, float, str, bytes, bytearray)


def leaf(record: object) -> Leaf:
    """Describes an entry that is no tensor and holds none."""
    return Leaf(type_of(record), text_of(record), record)


def key_of(key: object, index: int) -> str:
    """Names a child whose key is no text, or one so long that every path below it would be."""
    if type(key) is str:
        return f"{key[:_LONGEST_KEY]}… ({index})"
    return text_of(key) if isinstance(key, PLAIN) else f"<{type_of(key)} {index}>"


def type_of(record: object) -> str:
    """The type of an entry, as the file names it."""
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
    """The value of a plain entry, or how much a compound one holds."""
    if isinstance(record, str):
        return _short(record)
    if isinstance(record, int) and record.bit_length() > _MOST_BITS:
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
