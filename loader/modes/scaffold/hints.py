"""Constructor arguments that a file carries next to its weights, and its folder's ``config.json``.

Guarantees: plain numbers, flags, texts and lists of them, bounded in number and length; objects are read
as the inert records that they are, and nothing that the file names is imported or called. A trainer's own settings (of
an optimizer, of a scheduler) are not a source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ...formats.index import parse_mapping
from ...formats.limits import LARGEST_CONFIG
from ...formats.pickle.records import PickledDict, Reduced
from ...formats.pickle.storages import pickled_number
from ...formats.tree import Container, Leaf, Node, TensorEntry
from ...text.wording import safe_text

PLACES = ("hyper_parameters", "hparams", "model_args", "args", "config", "cfg")
"""Where training programs keep what a model was made with; Lightning's is the first."""

_BOOKKEEPING = re.compile(r"optim|sched|scaler|callback|loops|rng|amp\b|param_groups", re.IGNORECASE)
_WHOSE = "the file's "
_MOST_NAMED = 2
_DEEPEST = 3
_MOST = 1000
_MOST_MAPPINGS = 2000
_MOST_LOOKED_AT = 200_000
_LONGEST = 200
_LARGEST = 2**31
_LARGE = 4096


@dataclass(frozen=True, slots=True)
class Hint:
    """A value, and where it is: ``the file's params``."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Source:
    """A mapping that may hold arguments."""

    origin: str
    values: Mapping[str, Any]
    known: bool = False
    """Whether it is where training programs keep arguments, so that every name in it may be one."""

    def rank(self, names: set[str]) -> tuple[bool, bool, int, bool]:
        """How likely it holds arguments: its place is known or in the file, it names many, and nothing else."""
        shared = len(names & self.values.keys())
        return self.known, self.origin.startswith(_WHOSE), shared, shared == len(self.values)


@dataclass(frozen=True, slots=True)
class Hints:
    """All that a file and its folder carry."""

    sources: Sequence[Source]

    def of(self, arguments: Iterable[str]) -> dict[str, Hint]:
        """The values by name, each from the mapping most likely to hold arguments; none if two of those disagree."""
        said = self._said(set(arguments))
        return {name: hints[0] for name, hints in said.items() if len(hints) == 1}

    def disputed(self, arguments: Iterable[str]) -> dict[str, str]:
        """Where they disagree, the value of each."""
        said = self._said(set(arguments))
        return {
            name: " and ".join(f"{hint.value} in {hint.origin}" for hint in hints[:_MOST_NAMED])
            for name, hints in said.items()
            if len(hints) > 1
        }

    def _said(self, names: set[str]) -> dict[str, list[Hint]]:
        """The different values that the best mappings have for each name."""
        found: dict[str, list[Hint]] = {}
        for name in names:
            own = [source for source in self.sources if name in source.values]
            known = [source for source in own if source.known][:1]
            best = max((source.rank(names) for source in own), default=None)
            first = known or [source for source in own if source.rank(names) == best]
            different = {repr(source.values[name]): source for source in reversed(first)}
            if different:
                found[name] = [Hint(s.values[name], _origin(s, name)) for s in reversed(different.values())]
        return found


def _origin(source: Source, name: str) -> str:
    return f"{source.origin}{name}" if source.origin.endswith(_WHOSE) else source.origin


def hints_of(root: Container, config: Mapping[str, Any] | None = None) -> Hints:
    """What a file carries, and the ``config.json`` next to it."""
    sizes = (size for _, c in root.walk() for entry in c.tensors().values() for size in entry.shape)
    largest = max(_LARGE, *sizes, 0)
    found = list(_known(root))
    found += _sources(root, _WHOSE)
    found += _sources(config, "config.json") if config is not None else ()
    bounded = (
        Source(s.origin, {n: v for n, v in s.values.items() if not _too_large(v, largest)}, s.known) for s in found
    )
    return Hints([source for source in bounded if source.values])


def _known(root: Container) -> Iterator[Source]:
    for place in PLACES:
        node = root.children.get(place)
        if node is not None and not isinstance(node, TensorEntry):
            yield Source(f"the file's {place}", _values(node), known=True)


def _sources(whole: object, origin: str) -> Iterator[Source]:
    """Every mapping, outermost first; a value next to the weights may be an argument by its name alone."""
    queue: list[tuple[str, object]] = [("", whole)]
    seen: set[int] = set()
    left = _MOST_LOOKED_AT
    for _ in range(_MOST_MAPPINGS):
        if not queue or left <= 0:
            return
        place, node = queue.pop(0)
        if id(node) in seen or _is_machinery(node):
            continue
        seen.add(id(node))
        pairs = list(islice(_entries(node), left))
        left -= len(pairs) + 1
        plain = _named(pairs[:_MOST])
        below = f"'s {safe_text(place)}" if place and origin != _WHOSE else safe_text(place)
        yield Source(f"{origin}{below}", plain, known=not place and origin == _WHOSE)
        dotted = f"{place}." if place else ""
        deeper = ((f"{dotted}{name}", value) for name, value in pairs if not _BOOKKEEPING.search(name))
        queue += [(where, value) for where, value in deeper if not _is_plain(value)]


def _named(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The plain values by the last part of a name (``model.act_scale``), but for a trainer's and where two differ."""
    whole = {name: value for name, value in pairs if name.isidentifier() and _is_plain(value)}
    parts: dict[str, list[Any]] = {}
    for name, value in pairs:
        *above, last = re.split(r"[./]", name)
        if above and last.isidentifier() and last not in whole and _is_plain(value) and not _BOOKKEEPING.search(name):
            parts.setdefault(last, []).append(value)
    return {last: v[0] for last, v in parts.items() if all(repr(other) == repr(v[0]) for other in v)} | whole


def _entries(node: object) -> Iterator[tuple[str, Any]]:
    """The named values below a node or a record, the items of a list by number; tensors are left out."""
    if isinstance(node, Container) and (node.record is None or isinstance(node.record, dict)):
        notes = node.record if isinstance(node.record, dict) else {}
        raw: Iterable[tuple[object, object]] = [*_read(notes), *node.children.items()]
    else:
        record = _record(node)
        raw = enumerate(record) if isinstance(record, list | tuple) else _raw_pairs(record)
    for name, value in raw:
        if isinstance(name, str | int) and not isinstance(value, TensorEntry):
            yield str(name), _unpacked(_record(value))


def _is_machinery(node: object) -> bool:
    """Whether it is a module or another object of torch's: its layers' sizes are not arguments of the whole."""
    record = _record(node)
    if isinstance(node, Container) and node.kind == "module":
        return True
    state = record.state if isinstance(record, Reduced) else None
    is_module = isinstance(state, PickledDict) and state.get("_parameters") is not None
    return is_module or (isinstance(record, Reduced) and record.type.startswith("torch."))


def _read(notes: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    """What the notes of a safetensors file say, which are all text."""
    for name, text in notes.items():
        try:
            yield name, json.loads(text) if len(text) <= LARGEST_CONFIG else text
        except (ValueError, RecursionError):
            yield name, text


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


def _record(node: object) -> object:
    return node.record if isinstance(node, Leaf) or (isinstance(node, Container) and node.record is not None) else node


def _pairs(record: object) -> Iterator[tuple[str, Any]]:
    """The named values of a dict, of an object with attributes, or of an OmegaConf node."""
    for name, value in _raw_pairs(record):
        if type(name) is str and name.isidentifier():
            yield name, _unpacked(value)


def _raw_pairs(record: object) -> Iterator[tuple[object, object]]:
    if isinstance(record, PickledDict):
        yield from record.pairs()
    elif isinstance(record, dict):
        yield from record.items()
    elif isinstance(record, Reduced):
        if record.flat is not None:
            yield from zip(record.flat[::2], record.flat[1::2], strict=False)
        state = record.state
        if isinstance(state, PickledDict):
            content = state.get("_content")
            yield from (content if isinstance(content, PickledDict) else state).pairs()


def _unpacked(value: object) -> object:
    """What an OmegaConf node of one value holds; a list as a list; a mapping that is written as JSON as that."""
    state = value.state if isinstance(value, Reduced) else None
    if isinstance(state, PickledDict):
        content = state.get("_content")
        if isinstance(content, list):
            return [_unpacked(item) for item in content[:_MOST]]
        if content is None and any(name == "_val" for name, _ in state.pairs()):
            return state.get("_val")
    if (number := pickled_number(value)) is not None:
        return number
    if type(value) is str and value.startswith("{") and len(value) <= LARGEST_CONFIG:
        try:
            return parse_mapping(value.encode("utf-8", "replace"))
        except ValueError:
            return value
    return list(value) if isinstance(value, tuple) else value


def _is_plain(value: object) -> bool:
    if type(value) is list:
        return len(value) <= _LONGEST and all(_is_plain(item) and type(item) is not list for item in value)
    if type(value) is str:
        return len(value) <= _LONGEST and value.isprintable()
    if type(value) is int:
        return abs(value) < _LARGEST
    return value is None or type(value) in (bool, float)
