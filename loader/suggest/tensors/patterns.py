r"""Patterns that hit given names of a file and no other: expressions for `re.sub`, and globs.

Guarantees: a pattern is returned only if it hits exactly the names that it is for, among all names of the file. It is
general over numbers (``blocks.(\d+).``), as short as the other names allow, and bounded in work; deterministic.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ...keys.segments import Path, is_number, segments

_MOST_RULES = 8
_WIDEST = 4
"""How many segments of context a pattern has before it gets the whole name."""
_GLOB_SIGNS = frozenset("*?[]")


@dataclass(frozen=True, slots=True)
class Place:
    """The segments of a name that a rule replaces, between those that stay."""

    before: Path
    old: Path
    after: Path


@dataclass(frozen=True, slots=True)
class Pattern:
    """An expression and what it keeps around the part that it replaces."""

    expression: str
    _start: str
    _end: str

    def to(self, new: Sequence[str]) -> str:
        """Returns the template of the new name with these segments, if any, in the place of the old ones."""
        if not new:
            return self._start + self._end.removeprefix(".") if self._end else self._start.removesuffix(".")
        return f"{self._start}{'.'.join(_again(segment) for segment in new)}{self._end}"


@dataclass(frozen=True, slots=True)
class _Form:
    """What a pattern looks at: so many segments before the old ones, and whether at those after them."""

    context: int
    tail: bool

    def of(self, place: Place) -> tuple[bool, Path, bool, Path]:
        """Returns what all places of one pattern share: the ends of the name that it reaches, and the segments."""
        head = place.before[len(place.before) - self.context :] if self.context else ()
        at_start = len(head) == len(place.before)
        tail = place.after if self.tail else ()
        return at_start, _template(head), not place.after or self.tail, _template(tail)


def patterns(wanted: Mapping[str, Place], names: Collection[str]) -> list[tuple[Pattern, list[str]]]:
    """Returns the fewest patterns that together hit exactly these names, each with the names that it is for.

    Args:
        wanted: Name → its place; the old segments are the same everywhere, but for numbers.
        names: All names, these included.

    Returns:
        None of them if it takes too many, or no pattern separates the names.
    """
    if not wanted:
        return []
    old = _template(next(iter(wanted.values())).old)
    literal = max(old, key=lambda segment: len(segment) * (segment != _NUMBER))
    near = [name for name in names if literal == _NUMBER or literal in name]
    best: list[tuple[Pattern, list[str]]] = []
    for form in _forms(wanted):
        found = _formed(wanted, form, near)
        if found and (not best or len(found) < len(best)):
            best = found
        if len(best) == 1:
            break
    return best


def _forms(wanted: Mapping[str, Place]) -> Iterator[_Form]:
    deepest = max(len(place.before) for place in wanted.values())
    for context in (*range(min(_WIDEST, deepest) + 1), deepest):
        yield from (_Form(context, tail=False), _Form(context, tail=True))


def _formed(wanted: Mapping[str, Place], form: _Form, near: Sequence[str]) -> list[tuple[Pattern, list[str]]]:
    shared: dict[tuple[bool, Path, bool, Path], list[str]] = {}
    for name, place in wanted.items():
        shared.setdefault(form.of(place), []).append(name)
    if len(shared) > _MOST_RULES:
        return []
    found = []
    for (at_start, head, at_end, tail), own in shared.items():
        pattern = _written(at_start, head, _template(wanted[own[0]].old), at_end, tail)
        compiled = re.compile(pattern.expression)
        if {name for name in near if compiled.search(name)} != set(own):
            return []
        found.append((pattern, own))
    return found


_NUMBER = "\0"
"""Stands for a number in a template; no segment that may be typed holds it."""


def _template(path: Iterable[str]) -> Path:
    return tuple(_NUMBER if is_number(segment) else segment for segment in path)


def _written(at_start: bool, head: Path, old: Path, at_end: bool, tail: Path) -> Pattern:
    """Writes a pattern; numbers around the old segments are groups, which the new name gets back."""
    count = 0

    def again(path: Path) -> str:
        nonlocal count
        written = []
        for segment in path:
            count += segment == _NUMBER
            written.append(rf"\{count}" if segment == _NUMBER else _again(segment))
        return ".".join(written)

    start = ("" if at_start else ".") + (again(head) + "." if head else "")
    count += old.count(_NUMBER)
    end = ("." + again(tail) if tail else "") + ("" if at_end else ".")
    inside = r"\.".join(map(_expressed, (*head, *old, *tail)))
    return Pattern(("^" if at_start else r"\.") + inside + ("$" if at_end else r"\."), start, end)


def _expressed(segment: str) -> str:
    return r"(\d+)" if segment == _NUMBER else re.escape(segment).replace(r"\-", "-")


def _again(segment: str) -> str:
    """Writes a segment in a template, in which a backslash means a group."""
    return segment.replace("\\", r"\\")


def globs(wanted: Collection[str], names: Collection[str]) -> list[str]:
    """Returns the fewest short globs that together match exactly these names; none if it takes too many."""
    if not wanted or any(_GLOB_SIGNS.intersection(name) for name in wanted):
        return []
    inside = set(wanted)
    if len(inside) == 1:
        return [*inside]
    module = _module(inside, names)
    if module:
        return [module]
    paths = {name: segments(name) for name in names}
    every = Counter(end for path in paths.values() for end in _ends(path))
    own = Counter(end for name in wanted for end in _ends(paths.get(name, segments(name))))
    found: dict[str, None] = {}
    left = list(dict.fromkeys(wanted))
    while left and len(found) < _MOST_RULES:
        glob = _glob(left[0], every, own)
        hits = {name for name in names if fnmatchcase(name, glob)}
        if not hits <= inside:
            glob, hits = left[0], {left[0]}
        found[glob] = None
        left = [name for name in left if name not in hits]
    return [] if left else list(found)


def _module(wanted: Collection[str], names: Collection[str]) -> str:
    """Returns the glob of the module that holds exactly these names, if there are several."""
    parents = {name.rpartition(".")[0] for name in wanted}
    parent = min(parents, key=len)
    inside = [name for name in names if name.startswith(f"{parent}.")] if len(wanted) > 1 and parent else []
    return f"{parent}.*" if set(inside) == set(wanted) else ""


def _ends(path: Path) -> Iterator[Path]:
    """Yields the ends of a path that a glob may name, numbers as one sign; the whole path is the last."""
    form = _template(path)
    yield from (form[at:] for at in range(len(form) - 1, max(len(form) - 1 - _WIDEST, 0), -1))
    yield ("", *form)


def _glob(name: str, every: Mapping[Path, int], own: Mapping[Path, int]) -> str:
    whole = ("", *_template(segments(name)))
    end = next((end for end in _ends(segments(name)) if every[end] == own[end]), whole)
    if end[0] == "" and own[end] == 1:
        return name
    written = ".".join("*" if segment == _NUMBER else segment for segment in end)
    return written[1:] if end[0] == "" else f"*.{written}"
