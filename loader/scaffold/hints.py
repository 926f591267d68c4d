"""Constructor arguments that a file carries beside its weights: Lightning's ``hyper_parameters`` and the like.

Guarantees: plain numbers, flags, texts and lists of them, bounded in number and length; objects are looked into as the
inert records that they are, and nothing that the file names is imported or called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loader.formats.base import Container, Leaf, Node, TensorEntry
from loader.formats.pickle.records import PickledDict, Reduced

PLACES = ("hyper_parameters", "hparams", "model_args", "args", "config", "cfg")
"""Where training programs keep what a model was made with; Lightning's is the first."""

_DEEPEST = 3
_MOST = 1000
_LONGEST = 200
_LARGEST = 2**31
_LARGE = 4096


@dataclass(frozen=True, slots=True)
class Hint:
    """A value, and where in the file it stands."""

    value: Any
    place: str


def hints_of(root: Container) -> dict[str, Hint]:
    """The values by name; of one name the outermost, and none where two places of one level disagree."""
    found: dict[str, Hint] = {}
    sizes = (size for _, c in root.walk() for entry in c.tensors().values() for size in entry.shape)
    largest = max(_LARGE, *sizes, 0)
    for place in PLACES:
        node = root.children.get(place)
        if node is not None and not isinstance(node, TensorEntry):
            for name, value in _values(node).items():
                if not _too_large(value, largest):
                    found.setdefault(name, Hint(value, place))
    return found


def _too_large(value: Any, most: int) -> bool:
    """Whether a number is above all sizes: a constructor that counts that far does not come to an end."""
    return any(type(number) is int and number > most for number in (value if isinstance(value, list) else [value]))


def _values(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {}
    level = [_record(node)]
    for _ in range(_DEEPEST):
        pairs = [pair for record in level for pair in _pairs(record)][:_MOST]
        here: dict[str, list[Any]] = {}
        for name, value in pairs:
            if _is_plain(value):
                here.setdefault(name, []).append(value)
        found = {name: v[0] for name, v in here.items() if all(repr(o) == repr(v[0]) for o in v)} | found
        level = [value for _, value in pairs if not _is_plain(value)]
    return found


def _record(node: Node) -> object:
    return node.record if isinstance(node, Container | Leaf) else node


def _pairs(record: object) -> Iterator[tuple[str, Any]]:
    """The named values of a dict, of an object with attributes, or of an OmegaConf node."""
    for name, value in _raw_pairs(record):
        if type(name) is str and name.isidentifier():
            yield name, _unpacked(value)


def _raw_pairs(record: object) -> Iterator[tuple[object, object]]:
    if isinstance(record, PickledDict):
        yield from record.pairs()
    elif isinstance(record, Reduced):
        if record.flat is not None:
            yield from zip(record.flat[::2], record.flat[1::2], strict=False)
        state = record.state
        if isinstance(state, PickledDict):
            content = state.get("_content")
            yield from (content if isinstance(content, PickledDict) else state).pairs()


def _unpacked(value: object) -> object:
    """What an OmegaConf node of one value holds; a list as a list."""
    state = value.state if isinstance(value, Reduced) else None
    if isinstance(state, PickledDict):
        content = state.get("_content")
        if isinstance(content, list):
            return [_unpacked(item) for item in content[:_MOST]]
        if content is None and any(name == "_val" for name, _ in state.pairs()):
            return state.get("_val")
    return list(value) if isinstance(value, tuple) else value


def _is_plain(value: object) -> bool:
    if type(value) is list:
        return len(value) <= _LONGEST and all(_is_plain(item) and type(item) is not list for item in value)
    if type(value) is str:
        return len(value) <= _LONGEST and value.isprintable()
    if type(value) is int:
        return abs(value) < _LARGEST
    return value is None or type(value) in (bool, float)
