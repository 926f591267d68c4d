"""The segments of keys, what they mean, and groups of keys in few words.

Guarantees: pure functions of names; segments beyond a fixed depth stay together, so that no key costs more than its
length. A group stands for exactly its keys: numbers are gathered only where everything below them is equal, shapes
included, and are written as they are (``{0,2..5}``); ``*`` is written only where every key of that side below the
module belongs to the group. Every key is in exactly one group.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..keys.segments import DEEPEST, Path, is_number, ranges

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Segments that module wrappers put into keys, at the start or in the middle."""

ANY = "{}"
"""The placeholder for a number in a template."""

_WORDS = re.compile(r"[A-Za-z]+?(?=[A-Z][a-z]|[_\W\d]|$)|[0-9]+")

_SYNONYMS: dict[str, str] = {
    word: words[0]
    for words in (
        ("weight", "gamma", "kernel", "w"),
        ("bias", "beta", "b"),
        ("q", "query", "wq", "queries"),
        ("k", "key", "wk", "keys"),
        ("v", "value", "wv", "values"),
        ("o", "out", "output", "wo", "c_proj"),
        ("attn", "attention", "att", "mha", "selfattn"),
        ("layer", "layers", "block", "blocks", "h", "stage", "stages", "level", "levels"),
        ("embed", "embedding", "embeddings", "emb", "wte", "tok"),
        ("pos", "position", "positional", "wpe"),
        ("norm", "layernorm", "ln", "bn", "batchnorm", "rmsnorm"),
        ("mlp", "ffn", "ff", "feed", "feedforward", "fc", "linear", "dense", "lin", "intermediate"),
        ("head", "classifier", "decoder", "lm", "logits", "clf"),
        ("encoder", "enc", "backbone", "trunk", "body", "features", "transformer", "model", "net", "base"),
        ("conv", "convolution", "cnn"),
        ("downsample", "shortcut", "skip"),
        ("proj", "projection"),
    )
    for word in words
}
_OPPOSED = (
    frozenset({"weight", "bias"}),
    frozenset({"q", "k", "v"}),
    frozenset({"mean", "var"}),
    frozenset({"ih", "hh"}),
    frozenset({"gate", "up", "down"}),
    frozenset({"encoder", "decoder"}),
)
"""Sets of words with different meanings."""


def template(path: Sequence[str]) -> tuple[Path, tuple[int, ...]]:
    """Replaces the numbers in a path by `ANY`, and returns them as well."""
    numbers = tuple(int(segment) for segment in path if is_number(segment))
    return tuple(ANY if is_number(segment) else segment for segment in path), numbers


def stem(segment: str) -> str:
    """Removes the number at the end of a segment: ``layer1`` → ``layer``."""
    return segment.rstrip("0123456789")


@functools.lru_cache(maxsize=65536)
def likeness(left: Path, right: Path) -> float:
    """Returns how similar two templates are, from 0 to 1; 0 if they contradict each other."""
    if _contradict(_words(left[-1:]), _words(right[-1:])) or _contradict(_words(left[-2:]), _words(right[-2:])):
        return 0.0
    words = difflib.SequenceMatcher(None, _words(left), _words(right), autojunk=False).ratio()
    letters = difflib.SequenceMatcher(None, ".".join(left), ".".join(right), autojunk=False).ratio()
    return max(words, letters)


@functools.lru_cache(maxsize=65536)
def _words(path: Path) -> tuple[str, ...]:
    found = (word.lower() for segment in path if segment != ANY for word in _WORDS.findall(segment))
    return tuple(_SYNONYMS.get(word, word) for word in found)


def _contradict(left: tuple[str, ...], right: tuple[str, ...]) -> bool:
    for opposed in _OPPOSED:
        mine, theirs = opposed.intersection(left), opposed.intersection(right)
        if mine and theirs and not mine & theirs:
            return True
    return False


# Characters of the notation itself: such a segment is never grouped.
_SPECIAL = re.compile(r"[{}*,]|\.\.")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Group:
    """Some keys of one side that are written as one."""

    path: Path
    """The segments of its pattern."""
    keys: tuple[str, ...]
    detail: Hashable
    """The detail that all its keys share; None if they differ."""

    @property
    def pattern(self) -> str:
        """``encoder.layers.{0..11}.*``."""
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class _Piece:
    pattern: Path
    members: tuple[tuple[Path, Hashable], ...]
    """The keys below the piece, with their details."""


@dataclass(slots=True)
class _Node:
    listed: bool = False
    detail: Hashable = None
    whole: bool = True
    """Whether every key of this side below is in the list."""
    below: dict[str, _Node] = field(default_factory=dict)
    looks: int = -1
    """Equal for nodes with equal contents."""


def group(
    keys: Mapping[str, Hashable], universe: Iterable[str] = (), *, star: bool = True, deepest: int = DEEPEST
) -> list[Group]:
    """Groups keys by module.

    Args:
        keys: The keys, each with a detail (a shape, a pair of shapes).
        universe: All keys of that side.
        star: Whether whole modules may be written with ``*``, which hides the details of their keys.
        deepest: How often a key is split; deeper names stay one.

    Returns:
        The groups, in the order of their first keys.
    """
    root = _Node(whole=False)
    for key, detail in keys.items():
        node = root
        for segment in key.split(".", deepest):
            node = node.below.setdefault(segment, _Node())
        node.listed, node.detail = True, detail
    for key in universe:
        if key not in keys:
            _mark_partial(root, key, deepest)
    _number(root, {})
    found = []
    for piece in _pieces(root, star=star):
        details = {detail for _, detail in piece.members}
        common = next(iter(details)) if len(details) == 1 else None
        found.append(Group(piece.pattern, tuple(".".join(path) for path, _ in piece.members), common))
    return found


def _mark_partial(root: _Node, key: str, deepest: int) -> None:
    node: _Node | None = root
    for segment in key.split(".", deepest):
        node = node.below.get(segment) if node else None
        if node is None:
            return
        node.whole = False


def _number(node: _Node, known: dict[object, int]) -> int:
    """Numbers nodes by their contents, so that equal ones have equal numbers; looks at each key once."""
    below = tuple((segment, _number(child, known)) for segment, child in node.below.items())
    node.looks = known.setdefault((node.listed, node.detail, node.whole, below), len(known))
    return node.looks


def _pieces(node: _Node, *, star: bool) -> list[_Piece]:
    if star and node.whole and node.below and not node.listed:
        return [_Piece(("*",), tuple(_members(node, ())))]
    pieces = [_Piece((), (((), node.detail),))] if node.listed else []
    alike: dict[tuple[str, int], list[str]] = {}
    for segment, child in node.below.items():
        alone = segment if _SPECIAL.search(segment) else ""
        alike.setdefault((alone, child.looks), []).append(segment)
    for labels in alike.values():
        pieces += [_joined(labels, piece) for piece in _pieces(node.below[labels[0]], star=star)]
    return pieces


def _members(node: _Node, prefix: Path) -> Iterable[tuple[Path, Hashable]]:
    if node.listed:
        yield prefix, node.detail
    for segment, child in node.below.items():
        yield from _members(child, (*prefix, segment))


def _joined(labels: list[str], piece: _Piece) -> _Piece:
    numbers = [int(label) for label in labels if _NUMBER.fullmatch(label)]
    others = [label for label in labels if not _NUMBER.fullmatch(label)]
    if not others:
        label = ranges(numbers)
    elif len(labels) == 1:
        label = labels[0]
    else:
        gathered = ranges(numbers).strip("{}").split(",") if numbers else []
        label = "{" + ",".join([*others, *gathered]) + "}"
    members = tuple(((at, *path), detail) for at in labels for path, detail in piece.members)
    return _Piece((label, *piece.pattern), members)
