"""The roles of tensors that some networks keep apart and others fuse: query, key and value, gate and up.

Guarantees: pure functions of names. A name has a role only by a whole word of it, or by the letters that stand for
several (``qkv``, ``w13``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

_ORDERS = (("q", "k", "v"), ("k", "v"), ("q", "k"), ("gate", "up"))
"""The roles that are fused, in their usual order."""
_WORDS = {
    word: role
    for role, words in {
        "q": ("q", "query", "queries", "wq"),
        "k": ("k", "key", "keys", "wk"),
        "v": ("v", "value", "values", "wv"),
        "gate": ("gate", "w1"),
        "up": ("up", "w3"),
        "down": ("down", "w2"),
    }.items()
    for word in words
}
_FUSED = {
    "qkv": ("q", "k", "v"), "wqkv": ("q", "k", "v"), "kqv": ("k", "q", "v"), "qvk": ("q", "v", "k"),
    "vqk": ("v", "q", "k"), "vkq": ("v", "k", "q"), "kvq": ("k", "v", "q"), "kv": ("k", "v"), "vk": ("v", "k"),
    "wkv": ("k", "v"), "qk": ("q", "k"), "wqk": ("q", "k"), "w13": ("gate", "up"), "w31": ("up", "gate"),
    "gateup": ("gate", "up"), "upgate": ("up", "gate"),
}  # fmt: skip
"""Words that stand for several roles, in the order that they spell."""
_WORD = re.compile(r"[A-Z]*[a-z]+\d*|[A-Z]+\d*|\d+")
_LONGEST = 200


def words(segments: Iterable[str]) -> list[str]:
    """Returns the words of a name, in lower case: ``qProj`` and ``q_proj`` are ``q``, ``proj``."""
    return [word.lower() for segment in segments for word in _WORD.findall(segment[:_LONGEST])]


def role(segments: Sequence[str]) -> str:
    """Returns the role of one tensor; empty if its name shows none, or several."""
    found = {_WORDS[word] for word in words(segments) if word in _WORDS}
    return found.pop() if len(found) == 1 else ""


def spelled(segments: Sequence[str]) -> tuple[str, ...]:
    """Returns the roles that a fused tensor's name spells, in its order: ``qkv``, ``gate_up``, ``query_key_value``."""
    own = words(segments)
    found = next((_FUSED[word] for word in own if word in _FUSED), ())
    if found:
        return found
    several = tuple(dict.fromkeys(_WORDS[word] for word in own if word in _WORDS))
    return several if any(set(several) == set(order) for order in _ORDERS) else ()


def usual(roles: Iterable[str]) -> tuple[str, ...]:
    """Returns roles that are commonly fused in their usual order; nothing for others."""
    own = sorted(roles)
    return next((order for order in _ORDERS if sorted(order) == own), ())


def orders() -> Sequence[Sequence[str]]:
    """Returns all roles that are commonly fused, most of them first."""
    return _ORDERS


def composed(fused: Sequence[str], pieces: Sequence[Sequence[str]]) -> list[int]:
    """Returns the order in which a fused tensor's name is made of those of its pieces: ``a_and_b`` of ``a`` and ``b``.

    Empty if it is not made of all of them.
    """
    text = "".join(words(fused))
    own = [words(piece) for piece in pieces]
    common = set.intersection(*map(set, own)) if own else set[str]()
    telling = ["".join(word for word in each if word not in common) for each in own]
    places = [text.find(word) if word else -1 for word in telling]
    order = sorted(range(len(pieces)), key=lambda at: places[at])
    apart = all(places[a] + len(telling[a]) <= places[b] for a, b in pairwise(order))
    return order if apart and order and min(places) >= 0 else []
