"""Tensors that one side numbers and the other has stacked: experts, and layers of a scanned network.

Guarantees: pure functions of names and shapes. The numbers run from 0 without a gap, all tensors have one shape, and
the stacked one has their number in front of it; numbers are an order, so such a rule is certain. A stack has the name
of its tensors without the number; of other names it takes the only one of that shape, or that of the same role.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...keys.candidates import Shape
from ...keys.segments import Path, is_number, ranges, segments
from . import roles
from .held import Held, below
from .patterns import Place, patterns
from .proposed import Proposed, shown

_MOST_KINDS = 24
_LEAF = "weight"


@dataclass(frozen=True, slots=True)
class _Family:
    """Tensors that differ in one number: below a module, a number, and the rest of their names."""

    module: Path
    rest: Path
    shape: Shape
    names: tuple[str, ...]
    """In numeric order."""

    @property
    def stack(self) -> Shape:
        """The shape of all of them together."""
        return (len(self.names), *self.shape)


@dataclass(frozen=True, slots=True)
class _Stack:
    """A family and the name of the tensor that it is stacked to."""

    family: _Family
    stacked: Path
    """The segments of that name below the module."""
    certain: bool = True
    """Whether it is named like its tensors."""

    @property
    def name(self) -> str:
        """The whole name."""
        return ".".join((*self.family.module, *self.stacked))


def stack(held: Held) -> Iterator[Proposed]:
    """Stacks numbered tensors of the file that the model has as one."""
    families = list(_families(held.extra))
    found = _stacks(families, held.missing)
    for alike in _kinds([*found, *_for_fused(families, held.missing, found)]):
        first = alike[0]
        places = {name: _numbered(one.family) for one in alike for name in one.family.names}
        module, kept = first.family.module[-1:], _same_rest(first)
        if kept:
            at = len(module) + 1
            places = {name: Place(p.before, p.old[:at], p.old[at:]) for name, p in places.items()}
        new = module if kept else (*module, *first.stacked)
        rules = [{"merge": pattern.expression, "to": pattern.to(new)} for pattern, _ in patterns(places, held.file)]
        if rules:
            reason = f"{_numbers(first)} of the file are one {shown(first.name)} in the model"
            yield Proposed(tuple(rules), reason, first.certain)


def unstack(held: Held) -> Iterator[Proposed]:
    """Takes stacks of the file apart that the model numbers."""
    families = list(_families(held.missing))
    found = _stacks(families, held.extra)
    for alike in _kinds([*found, *_of_fused(families, held.extra, found)]):
        first = alike[0]
        module = first.family.module[-1:]
        kept = _same_rest(first)
        places = {}
        for one in alike:
            before, old = one.family.module[: -len(module) or None], (*module, *one.stacked)
            places[one.name] = Place(before, module, one.stacked) if kept and module else Place(before, old, ())
        new = (*module, "{}") if kept and module else (*module, "{}", *first.family.rest)
        rules = [{"split": pattern.expression, "into": pattern.to(new)} for pattern, _ in patterns(places, held.file)]
        if rules:
            reason = f"{shown(first.name)} of the file is {_numbers(first)} in the model"
            yield Proposed(tuple(rules), reason, first.certain)


def _same_rest(stack: _Stack) -> bool:
    return stack.stacked == stack.family.rest


def _numbered(family: _Family) -> Place:
    """Returns what a pattern replaces in the name of each member: the module's own name, the number and the rest."""
    module = family.module
    return Place(module[:-1], (*module[-1:], "0", *family.rest), ())


def _numbers(stack: _Stack) -> str:
    family = stack.family
    numbers = ranges([int(segments(name)[len(family.module)]) for name in family.names])
    return shown(".".join((*family.module, numbers, *family.rest)))


def _kinds(found: Sequence[_Stack]) -> list[list[_Stack]]:
    """Gathers the stacks that one rule can make; none if there are too many kinds."""
    kinds: dict[tuple[object, ...], list[_Stack]] = {}
    for one in found:
        own: tuple[object, ...] = () if _same_rest(one) else (one.family.rest, one.stacked)
        kinds.setdefault((one.family.module[-1:], len(one.family.module) > 1, one.certain, *own), []).append(one)
    return list(kinds.values()) if len(kinds) <= _MOST_KINDS else []


def _families(names: Mapping[str, Shape]) -> Iterator[_Family]:
    """Finds tensors that differ in one number, which runs from 0 without a gap."""
    found: dict[tuple[Path, Path], dict[int, str]] = {}
    for name in names:
        path = segments(name)
        for at, segment in enumerate(path):
            if is_number(segment) and str(int(segment)) == segment:
                found.setdefault((path[:at], path[at + 1 :]), {})[int(segment)] = name
    for (module, rest), numbered in found.items():
        shapes = {names[name] for name in numbered.values()}
        if len(numbered) > 1 and len(shapes) == 1 and max(numbered) == len(numbered) - 1:
            yield _Family(module, rest, shapes.pop(), tuple(numbered[number] for number in sorted(numbered)))


def _stacks(families: Sequence[_Family], stacked: Mapping[str, Shape]) -> list[_Stack]:
    """Finds the stack of each family: first those named like it, then those that only shapes and roles show."""
    found: dict[str, _Stack] = {}
    left: dict[tuple[Path, Shape], list[_Family]] = {}
    shapes = set(stacked.values())
    for family in families:
        if family.stack not in shapes:
            continue
        named = (_Stack(family, rest) for rest in _rests(family.rest))
        best = next((one for one in named if stacked.get(one.name) == family.stack and one.name not in found), None)
        if best is None:
            left.setdefault((family.module, family.stack), []).append(family)
        else:
            found[best.name] = best
    around = below(stacked) if left else {}
    for (module, shape), alike in left.items():
        near = [(rest, name) for rest, name in around.get(module, ()) if stacked[name] == shape and name not in found]
        for one in _matched(alike, [rest for rest, _ in near if not any(map(is_number, rest))]):
            found.setdefault(one.name, one)
    return list(found.values())


def _for_fused(families: Sequence[_Family], stacked: Mapping[str, Shape], found: Sequence[_Stack]) -> Iterator[_Stack]:
    """Stacks the families of a module that has a stack of as many tensors of another shape: it may be fused of them."""
    done = {one.family.names[0] for one in found}
    for family, rest in _apart(families, stacked, found):
        if family.names[0] not in done:
            done.add(family.names[0])
            keeps = rest[-1] == _LEAF or family.rest[-1:] != (_LEAF,) or len(family.rest) == 1
            yield _Stack(family, family.rest if keeps else family.rest[:-1])


def _of_fused(families: Sequence[_Family], stacked: Mapping[str, Shape], found: Sequence[_Stack]) -> Iterator[_Stack]:
    """Numbers the stacks of a module that has as many tensors of another shape: they may be fused of these."""
    done = {one.name for one in found}
    for family, rest in _apart(families, stacked, found):
        name = _name(family.module, rest)
        if name not in done:
            done.add(name)
            ends = rest[-1] == _LEAF or family.rest[-1:] != (_LEAF,)
            inside = rest if ends else (*rest, _LEAF)
            names = tuple(_name(family.module, (str(number), *inside)) for number in range(len(family.names)))
            yield _Stack(_Family(family.module, inside, stacked[name][1:], names), rest)


def _apart(
    families: Sequence[_Family], stacked: Mapping[str, Shape], found: Sequence[_Stack]
) -> Iterator[tuple[_Family, Path]]:
    """Yields the families and stacks that are left in one module and agree in number and rank, but not in shape."""
    looks = {(shape[:1], len(shape)) for shape in stacked.values()}
    families = [family for family in families if (family.stack[:1], len(family.stack)) in looks]
    around = below(stacked) if families else {}
    matched = {one.family.names[0] for one in found}
    taken = {one.name for one in found}
    for family in families:
        if family.names[0] in matched:
            continue
        for rest, name in around.get(family.module, ()):
            shape = stacked[name]
            alike = shape[:1] == family.stack[:1] and len(shape) == len(family.stack)
            if alike and name not in taken and not any(map(is_number, rest)):
                yield family, rest


def _rests(rest: Path) -> Iterator[Path]:
    """Yields the names that a stack may have: without the number, and without ``weight``."""
    yield rest
    if len(rest) > 1 and rest[-1] == _LEAF:
        yield rest[:-1]
    if len(rest) > 1:
        yield ("_".join(rest),)


def _name(module: Path, rest: Path) -> str:
    return ".".join((*module, *rest))


def _matched(families: Sequence[_Family], rests: Sequence[Path]) -> Iterator[_Stack]:
    """Matches families and stacks of one shape and module by their roles, or as the only ones."""
    if len(families) == len(rests) == 1:
        if not _contradict(families[0].rest, rests[0]):
            common = set(roles.words(families[0].rest)) & set(roles.words(rests[0])) - {_LEAF}
            yield _Stack(families[0], rests[0], certain=bool(common))
        return
    for family in families:
        own = roles.role(family.rest)
        like = [rest for rest in rests if roles.role(rest) == own]
        if own and len(like) == 1 and sum(roles.role(other.rest) == own for other in families) == 1:
            yield _Stack(family, like[0], certain=_shares_word(family.rest, like[0]))


def _shares_word(one: Path, other: Path) -> bool:
    """Whether both have their role by the same word; ``w1`` is a gate by custom alone."""
    return any(roles.role([word]) for word in set(roles.words(one)) & set(roles.words(other)))


def _contradict(one: Path, other: Path) -> bool:
    roles_of = {roles.role(one), roles.role(other)} - {""}
    return len(roles_of) > 1 or ("bias" in roles.words(one[-1:])) != ("bias" in roles.words(other[-1:]))
