r"""The patterns of PEFT's ``rank_pattern`` and ``alpha_pattern``: which modules have another rank or alpha.

Guarantees: a pattern matches the modules that PEFT's ``(.*\.)?(pattern)$`` matches, and the first one that does
counts. A pattern out of a file cannot keep the process busy: one whose only metacharacters are dots, each of which
stands for one sign, is looked up; any other is short, and the number of ways in which it can be tried on all names is
bounded before it is compiled.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...formats.limits import LONGEST_PATTERN, MOST_WAYS
from ...text.wording import safe_text

_META = frozenset("^$*+?{}[]\\|()")
"""What makes a pattern more than text with dots, which stand for any sign."""
_REPEATED = re.compile(r"[*+?]|\{\d*(?:,\d*)?\}")
_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_BACK = re.compile(r"\\[0-9]")
_V = TypeVar("_V")


class Patterns(Generic[_V]):
    """Values by pattern.

    Args:
        values: By pattern, in order.
        names: The modules that will be asked for.

    Raises:
        ValueError: A pattern is invalid, or can be tried in too many ways; a sentence without its subject.
    """

    def __init__(self, values: Mapping[str, _V], names: Collection[str]) -> None:
        self._text = _Texts[_V]()
        self._compiled: list[tuple[int, re.Pattern[str], _V]] = []
        longest, ways = max(map(len, names), default=1), 0
        for order, (pattern, value) in enumerate(values.items()):
            if not _META.intersection(pattern):
                self._text.add(pattern, order, value)
                continue
            ways += _ways(pattern, longest) * max(len(names), 1)
            if ways > MOST_WAYS:
                raise ValueError(f"holds {_named(pattern)}, which can be tried in too many ways")
            self._compiled.append((order, _compiled(pattern), value))

    def get(self, name: str, default: _V) -> _V:
        """Returns the value of a module."""
        starts = [0, *(at + 1 for at, sign in enumerate(name) if sign == ".")]
        exact = [found for start in starts for found in self._text.of(name[start:])]
        before, value = min(exact, key=lambda one: one[0], default=(None, default))
        for order, compiled, other in self._compiled:
            if before is not None and order > before:
                break
            if any(compiled.match(name, start) for start in starts):
                return other
        return value


class _Texts(Generic[_V]):
    """Patterns of text and dots; looking one up takes as many steps as there are different places of dots."""

    def __init__(self) -> None:
        self._by_dots: dict[int, dict[tuple[int, ...], dict[str, tuple[int, _V]]]] = {}
        """Length of a pattern → places of its dots → the pattern → its order and value."""

    def add(self, pattern: str, order: int, value: _V) -> None:
        dots = tuple(at for at, sign in enumerate(pattern) if sign == ".")
        self._by_dots.setdefault(len(pattern), {}).setdefault(dots, {})[pattern] = order, value

    def of(self, text: str) -> Iterator[tuple[int, _V]]:
        """Yields the order and value of every pattern that matches a text as a whole."""
        for dots, patterns in self._by_dots.get(len(text), {}).items():
            signs = list(text)
            for at in dots:
                signs[at] = "." if signs[at] != "\n" else ""
            if found := patterns.get("".join(signs)):
                yield found


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may mean something else in a later Python
            return re.compile(rf"(?:{pattern})\Z")
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"holds {_named(pattern)}, an invalid expression ({safe_text(error)})") from error


@dataclass(slots=True)
class _Group:
    """A group that is not closed yet."""

    branches: int = 1
    repeats: bool = False
    """Whether something in it is repeated, or branches."""


def _ways(pattern: str, longest: int) -> int:
    """Returns a bound of the number of ways to try a pattern on one name.

    Raises:
        ValueError: It is too long, repeats what repeats or branches, or is unsupported.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"holds a pattern of {len(pattern):,} characters, at most {LONGEST_PATTERN} are supported")
    ways, groups = 1, [_Group()]
    for text, repeated in _tokens(pattern):
        inner = _Group()
        if text == "(":
            groups.append(_Group())
        elif text == "|":
            groups[-1].branches += 1
        elif text == ")" and len(groups) > 1:
            inner = groups.pop()
            ways *= inner.branches
            inner.repeats |= inner.branches > 1
        if inner.repeats and repeated not in ("", "?"):
            raise ValueError(f"holds {_named(pattern)}, which repeats what repeats or branches itself")
        groups[-1].repeats |= inner.repeats or repeated != ""
        ways *= {"": 1, "?": 2}.get(repeated, longest + 1)
        if ways > MOST_WAYS:  # before the number grows large
            raise ValueError(f"holds {_named(pattern)}, which can be tried in too many ways")
    return ways * groups[0].branches


def _tokens(pattern: str) -> Iterator[tuple[str, str]]:
    """Yields each element of an expression with the sign that repeats it."""
    at = 0
    while at < len(pattern):
        text = _element(pattern, at)
        at += len(text)
        text = "(" if text == "(?:" else text
        repeated = None if text in ("(", "|") else _REPEATED.match(pattern, at)
        if repeated is not None:
            at = repeated.end()
            at += pattern[at : at + 1] in ("?", "+")  # lazy or possessive
        yield text, "" if repeated is None else repeated[0]


def _element(pattern: str, at: int) -> str:
    if pattern.startswith("(?", at):
        if not pattern.startswith("(?:", at):
            raise ValueError(f"holds {_named(pattern)}, whose '(?' is unsupported")
        return "(?:"
    atom = _ATOM.match(pattern, at)
    text = pattern[at] if atom is None else atom[0]
    if _BACK.fullmatch(text):
        raise ValueError(f"holds {_named(pattern)}, whose back reference is unsupported")
    return text


def _named(pattern: str) -> str:
    return f"the pattern '{safe_text(pattern, 60)}'"
