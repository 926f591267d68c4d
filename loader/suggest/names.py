"""What the segments of a key mean.

Guarantees: pure functions of names; segments beyond a fixed depth stay together, so that no key can cost more than its
length.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Segments that wrappers of modules put into keys, at the start or in the middle."""

Path = tuple[str, ...]
"""A key's segments."""

ANY = "{}"
"""Stands for a number in a template."""

_DEEPEST = 24
_MOST_DIGITS = 6
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
"""Words of which two never mean the same."""


def segments(key: str) -> Path:
    """A key's segments."""
    return tuple(key.split(".", _DEEPEST))


def is_number(segment: str) -> bool:
    """Whether a segment counts its siblings."""
    return segment.isdigit() and segment.isascii() and len(segment) <= _MOST_DIGITS


def template(path: Sequence[str]) -> tuple[Path, tuple[int, ...]]:
    """A path with its numbers taken out, and the numbers."""
    numbers = tuple(int(segment) for segment in path if is_number(segment))
    return tuple(ANY if is_number(segment) else segment for segment in path), numbers


def stem(segment: str) -> str:
    """A segment without the number at its end: ``layer1`` → ``layer``."""
    return segment.rstrip("0123456789")


@functools.lru_cache(maxsize=65536)
def likeness(left: Path, right: Path) -> float:
    """How much two templates look like one name, from 0 to 1; 0 where they contradict each other."""
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
